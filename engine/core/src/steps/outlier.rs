//! Endpoints that fail again and again get no traffic for a while, then come back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::plan::endpoints::Endpoint;
use crate::record::Outlier;

/// Longest run of doublings of the ejection time.
const DOUBLINGS_MAX: u32 = 16;

/// Take in the end of one try. `set`: all endpoints of the service.
pub fn observe(
    endpoint: &Endpoint,
    failed: bool,
    config: Option<&Outlier>,
    set: &[Arc<Endpoint>],
    now_us: u64,
) {
    if !failed {
        if endpoint.state.failures.load(Relaxed) != 0 {
            endpoint.state.failures.store(0, Relaxed);
            endpoint.state.ejections.store(0, Relaxed);
        }
        return;
    }
    let failures = endpoint.state.failures.fetch_add(1, Relaxed) + 1;
    let Some(config) = config else { return };
    if failures < config.consecutive_failures || endpoint.is_ejected(now_us) {
        return;
    }
    let ejected = set.iter().filter(|other| other.is_ejected(now_us)).count();
    let allowed = set.len() * config.max_ejected_percent as usize / 100;
    if ejected >= allowed {
        return;
    }
    let doublings = endpoint
        .state
        .ejections
        .fetch_add(1, Relaxed)
        .min(DOUBLINGS_MAX);
    let ejection_ms = config
        .base_ejection_ms
        .saturating_mul(1 << doublings)
        .min(config.max_ejection_ms);
    endpoint.state.failures.store(0, Relaxed);
    endpoint.state.ejected_until_us.store(
        now_us.saturating_add(ejection_ms.saturating_mul(1000)),
        Relaxed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::names::Names;
    use crate::plan::endpoints::EndpointSet;
    use serde_json::json;

    fn set(count: usize) -> Arc<[Arc<Endpoint>]> {
        let list: Vec<_> = (0..count)
            .map(|index| {
                json!({"workload": format!("shop/w{index}"), "address": "127.0.0.1",
                       "ports": [[80, 4000]], "identity": "", "labels": {}, "zone": null,
                       "tls": false})
            })
            .collect();
        let record =
            serde_json::from_value(json!({"namespace": "a", "name": "b", "endpoints": list}));
        EndpointSet::build(&record.expect("valid"), None, &Names::default())
            .expect("valid")
            .all
    }

    const CONFIG: Outlier = Outlier {
        consecutive_failures: 3,
        base_ejection_ms: 100,
        max_ejection_ms: 250,
        max_ejected_percent: 50,
    };

    fn fail(set: &[Arc<Endpoint>], index: usize, times: usize, now_us: u64) {
        for _ in 0..times {
            observe(&set[index], true, Some(&CONFIG), set, now_us);
        }
    }

    #[test]
    fn it_is_ejected_at_the_bound_and_returns() {
        let set = set(2);
        fail(&set, 0, 2, 0);
        assert!(!set[0].is_ejected(0));
        fail(&set, 0, 1, 0);
        assert!(set[0].is_ejected(99_999));
        assert!(!set[0].is_ejected(100_000));
    }

    #[test]
    fn each_ejection_is_longer_up_to_the_bound_and_a_success_resets() {
        let set = set(2);
        let mut now = 0;
        for expected_ms in [100, 200, 250, 250] {
            fail(&set, 0, 3, now);
            let until = set[0].state.ejected_until_us.load(Relaxed);
            assert_eq!(until - now, expected_ms * 1000);
            now = until;
        }
        observe(&set[0], true, Some(&CONFIG), &set, now);
        observe(&set[0], false, Some(&CONFIG), &set, now);
        fail(&set, 0, 3, now);
        assert_eq!(set[0].state.ejected_until_us.load(Relaxed) - now, 100_000);
    }

    #[test]
    fn never_more_than_the_share_and_never_the_last() {
        let two = set(2);
        fail(&two, 0, 3, 0);
        fail(&two, 1, 9, 0);
        assert!(two[0].is_ejected(1) && !two[1].is_ejected(1));
        let one = set(1);
        fail(&one, 0, 9, 0);
        assert!(!one[0].is_ejected(1));
    }
}
