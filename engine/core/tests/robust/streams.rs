//! A service on HTTP/2 that takes few streams at once: further connections, and their bounds.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tulle_engine::engine::Engine;
use tulle_engine::upstream::http2::CONNECTIONS_MAX;

use crate::GET;
use crate::loopback::{PATIENCE, address, connect, head, sidecar};

const REFUSED: &str = "tulle-reason: pending-limit";

/// A server that takes so many streams of a connection at once, and holds what it is asked.
struct Server {
    at: SocketAddr,
    /// The number of the connection that a request came on.
    asked: Receiver<usize>,
    /// How many requests are answered, in the order they came.
    answers: watch::Sender<usize>,
    /// The number of the connection that it says goodbye on.
    leaves: watch::Sender<Option<usize>>,
}

impl Server {
    fn start(streams: u32) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a mode");
        let (said, asked) = channel();
        let (answers, answered) = watch::channel(0);
        let (leaves, left) = watch::channel(None);
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let (mut connections, mut requests) = (0, 0);
            let (arrive, mut arrived) = tokio::sync::mpsc::unbounded_channel();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("a connection");
                        let (arrive, number) = (arrive.clone(), connections);
                        let mut left = left.clone();
                        connections += 1;
                        tokio::spawn(async move {
                            let mut builder = h2::server::Builder::new();
                            let shake = builder.max_concurrent_streams(streams).handshake::<_, Bytes>(stream);
                            let mut connection = shake.await.expect("HTTP/2");
                            while let Some(respond) = next(&mut connection, &mut left, number).await {
                                let _over = arrive.send((number, respond));
                            }
                        });
                    }
                    Some((number, mut respond)) = arrived.recv() => {
                        let _over = said.send(number);
                        let (mut answered, place) = (answered.clone(), requests);
                        requests += 1;
                        tokio::spawn(async move {
                            if answered.wait_for(|most| place < *most).await.is_ok() {
                                let _gone = respond.send_response(http::Response::new(()), true);
                            }
                        });
                    }
                }
            }
        };
        thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build();
            runtime.expect("a runtime").block_on(serve);
        });
        Server {
            at,
            asked,
            answers,
            leaves,
        }
    }

    /// A sidecar before it, which does not try again.
    fn sidecar(&self, change: impl Fn(&mut Value)) -> Engine {
        sidecar("http2", self.at, |traffic| {
            traffic["retry"]["attempts"] = json!(0);
            traffic["connect_timeout_ms"] = json!(PATIENCE.as_millis());
            change(traffic);
        })
    }

    /// The connections that the next requests come on, in order of their numbers.
    fn next(&self, requests: usize) -> Vec<usize> {
        let next = |_| self.asked.recv_timeout(PATIENCE).expect("a request");
        let mut connections: Vec<_> = (0..requests).map(next).collect();
        connections.sort_unstable();
        connections
    }
}

/// The next request of a connection; says goodbye when `left` names its number.
async fn next(
    connection: &mut h2::server::Connection<tokio::net::TcpStream, Bytes>,
    left: &mut watch::Receiver<Option<usize>>,
    number: usize,
) -> Option<h2::server::SendResponse<Bytes>> {
    loop {
        tokio::select! {
            asked = connection.accept() => return asked?.ok().map(|(_, respond)| respond),
            Ok(()) = left.changed() => if *left.borrow() == Some(number) {
                connection.graceful_shutdown();
            }
        }
    }
}

/// Clients that have asked, each on a connection of its own.
fn ask(engine: &Engine, clients: usize) -> Vec<TcpStream> {
    let ask = |_| {
        let mut client = connect(address(engine, "/proxy"));
        client.write_all(GET.as_bytes()).expect("it is sent");
        client
    };
    (0..clients).map(ask).collect()
}

#[test]
fn what_one_connection_does_not_take_goes_on_further_ones() {
    let server = Server::start(2);
    let engine = server.sidecar(|_| {});
    let mut clients = ask(&engine, 5);
    assert_eq!(server.next(5), [0, 0, 1, 1, 2]);
    server.answers.send_replace(usize::MAX);
    for client in &mut clients {
        assert!(head(client).starts_with("HTTP/1.1 200"));
    }
    // With room again, the first is used.
    ask(&engine, 1);
    assert_eq!(server.next(1), [0]);
}

#[test]
fn a_request_beyond_all_connections_waits_for_a_stream() {
    let server = Server::start(1);
    let engine = server.sidecar(|_| {});
    let mut clients = ask(&engine, CONNECTIONS_MAX);
    assert!(
        server
            .next(CONNECTIONS_MAX)
            .into_iter()
            .eq(0..CONNECTIONS_MAX)
    );
    let mut last = ask(&engine, 1);
    server.answers.send_replace(1);
    assert!(server.next(1)[0] < CONNECTIONS_MAX);
    server.answers.send_replace(usize::MAX);
    for client in clients.iter_mut().chain(&mut last) {
        assert!(head(client).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn it_does_not_wait_for_longer_than_to_connect() {
    const LIMIT: Duration = Duration::from_millis(300);
    let server = Server::start(1);
    let engine = server.sidecar(|traffic| traffic["connect_timeout_ms"] = json!(LIMIT.as_millis()));
    let _open = ask(&engine, CONNECTIONS_MAX);
    server.next(CONNECTIONS_MAX);
    let begin = Instant::now();
    let answer = head(&mut ask(&engine, 1)[0]);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains(REFUSED), "{answer}");
    assert!(begin.elapsed() >= LIMIT, "{:?}", begin.elapsed());
}

#[test]
fn where_the_service_has_all_its_connections_so_many_wait() {
    let server = Server::start(1);
    let engine = server.sidecar(|traffic| {
        traffic["limits"]["connections"] = json!(2);
        traffic["limits"]["pending"] = json!(1);
    });
    let mut open = ask(&engine, 2);
    assert_eq!(server.next(2), [0, 1]);
    // Of two more one waits, and the other is refused at once.
    let (say, heads) = channel();
    for mut client in ask(&engine, 2) {
        let say = say.clone();
        thread::spawn(move || say.send(head(&mut client)));
    }
    let refused = heads.recv_timeout(PATIENCE).expect("an answer");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains(REFUSED), "{refused}");
    server.answers.send_replace(usize::MAX);
    assert!(server.next(1)[0] < 2);
    let waited = heads.recv_timeout(PATIENCE).expect("an answer");
    for answer in open.iter_mut().map(head).chain([waited]) {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn where_one_of_several_says_goodbye_the_others_go_on() {
    let server = Server::start(1);
    let engine = server.sidecar(|_| {});
    let mut clients = ask(&engine, 3);
    assert_eq!(server.next(3), [0, 1, 2]);
    server.leaves.send_replace(Some(1));
    server.answers.send_replace(3);
    // What is open on it is answered, too.
    for client in &mut clients {
        assert!(head(client).starts_with("HTTP/1.1 200"));
    }
    let mut clients = ask(&engine, 3);
    assert_eq!(server.next(3), [0, 2, 3]);
    server.answers.send_replace(usize::MAX);
    for client in &mut clients {
        assert!(head(client).starts_with("HTTP/1.1 200"));
    }
}

/// `SETTINGS` that let a client open so many streams (RFC 9113 §6.5.2).
fn streams_at_once(most: u8) -> [u8; 15] {
    [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, most]
}

/// A server that hands over its connections, and answers what comes. It takes no stream, or says
/// nothing before the first one.
fn peer(takes_none: bool) -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let (say, opened) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let say = say.clone();
            // A client that has enough of it leaves in the middle of a frame.
            thread::spawn(move || talk(stream, &say, takes_none));
        }
    });
    (at, opened)
}

fn talk(
    mut stream: TcpStream,
    say: &Sender<TcpStream>,
    mut is_settled: bool,
) -> std::io::Result<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const ACK: u8 = 1;
    if is_settled {
        stream.write_all(&streams_at_once(0))?;
    }
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    let _over = say.send(stream.try_clone()?);
    loop {
        let mut frame = [0; 9];
        stream.read_exact(&mut frame)?;
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload)?;
        if frame[3] == HEADERS && !is_settled {
            is_settled = true;
            stream.write_all(&streams_at_once(100))?;
        }
        match (frame[3], frame[4]) {
            // `:status: 200` (RFC 7541 appendix A).
            (HEADERS, _) => stream.write_all(&[&[0, 0, 1, 1, 5], &frame[5..], &[0x88]].concat())?,
            (SETTINGS, flags) if flags != ACK => {
                stream.write_all(&[0, 0, 0, 4, ACK, 0, 0, 0, 0])?;
            }
            _ => {}
        }
    }
}

#[test]
fn a_peer_that_takes_no_stream_has_so_many_connections_until_it_does() {
    const LIMIT: Duration = Duration::from_millis(300);
    let (at, opened) = peer(true);
    let engine = sidecar("http2", at, |traffic| {
        traffic["retry"]["attempts"] = json!(0);
        traffic["connect_timeout_ms"] = json!(LIMIT.as_millis());
    });
    let refused = |begin: Instant| {
        let answer = head(&mut ask(&engine, 1)[0]);
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains(REFUSED), "{answer}");
        begin.elapsed() >= LIMIT
    };
    for _ in 0..CONNECTIONS_MAX {
        refused(Instant::now());
    }
    assert!(refused(Instant::now()), "it waits for a stream");
    let mut connections: Vec<_> = opened.try_iter().collect();
    assert_eq!(connections.len(), CONNECTIONS_MAX);
    let settings = streams_at_once(100);
    connections[0].write_all(&settings).expect("it is sent");
    for client in &mut ask(&engine, 3) {
        assert!(head(client).starts_with("HTTP/1.1 200"));
    }
    assert!(opened.try_recv().is_err());
}

#[test]
fn a_peer_that_is_slow_to_say_its_settings_gets_one_request_nevertheless() {
    let (at, opened) = peer(false);
    let engine = sidecar("http2", at, |_| {});
    for client in &mut ask(&engine, 3) {
        assert!(head(client).starts_with("HTTP/1.1 200"));
    }
    assert_eq!(opened.try_iter().count(), 1);
}
