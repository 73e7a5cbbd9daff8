//! The endpoints of a service with the state that outlives a plan: latency, load, ejection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::observe::names::{NONE, Names};
use crate::record::{EndpointRecord, EndpointsRecord, Labels};
use crate::tls::SpiffeId;

/// Time in which an old latency loses most of its weight (as in Finagle's and Linkerd's
/// peak EWMA).
const EWMA_DECAY_US: f64 = 10_000_000.0;
/// Cost of an endpoint that has requests in flight but no answer yet.
const UNKNOWN_COST: f64 = 1_000_000.0;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One ready workload of a service, shared by all threads and kept across plans while unchanged.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process; pools are keyed by it.
    pub id: u64,
    /// `namespace/name` of the workload.
    pub workload: Arc<str>,
    /// The id of the workload's name in metrics.
    pub name_id: u32,
    /// Whom to expect behind the address; `None`: plaintext.
    pub identity: Option<SpiffeId>,
    /// The id of the identity in metrics.
    pub identity_id: u32,
    /// Service port to address.
    addresses: Vec<(u16, SocketAddr)>,
    record: EndpointRecord,
    /// Latency, load and failures.
    pub state: EndpointState,
}

/// The moving state of an endpoint. All relaxed: a lost update costs a little accuracy.
#[derive(Debug, Default)]
pub struct EndpointState {
    ewma_us: AtomicU64,
    ewma_at_us: AtomicU64,
    /// Requests in flight from this sidecar.
    pub in_flight: AtomicU32,
    /// Failures since the last success.
    pub failures: AtomicU32,
    /// Ejections in a row.
    pub ejections: AtomicU32,
    /// Until when it gets no traffic, microseconds of [`crate::timer::now_us`]; 0: not ejected.
    pub ejected_until_us: AtomicU64,
}

/// Counts a request at its endpoint while it is in flight.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// Begin.
    pub fn begin(endpoint: &Arc<Endpoint>) -> InFlight {
        endpoint.state.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(endpoint))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Endpoint {
    fn build(record: &EndpointRecord, names: &Names) -> Result<Endpoint, String> {
        let place = |message: String| format!("endpoint \"{}\": {message}", record.workload);
        let ip: IpAddr = record
            .address
            .parse()
            .map_err(|_| place(format!("\"{}\" is not an IP address", record.address)))?;
        let identity = match record.tls {
            true => {
                Some(SpiffeId::parse(&record.identity).map_err(|error| place(error.to_string()))?)
            }
            false => None,
        };
        Ok(Endpoint {
            id: NEXT_ID.fetch_add(1, Relaxed),
            workload: record.workload.as_str().into(),
            name_id: names.id(&record.workload),
            identity_id: identity.as_ref().map_or(NONE, |id| names.id(id.as_str())),
            identity,
            addresses: record
                .ports
                .iter()
                .map(|&(service, port)| (service, SocketAddr::new(ip, port)))
                .collect(),
            record: record.clone(),
            state: EndpointState::default(),
        })
    }

    /// Where the service port is reached at this endpoint.
    pub fn address(&self, service_port: u16) -> Option<SocketAddr> {
        self.addresses
            .iter()
            .find(|(port, _)| *port == service_port)
            .map(|(_, address)| *address)
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.record.labels
    }

    /// Whether outlier ejection keeps it from traffic now.
    pub fn is_ejected(&self, now_us: u64) -> bool {
        self.state.ejected_until_us.load(Relaxed) > now_us
    }
}

impl EndpointState {
    /// Take in the latency of one answer: up at once, down slowly.
    pub fn observe(&self, latency_us: u64, now_us: u64) {
        let old = f64::from_bits(self.ewma_us.load(Relaxed));
        let latency = (latency_us.max(1)) as f64;
        let new = if latency >= old {
            latency
        } else {
            let age = now_us.saturating_sub(self.ewma_at_us.load(Relaxed)) as f64;
            let keep = (-age / EWMA_DECAY_US).exp();
            old * keep + latency * (1.0 - keep)
        };
        self.ewma_us.store(new.to_bits(), Relaxed);
        self.ewma_at_us.store(now_us, Relaxed);
    }

    /// What one more request would cost: decayed latency times open requests.
    pub fn cost(&self, now_us: u64) -> f64 {
        let open = f64::from(self.in_flight.load(Relaxed));
        let ewma = f64::from_bits(self.ewma_us.load(Relaxed));
        if ewma == 0.0 {
            return if open == 0.0 {
                0.0
            } else {
                UNKNOWN_COST * open
            };
        }
        let age = now_us.saturating_sub(self.ewma_at_us.load(Relaxed)) as f64;
        ewma * (-age / EWMA_DECAY_US).exp() * (open + 1.0)
    }
}

/// A service's endpoints at one version.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// All, sorted by workload.
    pub all: Arc<[Arc<Endpoint>]>,
}

impl EndpointSet {
    /// Build from a record; an endpoint whose record did not change keeps its state and id.
    ///
    /// # Errors
    /// The first address or identity that is wrong, with the workload's name.
    pub fn build(
        record: &EndpointsRecord,
        previous: Option<&EndpointSet>,
        names: &Names,
    ) -> Result<EndpointSet, String> {
        let known: HashMap<&str, &Arc<Endpoint>> = previous
            .map(|set| {
                set.all
                    .iter()
                    .map(|endpoint| (&*endpoint.workload, endpoint))
                    .collect()
            })
            .unwrap_or_default();
        let all = record
            .endpoints
            .iter()
            .map(|entry| match known.get(entry.workload.as_str()) {
                Some(old) if old.record == *entry => Ok(Arc::clone(old)),
                _ => Endpoint::build(entry, names).map(Arc::new),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(EndpointSet { all: all.into() })
    }

    /// Those that carry all of `labels`.
    pub fn subset(&self, labels: &Labels) -> Arc<[Arc<Endpoint>]> {
        self.all
            .iter()
            .filter(|endpoint| {
                labels
                    .iter()
                    .all(|(key, value)| endpoint.labels().get(key) == Some(value))
            })
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(names: &[&str]) -> EndpointsRecord {
        EndpointsRecord {
            namespace: "shop".into(),
            name: "cart".into(),
            endpoints: names
                .iter()
                .map(|name| EndpointRecord {
                    workload: format!("shop/{name}"),
                    address: "127.0.0.1".into(),
                    ports: vec![(80, 4000)],
                    identity: "spiffe://tulle.local/ns/shop/sa/cart".into(),
                    labels: Labels::from([("version".into(), (*name).into())]),
                    zone: None,
                    tls: true,
                })
                .collect(),
        }
    }

    fn build(names: &[&str], previous: Option<&EndpointSet>) -> Result<EndpointSet, String> {
        EndpointSet::build(&record(names), previous, &Names::default())
    }

    #[test]
    fn unchanged_endpoints_keep_their_state() {
        let old = build(&["a", "b"], None).expect("valid");
        old.all[1].state.observe(500, 1);
        let new = build(&["b", "c"], Some(&old)).expect("valid");
        assert_eq!(new.all[0].id, old.all[1].id);
        assert!(new.all[0].state.cost(1) > 0.0);
        assert_ne!(new.all[1].id, old.all[0].id);
    }

    #[test]
    fn latency_rises_at_once_and_falls_slowly() {
        let state = EndpointState::default();
        state.observe(1_000, 0);
        state.observe(100_000, 1);
        assert_eq!(state.cost(1), 100_000.0);
        state.observe(1_000, 1_000_001);
        let cost = state.cost(1_000_001);
        assert!((85_000.0..95_000.0).contains(&cost), "{cost}");
    }

    #[test]
    fn a_bad_address_is_refused_with_the_workloads_name() {
        let mut bad = record(&["a"]);
        bad.endpoints[0].address = "nowhere".into();
        let error = EndpointSet::build(&bad, None, &Names::default()).expect_err("not an address");
        assert!(
            error.contains("shop/a") && error.contains("nowhere"),
            "{error}"
        );
    }

    #[test]
    fn subsets_follow_labels() {
        let set = build(&["a", "b"], None).expect("valid");
        let subset = set.subset(&Labels::from([("version".into(), "b".into())]));
        assert_eq!(subset.len(), 1);
        assert_eq!(&*subset[0].workload, "shop/b");
    }
}
