//! Coarse deadlines: one tick for all waits of a thread, instead of a timer per request.
//!
//! A deadline fires at its time or up to [`TICK`] later, never before. Registering and leaving
//! cost a slot in a vector, and no request makes the runtime move its own timer.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Precision of deadlines.
pub const TICK: Duration = Duration::from_millis(10);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since the engine's clock began; it begins at 1, so that 0 can mean never.
pub fn now_us() -> u64 {
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX) + 1
}

/// Seconds since the engine's clock began.
pub fn now_s() -> u64 {
    START.elapsed().as_secs()
}

thread_local! {
    static WAITS: RefCell<Waits> = const { RefCell::new(Waits { slots: Vec::new(), free: Vec::new(), ticking: false }) };
}

struct Waits {
    slots: Vec<Option<(Instant, Waker)>>,
    free: Vec<usize>,
    ticking: bool,
}

/// A future that is ready at its deadline. Must be used inside a local runtime.
#[derive(Debug)]
pub struct Deadline {
    at: Instant,
    slot: Option<usize>,
}

impl Deadline {
    /// Ready `after` from now.
    pub fn after(after: Duration) -> Deadline {
        Deadline::at(Instant::now() + after)
    }

    /// Ready at `at`.
    pub fn at(at: Instant) -> Deadline {
        Deadline { at, slot: None }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // On the first poll the deadline is in the future unless it is zero: only then, and when
        // woken by the tick, is the clock read.
        WAITS.with_borrow_mut(|waits| match self.slot {
            Some(slot) => match &mut waits.slots[slot] {
                Some((_, waker)) => {
                    if !waker.will_wake(cx.waker()) {
                        *waker = cx.waker().clone();
                    }
                    Poll::Pending
                }
                fired @ None => {
                    debug_assert!(fired.is_none());
                    waits.free.push(slot);
                    self.slot = None;
                    Poll::Ready(())
                }
            },
            None => {
                if self.at <= Instant::now() {
                    return Poll::Ready(());
                }
                let entry = Some((self.at, cx.waker().clone()));
                let slot = match waits.free.pop() {
                    Some(slot) => {
                        waits.slots[slot] = entry;
                        slot
                    }
                    None => {
                        waits.slots.push(entry);
                        waits.slots.len() - 1
                    }
                };
                self.slot = Some(slot);
                if !waits.ticking {
                    waits.ticking = true;
                    tokio::task::spawn_local(tick());
                }
                Poll::Pending
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

/// Wake what is due, once a tick, as long as anything waits.
async fn tick() {
    let mut due = Vec::new();
    loop {
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        let waiting = WAITS.with_borrow_mut(|waits| {
            for slot in &mut waits.slots {
                if slot.as_ref().is_some_and(|(at, _)| *at <= now) {
                    due.extend(slot.take().map(|(_, waker)| waker));
                }
            }
            waits.ticking = due.len() + waits.free.len() < waits.slots.len();
            waits.ticking
        });
        due.drain(..).for_each(Waker::wake);
        if !waiting {
            return;
        }
    }
}

/// The same clock for hyper.
#[derive(Clone, Copy, Debug)]
pub struct CoarseTimer;

impl hyper::rt::Timer for CoarseTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Deadline::after(duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Deadline::at(deadline))
    }
}

impl hyper::rt::Sleep for Deadline {}

/// Run `future` with a deadline; `None`: it was not done in time. The caller pins or boxes it:
/// taken by value it would be stored twice, as argument and as local.
pub async fn within<T>(limit: Duration, mut future: impl Future<Output = T> + Unpin) -> Option<T> {
    let mut deadline = std::pin::pin!(Deadline::after(limit));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = Pin::new(&mut future).poll(cx) {
            return Poll::Ready(Some(done));
        }
        deadline.as_mut().poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_local<T>(future: impl Future<Output = T>) -> T {
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
