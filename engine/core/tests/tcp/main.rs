//! Bytes through whole engines over loopback: tunnels between sidecars, ends, breaks, bounds.

mod detect;
mod hbone;
#[path = "../loopback/kernel.rs"]
mod kernel;
mod mesh;
mod plain;
mod proxy_protocol;
#[allow(dead_code, reason = "requests are signed in other tests")]
#[path = "../../src/tls/test_ca.rs"]
mod test_ca;
mod tls;
