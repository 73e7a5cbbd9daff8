//! An HTTP/1.1 connection that is driven inside the task of the request that uses it: no task
//! and no channel hop per connection or request.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::body::RequestBody;
use super::connect::{Connected, ConnectionPermit};
use super::pool;
use super::stream::Stream;
use crate::error::{Error, Reason};
use crate::plan::service::Service;
use crate::timer::now_us;
use crate::worker::Worker;

/// Longest response head; also the most that is buffered of a body.
pub const BUFFER_MAX: usize = 64 * 1024;
/// Most header lines of a request or response: hyper's own bound, the one for which it needs no
/// memory per message.
pub const HEADERS_MAX: usize = 100;

/// A connection and its sender. Boxed: it moves between pool, request and response body, and its
/// buffers' bookkeeping alone is a kilobyte.
#[derive(Debug)]
pub struct Http1(Box<Open>);

#[derive(Debug)]
struct Open {
    sender: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Stream>, RequestBody>,
    closed: bool,
    key: pool::Key,
    expires_us: Option<u64>,
    permit: Option<ConnectionPermit>,
}

/// A try that brought no response; the request comes back when nothing of it was sent.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// The unsent request.
    pub request: Option<Request<RequestBody>>,
}

/// The options of every client connection.
pub(crate) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.max_buf_size(BUFFER_MAX).writev(false);
    builder
}

impl Http1 {
    /// Speak HTTP/1.1 on a new connection.
    pub async fn start(
        connected: Connected,
        key: pool::Key,
        permit: Option<ConnectionPermit>,
    ) -> Result<Http1, Error> {
        let (sender, connection) = builder()
            .handshake(TokioIo::new(connected.stream))
            .await
            .map_err(|error| Error::new(Reason::ConnectFailed, error.to_string()))?;
        let expires_us = connected.expires_us;
        Ok(Http1(Box::new(Open {
            sender,
            connection,
            closed: false,
            key,
            expires_us,
            permit,
        })))
    }

    /// Drive the connection.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        self.0.poll(cx);
    }

    /// Whether a request may be sent now.
    pub fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        let open = &mut *self.0;
        open.poll(cx);
        !open.closed
            && open.expires_us.is_none_or(|end| now_us() < end)
            && matches!(open.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// Send a request and wait for the head of its response.
    ///
    /// # Errors
    /// [`Reason::Unsent`], [`Reason::Reset`] or [`Reason::BadResponse`].
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        let mut response = std::pin::pin!(self.0.sender.try_send_request(request));
        std::future::poll_fn(|cx| {
            self.0.poll(cx);
            response.as_mut().poll(cx)
        })
        .await
        .map_err(|mut failure| {
            let request = failure.take_message();
            let error = failure.into_error();
            let reason = match &request {
                Some(_) => Reason::Unsent,
                None if error.is_parse() => Reason::BadResponse,
                None => Reason::Reset,
            };
            Failed {
                error: Error::new(reason, describe(&error)),
                request,
            }
        })
    }

    /// Whether the connection counts against the limits of `service`.
    pub fn belongs_to(&self, service: &Arc<Service>) -> bool {
        self.0
            .permit
            .as_ref()
            .is_some_and(|permit| Arc::ptr_eq(&permit.0, service))
    }

    /// The response has ended: keep the connection for the next request if it is in order.
    pub fn give_back(mut self, worker: &Rc<Worker>, cx: &mut Context<'_>) {
        if !self.is_usable(cx) {
            return;
        }
        let waited_for = self.0.permit.as_ref().map(|permit| Arc::clone(&permit.0));
        pool::check_in(worker, self.0.key, self);
        if let Some(service) = waited_for
            && service.load.pending.load(Relaxed) > 0
        {
            service.load.freed.notify_one();
        }
    }
}

impl Open {
    fn poll(&mut self, cx: &mut Context<'_>) {
        // The outcome reaches the request through its own future or body.
        if !self.closed && Pin::new(&mut self.connection).poll(cx).is_ready() {
            self.closed = true;
        }
    }
}

/// The error with its causes.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
