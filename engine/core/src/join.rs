//! Two ends joined: bytes both ways until both have ended, or either broke.
//!
//! One task and no queue: what the reader of one end cannot take is not read from the other. An
//! end that closes its half closes that half at the other side; a broken one breaks the other, and
//! so does a wait that was too long, or the end of the sidecar.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, tcp};

use crate::hbone::FRAME;
use crate::observe::Observation;
use crate::splice;
use crate::timer::{Deadline, micros, now_us};
use crate::upstream::connect::keep_alive;
use crate::upstream::stream::Rewound;

/// First size of a buffer that is read into, bytes.
const BUFFER_MIN: usize = 2 * 1024;
/// Size it grows to while reads fill it, bytes, as much as a frame of a tunnel takes: all that is
/// held in one direction when the other end is slow, besides what a tunnel's window lets in.
pub const BUFFER_MAX: usize = FRAME as usize;

/// A connection to the application that carried nothing for this long is closed (Envoy's default).
pub const IDLE_TIME: Duration = Duration::from_secs(3600);

/// One end.
pub enum Side {
    /// A socket.
    Tcp(TcpStream),
    /// A stream of a connection between sidecars.
    Tunnel(Tunnel),
    /// What became of an HTTP connection.
    Other(Box<Rewound>),
}

/// A stream of HTTP/2 after a CONNECT was answered with 200.
#[derive(Debug)]
pub struct Tunnel {
    /// Towards the peer.
    pub send: SendStream<Bytes>,
    /// From the peer.
    pub receive: RecvStream,
}

/// One end, and what was read from it to learn what it is.
pub struct End {
    side: Side,
    ahead: BytesMut,
}

impl From<Side> for End {
    fn from(side: Side) -> End {
        End {
            side,
            ahead: BytesMut::new(),
        }
    }
}

impl End {
    /// What was read already.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Read more of it; `false`: it has ended.
    ///
    /// # Errors
    /// It broke.
    pub async fn read_ahead(&mut self) -> io::Result<bool> {
        let read = match &mut self.side {
            Side::Tcp(stream) => stream.read_buf(&mut self.ahead).await?,
            Side::Other(stream) => stream.read_buf(&mut self.ahead).await?,
            Side::Tunnel(tunnel) => match tunnel.receive.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(io::Error::other)?;
                    self.ahead.extend_from_slice(&chunk);
                    chunk.len()
                }
                None => 0,
            },
        };
        Ok(read > 0)
    }

    /// Write to it before it is joined.
    ///
    /// # Errors
    /// It broke.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.side.split().1.write(bytes).await
    }

    /// The socket, where it is one of its own.
    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.side {
            Side::Tcp(stream) => Some(stream),
            Side::Tunnel(_) | Side::Other(_) => None,
        }
    }

    /// As [`End::socket`], given back.
    pub fn into_socket(self) -> Option<TcpStream> {
        match self.side {
            Side::Tcp(stream) => Some(stream),
            Side::Tunnel(_) | Side::Other(_) => None,
        }
    }

    /// Ask a peer that is silent for long whether it is still there.
    fn keep_alive(&self) {
        if let Side::Tcp(stream) = &self.side {
            keep_alive(SockRef::from(stream));
        }
    }

    /// Break the connection, so that the peer does not take what it has for the whole
    /// (RFC 9113 §8.5).
    pub fn abort(&mut self) {
        match &mut self.side {
            // A socket that refuses is gone already.
            Side::Tcp(stream) => {
                let _gone = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
            }
            Side::Tunnel(tunnel) => tunnel.send.send_reset(Reason::CONNECT_ERROR),
            Side::Other(stream) => stream.reset_on_drop(),
        }
    }
}

/// Two ends. Unless both have said their last they break when dropped, for whatever reason: an end
/// that nobody said must not look like one.
struct Joined {
    near: End,
    far: End,
    ended: bool,
}

impl Drop for Joined {
    fn drop(&mut self) {
        if !self.ended {
            self.near.abort();
            self.far.abort();
        }
    }
}

/// Join `near` and `far`. What `near` sends is counted as the request. Ends also when nothing
/// was carried for `idle`, if that is not zero.
pub async fn join(near: End, far: End, seen: Observation, idle: Duration) {
    let meter = Meter::new(seen);
    far.keep_alive();
    let mut joined = Joined {
        near,
        far,
        ended: false,
    };
    let Joined { near, far, .. } = &mut joined;
    let both = async {
        let sent = (near.ahead.split().freeze(), far.ahead.split().freeze());
        let (mut near_reader, mut near_writer) = near.side.split();
        let (mut far_reader, mut far_writer) = far.side.split();
        tokio::try_join!(
            pump(sent.0, &mut near_reader, &mut far_writer, |n| meter
                .carried(n, 0)),
            pump(sent.1, &mut far_reader, &mut near_writer, |n| meter
                .carried(0, n)),
        )
    };
    joined.ended = tokio::select! {
        biased;
        ended = both => ended.is_ok(),
        () = meter.idle(idle) => false,
    };
}

/// Counts what is carried, and when it last was.
struct Meter {
    seen: RefCell<Observation>,
    last_us: Cell<u64>,
}

impl Meter {
    fn new(seen: Observation) -> Meter {
        Meter {
            seen: RefCell::new(seen),
            last_us: Cell::new(now_us()),
        }
    }

    fn carried(&self, request: usize, response: usize) {
        self.last_us.set(now_us());
        self.seen
            .borrow_mut()
            .carried(request as u64, response as u64);
    }

    /// Wait until nothing was carried for `limit`.
    async fn idle(&self, limit: Duration) {
        if limit.is_zero() {
            return pending().await;
        }
        loop {
            let end_us = self.last_us.get().saturating_add(micros(limit));
            if end_us <= now_us() {
                return;
            }
            Deadline::at_us(end_us).await;
        }
    }
}

/// Carry one direction to its end; `ahead` was read before.
async fn pump(
    ahead: Bytes,
    reader: &mut Reader<'_>,
    writer: &mut Writer<'_>,
    carried: impl Fn(usize),
) -> io::Result<()> {
    if !ahead.is_empty() {
        let length = ahead.len();
        writer.write(ahead).await?;
        carried(length);
        reader.consumed(length)?;
    }
    if let (Reader::Tcp(reader, _), Writer::Tcp(writer)) = (&mut *reader, &mut *writer) {
        return splice::carry(reader, writer, &carried).await;
    }
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = reader.read() => chunk?,
            broken = writer.broken() => return Err(broken),
        };
        let length = chunk.len();
        if length == 0 {
            return writer.finish().await;
        }
        tokio::select! {
            biased;
            written = writer.write(chunk) => written?,
            () = reader.gather() => {}
        }
        carried(length);
        reader.consumed(length)?;
    }
}

impl Side {
    fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Side::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Tcp(reader, Buffer::default()), Writer::Tcp(writer))
            }
            Side::Tunnel(tunnel) => (
                Reader::Tunnel(Gathered::new(&mut tunnel.receive)),
                Writer::Tunnel(&mut tunnel.send),
            ),
            Side::Other(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                (
                    Reader::Other(reader, Buffer::default()),
                    Writer::Other(writer),
                )
            }
        }
    }
}

enum Reader<'a> {
    Tcp(tcp::ReadHalf<'a>, Buffer),
    Tunnel(Gathered<'a>),
    Other(ReadHalf<&'a mut Box<Rewound>>, Buffer),
}

impl Reader<'_> {
    /// The next bytes; none: the end.
    async fn read(&mut self) -> io::Result<Bytes> {
        match self {
            Reader::Tcp(stream, buffer) => buffer.fill_when_ready(stream).await,
            Reader::Tunnel(gathered) => gathered.next().await,
            Reader::Other(stream, buffer) => {
                buffer.bytes.reserve(buffer.size);
                stream.read_buf(&mut buffer.bytes).await?;
                Ok(buffer.take())
            }
        }
    }

    /// Take in what comes while the last bytes are not written yet; never ends.
    async fn gather(&mut self) {
        match self {
            Reader::Tunnel(gathered) => gathered.gather().await,
            Reader::Tcp(..) | Reader::Other(..) => pending().await,
        }
    }

    /// The bytes were written: as many more may come.
    fn consumed(&mut self, length: usize) -> io::Result<()> {
        match self {
            Reader::Tunnel(gathered) => gathered
                .receive
                .flow_control()
                .release_capacity(length)
                .map_err(io::Error::other),
            Reader::Tcp(..) | Reader::Other(..) => Ok(()),
        }
    }
}

/// What is read into. It grows while reads fill it, and holds no memory while nothing comes.
struct Buffer {
    bytes: BytesMut,
    size: usize,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer {
            bytes: BytesMut::new(),
            size: BUFFER_MIN,
        }
    }
}

impl Buffer {
    async fn fill_when_ready(&mut self, stream: &mut tcp::ReadHalf<'_>) -> io::Result<Bytes> {
        poll_fn(|cx| {
            loop {
                std::task::ready!(stream.as_ref().poll_read_ready(cx))?;
                self.bytes.reserve(self.size);
                match pin!(stream.read_buf(&mut self.bytes)).poll(cx) {
                    Poll::Ready(Ok(_)) => return Poll::Ready(Ok(self.take())),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => self.bytes = BytesMut::new(),
                }
            }
        })
        .await
    }

    /// What was read; the next size follows from it.
    fn take(&mut self) -> Bytes {
        let read = self.bytes.split().freeze();
        if read.len() >= self.size {
            self.size = (self.size * 4).min(BUFFER_MAX);
        } else if read.len() < self.size / 4 {
            self.size = (self.size / 2).max(BUFFER_MIN);
        }
        read
    }
}

/// The receiving half of a tunnel. Frames are taken from the connection although the other end
/// is slow, at most a window of them: the connection ends when many small ones wait in it.
struct Gathered<'a> {
    receive: &'a mut RecvStream,
    waiting: BytesMut,
    /// How it ended.
    ended: Option<io::Result<()>>,
}

impl<'a> Gathered<'a> {
    fn new(receive: &'a mut RecvStream) -> Gathered<'a> {
        Gathered {
            receive,
            waiting: BytesMut::new(),
            ended: None,
        }
    }

    async fn next(&mut self) -> io::Result<Bytes> {
        if !self.waiting.is_empty() {
            return Ok(std::mem::take(&mut self.waiting).freeze());
        }
        if let Some(ended) = self.ended.take() {
            return ended.map(|()| Bytes::new());
        }
        loop {
            match self.receive.data().await {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(chunk) => return chunk.map_err(io::Error::other),
                None => return Ok(Bytes::new()),
            }
        }
    }

    async fn gather(&mut self) {
        while self.ended.is_none() {
            match self.receive.data().await {
                Some(Ok(chunk)) => self.waiting.extend_from_slice(&chunk),
                Some(Err(error)) => self.ended = Some(Err(io::Error::other(error))),
                None => self.ended = Some(Ok(())),
            }
        }
        pending().await
    }
}

enum Writer<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Tunnel(&'a mut SendStream<Bytes>),
    Other(WriteHalf<&'a mut Box<Rewound>>),
}

impl Writer<'_> {
    /// Write all of `chunk`.
    async fn write(&mut self, mut chunk: Bytes) -> io::Result<()> {
        match self {
            Writer::Tcp(stream) => stream.write_all(&chunk).await,
            Writer::Other(stream) => {
                stream.write_all(&chunk).await?;
                stream.flush().await
            }
            Writer::Tunnel(send) => {
                while !chunk.is_empty() {
                    // Asked for with the bytes at hand: room kept by a stream that has nothing to
                    // say would be missing to the others of its connection.
                    send.reserve_capacity(chunk.len());
                    let room = room(send).await?.min(chunk.len());
                    let part = chunk.split_to(room);
                    send.send_data(part, false).map_err(io::Error::other)?;
                }
                Ok(())
            }
        }
    }

    /// Say that nothing more comes.
    async fn finish(&mut self) -> io::Result<()> {
        match self {
            Writer::Tcp(stream) => stream.shutdown().await,
            Writer::Other(stream) => stream.shutdown().await,
            Writer::Tunnel(send) => send.send_data(Bytes::new(), true).map_err(io::Error::other),
        }
    }

    /// Wait until the peer does not want to read any more.
    async fn broken(&mut self) -> io::Error {
        match self {
            Writer::Tunnel(send) => match poll_fn(|cx| send.poll_reset(cx)).await {
                Ok(reason) => io::Error::other(h2::Error::from(reason)),
                Err(error) => io::Error::other(error),
            },
            Writer::Tcp(_) | Writer::Other(_) => pending().await,
        }
    }
}

/// Bytes that the peer lets this stream send now.
async fn room(send: &mut SendStream<Bytes>) -> io::Result<usize> {
    match send.capacity() {
        0 => poll_fn(|cx| send.poll_capacity(cx))
            .await
            .unwrap_or_else(|| Err(Reason::STREAM_CLOSED.into()))
            .map_err(io::Error::other),
        room => Ok(room),
    }
}
