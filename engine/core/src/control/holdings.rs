//! What the sidecar holds and wants: every decision of the record stream, and no socket.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cache::Cache;
use super::frame::{self, Frame, Kind, Record};
use super::host::Outgoing;
use super::keyring::Keyring;

/// Names one sidecar subscribes to; what a hub accepts.
const MAX_NAMES: usize = 4096;
/// Taps at a time.
const MAX_TAPS: usize = 16;
/// Characters of a reason that are sent to the control plane.
const MAX_REASON_CHARS: usize = 1024;

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Unchanged {
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct Tap {
    id: u64,
    filter: Value,
}

#[derive(Deserialize)]
struct Untap {
    id: u64,
}

#[derive(Deserialize)]
struct Resolve {
    id: u64,
    request: Value,
}

#[derive(Deserialize)]
struct Goodbye {
    reason: String,
}

#[derive(Deserialize)]
struct Trust {
    roots_pem: Vec<String>,
}

/// Records by name and version, subscriptions, and taps.
pub(super) struct Holdings {
    keyring: Rc<Keyring>,
    cache: Cache,
    cache_failed: bool,
    /// The versions in force.
    versions: BTreeMap<String, String>,
    wanted: BTreeSet<String>,
    taps: BTreeSet<u64>,
}

impl Holdings {
    /// Applies what the disk has.
    pub(super) fn load(keyring: Rc<Keyring>, cache: Cache) -> Self {
        let (records, problems) = cache.load();
        let mut holdings = Self {
            keyring,
            cache,
            cache_failed: false,
            versions: BTreeMap::new(),
            wanted: BTreeSet::new(),
            taps: BTreeSet::new(),
        };
        for error in problems {
            holdings.event(json!({"event": "cache", "error": error}));
        }
        for record in records {
            // A record of an older program may not fit this one: the hub will send it anew.
            match holdings.put_in_force(&record) {
                Ok(()) => {
                    holdings.versions.insert(record.name, record.version);
                }
                Err(error) => {
                    let error = format!("{}: {error}", record.name);
                    holdings.event(json!({"event": "cache", "error": error}));
                    holdings.cache.remove(&record.name);
                }
            }
        }
        holdings
    }

    /// The frames that open a stream, after the hello: subscriptions, then the status.
    pub(super) fn opening(&mut self) -> Vec<Bytes> {
        self.wanted.extend(self.keyring.host().wanted());
        self.wanted.extend(self.versions.keys().cloned());
        let mut frames: Vec<_> = self
            .wanted
            .iter()
            .take(MAX_NAMES)
            .filter_map(|name| self.subscribe(name))
            .collect();
        frames.extend(self.status());
        frames
    }

    pub(super) fn hello(&self) -> Option<Bytes> {
        self.encode(Kind::Hello, &self.keyring.host().hello())
    }

    pub(super) fn report(&self) -> Option<Bytes> {
        let report = self.keyring.host().report()?;
        self.encode_bytes(Kind::Report, &report)
    }

    /// Notes what the engine says; the frame to send, if there is one.
    pub(super) fn say(&mut self, outgoing: Outgoing) -> Option<Bytes> {
        match outgoing {
            Outgoing::Subscribe(name) => {
                if self.wanted.contains(&name) {
                    return None;
                }
                if self.wanted.len() >= MAX_NAMES {
                    let error = format!("already subscribed to {MAX_NAMES} records");
                    self.event(json!({"event": "refused", "name": name, "error": error}));
                    return None;
                }
                let frame = self.subscribe(&name);
                self.wanted.insert(name);
                frame
            }
            Outgoing::Unsubscribe(name) => {
                self.versions.remove(&name);
                self.cache.remove(&name);
                self.wanted.remove(&name).then_some(())?;
                self.encode(Kind::Unsubscribe, &json!({"name": name}))
            }
            Outgoing::Status => self.status(),
            Outgoing::Flush(done) => {
                // What fails is tried, and reported, again with the next flush.
                while self.cache.flush().is_ok() && self.cache.waits() {}
                done.notify_one();
                None
            }
            // Whoever holds the stream ends it.
            Outgoing::Leave(_) => None,
            Outgoing::Tap { id, entry } => {
                self.taps.contains(&id).then_some(())?;
                self.encode_with(Kind::TapEntry, id, "entry", &entry)
            }
        }
    }

    /// Does what the hub says; the frame to answer with, if there is one.
    ///
    /// An error ends the stream: the hub said goodbye, or something that makes no sense.
    pub(super) fn react(&mut self, frame: Frame) -> Result<Option<Bytes>, String> {
        let Frame { kind, payload } = frame;
        Ok(match kind {
            Kind::Record => {
                let record = Record::parse(payload).map_err(|error| error.to_string())?;
                self.take(record)
            }
            Kind::Unchanged => {
                let Unchanged { name, version } = parse(kind, &payload)?;
                if !self.wanted.contains(&name) {
                    return Ok(None);
                }
                if self.versions.get(&name) == Some(&version) {
                    // A control plane that was away learns by it what is in force here.
                    let ack = json!({"name": name, "version": version});
                    return Ok(self.encode(Kind::Ack, &ack));
                }
                // Not the version we hold, so there is nothing it could be unchanged from.
                self.versions.remove(&name);
                self.subscribe(&name)
            }
            Kind::Absent => {
                let Named { name } = parse(kind, &payload)?;
                if self.wanted.contains(&name) {
                    self.versions.remove(&name);
                    self.cache.remove(&name);
                    self.keyring.host().absent(&name);
                }
                None
            }
            Kind::Tap => {
                let Tap { id, filter } = parse(kind, &payload)?;
                self.tap(id, &filter);
                None
            }
            Kind::Untap => {
                let Untap { id } = parse(kind, &payload)?;
                if self.taps.remove(&id) {
                    self.keyring.host().untap(id);
                }
                None
            }
            Kind::Resolve => {
                let Resolve { id, request } = parse(kind, &payload)?;
                let resolved = self.keyring.host().resolve(request.to_string().as_bytes());
                self.encode_with(Kind::Resolved, id, "result", &resolved)
            }
            Kind::Goodbye => {
                let Goodbye { reason } = parse(kind, &payload)?;
                return Err(format!("control plane said goodbye: {reason}"));
            }
            other => return Err(format!("a hub does not send {other:?} frames")),
        })
    }

    /// The stream is gone, and with it those who tapped.
    pub(super) fn stream_ended(&mut self) {
        for id in std::mem::take(&mut self.taps) {
            self.keyring.host().untap(id);
        }
    }

    /// Writes changed records to the disk; a failure is reported once.
    pub(super) fn flush(&mut self) {
        match self.cache.flush() {
            Ok(()) => self.cache_failed = false,
            Err(error) => {
                if !self.cache_failed {
                    let error = error.to_string();
                    self.event(json!({"event": "cache", "error": error}));
                }
                self.cache_failed = true;
            }
        }
    }

    fn take(&mut self, record: Record) -> Option<Bytes> {
        // Sent before our unsubscribe arrived.
        self.wanted.contains(&record.name).then_some(())?;
        let Record {
            name,
            version,
            data,
        } = &record;
        if let Err(error) = self.put_in_force(&record) {
            let error: String = error.chars().take(MAX_REASON_CHARS).collect();
            let refusal = json!({"name": name, "version": version, "error": error});
            let mut event = refusal.clone();
            event["event"] = json!("refused");
            self.event(event);
            return self.encode(Kind::Nack, &refusal);
        }
        self.cache.put(name, version, data.clone());
        let ack = self.encode(Kind::Ack, &json!({"name": name, "version": version}));
        self.versions.insert(record.name, record.version);
        ack
    }

    fn put_in_force(&self, record: &Record) -> Result<(), String> {
        let host = self.keyring.host();
        let domain = self.keyring.settings().id.trust_domain();
        if record.name.strip_prefix("trust/") != Some(domain) {
            return host.apply(&record.name, &record.version, &record.data);
        }
        let trust: Trust =
            serde_json::from_slice(&record.data).map_err(|error| error.to_string())?;
        host.apply(&record.name, &record.version, &record.data)?;
        self.keyring.replace_roots(trust.roots_pem)
    }

    fn tap(&mut self, id: u64, filter: &Value) {
        let started = if self.taps.len() >= MAX_TAPS {
            Err(format!("{MAX_TAPS} taps are open"))
        } else {
            let filter = filter.to_string();
            self.keyring.host().tap(id, filter.as_bytes())
        };
        match started {
            Ok(()) => {
                self.taps.insert(id);
            }
            Err(error) => {
                self.event(
                    json!({"event": "refused", "name": format!("tap {id}"), "error": error}),
                );
            }
        }
    }

    fn subscribe(&self, name: &str) -> Option<Bytes> {
        let version = self.versions.get(name);
        self.encode(Kind::Subscribe, &json!({"name": name, "version": version}))
    }

    fn status(&self) -> Option<Bytes> {
        let (ready, draining) = self.keyring.host().status();
        self.encode(Kind::Status, &json!({"ready": ready, "draining": draining}))
    }

    fn encode(&self, kind: Kind, payload: &Value) -> Option<Bytes> {
        self.encode_bytes(kind, payload.to_string().as_bytes())
    }

    /// `{"id": .., <field>: <json>}` around JSON that is text already.
    fn encode_with(&self, kind: Kind, id: u64, field: &str, json: &[u8]) -> Option<Bytes> {
        let mut payload = format!("{{\"id\":{id},\"{field}\":").into_bytes();
        payload.extend_from_slice(json);
        payload.push(b'}');
        self.encode_bytes(kind, &payload)
    }

    /// What is too large for a frame is reported and not sent; the stream goes on.
    fn encode_bytes(&self, kind: Kind, payload: &[u8]) -> Option<Bytes> {
        match frame::encode(kind, payload) {
            Ok(frame) => Some(frame),
            Err(error) => {
                let (name, error) = (format!("{kind:?}"), error.to_string());
                self.event(json!({"event": "refused", "name": name, "error": error}));
                None
            }
        }
    }

    fn event(&self, event: Value) {
        self.keyring.host().event(event);
    }
}

fn parse<'a, T: Deserialize<'a>>(kind: Kind, payload: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| format!("{kind:?} frame: {error}"))
}
