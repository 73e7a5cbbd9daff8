//! One side of an exchange, client's or upstream's: bodies are read from it and written to it in
//! the same way whatever it speaks, so that one loop carries all of them.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::fields::Fields;
use crate::http1;
use crate::http2;
use crate::splice::{self, Move};
use crate::steps::headers::strip_own;

/// Why a body cannot be read or written further.
#[derive(Debug)]
pub enum Broken {
    /// The connection is.
    Io(io::Error),
    /// The stream is, or its connection.
    Stream(h2::Error),
    /// It ended in the middle.
    Ended,
    /// What came is not HTTP.
    Framing(&'static str),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Io(error) => error.fmt(f),
            Broken::Stream(error) => error.fmt(f),
            Broken::Ended => f.write_str("the connection ended in the middle"),
            Broken::Framing(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::Io(error)
    }
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Broken {
        Broken::Stream(error)
    }
}

/// Which side broke, seen from the way of the data.
#[derive(Debug)]
pub enum Failed {
    /// The one that is read.
    Source(Broken),
    /// The one that is written.
    Sink(Broken),
}

/// A side.
#[derive(Debug)]
pub enum Side<'a> {
    /// A connection of HTTP/1.1.
    Http1(&'a mut http1::Connection),
    /// A stream of HTTP/2.
    Http2(&'a mut http2::Stream),
}

impl Side<'_> {
    /// Wait for data of the body that comes; `false`: it has ended.
    ///
    /// # Errors
    /// It ends in the middle, or is none.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        match self {
            Side::Http1(connection) => connection.poll_fill(cx),
            Side::Http2(stream) => stream.poll_fill(cx),
        }
    }

    /// The data that [`Side::poll_fill`] found.
    fn data(&self) -> &[u8] {
        match self {
            Side::Http1(connection) => connection.data(),
            Side::Http2(stream) => stream.data(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Side::Http1(connection) => connection.consume(count),
            Side::Http2(stream) => stream.consume(count),
        }
    }

    /// Take `count` bytes of the data; of HTTP/2 without a copy.
    fn take(&mut self, count: usize) -> Bytes {
        match self {
            Side::Http1(connection) => {
                let data = Bytes::copy_from_slice(&connection.data()[..count]);
                connection.consume(count);
                data
            }
            Side::Http2(stream) => stream.take(count),
        }
    }

    /// Whether the body is known to end after `count` more bytes.
    fn ends_after(&self, count: usize) -> bool {
        match self {
            Side::Http1(connection) => connection.left() == Some(count as u64),
            Side::Http2(stream) => stream.ends_after(count),
        }
    }

    /// The trailer section of a body that has ended.
    pub fn take_trailers(&mut self) -> Option<Fields> {
        match self {
            Side::Http1(connection) => connection.take_trailers(),
            Side::Http2(stream) => stream.take_trailers(),
        }
    }

    /// Move some of the body that comes to `to` without reading it, where that can be.
    ///
    /// # Errors
    /// Either side is broken.
    pub fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Side<'_>,
        body: &mut splice::Body,
    ) -> Result<Move, Failed> {
        match (self, to) {
            (Side::Http1(from), Side::Http1(to)) => from.poll_move(cx, to, body),
            _ => Ok(Move::Copy),
        }
    }

    /// Write data of the body that goes, as much as there is room for.
    ///
    /// # Errors
    /// The side is broken.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Broken>> {
        match self {
            Side::Http1(connection) => connection.poll_write(cx, data),
            Side::Http2(stream) => {
                let room = ready!(stream.poll_room(cx, data.len()))?;
                stream.send(Bytes::copy_from_slice(&data[..room]), false)?;
                Poll::Ready(Ok(room))
            }
        }
    }

    /// The body that goes has ended.
    ///
    /// # Errors
    /// It is shorter than was said, or the side is broken.
    pub fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Broken> {
        match self {
            Side::Http1(connection) => connection.finish(trailers),
            Side::Http2(stream) => stream.finish(trailers),
        }
    }

    /// Write what waits; `ended`: nothing will follow.
    ///
    /// # Errors
    /// The side is broken.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, ended: bool) -> Poll<Result<(), Broken>> {
        match self {
            Side::Http1(connection) => connection.poll_flush(cx, ended),
            Side::Http2(_) => Poll::Ready(Ok(())),
        }
    }
}

/// Carry the data that `from` holds to `to`, as much as there is room for; `seen` is shown it.
/// How many bytes went, and whether the body has ended with them for both.
///
/// # Errors
/// `to` is broken.
pub fn poll_carry(
    cx: &mut Context<'_>,
    from: &mut Side<'_>,
    to: &mut Side<'_>,
    seen: impl FnOnce(&[u8]),
) -> Poll<Result<(usize, bool), Broken>> {
    match to {
        Side::Http1(connection) => {
            let count = ready!(connection.poll_write(cx, from.data()))?;
            seen(&from.data()[..count]);
            from.consume(count);
            Poll::Ready(Ok((count, false)))
        }
        Side::Http2(stream) => {
            let count = ready!(stream.poll_room(cx, from.data().len()))?;
            let last = from.ends_after(count);
            seen(&from.data()[..count]);
            stream.send(from.take(count), last)?;
            Poll::Ready(Ok((count, last)))
        }
    }
}

/// One way of an exchange: what is read on one side is written on the other.
#[derive(Debug, Default)]
pub struct Pump {
    /// Bytes carried.
    pub bytes: u64,
    /// The end was passed on.
    finished: bool,
    /// The source is broken; what came before goes out first.
    broken: Option<Broken>,
    /// The sink has room for nothing more.
    pub is_full: bool,
    moving: splice::Body,
}

impl Pump {
    /// Carry on until the body has ended and all is written. `trailers` is shown the trailer
    /// section, without what only a mesh may say.
    ///
    /// # Errors
    /// Either side is broken.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Side<'_>,
        mut to: Side<'_>,
        trailers: &mut dyn FnMut(&Fields),
    ) -> Poll<Result<(), Failed>> {
        self.is_full = true;
        while !self.finished {
            let filled = match self.broken {
                Some(_) => Poll::Pending,
                None => match from.poll_move(cx, &mut to, &mut self.moving)? {
                    Move::Moved(count) => {
                        self.bytes += count as u64;
                        continue;
                    }
                    Move::Full => return Poll::Pending,
                    Move::Empty => Poll::Pending,
                    Move::Copy => from.poll_fill(cx),
                },
            };
            let filled = match filled {
                Poll::Ready(Ok(filled)) => filled,
                Poll::Ready(Err(broken)) => {
                    self.broken = Some(broken);
                    continue;
                }
                Poll::Pending => {
                    ready!(to.poll_flush(cx, false)).map_err(Failed::Sink)?;
                    self.is_full = false;
                    return match self.broken.take() {
                        Some(broken) => Poll::Ready(Err(Failed::Source(broken))),
                        None => Poll::Pending,
                    };
                }
            };
            if filled {
                let carried = poll_carry(cx, &mut from, &mut to, |_| {});
                let (count, last) = ready!(carried).map_err(Failed::Sink)?;
                self.bytes += count as u64;
                self.finished = last;
            } else {
                let mut section = from.take_trailers();
                if let Some(section) = &mut section {
                    strip_own(section);
                    trailers(section);
                }
                to.finish(section.as_ref()).map_err(Failed::Sink)?;
                self.finished = true;
            }
        }
        to.poll_flush(cx, true).map_err(Failed::Sink)
    }
}
