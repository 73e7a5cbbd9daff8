//! The hub over loopback: real TLS, real HTTP/2, sidecars that speak in raw frames.

mod lifetimes;
mod records;
mod requests;
mod said;
mod sidecar;
#[path = "../../src/tls/test_ca.rs"]
mod test_ca;
mod whole;
