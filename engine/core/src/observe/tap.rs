//! Live requests for `tulle tap`: filters that are looked at only while someone watches.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

/// Most watchers of one sidecar at once.
pub const TAPS_MAX: usize = 16;
/// Most requests shown to one watcher.
pub const TAP_ENTRIES_MAX: u64 = 100_000;

/// Which requests a watcher wants to see.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// `namespace/name` of the called service.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// What the path starts with.
    pub path: Option<String>,
    /// A code, or a class such as `5xx`.
    pub status: Option<String>,
    /// Only those denied by a policy.
    pub denied: bool,
    /// How many to show.
    pub max: u64,
}

/// The facts a filter looks at.
#[derive(Debug)]
pub struct Seen<'a> {
    /// `namespace/name` of the called service; empty when inbound.
    pub service: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path.
    pub path: &'a str,
    /// The status.
    pub code: u16,
    /// Whether a policy denied it.
    pub denied: bool,
}

impl Filter {
    fn matches(&self, seen: &Seen<'_>) -> bool {
        let status = |wanted: &str| match wanted.strip_suffix("xx") {
            Some(class) => class == (seen.code / 100).to_string(),
            None => wanted == seen.code.to_string(),
        };
        // An inbound request does not know by which service it was called.
        let service = |wanted: &str| seen.service.is_empty() || wanted == seen.service;
        self.service.as_deref().is_none_or(service)
            && self
                .method
                .as_deref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(seen.method))
            && self
                .path
                .as_deref()
                .is_none_or(|prefix| seen.path.starts_with(prefix))
            && self.status.as_deref().is_none_or(status)
            && (!self.denied || seen.denied)
    }
}

/// The watchers of this sidecar.
#[derive(Debug, Default)]
pub struct Taps {
    active: AtomicUsize,
    list: Mutex<Vec<(u64, Filter, u64)>>,
}

impl Taps {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Filter, u64)>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anyone watches: one relaxed load per request.
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed) != 0
    }

    /// Start to watch.
    ///
    /// # Errors
    /// The filter cannot be read, or there are [`TAPS_MAX`] watchers.
    pub fn start(&self, id: u64, filter: &[u8]) -> Result<(), String> {
        let filter: Filter =
            serde_json::from_slice(filter).map_err(|error| format!("filter: {error}"))?;
        let mut list = self.lock();
        if list.len() >= TAPS_MAX {
            return Err(format!("{TAPS_MAX} watchers are active already"));
        }
        let left = filter.max.clamp(1, TAP_ENTRIES_MAX);
        list.push((id, filter, left));
        self.active.store(list.len(), Relaxed);
        Ok(())
    }

    /// Stop to watch.
    pub fn stop(&self, id: u64) {
        let mut list = self.lock();
        list.retain(|(known, ..)| *known != id);
        self.active.store(list.len(), Relaxed);
    }

    /// The watchers that want to see this request; each is counted down.
    pub fn wanting(&self, seen: &Seen<'_>) -> Vec<u64> {
        let mut list = self.lock();
        let mut wanting = Vec::new();
        list.retain_mut(|(id, filter, left)| {
            if filter.matches(seen) {
                wanting.push(*id);
                *left -= 1;
            }
            *left > 0
        });
        self.active.store(list.len(), Relaxed);
        wanting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(changes: serde_json::Value) -> Vec<u8> {
        let mut all = serde_json::json!({"service": null, "method": null, "path": null,
            "status": null, "denied": false, "max": 100});
        for (key, value) in changes.as_object().expect("an object") {
            all[key] = value.clone();
        }
        all.to_string().into_bytes()
    }

    #[test]
    fn a_watcher_sees_what_its_filter_asks_for() {
        let seen = Seen {
            service: "shop/cart",
            method: "GET",
            path: "/items/1",
            code: 503,
            denied: false,
        };
        for (changes, expected) in [
            (serde_json::json!({}), true),
            (
                serde_json::json!({"service": "shop/cart", "method": "get", "path": "/items"}),
                true,
            ),
            (serde_json::json!({"service": "shop/web"}), false),
            (serde_json::json!({"status": "5xx"}), true),
            (serde_json::json!({"status": "503"}), true),
            (serde_json::json!({"status": "4xx"}), false),
            (serde_json::json!({"denied": true}), false),
        ] {
            let taps = Taps::default();
            taps.start(7, &filter(changes.clone())).expect("a filter");
            assert_eq!(taps.wanting(&seen) == [7], expected, "{changes}");
        }
    }

    #[test]
    fn a_watcher_ends_at_its_count_and_watchers_are_bounded() {
        let seen = Seen {
            service: "",
            method: "GET",
            path: "/",
            code: 200,
            denied: false,
        };
        let taps = Taps::default();
        taps.start(1, &filter(serde_json::json!({"max": 2})))
            .expect("a filter");
        assert_eq!(
            [
                taps.wanting(&seen).len(),
                taps.wanting(&seen).len(),
                taps.wanting(&seen).len()
            ],
            [1, 1, 0]
        );
        assert!(!taps.is_active());
        taps.start(1, &filter(serde_json::json!({"max": u64::MAX})))
            .expect("a filter");
        let shown = std::iter::from_fn(|| taps.wanting(&seen).pop());
        assert_eq!(shown.count() as u64, TAP_ENTRIES_MAX);
        for id in 0..TAPS_MAX as u64 {
            taps.start(id, &filter(serde_json::json!({})))
                .expect("a place");
        }
        assert!(taps.start(99, &filter(serde_json::json!({}))).is_err());
        assert!(
            taps.start(99, b"{}")
                .expect_err("fields are missing")
                .contains("filter")
        );
    }
}
