//! Every wait of the engine, a moment before its bound and at it, by a clock that the test holds;
//! all else is real: sockets, codecs and steps.

mod begin;
mod clients;
mod control;
mod discovery;
mod leaving;
mod server;
mod tunnels;
mod upstream;

pub(crate) use upstream::target;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use crate::control::{Host, Outgoing};
use crate::discover::Entrance;
use crate::http1::Connection;
use crate::inbound::App;
use crate::listen;
use crate::record::Protocol;
use crate::serve::{self, Way};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::timer::tests::{hold, pass};
use crate::tls::Identity;
use crate::tls::test_ca::{Leaf, TestCa};
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
const WEB: &str = "spiffe://tulle.local/ns/shop/sa/web";
const CART: &str = "spiffe://tulle.local/ns/shop/sa/cart";

/// A sidecar on this thread, and the program that it sends to.
pub(crate) struct Mesh {
    pub(crate) worker: Rc<Worker>,
    program: TcpListener,
    at: SocketAddr,
    /// What the control plane would hear.
    _told: mpsc::Receiver<Outgoing>,
}

impl Mesh {
    /// One whose clock stands; `change` changes the record of its service.
    pub(crate) async fn start(change: impl Fn(&mut Value)) -> Mesh {
        Mesh::of(shared(|_| {}), change).await
    }

    /// The same, of such a sidecar.
    async fn of(
        (shared, told): (Arc<Shared>, mpsc::Receiver<Outgoing>),
        change: impl Fn(&mut Value),
    ) -> Mesh {
        hold();
        let program = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = program.local_addr().expect("an address");
        let mesh = Mesh {
            worker: Worker::new(shared),
            program,
            at,
            _told: told,
        };
        let mut service = service();
        change(&mut service);
        mesh.apply(&service);
        mesh.apply(&mesh.endpoints());
        mesh
    }

    /// Put a record in force.
    fn apply(&self, record: &Value) {
        let text = |key: &str| record[key].as_str().expect("a text");
        let name = format!("{}/{}/{}", text("kind"), text("namespace"), text("name"));
        let applied = Host::apply(
            &*self.worker.shared,
            &name,
            "",
            record.to_string().as_bytes(),
        );
        applied.expect("a record");
    }

    /// The record of the program as the service's one endpoint.
    fn endpoints(&self) -> Value {
        json!({
            "kind": "endpoints", "namespace": "shop", "name": "cart", "endpoints": [
                {"workload": "shop/cart-1", "address": self.at.ip(),
                 "ports": [[80, self.at.port()]], "identity": "", "labels": {}, "zone": null,
                 "tls": false}],
        })
    }

    /// Let others call the program.
    pub(crate) fn let_in(&self, mtls: &str) {
        self.apply(&json!({
            "kind": "workload", "namespace": "shop", "name": "web-1", "service_account": "web",
            "mtls": mtls, "port_mtls": [],
            "authorization": {"default": "allow", "policies": []},
        }));
        self.identify(identity(&TestCa::new(), &Leaf::of(WEB)));
    }

    /// Be who `identity` says.
    fn identify(&self, identity: Identity) {
        let known = Host::set_identity(&*self.worker.shared, identity);
        known.expect("an identity");
    }

    /// The program as a port of the sidecar's own application.
    fn app(&self, protocol: Protocol, declared: bool) -> App {
        App {
            id: u64::MAX,
            port: 80,
            protocol,
            declared,
            address: self.at,
            proxy_protocol: false,
            source: None,
        }
    }

    /// A client of HTTP/1.1, and the task that serves it.
    async fn client(&self) -> (TcpStream, JoinHandle<()>) {
        self.served(|way, connection| serve::Client::new(way, connection, None))
            .await
    }

    /// A client that may turn out to speak HTTP/2, and the task that serves it.
    async fn undecided(&self) -> (TcpStream, JoinHandle<()>) {
        self.served(serve::Client::undecided).await
    }

    async fn served(
        &self,
        make: impl Fn(Way, Connection) -> Box<serve::Client>,
    ) -> (TcpStream, JoinHandle<()>) {
        let (client, served) = pair().await;
        let connection = Connection::new(Stream::Plain(served));
        let served = make(Way::Outbound(Entrance::Proxy), connection);
        let worker = Rc::clone(&self.worker);
        let task = async move { serve::client(&worker, served).await };
        (client, spawn_local(task))
    }

    /// A client that has to speak HTTP/2, and the task that serves it.
    async fn http2(&self) -> (TcpStream, JoinHandle<()>) {
        let (client, served) = pair().await;
        let served = Rewound::new(Stream::Plain(served), Vec::new());
        let worker = Rc::clone(&self.worker);
        let way = Way::Outbound(Entrance::Proxy);
        let task = async move {
            serve::http2(&worker, way, served, std::future::pending()).await;
        };
        (client, spawn_local(task))
    }

    /// A client of HTTP/2 whose streams have a window of `window` bytes, and the task that
    /// serves it.
    async fn client_http2(&self, window: u32) -> (Http2Client, JoinHandle<()>) {
        let (client, task) = self.http2().await;
        let mut builder = h2::client::Builder::new();
        let shake = builder.initial_window_size(window).handshake(client);
        (shake.await.expect("HTTP/2"), task)
    }

    /// A client of `app`, and the task that serves it.
    async fn caller(&self, app: App) -> (TcpStream, JoinHandle<()>) {
        let (client, served) = pair().await;
        let worker = Rc::clone(&self.worker);
        let task = async move {
            if let Some(client) = listen::serve_inbound(&worker, app, served).await {
                serve::client(&worker, client).await;
            }
        };
        (client, spawn_local(task))
    }

    /// The next connection to the program, after the head of its first request.
    async fn asked(&self) -> TcpStream {
        let (mut stream, _) = within(self.program.accept()).await.expect("a connection");
        let head = head(&mut stream).await;
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        stream
    }

    /// The next connection to the program, if there is one already.
    async fn called(&self) -> Option<TcpStream> {
        settle().await;
        match poll_fn(|cx| Poll::Ready(self.program.poll_accept(cx))).await {
            Poll::Ready(accepted) => Some(accepted.expect("a connection").0),
            Poll::Pending => None,
        }
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

/// A sidecar whose settings `change` changes, and what it tells the control plane.
pub(crate) fn shared(change: impl Fn(&mut Value)) -> (Arc<Shared>, mpsc::Receiver<Outgoing>) {
    let mut settings = json!({
        "workload": {"namespace": "shop", "name": "web-1", "service_account": "web",
                     "labels": {}, "zone": null},
        "trust_domain": "tulle.local", "inbound": [], "outbound": [],
        "proxy_listen": null, "admin_listen": "127.0.0.1:0", "control": "127.0.0.1:1",
        "state_dir": null, "probe": null, "workers": 1, "access_log": "off",
        "access_log_path": null, "drain_seconds": 10, "reason_header": true,
        "intercept": null,
    });
    change(&mut settings);
    let settings = Settings::parse(settings.to_string().as_bytes()).expect("settings");
    Shared::new(settings, Arc::default(), i32::MAX, Arc::default()).expect("a sidecar")
}

/// The record of the service that the program is.
fn service() -> Value {
    let traffic: Value =
        serde_json::from_str(include_str!("../../tests/traffic.json")).expect("JSON");
    json!({
        "kind": "service", "namespace": "shop", "name": "cart", "traffic": traffic,
        "addresses": [],
        "ports": [{"number": 80, "name": null, "protocol": "http", "tables": []}],
    })
}

/// A good certificate of `uri` that is valid for so many seconds from now.
fn lasting(uri: &str, seconds: u64) -> Leaf {
    let not_after = SystemTime::now() + Duration::from_secs(seconds);
    Leaf {
        not_after,
        ..Leaf::of(uri)
    }
}

/// What `ca` certifies.
fn identity(ca: &TestCa, leaf: &Leaf) -> Identity {
    let issued = ca.issue(leaf);
    let identity = Identity::from_pem(&issued.chain_pem, &issued.key_pem, &[&ca.root_pem]);
    identity.expect("an identity")
}

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let near = TcpStream::connect(at).await.expect("a connection");
    (near, listener.accept().await.expect("a connection").0)
}

/// An address at which nobody takes a connection or refuses it: its queue is full.
struct Deaf {
    at: SocketAddr,
    _queue: (Socket, std::net::TcpStream),
}

impl Deaf {
    fn listen() -> Deaf {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port");
        socket.listen(0).expect("a queue");
        let at = socket.local_addr().expect("an address");
        let at = at.as_socket().expect("an address");
        let first = std::net::TcpStream::connect(at).expect("a place");
        Deaf {
            at,
            _queue: (socket, first),
        }
    }
}

/// What comes of `future`, which must happen whatever the held clock says.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it happens")
}

/// One head, and nothing of what follows; what there is of it, if the peer ends before.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
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
fn no_end(service: &mut Value) {
    service["traffic"]["request_timeout_ms"] = json!(0);
}

/// Write `chunk` again and again until nothing more is taken.
async fn fill(stream: &mut TcpStream, chunk: &[u8]) {
    let (mut written, mut refused) = (0, 0);
    while refused < 3 {
        match stream.try_write(&chunk[written % chunk.len()..]) {
            Ok(count) => (written, refused) = (written + count, 0),
            Err(_) => {
                refused += 1;
                settle().await;
            }
        }
        assert!(written < LARGE, "somebody reads all");
    }
}
