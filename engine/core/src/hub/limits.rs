//! Every bound of the hub, named, with where its number comes from.

use std::time::Duration;

use crate::control::frame::MAX_FRAME_BYTES;

/// What the hub accepts before it refuses, waits or drops. Tests build smaller ones.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. Half of the 20,000 descriptors a process commonly has.
    pub connections: usize,
    /// TLS handshakes under way. More wait in the kernel's queue, which damps reconnect storms:
    /// a handshake costs about a millisecond of the one thread.
    pub handshakes: usize,
    /// How long a TLS handshake may take.
    pub handshake_wait: Duration,
    /// How long a connection without a client certificate may live: a join needs seconds.
    pub unauthenticated_life: Duration,
    /// How long a connection may stay without a record stream or a request.
    pub idle: Duration,
    /// How long a request body, or the hello of a stream, may take to arrive.
    pub body_wait: Duration,
    /// Body bytes of a join or renewal: a signing request and some labels.
    pub body_bytes: usize,
    /// Body bytes of a report outside of a stream: as many as a frame of one may have.
    pub report_bytes: usize,
    /// Joins, renewals and such reports waiting for Python.
    pub requests_waiting: usize,
    /// How long one of them waits before it is answered 503.
    pub reply_wait: Duration,
    /// Names one peer may subscribe to: a workload calls tens of services.
    pub subscriptions_per_peer: usize,
    /// Events Python has not fetched yet.
    pub events: usize,
    /// Events of one peer among them, so that no peer takes the whole queue.
    pub events_per_peer: usize,
    /// Taps, untaps and resolve requests a peer has not read yet.
    pub commands_per_peer: usize,
    /// How often a quiet connection is pinged.
    pub ping_interval: Duration,
    /// How long the answer to a ping may take.
    pub ping_wait: Duration,
    /// How long a connection that was told goodbye may take to finish.
    pub goodbye_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshakes: 256,
            handshake_wait: Duration::from_secs(10),
            unauthenticated_life: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            body_wait: Duration::from_secs(10),
            body_bytes: 64 * 1024,
            report_bytes: MAX_FRAME_BYTES,
            requests_waiting: 1024,
            reply_wait: Duration::from_secs(10),
            subscriptions_per_peer: 4096,
            events: 65_536,
            events_per_peer: 1024,
            commands_per_peer: 64,
            ping_interval: Duration::from_secs(20),
            ping_wait: Duration::from_secs(10),
            goodbye_wait: Duration::from_secs(5),
        }
    }
}
