//! The client's side of HTTP/1.1, as much as the load needs: one request, answers with a length.

use crate::arguments::Load;
use crate::tls;
use crate::upstream::RESUMED;
use crate::wire::Wire;
use rustix::event::epoll;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

/// Bytes an answer's head may have.
const HEAD_MAX: usize = 16 * 1024;

/// Events taken in one turn.
const EVENTS_MAX: usize = 256;

/// A request with ten headers, as a browser behind a gateway would send it; a body and a wish to
/// close come on top of them.
pub fn request(load: &Load) -> Vec<u8> {
    let method = if load.request_bytes > 0 {
        "POST"
    } else {
        "GET"
    };
    let (host, answer) = (&load.host, load.response_bytes);
    let mut request = format!(
        "{method} /api/v1/items?bytes={answer} HTTP/1.1\r\n\
         host: {host}\r\n\
         user-agent: tulle-bench/1 (loopback; keep-alive)\r\n\
         accept: application/json, text/plain;q=0.9, */*;q=0.8\r\n\
         accept-language: en-GB,en;q=0.7,de;q=0.3\r\n\
         accept-encoding: identity\r\n\
         cache-control: no-cache\r\n\
         cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=light\r\n\
         x-forwarded-for: 203.0.113.7\r\n\
         x-request-id: 7b1b2a6c-90b4-4a7e-9c3a-0d0c8f6f1f11\r\n\
         referer: http://{host}/catalog\r\n"
    );
    if load.request_bytes > 0 {
        request += &format!("content-length: {}\r\n", load.request_bytes);
    }
    if load.fresh {
        request += "connection: close\r\n";
    }
    request += "\r\n";
    let mut request = request.into_bytes();
    request.resize(request.len() + load.request_bytes, b'x');
    request
}

/// What has come of a request so far.
pub enum Progress {
    /// The answer is not whole yet.
    Waiting,
    /// The answer is here; `true` when its status is 200.
    Answered(bool),
}

/// One connection with at most one request in flight.
pub struct Connection {
    wire: Wire,
    request: Rc<[u8]>,
    /// Bytes of the request that were sent.
    sent: usize,
    answer: Answer,
    /// Whether the answer is only whole when the peer has closed.
    fresh: bool,
}

/// What has arrived of an answer.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    /// Bytes still to come of the body; `None` while the head is not whole.
    missing: Option<usize>,
    success: bool,
}

impl Answer {
    /// Takes what has arrived; `true` when the answer is whole.
    fn take(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if let Some(missing) = &mut self.missing {
            *missing = missing.saturating_sub(bytes.len());
            return Ok(*missing == 0);
        }
        self.head.extend_from_slice(bytes);
        let Some(end) = end_of_head(&self.head) else {
            if self.head.len() > HEAD_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
            return Ok(false);
        };
        let length = content_length(&self.head[..end]);
        self.success = length.is_some() && self.head.starts_with(b"HTTP/1.1 200");
        let missing = (end + length.unwrap_or(0)).saturating_sub(self.head.len());
        self.missing = Some(missing);
        Ok(missing == 0)
    }
}

/// The offset of the first byte after a head.
pub fn end_of_head(received: &[u8]) -> Option<usize> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n");
    end.map(|start| start + 4)
}

/// The value of a head's Content-Length.
pub fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n')
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))
        .and_then(|line| std::str::from_utf8(&line[NAME.len()..]).ok())
        .and_then(|value| value.trim().parse().ok())
}

/// Whether a head has this line, in any case.
pub fn has_line(head: &[u8], line: &str) -> bool {
    head.split_inclusive(|byte| *byte == b'\n')
        .any(|one| one.eq_ignore_ascii_case(line.as_bytes()))
}

impl Connection {
    /// Sends the request, as much of it as the socket takes now.
    pub fn send(&mut self) -> io::Result<()> {
        self.sent = 0;
        self.answer.head.clear();
        self.answer.missing = None;
        self.push()
    }

    fn push(&mut self) -> io::Result<()> {
        while self.sent < self.request.len() {
            match self.wire.write(&self.request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.wire.flush()
    }

    /// Sends and reads what can be.
    fn drive(&mut self, chunk: &mut [u8]) -> io::Result<Progress> {
        self.push()?;
        loop {
            let count = match self.wire.read(chunk) {
                Ok(0) if self.fresh && self.answer.missing == Some(0) => {
                    return Ok(Progress::Answered(self.answer.success));
                }
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // A handshake may have ended with this read.
                    self.push()?;
                    return Ok(Progress::Waiting);
                }
                Err(error) => return Err(error),
            };
            if self.answer.take(&chunk[..count])? && !self.fresh {
                return Ok(Progress::Answered(self.answer.success));
            }
            if count < chunk.len() && self.wire.short_read_is_last() && !self.fresh {
                return Ok(Progress::Waiting);
            }
        }
    }
}

/// All connections of a run and the epoll set they are in.
pub struct Fleet {
    epoll: OwnedFd,
    target: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    request: Rc<[u8]>,
    fresh: bool,
    connections: Vec<Connection>,
    events: Vec<epoll::Event>,
    chunk: Vec<u8>,
}

impl Fleet {
    /// Opens every connection.
    pub fn open(load: &Load) -> io::Result<Self> {
        let tls = load.tls.as_ref().map(tls::client).transpose();
        let mut fleet = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            target: load.target,
            tls: tls.map_err(io::Error::other)?,
            request: request(load).into(),
            fresh: load.fresh,
            connections: Vec::with_capacity(load.connections),
            events: Vec::with_capacity(EVENTS_MAX),
            chunk: vec![0; CHUNK],
        };
        for index in 0..load.connections {
            let connection = fleet.connect(index)?;
            fleet.connections.push(connection);
        }
        Ok(fleet)
    }

    fn connect(&self, index: usize) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.target)?;
        let session = self.tls.as_ref().map(|config| {
            let name = ServerName::IpAddress(self.target.ip().into());
            ClientConnection::new(config.clone(), name).map(rustls::Connection::Client)
        });
        let wire = Wire::new(stream, session.transpose().map_err(io::Error::other)?)?;
        epoll::add(
            &self.epoll,
            wire.stream(),
            epoll::EventData::new_u64(index as u64),
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET,
        )?;
        Ok(Connection {
            wire,
            request: self.request.clone(),
            sent: self.request.len(),
            answer: Answer::default(),
            fresh: self.fresh,
        })
    }

    /// Sends a request on the connection with this number.
    pub fn send(&mut self, index: usize) -> io::Result<()> {
        self.connections[index].send()
    }

    /// Sends and reads what can be on the connection with this number.
    pub fn drive(&mut self, index: usize) -> io::Result<Progress> {
        self.connections[index].drive(&mut self.chunk)
    }

    /// Whether a TLS session was resumed for the last answer: by the connection with this number,
    /// or by the application's, which says so.
    pub fn resumed(&self, index: usize) -> bool {
        let Connection { wire, answer, .. } = &self.connections[index];
        wire.resumed() || has_line(&answer.head, RESUMED)
    }

    /// Replaces a connection that is used up or broke.
    pub fn reconnect(&mut self, index: usize) -> io::Result<()> {
        self.connections[index].wire.close();
        self.connections[index] = self.connect(index)?;
        Ok(())
    }

    /// Waits at most `timeout` and returns the numbers of the connections with something to do.
    pub fn wait(&mut self, timeout: std::time::Duration) -> io::Result<Vec<usize>> {
        let timeout = rustix::event::Timespec {
            tv_sec: timeout
                .as_secs()
                .try_into()
                .expect("a run takes minutes at most"),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self
            .events
            .iter()
            .map(|event| usize::try_from(event.data.u64()).expect("an index was stored"))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, end_of_head, has_line, request};
    use crate::arguments::Arguments;

    #[test]
    fn an_answer_is_whole_with_its_last_body_byte() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..bytes.len() {
            let mut answer = Answer::default();
            assert!(!answer.take(&bytes[..cut]).expect("it is short"));
            assert!(answer.take(&bytes[cut..]).expect("it is short"));
            assert!(answer.success);
        }
    }

    #[test]
    fn anything_but_200_with_a_length_is_an_error() {
        for bytes in [
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".as_slice(),
        ] {
            let mut answer = Answer::default();
            assert!(answer.take(bytes).expect("it is short"));
            assert!(!answer.success);
        }
    }

    fn request_of(more: &str) -> String {
        let words = format!("closed --target 127.0.0.1:1 --host echo --connections 1 {more}");
        let words = words.split_whitespace().map(str::to_owned);
        let (_, arguments) = Arguments::read(words).expect("the words are pairs");
        let load = arguments.load().expect("the options are right");
        String::from_utf8(request(&load)).expect("it is ASCII")
    }

    #[test]
    fn a_line_is_found_in_any_case_and_only_whole() {
        assert!(has_line(
            b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n",
            "connection: close\r\n"
        ));
        assert!(!has_line(
            b"GET / HTTP/1.1\r\nx-connection: close\r\n\r\n",
            "connection: close\r\n"
        ));
    }

    #[test]
    fn the_request_has_ten_headers() {
        assert_eq!(request_of("").trim_end().lines().count(), 11);
    }

    #[test]
    fn a_body_has_the_length_it_says() {
        let text = request_of("--request-bytes 70000");
        assert!(text.contains("content-length: 70000\r\n"));
        let end = end_of_head(text.as_bytes()).expect("it has a head");
        assert_eq!(text.len() - end, 70_000);
    }
}
