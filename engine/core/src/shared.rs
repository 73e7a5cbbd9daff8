//! What all threads of a sidecar share: records in force, identity, counters, events.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsRawFd;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;

use crate::control::{Host, Outgoing};
use crate::listen::{CONNECTIONS_MAX, Closing, OWN_PART};
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::observe::report::{Reporter, report};
use crate::observe::tap::Taps;
use crate::plan::endpoints::EndpointSet;
use crate::plan::inbound::InboundPlan;
use crate::plan::service::{Service, ServicePlan};
use crate::plan::{Build, Directory};
use crate::record::{Record, ServiceKey};
use crate::settings::Settings;
use crate::threads::Bell;
use crate::timer::now_s;
use crate::tls::{self, Identity, SpiffeId};
use crate::upstream::connect::Alpn;

/// Most events that wait for the host process; the oldest is dropped.
pub const EVENTS_MAX: usize = 1024;
/// Most messages that wait for the record stream.
pub const OUTGOING_MAX: usize = 8192;
/// A service that is not declared is dropped when it was not called for this long, seconds.
pub const IDLE_SERVICE_S: u64 = 300;

/// The shared state of a sidecar.
#[derive(Debug)]
pub struct Shared {
    /// What it was started with.
    pub settings: Settings,
    /// `namespace/name`.
    pub workload_name: String,
    pub(crate) id: SpiffeId,
    /// Services in use.
    pub directory: Directory,
    /// Counters.
    pub metrics: Metrics,
    /// Watchers.
    pub taps: Taps,
    /// The access log; `None`: off.
    pub log: Option<AccessLog>,
    /// What the workload lets in.
    pub inbound: ArcSwap<InboundPlan>,
    pub(crate) identity: ArcSwapOption<Identity>,
    pub(crate) identity_epoch: AtomicU64,
    pub(crate) server_tls: ArcSwapOption<[Arc<ServerConfig>; Alpn::ALL.len()]>,
    records: Mutex<BTreeMap<String, String>>,
    outgoing: mpsc::Sender<Outgoing>,
    pub(crate) events: Mutex<VecDeque<Value>>,
    pub(crate) bell: Arc<Bell>,
    clients_end: i32,
    /// How many workloads this process serves.
    workloads: Arc<AtomicUsize>,
    pub(crate) app_ready: AtomicBool,
    /// Whether the workload's own record is in force; until then nobody is let in.
    pub has_inbound: AtomicBool,
    pub(crate) connected: AtomicBool,
    /// Draining is asked for; it may wait for a successor.
    pub(crate) asked_to_drain: AtomicBool,
    /// A successor has asked for the sockets, and has not failed to serve yet.
    pub(crate) handing_over: AtomicBool,
    /// Turns true once, when draining begins.
    pub draining: watch::Sender<bool>,
    /// Turns true once, when the application is not waited for any more.
    pub ending: watch::Sender<bool>,
    /// Which open connections should end.
    pub closing: watch::Sender<Closing>,
    /// Questions of DNS that are being answered.
    pub dns_queries: Arc<AtomicU32>,
    /// Those of them that resolvers are asked.
    pub dns_forwarded: Arc<AtomicU32>,
    /// Whether the next request of an HTTP/1.1 connection is its last, and its response says so.
    pub leaving: AtomicBool,
    /// Turns true once, when what was kept on disk is in force: before, nothing is accepted.
    pub loaded: watch::Sender<bool>,
    /// Those among the open connections that came from other sidecars.
    pub inbound_connections: AtomicI64,
    pub(crate) admin: std::sync::OnceLock<String>,
    pub(crate) description: std::sync::OnceLock<Value>,
    started: Instant,
    epoch: u64,
    pub(crate) last_report: Mutex<String>,
}

/// Milliseconds of the world's clock.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(0)
}

impl Shared {
    /// The state of a sidecar that knows nothing yet, and where it puts messages for the record
    /// stream; `bell` tells of events. The descriptors of clients' connections are below
    /// `clients_end`, which all `workloads` of the process share.
    ///
    /// # Errors
    /// The workload's names make no SPIFFE id, or the access log cannot be opened.
    pub(crate) fn new(
        settings: Settings,
        bell: Arc<Bell>,
        clients_end: i32,
        workloads: Arc<AtomicUsize>,
    ) -> Result<(Arc<Shared>, mpsc::Receiver<Outgoing>), String> {
        let workload = &settings.workload;
        let id = SpiffeId::new(
            &settings.trust_domain,
            &workload.namespace,
            &workload.service_account,
        )
        .map_err(|error| format!("settings: workload: {error}"))?;
        let log = match settings.access_log {
            crate::settings::AccessLog::Off => None,
            _ => Some(
                AccessLog::open(settings.access_log_path.as_deref())
                    .map_err(|error| format!("settings: access_log_path: {error}"))?,
            ),
        };
        let (outgoing, receiver) = mpsc::channel(OUTGOING_MAX);
        let shared = Arc::new(Shared {
            workload_name: settings.workload_name(),
            id,
            directory: Directory::default(),
            metrics: Metrics::default(),
            taps: Taps::default(),
            log,
            inbound: ArcSwap::from_pointee(InboundPlan::closed()),
            identity: ArcSwapOption::empty(),
            identity_epoch: AtomicU64::new(0),
            server_tls: ArcSwapOption::empty(),
            records: Mutex::default(),
            outgoing,
            events: Mutex::default(),
            bell,
            clients_end,
            workloads,
            app_ready: AtomicBool::new(settings.probe.is_none()),
            has_inbound: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            asked_to_drain: AtomicBool::new(false),
            handing_over: AtomicBool::new(false),
            draining: watch::Sender::new(false),
            ending: watch::Sender::new(false),
            closing: watch::Sender::new(Closing::Nothing),
            dns_queries: Arc::default(),
            dns_forwarded: Arc::default(),
            leaving: AtomicBool::new(false),
            loaded: watch::Sender::new(false),
            inbound_connections: AtomicI64::new(0),
            admin: std::sync::OnceLock::new(),
            description: std::sync::OnceLock::new(),
            started: Instant::now(),
            epoch: now_ms(),
            last_report: Mutex::default(),
            settings,
        });
        shared.tell_limits();
        for outbound in &shared.settings.outbound {
            if let Some(key) = ServiceKey::parse(&outbound.service) {
                shared.use_service(&key, true);
            }
        }
        Ok((shared, receiver))
    }

    /// The service of `key`; the control plane is asked for it when it is new. `None`: too many
    /// services are in use.
    pub fn use_service(&self, key: &ServiceKey, declared: bool) -> Option<Arc<Service>> {
        let (service, new) = self.directory.get_or_add(key, &self.metrics.names)?;
        if declared {
            service.declared.store(true, Relaxed);
        }
        if new {
            service.last_used_s.store(now_s(), Relaxed);
            self.ask_for(&service);
        }
        Some(service)
    }

    /// Accept from now on, with what was kept on disk. Where programs are told addresses of services,
    /// those are never forgotten: they may have been told them by an earlier process.
    pub(crate) fn begin(&self) {
        if self.settings.intercept.is_some() {
            for service in self.directory.all() {
                service.declared.store(true, Relaxed);
            }
        }
        self.loaded.send_replace(true);
    }

    fn ask_for(&self, service: &Service) {
        self.tell(Outgoing::Subscribe(format!("service/{}", service.key)));
        self.tell(Outgoing::Subscribe(format!("endpoints/{}", service.key)));
    }

    /// How many connections there may be, if nothing else needs the files.
    pub(crate) fn connections_max(&self) -> i64 {
        CONNECTIONS_MAX.min(self.clients_end.into())
    }

    /// How many of them may come from other sidecars, tunnels included.
    pub(crate) fn inbound_max(&self) -> i64 {
        let most = self.connections_max();
        most - most / i64::from(OWN_PART)
    }

    /// How many there are.
    pub(crate) fn inbound(&self) -> i64 {
        self.inbound_connections.load(Relaxed)
    }

    /// Below which descriptor all of them stay. In a process of several workloads each leaves as
    /// many files as it has connections, so that none can take the room of the others.
    fn clients_end(&self) -> i32 {
        if self.workloads.load(Relaxed) < 2 {
            return self.clients_end;
        }
        let open = self.metrics.connections.load(Relaxed);
        let open = i32::try_from(open).unwrap_or(i32::MAX);
        self.clients_end.saturating_sub(open)
    }

    /// Below which descriptor these stay, with the connections to the application that they need:
    /// with few of them, `inbound`, it is the application's own calls that took the rest.
    pub(crate) fn inbound_end(&self, inbound: i64) -> i32 {
        let most = self.clients_end();
        let end = most - most / OWN_PART;
        if 2 * inbound < i64::from(end / 2) {
            most
        } else {
            end
        }
    }

    /// Whether there is room for a connection just accepted that ends with `closes`.
    pub(crate) fn has_room(&self, closes: Closing, stream: &TcpStream) -> bool {
        let (has_place, files_end) = match closes {
            Closing::Inbound => {
                let inbound = self.inbound();
                (inbound < self.inbound_max(), self.inbound_end(inbound))
            }
            _ => (true, self.clients_end()),
        };
        let all = self.metrics.connections.load(Relaxed);
        has_place && all < self.connections_max() && stream.as_raw_fd() < files_end
    }

    fn tell_limits(&self) {
        let most = self.connections_max();
        if most < CONNECTIONS_MAX {
            let why = "the limit of open files";
            self.event(json!({"event": "limited", "connections": most, "by": why}));
        }
    }

    /// Hand a message to the record stream; it is lost when the stream is far behind.
    pub fn tell(&self, message: Outgoing) {
        let told = self.outgoing.try_send(message);
        if self.settings.control.is_some() && matches!(told, Err(TrySendError::Full(_))) {
            self.event(json!({"event": "overloaded", "what": "record stream"}));
        }
    }

    /// The identity in use.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// Changes with each identity.
    pub fn identity_epoch(&self) -> u64 {
        self.identity_epoch.load(Relaxed)
    }

    /// The sidecar's own SPIFFE id.
    pub fn identity_uri(&self) -> &str {
        self.id.as_str()
    }

    /// The TLS config of an inbound listener; `None` before there is an identity.
    pub fn server_tls(&self, alpn: Alpn) -> Option<Arc<ServerConfig>> {
        self.server_tls
            .load()
            .as_ref()
            .map(|configs| Arc::clone(&configs[alpn as usize]))
    }

    /// The next event, waiting at most `timeout`.
    pub fn next_event(&self, timeout: Duration) -> Option<Value> {
        self.bell.find(timeout, || {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            events.pop_front()
        })
    }

    pub(crate) fn records(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the application was found ready.
    pub fn is_app_ready(&self) -> bool {
        self.app_ready.load(Relaxed)
    }

    /// Whether the probe found the application ready.
    pub fn set_app_ready(&self, ready: bool) {
        if self.app_ready.swap(ready, Relaxed) != ready {
            self.status_changed();
        }
    }

    /// Tell the host and the control plane whether traffic may come.
    pub(crate) fn status_changed(&self) {
        let event = if self.is_ready() {
            "ready"
        } else {
            "not-ready"
        };
        self.event(json!({"event": event}));
        self.tell(Outgoing::Status);
    }

    /// Whether the workload may be sent traffic: its application answers, its own record is
    /// known, it has an identity, and it does not drain.
    pub fn is_ready(&self) -> bool {
        self.app_ready.load(Relaxed)
            && self.has_inbound.load(Relaxed)
            && self.identity.load().is_some()
            && !*self.draining.borrow()
    }

    /// Where the admin endpoint listens.
    pub fn set_admin(&self, address: String) {
        self.admin.get_or_init(|| address);
    }

    /// The workload as the control plane registers it.
    pub fn set_description(&self, description: Value) {
        self.description.get_or_init(|| description);
    }

    /// Counters and records.
    pub fn stats(&self) -> Value {
        json!({
            "ready": self.is_ready(),
            "draining": *self.draining.borrow(),
            "connected": self.connected.load(Relaxed),
            "records": *self.records(),
            "report": self.make_report(),
        })
    }

    pub(crate) fn make_report(&self) -> Value {
        report(
            &self.metrics,
            &Reporter {
                workload: &self.workload_name,
                identity: self.id.as_str(),
                epoch: self.epoch,
                uptime_s: self.started.elapsed().as_secs(),
            },
        )
    }

    /// Put a parsed record in force.
    pub(crate) fn apply_record(&self, name: &str, record: Record) -> Result<(), String> {
        let expected = record_name(&record);
        if expected != name {
            return Err(format!("the record is {expected}"));
        }
        match record {
            Record::Service(record) => self.apply_service(&record),
            Record::Endpoints(record) => {
                let key = ServiceKey::new(&record.namespace, &record.name);
                let service = self
                    .use_service(&key, false)
                    .ok_or("too many services are in use")?;
                let previous = service.endpoints();
                let set = EndpointSet::build(&record, previous.as_deref(), &self.metrics.names)?;
                service.set_endpoints(set);
                Ok(())
            }
            Record::Workload(record) => {
                if format!("{}/{}", record.namespace, record.name) != self.workload_name {
                    return Err(format!("this sidecar serves {}", self.workload_name));
                }
                self.inbound.store(Arc::new(InboundPlan::build(&record)));
                if !self.has_inbound.swap(true, Relaxed) && self.is_ready() {
                    self.status_changed();
                }
                Ok(())
            }
            Record::Trust(record) => {
                tls::Roots::from_pem(&record.roots_pem).map_err(|error| error.to_string())?;
                Ok(())
            }
        }
    }

    fn apply_service(&self, record: &crate::record::ServiceRecord) -> Result<(), String> {
        let key = ServiceKey::new(&record.namespace, &record.name);
        let service = self
            .use_service(&key, false)
            .ok_or("too many services are in use")?;
        let mut build = Build {
            namespace: &self.settings.workload.namespace,
            directory: &self.directory,
            names: &self.metrics.names,
            added: Vec::new(),
        };
        let plan = ServicePlan::build(record, &mut build);
        for added in build.added {
            added.last_used_s.store(now_s(), Relaxed);
            self.ask_for(&added);
        }
        service.set_plan(plan?);
        Ok(())
    }

    /// Drop services that were not called for a while and that no held route points to. What
    /// nobody could send again stays.
    pub fn drop_idle_services(&self) {
        if !self.connected.load(Relaxed) {
            return;
        }
        let now = now_s();
        let all = self.directory.all();
        let mut pointed: Vec<Arc<Service>> = Vec::new();
        for service in &all {
            if let Some(plan) = service.plan().as_ref() {
                let tables = plan.ports.iter().filter_map(|port| port.table.as_ref());
                for backend in tables
                    .flat_map(|table| &table.rules)
                    .flat_map(|rule| &rule.backends)
                {
                    if !Arc::ptr_eq(&backend.service, service) {
                        pointed.push(Arc::clone(&backend.service));
                    }
                }
            }
        }
        for service in all {
            let idle = now.saturating_sub(service.last_used_s.load(Relaxed)) >= IDLE_SERVICE_S;
            let kept = service.declared.load(Relaxed)
                || pointed.iter().any(|other| Arc::ptr_eq(other, &service));
            if idle && !kept && self.directory.remove(service.key.as_str()).is_some() {
                // A service's routes may point to itself: without its plan the circle is open.
                service.set_absent();
                for kind in ["service", "endpoints"] {
                    let name = format!("{kind}/{}", service.key);
                    self.records().remove(&name);
                    self.tell(Outgoing::Unsubscribe(name));
                }
            }
        }
    }
}

/// When `flag` is true.
pub(crate) async fn turns_true(flag: &watch::Sender<bool>) {
    // Whoever waits has the sender, so it cannot be gone.
    let _true = flag.subscribe().wait_for(|now| *now).await.is_ok();
}

/// The name a record must be sent under.
fn record_name(record: &Record) -> String {
    match record {
        Record::Service(record) => format!("service/{}/{}", record.namespace, record.name),
        Record::Endpoints(record) => format!("endpoints/{}/{}", record.namespace, record.name),
        Record::Workload(record) => format!("workload/{}/{}", record.namespace, record.name),
        Record::Trust(record) => format!("trust/{}", record.domain),
    }
}
