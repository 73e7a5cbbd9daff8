//! The sidecar's side of the control plane: joining, the record stream, renewal, and what is
//! kept on disk for the time the control plane is away.
//!
//! - [`join`] runs before the engine starts: it turns a token into an identity.
//! - [`run`] is the life of the control thread: it keeps one stream open, hands records to the
//!   [`Host`], and replaces the certificate before it ends. It never gives up and never stops
//!   the data plane: whatever happens here, the last good records stay in force.
//! - [`frame`] is the wire format, shared with the hub.
//!
//! Decisions are in `holdings.rs` (no sockets), connections in `link.rs`, disk in `disk.rs`.

mod backoff;
mod cache;
mod certify;
mod disk;
pub mod frame;
mod holdings;
mod host;
mod join;
mod keyring;
mod link;
mod renew;
mod rest;
mod stream;
#[cfg(test)]
pub(crate) mod test_dir;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

pub use host::{Host, Outgoing};
pub use join::{Joined, certified, join};
#[cfg(test)]
pub(crate) use rest::REPORT_TIME;
pub use rest::report_rest;
#[cfg(test)]
pub(crate) use stream::{MAX_UNSENT_FRAMES, STOP_CHECK};

use crate::tls::{Identity, SpiffeId, TlsError};

/// Where the control plane is, who we are, and what survives a restart.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// `host:port` of the control plane's mTLS listener.
    pub address: String,
    /// Our own id.
    pub id: SpiffeId,
    /// The id the control plane must have.
    pub server_id: SpiffeId,
    /// Where identity and records are kept; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// Waits and limits; the defaults are for production.
    pub timing: Timing,
}

impl ControlSettings {
    /// Settings with the control plane's usual id in our trust domain.
    pub fn new(address: &str, id: SpiffeId, state_dir: Option<PathBuf>) -> Result<Self, TlsError> {
        Ok(Self {
            address: address.to_owned(),
            server_id: SpiffeId::new(id.trust_domain(), "tulle-system", "control-plane")?,
            id,
            state_dir,
            timing: Timing::default(),
        })
    }
}

/// How long things may take. All waits between attempts have full jitter.
#[derive(Debug, Clone)]
pub struct Timing {
    /// The bound of the first wait before another attempt.
    pub backoff_min: Duration,
    /// The bound of the longest one; a stream that lives as long starts over at the minimum.
    pub backoff_max: Duration,
    /// Connecting, TLS included.
    pub connect: Duration,
    /// A request and its answer; for the stream, up to the response's head.
    pub answer: Duration,
    /// Between keep-alive pings.
    pub ping_every: Duration,
    /// For the answer to a ping, before the connection is given up.
    pub ping_answer: Duration,
    /// Between reports, and between writes of the record cache.
    pub report_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            ping_every: Duration::from_secs(20),
            ping_answer: Duration::from_secs(10),
            report_every: Duration::from_secs(1),
        }
    }
}

/// Talks to the control plane until the senders of `outgoing` are gone.
///
/// It runs on a current-thread runtime with I/O and time enabled. Records kept on disk are
/// applied, then `serve` is awaited, and then is the first attempt to connect.
///
/// Events for the host process, besides what [`Host`] hears directly: `connected`,
/// `disconnected` (once per outage, with `reason`), `renewed` (`not_after`, Unix seconds),
/// `refused` (`name` and `error`: a record that was not applied, a renewal that was denied),
/// `expired` (the certificate ran out) and `cache` (`error`: the disk).
pub async fn run(
    host: Arc<dyn Host>,
    settings: ControlSettings,
    identity: Identity,
    outgoing: mpsc::Receiver<Outgoing>,
    serve: impl Future<Output = ()>,
) {
    LocalSet::new()
        .run_until(stream::run(host, settings, identity, outgoing, serve))
        .await;
}
