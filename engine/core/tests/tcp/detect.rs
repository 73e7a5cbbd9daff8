//! Ports that nobody declared: each connection shows what it speaks.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tulle_engine::engine::Engine;

use crate::hbone::runtime;
use crate::mesh::{
    PATIENCE, Pair, apply, connect, eventually, expect, is_closed, service, workload,
};

/// Two sidecars, a service nobody declared, and a workload whose own port is `protocol`.
fn undeclared(protocol: &str) -> Pair {
    let pair = Pair::changed(|port| port["protocol"] = json!(protocol));
    apply(&pair.web, &service("auto", |_| {}));
    pair
}

/// What a sidecar counted by protocol.
fn counted(engine: &Engine, protocol: &str) -> u64 {
    let stats: Value = serde_json::from_slice(&engine.stats()).expect("JSON");
    let edges = stats["report"]["edges"].as_array().expect("edges");
    let ours = edges.iter().filter(|edge| edge["protocol"] == protocol);
    ours.map(|edge| edge["requests"].as_u64().expect("a number"))
        .sum()
}

fn accepted(pair: &Pair) -> TcpStream {
    pair.accepted.recv_timeout(PATIENCE).expect("a call")
}

/// Ask for `/` in `pieces`, and answer at the other end.
fn ask(mut near: TcpStream, pair: &Pair, pieces: &[&str], pause: Duration) {
    near.set_nodelay(true).expect("a socket");
    let pieces: Vec<String> = pieces.iter().map(|&piece| piece.to_owned()).collect();
    let asking = thread::spawn(move || {
        for piece in pieces {
            thread::sleep(pause);
            near.write_all(piece.as_bytes()).expect("it is sent");
        }
        let mut answer = [0; 12];
        near.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    });
    let mut far = accepted(pair);
    // What was opened for a server that might begin ends, and the request comes on another.
    while far.read(&mut [0; 512]).unwrap_or_default() == 0 {
        far = accepted(pair);
    }
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .expect("it is sent");
    asking.join().expect("it was answered");
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: cart\r\n\r\n";

#[test]
fn http_is_known_whole_in_pieces_and_when_it_comes_late() {
    let pair = undeclared("http");
    let none = Duration::ZERO;
    ask(pair.connect(), &pair, &[REQUEST], none);
    ask(
        pair.connect(),
        &pair,
        &["G", "ET / HT", &REQUEST[8..]],
        Duration::from_millis(20),
    );
    ask(
        pair.connect(),
        &pair,
        &[REQUEST],
        Duration::from_millis(200),
    );
    eventually("both sides count requests", || {
        counted(&pair.web, "http") == 3 && counted(&pair.cart, "http") == 3
    });
}

#[test]
fn a_server_that_begins_is_not_held() {
    for protocol in ["http", "tcp", "auto", "http2", "grpc"] {
        let pair = undeclared(protocol);
        let begin = Instant::now();
        let mut near = pair.connect();
        let mut far = accepted(&pair);
        far.write_all(b"220 ready\r\n").expect("it is sent");
        expect(&mut near, b"220 ready\r\n");
        assert!(
            begin.elapsed() < Duration::from_millis(600),
            "{:?}",
            begin.elapsed()
        );
        near.write_all(b"GET / HTTP/1.1\r\n").expect("it is sent");
        expect(&mut far, b"GET / HTTP/1.1\r\n");
        near.shutdown(Shutdown::Write).expect("an end");
        assert!(is_closed(&mut far));
    }
}

#[test]
fn two_that_wait_for_each_other_are_not_held_for_ever() {
    let pair = undeclared("http");
    let idle = service("auto", |traffic| traffic["idle_timeout_ms"] = json!(300));
    apply(&pair.web, &idle);
    let mut near = pair.connect();
    let mut far = accepted(&pair);
    assert!(is_closed(&mut near));
    // What broke off at one end breaks off at the other.
    let read = far.read(&mut [0; 1]).map_err(|error| error.kind());
    assert!(
        matches!(read, Ok(0) | Err(ErrorKind::ConnectionReset)),
        "{read:?}"
    );
}

#[test]
fn what_is_no_http_is_carried_as_it_is() {
    let pair = undeclared("http");
    for bytes in [
        &b"*1\r\n$4\r\nPING\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET key\r\n",
        // Begun like HTTP, and left at that.
        b"GET /a",
    ] {
        let mut near = pair.connect();
        near.write_all(bytes).expect("it is sent");
        let mut far = accepted(&pair);
        expect(&mut far, bytes);
        far.write_all(b"+PONG\r\n").expect("it is sent");
        expect(&mut near, b"+PONG\r\n");
    }
    assert_eq!(
        (counted(&pair.web, "tcp"), counted(&pair.cart, "tcp")),
        (5, 5)
    );
}

/// Ask twice over one connection of HTTP/2, after `pause`, and answer at the other end.
fn ask_in_http_2(near: TcpStream, pair: &Pair, pause: Duration) {
    let asking = thread::spawn(move || {
        thread::sleep(pause);
        near.set_nonblocking(true).expect("a socket");
        runtime().block_on(async {
            let near = tokio::net::TcpStream::from_std(near).expect("a socket");
            let (client, connection) = h2::client::handshake(near).await.expect("HTTP/2");
            tokio::spawn(connection);
            let mut client = client.ready().await.expect("a connection");
            for _ in 0..2 {
                let request = http::Request::get("http://cart/").body(());
                let sent = client.send_request(request.expect("a request"), true);
                let response = sent.expect("it is sent").0.await.expect("an answer");
                assert_eq!(response.status(), 200);
            }
        });
    });
    while !asking.is_finished() {
        if let Ok(far) = pair.accepted.recv_timeout(Duration::from_millis(10)) {
            thread::spawn(move || answer(far));
        }
    }
    asking.join().expect("both were answered");
}

/// Answer requests in the version that they come in.
fn answer(mut far: TcpStream) {
    let mut first = [0; 3];
    match far.peek(&mut first) {
        Ok(3) if &first == b"GET" => {}
        Ok(3) => return serve_http_2(far),
        // It was opened for a server that might begin.
        _ => return,
    }
    let (mut head, mut byte) = (Vec::new(), [0]);
    while far.read(&mut byte).is_ok_and(|read| read > 0) {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .expect("it is sent");
        }
    }
}

/// Answer requests of HTTP/2 until the connection ends.
fn serve_http_2(far: TcpStream) {
    far.set_nonblocking(true).expect("a socket");
    runtime().block_on(async {
        let far = tokio::net::TcpStream::from_std(far).expect("a socket");
        let mut connection = h2::server::handshake(far).await.expect("HTTP/2");
        // The test may be over.
        while let Some(Ok((_, mut answer))) = connection.accept().await {
            let sent = answer.send_response(http::Response::new(()), true);
            sent.expect("it is sent");
        }
    });
}

#[test]
fn http_2_is_known_and_its_requests_are_told_apart() {
    for (protocol, counted_as) in [("auto", "http2"), ("http2", "http2"), ("http", "http")] {
        let pair = undeclared(protocol);
        ask_in_http_2(pair.connect(), &pair, Duration::ZERO);
        ask_in_http_2(pair.connect(), &pair, Duration::from_millis(200));
        eventually("both sides count requests", || {
            counted(&pair.web, "http2") == 4 && counted(&pair.cart, counted_as) == 4
        });
    }
}

#[test]
fn a_plain_caller_may_speak_http_2_where_nobody_declared_what() {
    let pair = undeclared("auto");
    apply(&pair.cart, &workload("permissive", "allow"));
    ask_in_http_2(connect(pair.listen()), &pair, Duration::ZERO);
    eventually("requests are counted", || counted(&pair.cart, "http2") == 2);
}

#[test]
fn a_silent_client_and_a_silent_server_wait_for_each_other() {
    let pair = undeclared("auto");
    let mut near = pair.connect();
    let mut far = accepted(&pair);
    thread::sleep(Duration::from_millis(700));
    near.write_all(b"PING\r\n").expect("it is sent");
    expect(&mut far, b"PING\r\n");
    drop(near);
    assert!(is_closed(&mut far));
}

#[test]
fn a_plain_caller_of_a_port_that_is_not_declared_may_speak_anything() {
    let pair = undeclared("auto");
    apply(&pair.cart, &workload("permissive", "allow"));
    ask(connect(pair.listen()), &pair, &[REQUEST], Duration::ZERO);
    let mut near = connect(pair.listen());
    near.write_all(b"PING\r\n").expect("it is sent");
    let mut far = accepted(&pair);
    expect(&mut far, b"PING\r\n");
    eventually("each as what it was", || {
        (counted(&pair.cart, "http"), counted(&pair.cart, "tcp")) == (1, 1)
    });
}
