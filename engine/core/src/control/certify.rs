//! Getting a certificate for a new key, and keeping both on disk.

use std::io;
use std::path::Path;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::disk;
use super::link::{Link, LinkError};
use super::{ControlSettings, Timing};
use crate::tls::{Identity, SpiffeId, new_key_and_csr};

const FILE: &str = "identity.json";
/// A chain, a key and 16 roots are a tenth of this.
const MAX_FILE_BYTES: usize = 256 * 1024;

/// An identity as text: what an [`Identity`] is made of and kept as.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityPem {
    chain_pem: String,
    key_pem: String,
    pub(super) roots_pem: Vec<String>,
}

impl IdentityPem {
    /// Reads what was kept; `None` when nothing was.
    pub(super) fn load(state_dir: &Path) -> Result<Option<Self>, String> {
        let path = state_dir.join(FILE);
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let bytes = disk::read(&path, MAX_FILE_BYTES).map_err(|error| failed(&error))?;
        bytes
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose()
            .map_err(|error| failed(&error))
    }

    /// Replaces what was kept.
    pub(super) fn save(&self, state_dir: &Path) -> Result<(), String> {
        let path = state_dir.join(FILE);
        let save = || -> io::Result<()> {
            disk::make_dir(state_dir)?;
            disk::replace(&path, &[&serde_json::to_vec(self)?])?;
            disk::sync_dir(state_dir)
        };
        save().map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The identity, if it is the one of `id`.
    pub(super) fn identity(&self, id: &SpiffeId) -> Result<Identity, String> {
        let identity = Identity::from_pem(&self.chain_pem, &self.key_pem, &self.roots_pem)
            .map_err(|error| error.to_string())?;
        if identity.id() != id {
            return Err(format!(
                "certificate is of {}, expected {id}",
                identity.id()
            ));
        }
        Ok(identity)
    }
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) enum Refused {
    /// The control plane was not reached, or not able to answer: try again.
    Unavailable(String),
    /// It said no, and will say so again.
    Denied(String),
}

impl From<LinkError> for Refused {
    fn from(error: LinkError) -> Self {
        Self::Unavailable(error.why)
    }
}

#[derive(Deserialize)]
struct Granted {
    chain_pem: String,
    roots_pem: Vec<String>,
}

/// Makes a key and has it certified at `path`; `body` is sent along with the request.
pub(super) async fn certify(
    link: &mut Link,
    path: &str,
    mut body: Value,
    settings: &ControlSettings,
) -> Result<(IdentityPem, Identity), Refused> {
    let internal = |error: String| Refused::Denied(error);
    let (key_pem, csr_pem) =
        new_key_and_csr(&settings.id).map_err(|error| internal(error.to_string()))?;
    body["csr_pem"] = json!(csr_pem);
    let Timing { answer, .. } = settings.timing;
    let (status, reply) = link.post(path, &body, answer).await?;
    if status != StatusCode::OK {
        return Err(refusal(status, &reply));
    }
    let granted: Granted = serde_json::from_slice(&reply)
        .map_err(|error| Refused::Unavailable(format!("{path}: {error}")))?;
    let pem = IdentityPem {
        chain_pem: granted.chain_pem,
        key_pem,
        roots_pem: granted.roots_pem,
    };
    let identity = pem.identity(&settings.id).map_err(internal)?;
    Ok((pem, identity))
}

/// What an answer other than the wanted one says.
pub(super) fn refusal(status: StatusCode, reply: &[u8]) -> Refused {
    let why = serde_json::from_slice::<Value>(reply)
        .ok()
        .and_then(|reply| reply["error"].as_str().map(str::to_owned))
        .unwrap_or_else(|| "no reason given".to_owned());
    let why = format!("control plane answered {}: {why}", status.as_u16());
    let final_answer = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
    if final_answer {
        Refused::Denied(why)
    } else {
        Refused::Unavailable(why)
    }
}
