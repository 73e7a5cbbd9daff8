//! The records as they come from the control plane: one type per kind, nothing compiled.
//!
//! The same shapes are frozen dataclasses in `src/tulle/record`. Every field is always present;
//! an unknown or missing one refuses the record. `tests/golden` holds both languages to it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

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
}

impl Protocol {
    /// The name used in records, metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
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

/// Balancing and resilience for a service.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// `namespace/name` of the BackendTrafficPolicy in force.
    pub policy: Option<String>,
    /// `file:line` of the policy.
    pub source: Option<String>,
    /// The balancing algorithm.
    pub load_balancer: LoadBalancer,
    /// Longest time to connect.
    pub connect_timeout_ms: u64,
    /// Longest time until the response's head, retries included; 0: none.
    pub request_timeout_ms: u64,
    /// Longest time of one try; 0: none.
    pub per_try_timeout_ms: u64,
    /// When and how to retry.
    pub retry: Retry,
    /// How many retries at all.
    pub retry_budget: RetryBudget,
    /// Circuit breaking.
    pub limits: Limits,
    /// Outlier ejection; `None`: off.
    pub outlier: Option<Outlier>,
}

/// The balancing algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancer {
    /// Power of two choices by peak-EWMA latency times open requests.
    P2cEwma,
    /// In turn.
    RoundRobin,
    /// Power of two choices by open requests.
    LeastRequest,
}

/// When and how to retry.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
    /// On what.
    pub on: Vec<RetryOn>,
    /// Status codes to retry.
    pub codes: Vec<u16>,
    /// Mean of the first wait.
    pub backoff_base_ms: u64,
    /// Longest wait.
    pub backoff_max_ms: u64,
}

/// A condition for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// No connection; nothing was sent.
    ConnectFailure,
    /// The connection broke before a response; idempotent methods only.
    Reset,
    /// The peer's sidecar could not reach its application.
    Unavailable,
    /// A try took too long.
    Timeout,
    /// Any 5xx.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503, 504.
    GatewayError,
}

/// Bound on retries relative to requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Retries per second that are always allowed.
    pub min_per_second: u32,
}

/// Circuit breaking per service and sidecar.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Open connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
}

/// Ejection of endpoints that fail.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Outlier {
    /// Failures in a row that eject.
    pub consecutive_failures: u32,
    /// First ejection; doubled each time.
    pub base_ejection_ms: u64,
    /// Longest ejection.
    pub max_ejection_ms: u64,
    /// Most endpoints ejected at once.
    pub max_ejected_percent: u32,
}

/// Where a service's ready workloads are.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointsRecord {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub name: String,
    /// Sorted by workload.
    pub endpoints: Vec<EndpointRecord>,
}

/// One ready workload of a service.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecord {
    /// `namespace/name` of the workload.
    pub workload: String,
    /// IP address of its sidecar (or of itself without one).
    pub address: String,
    /// Service port to the port at that address.
    pub ports: Vec<(u16, u16)>,
    /// Its SPIFFE id.
    pub identity: String,
    /// Its labels.
    pub labels: Labels,
    /// Its zone.
    pub zone: Option<String>,
    /// Whether it is reached by mTLS.
    pub tls: bool,
}

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

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRecord {
    /// The trust domain.
    pub domain: String,
    /// Root certificates, PEM.
    pub roots_pem: Vec<String>,
}
