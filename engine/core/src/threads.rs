//! The threads of a process, made once, and the workloads that share them.
//!
//! A workload gives each thread a job: a future of its own, which ends when the workload leaves.
//! What must not be shared, connections, keys and counters, belongs to the job.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slab::Slab;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{MissedTickBehavior, interval};

use crate::http1::buffer;

/// Most workloads of a process: each takes some ten file descriptors.
pub const WORKLOADS_MAX: usize = 256;
/// The share of a process' open files, percent, that leaves room for its clients and their tunnels.
/// The rest is for what serves them: endpoints, pipes, the control plane, admin, the disk.
const CLIENTS_SHARE: u64 = 75;
/// Stack of a thread of ours; requests live on the heap.
const STACK_BYTES: usize = 512 * 1024;
/// How often a thread gives back buffers that nobody used.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);

/// Gives what a thread has freed back to the system; who chooses the allocator sets it.
pub static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Give back what this thread does not use any more.
pub(crate) fn trim() {
    buffer::trim();
    if let Some(give_back) = GIVE_BACK.get() {
        give_back();
    }
}

/// What a thread does for one workload.
pub(crate) type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Turns true when what has it should end.
pub(crate) type Stop = watch::Receiver<bool>;

/// Where to send jobs. At most [`WORKLOADS_MAX`] workloads wait in a queue, with two jobs each.
#[derive(Clone, Debug)]
pub(crate) struct Desks {
    /// The threads that carry traffic.
    pub(crate) workers: Vec<mpsc::UnboundedSender<Job>>,
    /// The thread for all that is no request.
    pub(crate) control: mpsc::UnboundedSender<Job>,
}

/// A fixed set of threads that carry traffic, and one for all else.
#[derive(Debug)]
pub struct Threads {
    pub(crate) desks: Desks,
    pub(crate) bell: Arc<Bell>,
    /// The descriptors of clients' connections are below.
    pub(crate) clients_end: i32,
    /// How many workloads they serve.
    pub(crate) workloads: Arc<AtomicUsize>,
    running: Mutex<Vec<JoinHandle<()>>>,
    stopping: watch::Sender<bool>,
}

/// The place of a workload; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Threads {
    /// Start `workers` threads for traffic and one for all else.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(workers: usize) -> Result<Arc<Threads>, String> {
        let clients_end = clients_end(allow_files());
        let stopping = watch::Sender::new(false);
        let mut running = Vec::new();
        let mut start = |name: String, work: fn(mpsc::UnboundedReceiver<Job>, Stop)| {
            let (desk, jobs) = mpsc::unbounded_channel();
            let stop = stopping.subscribe();
            running.push(spawn(name, move || work(jobs, stop))?);
            Ok::<_, String>(desk)
        };
        let workers = (0..workers).map(|index| start(format!("tulle-worker-{index}"), carry));
        let workers = workers.collect::<Result<Vec<_>, String>>()?;
        let control = start("tulle-control".to_owned(), keep_house)?;
        Ok(Arc::new(Threads {
            desks: Desks { workers, control },
            bell: Arc::default(),
            clients_end,
            workloads: Arc::default(),
            running: Mutex::new(running),
            stopping,
        }))
    }

    /// How many threads carry traffic.
    pub fn workers(&self) -> usize {
        self.desks.workers.len()
    }

    /// Wait until some workload has an event, at most `timeout`; `seen` is what the last call
    /// returned, 0 at first.
    pub fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.bell.wait(seen, timeout)
    }

    pub(crate) fn take_seat(&self) -> Result<Seat, String> {
        let full = |count| (count < WORKLOADS_MAX).then_some(count + 1);
        match self.workloads.fetch_update(Relaxed, Relaxed, full) {
            Ok(_) => Ok(Seat(Arc::clone(&self.workloads))),
            Err(_) => Err(format!(
                "this process serves {WORKLOADS_MAX} workloads, and no more; start another one"
            )),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
        let running = self.running.get_mut();
        for thread in running.unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A thread that panicked has said so on standard error.
            let _ended = thread.join();
        }
    }
}

/// Below which descriptor there is room for a client where so many files may be open: the kernel
/// gives the lowest one that is free, so a high one tells how many are in use, whatever for.
fn clients_end(files: Option<u64>) -> i32 {
    let end = files.map(|files| files.saturating_mul(CLIENTS_SHARE) / 100);
    end.and_then(|end| i32::try_from(end).ok())
        .unwrap_or(i32::MAX)
}

/// Tells that something happened; whoever waits looks what.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<u64>,
    heard: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.heard.notify_all();
    }

    /// How often it was rung, as soon as that is not `seen`; after `timeout`, if it still is.
    pub(crate) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .heard
            .wait_timeout_while(rung, timeout, |rung| *rung == seen);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What `look` finds, looked for again each time it rings; `None` after `timeout`.
    pub(crate) fn find<T>(&self, timeout: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
        let end = Instant::now() + timeout;
        let mut seen = 0;
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            seen = self.wait(seen, left);
        }
    }
}

/// The tasks of one workload on one thread: all end with it.
#[derive(Debug, Default)]
pub(crate) struct Tasks(RefCell<Slab<AbortHandle>>);

pin_project! {
    /// A task that leaves the list when it ends.
    struct Listed<F> {
        #[pin]
        task: F,
        place: Place,
    }
}

struct Place {
    list: Rc<Tasks>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.list.0.borrow_mut().try_remove(self.key);
    }
}

impl<F: Future<Output = ()>> Future for Listed<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().task.poll(cx)
    }
}

impl Tasks {
    /// Start a task on this thread.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let key = self.0.borrow().vacant_key();
        let list = Rc::clone(self);
        let place = Place { list, key };
        let started = spawn_local(Listed { task, place }).abort_handle();
        self.0.borrow_mut().insert(started);
    }

    /// End all tasks, those that they start meanwhile too; nothing of them is left afterwards.
    pub(crate) async fn end(&self) {
        loop {
            for (_, task) in &*self.0.borrow() {
                task.abort();
            }
            if self.0.borrow().is_empty() {
                return;
            }
            // An aborted task is dropped by the runtime when its turn comes.
            yield_now().await;
        }
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new()
        .name(name.clone())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(|error| format!("thread {name}: {error}"))
}

/// The life of a thread that carries traffic.
fn carry(jobs: mpsc::UnboundedReceiver<Job>, stop: Stop) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_io().enable_time();
    let runtime = runtime.build_local(LocalOptions::default());
    let trims = async {
        let mut tick = interval(TRIM_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            trim();
        }
    };
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                () = serve(jobs, stop) => {}
                () = trims => {}
            }
        }),
        Err(error) => complain(&error),
    }
}

/// The life of the thread for all that is no request.
fn keep_house(jobs: mpsc::UnboundedReceiver<Job>, stop: Stop) {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, serve(jobs, stop)),
        Err(error) => complain(&error),
    }
}

async fn serve(mut jobs: mpsc::UnboundedReceiver<Job>, mut stop: Stop) {
    let take = async {
        while let Some(job) = jobs.recv().await {
            spawn_local(job());
        }
    };
    tokio::select! {
        () = take => {}
        // An error means that the threads' owner is gone, which is a reason to stop, too.
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Without its runtime a thread takes no job, and whoever sends one is told so.
fn complain(error: &std::io::Error) {
    eprintln!("tulle: a thread cannot be set up: {error}");
}

/// Ask for as many open files as we may have: the usual limit is that of a program with a few.
/// How many that are; `None`: there is no limit.
fn allow_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Without it there is less room.
    let _refused = setrlimit(Resource::Nofile, most);
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_serves_so_many_workloads_and_no_more() {
        let threads = Threads::start(1).expect("threads");
        let seats: Vec<Seat> = (0..WORKLOADS_MAX)
            .map(|_| threads.take_seat().expect("a seat"))
            .collect();
        assert!(threads.take_seat().is_err());
        drop(seats);
        assert!(threads.take_seat().is_ok());
    }

    #[test]
    fn a_quarter_of_the_files_is_not_for_clients() {
        for (files, expected) in [
            (None, i32::MAX),
            (Some(u64::MAX), i32::MAX),
            (Some(1 << 20), 786_432),
            (Some(1024), 768),
            (Some(0), 0),
        ] {
            assert_eq!(clients_end(files), expected, "{files:?}");
        }
    }

    #[test]
    fn whoever_waits_hears_what_rang_before() {
        let bell = Bell::default();
        assert_eq!(bell.wait(0, Duration::from_millis(1)), 0);
        bell.ring();
        assert_eq!(bell.wait(0, Duration::from_secs(9)), 1);
        assert_eq!(bell.find(Duration::from_secs(9), || Some(7)), Some(7));
        assert_eq!(bell.find(Duration::from_millis(1), || None::<u8>), None);
    }

    #[test]
    fn tasks_end_and_so_do_those_that_they_start() {
        struct Heir(Rc<Tasks>, Rc<RefCell<u32>>);
        impl Drop for Heir {
            fn drop(&mut self) {
                *self.1.borrow_mut() += 1;
            }
        }
        let local = LocalSet::new();
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        local.block_on(&runtime, async {
            let (tasks, ended) = (Rc::new(Tasks::default()), Rc::default());
            for _ in 0..3 {
                let heir = Heir(Rc::clone(&tasks), Rc::clone(&ended));
                tasks.spawn(async move {
                    let more = Heir(Rc::clone(&heir.0), Rc::clone(&heir.1));
                    heir.0.spawn(async move {
                        let _more = more;
                        std::future::pending::<()>().await;
                    });
                    std::future::pending::<()>().await;
                });
            }
            tasks.spawn(async {});
            yield_now().await;
            tasks.end().await;
            assert_eq!(*ended.borrow(), 6);
            assert_eq!(Rc::strong_count(&tasks), 1);
        });
    }
}
