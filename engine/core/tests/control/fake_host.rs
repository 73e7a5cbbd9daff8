//! A sidecar without a data plane: it holds records and remembers what it was told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc as async_mpsc};
use tulle_engine::control::{self, ControlSettings, Host, Outgoing, Timing};
use tulle_engine::tls::{Identity, SpiffeId};

use crate::fake_hub::PATIENCE;

pub(crate) const WEB: &str = "spiffe://tulle.local/ns/shop/sa/web";

#[derive(Default)]
pub(crate) struct Told {
    /// Version and text by name.
    pub(crate) records: BTreeMap<String, (String, String)>,
    pub(crate) applied: u32,
    pub(crate) identities: Vec<Identity>,
    pub(crate) taps: Vec<u64>,
    pub(crate) connected: bool,
}

pub(crate) struct FakeHost {
    wanted: Vec<String>,
    told: Mutex<Told>,
    report_due: Mutex<bool>,
    events: mpsc::Sender<Value>,
}

impl FakeHost {
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// There is something new to report.
    pub(crate) fn count(&self) {
        *self.report_due.lock().unwrap() = true;
    }
}

impl Host for FakeHost {
    fn apply(&self, name: &str, version: &str, bytes: &[u8]) -> Result<(), String> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        if text.contains("mistake") {
            return Err("unknown field `mistake`".to_owned());
        }
        if text.contains("at length") {
            return Err(text.repeat(100));
        }
        let mut told = self.told();
        told.applied += 1;
        told.records
            .insert(name.to_owned(), (version.to_owned(), text));
        Ok(())
    }

    fn absent(&self, name: &str) {
        self.told().records.remove(name);
    }

    fn wanted(&self) -> Vec<String> {
        self.wanted.clone()
    }

    fn set_identity(&self, identity: Identity) -> Result<(), String> {
        self.told().identities.push(identity);
        Ok(())
    }

    fn status(&self) -> (bool, bool) {
        (true, false)
    }

    fn hello(&self) -> Value {
        json!({"workload": workload(), "pid": 7, "version": "0.1.0", "admin": null})
    }

    fn report(&self) -> Option<Vec<u8>> {
        let due = std::mem::take(&mut *self.report_due.lock().unwrap());
        due.then(|| b"{\"edges\":[]}".to_vec())
    }

    fn resolve(&self, request: &[u8]) -> Vec<u8> {
        let request: Value = serde_json::from_slice(request).unwrap();
        json!({"outcome": "forward", "of": request["path"]})
            .to_string()
            .into_bytes()
    }

    fn tap(&self, id: u64, filter: &[u8]) -> Result<(), String> {
        let filter: Value = serde_json::from_slice(filter).unwrap();
        if filter["max"].is_null() {
            return Err("max is missing".to_owned());
        }
        self.told().taps.push(id);
        Ok(())
    }

    fn untap(&self, id: u64) {
        self.told().taps.retain(|open| *open != id);
    }

    fn connected(&self, connected: bool) {
        self.told().connected = connected;
        *self.report_due.lock().unwrap() = connected;
    }

    fn event(&self, event: Value) {
        // A test that is over does not listen.
        let _ = self.events.send(event);
    }
}

pub(crate) fn workload() -> Value {
    json!({"namespace": "shop", "name": "web-1", "service_account": "web", "labels": {},
           "zone": null, "address": "127.0.0.1", "ports": []})
}

pub(crate) fn settings(address: &str, state_dir: Option<&Path>) -> ControlSettings {
    let id = SpiffeId::parse(WEB).unwrap();
    let state_dir = state_dir.map(Path::to_path_buf);
    let mut settings = ControlSettings::new(address, id, state_dir).unwrap();
    settings.timing = Timing {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        report_every: Duration::from_millis(20),
        ..Timing::default()
    };
    settings
}

/// The control thread of a sidecar.
pub(crate) struct Sidecar {
    pub(crate) host: Arc<FakeHost>,
    outgoing: Option<async_mpsc::Sender<Outgoing>>,
    events: mpsc::Receiver<Value>,
    thread: Option<JoinHandle<()>>,
}

impl Sidecar {
    pub(crate) fn start(settings: ControlSettings, identity: Identity, wanted: &[&str]) -> Self {
        let (events, heard) = mpsc::channel();
        let host = Arc::new(FakeHost {
            wanted: wanted.iter().map(|name| (*name).to_owned()).collect(),
            told: Mutex::default(),
            report_due: Mutex::default(),
            events,
        });
        let (outgoing, queue) = async_mpsc::channel(64);
        let running: Arc<dyn Host> = host.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(control::run(running, settings, identity, queue, async {}));
        });
        Self {
            host,
            outgoing: Some(outgoing),
            events: heard,
            thread: Some(thread),
        }
    }

    pub(crate) fn say(&self, outgoing: Outgoing) {
        let sender = self.outgoing.as_ref().unwrap();
        sender.blocking_send(outgoing).unwrap();
    }

    /// The next event of that name; others are passed over.
    pub(crate) fn event(&self, name: &str) -> Value {
        self.event_among(&[name])
    }

    /// The next event of one of those names.
    pub(crate) fn event_among(&self, names: &[&str]) -> Value {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.unwrap_or_else(|_| panic!("no event {names:?}"));
            if names.iter().any(|name| event["event"] == *name) {
                return event;
            }
        }
    }

    /// Events that came and were not looked at.
    pub(crate) fn other_events(&self) -> Vec<Value> {
        self.events.try_iter().collect()
    }

    /// Ends, so that everything is on disk.
    pub(crate) fn stop(mut self) -> Arc<FakeHost> {
        self.end();
        self.host.clone()
    }

    fn end(&mut self) {
        drop(self.outgoing.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether it is notified within a time.
pub(crate) fn is_told(notify: &Notify, within: Duration) -> bool {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let told = async {
        tokio::time::timeout(within, notify.notified())
            .await
            .is_ok()
    };
    runtime.enable_time().build().unwrap().block_on(told)
}
