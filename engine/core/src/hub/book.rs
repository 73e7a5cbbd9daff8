//! Who subscribes to what, and what the hub holds: pure bookkeeping, no I/O.
//!
//! A name is in the book as long as somebody subscribes to it. Nothing is kept for names without
//! subscribers, so the book can never answer a new one with a record that Python stopped
//! updating: it asks again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::outbox::Outbox;
use super::wire;

/// A peer's number, unique for the life of the hub.
pub(super) type PeerId = u64;

/// What a subscription led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subscribed {
    /// The hub does not hold the name: Python has to be asked.
    Ask,
    /// The hub holds it, or has asked already.
    Settled,
    /// The peer has as many subscriptions as it may have.
    TooMany,
}

enum Held {
    /// Python said `forget`: the next subscriber makes the hub ask.
    Forgotten,
    /// Python was asked and has not answered.
    Asked,
    Absent,
    Present {
        version: Arc<str>,
        frame: Bytes,
    },
}

/// What a subscriber has, or will have once its outbox is read.
#[derive(PartialEq, Eq)]
enum Has {
    /// What it said when it subscribed, or nothing. It waits for an answer.
    Claims(Option<Arc<str>>),
    Version(Arc<str>),
    Absence,
}

struct Record {
    held: Held,
    subscribers: HashMap<PeerId, Has>,
}

struct Peer {
    outbox: Arc<Outbox>,
    names: HashSet<Arc<str>>,
}

#[derive(Default)]
pub(super) struct Book {
    records: HashMap<Arc<str>, Record>,
    peers: HashMap<PeerId, Peer>,
    bytes: usize,
    subscriptions: usize,
}

/// Sizes of the book, for statistics.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) peers: usize,
    pub(super) names: usize,
    pub(super) subscriptions: usize,
    pub(super) bytes: usize,
}

impl Book {
    pub(super) fn join(&mut self, peer: PeerId, outbox: Arc<Outbox>) {
        let names = HashSet::new();
        self.peers.insert(peer, Peer { outbox, names });
    }

    /// Remove a peer. Returns the names that lost their last subscriber.
    pub(super) fn leave(&mut self, peer: PeerId) -> Vec<Arc<str>> {
        let Some(gone) = self.peers.remove(&peer) else {
            return Vec::new();
        };
        let drop_if_last = |name: Arc<str>| self.drop_subscriber(peer, &name).then_some(name);
        gone.names.into_iter().filter_map(drop_if_last).collect()
    }

    pub(super) fn outbox(&self, peer: PeerId) -> Option<&Arc<Outbox>> {
        self.peers.get(&peer).map(|peer| &peer.outbox)
    }

    /// Subscribe a peer that holds `version` of the record, or nothing.
    ///
    /// Subscribing again to the same name states anew what the peer holds.
    pub(super) fn subscribe(
        &mut self,
        peer: PeerId,
        name: &str,
        version: Option<&str>,
        names_max: usize,
    ) -> Subscribed {
        let Some(subscriber) = self.peers.get_mut(&peer) else {
            return Subscribed::Settled;
        };
        let name: Arc<str> = match self.records.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(name),
        };
        if !subscriber.names.contains(&name) {
            if subscriber.names.len() >= names_max {
                return Subscribed::TooMany;
            }
            subscriber.names.insert(Arc::clone(&name));
            self.subscriptions += 1;
        }
        let record = self
            .records
            .entry(Arc::clone(&name))
            .or_insert_with(|| Record {
                held: Held::Forgotten,
                subscribers: HashMap::new(),
            });
        let mut has = Has::Claims(version.map(Arc::from));
        answer(&name, &record.held, &mut has, &subscriber.outbox);
        record.subscribers.insert(peer, has);
        if matches!(record.held, Held::Forgotten) {
            record.held = Held::Asked;
            return Subscribed::Ask;
        }
        Subscribed::Settled
    }

    /// End a subscription. True when it was the last one of the name.
    pub(super) fn unsubscribe(&mut self, peer: PeerId, name: &str) -> bool {
        let Some(subscriber) = self.peers.get_mut(&peer) else {
            return false;
        };
        if !subscriber.names.remove(name) {
            return false;
        }
        subscriber.outbox.clear(name);
        self.drop_subscriber(peer, name)
    }

    /// Give every subscriber this version. Without subscribers nothing is kept.
    pub(super) fn publish(&mut self, name: &str, version: &str, frame: Bytes) {
        let version = Arc::from(version);
        self.hold(name, Held::Present { version, frame });
    }

    /// Tell every subscriber that there is no such record.
    pub(super) fn withdraw(&mut self, name: &str) {
        self.hold(name, Held::Absent);
    }

    /// Drop the bytes of a record without telling anybody.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(record) = self.records.get_mut(name) {
            self.bytes -= size(&record.held);
            record.held = Held::Forgotten;
        }
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            peers: self.peers.len(),
            names: self.records.len(),
            subscriptions: self.subscriptions,
            bytes: self.bytes,
        }
    }

    fn hold(&mut self, name: &str, held: Held) {
        let Some((name, _)) = self.records.get_key_value(name) else {
            return;
        };
        let name = Arc::clone(name);
        let Some(record) = self.records.get_mut(&name) else {
            return;
        };
        self.bytes = self.bytes - size(&record.held) + size(&held);
        record.held = held;
        for (peer, has) in &mut record.subscribers {
            if let Some(peer) = self.peers.get(peer) {
                answer(&name, &record.held, has, &peer.outbox);
            }
        }
    }

    fn drop_subscriber(&mut self, peer: PeerId, name: &str) -> bool {
        self.subscriptions -= 1;
        let Some(record) = self.records.get_mut(name) else {
            return false;
        };
        record.subscribers.remove(&peer);
        let last = record.subscribers.is_empty();
        if last {
            self.bytes -= size(&record.held);
            self.records.remove(name);
        }
        last
    }
}

/// Bring one subscriber to what the hub holds, if it is not there yet.
fn answer(name: &Arc<str>, held: &Held, has: &mut Has, outbox: &Outbox) {
    match held {
        Held::Forgotten | Held::Asked => {}
        Held::Absent if *has == Has::Absence => {}
        Held::Absent => {
            outbox.put(name, wire::absent(name));
            *has = Has::Absence;
        }
        Held::Present { version, frame } => {
            match has {
                Has::Version(sent) if sent == version => return,
                Has::Claims(Some(claimed)) if claimed == version => {
                    outbox.put(name, wire::unchanged(name, version));
                }
                _ => outbox.put(name, frame.clone()),
            }
            *has = Has::Version(Arc::clone(version));
        }
    }
}

fn size(held: &Held) -> usize {
    match held {
        Held::Present { frame, .. } => frame.len(),
        Held::Forgotten | Held::Asked | Held::Absent => 0,
    }
}
