//! Every wait of a client's connection, a moment before its bound and at it, by a clock that the
//! test holds; all else is real: sockets, codecs and steps.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::clock::BODY_IDLE_TIME;
use crate::control::Host;
use crate::discover::Entrance;
use crate::downstream::{HALF_CLOSED_TIME, READ_IDLE_TIME};
use crate::http1::Connection;
use crate::http2::keepalive::PING_TIMEOUT;
use crate::join::{self, join};
use crate::observe::Observation;
use crate::observe::metrics::Direction;
use crate::serve::{self, HEAD_TIME, IDLE_TIME, IDLE_TIME_HTTP2, Way};
use crate::settings::Settings;
use crate::shared::{IDLE_SERVICE_S, Shared};
use crate::timer::tests::{hold, on_local, pass};
use crate::upstream::stream::{Rewound, Stream};
use crate::worker::Worker;

/// The least time there is.
const MOMENT: Duration = Duration::from_micros(1);
/// Long enough, in real time, for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);
const GET: &str = "GET / HTTP/1.1\r\nhost: cart.shop\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: cart.shop\r\ncontent-length: 9\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
/// More than all buffers between two ends take.
const LARGE: usize = 64 << 20;

/// A sidecar on this thread, and the program that it sends to.
struct Mesh {
    worker: Rc<Worker>,
    program: TcpListener,
}

impl Mesh {
    /// One whose clock stands.
    async fn start(change: impl Fn(&mut Value)) -> Mesh {
        hold();
        let program = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = program.local_addr().expect("an address");
        let worker = Worker::new(shared(at, change));
        Mesh { worker, program }
    }

    /// A client of HTTP/1.1, and the task that serves it.
    async fn client(&self) -> (TcpStream, JoinHandle<()>) {
        let (client, served) = pair().await;
        let connection = Connection::new(Stream::Plain(served));
        let served = serve::Client::new(Way::Outbound(Entrance::Proxy), connection, None);
        let worker = Rc::clone(&self.worker);
        let task = async move { serve::client(&worker, served).await };
        (client, tokio::task::spawn_local(task))
    }

    /// A client of HTTP/2 whose streams have a window of `window` bytes, and the task that
    /// serves it.
    async fn client_http2(&self, window: u32) -> (Http2Client, JoinHandle<()>) {
        let (client, served) = pair().await;
        let served = Rewound::new(Stream::Plain(served), Vec::new());
        let worker = Rc::clone(&self.worker);
        let way = Way::Outbound(Entrance::Proxy);
        let task = async move {
            serve::http2(&worker, way, served, std::future::pending()).await;
        };
        let task = tokio::task::spawn_local(task);
        let mut builder = h2::client::Builder::new();
        let shake = builder.initial_window_size(window).handshake(client);
        (shake.await.expect("HTTP/2"), task)
    }

    /// The next connection to the program, after the head of its first request.
    async fn asked(&self) -> TcpStream {
        let (mut stream, _) = within(self.program.accept()).await.expect("a connection");
        let head = head(&mut stream).await;
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        stream
    }

    /// Whether an answer, or its end, was recorded with `reason`.
    fn has_recorded(&self, reason: &str) -> bool {
        let report = self.worker.shared.stats()["report"].to_string();
        report.contains(&format!("\"{reason}\""))
    }
}

type Http2Client = (
    h2::client::SendRequest<Bytes>,
    h2::client::Connection<TcpStream>,
);

fn shared(program: SocketAddr, change: impl Fn(&mut Value)) -> Arc<Shared> {
    let settings = json!({
        "workload": {"namespace": "shop", "name": "web-1", "service_account": "web",
                     "labels": {}, "zone": null},
        "trust_domain": "tulle.local", "inbound": [], "outbound": [],
        "proxy_listen": null, "admin_listen": "127.0.0.1:0", "control": null,
        "state_dir": null, "probe": null, "workers": 1, "access_log": "off",
        "access_log_path": null, "drain_seconds": 10, "reason_header": true,
    });
    let settings = Settings::parse(settings.to_string().as_bytes()).expect("settings");
    let (shared, _) = Shared::new(settings, Arc::default(), i32::MAX).expect("a sidecar");
    let mut traffic = serde_json::from_str(include_str!("../tests/traffic.json")).expect("JSON");
    change(&mut traffic);
    let service = json!({
        "kind": "service", "namespace": "shop", "name": "cart", "traffic": traffic,
        "addresses": [],
        "ports": [{"number": 80, "name": null, "protocol": "http", "tables": []}],
    });
    let endpoints = json!({
        "kind": "endpoints", "namespace": "shop", "name": "cart", "endpoints": [
            {"workload": "shop/cart-1", "address": program.ip(),
             "ports": [[80, program.port()]], "identity": "", "labels": {}, "zone": null,
             "tls": false}],
    });
    for (name, record) in [
        ("service/shop/cart", service),
        ("endpoints/shop/cart", endpoints),
    ] {
        let applied = Host::apply(&*shared, name, "", record.to_string().as_bytes());
        applied.expect("a record");
    }
    shared
}

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let near = TcpStream::connect(at).await.expect("a connection");
    (near, listener.accept().await.expect("a connection").0)
}

/// What comes of `future`, which must happen whatever the held clock says.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it happens")
}

/// One head, and nothing of what follows; what there is of it, if the peer ends before.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let whole = async {
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
    };
    within(whole).await;
    String::from_utf8(head).expect("text")
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("it is sent");
}

/// The whole of a request and its answer.
async fn exchange(mesh: &Mesh, client: &mut TcpStream) {
    send(client, GET).await;
    let mut program = mesh.asked().await;
    send(&mut program, OK).await;
    assert!(head(client).await.starts_with("HTTP/1.1 200"));
    settle().await;
}

/// Let everything that can go on now do so.
async fn settle() {
    pass(Duration::ZERO).await;
}

/// `task` goes on until `bound` has passed, and ends then.
async fn ends_at(bound: Duration, task: JoinHandle<()>) {
    lasts_until(bound, &task).await;
    within(task).await.expect("no panic");
}

/// Nothing ends `task` before `bound`; by the end of this it has passed.
async fn lasts_until(bound: Duration, task: &JoinHandle<()>) {
    settle().await;
    pass(bound - MOMENT).await;
    assert!(!task.is_finished(), "before {bound:?}");
    pass(MOMENT).await;
}

/// Without an end of its own for a request or a try.
fn no_end(traffic: &mut Value) {
    traffic["request_timeout_ms"] = json!(0);
}

#[test]
fn a_client_may_be_idle_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        // Before its first request as after one.
        let (_silent, served) = mesh.client().await;
        ends_at(IDLE_TIME, served).await;
        let (mut client, served) = mesh.client().await;
        exchange(&mesh, &mut client).await;
        ends_at(IDLE_TIME, served).await;
        assert_eq!(head(&mut client).await, "");
    });
}

#[test]
fn a_request_begins_the_idle_time_anew() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        settle().await;
        pass(IDLE_TIME - MOMENT).await;
        exchange(&mesh, &mut client).await;
        ends_at(IDLE_TIME, served).await;
    });
}

#[test]
fn a_head_that_has_begun_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, "GET / HT").await;
        lasts_until(HEAD_TIME, &served).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("tulle-reason: client-timeout"), "{answer}");
        assert!(mesh.has_recorded("client-timeout"));
    });
}

#[test]
fn a_client_may_owe_its_body_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, POST).await;
        send(&mut client, "half").await;
        let _program = mesh.asked().await;
        settle().await;
        pass(BODY_IDLE_TIME - MOMENT).await;
        // More of it begins the time anew.
        send(&mut client, "more").await;
        lasts_until(BODY_IDLE_TIME, &served).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("tulle-reason: client-timeout"), "{answer}");
        assert!(mesh.has_recorded("client-timeout"));
    });
}

#[test]
fn an_upstream_may_take_nothing_of_a_body_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(no_end).await;
        let (mut client, served) = mesh.client().await;
        let post = format!("POST / HTTP/1.1\r\nhost: cart.shop\r\ncontent-length: {LARGE}\r\n\r\n");
        send(&mut client, &post).await;
        let _program = mesh.asked().await;
        fill(&mut client).await;
        lasts_until(BODY_IDLE_TIME, &served).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(answer.contains("tulle-reason: request-timeout"), "{answer}");
    });
}

/// Write until nothing more is taken.
async fn fill(stream: &mut TcpStream) {
    let chunk = vec![0; 1 << 20];
    let (mut written, mut refused) = (0, 0);
    while refused < 3 {
        match stream.try_write(&chunk) {
            Ok(count) => (written, refused) = (written + count, 0),
            Err(_) => {
                refused += 1;
                settle().await;
            }
        }
        assert!(written < LARGE, "somebody reads all");
    }
}

#[test]
fn a_client_may_leave_a_response_unread_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, GET).await;
        let mut program = mesh.asked().await;
        let large = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
        send(&mut program, &large).await;
        fill(&mut program).await;
        ends_at(READ_IDLE_TIME, served).await;
        assert!(mesh.has_recorded("client-gone"));
        // What is left in the socket, and no end that could be taken for the whole.
        let mut left = Vec::new();
        let ended = within(client.read_to_end(&mut left)).await;
        assert!(ended.is_err() || left.len() < LARGE);
    });
}

#[test]
fn a_client_that_closed_its_half_is_waited_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(no_end).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, GET).await;
        let _program = mesh.asked().await;
        client.shutdown().await.expect("a half");
        ends_at(HALF_CLOSED_TIME, served).await;
        assert!(mesh.has_recorded("client-gone"));
    });
}

#[test]
fn a_client_of_http2_may_be_idle_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ((_sender, connection), served) = mesh.client_http2(65_535).await;
        let leaves = tokio::task::spawn_local(async {
            // Told to leave, it does.
            connection.await.expect("a goodbye");
        });
        ends_at(IDLE_TIME_HTTP2, served).await;
        within(leaves).await.expect("no panic");
    });
}

#[test]
fn one_that_is_told_to_leave_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ((_sender, mut connection), served) = mesh.client_http2(65_535).await;
        // It says that it speaks HTTP/2, and hears nothing from then on.
        std::future::poll_fn(|cx| {
            let _pending = std::pin::Pin::new(&mut connection).poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
        lasts_until(IDLE_TIME_HTTP2, &served).await;
        ends_at(PING_TIMEOUT, served).await;
    });
}

#[test]
fn a_client_of_http2_may_leave_an_answer_unread_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ((mut sender, connection), _served) = mesh.client_http2(0).await;
        let _driven = tokio::task::spawn_local(connection);
        let request = http::Request::get("http://nobody.shop/")
            .body(())
            .expect("a request");
        let (response, _) = sender.send_request(request, true).expect("it is sent");
        let response = within(response).await.expect("a head");
        let mut body = response.into_body();
        let mut read = tokio::task::spawn_local(async move { body.data().await });
        settle().await;
        pass(READ_IDLE_TIME - MOMENT).await;
        assert!(!read.is_finished());
        pass(MOMENT).await;
        let read = within(&mut read).await.expect("no panic");
        assert!(matches!(read, Some(Err(error)) if error.is_reset()));
    });
}

#[test]
fn bytes_may_be_silent_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ((mut client, near), (mut app, far)) = (pair().await, pair().await);
        let seen = Observation::begin(&mesh.worker, Direction::Inbound, None);
        let joined = async move {
            let (near, far) = (join::Side::Tcp(near).into(), join::Side::Tcp(far).into());
            join(near, far, seen, join::IDLE_TIME).await;
        };
        let joined = tokio::task::spawn_local(joined);
        settle().await;
        pass(join::IDLE_TIME - MOMENT).await;
        // A byte either way begins the time anew.
        client.write_u8(7).await.expect("it is sent");
        assert_eq!(within(app.read_u8()).await.expect("a byte"), 7);
        pass(join::IDLE_TIME - MOMENT).await;
        app.write_u8(8).await.expect("it is sent");
        assert_eq!(within(client.read_u8()).await.expect("a byte"), 8);
        ends_at(join::IDLE_TIME, joined).await;
    });
}

#[test]
fn a_service_that_nobody_calls_is_known_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let shared = &mesh.worker.shared;
        shared.connected(true);
        let (mut client, _served) = mesh.client().await;
        exchange(&mesh, &mut client).await;
        let is_known = || {
            shared.drop_idle_services();
            shared.directory.get("shop/cart").is_some()
        };
        // It is counted in whole seconds.
        pass(Duration::from_secs(IDLE_SERVICE_S - 1)).await;
        assert!(is_known());
        pass(Duration::from_secs(1)).await;
        assert!(!is_known());
    });
}
