//! What the hub's thread and Python's threads share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use super::book::{Book, PeerId};
use super::events::{Event, Events};
use super::limits::Limits;
use crate::tls::Roots;

/// What Python answers to a join, a renewal or a last report.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// Things that are only counted.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicUsize,
    pub(super) handshakes: AtomicUsize,
    pub(super) accepted: AtomicU64,
    /// Connections closed at once because there were too many.
    pub(super) refused_connections: AtomicU64,
    pub(super) failed_handshakes: AtomicU64,
    /// Subscriptions to another workload's record.
    pub(super) refused_subscriptions: AtomicU64,
    /// Joins, renewals and last reports answered 503.
    pub(super) refused_requests: AtomicU64,
    pub(super) published: AtomicU64,
}

/// Whom new connections see, and whom they trust.
#[derive(Clone)]
pub(super) struct Trust {
    pub(super) config: Arc<ServerConfig>,
    pub(super) roots: Roots,
    /// Grows whenever a root is taken away: who was let in before has to come again.
    pub(super) generation: u64,
}

pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) events: Events,
    pub(super) counters: Counters,
    /// `None` until there is an identity; from then on never again.
    pub(super) trust: watch::Sender<Option<Trust>>,
    /// Set once the hub stops: how long connections may take to finish.
    pub(super) stopping: watch::Sender<Option<Duration>>,
    book: Mutex<Book>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    next_id: AtomicU64,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            events: Events::new(limits.events),
            limits,
            counters: Counters::default(),
            trust: watch::Sender::new(None),
            stopping: watch::Sender::new(None),
            book: Mutex::new(Book::default()),
            waiting: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(1),
        }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number never used before, for peers and requests.
    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Register a request that waits for Python; `None` when too many do.
    pub(super) fn wait_for_reply(&self) -> Option<Waiting<'_>> {
        let mut waiting = self.waiting();
        if waiting.len() >= self.limits.requests_waiting {
            return None;
        }
        let (sender, reply) = oneshot::channel();
        let id = self.new_id();
        waiting.insert(id, sender);
        Some(Waiting {
            state: self,
            id,
            reply,
        })
    }

    /// Answer a waiting request. False when it does not wait any more.
    pub(super) fn reply(&self, request: u64, reply: Reply) -> bool {
        let sender = self.waiting().remove(&request);
        sender.is_some_and(|sender| sender.send(reply).is_ok())
    }

    /// Say goodbye to one peer. False when it is gone already.
    pub(super) fn disconnect(&self, peer: PeerId, reason: &str) -> bool {
        let book = self.book();
        let outbox = book.outbox(peer);
        outbox.inspect(|outbox| outbox.end(reason));
        outbox.is_some()
    }

    /// Take over a new identity.
    pub(super) fn set_trust(&self, config: Arc<ServerConfig>, roots: &Roots) {
        self.trust.send_modify(|trust| {
            let generation = match &*trust {
                None => 0,
                Some(old) if roots.include(&old.roots) => old.generation,
                Some(old) => old.generation + 1,
            };
            let roots = roots.clone();
            *trust = Some(Trust {
                config,
                roots,
                generation,
            });
        });
    }

    pub(super) fn stats(&self) -> Value {
        let sizes = self.book().sizes();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        json!({
            "connections": counters.connections.load(Ordering::Relaxed),
            "handshakes": counters.handshakes.load(Ordering::Relaxed),
            "accepted": count(&counters.accepted),
            "refused_connections": count(&counters.refused_connections),
            "failed_handshakes": count(&counters.failed_handshakes),
            "refused_subscriptions": count(&counters.refused_subscriptions),
            "refused_requests": count(&counters.refused_requests),
            "published": count(&counters.published),
            "peers": sizes.peers,
            "names": sizes.names,
            "subscriptions": sizes.subscriptions,
            "record_bytes": sizes.bytes,
            "requests_waiting": self.waiting().len(),
            "events_queued": self.events.queued(),
            "events_dropped": self.events.dropped(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Reply>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place among those that wait; given up when dropped.
pub(super) struct Waiting<'a> {
    state: &'a State,
    pub(super) id: u64,
    pub(super) reply: oneshot::Receiver<Reply>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.state.waiting().remove(&self.id);
    }
}

/// An event with this JSON body.
pub(super) fn event(kind: &'static str, body: &Value) -> Event {
    let body = body.to_string().into_bytes();
    Event { kind, body }
}
