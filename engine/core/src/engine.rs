//! The data plane of one workload: bind, join, start, feed, drain, stop.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{mpsc, watch};

use crate::control::{self, ControlSettings, Host, Joined, Outgoing};
use crate::dns;
use crate::house::{self, House};
use crate::inbound::App;
use crate::intercept::{self, Way};
use crate::listen::{self, Closing, Purpose};
use crate::settings::{InboundSettings, InterceptSettings, OutboundSettings, Settings};
use crate::shared::{Shared, turns_true};
use crate::sockets::{Held, Listeners, Sockets};
use crate::threads::{Desks, Job, Seat, Stop, Threads};
use crate::tls::{Identity, SpiffeId};
use crate::worker::Worker;

/// What a workload is told that has nobody to join.
const NO_CONTROL: &str = "there is no control plane in the settings";

/// The data plane of one workload.
#[derive(Debug)]
pub struct Engine {
    inner: Arc<Inner>,
    /// Where it runs; `None` when it was stopped.
    threads: Mutex<Option<(Seat, Arc<Threads>)>>,
    /// Hears of no sender any more when all jobs of the workload have ended.
    ended: Mutex<Receiver<Infallible>>,
}

/// What the jobs of a workload may hold, too.
#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    workload: Value,
    addresses: Value,
    desks: Desks,
    ready: Mutex<Option<Ready>>,
    joined: Mutex<Option<Identity>>,
    stopping: watch::Sender<bool>,
    /// Each job has a copy; `None` when no more may begin.
    running: Mutex<Option<Sender<Infallible>>>,
}

/// What is bound and waits for [`Engine::start`].
#[derive(Debug)]
struct Ready {
    listeners: Listeners,
    dns: Vec<UdpSocket>,
    admin: TcpListener,
    held: Held,
    predecessor: Option<UnixStream>,
    outgoing: mpsc::Receiver<Outgoing>,
}

fn bind_inbound<'a>(
    settings: &'a Settings,
    sockets: &mut Sockets,
) -> Result<Vec<(&'a InboundSettings, SocketAddr)>, String> {
    let bind = |(index, port): (usize, &'a InboundSettings)| {
        let app = App::declared(index, port);
        Ok((port, sockets.add(&Purpose::Inbound(app), port.listen)?))
    };
    settings.inbound.iter().enumerate().map(bind).collect()
}

fn bind_outbound(shared: &Shared, sockets: &mut Sockets) -> Result<Vec<Value>, String> {
    let bind = |dependency: &OutboundSettings| {
        let service = shared.directory.get(&dependency.service);
        let service = service.ok_or("settings: outbound: too many services")?;
        let purpose = Purpose::Service(service, dependency.port);
        let local = sockets.add(&purpose, dependency.listen)?;
        Ok(json!({"service": dependency.service, "port": dependency.port, "listen": local}))
    };
    shared.settings.outbound.iter().map(bind).collect()
}

/// Bind what intercepted traffic arrives at; the sockets for datagrams are returned.
fn bind_intercept(
    settings: &InterceptSettings,
    sockets: &mut Sockets,
) -> Result<Vec<UdpSocket>, String> {
    for address in &settings.outbound {
        sockets.add(&Purpose::Intercepted(Way::Out), *address)?;
    }
    if let Some(address) = settings.inbound {
        sockets.add(&Purpose::Intercepted(Way::In), address)?;
    }
    for address in &settings.dns {
        sockets.add(&Purpose::Intercepted(Way::Dns), *address)?;
    }
    for (purpose, listener) in sockets.listeners.iter().flatten() {
        if settings.tproxy && matches!(purpose, Purpose::Intercepted(Way::In)) {
            intercept::transparent(listener)
                .map_err(|error| format!("settings: intercept: tproxy: {error}"))?;
        }
    }
    settings.mark.map_or(Ok(()), intercept::set_mark)?;
    let bind = |address: &SocketAddr| sockets.datagrams(*address);
    settings.dns.iter().map(bind).collect()
}

impl Engine {
    /// Read settings (JSON) and bind all listeners, on threads of its own; nothing is accepted
    /// before [`Engine::start`].
    ///
    /// # Errors
    /// Settings that are wrong, or an address that cannot be bound.
    pub fn bind(settings: &[u8]) -> Result<Engine, String> {
        let settings = Settings::parse(settings)?;
        let threads = Threads::start(settings.workers)?;
        Engine::place(&threads, settings)
    }

    /// As [`Engine::bind`], on threads that carry other workloads, too.
    ///
    /// # Errors
    /// As [`Engine::bind`]; the settings ask for another number of threads, or for what only a
    /// process of its own can do; the process serves [`WORKLOADS_MAX`] workloads already.
    ///
    /// [`WORKLOADS_MAX`]: crate::threads::WORKLOADS_MAX
    pub fn bind_on(threads: &Arc<Threads>, settings: &[u8]) -> Result<Engine, String> {
        let settings = Settings::parse(settings)?;
        if settings.workers != threads.workers() {
            return Err(format!(
                "settings: workers: {} is not what this process has for all its workloads; \
                 allowed: {}",
                settings.workers,
                threads.workers()
            ));
        }
        if settings.intercept.is_some() {
            let why = "settings: intercept: whose traffic it is cannot be told where a process \
                       serves several workloads; allowed: null";
            return Err(why.to_owned());
        }
        Engine::place(threads, settings)
    }

    fn place(threads: &Arc<Threads>, settings: Settings) -> Result<Engine, String> {
        let seat = threads.take_seat()?;
        let (shared, outgoing) = Shared::new(
            settings,
            Arc::clone(&threads.bell),
            threads.clients_end,
            Arc::clone(&threads.workloads),
        )?;
        let settings = &shared.settings;
        let mut sockets = Sockets::new(settings);
        let inbound = bind_inbound(settings, &mut sockets)?;
        let outbound = bind_outbound(&shared, &mut sockets)?;
        let proxy = match settings.proxy_listen {
            Some(address) => Some(sockets.add(&Purpose::Proxy, address)?),
            None => None,
        };
        let dns = match &settings.intercept {
            Some(intercept) => bind_intercept(intercept, &mut sockets)?,
            None => Vec::new(),
        };
        let admin = sockets.admin(settings.admin_listen)?;
        let admin_address = admin.local_addr().map_err(|error| error.to_string())?;
        shared.set_admin(admin_address.to_string());
        let addresses = json!({
            "inbound": inbound.iter()
                .map(|(port, local)| json!({"port": port.port, "listen": local})).collect::<Vec<_>>(),
            "outbound": outbound,
            "proxy": proxy,
            "admin": admin_address,
        });
        let workload = describe(settings, &inbound);
        shared.set_description(workload.clone());
        let predecessor = sockets.inherited.take().map(|inherited| {
            shared.app_ready.fetch_or(inherited.app_ready, Relaxed);
            inherited.predecessor
        });
        let ready = Ready {
            listeners: sockets.listeners,
            dns,
            admin,
            held: sockets.held,
            predecessor,
            outgoing,
        };
        let (running, ended) = channel();
        let inner = Inner {
            workload,
            addresses,
            desks: threads.desks.clone(),
            ready: Mutex::new(Some(ready)),
            joined: Mutex::default(),
            stopping: watch::Sender::new(false),
            running: Mutex::new(Some(running)),
            shared,
        };
        Ok(Engine {
            inner: Arc::new(inner),
            threads: Mutex::new(Some((seat, Arc::clone(threads)))),
            ended: Mutex::new(ended),
        })
    }

    /// Where the listeners are, as JSON.
    pub fn addresses(&self) -> Vec<u8> {
        self.inner.addresses.to_string().into_bytes()
    }

    /// Get an identity: by the token, or the one kept on disk. Blocks at most `timeout`.
    ///
    /// # Errors
    /// There is no control plane in the settings, it refuses, or it cannot be reached and there
    /// is no identity on disk.
    pub fn join(
        &self,
        token: Option<&str>,
        roots_pem: Option<&str>,
        timeout: Duration,
    ) -> Result<&'static str, String> {
        let settings = self.inner.control_settings()?.ok_or(NO_CONTROL)?;
        let workload = &self.inner.workload;
        let joined = control::join(&settings, workload, token, roots_pem, timeout)?;
        Ok(self.inner.take_identity(joined))
    }

    /// As [`Engine::join`], and then as [`Engine::start`], without blocking: the event `joined`
    /// tells how, or `failed` why not.
    ///
    /// # Errors
    /// It was stopped.
    pub fn enter(
        &self,
        token: Option<String>,
        roots_pem: Option<String>,
        timeout: Duration,
    ) -> Result<(), String> {
        let inner = Arc::clone(&self.inner);
        self.inner
            .begin(&self.inner.desks.control, async move |stop| {
                let joining = inner.join_here(token.as_deref(), roots_pem.as_deref(), timeout);
                let Some(joined) = unless(stop, joining).await else {
                    return;
                };
                let done = joined.and_then(|how| {
                    inner.shared.event(json!({"event": "joined", "how": how}));
                    inner.start()
                });
                if let Err(error) = done {
                    let failed = json!({"event": "failed", "what": "start", "error": error});
                    inner.shared.event(failed);
                }
            })
    }

    /// Start to carry traffic: from here on connections are accepted.
    ///
    /// # Errors
    /// It was started or stopped already.
    pub fn start(&self) -> Result<(), String> {
        self.inner.start()
    }

    /// Put a record in force.
    ///
    /// # Errors
    /// Why it cannot be; the previous one stays.
    pub fn apply(&self, name: &str, data: &[u8]) -> Result<(), String> {
        self.inner.shared.apply(name, "", data)
    }

    /// Set the identity by hand, where there is no control plane.
    ///
    /// # Errors
    /// PEM that cannot be read, or another workload's certificate.
    pub fn set_identity(&self, chain: &str, key: &str, roots: &str) -> Result<(), String> {
        let identity =
            Identity::from_pem(chain, key, &[roots]).map_err(|error| error.to_string())?;
        self.inner.shared.set_identity(identity)
    }

    /// The next event as JSON, waiting at most `timeout`.
    pub fn next_event(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.inner
            .shared
            .next_event(timeout)
            .map(|event| event.to_string().into_bytes())
    }

    /// Counters and records as JSON.
    pub fn stats(&self) -> Vec<u8> {
        self.inner.shared.stats().to_string().into_bytes()
    }

    /// The decision path of a described request, JSON in and out.
    pub fn resolve(&self, request: &[u8]) -> Vec<u8> {
        self.inner.shared.resolve(request)
    }

    /// Begin to drain; the event `drained` says that nothing is open any more.
    pub fn drain(&self) {
        self.inner.shared.drain();
    }

    /// Drain what comes in alone; the event `inbound-drained` says that it has ended. The
    /// application can call others until [`Engine::drain`].
    pub fn drain_inbound(&self) {
        self.inner.shared.drain_inbound();
    }

    /// End all that runs for the workload, and wait for that. Open connections break unless they
    /// were drained; other workloads of the same threads go on.
    pub fn stop(&self) {
        self.inner.shared.closing.send_replace(Closing::All);
        self.inner.stopping.send_replace(true);
        drop(lock(&self.inner.running).take());
        drop(lock(&self.inner.ready).take());
        // Nothing is ever sent: an error says that the last job has ended.
        let Err(_ended) = lock(&self.ended).recv();
        drop(lock(&self.threads).take());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn control_settings(&self) -> Result<Option<ControlSettings>, String> {
        let settings = &self.shared.settings;
        let Some(address) = &settings.control else {
            return Ok(None);
        };
        let id = SpiffeId::parse(self.shared.identity_uri()).map_err(|error| error.to_string())?;
        ControlSettings::new(address, id, settings.state_dir.clone())
            .map(Some)
            .map_err(|error| error.to_string())
    }

    async fn join_here(
        &self,
        token: Option<&str>,
        roots_pem: Option<&str>,
        timeout: Duration,
    ) -> Result<&'static str, String> {
        let settings = self.control_settings()?.ok_or(NO_CONTROL)?;
        let workload = &self.workload;
        let joined = control::certified(&settings, workload, token, roots_pem, timeout).await?;
        Ok(self.take_identity(joined))
    }

    fn take_identity(&self, joined: Joined) -> &'static str {
        let how = match &joined {
            Joined::Fresh(_) => "joined",
            Joined::Cached(_) => "cached",
        };
        *lock(&self.joined) = Some(joined.into_identity());
        how
    }

    fn start(&self) -> Result<(), String> {
        let Ready {
            listeners,
            mut dns,
            admin,
            held,
            predecessor,
            outgoing,
        } = lock(&self.ready)
            .take()
            .ok_or("the engine was started already, or stopped")?;
        let identity = lock(&self.joined).take();
        if let Some(identity) = &identity {
            self.shared.set_identity(identity.clone())?;
        }
        let control = self.control_settings()?.zip(identity);
        for (desk, listeners) in self.desks.workers.iter().zip(listeners) {
            let shared = Arc::clone(&self.shared);
            // Few questions are asked: one thread answers them.
            let dns = std::mem::take(&mut dns);
            self.begin(desk, async move |stop| {
                carry_traffic(shared, listeners, dns, stop).await;
            })?;
        }
        let house = House {
            admin,
            held,
            predecessor,
            control,
            outgoing,
        };
        let shared = Arc::clone(&self.shared);
        self.begin(&self.desks.control, async move |stop| {
            unless(stop, house::keep(shared, house)).await;
        })
    }

    /// Have a thread do a job of the workload; what it holds is gone when [`Engine::stop`] returns.
    fn begin<F>(&self, desk: &UnboundedSender<Job>, job: F) -> Result<(), String>
    where
        F: AsyncFnOnce(Stop) + Send + 'static,
    {
        let running = lock(&self.running).clone();
        let running = running.ok_or("the engine was stopped")?;
        let stop = self.stopping.subscribe();
        let job: Job = Box::new(move || {
            Box::pin(async move {
                job(stop).await;
                drop(running);
            })
        });
        desk.send(job)
            .map_err(|_| "a thread has ended; see standard error".to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The workload as the control plane registers it.
fn describe(settings: &Settings, inbound: &[(&InboundSettings, SocketAddr)]) -> Value {
    let workload = &settings.workload;
    let address = inbound.first().map_or_else(
        || "127.0.0.1".to_owned(),
        |(_, local)| local.ip().to_string(),
    );
    let ports: Vec<Value> = inbound
        .iter()
        .map(|(port, local)| {
            json!({"port": port.port, "protocol": port.protocol, "listen": local.port()})
        })
        .collect();
    json!({
        "namespace": workload.namespace,
        "name": workload.name,
        "service_account": workload.service_account,
        "labels": workload.labels,
        "zone": workload.zone,
        "address": address,
        "ports": ports,
    })
}

/// What comes of `future`; `None`: it was stopped before.
async fn unless<T>(mut stop: Stop, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = future => Some(done),
        // An error means that the engine is gone, which is a reason to stop, too.
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

/// What a request thread does for the workload.
async fn carry_traffic(
    shared: Arc<Shared>,
    listeners: Vec<(Purpose, TcpListener)>,
    dns: Vec<UdpSocket>,
    stop: Stop,
) {
    let worker = Worker::new(shared);
    let accept = async {
        // With no record it would refuse whom it lets in as soon as it has read the disk.
        turns_true(&worker.shared.loaded).await;
        for (purpose, listener) in listeners {
            worker.spawn(listen::serve(Rc::clone(&worker), purpose, listener));
        }
        for socket in dns {
            worker.spawn(dns::serve_udp(Rc::clone(&worker), socket));
        }
        worker.keep().await;
    };
    unless(stop, accept).await;
    worker.end().await;
}
