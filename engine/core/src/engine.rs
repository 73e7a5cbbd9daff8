//! The data plane of one workload: bind, join, start, feed, drain, stop.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::{Builder, LocalOptions};
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
use crate::tls::{Identity, SpiffeId};
use crate::worker::Worker;

/// Stack of a thread of ours; requests live on the heap.
const STACK_BYTES: usize = 512 * 1024;

/// The data plane of one workload.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    workload: Value,
    addresses: Value,
    ready: Mutex<Option<Ready>>,
    joined: Mutex<Option<Identity>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: watch::Sender<bool>,
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
    settings
        .dns
        .iter()
        .copied()
        .map(intercept::bind_udp)
        .collect()
}

impl Engine {
    /// Read settings (JSON) and bind all listeners; nothing is accepted before [`Engine::start`].
    ///
    /// # Errors
    /// Settings that are wrong, or an address that cannot be bound.
    pub fn bind(settings: &[u8]) -> Result<Engine, String> {
        let settings = Settings::parse(settings)?;
        let (shared, outgoing) = Shared::new(settings)?;
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
        Ok(Engine {
            workload,
            addresses,
            ready: Mutex::new(Some(Ready {
                listeners: sockets.listeners,
                dns,
                admin,
                held: sockets.held,
                predecessor,
                outgoing,
            })),
            joined: Mutex::new(None),
            threads: Mutex::default(),
            stopping: watch::Sender::new(false),
            shared,
        })
    }

    /// Where the listeners are, as JSON.
    pub fn addresses(&self) -> Vec<u8> {
        self.addresses.to_string().into_bytes()
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
        let settings = self
            .control_settings()?
            .ok_or("there is no control plane in the settings")?;
        let joined = control::join(&settings, &self.workload, token, roots_pem, timeout)?;
        let how = match &joined {
            Joined::Fresh(_) => "joined",
            Joined::Cached(_) => "cached",
        };
        *lock(&self.joined) = Some(joined.into_identity());
        Ok(how)
    }

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

    /// Start the threads: from here on connections are accepted.
    ///
    /// # Errors
    /// It was started already, or a thread cannot be made.
    pub fn start(&self) -> Result<(), String> {
        let Ready {
            listeners,
            mut dns,
            admin,
            held,
            predecessor,
            outgoing,
        } = lock(&self.ready)
            .take()
            .ok_or("the engine was started already")?;
        let identity = lock(&self.joined).take();
        if let Some(identity) = &identity {
            self.shared.set_identity(identity.clone())?;
        }
        let control = self.control_settings()?.zip(identity);
        let mut threads = lock(&self.threads);
        for (index, listeners) in listeners.into_iter().enumerate() {
            let (shared, stopping) = (Arc::clone(&self.shared), self.stopping.subscribe());
            // Few questions are asked: one thread answers them.
            let dns = std::mem::take(&mut dns);
            let run = move || carry_traffic(&shared, listeners, dns, stopping);
            threads.push(spawn(format!("tulle-worker-{index}"), run)?);
        }
        let (shared, stopping) = (Arc::clone(&self.shared), self.stopping.subscribe());
        let house = House {
            admin,
            held,
            predecessor,
            control,
            outgoing,
        };
        let run = move || keep_house(shared, house, stopping);
        threads.push(spawn("tulle-control".to_owned(), run)?);
        Ok(())
    }

    /// Put a record in force.
    ///
    /// # Errors
    /// Why it cannot be; the previous one stays.
    pub fn apply(&self, name: &str, data: &[u8]) -> Result<(), String> {
        self.shared.apply(name, "", data)
    }

    /// Set the identity by hand, where there is no control plane.
    ///
    /// # Errors
    /// PEM that cannot be read, or another workload's certificate.
    pub fn set_identity(&self, chain: &str, key: &str, roots: &str) -> Result<(), String> {
        let identity =
            Identity::from_pem(chain, key, &[roots]).map_err(|error| error.to_string())?;
        self.shared.set_identity(identity)
    }

    /// The next event as JSON, waiting at most `timeout`.
    pub fn next_event(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.shared
            .next_event(timeout)
            .map(|event| event.to_string().into_bytes())
    }

    /// Counters and records as JSON.
    pub fn stats(&self) -> Vec<u8> {
        self.shared.stats().to_string().into_bytes()
    }

    /// The decision path of a described request, JSON in and out.
    pub fn resolve(&self, request: &[u8]) -> Vec<u8> {
        self.shared.resolve(request)
    }

    /// Begin to drain; the event `drained` says that nothing is open any more.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Drain what comes in alone; the event `inbound-drained` says that it has ended. The
    /// application can call others until [`Engine::drain`].
    pub fn drain_inbound(&self) {
        self.shared.drain_inbound();
    }

    /// Stop all threads. Open connections break unless they were drained.
    pub fn stop(&self) {
        self.shared.closing.send_replace(Closing::All);
        self.stopping.send_replace(true);
        for thread in lock(&self.threads).drain(..) {
            // A thread that panicked has said so on standard error.
            let _ended = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new()
        .name(name.clone())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(|error| format!("thread {name}: {error}"))
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

/// The life of a request thread.
fn carry_traffic(
    shared: &Arc<Shared>,
    listeners: Vec<(Purpose, TcpListener)>,
    dns: Vec<UdpSocket>,
    mut stopping: watch::Receiver<bool>,
) {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            shared.event(json!({"event": "failed", "what": "worker", "error": error.to_string()}));
            return;
        }
    };
    runtime.block_on(async {
        let accept = async {
            let worker = Worker::new(Arc::clone(shared));
            // With no record it would refuse whom it lets in as soon as it has read the disk.
            turns_true(&shared.loaded).await;
            for (purpose, listener) in listeners {
                tokio::task::spawn_local(listen::serve(worker.clone(), purpose, listener));
            }
            for socket in dns {
                tokio::task::spawn_local(dns::serve_udp(worker.clone(), socket));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = accept => {}
            // An error means that the engine is gone, which is a reason to stop, too.
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
}

/// The life of the thread for all that is no request.
fn keep_house(shared: Arc<Shared>, house: House, mut stopping: watch::Receiver<bool>) {
    let runtime = match Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            shared.event(json!({"event": "failed", "what": "control", "error": error.to_string()}));
            return;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = house::keep(shared, house) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
}
