//! Where a service's ready workloads are, as recorded.

use serde::{Deserialize, Serialize};

use super::Labels;

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
