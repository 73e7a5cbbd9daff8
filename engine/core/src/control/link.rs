//! One HTTP/2 connection over mutual TLS.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Timing;
use crate::intercept;
use crate::tls::{session_name, verified_peer};

/// What may be on its way to us unread; records are read as they come, so little is enough.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// What may wait to be written to a slow control plane.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A chain and the roots, or the reason of a refusal.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Why there is no connection, or no answer on it.
#[derive(Debug)]
pub(super) struct LinkError {
    /// One sentence.
    pub(super) why: String,
    /// Somebody was there, but we did not come to an agreement.
    pub(super) reached: bool,
}

impl LinkError {
    fn unreachable(why: String) -> Self {
        Self {
            why,
            reached: false,
        }
    }

    fn reached(why: String) -> Self {
        Self { why, reached: true }
    }
}

/// What hyper starts ends with the `LocalSet` that the connection is on.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// A connection; dropping it closes it.
pub(super) struct Link {
    requests: SendRequest<RequestBody>,
    driver: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A body that is there at once, or frames as they are made.
pub(super) enum RequestBody {
    Whole(Option<Bytes>),
    Frames(mpsc::Receiver<Bytes>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::Frames(frames) => frames.poll_recv(cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Frames(_) => SizeHint::default(),
        }
    }
}

impl Link {
    /// Connects and agrees on TLS; the certificates were checked when this returns.
    pub(super) async fn open(
        address: &str,
        tls: Arc<ClientConfig>,
        timing: &Timing,
    ) -> Result<Self, LinkError> {
        // Boxed: a handshake takes much room, and whoever waits for one lives as long as the sidecar.
        let opening = Box::pin(Self::open_unbounded(address, tls, timing));
        match timeout(timing.connect, opening).await {
            Ok(link) => link,
            Err(_) => Err(LinkError::unreachable(format!(
                "{address}: no connection within {:?}",
                timing.connect
            ))),
        }
    }

    async fn open_unbounded(
        address: &str,
        tls: Arc<ClientConfig>,
        timing: &Timing,
    ) -> Result<Self, LinkError> {
        let said = |error: &dyn Error| format!("{address}: {}", with_causes(error));
        let tcp = dial(address)
            .await
            .map_err(|error| LinkError::unreachable(said(&error)))?;
        let remote = tcp
            .peer_addr()
            .and_then(|remote| tcp.set_nodelay(true).map(|()| remote))
            .map_err(|error| LinkError::unreachable(said(&error)))?;
        let stream = TlsConnector::from(tls)
            .connect(session_name(remote), tcp)
            .await
            .map_err(|error| LinkError::reached(said(&error)))?;
        verified_peer(stream.get_ref().1, SystemTime::now())
            .map_err(|error| LinkError::reached(said(&error)))?;
        let (requests, connection) = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .keep_alive_interval(timing.ping_every)
            .keep_alive_timeout(timing.ping_answer)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| LinkError::reached(said(&error)))?;
        // Its error reaches whoever waits for a response or a body.
        let driver = tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            driver: driver.abort_handle(),
        })
    }

    /// Sends JSON and waits for the whole answer.
    pub(super) async fn post(
        &mut self,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), LinkError> {
        let body = RequestBody::Whole(Some(body.to_string().into()));
        let exchange = Box::pin(async {
            let response = self.send(path, body).await?;
            let status = response.status();
            let answer = answer_of(response).await;
            Ok((status, answer.map_err(LinkError::reached)?))
        });
        match timeout(patience, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(LinkError::reached(format!(
                "{path}: no answer within {patience:?}"
            ))),
        }
    }

    /// Opens a stream of frames both ways; returns with the head of the response.
    pub(super) async fn stream(
        &mut self,
        path: &str,
        frames: mpsc::Receiver<Bytes>,
        patience: Duration,
    ) -> Result<Incoming, LinkError> {
        let sending = Box::pin(self.send(path, RequestBody::Frames(frames)));
        let response = match timeout(patience, sending).await {
            Ok(response) => response?,
            Err(_) => {
                return Err(LinkError::reached(format!(
                    "{path}: no answer within {patience:?}"
                )));
            }
        };
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let answer = timeout(patience, Box::pin(answer_of(response))).await;
        let answer = answer.map_or_else(|_| Bytes::new(), Result::unwrap_or_default);
        Err(LinkError::reached(format!(
            "{path} answered {}: {}",
            status.as_u16(),
            String::from_utf8_lossy(&answer[..answer.len().min(512)])
        )))
    }

    async fn send(
        &mut self,
        path: &str,
        body: RequestBody,
    ) -> Result<Response<Incoming>, LinkError> {
        // The authority is a name for logs; who answers was settled by TLS.
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://control-plane{path}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| LinkError::reached(error.to_string()))?;
        self.requests
            .send_request(request)
            .await
            .map_err(|error| LinkError::reached(format!("{path}: {}", with_causes(&error))))
    }
}

async fn answer_of(response: Response<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(with_causes(&*error)),
    }
}

/// An error and what led to it: hyper's own words alone are "connection error".
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
/// Connect to the first of the addresses of `host:port` that answers.
async fn dial(address: &str) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for one in lookup_host(address).await? {
        match intercept::connect(one, None).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
