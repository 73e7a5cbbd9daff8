//! May this caller do this? Deny policies first, then allow policies, then the default, as
//! Istio's AuthorizationPolicy is evaluated.

use std::sync::Arc;

use crate::path::readings;
use crate::plan::inbound::{FromPlan, InboundPlan, PolicyPlan, RulePlan, ToPlan};
use crate::record::Action;
use crate::tls::SpiffeId;

/// What is known of the caller and its request.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Whom mTLS proved the caller to be; `None`: plaintext.
    pub peer: Option<&'a SpiffeId>,
    /// Method and path; `None`: bytes.
    pub http: Option<(&'a str, &'a str)>,
    /// The application's port.
    pub port: u16,
}

/// The decision, and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Allowed or denied.
    pub action: Action,
    /// The policy; `None`: the default, or no allow policy matched.
    pub policy: Option<Arc<str>>,
    /// `file:line` of the rule.
    pub source: Option<Arc<str>>,
}

/// Decide on `call`.
pub fn authorize(plan: &InboundPlan, call: &Call<'_>) -> Verdict {
    if let Some(verdict) = denied(plan, call) {
        return verdict;
    }
    if let Some(verdict) = first_match(&plan.allow, call, Action::Allow) {
        return verdict;
    }
    let action = if plan.allow.is_empty() {
        plan.default
    } else {
        Action::Deny
    };
    Verdict {
        action,
        policy: None,
        source: None,
    }
}

/// A path with escapes or parameters, and a method in small letters, which many applications take
/// for the one in capitals, are read in every way: what is denied stays so in any spelling.
fn denied(plan: &InboundPlan, call: &Call<'_>) -> Option<Verdict> {
    if plan.deny.is_empty() {
        return None;
    }
    first_match(&plan.deny, call, Action::Deny).or_else(|| {
        let (method, path) = call.http?;
        let readings = readings(path);
        let is_small = method.bytes().any(|byte| byte.is_ascii_lowercase());
        let capital = is_small.then(|| method.to_ascii_uppercase());
        let read = |method: &str, path: &str| {
            let http = Some((method, path));
            first_match(&plan.deny, &Call { http, ..*call }, Action::Deny)
        };
        let others = || readings.iter().map(String::as_str);
        let as_written = others().find_map(|path| read(method, path));
        as_written.or_else(|| {
            let capital = capital.as_deref()?;
            std::iter::once(path)
                .chain(others())
                .find_map(|path| read(capital, path))
        })
    })
}

fn first_match(policies: &[PolicyPlan], call: &Call<'_>, action: Action) -> Option<Verdict> {
    policies.iter().find_map(|policy| {
        let rule = policy
            .rules
            .iter()
            .find(|rule| rule_matches(rule, call, action))?;
        Some(Verdict {
            action,
            policy: Some(Arc::clone(&policy.name)),
            source: rule.source.clone(),
        })
    })
}

fn rule_matches(rule: &RulePlan, call: &Call<'_>, action: Action) -> bool {
    (rule.from.is_empty() || rule.from.iter().any(|from| from_matches(from, call)))
        && (rule.to.is_empty() || rule.to.iter().any(|to| to_matches(to, call, action)))
}

fn from_matches(from: &FromPlan, call: &Call<'_>) -> bool {
    match call.peer {
        Some(peer) => {
            from.principals
                .has(|pattern| pattern.matches(peer.principal()))
                && from
                    .namespaces
                    .has(|pattern| pattern.matches(peer.namespace()))
        }
        None => from.principals.has_absent() && from.namespaces.has_absent(),
    }
}

/// On bytes, an attribute of HTTP is unknown: an allow rule that asks for it does not match, a
/// deny rule is read without it, so that the doubt is never in the caller's favour.
fn to_matches(to: &ToPlan, call: &Call<'_>, action: Action) -> bool {
    let port = to.ports.has(|&port| port == call.port);
    let http = match call.http {
        Some((method, path)) => {
            to.methods.has(|pattern| pattern.matches(method))
                && to.paths.has(|pattern| pattern.matches(path))
        }
        None => action == Action::Deny || (to.methods.is_open() && to.paths.is_open()),
    };
    port && http
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::WorkloadRecord;
    use serde_json::json;

    fn plan(default: &str, policies: serde_json::Value) -> InboundPlan {
        let record: WorkloadRecord = serde_json::from_value(json!({
            "namespace": "shop", "name": "cart-1", "service_account": "cart",
            "mtls": "strict", "port_mtls": [],
            "authorization": {"default": default, "policies": policies},
        }))
        .expect("the record is valid");
        InboundPlan::build(&record)
    }

    fn policy(
        name: &str,
        action: &str,
        from: serde_json::Value,
        to: serde_json::Value,
    ) -> serde_json::Value {
        json!({"name": name, "action": action,
               "rules": [{"source": "shop.yaml:9", "from": from, "to": to}]})
    }

    fn from(principals: &[&str]) -> serde_json::Value {
        json!({"principals": principals, "not_principals": [], "namespaces": [], "not_namespaces": []})
    }

    fn to(methods: &[&str], paths: &[&str]) -> serde_json::Value {
        json!({"methods": methods, "not_methods": [], "paths": paths, "not_paths": [],
               "ports": [], "not_ports": []})
    }

    fn decide(
        plan: &InboundPlan,
        peer: Option<&str>,
        http: Option<(&str, &str)>,
    ) -> (Action, Option<String>) {
        let id = peer.map(|text| SpiffeId::parse(text).expect("a SPIFFE id"));
        let verdict = authorize(
            plan,
            &Call {
                peer: id.as_ref(),
                http,
                port: 8080,
            },
        );
        (verdict.action, verdict.policy.map(|name| name.to_string()))
    }

    const WEB: &str = "spiffe://tulle.local/ns/shop/sa/web";
    const SPY: &str = "spiffe://tulle.local/ns/other/sa/spy";

    #[test]
    fn without_policies_the_default_decides() {
        let get = Some(("GET", "/"));
        assert_eq!(
            decide(&plan("allow", json!([])), Some(WEB), get),
            (Action::Allow, None)
        );
        assert_eq!(
            decide(&plan("deny", json!([])), Some(WEB), get),
            (Action::Deny, None)
        );
    }

    #[test]
    fn deny_wins_over_allow_and_is_named() {
        let plan = plan(
            "allow",
            json!([
                policy(
                    "shop/no-delete",
                    "deny",
                    json!([]),
                    json!([to(&["DELETE"], &[])])
                ),
                policy(
                    "shop/web",
                    "allow",
                    json!([from(&["tulle.local/ns/shop/sa/web"])]),
                    json!([])
                ),
            ]),
        );
        assert_eq!(
            decide(&plan, Some(WEB), Some(("GET", "/"))),
            (Action::Allow, Some("shop/web".into()))
        );
        assert_eq!(
            decide(&plan, Some(WEB), Some(("DELETE", "/"))),
            (Action::Deny, Some("shop/no-delete".into()))
        );
        assert_eq!(
            decide(&plan, Some(SPY), Some(("GET", "/"))),
            (Action::Deny, None)
        );
        assert_eq!(
            decide(&plan, None, Some(("GET", "/"))),
            (Action::Deny, None)
        );
    }

    #[test]
    fn no_spelling_hides_what_is_denied_nor_reveals_what_is_allowed() {
        let paths = json!([to(&[], &["/admin/*"])]);
        let deny = plan(
            "allow",
            json!([policy("a/d", "deny", json!([]), paths.clone())]),
        );
        let allow = plan("allow", json!([policy("a/a", "allow", json!([]), paths)]));
        for path in [
            "/admin%2Fusers",
            "/%2Fadmin/users",
            "/admin%5cusers",
            "/admin;x/users",
            "/;x/admin/users",
            "/admin%3Bx/users",
            "/admin;%2Fx/users",
        ] {
            let get = Some(("GET", path));
            assert_eq!(decide(&deny, Some(WEB), get).0, Action::Deny, "{path}");
            assert_eq!(decide(&allow, Some(WEB), get).0, Action::Deny, "{path}");
        }
        let other = Some(("GET", "/shop%2Fadmin"));
        assert_eq!(decide(&deny, Some(WEB), other).0, Action::Allow);
    }

    #[test]
    fn small_letters_do_not_hide_a_denied_method() {
        let delete = json!([to(&["DELETE"], &["/a/b"])]);
        let deny = plan(
            "allow",
            json!([policy("a/d", "deny", json!([]), delete.clone())]),
        );
        let allow = plan("allow", json!([policy("a/a", "allow", json!([]), delete)]));
        for path in ["/a/b", "/a%2Fb"] {
            let call = Some(("delete", path));
            assert_eq!(decide(&deny, Some(WEB), call).0, Action::Deny, "{path}");
            assert_eq!(decide(&allow, Some(WEB), call).0, Action::Deny, "{path}");
        }
        let get = Some(("get", "/a/b"));
        assert_eq!(decide(&deny, Some(WEB), get).0, Action::Allow);
    }

    #[test]
    fn an_allow_policy_without_rules_allows_nothing() {
        let plan = plan(
            "allow",
            json!([{"name": "shop/none", "action": "allow", "rules": []}]),
        );
        assert_eq!(
            decide(&plan, Some(WEB), Some(("GET", "/"))),
            (Action::Deny, None)
        );
    }

    #[test]
    fn on_bytes_doubt_is_never_in_the_callers_favour() {
        let allow = plan(
            "allow",
            json!([policy(
                "a/a",
                "allow",
                json!([]),
                json!([to(&["GET"], &[])])
            )]),
        );
        assert_eq!(decide(&allow, Some(WEB), None), (Action::Deny, None));
        let deny = plan(
            "allow",
            json!([policy("a/d", "deny", json!([]), json!([to(&["GET"], &[])]))]),
        );
        assert_eq!(
            decide(&deny, Some(WEB), None),
            (Action::Deny, Some("a/d".into()))
        );
    }

    #[test]
    fn patterns_are_exact_prefix_suffix_or_present() {
        let rules = json!([policy(
            "a/p",
            "allow",
            json!([from(&["*/sa/web"])]),
            json!([to(&[], &["/api/*", "*.css"])])
        )]);
        let plan = plan("allow", rules);
        for (path, expected) in [
            ("/api/x", Action::Allow),
            ("/site.css", Action::Allow),
            ("/apix", Action::Deny),
            ("/", Action::Deny),
        ] {
            assert_eq!(
                decide(&plan, Some(WEB), Some(("GET", path))).0,
                expected,
                "{path}"
            );
        }
    }
}
