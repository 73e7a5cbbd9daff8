//! The records as they come from the control plane: one type per kind, nothing compiled.
//!
//! The same shapes are frozen dataclasses in `src/tulle/record`. Every field is always present;
//! an unknown or missing one refuses the record. `tests/golden` holds both languages to it.

mod endpoints;
mod traffic;
mod workload;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use endpoints::{EndpointRecord, EndpointsRecord};
pub use traffic::{Limits, LoadBalancer, Outlier, Retry, RetryBudget, RetryOn, Traffic};
pub use workload::{Action, AuthRule, Authorization, From, MtlsMode, Policy, To, WorkloadRecord};

/// Labels of a workload or of a version of a service.
pub type Labels = BTreeMap<String, String>;

/// `namespace/name` of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    full: Arc<str>,
    slash: usize,
}

impl ServiceKey {
    /// The key of `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> ServiceKey {
        ServiceKey {
            full: format!("{namespace}/{name}").into(),
            slash: namespace.len(),
        }
    }

    /// Read `namespace/name`; `None` when it is not of this form.
    pub fn parse(text: &str) -> Option<ServiceKey> {
        let slash = text.find('/')?;
        let name = &text[slash + 1..];
        (slash > 0 && !name.is_empty() && !name.contains('/')).then(|| ServiceKey {
            full: text.into(),
            slash,
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.full[..self.slash]
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.full[self.slash + 1..]
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// `namespace/name`, shared.
    pub fn shared(&self) -> Arc<str> {
        self.full.clone()
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 at the application.
    Http,
    /// HTTP/2 at the application.
    Http2,
    /// gRPC, thus HTTP/2.
    Grpc,
    /// Bytes.
    Tcp,
    /// Not declared: each connection shows it.
    Auto,
}

impl Protocol {
    /// What HTTP code takes a port for.
    pub fn or_http(self) -> Protocol {
        match self {
            Protocol::Auto => Protocol::Http,
            declared => declared,
        }
    }

    /// What is spoken in `version` on a port that is taken for this: where nobody `declared` it,
    /// what the client speaks.
    pub fn spoken_in(self, version: http::Version, declared: bool) -> Protocol {
        match version {
            http::Version::HTTP_2 if !declared => Protocol::Http2,
            _ => self,
        }
    }

    /// The name used in records, metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
            Protocol::Auto => "auto",
        }
    }
}

/// Any record.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// How traffic to a service is treated.
    Service(ServiceRecord),
    /// Where a service's workloads are.
    Endpoints(EndpointsRecord),
    /// What a workload lets in.
    Workload(WorkloadRecord),
    /// Whom to trust.
    Trust(TrustRecord),
}

/// How traffic to a service is treated.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRecord {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub name: String,
    /// Stand for the service where traffic is intercepted.
    pub addresses: Vec<IpAddr>,
    /// Its ports, ascending.
    pub ports: Vec<PortRecord>,
    /// Balancing and resilience for traffic to its endpoints.
    pub traffic: Traffic,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortRecord {
    /// The port number.
    pub number: u16,
    /// The port's name.
    pub name: Option<String>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Routes; empty: forward to the service itself.
    pub tables: Vec<Table>,
}

/// The routes that hold for consumers of one namespace, or for all others.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The namespace of the consumers; `None`: all that have no table of their own.
    pub consumer_namespace: Option<String>,
    /// The kind of the routes.
    pub kind: TableKind,
    /// Matches, most specific first (Gateway API's precedence).
    pub entries: Vec<Entry>,
    /// What the entries point to.
    pub rules: Vec<Rule>,
}

/// The kind of the routes in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
}

/// A match and the index of its rule.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The match.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Index into the table's rules.
    pub rule: usize,
}

/// What a request must be like. All given parts must hold.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// On the path without query.
    pub path: Option<PathMatch>,
    /// On the method.
    pub method: Option<String>,
    /// On headers, names in lower case.
    pub headers: Vec<ValueMatch>,
    /// On query parameters.
    pub query: Vec<ValueMatch>,
    /// On the server name of a TLS connection: a whole one, or `*.` before its end.
    pub server_name: Option<String>,
}

/// A match on the path.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PathMatch {
    /// How to compare.
    #[serde(rename = "type")]
    pub kind: PathMatchKind,
    /// With what.
    pub value: String,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatchKind {
    /// Equal.
    Exact,
    /// By whole segments.
    Prefix,
    /// The whole path matches the expression.
    Regex,
}

/// A match on a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ValueMatch {
    /// The header's or parameter's name.
    pub name: String,
    /// How to compare.
    #[serde(rename = "type")]
    pub kind: ValueMatchKind,
    /// With what.
    pub value: String,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueMatchKind {
    /// Equal.
    Exact,
    /// The whole value matches the expression.
    Regex,
}

/// What happens to requests that match.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `namespace/name` of the route.
    pub route: String,
    /// Name or index of the rule in the route.
    pub rule: String,
    /// `file:line` where the rule was written.
    pub source: Option<String>,
    /// Filters of the rule.
    pub filters: Vec<Filter>,
    /// Where requests go, by weight.
    pub backends: Vec<Backend>,
    /// Timeouts of the rule.
    pub timeouts: RuleTimeouts,
    /// Retries of the rule.
    pub retry: Option<RuleRetry>,
}

/// Timeouts of a rule, milliseconds; 0 disables, `None` leaves the service's own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RuleTimeouts {
    /// For the whole request, retries included.
    pub request_ms: Option<u64>,
    /// For one try.
    pub backend_request_ms: Option<u64>,
}

/// Retries of a rule (GEP-1731).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RuleRetry {
    /// Tries after the first.
    pub attempts: u32,
    /// Status codes to retry.
    pub codes: Vec<u16>,
    /// Time before the first retry, milliseconds.
    pub backoff_ms: Option<u64>,
}

/// A change to a request or its response.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Filter {
    /// Change the request's headers.
    RequestHeaders(HeaderEdit),
    /// Change the response's headers.
    ResponseHeaders(HeaderEdit),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Change host or path on the way up.
    Rewrite(Rewrite),
}

/// Header changes, names in lower case.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdit {
    /// Replace.
    pub set: Vec<(String, String)>,
    /// Append.
    pub add: Vec<(String, String)>,
    /// Remove.
    pub remove: Vec<String>,
}

/// A redirect (Gateway API `requestRedirect`).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Scheme of the location; `None`: the request's.
    pub scheme: Option<String>,
    /// Host of the location; `None`: the request's.
    pub hostname: Option<String>,
    /// Port of the location; `None`: by scheme, or the service port.
    pub port: Option<u16>,
    /// Path of the location; `None`: the request's.
    pub path: Option<PathModifier>,
    /// The status code.
    pub status: u16,
}

/// A rewrite (Gateway API `urlRewrite`).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// The new Host.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathModifier>,
}

/// How a path is changed.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PathModifier {
    /// All of it, or the matched prefix.
    #[serde(rename = "type")]
    pub kind: PathModifierKind,
    /// The new text.
    pub value: String,
}

/// Which part of a path is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathModifierKind {
    /// The whole path.
    Full,
    /// The prefix that matched.
    Prefix,
}

/// One target of a rule.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// `namespace/name` of the service.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// Its share; 0: none.
    pub weight: u32,
    /// Only endpoints with these labels; empty: all.
    pub labels: Labels,
    /// Filters for this backend.
    pub filters: Vec<Filter>,
    /// Why this backend cannot be used: its share answers 500.
    pub error: Option<String>,
}

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRecord {
    /// The trust domain.
    pub domain: String,
    /// Root certificates, PEM.
    pub roots_pem: Vec<String>,
}
