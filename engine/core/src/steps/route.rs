//! Which rule a request falls under, and which of the rule's backends takes it.

use std::sync::Arc;

use crate::error::{Error, Reason};
use crate::head::RequestHead;
use crate::plan::matcher::ServerName;
use crate::plan::service::{BackendPlan, PortPlan, RulePlan, TablePlan};

/// The rule in force for a request, and the path prefix that its match asked for.
#[derive(Debug)]
pub struct Routed<'a> {
    /// The rule.
    pub rule: &'a Arc<RulePlan>,
    /// The matched prefix, for rewrites and redirects of it.
    pub prefix: Option<&'a str>,
}

/// Find the rule: the first entry that matches, since entries come most specific first.
///
/// # Errors
/// [`Reason::NoRoute`] when the port has routes and none matches (Gateway API: 404).
pub fn route<'a>(port: &'a PortPlan, head: &RequestHead) -> Result<Routed<'a>, Error> {
    let Some(table) = &port.table else {
        return Ok(Routed {
            rule: &port.direct,
            prefix: None,
        });
    };
    let path = head.path();
    table
        .entries
        .iter()
        .find(|(matcher, _)| matcher.matches(head, path))
        .map(|(matcher, rule)| Routed {
            rule: &table.rules[*rule],
            prefix: matcher.prefix(),
        })
        .ok_or_else(|| {
            Error::new(
                Reason::NoRoute,
                format!("no route matches {} {}", head.method, path),
            )
        })
}

/// Find the rule of a TLS connection by the name it asks for.
///
/// # Errors
/// [`Reason::NoRoute`] when none of `names` is it, or the connection asks for none.
pub fn by_server_name<'a>(
    table: &'a TablePlan,
    names: &[(ServerName, usize)],
    name: Option<&str>,
) -> Result<&'a Arc<RulePlan>, Error> {
    let found = name.and_then(|name| names.iter().find(|(known, _)| known.matches(name)));
    found.map(|(_, rule)| &table.rules[*rule]).ok_or_else(|| {
        let detail = format!("no route is for \"{}\"", name.unwrap_or_default());
        Error::new(Reason::NoRoute, detail)
    })
}

/// Choose a backend by weight.
///
/// # Errors
/// [`Reason::NoBackend`] when there is none to choose, [`Reason::InvalidBackend`] when the share
/// of a backend that cannot be used is hit (Gateway API: 500 for its share).
pub fn backend(rule: &RulePlan) -> Result<&BackendPlan, Error> {
    let chosen = match (&rule.backends[..], rule.total_weight) {
        ([], _) | (_, 0) => None,
        ([only], _) => Some(only),
        (many, total) => {
            let mut ticket = fastrand::u32(..total);
            many.iter().find(|backend| {
                let hit = ticket < backend.weight;
                ticket = ticket.saturating_sub(backend.weight);
                hit
            })
        }
    };
    let Some(chosen) = chosen else {
        return Err(Error::new(
            Reason::NoBackend,
            format!("{} has no backend", rule.label),
        ));
    };
    match &chosen.error {
        None => Ok(chosen),
        Some(why) => Err(Error::new(Reason::InvalidBackend, why.clone())),
    }
}
