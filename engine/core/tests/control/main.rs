//! The sidecar's side of the control plane, over loopback, against a hub that the tests direct.

#[allow(dead_code)]
#[path = "../../src/tls/test_ca.rs"]
mod test_ca;
#[path = "../../src/control/test_dir.rs"]
mod test_dir;

mod fake_host;
mod fake_hub;
mod identity;
mod real_hub;
mod stream;
