//! Which endpoint takes a try: power of two choices, in turn, or fewest open requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::plan::endpoints::Endpoint;
use crate::record::LoadBalancer;

/// Draws before looking through all endpoints.
const DRAWS_MAX: usize = 4;

/// Choose an endpoint; those ejected or already tried are taken only when there is no other.
/// `None`: there is no endpoint at all.
pub fn pick<'a>(
    endpoints: &'a [Arc<Endpoint>],
    balancer: LoadBalancer,
    turn: &AtomicU32,
    tried: &[u64],
    now_us: u64,
) -> Option<&'a Arc<Endpoint>> {
    let fit = |endpoint: &Endpoint| !endpoint.is_ejected(now_us) && !tried.contains(&endpoint.id);
    let first = match (endpoints, balancer) {
        ([], _) => return None,
        ([only], _) => return Some(only),
        (many, LoadBalancer::RoundRobin) => next_in_turn(many, turn, &fit),
        (many, LoadBalancer::P2cEwma) => {
            two_choices(many, &fit, |endpoint| endpoint.state.cost(now_us))
        }
        (many, LoadBalancer::LeastRequest) => two_choices(many, &fit, |endpoint| {
            f64::from(endpoint.state.in_flight.load(Relaxed))
        }),
    };
    first.or_else(|| any_fit(endpoints, &fit)).or_else(|| {
        // All are ejected or tried: an untried one first, else any (Envoy's panic mode).
        any_fit(endpoints, &|endpoint: &Endpoint| {
            !tried.contains(&endpoint.id)
        })
        .or_else(|| endpoints.get(fastrand::usize(..endpoints.len())))
    })
}

fn next_in_turn<'a>(
    endpoints: &'a [Arc<Endpoint>],
    turn: &AtomicU32,
    fit: &impl Fn(&Endpoint) -> bool,
) -> Option<&'a Arc<Endpoint>> {
    (0..endpoints.len()).find_map(|_| {
        let at = turn.fetch_add(1, Relaxed) as usize % endpoints.len();
        fit(&endpoints[at]).then_some(&endpoints[at])
    })
}

/// The cheaper of two different fit endpoints drawn at random (Mitzenmacher, 2001).
fn two_choices<'a>(
    endpoints: &'a [Arc<Endpoint>],
    fit: &impl Fn(&Endpoint) -> bool,
    cost: impl Fn(&Endpoint) -> f64,
) -> Option<&'a Arc<Endpoint>> {
    let count = endpoints.len();
    let draw = |not: usize| {
        (0..DRAWS_MAX).find_map(|_| {
            let at = fastrand::usize(..count);
            (at != not && fit(&endpoints[at])).then_some(at)
        })
    };
    let first = draw(usize::MAX)?;
    let Some(second) = draw(first) else {
        return Some(&endpoints[first]);
    };
    let cheaper = if cost(&endpoints[second]) < cost(&endpoints[first]) {
        second
    } else {
        first
    };
    Some(&endpoints[cheaper])
}

fn any_fit<'a>(
    endpoints: &'a [Arc<Endpoint>],
    fit: &impl Fn(&Endpoint) -> bool,
) -> Option<&'a Arc<Endpoint>> {
    let start = fastrand::usize(..endpoints.len());
    let (before, after) = endpoints.split_at(start);
    after.iter().chain(before).find(|endpoint| fit(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::names::Names;
    use crate::plan::endpoints::EndpointSet;
    use serde_json::json;

    fn endpoints(count: usize) -> Arc<[Arc<Endpoint>]> {
        let list: Vec<_> = (0..count)
            .map(|index| {
                json!({"workload": format!("shop/w{index}"), "address": "127.0.0.1",
                       "ports": [[80, 4000 + index]], "identity": "spiffe://t/ns/a/sa/b",
                       "labels": {}, "zone": null, "tls": true})
            })
            .collect();
        let record =
            serde_json::from_value(json!({"namespace": "shop", "name": "w", "endpoints": list}));
        EndpointSet::build(&record.expect("valid"), None, &Names::default())
            .expect("valid")
            .all
    }

    fn shares(set: &[Arc<Endpoint>], balancer: LoadBalancer, tried: &[u64]) -> Vec<usize> {
        let turn = AtomicU32::new(0);
        let mut counts = vec![0; set.len()];
        for _ in 0..3000 {
            let chosen = pick(set, balancer, &turn, tried, 1).expect("there are endpoints");
            counts[set.iter().position(|e| e.id == chosen.id).expect("known")] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_is_even() {
        assert_eq!(
            shares(&endpoints(3), LoadBalancer::RoundRobin, &[]),
            [1000, 1000, 1000]
        );
    }

    #[test]
    fn the_slow_and_the_busy_get_least() {
        let set = endpoints(3);
        for (endpoint, latency) in set.iter().zip([1_000, 1_000, 50_000]) {
            endpoint.state.observe(latency, 1);
        }
        let by_latency = shares(&set, LoadBalancer::P2cEwma, &[]);
        assert!(
            by_latency[2] < 100 && by_latency[0] > 1000,
            "{by_latency:?}"
        );
        set[0].state.in_flight.store(10, Relaxed);
        let by_load = shares(&set, LoadBalancer::LeastRequest, &[]);
        assert!(by_load[0] < 100, "{by_load:?}");
    }

    #[test]
    fn ejected_and_tried_ones_are_the_last_resort() {
        let set = endpoints(3);
        set[0].state.ejected_until_us.store(10, Relaxed);
        for balancer in [
            LoadBalancer::P2cEwma,
            LoadBalancer::RoundRobin,
            LoadBalancer::LeastRequest,
        ] {
            assert_eq!(
                shares(&set, balancer, &[set[1].id])[2],
                3000,
                "{balancer:?}"
            );
        }
        let all: Vec<u64> = set.iter().map(|endpoint| endpoint.id).collect();
        assert!(pick(&set, LoadBalancer::P2cEwma, &AtomicU32::new(0), &all, 1).is_some());
        assert!(pick(&[], LoadBalancer::P2cEwma, &AtomicU32::new(0), &[], 1).is_none());
    }
}
