//! The client of one request: it gets interim responses, one response, or an abrupt end.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::StatusCode;

use crate::fields::Name;
use crate::head::{Length, ResponseHead};
use crate::http1;
use crate::http1::encode::{self, Asked};
use crate::http2::{self, heads, websocket};
use crate::side::{Broken, Side};
use crate::timer::{Deadline, micros, now_us, within};

/// How long a response may be silent once the client has ended its side of the connection: it may
/// still read (RFC 9112 §9.6), but most that do so are gone.
pub const HALF_CLOSED_TIME: Duration = Duration::from_secs(10);
/// How long a client may let a response wait that it does not read (Envoy's stream idle timeout).
pub const READ_IDLE_TIME: Duration = Duration::from_secs(300);

/// Who asks, by the version it speaks.
#[derive(Debug)]
pub enum Downstream<'a> {
    /// On a connection of its own.
    Http1(OnConnection<'a>),
    /// On a stream of one.
    Http2(OnStream),
}

/// A client of HTTP/1.1.
#[derive(Debug)]
pub struct OnConnection<'a> {
    connection: &'a mut http1::Connection,
    asked: Asked,
    state: State,
    half_closed: Option<Deadline>,
}

/// How far the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing final was written.
    Waits,
    /// The response's head was written; the connection is kept after it or not.
    Answered {
        /// Whether the client was told that the connection lives on.
        kept: bool,
    },
    /// What follows is not HTTP any more.
    Switched,
    /// What was written is not whole and never will be.
    Broken,
}

/// A client of HTTP/2.
#[derive(Debug)]
pub struct OnStream {
    respond: SendResponse<Bytes>,
    stream: http2::Stream,
    head: bool,
    answered: bool,
}

impl<'a> Downstream<'a> {
    /// The client at the other end of `connection`.
    pub fn on_connection(connection: &'a mut http1::Connection, asked: Asked) -> Downstream<'a> {
        Downstream::Http1(OnConnection {
            connection,
            asked,
            state: State::Waits,
            half_closed: None,
        })
    }

    /// The client of a stream; `head`: it asked by HEAD.
    pub fn on_stream(
        respond: SendResponse<Bytes>,
        stream: http2::Stream,
        head: bool,
    ) -> Downstream<'static> {
        Downstream::Http2(OnStream {
            respond,
            stream,
            head,
            answered: false,
        })
    }

    /// Where bodies come from and go to.
    pub fn side(&mut self) -> Side<'_> {
        match self {
            Downstream::Http1(client) => Side::Http1(client.connection),
            Downstream::Http2(client) => Side::Http2(&mut client.stream),
        }
    }

    /// How far the answer is; of a stream nothing depends on it.
    pub fn state(&self) -> State {
        match self {
            Downstream::Http1(client) => client.state,
            Downstream::Http2(client) if client.answered => State::Answered { kept: true },
            Downstream::Http2(_) => State::Waits,
        }
    }

    /// Pass an interim response on (RFC 9110 §15.2). HTTP/1.0 knows none.
    pub fn interim(&mut self, head: &ResponseHead) {
        match self {
            Downstream::Http1(client) if !client.asked.old => {
                encode::interim(client.connection.out(), head, None);
            }
            Downstream::Http1(_) => {}
            Downstream::Http2(client) => {
                // A stream that is gone says so when the response is sent.
                let _gone = client.respond.send_informational(heads::to_response(head));
            }
        }
    }

    /// Begin the response; a body of its length follows, unless it was asked for by HEAD.
    ///
    /// # Errors
    /// The client is gone.
    pub fn respond(&mut self, head: &ResponseHead) -> Result<(), Broken> {
        match self {
            Downstream::Http1(client) => {
                // Whether its body will come, or another request, nobody can tell.
                client.asked.persistent &= !client.asked.expects || client.connection.is_read();
                let (encoder, kept) = encode::response(client.connection.out(), head, client.asked);
                client.connection.begin_body(encoder);
                if !kept {
                    client.connection.end_after();
                }
                client.state = State::Answered { kept };
            }
            Downstream::Http2(client) => {
                let ended = client.head || head.length == Length::None;
                let response = heads::to_response(head);
                let send = client.respond.send_response(response, ended)?;
                client.answered = true;
                if !ended {
                    client.stream.send_to(send);
                }
            }
        }
        Ok(())
    }

    /// Answer with a response whose body is `text`.
    ///
    /// # Errors
    /// The client is gone, or did not read it within [`READ_IDLE_TIME`].
    pub async fn answer(&mut self, mut head: ResponseHead, text: &str) -> Result<(), Broken> {
        let bodiless = self.is_head() || text.is_empty();
        head.length = match bodiless {
            true => Length::None,
            false => Length::Exact(text.len() as u64),
        };
        if !text.is_empty() {
            let length = text.len().to_string();
            head.fields.append(b"content-length", length.as_bytes());
        }
        self.respond(&head)?;
        let mut left = if bodiless { "" } else { text }.as_bytes();
        let mut finished = false;
        let written = std::future::poll_fn(|cx| {
            let mut side = self.side();
            while !left.is_empty() {
                let count = ready!(side.poll_write(cx, left))?;
                left = &left[count..];
            }
            if !finished {
                finished = true;
                side.finish(None)?;
            }
            side.poll_flush(cx, true)
        });
        let late = Err(Broken::Io(std::io::ErrorKind::TimedOut.into()));
        within(READ_IDLE_TIME, written).await.unwrap_or(late)
    }

    fn is_head(&self) -> bool {
        match self {
            Downstream::Http1(client) => client.asked.head,
            Downstream::Http2(client) => client.head,
        }
    }

    /// Switch to `protocol`: what follows are bytes both ways. In HTTP/2 that is an ordinary
    /// success (RFC 8441 §4).
    ///
    /// # Errors
    /// The client is gone.
    pub fn switch(&mut self, head: &ResponseHead, protocol: &[u8]) -> Result<(), Broken> {
        match self {
            Downstream::Http1(client) => {
                encode::interim(client.connection.out(), head, Some(protocol));
                client.connection.switch();
                client.state = State::Switched;
                Ok(())
            }
            Downstream::Http2(_) => {
                let mut head = head.clone();
                head.status = StatusCode::OK;
                head.length = Length::Unknown;
                head.fields.remove_name(websocket::ACCEPT.as_bytes());
                head.fields.remove(&[Name::ContentLength]);
                self.respond(&head)
            }
        }
    }

    /// Whether the client has gone away while it is not answered.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Downstream::Http1(client) => client.poll_gone(cx),
            Downstream::Http2(client) if client.answered => {
                client.stream.poll_reset(cx).map(|_| ())
            }
            Downstream::Http2(client) => client.respond.poll_reset(cx).map(|_| ()),
        }
    }

    /// It takes what is sent: the end of its side does not mean that it is gone.
    pub fn reads(&mut self) {
        if let Downstream::Http1(client) = self {
            client.half_closed = None;
        }
    }

    /// End abruptly: the response is not whole, and the client must be able to tell.
    pub fn abort(&mut self) {
        match self {
            Downstream::Http1(client) => {
                client.state = State::Broken;
                client.connection.abort();
            }
            Downstream::Http2(client) if client.answered => {
                client.stream.reset(h2::Reason::INTERNAL_ERROR);
            }
            Downstream::Http2(client) => client.respond.send_reset(h2::Reason::INTERNAL_ERROR),
        }
    }

    /// The response is the last on its connection, where that is the client's own.
    pub fn close(&mut self) {
        if let Downstream::Http1(client) = self {
            client.asked.persistent = false;
        }
    }
}

impl OnConnection<'_> {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        use std::future::Future;
        // While its body comes, reading it tells.
        if !self.connection.is_read() {
            return Poll::Pending;
        }
        match ready!(self.connection.poll_ended(cx)) {
            Err(_) => Poll::Ready(()),
            Ok(()) => {
                let end_us = now_us() + micros(HALF_CLOSED_TIME);
                let deadline = self.half_closed.get_or_insert(Deadline::at_us(end_us));
                std::pin::Pin::new(deadline).poll(cx)
            }
        }
    }
}
