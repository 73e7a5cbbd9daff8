//! What a workload lets in, as recorded.

use serde::{Deserialize, Serialize};

/// What a workload lets in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRecord {
    /// Namespace of the workload.
    pub namespace: String,
    /// Name of the workload.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// Whether plaintext is let in.
    pub mtls: MtlsMode,
    /// Exceptions by application port.
    pub port_mtls: Vec<(u16, MtlsMode)>,
    /// Who may call what.
    pub authorization: Authorization,
}

/// Whether plaintext is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MtlsMode {
    /// mTLS only.
    Strict,
    /// Both.
    Permissive,
    /// Plaintext only.
    Disable,
}

/// Who may call what.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// For requests that no policy speaks of.
    pub default: Action,
    /// Deny first.
    pub policies: Vec<Policy>,
}

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let through.
    Allow,
    /// 403.
    Deny,
}

/// One AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `namespace/name`.
    pub name: String,
    /// What it does to requests that match any of its rules.
    pub action: Action,
    /// Its rules.
    pub rules: Vec<AuthRule>,
}

/// Requests from any of `from` to any of `to`; an empty list is any.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuthRule {
    /// `file:line` of the rule.
    pub source: Option<String>,
    /// Callers.
    pub from: Vec<From>,
    /// Operations.
    pub to: Vec<To>,
}

/// A set of callers; an empty list is any.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// SPIFFE ids without `spiffe://`.
    pub principals: Vec<String>,
    /// None of these.
    pub not_principals: Vec<String>,
    /// Namespaces of the callers.
    pub namespaces: Vec<String>,
    /// None of these.
    pub not_namespaces: Vec<String>,
}

/// A set of operations; an empty list is any.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct To {
    /// Methods.
    pub methods: Vec<String>,
    /// None of these.
    pub not_methods: Vec<String>,
    /// Paths without query.
    pub paths: Vec<String>,
    /// None of these.
    pub not_paths: Vec<String>,
    /// Application ports.
    pub ports: Vec<u16>,
    /// None of these.
    pub not_ports: Vec<u16>,
}
