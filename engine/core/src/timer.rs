//! Coarse deadlines: one tick for all waits of a thread, instead of a timer per request.
//!
//! A deadline fires at its time or up to [`TICK`] later, never before. Registering and leaving
//! cost a slot in a vector, and no request makes the runtime move its own timer.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Precision of deadlines.
pub const TICK: Duration = Duration::from_millis(10);
/// Longest time between two looks at what waits.
const REST: Duration = Duration::from_millis(500);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since the engine's clock began; it begins at 1, so that 0 can mean never.
pub fn now_us() -> u64 {
    micros(elapsed()) + 1
}

/// Seconds since the engine's clock began.
pub fn now_s() -> u64 {
    elapsed().as_secs()
}

#[cfg(not(test))]
fn elapsed() -> Duration {
    START.elapsed()
}

#[cfg(test)]
fn elapsed() -> Duration {
    tests::HELD.get().unwrap_or_else(|| START.elapsed())
}

thread_local! {
    static WAITS: RefCell<Waits> = const { RefCell::new(Waits::new()) };
}

struct Waits {
    slots: Vec<Option<(u64, Waker)>>,
    free: Vec<usize>,
    /// When the next tick is; 0: nothing waits and nobody ticks.
    next_us: u64,
    /// Wakes the ticking task for a deadline before the next tick.
    hurry: Option<Rc<Notify>>,
}

/// A future that is ready at its deadline. Must be used inside a local runtime.
#[derive(Debug)]
pub struct Deadline {
    at_us: u64,
    slot: Option<usize>,
}

impl Deadline {
    /// Ready `after` from now.
    pub fn after(after: Duration) -> Deadline {
        Deadline::at_us(now_us().saturating_add(micros(after)))
    }

    /// Ready at `at_us`, microseconds of [`now_us`].
    pub fn at_us(at_us: u64) -> Deadline {
        Deadline { at_us, slot: None }
    }

    /// When it is ready, microseconds of [`now_us`].
    pub fn due_us(&self) -> u64 {
        self.at_us
    }
}

/// Wake all that waits on this thread: there is a reason to look around.
pub fn wake_all() {
    WAITS.with_borrow(|waits| {
        for (_, waker) in waits.slots.iter().flatten() {
            waker.wake_by_ref();
        }
    });
}

/// A duration in whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Waits {
    const fn new() -> Waits {
        Waits {
            slots: Vec::new(),
            free: Vec::new(),
            next_us: 0,
            hurry: None,
        }
    }

    /// Take a slot, without a look at the clock: a deadline that has passed fires at the tick.
    fn register(&mut self, at_us: u64, waker: Waker) -> usize {
        if self.next_us == 0 {
            self.next_us = now_us() + micros(TICK);
            let hurry = Rc::new(Notify::new());
            self.hurry = Some(Rc::clone(&hurry));
            tokio::task::spawn_local(tick(hurry));
        } else if at_us < self.next_us
            && let Some(hurry) = &self.hurry
        {
            hurry.notify_one();
        }
        let entry = Some((at_us, waker));
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                self.slots.len() - 1
            }
        }
    }

    /// Collect what is due and say when to look again; `None`: nothing waits.
    fn collect(&mut self, now_us: u64, due: &mut Vec<Waker>) -> Option<u64> {
        let mut earliest = u64::MAX;
        for slot in &mut self.slots {
            match slot {
                Some((at_us, _)) if *at_us <= now_us => {
                    due.extend(slot.take().map(|(_, waker)| waker));
                }
                Some((at_us, _)) => earliest = earliest.min(*at_us),
                None => {}
            }
        }
        if earliest == u64::MAX {
            self.next_us = 0;
            self.hurry = None;
            return None;
        }
        self.next_us = earliest.clamp(now_us + micros(TICK), now_us + micros(REST));
        Some(self.next_us)
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        WAITS.with_borrow_mut(|waits| {
            let Some(slot) = self.slot else {
                self.slot = Some(waits.register(self.at_us, cx.waker().clone()));
                return Poll::Pending;
            };
            match &mut waits.slots[slot] {
                Some((_, waker)) => {
                    waker.clone_from(cx.waker());
                    Poll::Pending
                }
                None => {
                    waits.free.push(slot);
                    self.slot = None;
                    Poll::Ready(())
                }
            }
        })
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            WAITS.with_borrow_mut(|waits| {
                waits.slots[slot] = None;
                waits.free.push(slot);
            });
        }
    }
}

/// Wake what is due, as long as anything waits; a thread at rest is left alone.
async fn tick(hurry: Rc<Notify>) {
    let mut due = Vec::new();
    let mut pause = TICK;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = hurry.notified() => tokio::time::sleep(TICK).await,
        }
        let now = now_us();
        let next = WAITS.with_borrow_mut(|waits| waits.collect(now, &mut due));
        due.drain(..).for_each(Waker::wake);
        match next {
            Some(next_us) => pause = Duration::from_micros(next_us - now),
            None => return,
        }
    }
}

/// Run `future` with a deadline; `None`: it was not done in time. The caller pins or boxes it:
/// taken by value it would be stored twice, as argument and as local.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T> + Unpin) -> Option<T> {
    until(now_us().saturating_add(micros(limit)), future).await
}

/// As [`within`], up to a time of [`now_us`].
pub async fn until<T>(end_us: u64, mut future: impl Future<Output = T> + Unpin) -> Option<T> {
    let mut deadline = Deadline::at_us(end_us);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = Pin::new(&mut future).poll(cx) {
            return Poll::Ready(Some(done));
        }
        Pin::new(&mut deadline).poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// The time of a thread whose clock stands.
        pub(super) static HELD: Cell<Option<Duration>> = const { Cell::new(None) };
    }

    /// Stop this thread's clock; time goes on by [`pass`] alone.
    pub(crate) fn hold() {
        HELD.set(Some(elapsed()));
    }

    /// Let `time` pass at once; whatever is due by then has seen it.
    pub(crate) async fn pass(time: Duration) {
        HELD.set(Some(elapsed() + time));
        WAITS.with_borrow(|waits| waits.hurry.iter().for_each(|hurry| hurry.notify_one()));
        Deadline::after(Duration::ZERO).await;
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// Enough turns of the runtime for those who were woken.
    const TURNS: usize = 32;

    /// Run `future` where tasks of a request thread can be.
    pub(crate) fn on_local<T>(future: impl Future<Output = T>) -> T {
        // What another test left on this thread: its clock, and waits that nobody ticks for.
        HELD.set(None);
        WAITS.set(Waits::new());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(future)
    }

    #[test]
    fn a_deadline_fires_after_its_time_and_soon() {
        on_local(async {
            let begin = Instant::now();
            let limit = Duration::from_millis(30);
            assert_eq!(within(limit, std::future::pending::<()>()).await, None);
            assert!(begin.elapsed() >= limit);
            assert!(begin.elapsed() < limit + 50 * TICK, "{:?}", begin.elapsed());
        });
    }

    #[test]
    fn slots_are_given_back() {
        on_local(async {
            for _ in 0..100 {
                assert_eq!(
                    within(Duration::from_secs(9), std::future::ready(7)).await,
                    Some(7)
                );
                let yield_now = Box::pin(tokio::task::yield_now());
                let yielded = within(Duration::from_secs(9), yield_now).await;
                assert!(yielded.is_some());
            }
            WAITS.with_borrow(|waits| assert!(waits.slots.len() <= 1, "{}", waits.slots.len()));
        });
    }
}
