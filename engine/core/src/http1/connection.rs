//! One connection that speaks HTTP/1.1, in either role: it reads heads and bodies from its input
//! and frames what goes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{Decoder, Step};
use super::buffer::{Input, Output};
use super::encode::{self, Encoder};
use super::parse::{Framed, Scan};
use crate::error::{Error, Reason};
use crate::fields::Fields;
use crate::side::{Broken, Failed};
use crate::splice::{self, Move};
use crate::upstream::stream::Stream;

/// From how many waiting bytes on they are written before more is added.
const OUTPUT_MAX: usize = 16 * 1024;
/// A piece of a body of at least this size is written from where it was read, uncopied, together
/// with the head that waits.
const DIRECT_MIN: usize = 4 * 1024;

/// A connection with what is under way on it.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    input: Input,
    output: Output,
    scan: Scan,
    /// Of the body that comes.
    decoder: Decoder,
    /// How much of the body that comes is in the input's front.
    ready: usize,
    /// Of the body that goes.
    encoder: Encoder,
    /// The peer has ended its side.
    ended: bool,
    /// What is written is the last message.
    last: bool,
    /// The peer was told that no more will come.
    said: bool,
}

impl Connection {
    /// Over a fresh stream.
    pub fn new(stream: Stream) -> Connection {
        Connection {
            stream,
            input: Input::default(),
            output: Output::default(),
            scan: Scan::default(),
            decoder: Decoder::DONE,
            ready: 0,
            encoder: Encoder::Exact(0),
            ended: false,
            last: false,
            said: false,
        }
    }

    /// Over a stream from which `read` was read already.
    pub fn resumed(stream: Stream, read: Vec<u8>) -> Connection {
        let mut connection = Connection::new(stream);
        connection.input = Input::of(read);
        connection
    }

    /// The stream, and what was read from it already.
    pub fn into_parts(mut self) -> (Stream, Vec<u8>) {
        let read = self.input.bytes().to_vec();
        self.input.consume(read.len());
        (self.stream, read)
    }

    /// Read until `input` says enough; `Ok(false)`: the peer ended before.
    ///
    /// # Errors
    /// The connection is broken, or what `enough` found.
    pub fn poll_until<E: From<Broken>>(
        &mut self,
        cx: &mut Context<'_>,
        mut enough: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Poll<Result<bool, E>> {
        loop {
            if !self.input.is_empty() && enough(self.input.bytes())? {
                return Poll::Ready(Ok(true));
            }
            if self.ended {
                return Poll::Ready(Ok(false));
            }
            let read = ready!(self.input.poll_read(cx, &mut self.stream)).map_err(Broken::Io)?;
            self.ended = read == 0;
        }
    }

    /// The next head, parsed by `parse`; `None`: the peer ended before it began.
    ///
    /// # Errors
    /// What is wrong with the head, or [`Reason::ClientGone`] when the connection broke or ended.
    pub fn poll_head<H>(
        &mut self,
        cx: &mut Context<'_>,
        parse: impl Fn(&[u8]) -> Result<Option<Framed<H>>, Error>,
    ) -> Poll<Result<Option<Framed<H>>, Error>> {
        loop {
            let head = self.scan.head(self.input.bytes(), &parse);
            match &head {
                Ok(None) => {}
                Ok(Some(framed)) => {
                    self.input.consume(framed.end);
                    return Poll::Ready(head);
                }
                Err(_) => return Poll::Ready(head),
            }
            if self.ended {
                return Poll::Ready(match self.input.is_empty() {
                    true => Ok(None),
                    false => Err(Broken::Ended.into()),
                });
            }
            let read = ready!(self.input.poll_read(cx, &mut self.stream)).map_err(Broken::Io)?;
            self.ended = read == 0;
        }
    }

    /// Whether a head has begun to come.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// The body that follows the head is framed as `decoder` says.
    pub fn expect_body(&mut self, decoder: Decoder) {
        self.decoder = decoder;
        self.ready = 0;
    }

    /// What is written next is framed as `encoder` says.
    pub fn begin_body(&mut self, encoder: Encoder) {
        self.encoder = encoder;
    }

    /// Nothing is written after the message that goes.
    pub fn end_after(&mut self) {
        self.last = true;
    }

    /// From now on bytes go both ways as they are.
    pub fn switch(&mut self) {
        self.expect_body(Decoder::UNTIL_CLOSE);
        self.begin_body(Encoder::Raw);
    }

    /// The text that goes out next.
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.output.text()
    }

    /// Wait for data of the body that comes; `false`: it has ended.
    ///
    /// # Errors
    /// It ends in the middle, or its chunks are none.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        loop {
            match self.decoder.next(self.input.bytes()) {
                Err(what) => return Poll::Ready(Err(Broken::Framing(what))),
                Ok(Step::End) => return Poll::Ready(Ok(false)),
                Ok(Step::Data(count)) => {
                    self.ready = count;
                    return Poll::Ready(Ok(true));
                }
                Ok(Step::Skip(count)) => self.input.consume(count),
                Ok(Step::More) if self.ended => {
                    return Poll::Ready(match self.decoder.is_until_close() {
                        true => {
                            self.decoder = Decoder::DONE;
                            Ok(false)
                        }
                        false => Err(Broken::Ended),
                    });
                }
                Ok(Step::More) => {
                    let read = ready!(self.input.poll_read(cx, &mut self.stream))?;
                    self.ended = read == 0;
                }
            }
        }
    }

    /// The data that [`Connection::poll_fill`] found.
    pub fn data(&self) -> &[u8] {
        &self.input.bytes()[..self.ready]
    }

    /// Take `count` bytes of the data.
    pub fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.decoder.advance(count);
        self.ready -= count;
    }

    /// The trailer section of a body that has ended.
    pub fn take_trailers(&mut self) -> Option<Fields> {
        self.decoder.take_trailers()
    }

    /// Whether the body that comes was read to its end.
    pub fn is_read(&self) -> bool {
        self.decoder.is_done()
    }

    /// The bytes that the body's length says are still to come.
    pub fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Write data of the body that goes, as much as there is room for; at least a byte.
    ///
    /// # Errors
    /// The connection is broken, or the body is longer than was said.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Broken>> {
        if self.output.len() >= OUTPUT_MAX {
            ready!(self.output.poll_flush(cx, &mut self.stream))?;
        }
        let room = match self.encoder {
            Encoder::Exact(0) => return Poll::Ready(Err(Broken::Framing("the body is too long"))),
            Encoder::Exact(left) => usize::try_from(left).unwrap_or(usize::MAX),
            Encoder::Chunked | Encoder::UntilClose | Encoder::Raw => usize::MAX,
        };
        let data = &data[..data.len().min(room)];
        let count = if self.encoder == Encoder::Chunked {
            let data = &data[..data.len().min(OUTPUT_MAX)];
            encode::chunk(self.output.text(), data);
            data.len()
        } else if data.len() >= DIRECT_MIN {
            ready!(self.output.poll_write(cx, &mut self.stream, data))?
        } else {
            self.output.text().extend_from_slice(data);
            data.len()
        };
        if let Encoder::Exact(left) = &mut self.encoder {
            *left -= count as u64;
        }
        Poll::Ready(Ok(count))
    }

    /// Move some of the body that comes to `to` without reading it, where both are plain and its
    /// length says where it ends; [`Move::Copy`]: this is not such a body.
    ///
    /// # Errors
    /// Either connection is broken, or the body ends in the middle.
    pub fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Connection,
        body: &mut splice::Body,
    ) -> Result<Move, Failed> {
        let reads = self.input.is_empty() && !self.ended;
        let (Some(left), Encoder::Exact(owed)) = (self.decoder.left(), to.encoder) else {
            return Ok(Move::Copy);
        };
        let left = left.min(owed);
        if !body.is_begun() && (!reads || left < splice::BODY_MIN) {
            return Ok(Move::Copy);
        }
        let (Stream::Plain(from), Stream::Plain(_)) = (&self.stream, &to.stream) else {
            return Ok(Move::Copy);
        };
        match to.output.poll_flush(cx, &mut to.stream) {
            Poll::Pending => return Ok(Move::Full),
            Poll::Ready(flushed) => flushed.map_err(|error| Failed::Sink(error.into()))?,
        }
        let Stream::Plain(sink) = &to.stream else {
            return Ok(Move::Copy);
        };
        let moved = body.poll(cx, from, sink, left, reads);
        let moved = moved.map_err(|end| match end {
            splice::End::Reader(Some(error)) => Failed::Source(error.into()),
            splice::End::Reader(None) => Failed::Source(Broken::Ended),
            splice::End::Writer(error) => Failed::Sink(error.into()),
        })?;
        if let Move::Moved(count) = moved {
            self.decoder.advance(count);
            to.encoder = Encoder::Exact(owed - count as u64);
        }
        Ok(moved)
    }

    /// The body that goes has ended.
    ///
    /// # Errors
    /// It is shorter than was said.
    pub fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Broken> {
        match self.encoder {
            Encoder::Exact(0) | Encoder::UntilClose | Encoder::Raw => Ok(()),
            Encoder::Exact(_) => Err(Broken::Framing("the body is too short")),
            Encoder::Chunked => {
                encode::last_chunk(self.output.text(), trailers);
                self.encoder = Encoder::Exact(0);
                Ok(())
            }
        }
    }

    /// Write what waits; after the end of raw bytes, or of the last message, say that no more will
    /// come.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, ended: bool) -> Poll<Result<(), Broken>> {
        if let Stream::Plain(socket) = &self.stream
            && ended
            && self.last
            && !self.said
        {
            ready!(self.output.poll_end(cx, socket))?;
            self.said = true;
            return Poll::Ready(Ok(()));
        }
        ready!(self.output.poll_flush(cx, &mut self.stream))?;
        if ended && self.encoder == Encoder::Raw {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether nothing of what was begun has left.
    pub fn is_unwritten(&self) -> bool {
        self.output.is_unwritten()
    }

    /// Whether the peer has ended its side, or the connection broke. Reads ahead, within one
    /// buffer, when nothing is under way.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ended {
            if !self.input.is_empty() {
                return Poll::Pending;
            }
            let read = ready!(self.input.poll_read(cx, &mut self.stream))?;
            self.ended = read == 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether nothing is under way, as far as was read; what holds nothing is let go.
    pub fn is_at_rest(&mut self) -> bool {
        self.input.release();
        self.is_read() && self.input.is_empty() && self.output.is_empty() && !self.ended
    }

    /// Whether an idle connection may carry another message: the peer has neither ended it nor
    /// sent anything unasked.
    pub fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.input.is_empty() && !self.ended && self.poll_ended(&mut cx).is_pending() && {
            let quiet = self.input.is_empty();
            self.input.release();
            quiet
        }
    }

    /// End in a way that the peer cannot take for the end of a body.
    pub fn abort(&mut self) {
        if matches!(self.encoder, Encoder::UntilClose | Encoder::Raw) {
            self.stream.reset_on_drop();
        }
    }

    /// End the connection so that the peer can still read the last answer: say that no more will
    /// come, and read what it still sends, up to `bytes` (RFC 9112 §9.6).
    pub async fn linger(&mut self, bytes: usize) {
        let mut left = bytes;
        let mut scrap = vec![0; bytes.min(4096)];
        std::future::poll_fn(|cx| {
            if ready!(self.output.poll_flush(cx, &mut self.stream)).is_err() {
                return Poll::Ready(());
            }
            // With nothing to read, closing the socket says it as well.
            if left == 0 && matches!(self.stream, Stream::Plain(_)) {
                return Poll::Ready(());
            }
            if !self.said && ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.said = true;
            while left > 0 {
                let mut room = ReadBuf::new(&mut scrap);
                let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room));
                let count = room.filled().len();
                left = left.saturating_sub(count);
                if read.is_err() || count == 0 {
                    break;
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

impl From<Broken> for Error {
    /// Of a client, where it says something: whoever reads an upstream gives its own reason.
    fn from(broken: Broken) -> Error {
        Error::new(Reason::ClientGone, broken.to_string())
    }
}
