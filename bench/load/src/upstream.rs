//! The application behind every proxy: answers each HTTP/1.1 request with the same twelve bytes.
//!
//! Requests have no body, so a request is a head and the end of a head is all it looks for.

use rustix::event::epoll;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 12\r\n\
    cache-control: no-store\r\n\
    x-application: echo\r\n\r\n\
    hello world\n";

const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const EVENTS_MAX: usize = 256;
const BACKLOG: i32 = 4096;
const LISTENER: u64 = u64::MAX;

/// One connection, and how many bytes of [`END_OF_HEAD`] its input ends with.
struct Client {
    stream: TcpStream,
    matched: usize,
}

/// Answers forever.
pub fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    // The library's backlog of 128 is short for a proxy that opens a thousand connections at once.
    rustix::net::listen(&listener, BACKLOG)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let interest = epoll::EventFlags::IN;
    epoll::add(
        &epoll,
        &listener,
        epoll::EventData::new_u64(LISTENER),
        interest,
    )?;
    println!("{{\"listen\":\"{}\"}}", listener.local_addr()?);

    let mut clients: HashMap<u64, Client> = HashMap::new();
    let mut next = 0;
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let key = event.data.u64();
            if key == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                epoll::add(&epoll, &stream, epoll::EventData::new_u64(next), interest)?;
                clients.insert(next, Client { stream, matched: 0 });
                next += 1;
            } else if clients.get_mut(&key).is_some_and(|client| !client.answer()) {
                clients.remove(&key);
            }
        }
    }
}

impl Client {
    /// Answers every request that has arrived whole; `false` when the connection is over.
    fn answer(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => (0..self.count_requests(&chunk[..count]))
                .all(|_| self.stream.write_all(ANSWER).is_ok()),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    fn count_requests(&mut self, input: &[u8]) -> usize {
        let mut requests = 0;
        for byte in input {
            if *byte == END_OF_HEAD[self.matched] {
                self.matched += 1;
            } else {
                self.matched = usize::from(*byte == b'\r');
            }
            if self.matched == END_OF_HEAD.len() {
                self.matched = 0;
                requests += 1;
            }
        }
        requests
    }
}
