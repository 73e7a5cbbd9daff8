//! Idle HTTP/1.1 connections of one thread, last in first out, without a task of their own.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Notify;

use super::Target;
use super::connect::{Alpn, ConnectionPermit, PendingPermit, connect};
use super::http1::Http1;
use crate::error::{Error, Reason};
use crate::plan::service::Service;
use crate::record::Limits;
use crate::steps::limit::try_take;
use crate::timer::{micros, now_us, within};
use crate::worker::Worker;

/// Which connections may be used for each other: same endpoint, same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    id: u64,
    port: u16,
}

impl Key {
    /// The key of a target.
    pub fn of(target: &Target) -> Key {
        Key {
            id: target.id,
            port: target.address.port(),
        }
    }
}

/// Most idle connections kept per endpoint.
pub const IDLE_MAX: usize = 256;
/// How long a connection is kept without use; shorter than the peers' own limit.
pub const IDLE_TIME: Duration = Duration::from_secs(50);
/// So many of an endpoint are kept for that long. The rest are a burst's, unless they are used again
/// soon: since the last one in is the first one out, what a steady load needs never grows old.
pub const SPARE_MAX: usize = 8;
/// How long those beyond are kept without use.
pub const SURPLUS_TIME: Duration = Duration::from_secs(4);

/// The pool of a thread.
#[derive(Debug, Default)]
pub struct Pool {
    idle: HashMap<Key, Vec<(u64, Http1)>, ahash::RandomState>,
    /// Requests of this thread that wait for a connection, in order.
    waiting: VecDeque<Rc<Waiter>>,
}

impl Pool {
    fn pop(&mut self, key: Key) -> Option<Http1> {
        self.idle
            .get_mut(&key)?
            .pop()
            .map(|(_, connection)| connection)
    }

    /// Close what was not used for so long; how many were closed.
    pub fn sweep(&mut self) -> usize {
        let (now_us, mut closed) = (now_us(), 0);
        self.idle.retain(|_, connections| {
            closed += connections.drain(..outworn(connections, now_us)).count();
            !connections.is_empty()
        });
        closed
    }

    /// Close one idle connection of `service`; `false`: there is none on this thread.
    fn drop_one_of(&mut self, service: &Arc<Service>) -> bool {
        for connections in self.idle.values_mut() {
            if let Some(at) = connections
                .iter()
                .position(|(_, one)| one.belongs_to(service))
            {
                connections.remove(at);
                return true;
            }
        }
        false
    }

    /// Tell the next of those that wait for a connection of `service` that one comes; `false`:
    /// none of this thread does.
    fn tell_next(&self, service: &Arc<Service>) -> bool {
        let mut of_service = self
            .waiting
            .iter()
            .filter(|waiter| Arc::ptr_eq(&waiter.service, service))
            .peekable();
        let any = of_service.peek().is_some();
        if let Some(next) = of_service.find(|waiter| !waiter.is_told.replace(true)) {
            next.told.notify_one();
        }
        any
    }
}

/// How many of those that are idle since some time, the longest first, are kept no longer.
fn outworn<T>(idle: &[(u64, T)], now_us: u64) -> usize {
    let surplus = idle.len().saturating_sub(SPARE_MAX);
    let is_outworn = |place, since_us: u64| {
        let kept = if place < surplus {
            SURPLUS_TIME
        } else {
            IDLE_TIME
        };
        since_us + micros(kept) <= now_us
    };
    let places = idle.iter().enumerate();
    places
        .take_while(|(place, (since_us, _))| is_outworn(*place, *since_us))
        .count()
}

/// A request that waits for a connection.
#[derive(Debug)]
struct Waiter {
    service: Arc<Service>,
    told: Notify,
    is_told: Cell<bool>,
}

/// Keep a connection for later; the oldest goes when there are too many. Where others wait for a
/// place among `service`'s, they are told.
pub fn check_in(worker: &Rc<Worker>, key: Key, connection: Http1, service: Option<Arc<Service>>) {
    let mut pool = worker.pool.borrow_mut();
    let waited_for = service.filter(|service| service.load.pending.load(Relaxed) > 0);
    if let Some(service) = waited_for
        && !pool.tell_next(&service)
    {
        // They wait on other threads, which cannot use it: its place is what they get.
        return;
    }
    let connections = pool.idle.entry(key).or_default();
    if connections.len() >= IDLE_MAX {
        connections.remove(0);
    }
    connections.push((now_us(), connection));
}

/// A connection to `target`: an idle one, or a new one within the service's limits.
///
/// # Errors
/// As [`connect`], and [`Reason::PendingLimit`] when too many wait, or waited too long.
pub async fn checkout(worker: &Rc<Worker>, target: &Target) -> Result<Http1, Error> {
    let key = Key::of(target);
    if let Some(connection) = take_idle(worker, key) {
        return Ok(connection);
    }
    Box::pin(open(worker, target, key)).await
}

/// A new connection, or an idle one that came free while waiting for a place.
async fn open(worker: &Rc<Worker>, target: &Target, key: Key) -> Result<Http1, Error> {
    let permit = match &target.limits {
        None => None,
        Some((service, limits)) if try_take(&service.load.connections, limits.connections) => {
            Some(ConnectionPermit(Arc::clone(service)))
        }
        Some((service, limits)) => match wait(worker, target, service, limits).await? {
            Place::Idle(connection) => return Ok(connection),
            Place::New(permit) => Some(permit),
        },
    };
    let connected = connect(worker, target, Alpn::Http1).await?;
    Ok(Http1::new(connected, key, permit))
}

fn take_idle(worker: &Rc<Worker>, key: Key) -> Option<Http1> {
    loop {
        let mut connection = worker.pool.borrow_mut().pop(key)?;
        if connection.is_usable() {
            return Some(connection);
        }
    }
}

enum Place {
    Idle(Http1),
    New(ConnectionPermit),
}

/// Wait until a connection is returned or closed, as one of at most `limits.pending`.
async fn wait(
    worker: &Rc<Worker>,
    target: &Target,
    service: &Arc<Service>,
    limits: &Limits,
) -> Result<Place, Error> {
    let _pending = PendingPermit::take(service, limits)?;
    let waiting = Waiting::begin(worker, service);
    let key = Key::of(target);
    let place = async {
        loop {
            let mut freed = std::pin::pin!(service.load.freed.notified());
            // Registered before the look around: another thread may free a place meanwhile.
            freed.as_mut().enable();
            waiting.waiter.is_told.set(false);
            if let Some(connection) = take_idle(worker, key) {
                return Place::Idle(connection);
            }
            if try_take(&service.load.connections, limits.connections) {
                return Place::New(ConnectionPermit(Arc::clone(service)));
            }
            // All connections may be idle at other endpoints: one of them makes room.
            if !worker.pool.borrow_mut().drop_one_of(service) {
                tokio::select! {
                    () = freed => {}
                    () = waiting.waiter.told.notified() => {}
                }
            }
        }
    };
    within(target.connect_timeout, Box::pin(place))
        .await
        .ok_or_else(|| {
            let limit = target.connect_timeout.as_millis();
            let detail = format!(
                "no connection to {} became free within {limit} ms",
                service.key
            );
            Error::new(Reason::PendingLimit, detail)
        })
}

/// Lists a request that waits.
struct Waiting<'a> {
    worker: &'a Rc<Worker>,
    waiter: Rc<Waiter>,
}

impl<'a> Waiting<'a> {
    fn begin(worker: &'a Rc<Worker>, service: &Arc<Service>) -> Waiting<'a> {
        let waiter = Rc::new(Waiter {
            service: Arc::clone(service),
            told: Notify::new(),
            is_told: Cell::new(false),
        });
        worker
            .pool
            .borrow_mut()
            .waiting
            .push_back(Rc::clone(&waiter));
        Waiting { worker, waiter }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.worker.pool.borrow_mut().waiting;
        waiting.retain(|other| !Rc::ptr_eq(other, &self.waiter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_kept_for_long_and_the_rest_of_a_burst_for_seconds() {
        const SECOND: u64 = 1_000_000;
        let seconds = |time: Duration| time.as_secs() * SECOND;
        let idle = |count: usize| vec![(SECOND, ()); count];
        let soon = SECOND + seconds(SURPLUS_TIME);
        let late = SECOND + seconds(IDLE_TIME);
        for (count, now_us, expected) in [
            (IDLE_MAX, soon - 1, 0),
            (IDLE_MAX, soon, IDLE_MAX - SPARE_MAX),
            (SPARE_MAX + 1, soon, 1),
            (SPARE_MAX, late - 1, 0),
            (SPARE_MAX, late, SPARE_MAX),
            (0, late, 0),
        ] {
            assert_eq!(
                outworn(&idle(count), now_us),
                expected,
                "{count} at {now_us}"
            );
        }
        // What is used now and then is young, and stays.
        let mut used = idle(IDLE_MAX);
        used.extend(vec![(soon, ()); IDLE_MAX]);
        assert_eq!(outworn(&used, soon), IDLE_MAX);
    }
}
