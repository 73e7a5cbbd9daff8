//! The identity in use: replaced by renewal and by changed roots, and kept on disk.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use serde_json::json;

use super::certify::IdentityPem;
use super::{ControlSettings, Host};
use crate::tls::{Identity, Roots, TlsError, client_config};

/// What the control plane's listener speaks.
const ALPN: &[&[u8]] = &[b"h2"];

/// The config of a client that will only talk to the control plane.
pub(super) fn control_client(
    identity: Option<&Identity>,
    roots: &Roots,
    settings: &ControlSettings,
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config(identity, roots, &settings.server_id, ALPN)
}

/// The identity and the client config made of it.
pub(super) struct Keyring {
    host: Arc<dyn Host>,
    settings: ControlSettings,
    current: RefCell<(Identity, Arc<ClientConfig>)>,
}

impl Keyring {
    pub(super) fn new(
        host: Arc<dyn Host>,
        settings: ControlSettings,
        identity: Identity,
    ) -> Result<Self, TlsError> {
        let client = control_client(Some(&identity), identity.roots(), &settings)?;
        Ok(Self {
            host,
            settings,
            current: RefCell::new((identity, client)),
        })
    }

    pub(super) fn host(&self) -> &dyn Host {
        &*self.host
    }

    pub(super) fn settings(&self) -> &ControlSettings {
        &self.settings
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.current.borrow().0.not_after()
    }

    pub(super) fn expired(&self) -> bool {
        self.not_after() <= SystemTime::now()
    }

    /// The config to connect with now; kept as long as the identity, so sessions resume.
    pub(super) fn client(&self) -> Arc<ClientConfig> {
        self.current.borrow().1.clone()
    }

    /// Puts a renewed identity in force, then keeps it. A disk that fails is only reported.
    pub(super) fn renew(&self, pem: &IdentityPem, identity: Identity) -> Result<(), String> {
        let not_after = unix_seconds(identity.not_after());
        self.replace(identity)?;
        self.keep(|dir| pem.save(dir));
        self.host
            .event(json!({"event": "renewed", "not_after": not_after}));
        Ok(())
    }

    /// Judges others by other roots from now on.
    pub(super) fn replace_roots(&self, roots_pem: Vec<String>) -> Result<(), String> {
        let roots = Roots::from_pem(&roots_pem).map_err(|error| error.to_string())?;
        let identity = {
            let (identity, _) = &*self.current.borrow();
            if *identity.roots() == roots {
                return Ok(());
            }
            identity.with_roots(roots)
        };
        self.replace(identity)?;
        self.keep(|dir| match IdentityPem::load(dir)? {
            Some(mut kept) => {
                kept.roots_pem = roots_pem;
                kept.save(dir)
            }
            None => Ok(()),
        });
        Ok(())
    }

    fn replace(&self, identity: Identity) -> Result<(), String> {
        let client = control_client(Some(&identity), identity.roots(), &self.settings)
            .map_err(|error| error.to_string())?;
        self.host.set_identity(identity.clone())?;
        self.current.replace((identity, client));
        Ok(())
    }

    fn keep(&self, save: impl FnOnce(&std::path::Path) -> Result<(), String>) {
        if let Some(dir) = &self.settings.state_dir {
            if let Err(error) = save(dir) {
                self.host.event(json!({"event": "cache", "error": error}));
            }
        }
    }
}

pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    // An identity never ends before 1970.
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
