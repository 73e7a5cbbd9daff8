//! HTTP/1.1 on one connection, for both sides of a request (RFC 9112).
//!
//! `parse` reads heads, `body` finds the end of what follows them, `encode` writes both,
//! `connection` does so over a stream with buffers that it only holds while it needs them. What
//! could be read in two ways is refused: nothing leaves framed differently than it came.

pub mod body;
pub mod buffer;
pub mod connection;
pub mod encode;
pub mod parse;

pub use connection::Connection;

/// Longest head, and longest trailer section.
pub const HEAD_MAX: usize = 64 * 1024;
/// Most header lines of a head or trailer section.
pub const HEADERS_MAX: usize = 100;
/// Longest request target.
pub const TARGET_MAX: usize = 8 * 1024;
