//! Bodies on their way through: what a retry needs is kept up to a bound, the rest streams.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http1::Http1;
use crate::error::{Error, Reason};
use crate::observe::Observation;
use crate::plan::endpoints::Endpoint;
use crate::steps::limit::RequestPermit;
use crate::timer::{Deadline, now_us};
use crate::worker::Worker;

/// Most of a request's body that is kept for another try (as Linkerd's and Pingora's).
pub const REPLAY_MAX: usize = 64 * 1024;
/// What a chunk counts at least against it: many small ones cost more than their bytes.
const CHUNK_MIN: usize = 64;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request on its way up.
#[derive(Debug)]
pub enum RequestBody {
    /// No body.
    Empty,
    /// A body that can be sent again as long as it is short.
    Replay(Replay),
}

/// One try's view of a body that several tries may read.
#[derive(Debug)]
pub struct Replay {
    shared: Rc<RefCell<Kept>>,
    generation: u32,
    next: usize,
}

/// What is left of the client's body, and what was read so far.
#[derive(Debug)]
struct Kept {
    incoming: Incoming,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// When the last of it came, microseconds of [`now_us`].
    ended_us: Option<u64>,
    kept_bytes: usize,
    overflow: bool,
    /// The client broke off. What came is not all, and must never be sent as if it were.
    broken: bool,
    generation: u32,
    hint: SizeHint,
    sent: Rc<Cell<u64>>,
}

/// Makes the body of each try.
#[derive(Debug)]
pub struct BodySource(Option<Rc<RefCell<Kept>>>);

impl BodySource {
    /// From the client's body; `sent` counts the bytes of the last try.
    pub fn new(incoming: Incoming) -> (BodySource, Option<Rc<Cell<u64>>>) {
        if incoming.is_end_stream() {
            return (BodySource(None), None);
        }
        let sent = Rc::new(Cell::new(0));
        let kept = Kept {
            hint: incoming.size_hint(),
            incoming,
            chunks: Vec::new(),
            trailers: None,
            ended: false,
            ended_us: None,
            kept_bytes: 0,
            overflow: false,
            broken: false,
            generation: 0,
            sent: Rc::clone(&sent),
        };
        (BodySource(Some(Rc::new(RefCell::new(kept)))), Some(sent))
    }

    /// The body for another try; earlier ones end with an error. `None`: too much was sent.
    pub fn next(&self) -> Option<RequestBody> {
        let Some(shared) = &self.0 else {
            return Some(RequestBody::Empty);
        };
        let mut kept = shared.borrow_mut();
        if kept.overflow {
            return None;
        }
        kept.generation += 1;
        kept.sent.set(0);
        Some(RequestBody::Replay(Replay {
            shared: Rc::clone(shared),
            generation: kept.generation,
            next: 0,
        }))
    }

    /// When the client had sent all of it; `None`: it still sends.
    pub fn ended_us(&self) -> Option<u64> {
        self.0
            .as_ref()
            .map_or(Some(0), |shared| shared.borrow().ended_us)
    }

    /// Whether the client broke off in the middle.
    pub fn is_broken(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.borrow().broken)
    }

    /// Whether another try could send the body from its beginning.
    pub fn can_replay(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|shared| !shared.borrow().overflow)
    }
}

impl Kept {
    fn keep(&mut self, chunk: &Bytes) {
        if self.overflow {
            return;
        }
        self.kept_bytes += chunk.len().max(CHUNK_MIN);
        if self.kept_bytes > REPLAY_MAX {
            self.overflow = true;
            self.chunks = Vec::new();
        } else {
            self.chunks.push(chunk.clone());
        }
    }
}

impl Replay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut kept = self.shared.borrow_mut();
        if kept.generation != self.generation {
            return Poll::Ready(Some(Err("another try has begun".into())));
        }
        if kept.broken {
            return Poll::Ready(Some(Err("the client broke off".into())));
        }
        if !kept.overflow
            && let Some(chunk) = kept.chunks.get(self.next).cloned()
        {
            self.next += 1;
            kept.sent.set(kept.sent.get() + chunk.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if kept.ended {
            let trailers = kept.trailers.clone().filter(|_| self.next != usize::MAX);
            self.next = usize::MAX;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = std::task::ready!(Pin::new(&mut kept.incoming).poll_frame(cx));
        if kept.incoming.is_end_stream() || !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            kept.ended_us.get_or_insert_with(now_us);
        }
        Poll::Ready(match frame {
            None => {
                kept.ended = true;
                None
            }
            Some(Err(error)) => {
                kept.broken = true;
                kept.overflow = true;
                kept.chunks = Vec::new();
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => {
                if let Some(chunk) = frame.data_ref() {
                    kept.keep(chunk);
                    kept.sent.set(kept.sent.get() + chunk.len() as u64);
                    self.next += 1;
                } else if let Some(trailers) = frame.trailers_ref() {
                    kept.trailers = Some(trailers.clone());
                    kept.ended = true;
                    self.next = usize::MAX;
                }
                Some(Ok(frame))
            }
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Replay(replay) => replay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Replay(replay) => {
                let kept = replay.shared.borrow();
                let all_sent = kept.overflow || replay.next >= kept.chunks.len();
                kept.generation == replay.generation
                    && !kept.broken
                    && all_sent
                    && (kept.incoming.is_end_stream() || kept.ended)
                    && (kept.trailers.is_none() || replay.next == usize::MAX)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Replay(replay) if replay.next == 0 => replay.shared.borrow().hint,
            RequestBody::Replay(_) => SizeHint::default(),
        }
    }
}

/// The body of a response on its way down.
#[derive(Debug)]
pub enum ResponseBody {
    /// Made here, or already whole.
    Full(Option<Bytes>),
    /// Streams from the other side.
    Stream(Box<Streamed>),
}

/// A streamed body with all that must last as long as it.
#[derive(Debug)]
pub struct Streamed {
    incoming: Incoming,
    connection: Option<Http1>,
    worker: Rc<Worker>,
    observation: Option<Observation>,
    deadline: Option<Deadline>,
    guards: Guards,
}

/// What is given back when a response has ended.
#[derive(Debug, Default)]
pub struct Guards {
    /// A place among the service's requests.
    pub permit: Option<RequestPermit>,
    /// A request in flight at an endpoint.
    pub in_flight: Option<InFlight>,
}

/// Counts a request at its endpoint while it is in flight.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// Begin.
    pub fn begin(endpoint: &Arc<Endpoint>) -> InFlight {
        endpoint.state.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(endpoint))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.in_flight.fetch_sub(1, Relaxed);
    }
}

impl ResponseBody {
    /// A body that is whole.
    pub fn full(bytes: Bytes) -> ResponseBody {
        ResponseBody::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// A body that streams from `incoming`; with nothing to come, all is given back at once.
    pub fn stream(
        incoming: Incoming,
        connection: Option<Http1>,
        worker: &Rc<Worker>,
        observation: Observation,
        deadline: Option<Deadline>,
        guards: Guards,
    ) -> ResponseBody {
        ResponseBody::Stream(Box::new(Streamed {
            incoming,
            connection,
            worker: Rc::clone(worker),
            observation: Some(observation),
            deadline,
            guards,
        }))
    }
}

impl Streamed {
    fn finish(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = self.connection.take() {
            connection.give_back(&self.worker, cx);
        }
        self.guards = Guards::default();
        self.observation = None;
        self.deadline = None;
    }

    fn fail(&mut self, reason: Reason, detail: String) -> BoxError {
        self.connection = None;
        self.guards = Guards::default();
        if let Some(observation) = &mut self.observation {
            observation.key.reason = Some(reason);
        }
        self.observation = None;
        Box::new(Error::new(reason, detail))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.observation.is_none() {
            return Poll::Ready(None);
        }
        if let Some(connection) = &mut self.connection {
            connection.poll(cx);
        }
        let mut frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Some(connection) = &mut self.connection
        {
            // Asking for the frame is what lets the connection read on.
            connection.poll(cx);
            frame = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        match frame {
            Poll::Pending => {
                if let Some(deadline) = &mut self.deadline
                    && Pin::new(deadline).poll(cx).is_ready()
                {
                    let detail = "the response took too long".to_owned();
                    return Poll::Ready(Some(Err(self.fail(Reason::RequestTimeout, detail))));
                }
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.finish(cx);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let detail = super::http1::describe(&error);
                Poll::Ready(Some(Err(self.fail(Reason::Reset, detail))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(seen) = &mut self.observation {
                    if let Some(chunk) = frame.data_ref() {
                        seen.response_bytes += chunk.len() as u64;
                    } else if let Some(trailers) = frame.trailers_ref() {
                        seen.look_for_grpc_status(trailers);
                    }
                }
                if self.incoming.is_end_stream() {
                    self.finish(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            ResponseBody::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            ResponseBody::Stream(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Full(bytes) => bytes.is_none(),
            ResponseBody::Stream(stream) => stream.observation.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            ResponseBody::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}
