//! What waits to be written to one peer: a newest-wins slot per name.
//!
//! It is the body of the stream's response. hyper asks it for the next frame only while the peer
//! has window left, so a slow reader never has more than one frame waiting per name; a newer
//! record takes the place of the one that waits. Frames are shared bytes.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::Notify;

use super::wire;

#[derive(Default)]
struct State {
    commands: VecDeque<Bytes>,
    dirty: VecDeque<Arc<str>>,
    slots: HashMap<Arc<str>, Bytes>,
    goodbye: Option<Bytes>,
    /// Why the stream ends; from then on nothing is taken in.
    ended: Option<String>,
    waker: Option<Waker>,
}

pub(super) struct Outbox {
    state: Mutex<State>,
    ended: Notify,
    commands_max: usize,
}

impl Outbox {
    pub(super) fn new(commands_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            ended: Notify::new(),
            commands_max,
        })
    }

    /// Put a frame about a record in its slot, in the place of one that still waits there.
    pub(super) fn put(&self, name: &Arc<str>, frame: Bytes) {
        let mut state = self.lock();
        if state.ended.is_some() {
            return;
        }
        if state.slots.insert(Arc::clone(name), frame).is_none() {
            state.dirty.push_back(Arc::clone(name));
        }
        state.wake();
    }

    /// Take back what waits for a name.
    pub(super) fn clear(&self, name: &str) {
        let mut state = self.lock();
        if state.slots.remove(name).is_some() {
            state.dirty.retain(|dirty| &**dirty != name);
        }
    }

    /// Queue a tap, untap or resolve. False when the peer has too many unread, or is leaving.
    pub(super) fn command(&self, frame: Bytes) -> bool {
        let mut state = self.lock();
        if state.ended.is_some() || state.commands.len() >= self.commands_max {
            return false;
        }
        state.commands.push_back(frame);
        state.wake();
        true
    }

    /// Drop what waits, say goodbye, and end the body. The first reason counts.
    pub(super) fn end(&self, reason: &str) {
        let mut state = self.lock();
        if state.end(reason) {
            state.goodbye = Some(wire::goodbye(reason));
            state.wake();
            self.ended.notify_one();
        }
    }

    /// Wait until somebody ended the stream, or the peer stopped reading it. Returns why.
    pub(super) async fn wait_ended(&self) -> String {
        loop {
            if let Some(reason) = &self.lock().ended {
                return reason.clone();
            }
            self.ended.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// False when it has ended already.
    fn end(&mut self, reason: &str) -> bool {
        if self.ended.is_some() {
            return false;
        }
        self.commands.clear();
        self.dirty.clear();
        self.slots.clear();
        self.ended = Some(reason.to_owned());
        true
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(frame) = self.commands.pop_front() {
            return Some(frame);
        }
        if let Some(name) = self.dirty.pop_front() {
            return self.slots.remove(&name);
        }
        self.goodbye.take()
    }
}

/// The reading end of an outbox, as hyper writes it to the peer.
pub(super) struct OutboxBody(pub(super) Arc<Outbox>);

impl http_body::Body for OutboxBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut state = self.0.lock();
        match state.next() {
            Some(frame) => Poll::Ready(Some(Ok(Frame::data(frame)))),
            None if state.ended.is_some() => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for OutboxBody {
    fn drop(&mut self) {
        if self.0.lock().end("connection lost") {
            self.0.ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &Outbox) -> Vec<Bytes> {
        let mut state = outbox.lock();
        std::iter::from_fn(|| state.next()).collect()
    }

    fn name(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn a_newer_record_takes_the_slot_of_the_one_that_waits() {
        let outbox = Outbox::new(4);
        outbox.put(&name("service/shop/cart"), Bytes::from_static(b"cart 1"));
        outbox.put(&name("service/shop/web"), Bytes::from_static(b"web 1"));
        outbox.put(&name("service/shop/cart"), Bytes::from_static(b"cart 2"));
        assert_eq!(drain(&outbox), ["cart 2", "web 1"]);
    }

    #[test]
    fn a_cleared_slot_is_not_sent() {
        let outbox = Outbox::new(4);
        outbox.put(&name("service/shop/cart"), Bytes::from_static(b"cart"));
        outbox.clear("service/shop/cart");
        assert_eq!(drain(&outbox), Vec::<Bytes>::new());
    }

    #[test]
    fn commands_go_first_and_have_a_bound() {
        let outbox = Outbox::new(1);
        outbox.put(&name("service/shop/cart"), Bytes::from_static(b"cart"));
        assert!(outbox.command(Bytes::from_static(b"tap")));
        assert!(!outbox.command(Bytes::from_static(b"tap too many")));
        assert_eq!(drain(&outbox), ["tap", "cart"]);
        assert!(outbox.command(Bytes::from_static(b"tap again")));
    }

    #[test]
    fn goodbye_replaces_everything_and_nothing_follows() {
        let outbox = Outbox::new(4);
        outbox.put(&name("service/shop/cart"), Bytes::from_static(b"cart"));
        outbox.end("first");
        outbox.end("second");
        outbox.put(&name("service/shop/web"), Bytes::from_static(b"web"));
        assert!(!outbox.command(Bytes::from_static(b"tap")));
        assert_eq!(drain(&outbox), [wire::goodbye("first")]);
    }
}
