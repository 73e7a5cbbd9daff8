//! A workload's own record compiled: mTLS mode by port and authorization.

use std::sync::Arc;

use crate::record::{Action, AuthRule, From, MtlsMode, To, WorkloadRecord};

/// What the workload lets in.
#[derive(Debug)]
pub struct InboundPlan {
    mtls: MtlsMode,
    port_mtls: Vec<(u16, MtlsMode)>,
    /// Deny policies.
    pub deny: Vec<PolicyPlan>,
    /// Allow policies.
    pub allow: Vec<PolicyPlan>,
    /// For requests that no policy speaks of.
    pub default: Action,
}

/// One policy.
#[derive(Debug)]
pub struct PolicyPlan {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Its rules.
    pub rules: Vec<RulePlan>,
}

/// One rule of a policy.
#[derive(Debug)]
pub struct RulePlan {
    /// `file:line` of the rule.
    pub source: Option<Arc<str>>,
    /// Callers; empty: any.
    pub from: Vec<FromPlan>,
    /// Operations; empty: any.
    pub to: Vec<ToPlan>,
}

/// A set of callers.
#[derive(Debug)]
pub struct FromPlan {
    /// SPIFFE ids without the scheme.
    pub principals: Set<Pattern>,
    /// Namespaces.
    pub namespaces: Set<Pattern>,
}

/// A set of operations.
#[derive(Debug)]
pub struct ToPlan {
    /// Methods.
    pub methods: Set<Pattern>,
    /// Paths.
    pub paths: Set<Pattern>,
    /// Application ports.
    pub ports: Set<u16>,
}

/// Any of `any` (all when empty) and none of `none`.
#[derive(Debug)]
pub struct Set<T> {
    any: Vec<T>,
    none: Vec<T>,
}

impl<T> Set<T> {
    /// Whether the set speaks of this attribute at all.
    pub fn is_open(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Whether a value for which `is` holds belongs to the set.
    pub fn has(&self, is: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&is)) && !self.none.iter().any(&is)
    }

    /// Whether an attribute that is not there belongs to the set: only if none is asked for.
    pub fn has_absent(&self) -> bool {
        self.any.is_empty()
    }
}

/// Text compared as Istio does: exact, `abc*`, `*abc`, or `*` for any that is not empty.
#[derive(Debug)]
pub enum Pattern {
    /// Equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Not empty.
    Present,
}

impl Pattern {
    fn build(text: &str) -> Pattern {
        if text == "*" {
            Pattern::Present
        } else if let Some(prefix) = text.strip_suffix('*') {
            Pattern::Prefix(prefix.to_owned())
        } else if let Some(suffix) = text.strip_prefix('*') {
            Pattern::Suffix(suffix.to_owned())
        } else {
            Pattern::Exact(text.to_owned())
        }
    }

    /// Whether `text` is matched.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(value) => value == text,
            Pattern::Prefix(value) => text.starts_with(value.as_str()),
            Pattern::Suffix(value) => text.ends_with(value.as_str()),
            Pattern::Present => !text.is_empty(),
        }
    }
}

impl InboundPlan {
    /// Compile a workload's record.
    pub fn build(record: &WorkloadRecord) -> InboundPlan {
        let policies = |action: Action| {
            record
                .authorization
                .policies
                .iter()
                .filter(|policy| policy.action == action)
                .map(|policy| PolicyPlan {
                    name: policy.name.as_str().into(),
                    rules: policy.rules.iter().map(RulePlan::build).collect(),
                })
                .collect()
        };
        InboundPlan {
            mtls: record.mtls,
            port_mtls: record.port_mtls.clone(),
            deny: policies(Action::Deny),
            allow: policies(Action::Allow),
            default: record.authorization.default,
        }
    }

    /// What is in force until the workload's record is known: mTLS only, and nobody may call.
    pub fn closed() -> InboundPlan {
        InboundPlan {
            mtls: MtlsMode::Strict,
            port_mtls: vec![],
            deny: vec![],
            allow: vec![],
            default: Action::Deny,
        }
    }

    /// The mTLS mode of an application port.
    pub fn mtls(&self, port: u16) -> MtlsMode {
        self.port_mtls
            .iter()
            .find(|(number, _)| *number == port)
            .map_or(self.mtls, |(_, mode)| *mode)
    }
}

impl RulePlan {
    fn build(record: &AuthRule) -> RulePlan {
        RulePlan {
            source: record.source.as_deref().map(Into::into),
            from: record.from.iter().map(FromPlan::build).collect(),
            to: record.to.iter().map(ToPlan::build).collect(),
        }
    }
}

impl FromPlan {
    fn build(record: &From) -> FromPlan {
        FromPlan {
            principals: patterns(&record.principals, &record.not_principals),
            namespaces: patterns(&record.namespaces, &record.not_namespaces),
        }
    }
}

impl ToPlan {
    fn build(record: &To) -> ToPlan {
        ToPlan {
            methods: patterns(&record.methods, &record.not_methods),
            paths: patterns(&record.paths, &record.not_paths),
            ports: Set {
                any: record.ports.clone(),
                none: record.not_ports.clone(),
            },
        }
    }
}

fn patterns(any: &[String], none: &[String]) -> Set<Pattern> {
    let build = |texts: &[String]| texts.iter().map(|text| Pattern::build(text)).collect();
    Set {
        any: build(any),
        none: build(none),
    }
}
