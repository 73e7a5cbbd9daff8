//! Two sidecars with identities, and the programs beside them.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;
use tulle_engine::engine::Engine;

use crate::test_ca::{Leaf, TestCa};

/// Long enough for what must happen, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The identity of the caller.
pub(crate) const WEB: &str = "spiffe://tulle.local/ns/shop/sa/web";
/// The identity of the called workload.
pub(crate) const CART: &str = "spiffe://tulle.local/ns/shop/sa/cart";

/// A sidecar of `name`, without records: with this port of its application, or else with an
/// address that stands for `shop/cart`.
pub(crate) fn sidecar(name: &str, inbound: Option<Value>) -> Engine {
    let outbound = match inbound {
        Some(_) => json!([]),
        None => json!([{"service": "shop/cart", "port": 80, "listen": "127.0.0.1:0"}]),
    };
    let inbound: Vec<Value> = inbound.into_iter().collect();
    let settings = json!({
        "workload": {"namespace": "shop", "name": format!("{name}-1"), "service_account": name,
                     "labels": {}, "zone": null},
        "trust_domain": "tulle.local", "inbound": inbound, "outbound": outbound,
        "proxy_listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0",
        "control": null, "state_dir": null, "probe": null, "workers": 1,
        "access_log": "off", "access_log_path": null, "drain_seconds": 10,
        "reason_header": true,
    });
    Engine::bind(settings.to_string().as_bytes()).expect("an engine")
}

/// A caller and a called workload.
pub(crate) struct Pair {
    pub(crate) ca: TestCa,
    pub(crate) web: Engine,
    pub(crate) cart: Engine,
    /// What the called program accepts.
    pub(crate) accepted: Receiver<TcpStream>,
}

/// The port of an application at `app`.
pub(crate) fn port(app: SocketAddr) -> Value {
    json!({"port": 80, "protocol": "tcp", "listen": "127.0.0.1:0", "app": app,
           "proxy_protocol": false})
}

impl Pair {
    /// Both, started; the certificate of `cart` ends as `leaf` says, and `change` changes its
    /// port.
    fn start(leaf: &Leaf, change: impl Fn(&mut Value)) -> Pair {
        let ca = TestCa::new();
        let (app, accepted) = program();
        let mut port = port(app);
        change(&mut port);
        let (web, cart) = (sidecar("web", None), sidecar("cart", Some(port)));
        for (engine, leaf) in [(&web, &Leaf::of(WEB)), (&cart, leaf)] {
            let issued = ca.issue(leaf);
            engine
                .set_identity(&issued.chain_pem, &issued.key_pem, &ca.root_pem)
                .expect("an identity");
        }
        apply(&web, &service("tcp", |_| {}));
        apply(&cart, &workload("strict", "allow"));
        let listen = address(&cart, "/inbound/0/listen");
        apply(&web, &endpoints(listen, Some(CART)));
        web.start().expect("a start");
        cart.start().expect("a start");
        Pair {
            ca,
            web,
            cart,
            accepted,
        }
    }

    /// Both, with certificates that last.
    pub(crate) fn new() -> Pair {
        Pair::start(&Leaf::of(CART), |_| {})
    }

    /// The same, with a port that `change` changes.
    pub(crate) fn changed(change: impl Fn(&mut Value)) -> Pair {
        Pair::start(&Leaf::of(CART), change)
    }

    /// The same, with a certificate of the called side that ends as `leaf` says.
    pub(crate) fn certified(leaf: &Leaf) -> Pair {
        Pair::start(leaf, |_| {})
    }

    /// A connection of the calling program.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(address(&self.web, "/outbound/0/listen"))
    }

    /// A connection of the calling program, and the same one at the called program.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let near = self.connect();
        (near, self.accepted.recv_timeout(PATIENCE).expect("a call"))
    }

    /// Where the called sidecar listens.
    pub(crate) fn listen(&self) -> SocketAddr {
        address(&self.cart, "/inbound/0/listen")
    }

    /// Connections between the sidecars.
    pub(crate) fn carriers(&self) -> usize {
        established(self.listen().port())
    }
}

/// Connections that are established to a local port.
pub(crate) fn established(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let local = format!(":{port:04X}");
    let is_ours = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[1].ends_with(&local) && fields[3] == "01"
    };
    table.lines().filter(is_ours).count()
}

/// Wait until `done`.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Put a record in force.
pub(crate) fn apply(engine: &Engine, record: &Value) {
    let text = |key: &str| record[key].as_str().expect("a text");
    let name = format!("{}/{}/{}", text("kind"), text("namespace"), text("name"));
    engine
        .apply(&name, record.to_string().as_bytes())
        .expect("a record");
}

/// The service `shop/cart` on port 80.
pub(crate) fn service(protocol: &str, change: impl Fn(&mut Value)) -> Value {
    let mut traffic = serde_json::from_str(include_str!("../traffic.json")).expect("a policy");
    change(&mut traffic);
    json!({"kind": "service", "namespace": "shop", "name": "cart", "traffic": traffic,
           "addresses": [],
           "ports": [{"number": 80, "name": null, "protocol": protocol, "tables": []}]})
}

/// One endpoint of it; without `identity` it has no sidecar.
pub(crate) fn endpoints(at: SocketAddr, identity: Option<&str>) -> Value {
    json!({"kind": "endpoints", "namespace": "shop", "name": "cart", "endpoints": [
        {"workload": "shop/cart-1", "address": at.ip(), "ports": [[80, at.port()]],
         "identity": identity.unwrap_or_default(), "labels": {}, "zone": null,
         "tls": identity.is_some()}]})
}

/// What `shop/cart-1` lets in.
pub(crate) fn workload(mtls: &str, default: &str) -> Value {
    json!({"kind": "workload", "namespace": "shop", "name": "cart-1",
           "service_account": "cart", "mtls": mtls, "port_mtls": [],
           "authorization": {"default": default, "policies": []}})
}

pub(crate) fn address(engine: &Engine, path: &str) -> SocketAddr {
    let addresses: Value = serde_json::from_slice(&engine.addresses()).expect("JSON");
    let text = addresses.pointer(path).and_then(Value::as_str);
    text.expect("an address").parse().expect("an address")
}

pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// A program that hands over each of its connections.
pub(crate) fn program() -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            // The test may be over.
            let _gone = sender.send(stream);
        }
    });
    (at, receiver)
}

/// Exactly as many bytes as there are in `expected`, which they must be.
pub(crate) fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).expect("bytes");
    assert!(read == expected, "other bytes came");
}

/// The connections that a sidecar counted for `reason` (empty: none), and bytes in and out.
pub(crate) fn counted(engine: &Engine, reason: Option<&str>) -> (u64, u64, u64) {
    let stats: Value = serde_json::from_slice(&engine.stats()).expect("JSON");
    let edges = stats["report"]["edges"].as_array().expect("edges");
    let sum = |key: &str| {
        let of = |edge: &Value| edge[key].as_u64().expect("a number");
        let ours = edges.iter().filter(|edge| edge["reason"] == json!(reason));
        ours.map(of).sum()
    };
    (sum("requests"), sum("bytes_in"), sum("bytes_out"))
}

/// Close with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket");
}

pub(crate) fn is_reset(stream: &mut TcpStream) -> bool {
    let read = stream.read(&mut [0; 1]);
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

pub(crate) fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0))
}

/// Wait until both ends are joined: before, a break is one of an attempt to connect.
pub(crate) fn joined(near: &mut TcpStream, far: &mut TcpStream) {
    near.write_all(b"x").expect("it is sent");
    expect(far, b"x");
    far.write_all(b"x").expect("it is sent");
    expect(near, b"x");
}
