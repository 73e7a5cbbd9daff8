//! The application behind every proxy: answers each HTTP/1.1 request with the same twelve bytes, or
//! with as many as the request's `?bytes=` asks for.

use crate::arguments::Identity;
use crate::http1::{content_length, end_of_head, has_line};
use crate::tls;
use crate::wire::Wire;
use rustix::event::epoll;
use rustls::{ServerConfig, ServerConnection};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Header of an answer on a connection that resumed a TLS session.
pub const RESUMED: &str = "x-resumed: true\r\n";
const CLOSE: &str = "connection: close\r\n";
const HELLO: &[u8] = b"hello world\n";
const EVENTS_MAX: usize = 256;
const BACKLOG: i32 = 4096;
const LISTENER: u64 = u64::MAX;
/// Bytes read and written at once.
const CHUNK: usize = 256 * 1024;
static FILL: [u8; CHUNK] = [b'x'; CHUNK];

/// Everything the application has: its connections and the epoll set they are in.
struct Application {
    epoll: OwnedFd,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    /// Whether each connection ends with its first answer.
    fresh: bool,
    clients: HashMap<u64, Client>,
    next: u64,
}

/// One connection: a request on its way in, an answer on its way out.
struct Client {
    wire: Wire,
    head: Vec<u8>,
    /// Bytes still to come of the request's body.
    missing: usize,
    /// Head of the answer, and a short body.
    answer: Vec<u8>,
    /// Bytes of filling to send after it.
    fill: usize,
    /// Whether the connection ends when all is sent.
    last: bool,
}

/// Answers forever.
pub fn serve(listen: SocketAddr, fresh: bool, identity: Option<&Identity>) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    // The library's backlog of 128 is short for a proxy that opens a thousand connections at once.
    rustix::net::listen(&listener, BACKLOG)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(LISTENER);
    epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
    println!("{{\"listen\":\"{}\"}}", listener.local_addr()?);
    let mut application = Application {
        epoll,
        listener,
        tls: identity
            .map(tls::server)
            .transpose()
            .map_err(io::Error::other)?,
        fresh,
        clients: HashMap::new(),
        next: 0,
    };
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut chunk = vec![0; CHUNK];
    loop {
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&application.epoll, spare, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            application.turn(event.data.u64(), &mut chunk)?;
        }
    }
}

impl Application {
    fn turn(&mut self, key: u64, chunk: &mut [u8]) -> io::Result<()> {
        if key == LISTENER {
            return self.accept();
        }
        let fresh = self.fresh;
        let over = |client: &mut Client| client.drive(chunk, fresh).is_err();
        if self.clients.get_mut(&key).is_some_and(over) {
            self.clients.remove(&key);
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        let session = self
            .tls
            .as_ref()
            .map(|config| ServerConnection::new(config.clone()).map(rustls::Connection::Server));
        let wire = Wire::new(stream, session.transpose().map_err(io::Error::other)?)?;
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(self.next);
        epoll::add(&self.epoll, wire.stream(), data, interest)?;
        self.clients.insert(self.next, Client::new(wire));
        self.next += 1;
        Ok(())
    }
}

impl Client {
    fn new(wire: Wire) -> Self {
        Self {
            wire,
            head: Vec::new(),
            missing: 0,
            answer: Vec::new(),
            fill: 0,
            last: false,
        }
    }

    /// Reads and answers what can be; an error when the connection is over.
    fn drive(&mut self, chunk: &mut [u8], fresh: bool) -> io::Result<()> {
        loop {
            if !self.push()? {
                return Ok(());
            }
            let count = match self.wire.read(chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.take(&chunk[..count], fresh);
            if count < chunk.len() && self.wire.short_read_is_last() {
                self.push()?;
                return Ok(());
            }
        }
    }

    /// Sends what is due; false when the socket is full.
    fn push(&mut self) -> io::Result<bool> {
        while !self.answer.is_empty() || self.fill > 0 {
            let head = !self.answer.is_empty();
            let bytes = if head {
                &self.answer[..]
            } else {
                &FILL[..self.fill.min(CHUNK)]
            };
            match self.wire.write(bytes) {
                Ok(count) if head => drop(self.answer.drain(..count)),
                Ok(count) => self.fill -= count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.wire.flush()?;
        if self.last {
            self.wire.close();
            return Err(ErrorKind::ConnectionAborted.into());
        }
        Ok(true)
    }

    /// Takes what has arrived and queues an answer for every request that is whole.
    fn take(&mut self, mut bytes: &[u8], fresh: bool) {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let count = self.missing.min(bytes.len());
                bytes = &bytes[count..];
                self.missing -= count;
            } else {
                let before = self.head.len();
                self.head.extend_from_slice(bytes);
                let Some(end) = end_of_head(&self.head) else {
                    return;
                };
                bytes = &bytes[end - before..];
                self.head.truncate(end);
                self.missing = content_length(&self.head).unwrap_or(0);
            }
            if self.missing == 0 {
                self.queue(fresh);
                self.head.clear();
            }
        }
    }

    fn queue(&mut self, fresh: bool) {
        self.last = fresh || has_line(&self.head, CLOSE);
        let asked = bytes_asked(&self.head);
        let length = if asked == 0 { HELLO.len() } else { asked };
        let close = if self.last { CLOSE } else { "" };
        let resumed = if self.wire.resumed() { RESUMED } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\n\
             content-type: text/plain; charset=utf-8\r\n\
             content-length: {length}\r\n\
             cache-control: no-store\r\n\
             {close}{resumed}x-application: echo\r\n\r\n"
        );
        self.answer.extend_from_slice(head.as_bytes());
        let first = asked.min(CHUNK);
        let body = if asked == 0 { HELLO } else { &FILL[..first] };
        self.answer.extend_from_slice(body);
        self.fill += asked - first;
    }
}

/// The number behind `?bytes=` in a request line; 0 when there is none.
fn bytes_asked(head: &[u8]) -> usize {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.split_once("?bytes="))
        .and_then(|(_, rest)| rest.split(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Client, HELLO, bytes_asked};
    use crate::wire::Wire;
    use std::net::{TcpListener, TcpStream};

    fn client() -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let stream = TcpStream::connect(listener.local_addr().expect("it is bound"));
        Client::new(Wire::new(stream.expect("it listens"), None).expect("it is a socket"))
    }

    #[test]
    fn a_request_is_answered_once_wherever_it_is_cut() {
        let request = b"POST /?bytes=0 HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc";
        for cut in 0..request.len() {
            let mut client = client();
            client.take(&request[..cut], false);
            assert!(client.answer.is_empty());
            client.take(&request[cut..], false);
            assert!(client.answer.ends_with(HELLO));
            assert_eq!(
                client
                    .answer
                    .windows(4)
                    .filter(|four| *four == b"HTTP")
                    .count(),
                1
            );
        }
    }

    #[test]
    fn an_answer_is_as_long_as_was_asked() {
        let mut client = client();
        client.take(b"GET /?bytes=1000000 HTTP/1.1\r\n\r\n", false);
        let end = super::end_of_head(&client.answer).expect("it has a head");
        assert_eq!(client.answer.len() - end + client.fill, 1_000_000);
        assert_eq!(bytes_asked(b"GET /?page=2 HTTP/1.1\r\n\r\n"), 0);
    }
}
