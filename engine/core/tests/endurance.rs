//! Many peers of no use at once: what they cost, and that it is given back.

mod loopback;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use loopback::{OK, PATIENCE, address, ask, connect, head, program, sidecar};
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use tulle_engine::engine::Engine;

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\n\r\n";
/// What an allocator may keep after all is over, bytes.
const KEPT_MAX: usize = 8 * 1024 * 1024;

/// Connections of garbage.
const GARBAGE: usize = 100_000;
const THROWERS: usize = 4;
/// Addresses that each thrower calls from: one has ports for 28,000 connections a minute.
const ADDRESSES: usize = 4;

/// Clients that read a byte now and then, of bodies without an end.
const SLOW_READERS: usize = 20;
/// What the engine may hold of a body that nobody takes, bytes: 64 KiB read, 32 KiB to write, and
/// what an allocator rounds up.
const SLOW_READER_MAX: usize = 128 * 1024;
/// A connection that takes nothing for so long is full.
const FULL_TIME: Duration = Duration::from_millis(500);

/// Memory and descriptors are the whole process's: its tests run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = text.split(' ').nth(1).expect("pages");
    pages.parse::<usize>().expect("a number") * 4096
}

/// Open descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("fd").count()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "still not so: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Connections that the engine counts as open.
fn open(engine: &Engine) -> u64 {
    let stats: Value = serde_json::from_slice(&engine.stats()).expect("JSON");
    let open = stats.pointer("/report/connections").and_then(Value::as_u64);
    open.expect("a count")
}

/// Connect to each of `to` in turn, `count` times in all, and leave garbage there.
fn throw(thrower: usize, count: usize, to: &[SocketAddr]) {
    let garbage: [&[u8]; 6] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost",
        b"GET / HTTP/1.1\r\nhost: cart\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff",
    ];
    for round in 0..count {
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let source = thrower * ADDRESSES + round % ADDRESSES;
        let source = Ipv4Addr::new(127, 1, 0, u8::try_from(source + 1).expect("few"));
        let bound = stream.bind(&SocketAddrV4::new(source, 0).into());
        bound.expect("a port");
        let to = to[round / garbage.len() % to.len()];
        stream.connect(&to.into()).expect("a connection");
        // It may be refused while it is written.
        let _refused = TcpStream::from(stream).write_all(garbage[round % garbage.len()]);
    }
}

#[test]
fn garbage_leaves_nothing_behind() {
    let _alone = alone();
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let to = [
        address(&engine, "/proxy"),
        address(&engine, "/inbound/0/listen"),
    ];
    let all_throw = |count: usize| {
        thread::scope(|scope| {
            for thrower in 0..THROWERS {
                let _thrower = scope.spawn(move || throw(thrower, count / THROWERS, &to));
            }
        });
        wait_until("all are closed", || open(&engine) == 0);
    };
    all_throw(GARBAGE / 20);
    let before = (resident(), descriptors());
    all_throw(GARBAGE);
    let grown = resident().saturating_sub(before.0);
    assert!(grown < KEPT_MAX, "{grown}");
    assert_eq!(descriptors(), before.1);
    let mut client = connect(to[0]);
    client.write_all(GET.as_bytes()).expect("it is sent");
    let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
    program.write_all(OK).expect("it is sent");
    let answer = head(&mut client);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Write to all of `streams` until none of them takes any more for [`FULL_TIME`].
fn fill(streams: &mut [TcpStream]) {
    let piece = [b'x'; 65_536];
    let mut last = Instant::now();
    while last.elapsed() < FULL_TIME {
        for stream in &mut *streams {
            match stream.write(&piece) {
                Ok(taken) if taken > 0 => last = Instant::now(),
                Ok(_) => panic!("it takes no bytes"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn clients_that_read_byte_by_byte_cost_what_their_buffers_hold() {
    let _alone = alone();
    let (at, programs) = program();
    let engine = sidecar("http", at, |traffic| {
        traffic["request_timeout_ms"] = json!(0);
    });
    let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n";
    let mut clients = Vec::new();
    let mut sending = Vec::new();
    for _ in 0..SLOW_READERS {
        let mut client = connect(address(&engine, "/proxy"));
        let small = SockRef::from(&client).set_recv_buffer_size(4096);
        small.expect("a buffer");
        client.write_all(GET.as_bytes()).expect("it is sent");
        let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
        program.write_all(begin).expect("it is sent");
        let answer = head(&mut client);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        program.set_nonblocking(true).expect("a mode");
        clients.push(client);
        sending.push(program);
    }
    let before = (resident(), descriptors());
    for _ in 0..3 {
        fill(&mut sending);
        for client in &mut clients {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("a byte");
            assert_eq!(byte, *b"x");
        }
        let grown = resident().saturating_sub(before.0);
        assert!(grown < SLOW_READERS * SLOW_READER_MAX, "{grown}");
    }
    // Who waits for a slow one is not the others.
    let mut client = connect(address(&engine, "/proxy"));
    let asking = thread::spawn(move || ask(&mut client, GET));
    let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
    program.write_all(OK).expect("it is sent");
    let answer = asking.join().expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop((clients, sending));
    wait_until("all are closed", || open(&engine) == 0);
}
