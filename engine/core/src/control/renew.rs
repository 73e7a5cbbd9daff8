//! Replacing the certificate before it ends.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::certify::{Refused, certify};
use super::keyring::{Keyring, unix_seconds};
use super::link::Link;
use crate::timer::until_time;

/// Between two attempts, while there is time.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How far from half of the remaining life a renewal may start, as a part of it.
const JITTER: f64 = 0.1;

/// Renews at half of what is left, for ever; after a failure, again and again.
///
/// An expired certificate cannot renew itself: that is reported once, and tried all the same,
/// as clocks are set right and control planes configured anew.
pub(super) async fn keep_fresh(keyring: Rc<Keyring>) {
    loop {
        until_time(half_life(SystemTime::now(), keyring.not_after())).await;
        renew_until_done(&keyring).await;
    }
}

/// When to renew what ends at `not_after`.
///
/// Counted from now, not from when the certificate began: authorities date them back.
fn half_life(now: SystemTime, not_after: SystemTime) -> SystemTime {
    let left = not_after.duration_since(now).unwrap_or_default();
    now + left.mul_f64(0.5 + JITTER * (fastrand::f64() - 0.5))
}

async fn renew_until_done(keyring: &Keyring) {
    let timing = &keyring.settings().timing;
    let left = keyring.not_after().duration_since(SystemTime::now());
    // Some attempts must fit into what is left, however short the certificate lives.
    let longest = match left {
        Ok(left) => (left / 8).clamp(timing.backoff_min, MAX_WAIT),
        Err(_) => timing.backoff_max,
    };
    let mut backoff = Backoff::between(timing.backoff_min, longest);
    let (mut told_denied, mut told_expired) = (false, false);
    loop {
        match renew(keyring).await {
            Ok(()) => return,
            Err(Refused::Denied(error)) if !told_denied => {
                told_denied = true;
                keyring
                    .host()
                    .event(json!({"event": "refused", "name": "renew", "error": error}));
            }
            Err(_) => {}
        }
        if keyring.expired() && !told_expired {
            told_expired = true;
            let not_after = unix_seconds(keyring.not_after());
            keyring
                .host()
                .event(json!({"event": "expired", "not_after": not_after}));
        }
        sleep(backoff.next_wait()).await;
    }
}

async fn renew(keyring: &Keyring) -> Result<(), Refused> {
    let settings = keyring.settings();
    let mut link = Link::open(&settings.address, keyring.client(), &settings.timing).await?;
    let (pem, identity) = certify(&mut link, "/v1/renew", json!({}), settings).await?;
    keyring.renew(&pem, identity).map_err(Refused::Denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_starts_around_half_of_what_is_left() {
        let now = SystemTime::now();
        for _ in 0..1000 {
            let wait = half_life(now, now + Duration::from_secs(100))
                .duration_since(now)
                .unwrap();
            assert!((45..=55).contains(&wait.as_secs()), "{wait:?}");
        }
        assert_eq!(now, half_life(now, now - Duration::from_secs(1)));
    }
}
