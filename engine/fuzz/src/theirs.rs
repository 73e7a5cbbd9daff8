//! hyper's reader over the same bytes, without sockets and threads.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::rt::{Read, ReadBufCursor, Write};
use tulle_engine::http1::parse::AskedWith;

use crate::{Line, Message, Reply, by_name, ours};

/// A peer that sends `input`, once it was spoken to if it answers, and ends its side once `ended`
/// says so.
struct Wire {
    input: Vec<u8>,
    at: usize,
    waits: bool,
    ended: Rc<Cell<bool>>,
}

impl Wire {
    fn new(input: &[u8], waits: bool, ended: &Rc<Cell<bool>>) -> Wire {
        Wire {
            input: input.to_vec(),
            at: 0,
            waits,
            ended: Rc::clone(ended),
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.input[self.at..];
        if self.waits || (left.is_empty() && !self.ended.get()) {
            return Poll::Pending;
        }
        let count = left.len().min(room.remaining());
        room.put_slice(&left[..count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.waits = false;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// Poll for as long as there is something to do. `None`: it waits for the peer.
fn drive<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = poll(&mut cx) {
            return Some(value);
        }
        if !woken.0.swap(false, Relaxed) {
            return None;
        }
    }
}

fn lines(map: &HeaderMap) -> Vec<Line> {
    by_name(
        map.iter()
            .map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())),
    )
}

fn message(first: String, version: Version, map: &HeaderMap) -> Message {
    Message {
        first,
        version,
        fields: lines(map),
        body: Vec::new(),
        trailers: Vec::new(),
        whole: false,
    }
}

/// Read `body` into `message`.
async fn fill(message: &mut Message, mut body: Incoming) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return;
        };
        match frame.into_data() {
            Ok(data) => message.body.extend_from_slice(&data),
            Err(frame) => {
                message.trailers = frame.trailers_ref().map(lines).unwrap_or_default();
            }
        }
    }
    message.whole = true;
}

fn target<B>(request: &Request<B>) -> String {
    let uri = request.uri();
    let authority = uri.authority().map(|authority| authority.as_str());
    format!(
        "{} {authority:?} {:?} {:?}",
        request.method(),
        uri.path(),
        uri.query()
    )
}

/// The requests at the front of `input`.
pub fn requests(input: &[u8]) -> Vec<Message> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let mut read = message(target(&request), request.version(), request.headers());
            let mut response = Response::new(Empty::<Bytes>::new());
            if request.method() == Method::CONNECT {
                // Anything else would make a tunnel of the connection.
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
            let at = seen.borrow().len();
            seen.borrow_mut().push(read.clone());
            fill(&mut read, request.into_body()).await;
            seen.borrow_mut()[at] = read;
            Ok::<_, Infallible>(response)
        }
    });
    let wire = Wire::new(input, false, &Rc::new(Cell::new(true)));
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .auto_date_header(false)
            .serve_connection(wire, service)
    );
    let _refused = drive(|cx| connection.as_mut().poll(cx));
    seen.take()
}

/// The final response at the front of `input`.
pub fn response(asked: AskedWith, input: &[u8]) -> Option<Reply> {
    let ended = Rc::new(Cell::new(false));
    let made = hyper::client::conn::http1::handshake(Wire::new(input, true, &ended));
    let mut made = pin!(made);
    let (mut sender, mut connection) = drive(|cx| made.as_mut().poll(cx))?.ok()?;
    let mut request = Request::get("/").body(Empty::<Bytes>::new()).ok()?;
    if asked.head {
        *request.method_mut() = Method::HEAD;
    }
    if asked.switch {
        let lines = request.headers_mut();
        lines.insert(
            header::CONNECTION,
            header::HeaderValue::from_static("upgrade"),
        );
        lines.insert(header::UPGRADE, header::HeaderValue::from_static("x"));
    }
    let answer = sender.send_request(request);
    let mut read = Box::pin(async move {
        let response = answer.await.ok()?;
        let phrase = response.extensions().get::<ReasonPhrase>();
        let first = ours::status(response.status(), phrase.map(ReasonPhrase::as_bytes));
        let mut read = message(first, Version::HTTP_11, response.headers());
        fill(&mut read, response.into_body()).await;
        Some(read)
    });
    let mut over = false;
    let mut poll = |cx: &mut Context<'_>| {
        over = over || connection.poll_without_shutdown(cx).is_ready();
        read.as_mut().poll(cx)
    };
    let before_end = drive(&mut poll);
    let kept_open = before_end.is_some();
    let message = before_end.or_else(|| {
        ended.set(true);
        drive(&mut poll)
    });
    let message = message??;
    let kept = kept_open.then(|| {
        drive(|cx| {
            over = over || connection.poll_without_shutdown(cx).is_ready();
            sender.poll_ready(cx)
        })
        .is_some_and(|ready| ready.is_ok())
    });
    let parts = connection.into_parts();
    let left = parts.read_buf.len() + parts.io.input.len() - parts.io.at;
    Some(Reply {
        message,
        left,
        kept,
    })
}
