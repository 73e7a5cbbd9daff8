//! Balancing and resilience for a service, as recorded.

use serde::{Deserialize, Serialize};

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
    /// TCP connections begin with a PROXY protocol header that tells the caller's address.
    pub proxy_protocol: bool,
    /// How long a TCP connection may carry nothing; 0: for ever.
    pub idle_timeout_ms: u64,
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
    /// gRPC statuses to retry.
    pub grpc_statuses: Vec<u8>,
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
