//! Peers that misbehave: what is still answered, and what no answer is made of.

mod loopback;
#[path = "robust/streams.rs"]
mod streams;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use loopback::{OK, PATIENCE, address, ask, connect, head, program, sidecar};
use serde_json::json;

const GET: &str = "GET / HTTP/1.1\r\nhost: cart\r\n\r\n";

/// What the client gets for `asked` from a program that reads a head, writes `answer` and leaves.
fn answered(asked: &str, answer: &[u8]) -> String {
    let (at, programs) = program();
    let engine = sidecar("http", at, |traffic| {
        traffic["retry"]["attempts"] = json!(0)
    });
    let mut client = connect(address(&engine, "/proxy"));
    client.write_all(asked.as_bytes()).expect("it is sent");
    let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
    // A proxy that has enough of it may leave first.
    let _gone = program.write_all(answer);
    drop(program);
    client.shutdown(Shutdown::Write).expect("an end");
    let mut got = Vec::new();
    // A broken answer may end by a reset.
    let _reset = client.read_to_end(&mut got);
    String::from_utf8_lossy(&got).into_owned()
}

#[test]
fn what_is_no_response_is_not_passed_on() {
    let flood = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(1000);
    for answer in [
        &b""[..],
        b"HTTP/1.1 200 O",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n",
    ] {
        let got = answered(GET, answer);
        let shown = String::from_utf8_lossy(answer);
        assert!(got.starts_with("HTTP/1.1 502"), "{shown}: {got}");
    }
    let got = answered(GET, &flood);
    let hints = got.matches("HTTP/1.1 103").count();
    assert!(hints <= 100 && got.contains("HTTP/1.1 502"), "{hints}");
}

#[test]
fn a_body_that_is_not_whole_does_not_look_so() {
    for (asked, answer) in [
        (
            GET,
            &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"[..],
        ),
        (
            GET,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ),
        (
            GET,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nx",
        ),
    ] {
        let got = answered(asked, answer);
        let shown = String::from_utf8_lossy(answer);
        // What came before the break arrives, head and all.
        let (head, body) = got.split_once("\r\n\r\n").unwrap_or_default();
        assert!(body.contains("half"), "{shown}: {got}");
        let whole = head.contains("content-length: 4") || body.ends_with("0\r\n\r\n");
        assert!(!whole, "{shown}: {got}");
    }
}

#[test]
fn a_client_for_whom_the_end_is_the_bodys_gets_a_reset_when_it_breaks_off() {
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    for (left, whole) in [("4\r\nhalf\r\n", false), ("4\r\nhalf\r\n0\r\n\r\n", true)] {
        let mut client = connect(address(&engine, "/proxy"));
        let request = b"GET / HTTP/1.0\r\nhost: cart\r\n\r\n";
        client.write_all(request).expect("it is sent");
        let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
        let begin = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        program.write_all(begin).expect("it is sent");
        let begun = head(&mut client).to_ascii_lowercase();
        assert!(!begun.contains("transfer-encoding"), "{begun}");
        program.write_all(left.as_bytes()).expect("it is sent");
        drop(program);
        let mut body = Vec::new();
        let read = client.read_to_end(&mut body);
        assert_eq!(read.is_ok(), whole, "{left:?}: {body:?}");
    }
}

#[test]
fn a_sidecar_that_ends_breaks_off_what_shows_its_end_by_none_of_its_own() {
    let switch =
        "GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let switched =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let old = "GET / HTTP/1.0\r\nhost: cart\r\n\r\n";
    let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for (request, response) in [(switch, switched), (old, begun)] {
        let (at, programs) = program();
        let engine = sidecar("http", at, |_| {});
        let mut client = connect(address(&engine, "/proxy"));
        client.write_all(request.as_bytes()).expect("it is sent");
        let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
        program.write_all(response.as_bytes()).expect("it is sent");
        head(&mut client);
        engine.stop();
        let mut ends = vec![&mut client];
        if request == switch {
            ends.push(&mut program);
        }
        for end in ends {
            let error = end.read_to_end(&mut Vec::new()).expect_err("no clean end");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{request}");
        }
    }
}

#[test]
fn what_follows_a_response_is_never_the_next_one() {
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nmore"),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmore"),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nmore",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nmore",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nx-last: 1\r\ncontent-length: 0\r\n\r\n",
        ),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nhost: cart\r\n\r\n");
        client.write_all(request.as_bytes()).expect("it is sent");
        // Each on a connection of its own: none went back to the pool.
        let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
        program.write_all(answer.as_bytes()).expect("it is sent");
        let got = head(&mut client);
        let line = answer.lines().next().expect("a line");
        assert!(got.starts_with(line), "{answer}: {got}");
    }
}

#[test]
fn pipelined_bodies_stay_with_their_requests() {
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    let texts = ["GET /x HTTP/1.1\r\n\r\n", "0\r\n\r\n", "last"];
    let requests = texts.map(|text| {
        let length = text.len();
        format!("POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: {length}\r\n\r\n{text}")
    });
    client
        .write_all(requests.concat().as_bytes())
        .expect("it is sent");
    client.shutdown(Shutdown::Write).expect("an end");
    let (mut program, mut asked) = programs.recv_timeout(PATIENCE).expect("a request");
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            asked = head(&mut program);
        }
        assert!(asked.starts_with("POST / HTTP/1.1"), "{asked}");
        let mut body = vec![0; text.len()];
        program.read_exact(&mut body).expect("a body");
        assert_eq!(String::from_utf8_lossy(&body), *text);
        program.write_all(OK).expect("it is sent");
    }
    let mut got = String::new();
    client.read_to_string(&mut got).expect("answers and an end");
    assert_eq!(got.matches("HTTP/1.1 200").count(), texts.len(), "{got}");
}

#[test]
fn who_expects_100_gets_it_or_the_answer() {
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let request = "PUT / HTTP/1.1\r\nhost: cart\r\nexpect: 100-continue\r\n\
                   content-length: 4\r\n\r\n";
    for goes_on in [true, false] {
        let mut client = connect(address(&engine, "/proxy"));
        client.write_all(request.as_bytes()).expect("it is sent");
        let (mut program, asked) = programs.recv_timeout(PATIENCE).expect("a request");
        assert!(
            asked.to_ascii_lowercase().contains("expect: 100-continue"),
            "{asked}"
        );
        if goes_on {
            program
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .expect("it is sent");
            let interim = head(&mut client);
            assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
            client.write_all(b"body").expect("it is sent");
            let mut body = [0; 4];
            program.read_exact(&mut body).expect("a body");
            program.write_all(OK).expect("it is sent");
            let answer = ask(&mut client, "");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        } else {
            let refusal = b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n";
            program.write_all(refusal).expect("it is sent");
            let answer = head(&mut client);
            assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
            // The way of a body that never came is not used again, on either side.
            assert!(answer.contains("connection: close"), "{answer}");
            let mut rest = Vec::new();
            program.read_to_end(&mut rest).expect("an end");
            assert!(rest.is_empty(), "{rest:?}");
        }
    }
}

#[test]
fn an_early_answer_is_read_while_the_body_is_still_sent() {
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    let request = "PUT / HTTP/1.1\r\nhost: cart\r\ncontent-length: 1000000000\r\n\r\n";
    client.write_all(request.as_bytes()).expect("it is sent");
    let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
    let mut sending = client.try_clone().expect("a handle");
    let upload = thread::spawn(move || while sending.write_all(&[b'x'; 65_536]).is_ok() {});
    let refusal = b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n";
    program.write_all(refusal).expect("it is sent");
    let answer = head(&mut client);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    upload
        .join()
        .expect("the connection ends before the body does");
}

#[test]
fn an_upload_that_the_upstream_does_not_read_ends_in_time() {
    let (at, programs) = program();
    let engine = sidecar("http", at, |traffic| {
        traffic["request_timeout_ms"] = json!(300);
        traffic["retry"]["attempts"] = json!(0);
    });
    let mut client = connect(address(&engine, "/proxy"));
    let request = "PUT / HTTP/1.1\r\nhost: cart\r\ncontent-length: 1000000000\r\n\r\n";
    client.write_all(request.as_bytes()).expect("it is sent");
    let (_program, _) = programs.recv_timeout(PATIENCE).expect("a request");
    let mut sending = client.try_clone().expect("a handle");
    let upload = thread::spawn(move || while sending.write_all(&[b'x'; 65_536]).is_ok() {});
    let answer = head(&mut client);
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    upload
        .join()
        .expect("the connection ends before the body does");
}

#[test]
fn bytes_beside_a_switch_of_protocols_are_passed_on() {
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    let request = b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\n\
                    upgrade: websocket\r\n\r\nfrom the client";
    client.write_all(request).expect("it is sent");
    let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                   upgrade: websocket\r\n\r\nfrom the program";
    program.write_all(switch).expect("it is sent");
    let switched = head(&mut client);
    assert!(switched.starts_with("HTTP/1.1 101"), "{switched}");
    for (stream, text) in [
        (&mut client, "from the program"),
        (&mut program, "from the client"),
    ] {
        let mut got = vec![0; text.len()];
        stream.read_exact(&mut got).expect("the bytes");
        assert_eq!(String::from_utf8_lossy(&got), text);
    }
}

#[test]
fn trailers_pass_without_what_only_the_mesh_may_say() {
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let chunks = "2\r\nab\r\n0\r\nx-sum: 1\r\nx-tulle-peer: me\r\n\r\n";
    let mut client = connect(address(&engine, "/proxy"));
    let request = "POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n";
    client
        .write_all(format!("{request}{chunks}").as_bytes())
        .expect("it is sent");
    let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
    let chunk = head(&mut program);
    let begin = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    program
        .write_all(format!("{begin}{chunks}").as_bytes())
        .expect("it is sent");
    head(&mut client);
    for got in [chunk, head(&mut client)] {
        assert_eq!(got, "2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n");
    }
}

#[test]
fn a_head_that_trickles_is_refused_in_time() {
    let (at, _programs) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    let mut sending = client.try_clone().expect("a handle");
    let begin = Instant::now();
    thread::spawn(move || {
        for byte in GET.bytes().cycle().filter(|byte| *byte != b'\n') {
            if sending.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(500));
        }
    });
    client
        .set_read_timeout(Some(2 * PATIENCE))
        .expect("a timeout");
    let answer = head(&mut client);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(begin.elapsed() < 3 * PATIENCE / 2, "{:?}", begin.elapsed());
}

#[test]
fn a_client_that_reads_nothing_stops_the_upstream() {
    const MOST: usize = 512 * 1024 * 1024;
    let (at, programs) = program();
    let engine = sidecar("http", at, |_| {});
    let mut client = connect(address(&engine, "/proxy"));
    client.write_all(GET.as_bytes()).expect("it is sent");
    let (mut program, _) = programs.recv_timeout(PATIENCE).expect("a request");
    let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
    program.write_all(begin).expect("it is sent");
    let second = Some(Duration::from_secs(1));
    program.set_write_timeout(second).expect("a timeout");
    let before = resident();
    let mut sent = 0;
    while sent < MOST {
        match program.write(&[b'x'; 65_536]) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    // What was taken waits in the kernel, for either connection as much as its buffers hold.
    assert!(sent < MOST, "{sent}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{grown}");
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = text.split(' ').nth(1).expect("pages");
    pages.parse::<usize>().expect("a number") * 4096
}

/// A server of HTTP/2 that leaves the first stream open, says that it will take no more on its
/// connection, and answers the next one with 204 and an end of its own.
fn leaving_server() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("a mode");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let mut first = None;
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                let (_, mut respond) = connection.accept().await.expect("one").expect("a stream");
                let is_first = first.is_none();
                let status = if is_first { 200 } else { 204 };
                let response = http::Response::builder()
                    .status(status)
                    .body(())
                    .expect("a head");
                let mut body = respond.send_response(response, false).expect("it is sent");
                if is_first {
                    first = Some(body);
                    connection.graceful_shutdown();
                } else {
                    body.send_data(bytes::Bytes::new(), true)
                        .expect("it is sent");
                }
                tasks.spawn(async move { while connection.accept().await.is_some() {} });
            }
        });
    });
    at
}

#[test]
fn a_connection_that_its_peer_leaves_carries_no_other_request() {
    let engine = sidecar("http2", leaving_server(), |_| {});
    let mut open = connect(address(&engine, "/proxy"));
    let answer = ask(&mut open, GET);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut client = connect(address(&engine, "/proxy"));
    let answer = ask(&mut client, GET);
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(
        !answer.to_ascii_lowercase().contains("transfer-encoding"),
        "{answer}"
    );
    client.shutdown(Shutdown::Write).expect("an end");
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("an end");
    assert_eq!(rest, "", "204 has no body");
}
