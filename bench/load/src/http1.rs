//! The client's side of HTTP/1.1, as much as the load needs: one request, answers with a length.

use crate::arguments::Load;
use rustix::event::epoll;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

/// Bytes an answer may have, head and body.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Events taken in one turn.
const EVENTS_MAX: usize = 256;

/// A request with ten headers, as a browser behind a gateway would send it.
pub fn request(host: &str) -> Vec<u8> {
    format!(
        "GET /api/v1/items?page=2 HTTP/1.1\r\n\
         host: {host}\r\n\
         user-agent: tulle-bench/1 (loopback; keep-alive)\r\n\
         accept: application/json, text/plain;q=0.9, */*;q=0.8\r\n\
         accept-language: en-GB,en;q=0.7,de;q=0.3\r\n\
         accept-encoding: identity\r\n\
         cache-control: no-cache\r\n\
         cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=light\r\n\
         x-forwarded-for: 203.0.113.7\r\n\
         x-request-id: 7b1b2a6c-90b4-4a7e-9c3a-0d0c8f6f1f11\r\n\
         referer: http://{host}/catalog\r\n\r\n"
    )
    .into_bytes()
}

/// What has come of a request so far.
pub enum Progress {
    /// The answer is not whole yet.
    Waiting,
    /// The answer is here; `true` when its status is 200.
    Answered(bool),
}

/// One keep-alive connection with at most one request in flight.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; ANSWER_BYTES_MAX],
            filled: 0,
        })
    }

    /// Sends a request; it is small enough for an empty socket buffer to take whole.
    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.filled = 0;
        self.stream.write_all(request)
    }

    /// Reads what is there.
    pub fn receive(&mut self) -> io::Result<Progress> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.filled += count;
                Ok(progress(&self.buffer[..self.filled]))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Progress::Waiting),
            Err(error) => Err(error),
        }
    }
}

fn progress(received: &[u8]) -> Progress {
    let Some(head) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Progress::Waiting;
    };
    let length = content_length(&received[..head]);
    match length {
        Some(length) if received.len() < head + 4 + length => Progress::Waiting,
        Some(_) => Progress::Answered(received.starts_with(b"HTTP/1.1 200")),
        None => Progress::Answered(false),
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n')
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))
        .and_then(|line| std::str::from_utf8(&line[NAME.len()..]).ok())
        .and_then(|value| value.trim().parse().ok())
}

/// All connections of a run and the epoll set they are in.
pub struct Fleet {
    epoll: OwnedFd,
    target: SocketAddr,
    connections: Vec<Connection>,
    events: Vec<epoll::Event>,
}

impl Fleet {
    /// Opens every connection.
    pub fn open(load: &Load) -> io::Result<Self> {
        let mut fleet = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            target: load.target,
            connections: Vec::with_capacity(load.connections),
            events: Vec::with_capacity(EVENTS_MAX),
        };
        for index in 0..load.connections {
            let connection = fleet.connect(index)?;
            fleet.connections.push(connection);
        }
        Ok(fleet)
    }

    fn connect(&self, index: usize) -> io::Result<Connection> {
        let connection = Connection::open(self.target)?;
        epoll::add(
            &self.epoll,
            &connection.stream,
            epoll::EventData::new_u64(index as u64),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(connection)
    }

    /// The connection with this number.
    pub fn connection(&mut self, index: usize) -> &mut Connection {
        &mut self.connections[index]
    }

    /// Replaces a connection that broke.
    pub fn reconnect(&mut self, index: usize) -> io::Result<()> {
        self.connections[index] = self.connect(index)?;
        Ok(())
    }

    /// Waits at most `timeout` and returns the numbers of the connections with something to read.
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
    use super::{Progress, progress, request};

    #[test]
    fn an_answer_is_whole_with_its_last_body_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..answer.len() {
            assert!(matches!(progress(&answer[..cut]), Progress::Waiting));
        }
        assert!(matches!(progress(answer), Progress::Answered(true)));
    }

    #[test]
    fn anything_but_200_with_a_length_is_an_error() {
        let refused = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(progress(refused), Progress::Answered(false)));
        let unmeasured = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(matches!(progress(unmeasured), Progress::Answered(false)));
    }

    #[test]
    fn the_request_has_ten_headers() {
        let text = String::from_utf8(request("echo")).expect("it is ASCII");
        assert_eq!(text.trim_end().lines().count(), 11);
    }
}
