//! What one workload owns on one request thread: pools, TLS configs, metric cells, tasks. No locks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use tokio::time::{MissedTickBehavior, interval};

use crate::discover::Entrance;
use crate::error::{Error, Reason};
use crate::observe::metrics::ThreadMetrics;
use crate::plan::service::Service;
use crate::shared::Shared;
use crate::threads::{self, Tasks};
use crate::timer;
use crate::tls::{self, SpiffeId};
use crate::upstream::connect::Alpn;
use crate::upstream::http2::Connections;
use crate::upstream::pool::{Pool, SPARE_MAX};
use crate::upstream::tunnels::Tunnels;

/// Most hosts whose service is remembered.
const HOSTS_MAX: usize = 1024;
/// Most TLS configs, one per peer identity and protocol.
const TLS_CONFIGS_MAX: usize = 1024;
/// How often idle connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The state of a workload on a request thread.
#[derive(Debug)]
pub struct Worker {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Counters.
    pub metrics: RefCell<ThreadMetrics>,
    /// Idle HTTP/1.1 connections.
    pub pool: RefCell<Pool>,
    /// HTTP/2 connections.
    pub http2: Connections,
    /// Connections that carry TCP.
    pub tunnels: Tunnels,
    tasks: Rc<Tasks>,
    /// By what the last connection came in.
    pub last_entrance: RefCell<Option<Entrance>>,
    hosts: RefCell<Hosts>,
    tls: RefCell<TlsConfigs>,
}

/// Hosts and the service and port they were found to mean.
type Hosts = HashMap<Box<str>, (Arc<Service>, u16), ahash::RandomState>;

#[derive(Debug, Default)]
struct TlsConfigs {
    epoch: u64,
    configs: HashMap<(SpiffeId, Alpn), Arc<ClientConfig>, ahash::RandomState>,
}

impl Worker {
    /// A workload's state on this thread.
    pub fn new(shared: Arc<Shared>) -> Rc<Worker> {
        Rc::new(Worker {
            shared,
            metrics: RefCell::default(),
            pool: RefCell::default(),
            http2: Connections::default(),
            tunnels: Tunnels::default(),
            tasks: Rc::default(),
            last_entrance: RefCell::default(),
            hosts: RefCell::default(),
            tls: RefCell::default(),
        })
    }

    /// Start a task of the workload on this thread; it ends with the workload.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(task);
    }

    /// Look after what is open, as long as it is awaited.
    pub(crate) async fn keep(&self) {
        let mut closing = self.shared.closing.subscribe();
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // The sender is in our own hands.
                _ = closing.changed() => timer::wake_all(),
                _ = sweep.tick() => {
                    let closed = self.pool.borrow_mut().sweep();
                    if closed > SPARE_MAX {
                        // A burst has gone, and with it the use of what it made.
                        threads::trim();
                    }
                    self.http2.sweep();
                    self.tunnels.sweep();
                }
            }
        }
    }

    /// End all that was started here.
    pub(crate) async fn end(&self) {
        self.tasks.end().await;
    }

    /// The service and port that a host was found to mean.
    pub fn known_host(&self, host: &str) -> Option<(Arc<Service>, u16)> {
        let mut hosts = self.hosts.borrow_mut();
        let (service, port) = hosts.get(host)?;
        if service.retired.load(Relaxed) {
            hosts.remove(host);
            return None;
        }
        Some((Arc::clone(service), *port))
    }

    /// Remember what a host means.
    pub fn remember_host(&self, host: &str, service: &Arc<Service>, port: u16) {
        let mut hosts = self.hosts.borrow_mut();
        if hosts.len() >= HOSTS_MAX {
            hosts.clear();
        }
        hosts.insert(host.into(), (Arc::clone(service), port));
    }

    /// The TLS config for a peer, and when our own certificate ends.
    ///
    /// # Errors
    /// [`Reason::NoIdentity`] before the sidecar has joined.
    pub fn client_tls(
        &self,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<(Arc<ClientConfig>, SystemTime), Error> {
        let no_identity = || Error::new(Reason::NoIdentity, "this sidecar has no certificate yet");
        let identity = self.shared.identity().ok_or_else(no_identity)?;
        let mut held = self.tls.borrow_mut();
        let epoch = self.shared.identity_epoch();
        if held.epoch != epoch || held.configs.len() >= TLS_CONFIGS_MAX {
            held.configs.clear();
            held.epoch = epoch;
        }
        let key = (expected.clone(), alpn);
        if let Some(config) = held.configs.get(&key) {
            return Ok((Arc::clone(config), identity.not_after()));
        }
        let config =
            tls::client_config(Some(&identity), identity.roots(), expected, &[alpn.name()])
                .map_err(|error| Error::new(Reason::TlsFailed, error.to_string()))?;
        held.configs.insert(key, Arc::clone(&config));
        Ok((config, identity.not_after()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::tests::on_local;
    use crate::waits::Mesh;

    #[test]
    fn so_many_hosts_are_remembered_and_then_anew() {
        on_local(async {
            let worker = Mesh::start(|_| {}).await.worker;
            let service = worker.shared.directory.get("shop/cart");
            let service = service.expect("a service");
            let host = |number: usize| format!("n{number}.example");
            for number in 0..HOSTS_MAX {
                worker.remember_host(&host(number), &service, 80);
            }
            assert!(worker.known_host(&host(0)).is_some());
            worker.remember_host(&host(HOSTS_MAX), &service, 80);
            assert!(worker.known_host(&host(0)).is_none());
            assert!(worker.known_host(&host(HOSTS_MAX)).is_some());
        });
    }

    #[test]
    fn so_many_peers_have_a_config_and_then_anew() {
        on_local(async {
            let mesh = Mesh::start(|_| {}).await;
            mesh.let_in("strict");
            let peer = |number: usize| {
                let peer = format!("spiffe://tulle.local/ns/shop/sa/n{number}");
                SpiffeId::parse(&peer).expect("an id")
            };
            let config = |number: usize| {
                let made = mesh.worker.client_tls(&peer(number), Alpn::Http1);
                made.expect("an identity").0
            };
            let first = config(0);
            for number in 1..TLS_CONFIGS_MAX {
                config(number);
            }
            let tls = &mesh.worker.tls;
            let held = tls.borrow().configs.get(&(peer(0), Alpn::Http1)).cloned();
            assert!(held.is_some_and(|held| Arc::ptr_eq(&held, &first)));
            config(TLS_CONFIGS_MAX);
            assert_eq!(tls.borrow().configs.len(), 1);
        });
    }
}
