//! What the record stream needs from the engine.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Notify;

use crate::tls::Identity;

/// The engine as the record stream sees it.
///
/// Every method is called on the control thread and must return soon: while it runs, nothing is
/// read from the control plane.
pub trait Host: Send + Sync {
    /// Puts a record in force, or says why it cannot be; then the previous one stays.
    ///
    /// It is called for trust records too, but their roots need no work here: they come back
    /// through [`Host::set_identity`].
    fn apply(&self, name: &str, version: &str, bytes: &[u8]) -> Result<(), String>;

    /// The control plane has no such record.
    fn absent(&self, name: &str);

    /// The names to be subscribed to now. Asked at each connect; later changes are sent as
    /// [`Outgoing`]. What is held already is subscribed to as well, until
    /// [`Outgoing::Unsubscribe`].
    fn wanted(&self) -> Vec<String>;

    /// A renewed certificate, or changed roots.
    fn set_identity(&self, identity: Identity) -> Result<(), String>;

    /// Whether the workload is ready, and whether it drains.
    fn status(&self) -> (bool, bool);

    /// The first frame of a stream: `{"workload", "pid", "version", "admin"}`.
    fn hello(&self) -> Value;

    /// The report, or `None` when nothing changed since the last one. After
    /// `connected(true)` there must be one: the control plane may have forgotten the last.
    fn report(&self) -> Option<Vec<u8>>;

    /// What the engine would do with a described request, as JSON.
    fn resolve(&self, request: &[u8]) -> Vec<u8>;

    /// Starts to send [`Outgoing::Tap`] for requests that fit the filter.
    fn tap(&self, id: u64, filter: &[u8]) -> Result<(), String>;

    /// Ends a tap. Called for all of them when the stream ends.
    fn untap(&self, id: u64);

    /// Whether the stream is up: for the gauge. The event comes separately.
    fn connected(&self, connected: bool);

    /// Something the host process should know: an object with the field `event`.
    fn event(&self, event: Value);
}

/// What the engine has to say to the control plane.
///
/// Without a stream, subscriptions are kept for the next one, and the rest is dropped.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// A record is needed.
    Subscribe(String),
    /// A record is not needed any more; it is dropped from the disk too.
    Unsubscribe(String),
    /// [`Host::status`] changed.
    Status,
    /// Not for the control plane: what is in force goes to the disk now, and then this is notified.
    Flush(Arc<Notify>),
    /// The last thing to be said: a last report goes out and the stream ends. Notified when the
    /// control plane has heard all of it; at once, where there is no stream.
    Leave(Arc<Notify>),
    /// A request that a tap saw, JSON; dropped when the stream is slow.
    Tap {
        /// The tap.
        id: u64,
        /// The entry.
        entry: Vec<u8>,
    },
}
