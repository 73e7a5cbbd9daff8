//! TCP between sidecars.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use serde_json::json;
use socket2::SockRef;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tulle_engine::hbone::{STREAM_WINDOW, STREAMS_MAX};
use tulle_engine::join::BUFFER_MAX;
use tulle_engine::tls::{Identity, SpiffeId, client_config, session_name};

use crate::mesh::{
    CART, PATIENCE, Pair, WEB, address, apply, connect, counted, endpoints, eventually, expect,
    is_closed, is_reset, joined, program, reset, service, workload,
};
use crate::test_ca::Leaf;

#[test]
fn either_side_may_speak_first_and_end_first() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.pair();
    far.write_all(b"banner").expect("it is sent");
    expect(&mut near, b"banner");
    near.write_all(b"last words").expect("it is sent");
    near.shutdown(Shutdown::Write).expect("an end");
    expect(&mut far, b"last words");
    assert!(is_closed(&mut far));
    far.write_all(b"answer").expect("the other half is open");
    drop(far);
    expect(&mut near, b"answer");
    assert!(is_closed(&mut near));

    let (mut near, mut far) = pair.pair();
    far.shutdown(Shutdown::Write).expect("an end");
    assert!(is_closed(&mut near));
    near.write_all(b"late").expect("the other half is open");
    drop(near);
    expect(&mut far, b"late");
    assert!(is_closed(&mut far));
    assert_eq!(pair.carriers(), 1, "both rode one connection");
}

#[test]
fn a_broken_end_breaks_the_other() {
    let pair = Pair::new();
    let open = || {
        let (mut near, mut far) = pair.pair();
        joined(&mut near, &mut far);
        (near, far)
    };
    let (near, mut far) = open();
    reset(near);
    assert!(is_reset(&mut far));
    let (mut near, far) = open();
    reset(far);
    assert!(is_reset(&mut near));
    // Also when the half that breaks was all that was still open.
    let (near, mut far) = open();
    near.shutdown(Shutdown::Write).expect("an end");
    assert!(is_closed(&mut far));
    reset(far);
    assert!(is_reset(&mut { near }));
}

#[test]
fn many_megabytes_go_both_ways_at_once_and_are_counted() {
    let pair = Pair::new();
    let data: Arc<[u8]> = (0..12_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let (near, far) = pair.pair();
    let ends = [near, far].map(|mut stream| {
        let (mut writer, sent) = (stream.try_clone().expect("a handle"), Arc::clone(&data));
        let writing = thread::spawn(move || {
            writer.write_all(&sent).expect("it is sent");
            writer.shutdown(Shutdown::Write).expect("an end");
        });
        let expected = Arc::clone(&data);
        thread::spawn(move || {
            expect(&mut stream, &expected);
            assert!(is_closed(&mut stream));
            writing.join().expect("all was sent");
        })
    });
    for end in ends {
        end.join().expect("all came");
    }
    let size = data.len() as u64;
    eventually("it is counted", || {
        counted(&pair.web, None) == (1, size, size) && counted(&pair.cart, None) == (1, size, size)
    });
}

#[test]
fn connections_are_shared_up_to_a_bound() {
    let pair = Pair::new();
    let open: Vec<_> = (0..STREAMS_MAX).map(|_| pair.pair()).collect();
    assert_eq!(pair.carriers(), 1);
    let mut more = pair.pair();
    assert_eq!(pair.carriers(), 2);
    drop(open);
    more.0.write_all(b"x").expect("it is sent");
    expect(&mut more.1, b"x");
}

#[test]
fn streams_that_nobody_reads_hold_a_bounded_amount_and_stop_no_other() {
    let pair = Pair::new();
    let stalled: Vec<_> = (0..24)
        .map(|_| {
            let (near, far) = pair.pair();
            let small = SockRef::from(&far).set_recv_buffer_size(4096);
            small.expect("a socket");
            near.set_nonblocking(true).expect("a socket");
            (near, far)
        })
        .collect();
    let chunk = vec![0; 1 << 20];
    let mut sent = vec![0; stalled.len()];
    let mut quiet = 0;
    // Nothing more goes in for a while: all is full.
    while quiet < 20 {
        quiet += 1;
        for ((near, _), sent) in stalled.iter().zip(&mut sent) {
            while let Ok(n) = (&mut &*near).write(&chunk) {
                *sent += n;
                quiet = 0;
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    // Four sockets' buffers of the kernel, and ours: two buffers and a window.
    let ours = 2 * BUFFER_MAX + STREAM_WINDOW as usize;
    let kernel = 4 * 6 * 1024 * 1024;
    assert!(sent.iter().all(|&sent| sent < ours + kernel), "{sent:?}");
    let (mut near, mut far) = pair.pair();
    near.write_all(&chunk[..600_000]).expect("it is sent");
    expect(&mut far, &chunk[..600_000]);
    assert_eq!(pair.carriers(), 1, "on the same connection");
}

#[test]
fn a_refusal_of_policy_or_application_is_told_to_the_caller() {
    let pair = Pair::new();
    apply(&pair.cart, &workload("strict", "deny"));
    assert!(is_closed(&mut pair.connect()));
    eventually("both count it", || {
        counted(&pair.web, Some("denied")).0 == 1 && counted(&pair.cart, Some("denied")).0 == 1
    });
    apply(&pair.cart, &workload("strict", "allow"));
    let (mut near, mut far) = pair.pair();
    near.write_all(b"x").expect("it is sent");
    expect(&mut far, b"x");
    assert_eq!(pair.carriers(), 1, "a refusal ends no other tunnel");
}

#[test]
fn a_tunnel_outlives_a_denial_that_comes_later_and_the_next_is_refused() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.pair();
    apply(&pair.cart, &workload("strict", "deny"));
    near.write_all(b"x").expect("it is sent");
    expect(&mut far, b"x");
    assert!(is_closed(&mut pair.connect()));
}

#[test]
fn a_sidecar_that_drains_lets_no_tunnel_in_and_ends_none() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.pair();
    pair.cart.drain();
    eventually("nothing new comes in", || {
        TcpStream::connect(pair.listen()).is_err()
    });
    assert!(is_closed(&mut pair.connect()));
    near.write_all(b"still here").expect("it is sent");
    expect(&mut far, b"still here");
    drop((near, far));
    eventually("it is drained", || {
        let event = pair.cart.next_event(PATIENCE).unwrap_or_default();
        String::from_utf8_lossy(&event).contains("\"drained\"")
    });
}

#[test]
fn before_a_certificate_ends_new_tunnels_take_another_connection() {
    let mut leaf = Leaf::of(CART);
    leaf.not_after = SystemTime::now() + Duration::from_secs(3);
    let pair = Pair::certified(&leaf);
    let (mut near, mut far) = pair.pair();
    let fresh = pair.ca.issue(&Leaf::of(CART));
    pair.cart
        .set_identity(&fresh.chain_pem, &fresh.key_pem, &pair.ca.root_pem)
        .expect("an identity");
    let mut others = Vec::new();
    eventually("a second connection", || {
        others.push(pair.pair());
        others.truncate(1);
        pair.carriers() > 1
    });
    near.write_all(b"as it was").expect("it is sent");
    expect(&mut far, b"as it was");
}

#[test]
fn a_connection_that_the_other_sidecar_lost_is_replaced_unseen() {
    let mut pair = Pair::new();
    drop(pair.pair());
    let (app, accepted) = program();
    let again = crate::mesh::sidecar("cart", Some(crate::mesh::port(app)));
    let issued = pair.ca.issue(&Leaf::of(CART));
    again
        .set_identity(&issued.chain_pem, &issued.key_pem, &pair.ca.root_pem)
        .expect("an identity");
    apply(&again, &workload("strict", "allow"));
    again.start().expect("a start");
    pair.cart.stop();
    apply(
        &pair.web,
        &endpoints(address(&again, "/inbound/0/listen"), Some(CART)),
    );
    (pair.cart, pair.accepted) = (again, accepted);
    let (mut near, mut far) = pair.pair();
    near.write_all(b"x").expect("it is sent");
    expect(&mut far, b"x");
}

pub(crate) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A caller that speaks HTTP/2 by hand; a thread drives its connection.
fn by_hand(pair: &Pair) -> SendRequest<Bytes> {
    let issued = pair.ca.issue(&Leaf::of(WEB));
    let identity = Identity::from_pem(&issued.chain_pem, &issued.key_pem, &[&pair.ca.root_pem]);
    let identity = identity.expect("an identity");
    let expected = SpiffeId::parse(CART).expect("an id");
    let config = client_config(Some(&identity), identity.roots(), &expected, &[b"h2"]);
    let (config, at) = (config.expect("a config"), pair.listen());
    let (ready, sender) = std::sync::mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let tcp = tokio::net::TcpStream::connect(at)
                .await
                .expect("a connection");
            let tls = TlsConnector::from(config)
                .connect(session_name(at), tcp)
                .await;
            let http = h2::client::handshake(tls.expect("a handshake")).await;
            let (sender, connection) = http.expect("HTTP/2");
            ready.send(sender).expect("a test");
            // The test may be over.
            let _ended = connection.await;
        });
    });
    sender.recv_timeout(PATIENCE).expect("a connection")
}

fn connect_to(authority: &str) -> Request<()> {
    let request = Request::builder().method(Method::CONNECT).uri(authority);
    request.body(()).expect("a request")
}

#[test]
fn what_is_not_a_connect_to_its_own_port_is_refused_with_a_reason() {
    for protocol in ["tcp", "http", "http2"] {
        let pair = Pair::changed(|port| port["protocol"] = json!(protocol));
        let (runtime, mut sender) = (runtime(), by_hand(&pair));
        let other = pair.listen().port() ^ 1;
        let other = connect_to(&format!("127.0.0.1:{other}"));
        let mut refused = vec![
            (other, 404, "unknown-port"),
            (connect_to("cart"), 404, "unknown-port"),
        ];
        if protocol == "tcp" {
            let get = Request::get("https://cart/").body(()).expect("a request");
            refused.push((get, 400, "bad-request"));
        }
        for (request, status, reason) in refused {
            let asked = request.uri().to_string();
            let (answer, _send) = sender.send_request(request, false).expect("it is sent");
            let response: Response<_> = runtime.block_on(answer).expect("an answer");
            assert_eq!(response.status(), status, "{protocol} {asked}");
            assert_eq!(
                response.headers()["x-tulle-reason"],
                reason,
                "{protocol} {asked}"
            );
        }
        let (count, ..) = counted(&pair.cart, Some("unknown-port"));
        assert_eq!(count, 2, "refusals are counted");
    }
}

#[test]
fn many_small_frames_for_a_slow_reader_end_no_tunnel_of_the_connection() {
    let pair = Pair::new();
    let (runtime, sender) = (runtime(), by_hand(&pair));
    let authority = pair.listen().to_string();
    let open = |sender: &SendRequest<Bytes>| {
        let mut sender = sender.clone();
        let (answer, send) = sender
            .send_request(connect_to(&authority), false)
            .expect("sent");
        let response = runtime.block_on(answer).expect("an answer");
        let far = pair.accepted.recv_timeout(PATIENCE).expect("a call");
        (send, response.into_body(), far)
    };
    let (mut slow, _receive, mut unread) = open(&sender);
    // The application's socket is full, then come as many frames as the window has bytes.
    let window = STREAM_WINDOW as usize;
    let (mut sent, full) = (0, vec![1; window]);
    let quiet = Duration::from_millis(300);
    loop {
        slow.reserve_capacity(window);
        let room = std::future::poll_fn(|cx| slow.poll_capacity(cx));
        let waited = runtime.block_on(async { tokio::time::timeout(quiet, room).await });
        let Ok(room) = waited else { break };
        let room = room.expect("open").expect("room").min(window);
        let part = Bytes::copy_from_slice(&full[..room]);
        slow.send_data(part, false).expect("it is sent");
        sent += room;
    }
    // The kernel still takes a little now and then: read some, and refill in small frames.
    let mut some = vec![0; 4 * window];
    unread.read_exact(&mut some).expect("bytes");
    for _ in 0..window / 4 {
        slow.send_data(Bytes::from_static(b"\x01"), false)
            .expect("it is sent");
    }
    let (mut other, _receive, mut far) = open(&sender);
    other
        .send_data(Bytes::from_static(b"here"), true)
        .expect("it is sent");
    expect(&mut far, b"here");
    let mut rest = vec![0; sent - some.len() + window / 4];
    unread.read_exact(&mut rest).expect("all came");
}

#[test]
fn a_caller_without_an_identity_reaches_nothing() {
    let pair = Pair::new();
    let mut plain = connect(pair.listen());
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .expect("it is sent");
    let mut answer = Vec::new();
    // An alert, or a reset.
    let _ended = plain.read_to_end(&mut answer);
    assert!(answer.len() < 64, "{answer:?}");
    assert!(pair.accepted.try_recv().is_err());
}

#[test]
fn a_tunnel_that_carries_nothing_is_broken_after_the_policys_time() {
    let pair = Pair::new();
    let idle = service("tcp", |traffic| traffic["idle_timeout_ms"] = json!(300));
    apply(&pair.web, &idle);
    let (mut near, mut far) = pair.pair();
    let begin = Instant::now();
    assert!(is_reset(&mut near), "neither side has ended");
    assert!(
        begin.elapsed() >= Duration::from_millis(280),
        "{:?}",
        begin.elapsed()
    );
    assert!(is_reset(&mut far));
}

#[test]
fn a_sidecar_that_ends_breaks_what_it_carries() {
    for ends in [0, 1] {
        let pair = Pair::new();
        let (mut near, mut far) = pair.pair();
        joined(&mut near, &mut far);
        [&pair.web, &pair.cart][ends].stop();
        assert!(is_reset(&mut near), "{ends}: not all of the answer came");
        assert!(is_reset(&mut far), "{ends}: not all of the request came");
    }
}
