//! A hub with its certificate authority, and a sidecar that says exactly what a test wants.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame as BodyFrame};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tulle_engine::control::frame::{Decoder, Frame, Kind, Record, encode};
use tulle_engine::hub::{Hub, Limits};
use tulle_engine::tls::{Identity, Roots, SpiffeId, client_config};

use crate::test_ca::{Issued, Leaf, TestCa};

/// Everything on loopback is done sooner; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Small enough that a reader who stops is noticed soon.
const WINDOW_BYTES: u32 = 64 * 1024;

pub(crate) const CONTROL_PLANE: &str = "spiffe://tulle.local/ns/tulle-system/sa/control-plane";
pub(crate) const CART: &str = "spiffe://tulle.local/ns/shop/sa/cart";

pub(crate) struct Mesh {
    pub(crate) ca: TestCa,
    pub(crate) hub: Arc<Hub>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let ca = TestCa::new();
        let hub = Hub::bind("127.0.0.1:0", limits).expect("a free port");
        let mesh = Self {
            ca,
            hub: Arc::new(hub),
        };
        mesh.present_certificate_of(&mesh.ca, &[&mesh.ca]);
        mesh
    }

    pub(crate) fn present_certificate_of(&self, ca: &TestCa, trusted: &[&TestCa]) {
        let Issued { chain_pem, key_pem } = ca.issue(&Leaf::of(CONTROL_PLANE));
        let roots: String = trusted.iter().map(|ca| &*ca.root_pem).collect();
        let identity = self.hub.set_identity(&chain_pem, &key_pem, &roots);
        identity.expect("a good identity");
    }

    /// The next event, which must be of this kind.
    pub(crate) async fn event(&self, kind: &str) -> Value {
        let (found, body) = self.next_event().await;
        assert_eq!(found, kind, "{body}");
        body
    }

    /// The next event of this kind; those before it are of no interest.
    pub(crate) async fn event_in_time(&self, kind: &str) -> Value {
        loop {
            let (found, body) = self.next_event().await;
            if found == kind {
                return body;
            }
        }
    }

    async fn next_event(&self) -> (&'static str, Value) {
        let hub = Arc::clone(&self.hub);
        let event = tokio::task::spawn_blocking(move || hub.next_event(PATIENCE));
        let event = event.await.expect("no panic").expect("an event in time");
        let body = serde_json::from_slice(&event.body);
        (event.kind, body.expect("events are JSON"))
    }

    /// Whether all events were taken.
    pub(crate) fn is_quiet(&self) -> bool {
        self.hub.next_event(Duration::ZERO).is_none()
    }

    /// Wait until the counter `name` is at `count`.
    pub(crate) async fn reaches(&self, name: &str, count: u64) {
        let reached = async {
            while self.stat(name) < count {
                tokio::task::yield_now().await;
            }
        };
        let in_time = timeout(PATIENCE, reached).await;
        assert!(in_time.is_ok(), "{name} is {}", self.stat(name));
        assert_eq!(self.stat(name), count, "{name}");
    }

    pub(crate) fn stat(&self, name: &str) -> u64 {
        let stats: Value = serde_json::from_slice(&self.hub.stats()).expect("stats are JSON");
        stats[name].as_u64().expect("a number")
    }

    pub(crate) fn identity(&self, leaf: &Leaf) -> Identity {
        let Issued { chain_pem, key_pem } = self.ca.issue(leaf);
        let identity = Identity::from_pem(&chain_pem, &key_pem, &[&self.ca.root_pem]);
        identity.expect("a good identity")
    }

    /// Connect with this certificate, or without one.
    pub(crate) async fn dial(&self, identity: Option<&Identity>) -> std::io::Result<Http2> {
        dial(&self.hub, &self.ca, identity).await
    }

    pub(crate) async fn dial_as(&self, uri: &str) -> Http2 {
        let identity = self.identity(&Leaf::of(uri));
        self.dial(Some(&identity)).await.expect("let in")
    }

    /// A stream whose hello has not been said yet.
    pub(crate) async fn silent(&self, uri: &str) -> Sidecar {
        Sidecar::open(self.dial_as(uri).await).await
    }

    /// A sidecar of cart, past its hello. Returns its number too.
    pub(crate) async fn sidecar(&self, name: &str) -> (Sidecar, u64) {
        let sidecar = self.silent(CART).await;
        sidecar.say(Kind::Hello, &hello("shop", name, "cart"));
        let peer = self.event("connected").await["peer"].as_u64();
        (sidecar, peer.expect("a number"))
    }
}

pub(crate) fn hello(namespace: &str, name: &str, service_account: &str) -> Value {
    let workload = json!({
        "namespace": namespace, "name": name, "service_account": service_account,
    });
    json!({"workload": workload, "pid": 7, "version": "0.1.0", "admin": "127.0.0.1:9"})
}

pub(crate) type RequestBody = Either<Full<Bytes>, Spoken>;

/// A connection to the hub.
pub(crate) struct Http2 {
    pub(crate) sender: SendRequest<RequestBody>,
    connection: JoinHandle<()>,
}

impl Http2 {
    async fn send(&mut self, request: Request<RequestBody>) -> Response<Incoming> {
        let response = timeout(PATIENCE, self.sender.send_request(request)).await;
        response.expect("in time").expect("a response")
    }

    /// Wait until the hub has closed the connection.
    pub(crate) async fn wait_closed(&mut self) {
        let closed = timeout(PATIENCE, &mut self.connection).await;
        closed.expect("in time").expect("no panic");
    }
}

pub(crate) async fn dial(
    hub: &Hub,
    ca: &TestCa,
    identity: Option<&Identity>,
) -> std::io::Result<Http2> {
    let roots = Roots::from_pem(&[&ca.root_pem]).expect("a root");
    let server = SpiffeId::parse(CONTROL_PLANE).expect("an id");
    let config = client_config(identity, &roots, &server, &[b"h2"]).expect("a config");
    let stream = TcpStream::connect(hub.address()).await?;
    let name = ServerName::try_from("control-plane").expect("a name");
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let connection = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = connection.map_err(std::io::Error::other)?;
    let connection = tokio::spawn(async move {
        // How it ends is of no interest, only when.
        let _ = connection.await;
    });
    Ok(Http2 { sender, connection })
}

/// The frames a sidecar says, as a request body.
pub(crate) struct Spoken(mpsc::UnboundedReceiver<Bytes>);

impl Body for Spoken {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }
}

pub(crate) async fn post(client: &mut Http2, path: &str, body: &str) -> (u16, Value) {
    let response = send(client, path, Bytes::copy_from_slice(body.as_bytes())).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body");
    let body = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    (status, body)
}

pub(crate) async fn send(client: &mut Http2, path: &str, body: Bytes) -> Response<Incoming> {
    client.send(asking(path, body)).await
}

pub(crate) fn asking(path: &str, body: Bytes) -> Request<RequestBody> {
    Request::post(format!("https://control-plane{path}"))
        .body(Either::Left(Full::new(body)))
        .expect("a request")
}

pub(crate) struct Sidecar {
    _connection: Http2,
    speak: Option<mpsc::UnboundedSender<Bytes>>,
    heard: Incoming,
    decoder: Decoder,
}

impl Sidecar {
    pub(crate) async fn open(mut connection: Http2) -> Self {
        let (speak, spoken) = mpsc::unbounded_channel();
        let request = Request::post("https://control-plane/v1/stream")
            .body(Either::Right(Spoken(spoken)))
            .expect("a request");
        let response = connection.send(request).await;
        assert_eq!(response.status(), 200);
        Self {
            _connection: connection,
            speak: Some(speak),
            heard: response.into_body(),
            decoder: Decoder::new(),
        }
    }

    pub(crate) fn say(&self, kind: Kind, payload: &Value) {
        let frame = encode(kind, payload.to_string().as_bytes());
        self.say_bytes(frame.expect("a small frame"));
    }

    pub(crate) fn say_bytes(&self, bytes: Bytes) {
        let speak = self.speak.as_ref().expect("not silent yet");
        speak.send(bytes).expect("the stream is open");
    }

    pub(crate) fn subscribe(&self, name: &str, version: Option<&str>) {
        self.say(Kind::Subscribe, &json!({"name": name, "version": version}));
    }

    /// End our side of the stream.
    pub(crate) fn fall_silent(&mut self) {
        self.speak = None;
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) async fn hear(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.next_frame()).await.expect("in time")
    }

    async fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("the hub sends frames") {
                return Some(frame);
            }
            let data = self.heard.frame().await?.ok()?.into_data();
            self.decoder.push(&data.expect("no trailers"));
        }
    }

    pub(crate) async fn hear_record(&mut self) -> Record {
        let frame = self.hear().await.expect("a frame");
        assert_eq!(frame.kind, Kind::Record, "{frame:?}");
        Record::parse(frame.payload).expect("a record")
    }

    /// The payload of the next frame, which must be of this kind.
    pub(crate) async fn hear_json(&mut self, kind: Kind) -> Value {
        let frame = self.hear().await.expect("a frame");
        assert_eq!(frame.kind, kind, "{frame:?}");
        serde_json::from_slice(&frame.payload).expect("JSON")
    }

    /// Hear why the hub ends the stream, and that it does.
    pub(crate) async fn hear_goodbye(&mut self) -> String {
        let reason = self.hear_json(Kind::Goodbye).await["reason"].clone();
        assert_eq!(self.hear().await, None, "nothing comes after goodbye");
        reason.as_str().expect("a text").to_owned()
    }
}
