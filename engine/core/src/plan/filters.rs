//! What a rule or a backend changes in heads, parsed: nothing that HTTP could not carry, in a name, a
//! value, a host or a path, gets as far as a request.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use crate::fields::Name;
use crate::http1::parse::is_authority;
use crate::record::{Filter, HeaderEdit, PathModifier, Redirect, Rewrite};

/// Changes to requests and responses, parsed.
#[derive(Debug, Default)]
pub struct FilterPlan {
    /// For the request, in order.
    pub request: Vec<HeaderChange>,
    /// For the response, in order.
    pub response: Vec<HeaderChange>,
    /// Host and path of the request.
    pub rewrite: Option<RewritePlan>,
}

/// A rewrite with its host parsed.
#[derive(Debug)]
pub struct RewritePlan {
    /// The new Host.
    pub host: Option<HeaderValue>,
    /// The new path.
    pub path: Option<PathModifier>,
}

/// One change to headers.
#[derive(Debug)]
pub enum HeaderChange {
    /// Replace.
    Set(HeaderName, HeaderValue),
    /// Append.
    Add(HeaderName, HeaderValue),
    /// Remove.
    Remove(HeaderName),
}

impl FilterPlan {
    /// Compile the filters of a rule or a backend.
    ///
    /// # Errors
    /// What HTTP cannot carry.
    pub fn build(records: &[Filter]) -> Result<FilterPlan, String> {
        let mut plan = FilterPlan::default();
        for filter in records {
            match filter {
                Filter::RequestHeaders(edit) => push_changes(edit, &mut plan.request)?,
                Filter::ResponseHeaders(edit) => push_changes(edit, &mut plan.response)?,
                Filter::Rewrite(rewrite) => plan.rewrite = Some(RewritePlan::build(rewrite)?),
                Filter::Redirect(_) => {}
            }
        }
        Ok(plan)
    }
}

impl RewritePlan {
    fn build(record: &Rewrite) -> Result<RewritePlan, String> {
        check_path(record.path.as_ref())?;
        check_host(record.hostname.as_deref())?;
        Ok(RewritePlan {
            host: record.hostname.as_deref().map(value).transpose()?,
            path: record.path.clone(),
        })
    }
}

/// The status of a redirect whose location can be sent.
///
/// # Errors
/// What HTTP cannot carry.
pub fn check_redirect(redirect: &Redirect) -> Result<StatusCode, String> {
    check_path(redirect.path.as_ref())?;
    check_host(redirect.hostname.as_deref())?;
    if let Some(scheme) = redirect.scheme.as_deref()
        && !matches!(scheme, "http" | "https")
    {
        return Err(format!("{scheme:?} is not a scheme"));
    }
    StatusCode::from_u16(redirect.status)
        .ok()
        .filter(StatusCode::is_redirection)
        .ok_or_else(|| format!("redirect status {}", redirect.status))
}

/// Empty, or a path that stays one in the target of a request.
fn check_path(modifier: Option<&PathModifier>) -> Result<(), String> {
    let Some(PathModifier { value, .. }) = modifier else {
        return Ok(());
    };
    let is_path = |text: &str| {
        let parsed = PathAndQuery::try_from(text);
        text.starts_with('/')
            && parsed.is_ok_and(|parsed| parsed.query().is_none() && parsed.as_str() == text)
    };
    match value.is_empty() || is_path(value) {
        true => Ok(()),
        false => Err(format!("{value:?} is not a path")),
    }
}

fn check_host(host: Option<&str>) -> Result<(), String> {
    match host.filter(|host| !is_authority(host.as_bytes())) {
        None => Ok(()),
        Some(host) => Err(format!("{host:?} is not a host")),
    }
}

fn push_changes(edit: &HeaderEdit, out: &mut Vec<HeaderChange>) -> Result<(), String> {
    let all = edit.set.iter().chain(&edit.add);
    for (_, host) in all.filter(|(key, _)| Name::of(key.as_bytes()) == Name::Host) {
        check_host(Some(host.trim()))?;
    }
    for (key, text) in &edit.set {
        out.push(HeaderChange::Set(name(key)?, value(text)?));
    }
    for (key, text) in &edit.add {
        let (name, value) = (name(key)?, value(text)?);
        // A request has one host alone.
        out.push(match Name::of(key.as_bytes()) {
            Name::Host => HeaderChange::Set(name, value),
            _ => HeaderChange::Add(name, value),
        });
    }
    for key in &edit.remove {
        out.push(HeaderChange::Remove(name(key)?));
    }
    Ok(())
}

fn name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not a header name"))
}

/// Without spaces around it: HTTP/1.1 takes them away, HTTP/2 refuses them.
fn value(text: &str) -> Result<HeaderValue, String> {
    let trimmed = text.trim_matches([' ', '\t']);
    HeaderValue::from_str(trimmed).map_err(|_| format!("{text:?} is not a header value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::PathModifierKind;

    fn full(value: &str) -> Option<PathModifier> {
        Some(PathModifier {
            kind: PathModifierKind::Full,
            value: value.to_owned(),
        })
    }

    fn rewritten(hostname: Option<&str>, path: Option<PathModifier>) -> Result<FilterPlan, String> {
        let hostname = hostname.map(str::to_owned);
        FilterPlan::build(&[Filter::Rewrite(Rewrite { hostname, path })])
    }

    fn redirected(
        hostname: Option<&str>,
        path: Option<PathModifier>,
    ) -> Result<StatusCode, String> {
        check_redirect(&Redirect {
            scheme: None,
            hostname: hostname.map(str::to_owned),
            port: None,
            path,
            status: 302,
        })
    }

    #[test]
    fn a_new_path_is_one() {
        for (path, refused) in [
            ("", false),
            ("/", false),
            ("/a/b%20c;d=e", false),
            ("/a b", true),
            ("/a\r\nx: 1", true),
            ("/a HTTP/1.1\r\n\r\nGET /", true),
            ("/a\u{7f}", true),
            ("/a\t", true),
            ("/a?b", true),
            ("/a#b", true),
            ("/<a>", true),
            ("a", true),
            ("*", true),
        ] {
            assert_eq!(rewritten(None, full(path)).is_err(), refused, "{path:?}");
            assert_eq!(redirected(None, full(path)).is_err(), refused, "{path:?}");
        }
        let error = rewritten(None, full("/a\n")).expect_err("not a path");
        assert_eq!(error, r#""/a\n" is not a path"#);
    }

    fn with_host(host: &str) -> Result<FilterPlan, String> {
        FilterPlan::build(&[Filter::RequestHeaders(HeaderEdit {
            set: vec![("Host".to_owned(), host.to_owned())],
            add: vec![],
            remove: vec![],
        })])
    }

    #[test]
    fn a_new_host_is_one() {
        for (host, refused) in [
            ("cart.example:80", false),
            ("[::1]", false),
            ("", true),
            ("cart\r\nx: 1", true),
            ("ca rt", true),
            ("cart/x", true),
            ("user@cart", true),
        ] {
            assert_eq!(rewritten(Some(host), None).is_err(), refused, "{host:?}");
            assert_eq!(redirected(Some(host), None).is_err(), refused, "{host:?}");
            assert_eq!(with_host(host).is_err(), refused, "{host:?}");
        }
    }

    #[test]
    fn a_new_header_is_one_line() {
        let edit = |name: &str, value: &str| {
            FilterPlan::build(&[Filter::RequestHeaders(HeaderEdit {
                set: vec![],
                add: vec![(name.to_owned(), value.to_owned())],
                remove: vec![],
            })])
        };
        for (name, value) in [
            ("x a", "1"),
            ("x:", "1"),
            ("", "1"),
            ("x", "1\r\ny: 2"),
            ("x", "\0"),
        ] {
            assert!(edit(name, value).is_err(), "{name:?} {value:?}");
        }
        let padded = edit("x", " a\t").expect("a header");
        assert!(matches!(&padded.request[..], [HeaderChange::Add(_, value)] if value == "a"));
        let host = edit("Host", "cart").expect("a header");
        assert!(matches!(&host.request[..], [HeaderChange::Set(..)]));
    }
}
