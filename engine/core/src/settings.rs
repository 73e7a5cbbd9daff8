//! What a sidecar is told at its start, and nothing that can change later.
//!
//! Python writes every field, `null` where empty; an unknown or missing field is an error, so
//! the two languages cannot drift apart unseen.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::record::{Labels, Protocol};

/// The settings of one sidecar.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The workload that this sidecar serves.
    pub workload: WorkloadSettings,
    /// The trust domain of the mesh, for example `tulle.local`.
    pub trust_domain: String,
    /// One mTLS listener for each port of the application.
    pub inbound: Vec<InboundSettings>,
    /// One plain loopback listener for each declared dependency.
    pub outbound: Vec<OutboundSettings>,
    /// Where the HTTP proxy (absolute form, Host, CONNECT) listens; `None`: no proxy.
    pub proxy_listen: Option<SocketAddr>,
    /// What the kernel leads here although it was meant for somebody else; `None`: nothing.
    pub intercept: Option<InterceptSettings>,
    /// Where health, metrics and drain are served.
    pub admin_listen: SocketAddr,
    /// The control plane's mTLS address; `None`: records and identity come through the API only.
    pub control: Option<String>,
    /// Where records and the identity are kept across restarts; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// How to learn whether the application is ready; `None`: it is ready at once.
    pub probe: Option<Probe>,
    /// Threads that carry traffic, 1 to 64.
    pub workers: usize,
    /// Which requests are written to the access log.
    pub access_log: AccessLog,
    /// The file of the access log; `None`: standard error.
    pub access_log_path: Option<PathBuf>,
    /// The longest time that open requests get to end while draining, seconds.
    pub drain_seconds: u64,
    /// Whether responses made by the mesh carry `x-tulle-reason` to the application.
    pub reason_header: bool,
}

/// Who the workload is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSettings {
    /// Its namespace.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
    /// The service account that its identity is made of.
    pub service_account: String,
    /// Its labels: services and policies select by them.
    pub labels: Labels,
    /// The zone it runs in, if known.
    pub zone: Option<String>,
}

/// One port of the application.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InboundSettings {
    /// The port as the application and its policies call it.
    pub port: u16,
    /// What the application speaks on it.
    pub protocol: Protocol,
    /// Where other sidecars reach it.
    pub listen: SocketAddr,
    /// Where the application itself listens.
    pub app: SocketAddr,
    /// Plain connections begin with a PROXY protocol header, and none is let in without.
    pub proxy_protocol: bool,
}

/// A local address that stands for a service.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundSettings {
    /// `namespace/name` of the service.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// The loopback address the application calls.
    pub listen: SocketAddr,
}

/// Connections that the kernel leads here; the rules for it are not made by the engine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InterceptSettings {
    /// Where those of the application arrive, one address for each IP version.
    pub outbound: Vec<SocketAddr>,
    /// Where those to the application arrive; `None`: they are not intercepted.
    pub inbound: Option<SocketAddr>,
    /// Where questions to resolvers arrive, by UDP and TCP; empty: DNS is left alone.
    pub dns: Vec<SocketAddr>,
    /// Names the resolvers that answer for what is not of the mesh.
    pub resolv_conf: PathBuf,
    /// Whether those to the application keep their destination as the local address, and the
    /// application is called in the client's name.
    pub tproxy: bool,
    /// Whether destinations that are not of the mesh are refused.
    pub mesh_only: bool,
    /// The mark that tells the sidecar's own connections from the application's; `None`: they
    /// are told by their user.
    pub mark: Option<u32>,
}

/// How readiness of the application is probed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// Every inbound port accepts a connection.
    Tcp {},
    /// `GET path` on the port answers 200 to 399.
    Http {
        /// The application's port.
        port: u16,
        /// The path to ask for.
        path: String,
    },
}

/// Which requests are written to the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// None.
    Off,
    /// Those answered with 400 or above, or made by the mesh itself.
    Errors,
    /// All.
    All,
}

impl Settings {
    /// Parse the settings' JSON.
    ///
    /// # Errors
    /// The first field that is missing, unknown or out of range, in one sentence.
    pub fn parse(bytes: &[u8]) -> Result<Settings, String> {
        let settings: Settings =
            serde_json::from_slice(bytes).map_err(|error| format!("settings: {error}"))?;
        if !(1..=64).contains(&settings.workers) {
            return Err(format!(
                "settings: workers: {} is not within 1 and 64",
                settings.workers
            ));
        }
        for outbound in &settings.outbound {
            if crate::record::ServiceKey::parse(&outbound.service).is_none() {
                return Err(format!(
                    "settings: outbound: \"{}\" is not namespace/name",
                    outbound.service
                ));
            }
        }
        Ok(settings)
    }

    /// `namespace/name` of the workload.
    pub fn workload_name(&self) -> String {
        format!("{}/{}", self.workload.namespace, self.workload.name)
    }
}
