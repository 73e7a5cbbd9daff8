//! Several workloads on the threads of one process: apart in all but those.

mod loopback;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use loopback::{OK, PATIENCE, address, ask, connect, program, settings, sidecar, start};
use serde_json::Value;
use tulle_engine::engine::Engine;
use tulle_engine::threads::Threads;

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: cart\r\n\r\n";

/// A workload on `threads`, whose service `shop/cart` is at `at`.
fn shared(threads: &Arc<Threads>, at: SocketAddr) -> Engine {
    let engine = Engine::bind_on(threads, &settings(1, at)).expect("an engine");
    start(engine, "http", at, |_| {})
}

/// How many series of requests a workload has counted.
fn counted(engine: &Engine) -> usize {
    let stats: Value = serde_json::from_slice(&engine.stats()).expect("JSON");
    let edges = stats["report"]["edges"].as_array().expect("edges");
    edges.len()
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("a list").count()
}

/// Threads of engines: those of the program that answers come and go as they like.
fn running_threads() -> usize {
    let threads = fs::read_dir("/proc/self/task").expect("a list").flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.starts_with("tulle-")).count()
}

/// Whether so many run in the end: a thread takes its name when it begins to.
fn has_threads(expected: usize) -> bool {
    let end = Instant::now() + PATIENCE;
    while running_threads() != expected && Instant::now() < end {
        thread::yield_now();
    }
    running_threads() == expected
}

/// One test, since what it counts is the process's own.
#[test]
fn workloads_share_threads_and_nothing_else_and_leave_nothing() {
    let threads = Threads::start(1).expect("threads");
    let (at, asked) = program();
    let stays = shared(&threads, at);
    let mut client = connect(address(&stays, "/proxy"));
    client.write_all(REQUEST.as_bytes()).expect("it is sent");
    let (mut kept, _) = asked.recv_timeout(PATIENCE).expect("a connection");
    kept.write_all(OK).expect("it is sent");
    assert!(loopback::head(&mut client).starts_with("HTTP/1.1 200"));
    assert!(has_threads(2), "one for traffic, one for all else");
    let files = open_files();
    let alone = sidecar("http", at, |_| {});
    assert!(has_threads(4), "one of its own has two");
    drop(alone);

    for _ in 0..3 {
        let leaves: Vec<Engine> = (0..8).map(|_| shared(&threads, at)).collect();
        let open: Vec<(TcpStream, TcpStream)> =
            leaves.iter().map(|one| used(one, &asked)).collect();
        for one in &leaves {
            // Counted after the answer was sent.
            let end = Instant::now() + PATIENCE;
            while counted(one) == 0 && Instant::now() < end {
                thread::yield_now();
            }
            assert_eq!(counted(one), 1);
        }
        assert_eq!(running_threads(), 2, "a workload adds no thread");
        let addresses: Vec<_> = leaves.iter().map(|one| address(one, "/proxy")).collect();
        drop(leaves);
        assert!(addresses.iter().all(|at| TcpStream::connect(at).is_err()));
        for (mut client, mut called) in open {
            let mut rest = Vec::new();
            for end in [&mut client, &mut called] {
                assert_eq!(end.read_to_end(&mut rest).unwrap_or(0), 0, "it is closed");
            }
        }
        assert_eq!(open_files(), files, "what left has left no file open");
    }

    assert_eq!(counted(&stays), 1, "others' requests are not counted here");
    let answering = thread::spawn(move || ask(&mut client, REQUEST));
    assert!(
        loopback::head(&mut kept).starts_with("GET /"),
        "its own connection is kept"
    );
    kept.write_all(OK).expect("it is sent");
    assert!(
        answering
            .join()
            .expect("an answer")
            .starts_with("HTTP/1.1 200")
    );
    drop(stays);
    assert_eq!(
        Arc::strong_count(&threads),
        1,
        "nobody else needs the threads"
    );
}

/// A request through `engine`; both connections stay open.
fn used(
    engine: &Engine,
    asked: &std::sync::mpsc::Receiver<(TcpStream, String)>,
) -> (TcpStream, TcpStream) {
    let mut client = connect(address(engine, "/proxy"));
    client.write_all(REQUEST.as_bytes()).expect("it is sent");
    // On a connection of its own: a kept one would hand over no second head.
    let (mut called, _) = asked
        .recv_timeout(PATIENCE)
        .expect("a connection of its own");
    called.write_all(OK).expect("it is sent");
    assert!(loopback::head(&mut client).starts_with("HTTP/1.1 200"));
    (client, called)
}
