//! Requests through a whole engine over loopback, where the other side misbehaves or is late.

#[path = "loopback/kernel.rs"]
mod kernel;
mod loopback;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use kernel::has_keepalive;
use loopback::{OK, PATIENCE, address, ask, connect, head, program, sidecar, sidecar_of};
use serde_json::json;
use tulle_engine::downstream::HALF_CLOSED_TIME;
use tulle_engine::engine::Engine;
use tulle_engine::tries::INTERIM_MAX;
use tulle_engine::upload::REPLAY_MAX;

/// Long enough to see what must not happen.
const WHILE: Duration = Duration::from_millis(700);

/// Wait for the event `drained`.
fn drained(engine: &Engine, within: Duration) -> bool {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if let Some(event) = engine.next_event(Duration::from_millis(50)) {
            if String::from_utf8_lossy(&event).contains("\"drained\"") {
                return true;
            }
        }
    }
    false
}

#[test]
fn a_body_that_broke_off_is_not_sent_again_as_if_it_were_whole() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    client
        .write_all(
            b"PUT / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        )
        .expect("it is sent");
    let (mut first, _) = asked.recv_timeout(PATIENCE).expect("a first try");
    client.shutdown(std::net::Shutdown::Write).expect("an end");
    let mut body = String::new();
    first.read_to_string(&mut body).expect("the rest");
    assert_eq!(body, "4\r\nhalf\r\n", "the end of the body is missing");
    assert!(asked.recv_timeout(WHILE).is_err(), "it was sent again");
}

#[test]
fn a_peer_that_is_silent_for_long_is_asked_whether_it_is_there() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n")
        .expect("it is sent");
    let (mut program, _) = asked.recv_timeout(PATIENCE).expect("a request");
    program
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n1")
        .expect("it is sent");
    assert!(head(&mut client).starts_with("HTTP/1.1 200"));
    let port = |address: std::io::Result<SocketAddr>| address.expect("an address").port();
    let end = Instant::now() + PATIENCE;
    for (engines, others) in [
        (port(program.peer_addr()), at.port()),
        (port(client.peer_addr()), port(client.local_addr())),
    ] {
        // A timer of what is being sent comes first.
        while !has_keepalive(engines, others) {
            assert!(Instant::now() < end, "keepalive is not on");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_body_up_to_the_bound_is_sent_again_and_a_longer_one_is_not() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    for (length, again) in [(REPLAY_MAX, true), (REPLAY_MAX + 1, false)] {
        let mut client = connect(address(&engine, "/proxy"));
        let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let head = format!("PUT / HTTP/1.1\r\nhost: cart\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).expect("it is sent");
        client.write_all(&body).expect("it is sent");
        let read = || {
            let (mut upstream, _) = asked.recv_timeout(PATIENCE).expect("a try");
            let mut read = vec![0; length];
            upstream.read_exact(&mut read).expect("the body");
            assert!(read == body, "it came changed");
            upstream
        };
        drop(read());
        if again {
            read().write_all(OK).expect("it is sent");
        }
        let answer = loopback::head(&mut client);
        let expected = if again {
            "HTTP/1.1 200"
        } else {
            "HTTP/1.1 502"
        };
        assert!(answer.starts_with(expected), "{length}: {answer}");
    }
}

#[test]
fn a_connection_whose_client_asked_for_its_end_ends_with_the_answer() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    let request = b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
    client.write_all(request).expect("it is sent");
    let (mut upstream, _) = asked.recv_timeout(PATIENCE).expect("a request");
    upstream.write_all(OK).expect("it is sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The client's side is still open, and nobody waits for its end.
    engine.drain();
    assert!(drained(&engine, WHILE));
}

#[test]
fn no_switch_to_http_2_reaches_a_program() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    for entrance in ["/proxy", "/inbound/0/listen"] {
        let mut client = connect(address(&engine, entrance));
        let answering = thread::spawn(move || {
            ask(
                &mut client,
                "GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade, http2-settings\r\n\
                 upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
            )
        });
        let (mut program, head) = asked.recv_timeout(PATIENCE).expect("a request");
        program.write_all(OK).expect("it is sent");
        let head = head.to_ascii_lowercase();
        assert!(
            !head.contains("upgrade") && !head.contains("http2"),
            "{head}"
        );
        let answer = answering.join().expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn while_it_drains_a_program_calls_others_to_answer_what_is_open() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    let mut caller = connect(address(&engine, "/inbound/0/listen"));
    let answering = thread::spawn(move || ask(&mut caller, "GET /in HTTP/1.1\r\nhost: a\r\n\r\n"));
    let (mut open, _) = asked.recv_timeout(PATIENCE).expect("a request");
    engine.drain();
    assert!(!drained(&engine, 2 * WHILE), "a request is open");
    let refused = TcpStream::connect(address(&engine, "/inbound/0/listen"));
    assert!(refused.is_err(), "nothing new comes in");

    let mut outward = connect(address(&engine, "/proxy"));
    let calling = thread::spawn(move || ask(&mut outward, "GET / HTTP/1.1\r\nhost: cart\r\n\r\n"));
    let (mut called, _) = asked.recv_timeout(PATIENCE).expect("a request");
    called.write_all(OK).expect("it is sent");
    let answer = calling.join().expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    open.write_all(OK).expect("it is sent");
    let answer = answering.join().expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(drained(&engine, PATIENCE));
}

#[test]
fn a_tunnel_and_a_switched_connection_are_open_connections() {
    for (protocol, request, answer) in [
        (
            "tcp",
            "CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\n\r\n",
            "200",
        ),
        (
            "http",
            "GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            "101",
        ),
    ] {
        let (at, asked) = program();
        let engine = sidecar(protocol, at, |_| {});
        let mut client = connect(address(&engine, "/proxy"));
        let asking = thread::spawn(move || (ask(&mut client, request), client));
        let switching = (answer == "101").then(|| {
            let (mut program, _) = asked.recv_timeout(PATIENCE).expect("a request");
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                           upgrade: websocket\r\n\r\n";
            program.write_all(switch).expect("it is sent");
            program
        });
        let (head, client) = asking.join().expect("an answer");
        assert!(head.starts_with(&format!("HTTP/1.1 {answer}")), "{head}");
        engine.drain();
        assert!(!drained(&engine, 2 * WHILE), "{protocol} is open");
        drop((client, switching, asked));
        assert!(drained(&engine, PATIENCE), "{protocol}");
    }
}

#[test]
fn what_breaks_after_a_switch_breaks_the_other_end() {
    let requests = [
        ("tcp", "CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\n\r\n"),
        (
            "http",
            "GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        ),
    ];
    for (protocol, request) in requests {
        for client_breaks in [true, false] {
            let (at, asked) = program();
            let engine = sidecar(protocol, at, |_| {});
            let mut client = connect(address(&engine, "/proxy"));
            client.write_all(request.as_bytes()).expect("it is sent");
            if protocol == "tcp" {
                head(&mut client);
                client.write_all(b"hello\r\n\r\n").expect("it is sent");
            }
            let (mut program, _) = asked.recv_timeout(PATIENCE).expect("a request");
            program
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                      upgrade: websocket\r\n\r\n",
                )
                .expect("it is sent");
            head(&mut client);
            let (broken, mut other) = match client_breaks {
                true => (client, program),
                false => (program, client),
            };
            socket2::SockRef::from(&broken)
                .set_linger(Some(Duration::ZERO))
                .expect("a socket");
            drop(broken);
            let error = other.read(&mut [0; 1]).expect_err("no clean end");
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset,
                "{protocol}"
            );
        }
    }
}

#[test]
fn a_switch_that_is_not_answered_ends_with_the_requests_time() {
    let (at, _asked) = program();
    let engine = sidecar("http", at, |traffic| {
        traffic["request_timeout_ms"] = json!(200);
    });
    let mut client = connect(address(&engine, "/proxy"));
    let answer = ask(
        &mut client,
        "GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
}

#[test]
fn who_waits_for_one_connection_shares_its_end() {
    // A full queue of connections: what comes is neither taken nor refused.
    let socket = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )
    .expect("a socket");
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("a port");
    socket.listen(0).expect("a queue");
    let at = socket.local_addr().expect("an address");
    let at = at.as_socket().expect("an address");
    let short = Duration::from_millis(200);
    let full: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&at, short).ok())
        .take(64)
        .collect();
    assert!(full.len() < 64, "the queue has no end");

    let engine = sidecar("http2", at, |traffic| {
        traffic["connect_timeout_ms"] = json!(300);
        traffic["retry"]["attempts"] = json!(0);
    });
    let proxy = address(&engine, "/proxy");
    let begin = Instant::now();
    let asking: Vec<_> = (0..20)
        .map(|_| {
            thread::spawn(move || ask(&mut connect(proxy), "GET / HTTP/1.1\r\nhost: cart\r\n\r\n"))
        })
        .collect();
    for asking in asking {
        let answer = asking.join().expect("an answer");
        assert!(answer.contains("connect-failed"), "{answer}");
    }
    assert!(begin.elapsed() < 10 * short, "{:?}", begin.elapsed());
}

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\n\r\n";
const SWITCH: &[u8] = b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\n\
                        upgrade: websocket\r\n\r\n";

#[test]
fn a_switch_to_no_protocol_is_no_response() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |traffic| {
        traffic["retry"]["attempts"] = json!(0)
    });
    let mut client = connect(address(&engine, "/proxy"));
    client.write_all(SWITCH).expect("it is sent");
    let (mut program, _) = asked.recv_timeout(PATIENCE).expect("a request");
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n";
    program.write_all(switch).expect("it is sent");
    let answer = ask(&mut client, "");
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[test]
fn a_connection_on_which_a_switch_was_refused_takes_no_other_request() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    for request in [SWITCH, GET.as_bytes()] {
        let mut client = connect(address(&engine, "/proxy"));
        client.write_all(request).expect("it is sent");
        let (mut program, _) = asked
            .recv_timeout(PATIENCE)
            .expect("a connection of its own");
        program.write_all(OK).expect("it is sent");
        assert!(head(&mut client).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn an_old_client_switches_to_nothing() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    for (version, switches) in [("HTTP/1.1", true), ("HTTP/1.0", false)] {
        let mut client = connect(address(&engine, "/proxy"));
        let request = String::from_utf8_lossy(SWITCH).replace("HTTP/1.1", version);
        client.write_all(request.as_bytes()).expect("it is sent");
        let (_program, head) = asked.recv_timeout(PATIENCE).expect("a request");
        let asks = head.to_ascii_lowercase().contains("upgrade");
        assert_eq!(asks, switches, "{head}");
    }
}

#[test]
fn who_ended_its_side_reads_a_response_for_as_long_as_it_comes() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    let request = b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
    client.write_all(request).expect("it is sent");
    client.shutdown(std::net::Shutdown::Write).expect("an end");
    let (mut program, _) = asked.recv_timeout(PATIENCE).expect("a request");
    let pause = HALF_CLOSED_TIME * 2 / 5;
    let pieces = thread::spawn(move || {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
        program.write_all(head).expect("it is sent");
        for _ in 0..3 {
            thread::sleep(pause);
            program.write_all(b"x").expect("it is sent");
        }
    });
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("all of it");
    pieces.join().expect("an end");
    assert!(answer.ends_with("\r\n\r\nxxx"), "{answer}");
}

#[test]
fn a_place_among_the_connections_goes_round_the_threads() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                // The sidecar may leave.
                while !head(&mut stream).is_empty() && stream.write_all(OK).is_ok() {}
            });
        }
    });
    let engine = sidecar_of(2, "http", at, |traffic| {
        traffic["limits"]["connections"] = json!(1);
    });
    let proxy = address(&engine, "/proxy");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut client = connect(proxy);
                let answers = (0..20).map(|_| ask(&mut client, GET));
                answers
                    .filter(|answer| answer.starts_with("HTTP/1.1 200"))
                    .count()
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("answers"), 20);
    }
}

#[test]
fn long_bodies_arrive_whole_both_ways_and_a_break_is_seen() {
    const LENGTH: usize = 3_000_000;
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let data: Vec<u8> = (0..LENGTH).map(|i| ((i * 7) >> 3) as u8).collect();
    let lengthy = |line: &str| format!("{line}\r\nhost: cart\r\ncontent-length: {LENGTH}\r\n\r\n");
    let mut client = connect(address(&engine, "/proxy"));
    for sent in [LENGTH, LENGTH / 2] {
        let mut sender = client.try_clone().expect("a handle");
        let (head_of_post, body) = (lengthy("POST / HTTP/1.1"), data.clone());
        let upload = thread::spawn(move || {
            sender
                .write_all(head_of_post.as_bytes())
                .expect("it is sent");
            // In two parts, with the second on the way while the first is moved.
            let (first, second) = body.split_at(LENGTH / 3);
            sender.write_all(first).expect("it is sent");
            sender.write_all(second).expect("it is sent");
        });
        let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
        let mut got = vec![0; LENGTH];
        program.read_exact(&mut got).expect("the whole body");
        assert!(got == data, "other bytes came");
        upload.join().expect("it was sent");
        let begin = lengthy("HTTP/1.1 200 OK");
        let answer = thread::spawn(move || {
            program.write_all(begin.as_bytes()).expect("it is sent");
            program.write_all(&got[..sent]).expect("it is sent");
        });
        assert!(head(&mut client).starts_with("HTTP/1.1 200"));
        let mut back = vec![0; sent];
        client.read_exact(&mut back).expect("what was sent");
        assert!(back == data[..sent], "other bytes came back");
        answer.join().expect("it was sent");
    }
    assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0, "more came");
}

#[test]
fn a_try_has_so_many_interim_responses() {
    let (at, asked) = program();
    let engine = sidecar("http", at, |traffic| {
        traffic["retry"]["attempts"] = json!(0)
    });
    for (interim, last) in [(INTERIM_MAX, "200"), (INTERIM_MAX + 1, "502")] {
        let mut client = connect(address(&engine, "/proxy"));
        client.write_all(GET.as_bytes()).expect("it is sent");
        let (mut program, _) = asked.recv_timeout(PATIENCE).expect("a request");
        let hints = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(interim);
        program.write_all(&hints).expect("it is sent");
        program.write_all(OK).expect("it is sent");
        for _ in 0..INTERIM_MAX {
            assert!(head(&mut client).starts_with("HTTP/1.1 103"));
        }
        let answer = head(&mut client);
        assert!(answer.starts_with(&format!("HTTP/1.1 {last}")), "{answer}");
    }
}
