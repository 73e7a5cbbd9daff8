//! What runs for a workload besides its traffic: records, admin, probe, and how it leaves.

use std::cell::RefCell;
use std::future::pending;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicI64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};

use crate::control::{self, ControlSettings, Host, Outgoing};
use crate::listen::Closing;
use crate::shared::{Shared, turns_true};
use crate::sockets::Held;
use crate::takeover::{self, Meeting, Successor};
use crate::timer::{Deadline, micros, now_us, until, within};
use crate::tls::Identity;
use crate::{admin, probe};

/// How long closing is announced before connections are closed: new requests still come after the
/// control plane was told, and a client that reads `connection: close` opens the next one elsewhere.
pub(crate) const LAME_DUCK: Duration = Duration::from_millis(500);
/// How long idle connections are kept for a request that can be told so, when a successor accepts
/// already; at most half of the time there is.
pub(crate) const ANNOUNCE_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether the last connection has closed.
pub(crate) const DRAIN_CHECK: Duration = Duration::from_millis(20);
/// How long the record stream gets for what is waited for: what a successor reads to be on the
/// disk, or the control plane to hear the last numbers.
pub(crate) const STREAM_TIME: Duration = Duration::from_secs(2);
/// How often idle services are looked for.
pub(crate) const IDLE_CHECK: Duration = Duration::from_secs(30);

/// What the house needs besides the shared state.
#[derive(Debug)]
pub(crate) struct House {
    /// The listener of the admin endpoint.
    pub(crate) admin: TcpListener,
    /// What a successor may ask for.
    pub(crate) held: Held,
    /// Whom this process succeeds.
    pub(crate) predecessor: Option<UnixStream>,
    /// The control plane, and who we are to it.
    pub(crate) control: Option<(ControlSettings, Identity)>,
    /// What the control plane is to be told.
    pub(crate) outgoing: mpsc::Receiver<Outgoing>,
}

impl Shared {
    /// Drain what comes in; then, what the application calls.
    pub fn drain(&self) {
        self.ending.send_replace(true);
        self.drain_inbound();
    }

    /// Drain what comes in: the control plane is told, traffic still flows. What the application
    /// calls is served until [`Shared::drain`].
    ///
    /// While a successor is about to serve, nobody else would: then this comes when it does, or has
    /// failed to.
    pub fn drain_inbound(&self) {
        self.asked_to_drain.store(true, SeqCst);
        if !self.handing_over.load(SeqCst) {
            self.begin_to_drain();
        }
    }

    /// Whether a successor has asked for the sockets, and has not failed to serve yet.
    pub(crate) fn hands_over(&self, handing: bool) {
        self.handing_over.store(handing, SeqCst);
        if !handing && self.asked_to_drain.load(SeqCst) {
            self.begin_to_drain();
        }
    }

    fn begin_to_drain(&self) {
        self.leaving.store(true, Relaxed);
        let before = self.draining.send_replace(true);
        // Once a successor serves, it alone tells whether the workload is ready.
        if !before && *self.closing.borrow() != Closing::HandedOver {
            self.status_changed();
        }
    }
}

/// Keep house until dropped.
pub(crate) async fn keep(shared: Arc<Shared>, house: House) {
    let House {
        admin,
        held,
        predecessor,
        control,
        outgoing,
    } = house;
    let held = RefCell::new(held);
    let settings = control.as_ref().map(|(settings, _)| settings.clone());
    let released = watch::Sender::new(false);
    let administrate = async {
        if let Ok(listener) = tokio::net::TcpListener::from_std(admin) {
            let endpoint = Arc::clone(&shared) as Arc<dyn admin::Admin>;
            tokio::select! {
                () = admin::serve(listener, endpoint) => {}
                () = turns_true(&released) => {}
            }
        }
    };
    let follow = async {
        tokio::select! {
            () = follow(&shared, control, outgoing, predecessor) => {}
            () = turns_true(&released) => {}
        }
    };
    let ask = async {
        if let Some(probe) = shared.settings.probe.clone() {
            probe::run(Arc::clone(&shared), probe).await;
        }
    };
    let forget = async {
        loop {
            Deadline::after(IDLE_CHECK).await;
            shared.drop_idle_services();
        }
    };
    let leave = async {
        tokio::select! {
            biased;
            successor = successor(&shared, &held) => {
                hand_over(&shared, &held, successor, &released).await;
                report_rest(&shared, settings.as_ref()).await;
                drained(&shared);
            }
            () = turns_true(&shared.draining) => drain(&shared, &held).await,
        }
    };
    tokio::join!(administrate, follow, ask, forget, leave);
}

/// Begin to serve with what is known already, then follow the control plane.
async fn follow(
    shared: &Arc<Shared>,
    control: Option<(ControlSettings, Identity)>,
    outgoing: mpsc::Receiver<Outgoing>,
    predecessor: Option<UnixStream>,
) {
    let serve = async {
        if predecessor.as_ref().is_some_and(takeover::is_withdrawn) {
            let error = "the running sidecar has waited for too long, and serves on";
            shared.event(json!({"event": "failed", "what": "takeover", "error": error}));
            drained(shared);
            return pending().await;
        }
        shared.begin();
        shared.event(json!({"event": "serving"}));
        if let Some(predecessor) = predecessor {
            // When it is gone, its record stream is, too.
            let _released = takeover::succeed(predecessor).await;
        }
    };
    match control {
        Some((settings, identity)) => {
            let host = Arc::clone(shared) as Arc<dyn Host>;
            control::run(host, settings, identity, outgoing, serve).await;
        }
        None => serve.await,
    }
}

/// When a successor serves.
async fn successor(shared: &Shared, held: &RefCell<Held>) -> Successor {
    let Some(dir) = &shared.settings.state_dir else {
        return pending().await;
    };
    // Only whoever serves can be succeeded, and a predecessor holds the meeting until then.
    turns_true(&shared.loaded).await;
    let meeting = match Meeting::open(dir) {
        Ok(meeting) => meeting,
        Err(error) => {
            shared
                .event(json!({"event": "failed", "what": "takeover", "error": error.to_string()}));
            return pending().await;
        }
    };
    let offer = async || {
        // A successor that reads an older state still serves, and learns the rest later.
        tell(shared, Outgoing::Flush).await;
        (shared.is_app_ready(), held.borrow().handles())
    };
    meeting
        .successor(offer, |handing| shared.hands_over(handing))
        .await
}

/// A successor serves: accept nothing more, announce it, give up the record stream, and wait for
/// the open connections.
async fn hand_over(
    shared: &Shared,
    held: &RefCell<Held>,
    successor: Successor,
    released: &watch::Sender<bool>,
) {
    shared.event(json!({"event": "handed-over"}));
    held.take();
    shared.closing.send_replace(Closing::HandedOver);
    shared.leaving.store(true, Relaxed);
    let open = &shared.metrics.connections;
    let left = Duration::from_secs(shared.settings.drain_seconds);
    let from_now = |time| now_us().saturating_add(micros(time));
    let (announced, end) = (from_now(ANNOUNCE_MAX.min(left / 2)), from_now(left));
    // What is asked meanwhile on open connections may still need a record.
    Deadline::after(LAME_DUCK).await;
    tell(shared, Outgoing::Leave).await;
    released.send_replace(true);
    successor.release().await;
    all_closed(open, announced).await;
    close(shared, Closing::All, open, end).await;
}

/// Tell the control plane what was answered after the stream was given up. Not by way of the
/// successor, which may have ended, or given way to another one.
async fn report_rest(shared: &Shared, settings: Option<&ControlSettings>) {
    let Some((settings, identity)) = settings.zip(shared.identity()) else {
        return;
    };
    let workload = shared.description.get();
    let body = json!({"workload": workload, "report": shared.make_report()});
    if let Err(error) = control::report_rest(settings, &identity, &body).await {
        shared.event(json!({"event": "refused", "name": "report", "error": error}));
    }
}

/// Let new requests run out, close, and wait for the open ones. What comes in ends first; what the
/// application calls, when it was asked for that, too.
async fn drain(shared: &Shared, held: &RefCell<Held>) {
    Deadline::after(LAME_DUCK).await;
    let left_us = micros(Duration::from_secs(shared.settings.drain_seconds));
    let mut end = now_us().saturating_add(left_us);
    held.borrow_mut().inbound.clear();
    close(shared, Closing::Inbound, &shared.inbound_connections, end).await;
    shared.event(json!({"event": "inbound-drained"}));
    if !*shared.ending.borrow() {
        turns_true(&shared.ending).await;
        end = now_us().saturating_add(left_us);
    }
    held.take();
    close(shared, Closing::All, &shared.metrics.connections, end).await;
    tell(shared, Outgoing::Leave).await;
    drained(shared);
}

/// Tell the record stream, where there is one, and wait until it is done, or takes too long.
async fn tell(shared: &Shared, message: impl FnOnce(Arc<Notify>) -> Outgoing) {
    if shared.settings.control.is_some() {
        let done = Arc::new(Notify::new());
        shared.tell(message(Arc::clone(&done)));
        let _late = within(STREAM_TIME, pin!(done.notified())).await;
    }
}

/// Ask connections to end, and wait for those that `open` counts; at most until `end_us`.
async fn close(shared: &Shared, closing: Closing, open: &AtomicI64, end_us: u64) {
    shared.closing.send_replace(closing);
    all_closed(open, end_us).await;
}

/// When nothing is `open` any more; at `end_us`, if something is.
async fn all_closed(open: &AtomicI64, end_us: u64) {
    let closed = async {
        while open.load(Relaxed) > 0 {
            Deadline::after(DRAIN_CHECK).await;
        }
    };
    let _in_time = until(end_us, pin!(closed)).await;
}

fn drained(shared: &Shared) {
    let open = shared.metrics.connections.load(Relaxed);
    shared.event(json!({"event": "drained", "open": open}));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It begins on the stack of its thread, and lives as long as the sidecar.
    #[test]
    fn what_keeps_house_is_small() {
        fn size<A, B, R>(_: fn(A, B) -> R) -> usize {
            size_of::<R>()
        }
        let size = size(keep);
        assert!(size <= 16 * 1024, "{size}");
    }
}
