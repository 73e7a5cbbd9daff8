//! The queue from the hub's thread to Python.
//!
//! It is bounded twice: as a whole, and per peer. An event that may be lost (a report, a tap) is
//! dropped and counted when there is no room. One that may not makes its peer wait: the hub stops
//! reading from that peer, and HTTP/2 flow control tells it so. What the hub itself has to say
//! (a peer left, a name lost its last subscriber) needs no room, as its number is bounded by
//! what was let in before.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest wait for an event: whoever wants to wait longer asks again.
const POP_WAIT_MAX: Duration = Duration::from_secs(3600);

/// Something that happened, as Python gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened: `join`, `subscribed`, `ack`, and so on.
    pub kind: &'static str,
    /// A JSON object.
    pub body: Vec<u8>,
}

/// A place in the queue, given back when Python takes the event that holds it.
pub(super) struct Room {
    _whole: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

struct Queue {
    events: VecDeque<(Event, Option<Room>)>,
    closed: bool,
}

pub(super) struct Events {
    queue: Mutex<Queue>,
    arrived: Condvar,
    whole: Arc<Semaphore>,
    dropped: AtomicU64,
}

impl Events {
    pub(super) fn new(events_max: usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                events: VecDeque::new(),
                closed: false,
            }),
            arrived: Condvar::new(),
            whole: Arc::new(Semaphore::new(events_max)),
            dropped: AtomicU64::new(0),
        }
    }

    /// Wait until a peer with this share may queue one more event.
    pub(super) async fn room(&self, share: &Arc<Semaphore>) -> Room {
        let share = Arc::clone(share).acquire_owned().await;
        let whole = Arc::clone(&self.whole).acquire_owned().await;
        Room {
            _whole: whole.expect("the semaphore of the queue is never closed"),
            _share: Some(share.expect("the semaphore of a peer is never closed")),
        }
    }

    /// Room at once, or `None`.
    pub(super) fn room_now(&self, share: Option<&Arc<Semaphore>>) -> Option<Room> {
        let share = match share {
            Some(share) => Some(Arc::clone(share).try_acquire_owned().ok()?),
            None => None,
        };
        let whole = Arc::clone(&self.whole).try_acquire_owned().ok()?;
        Some(Room {
            _whole: whole,
            _share: share,
        })
    }

    /// Queue an event. `None` as room is for what the hub itself has to say.
    pub(super) fn push(&self, room: Option<Room>, event: Event) {
        let mut queue = self.lock();
        if !queue.closed {
            queue.events.push_back((event, room));
            self.arrived.notify_one();
        }
    }

    /// Queue an event that may be lost: without room it is dropped and counted.
    pub(super) fn push_or_drop(&self, share: &Arc<Semaphore>, event: Event) {
        match self.room_now(Some(share)) {
            Some(room) => self.push(Some(room), event),
            None => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The next event; `None` after the timeout, or when the queue is closed and empty.
    pub(super) fn pop(&self, timeout: Duration) -> Option<Event> {
        let deadline = deadline(Instant::now(), timeout);
        let mut queue = self.lock();
        loop {
            if let Some((event, _room)) = queue.events.pop_front() {
                return Some(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if queue.closed || left.is_zero() {
                return None;
            }
            queue = match self.arrived.wait_timeout(queue, left) {
                Ok((queue, _)) => queue,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Accept no more events and wake whoever waits for one.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    pub(super) fn queued(&self) -> usize {
        self.lock().events.len()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to give up waiting for an event.
fn deadline(now: Instant, timeout: Duration) -> Instant {
    now + timeout.min(POP_WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn event(kind: &'static str) -> Event {
        Event {
            kind,
            body: b"{}".to_vec(),
        }
    }

    #[test]
    fn events_come_out_in_order() {
        let events = Events::new(4);
        events.push(None, event("connected"));
        events.push(None, event("ack"));
        assert_eq!(events.pop(NOW), Some(event("connected")));
        assert_eq!(events.pop(NOW), Some(event("ack")));
        assert_eq!(events.pop(NOW), None);
    }

    #[test]
    fn a_report_without_room_is_dropped_and_counted() {
        let (events, share) = (Events::new(2), Arc::new(Semaphore::new(8)));
        for _ in 0..3 {
            events.push_or_drop(&share, event("report"));
        }
        assert_eq!((events.queued(), events.dropped()), (2, 1));
        events.pop(NOW);
        events.push_or_drop(&share, event("report"));
        assert_eq!((events.queued(), events.dropped()), (2, 1));
    }

    #[test]
    fn one_peer_cannot_take_the_whole_queue() {
        let events = Events::new(8);
        let (greedy, modest) = (Arc::new(Semaphore::new(2)), Arc::new(Semaphore::new(2)));
        for _ in 0..8 {
            events.push_or_drop(&greedy, event("report"));
        }
        events.push_or_drop(&modest, event("report"));
        assert_eq!((events.queued(), events.dropped()), (3, 6));
    }

    #[test]
    fn a_full_queue_makes_the_next_event_wait_for_the_reader() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime without drivers needs nothing");
        let (events, share) = (Arc::new(Events::new(1)), Arc::new(Semaphore::new(8)));
        events.push(events.room_now(None), event("ack"));
        let reader = {
            let events = Arc::clone(&events);
            std::thread::spawn(move || events.pop(Duration::from_secs(5)))
        };
        runtime.block_on(async {
            let room = events.room(&share).await;
            events.push(Some(room), event("nack"));
        });
        assert_eq!(reader.join().expect("the reader ends"), Some(event("ack")));
        assert_eq!(events.pop(NOW), Some(event("nack")));
    }

    #[test]
    fn an_event_is_waited_for_so_long_at_most() {
        let now = Instant::now();
        let moment = Duration::from_nanos(1);
        for (timeout, waits) in [
            (POP_WAIT_MAX - moment, POP_WAIT_MAX - moment),
            (POP_WAIT_MAX + moment, POP_WAIT_MAX),
            (Duration::MAX, POP_WAIT_MAX),
        ] {
            assert_eq!(deadline(now, timeout), now + waits, "{timeout:?}");
        }
        let events = Events::new(1);
        events.push(None, event("ack"));
        assert_eq!(events.pop(Duration::MAX), Some(event("ack")));
    }

    #[test]
    fn closing_wakes_the_reader() {
        let events = Arc::new(Events::new(1));
        let reader = {
            let events = Arc::clone(&events);
            std::thread::spawn(move || events.pop(Duration::from_secs(60)))
        };
        events.close();
        assert_eq!(reader.join().expect("the reader ends"), None);
    }
}
