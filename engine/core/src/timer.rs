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
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

/// Precision of deadlines.
pub const TICK: Duration = Duration::from_millis(10);
/// Longest time between two looks at what waits.
const REST: Duration = Duration::from_millis(500);
/// Longest time between two looks at the system's clock.
const CALENDAR_CHECK: Duration = Duration::from_secs(60);

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

#[cfg(not(test))]
fn system_time() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
fn system_time() -> SystemTime {
    SystemTime::now() + tests::SUSPENDED.get()
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
        self.keep_ticking();
        if at_us < self.next_us
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

    fn keep_ticking(&mut self) {
        if self.next_us == 0 {
            self.next_us = now_us() + micros(TICK);
            let hurry = Rc::new(Notify::new());
            self.hurry = Some(Rc::clone(&hurry));
            tokio::task::spawn_local(tick(Ticking(hurry)));
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
                    waits.keep_ticking();
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

/// The task that ticks for a thread. It may end with the other tasks of a workload: then the next
/// to wait starts another one.
struct Ticking(Rc<Notify>);

impl Drop for Ticking {
    fn drop(&mut self) {
        let waiting = WAITS.try_with(|waits| {
            let mut waits = waits.borrow_mut();
            let is_ours = |hurry: &Rc<Notify>| Rc::ptr_eq(hurry, &self.0);
            if !waits.hurry.as_ref().is_some_and(is_ours) {
                return Vec::new();
            }
            waits.next_us = 0;
            waits.hurry = None;
            let waiting = waits.slots.iter().flatten();
            waiting.map(|(_, waker)| waker.clone()).collect()
        });
        // Without its waits the thread itself is at its end.
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

/// Wake what is due, as long as anything waits; a thread at rest is left alone.
async fn tick(ticking: Ticking) {
    let hurry = &ticking.0;
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

/// Wait until `time`. Waits stand still while a machine is suspended, what ends at a time does not.
pub async fn until_time(time: SystemTime) {
    while let Ok(left) = time.duration_since(system_time())
        && !left.is_zero()
    {
        Deadline::after(left.min(CALENDAR_CHECK)).await;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use tokio::task::LocalSet;

    use super::*;

    thread_local! {
        /// The time of a thread whose clock stands.
        pub(super) static HELD: Cell<Option<Duration>> = const { Cell::new(None) };
        /// How long its machine was suspended.
        pub(super) static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
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
        SUSPENDED.set(Duration::ZERO);
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
    fn time_that_a_machine_was_suspended_is_noticed_so_soon() {
        const HOUR: Duration = Duration::from_secs(3600);
        on_local(async {
            hold();
            let wait = tokio::task::spawn_local(until_time(system_time() + HOUR));
            pass(CALENDAR_CHECK).await;
            SUSPENDED.set(HOUR);
            pass(CALENDAR_CHECK - Duration::from_micros(1)).await;
            assert!(!wait.is_finished());
            pass(Duration::from_micros(1)).await;
            assert!(wait.is_finished());
        });
    }

    /// A workload has a set of its own on the thread that several share.
    #[test]
    fn a_wait_outlives_the_tasks_that_it_began_with() {
        HELD.set(None);
        WAITS.set(Waits::new());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let begin = async |set: &LocalSet| {
                let none = set.run_until(within(TICK, std::future::pending::<()>()));
                let mut none = Box::pin(none);
                std::future::poll_fn(|cx| {
                    assert!(none.as_mut().poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
            };
            let set = LocalSet::new();
            begin(&set).await;
            let before = tokio::task::spawn_local(Deadline::after(2 * TICK));
            tokio::task::yield_now().await;
            drop(set);
            let patience = Duration::from_secs(10);
            let before = tokio::time::timeout(patience, before).await;
            before.expect("it fires").expect("no panic");
            let set = LocalSet::new();
            begin(&set).await;
            drop(set);
            let after = tokio::time::timeout(patience, Deadline::after(TICK)).await;
            after.expect("it fires");
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
