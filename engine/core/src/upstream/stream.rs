//! A connection to a peer, plain or in TLS.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::connect::Alpn;
use crate::http1::buffer::Input;

/// Plain or TLS.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// mTLS, boxed because its state is large and a plain stream is small.
    Tls(Box<TlsStream<ReadAhead>>),
}

impl Stream {
    /// Whether its handshake chose HTTP/2.
    pub fn is_http2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(Alpn::Http2.name()),
        }
    }

    /// The port that the peer reached; `None`: the socket is gone.
    pub fn local_port(&self) -> Option<u16> {
        let socket = match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.get_ref().0.socket,
        };
        socket.local_addr().ok().map(|address| address.port())
    }
}

impl Stream {
    /// Reset the connection when it is dropped. In TLS the missing `close_notify` says the same.
    pub fn reset_on_drop(&self) {
        if let Stream::Plain(stream) = self {
            // A socket that refuses is broken already.
            let _refused = stream.set_zero_linger();
        }
    }
}

macro_rules! inner {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Stream::Tls($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => stream.poll_write(cx, buffer))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => stream.poll_write_vectored(cx, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_shutdown(cx))
    }
}

/// What is written to the type goes to its field.
macro_rules! writes_to {
    ($type:ty, $field:ident) => {
        impl AsyncWrite for $type {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$field).poll_write(cx, buffer)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffers: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$field).poll_write_vectored(cx, buffers)
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$field).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$field).poll_shutdown(cx)
            }
        }
    };
}

/// A socket under TLS. `rustls` reads 4 KiB at a time, which is right for small messages; while
/// such reads come full, much more is read at once, and given to it from there.
#[derive(Debug)]
pub struct ReadAhead {
    socket: TcpStream,
    ahead: Input,
    /// The last read took all it had room for.
    filled: bool,
}

impl From<TcpStream> for ReadAhead {
    fn from(socket: TcpStream) -> ReadAhead {
        ReadAhead {
            socket,
            ahead: Input::default(),
            filled: false,
        }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = buffer.remaining();
        if this.ahead.is_empty() {
            if !this.filled {
                ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
                this.filled = buffer.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            let count = ready!(this.ahead.poll_read(cx, &mut this.socket))?;
            this.filled = count > room;
        }
        let count = this.ahead.bytes().len().min(room);
        buffer.put_slice(&this.ahead.bytes()[..count]);
        this.ahead.consume(count);
        if !this.filled {
            this.ahead.release();
        }
        Poll::Ready(Ok(()))
    }
}

writes_to!(ReadAhead, socket);

/// A stream whose first bytes were read already.
#[derive(Debug)]
pub struct Rewound {
    stream: Stream,
    read: Vec<u8>,
    given: usize,
}

impl Rewound {
    /// `stream`, from which `read` was read.
    pub fn new(stream: Stream, read: Vec<u8>) -> Rewound {
        Rewound {
            stream,
            read,
            given: 0,
        }
    }

    /// As [`Stream::local_port`].
    pub fn local_port(&self) -> Option<u16> {
        self.stream.local_port()
    }

    /// As [`Stream::reset_on_drop`].
    pub fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.read.len() {
            let count = buffer.remaining().min(self.read.len() - self.given);
            buffer.put_slice(&self.read[self.given..self.given + count]);
            self.given += count;
            if self.given == self.read.len() {
                (self.read, self.given) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

writes_to!(Rewound, stream);

/// Whether anything has come from a peer.
#[derive(Clone, Debug, Default)]
pub struct Heard(Rc<Cell<bool>>);

impl Heard {
    /// `stream`, which notes here what comes.
    pub fn from(&self, stream: Rewound) -> Watched {
        Watched {
            stream,
            heard: self.clone(),
        }
    }

    /// Whether anything came since the last call.
    pub fn take(&self) -> bool {
        self.0.take()
    }
}

/// A stream whose peer's signs of life are noted.
#[derive(Debug)]
pub struct Watched {
    stream: Rewound,
    heard: Heard,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.heard.0.set(true);
        }
        read
    }
}

writes_to!(Watched, stream);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_read_ahead_comes_in_order_and_small_messages_are_not() -> io::Result<()> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let mut writer = TcpStream::connect(listener.local_addr()?).await?;
        let (socket, _) = listener.accept().await?;
        let mut reader = ReadAhead::from(socket);
        let mut room = [0; 4096];
        writer.write_all(b"small").await?;
        assert_eq!(reader.read(&mut room).await?, 5);
        assert!(!reader.filled);

        let sent: Vec<u8> = (0..1_000_000).map(|at: u32| (at / 251) as u8).collect();
        let written = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&written).await?;
            Ok::<_, io::Error>(writer)
        });
        let (mut came, mut most_ahead) = (Vec::new(), 0);
        while came.len() < sent.len() {
            let count = reader.read(&mut room).await?;
            came.extend_from_slice(&room[..count]);
            most_ahead = most_ahead.max(reader.ahead.bytes().len());
        }
        assert!(came == sent && most_ahead > room.len(), "{most_ahead}");
        drop(writing.await.expect("it ends")?);
        assert_eq!(reader.read(&mut room).await?, 0);
        Ok(())
    }
}
