//! The last word of a sidecar whose record stream is a successor's by now.

use std::pin::pin;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::time::sleep;

use super::ControlSettings;
use super::backoff::Backoff;
use super::certify::{Refused, refusal};
use super::keyring::control_client;
use super::link::Link;
use crate::timer::within;
use crate::tls::Identity;

/// How long the control plane is asked to take it.
pub(crate) const REPORT_TIME: Duration = Duration::from_secs(10);

/// Has the control plane count what was answered after the stream ended; `body` has all that was
/// counted since the start, so it does no harm if it is heard twice.
///
/// # Errors
/// Why it was not taken, in one sentence.
pub async fn report_rest(
    settings: &ControlSettings,
    identity: &Identity,
    body: &Value,
) -> Result<(), String> {
    let mut backoff = Backoff::new(&settings.timing);
    let mut last = format!("no answer within {REPORT_TIME:?}");
    let attempts = async {
        loop {
            match attempt(settings, identity, body).await {
                Ok(()) => return Ok(()),
                Err(Refused::Denied(why)) => return Err(why),
                Err(Refused::Unavailable(why)) => last = why,
            }
            sleep(backoff.next_wait()).await;
        }
    };
    let ended = within(REPORT_TIME, pin!(attempts)).await;
    ended.unwrap_or(Err(last))
}

async fn attempt(
    settings: &ControlSettings,
    identity: &Identity,
    body: &Value,
) -> Result<(), Refused> {
    let client = control_client(Some(identity), identity.roots(), settings)
        .map_err(|error| Refused::Denied(error.to_string()))?;
    let mut link = Link::open(&settings.address, client, &settings.timing).await?;
    let (status, reply) = link
        .post("/v1/report", body, settings.timing.answer)
        .await?;
    match status {
        StatusCode::OK => Ok(()),
        _ => Err(refusal(status, &reply)),
    }
}
