//! A whole engine between a client and a program, over loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tulle_engine::engine::Engine;

/// Long enough for what must happen, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// An answer without a body.
pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A sidecar whose service `shop/cart` speaks `protocol` at `endpoint`.
pub(crate) fn sidecar(protocol: &str, endpoint: SocketAddr, change: impl Fn(&mut Value)) -> Engine {
    sidecar_of(1, protocol, endpoint, change)
}

/// The same, with so many threads for requests.
pub(crate) fn sidecar_of(
    workers: u32,
    protocol: &str,
    endpoint: SocketAddr,
    change: impl Fn(&mut Value),
) -> Engine {
    let engine = Engine::bind(&settings(workers, endpoint)).expect("an engine");
    start(engine, protocol, endpoint, change)
}

/// The settings of such a sidecar.
pub(crate) fn settings(workers: u32, endpoint: SocketAddr) -> Vec<u8> {
    json!({
        "workload": {"namespace": "shop", "name": "web-1", "service_account": "web",
                     "labels": {}, "zone": null},
        "trust_domain": "tulle.local",
        "inbound": [{"port": 80, "protocol": "http", "listen": "127.0.0.1:0",
                     "app": endpoint, "proxy_protocol": false}],
        "outbound": [], "proxy_listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0",
        "control": null, "state_dir": null, "probe": null, "workers": workers,
        "access_log": "off", "access_log_path": null, "drain_seconds": 10,
        "reason_header": true,
    })
    .to_string()
    .into_bytes()
}

/// Give it its records, and start it.
pub(crate) fn start(
    engine: Engine,
    protocol: &str,
    endpoint: SocketAddr,
    change: impl Fn(&mut Value),
) -> Engine {
    let mut traffic = serde_json::from_str(include_str!("../traffic.json")).expect("a policy");
    change(&mut traffic);
    let records = [
        (
            "service/shop/cart",
            json!({"kind": "service", "namespace": "shop", "name": "cart", "traffic": traffic, "addresses": [],
                   "ports": [{"number": 80, "name": null, "protocol": protocol, "tables": []}]}),
        ),
        (
            "endpoints/shop/cart",
            json!({"kind": "endpoints", "namespace": "shop", "name": "cart", "endpoints": [
                {"workload": "shop/cart-1", "address": endpoint.ip(),
                 "ports": [[80, endpoint.port()]], "identity": "", "labels": {}, "zone": null,
                 "tls": false}]}),
        ),
        (
            "workload/shop/web-1",
            json!({"kind": "workload", "namespace": "shop", "name": "web-1",
                   "service_account": "web", "mtls": "disable", "port_mtls": [],
                   "authorization": {"default": "allow", "policies": []}}),
        ),
    ];
    for (name, record) in records {
        engine
            .apply(name, record.to_string().as_bytes())
            .expect("a record");
    }
    engine.start().expect("a start");
    engine
}

/// An address of the engine, by its place among them.
pub(crate) fn address(engine: &Engine, path: &str) -> SocketAddr {
    let addresses: Value = serde_json::from_slice(&engine.addresses()).expect("JSON");
    let text = addresses.pointer(path).and_then(Value::as_str);
    text.expect("an address").parse().expect("an address")
}

/// A connection on which no read waits for longer than [`PATIENCE`].
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Send `text` and read the head that comes back.
pub(crate) fn ask(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).expect("it is sent");
    head(stream)
}

/// Read one head, and nothing of what follows.
pub(crate) fn head(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).expect("a line") > 0 {}
    head
}

/// A program that hands over each of its connections with the head it read from it.
pub(crate) fn program() -> (SocketAddr, Receiver<(TcpStream, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut stream = stream;
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let head = head(&mut stream);
                // The test may be over.
                let _gone = sender.send((stream, head));
            });
        }
    });
    (at, receiver)
}
