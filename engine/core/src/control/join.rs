//! From a token to an identity, before the engine starts.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::ControlSettings;
use super::backoff::Backoff;
use super::certify::{IdentityPem, Refused, certify};
use super::keyring::control_client;
use super::link::Link;
use crate::tls::{Identity, Roots};

/// How a sidecar came by its identity.
#[derive(Debug)]
pub enum Joined {
    /// The control plane certified a new key.
    Fresh(Identity),
    /// The one of an earlier run, still valid.
    Cached(Identity),
}

impl Joined {
    /// The identity, wherever it is from.
    pub fn into_identity(self) -> Identity {
        match self {
            Self::Fresh(identity) | Self::Cached(identity) => identity,
        }
    }
}

/// Gets an identity: with the token, or else the one kept on disk while it is valid.
///
/// It takes at most `timeout`, and runs on a `LocalSet`. While the control plane is not there it
/// tries again, unless a valid identity is on disk: then a start does not wait. A refusal is
/// final, but it cannot take away a valid identity either, since a token is good for one join and
/// a restart brings the same one.
///
/// `workload` is the object of that name in the hello. `roots_pem` authenticates the control
/// plane; without it, the roots kept on disk do.
///
/// # Errors
/// Why there is no identity.
pub async fn certified(
    settings: &ControlSettings,
    workload: &Value,
    token: Option<&str>,
    roots_pem: Option<&str>,
    timeout: Duration,
) -> Result<Joined, String> {
    let kept = match settings.state_dir.as_deref().map(IdentityPem::load) {
        Some(Ok(kept)) => kept,
        // Damaged: as good as none, and the reason matters only if there is no other way.
        Some(Err(_)) | None => None,
    };
    let cached = kept
        .as_ref()
        .and_then(|kept| kept.identity(&settings.id).ok())
        .filter(|identity| identity.not_after() > SystemTime::now());
    let Some(token) = token else {
        return cached.map(Joined::Cached).ok_or_else(|| {
            format!(
                "no join token, and no valid identity of {} on disk",
                settings.id
            )
        });
    };
    let roots = match (roots_pem, kept) {
        (Some(pem), _) => Roots::from_pem(&[pem]),
        (None, Some(kept)) => Roots::from_pem(&kept.roots_pem),
        (None, None) => return Err("no roots to authenticate the control plane by".to_owned()),
    };
    let roots = roots.map_err(|error| error.to_string())?;
    let request = Request {
        settings,
        roots,
        body: json!({"token": token, "workload": workload}),
    };
    match request.until_answered(timeout, cached.is_some()).await {
        Ok(identity) => Ok(Joined::Fresh(identity)),
        Err(error) => cached.map(Joined::Cached).ok_or(error),
    }
}

/// As [`certified`]; it blocks, on a small runtime of its own.
///
/// # Errors
/// As [`certified`].
pub fn join(
    settings: &ControlSettings,
    workload: &Value,
    token: Option<&str>,
    roots_pem: Option<&str>,
    timeout: Duration,
) -> Result<Joined, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| format!("runtime: {error}"))?;
    let joining = certified(settings, workload, token, roots_pem, timeout);
    LocalSet::new().block_on(&runtime, joining)
}

struct Request<'a> {
    settings: &'a ControlSettings,
    roots: Roots,
    body: Value,
}

impl Request<'_> {
    async fn until_answered(&self, timeout: Duration, only_once: bool) -> Result<Identity, String> {
        let deadline = Instant::now() + timeout;
        let mut backoff = Backoff::new(&self.settings.timing);
        let mut last = "no attempt was made".to_owned();
        loop {
            match timeout_at(deadline, self.once()).await {
                Ok(Ok(identity)) => return Ok(identity),
                Ok(Err(Refused::Denied(why))) => return Err(format!("join refused: {why}")),
                Ok(Err(Refused::Unavailable(why))) if only_once => return Err(why),
                Ok(Err(Refused::Unavailable(why))) => last = why,
                Err(_) => return Err(not_joined(timeout, &last)),
            }
            if timeout_at(deadline, sleep(backoff.next_wait()))
                .await
                .is_err()
            {
                return Err(not_joined(timeout, &last));
            }
        }
    }

    async fn once(&self) -> Result<Identity, Refused> {
        let settings = self.settings;
        let client = control_client(None, &self.roots, settings)
            .map_err(|error| Refused::Denied(error.to_string()))?;
        let mut link = Link::open(&settings.address, client, &settings.timing).await?;
        let (pem, identity) = certify(&mut link, "/v1/join", self.body.clone(), settings).await?;
        if let Some(dir) = &settings.state_dir {
            keep(&pem, dir)?;
        }
        Ok(identity)
    }
}

/// The token is spent: an identity that is not kept would be lost at the next start.
fn keep(pem: &IdentityPem, dir: &Path) -> Result<(), Refused> {
    pem.save(dir)
        .map_err(|why| Refused::Denied(format!("identity not kept: {why}")))
}

fn not_joined(timeout: Duration, last: &str) -> String {
    format!("not joined within {timeout:?}: {last}")
}
