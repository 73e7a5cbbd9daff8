//! HTTP/2 (RFC 9113) by the `h2` crate, for both sides of a request: what a stream carries, and
//! heads in its form and ours.

pub mod heads;
pub mod keepalive;
pub mod stream;
pub mod websocket;

pub use stream::Stream;

/// Most streams of a connection at once: as many as requests to a service by default.
pub const STREAMS_MAX: u32 = 1024;
/// Most bytes of a stream that wait for a slow peer.
pub const STREAM_SEND_MAX: usize = 64 * 1024;
/// Flow-control window of a stream, bytes.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Flow-control window of a connection: several streams, so that one stalled stream does not
/// stop the others.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
