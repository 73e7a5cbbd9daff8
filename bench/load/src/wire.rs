//! One non-blocking connection, plain or TLS, read and written the same way.

use rustls::{Connection, HandshakeKind};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

/// A connection's socket and, with TLS, its session.
pub struct Wire {
    stream: TcpStream,
    tls: Option<Box<Connection>>,
}

impl Wire {
    /// Wraps a connected socket.
    pub fn new(stream: TcpStream, tls: Option<Connection>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            tls: tls.map(Box::new),
        })
    }

    /// The socket, to wait for.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether its TLS session was resumed.
    pub fn resumed(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Whether a read of less than was asked for means that nothing more has arrived.
    pub fn short_read_is_last(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads what is there; 0 is the end, with TLS also without its close message.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            let arrived = tls.read_tls(&mut self.stream)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            flush(tls, &mut self.stream)?;
            if arrived == 0 && tls.is_handshaking() {
                return Ok(0);
            }
        }
    }

    /// Writes as much as fits.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.write(bytes);
        };
        let taken = tls.writer().write(bytes)?;
        flush(tls, &mut self.stream)?;
        if taken == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Sends what TLS still holds; call it when the socket has room again.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => flush(tls, &mut self.stream),
            None => Ok(()),
        }
    }

    /// Says goodbye where the protocol has a word for it.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The peer may be gone already.
            let _ = flush(tls, &mut self.stream);
        }
    }
}

fn flush(tls: &mut Connection, stream: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
