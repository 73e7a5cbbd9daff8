//! A control plane in a thread: real TLS and HTTP/2, and answers as the test wants them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc as async_mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tulle_engine::control::frame::{Decoder, Kind, Record, encode, encode_record};
use tulle_engine::tls::{ClientAuth, Identity, SpiffeId, peer, server_config};

use crate::test_ca::{Leaf, TestCa};

pub(crate) const CONTROL: &str = "spiffe://tulle.local/ns/tulle-system/sa/control-plane";
/// Far above what anything takes; reached only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Little, so that a hub that does not read is soon felt.
const WINDOW_BYTES: u32 = 64 * 1024;

/// Answers a join or a renewal: path, who asked, body → status and answer.
pub(crate) type Certify = dyn Fn(&str, Option<&SpiffeId>, &Value) -> (u16, Value) + Send + Sync;

/// A certifier that signs for `id`, for so long.
pub(crate) fn signing(ca: &Arc<TestCa>, id: &str, life: Duration) -> Arc<Certify> {
    let (ca, id) = (ca.clone(), id.to_owned());
    Arc::new(move |_, _, body| {
        let leaf = Leaf {
            not_after: SystemTime::now() + life,
            ..Leaf::of(&id)
        };
        let chain = ca.sign(body["csr_pem"].as_str().unwrap(), &leaf);
        let answer = json!({
            "chain_pem": chain,
            "roots_pem": [ca.root_pem],
            "trust_domain": "tulle.local",
        });
        (200, answer)
    })
}

/// A certifier that always says no.
pub(crate) fn denying(status: u16, why: &str) -> Arc<Certify> {
    let answer = json!({"error": why});
    Arc::new(move |_, _, _| (status, answer.clone()))
}

pub(crate) fn identity(ca: &TestCa, leaf: &Leaf) -> Identity {
    let issued = ca.issue(leaf);
    Identity::from_pem(&issued.chain_pem, &issued.key_pem, &[&ca.root_pem]).unwrap()
}

/// One record stream, seen from the hub.
pub(crate) struct FakeStream {
    pub(crate) peer: SpiffeId,
    said: mpsc::Receiver<(Kind, Bytes)>,
    say: async_mpsc::UnboundedSender<Bytes>,
}

impl FakeStream {
    /// The next frame of a kind; others, which come by the clock, are passed over.
    pub(crate) fn hear(&self, kind: Kind) -> Value {
        loop {
            let (said, payload) = self.said.recv_timeout(PATIENCE).expect("a frame");
            if said == kind {
                return serde_json::from_slice(&payload).unwrap();
            }
            let passed = matches!(said, Kind::Report | Kind::Status | Kind::Hello);
            assert!(passed, "heard {said:?}, expected {kind:?}");
        }
    }

    pub(crate) fn say(&self, kind: Kind, payload: &Value) {
        let frame = encode(kind, payload.to_string().as_bytes()).unwrap();
        self.say_bytes(frame);
    }

    pub(crate) fn say_record(&self, record: &Record) {
        let frame = encode_record(&record.name, &record.version, &record.data).unwrap();
        self.say_bytes(frame);
    }

    pub(crate) fn say_bytes(&self, bytes: Bytes) {
        self.say.send(bytes).expect("the stream is open");
    }

    /// Waits until the sidecar is gone.
    pub(crate) fn closed(&self) -> bool {
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(error) => return error == mpsc::RecvTimeoutError::Disconnected,
            }
        }
    }
}

#[derive(Clone)]
struct Conduct {
    certify: Arc<Certify>,
    deaf: bool,
}

pub(crate) struct FakeHub {
    pub(crate) address: SocketAddr,
    streams: Mutex<mpsc::Receiver<FakeStream>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeHub {
    /// Starts on a free port.
    pub(crate) fn start(identity: &Identity, certify: Arc<Certify>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), identity, certify)
    }

    /// Starts on the port of one that stopped.
    pub(crate) fn start_at(
        address: SocketAddr,
        identity: &Identity,
        certify: Arc<Certify>,
    ) -> Self {
        let deaf = false;
        Self::run(address, identity, Conduct { certify, deaf })
    }

    /// Starts one that takes streams and never reads them.
    pub(crate) fn deaf(identity: &Identity) -> Self {
        let conduct = Conduct {
            certify: denying(403, "not heard"),
            deaf: true,
        };
        Self::run("127.0.0.1:0".parse().unwrap(), identity, conduct)
    }

    fn run(address: SocketAddr, identity: &Identity, conduct: Conduct) -> Self {
        let tls = server_config(identity, ClientAuth::Optional, &[b"h2"]).unwrap();
        let (opened, streams) = mpsc::channel();
        let (bound, address_of) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind(address).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let accepting = async {
                    loop {
                        let (tcp, _) = listener.accept().await.unwrap();
                        let tls = TlsAcceptor::from(tls.clone());
                        tokio::spawn(serve(tcp, tls, opened.clone(), conduct.clone()));
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address: address_of.recv().unwrap(),
            streams: Mutex::new(streams),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The next stream a sidecar opens.
    pub(crate) fn stream(&self) -> FakeStream {
        let streams = self.streams.lock().unwrap();
        streams.recv_timeout(PATIENCE).expect("a stream")
    }

    /// Ends at once, as a killed process does; the address is free again.
    pub(crate) fn stop(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(
    tcp: TcpStream,
    tls: TlsAcceptor,
    opened: mpsc::Sender<FakeStream>,
    conduct: Conduct,
) {
    let Ok(tls) = tls.accept(tcp).await else {
        return;
    };
    let certificates = tls.get_ref().1.peer_certificates();
    let peer = certificates.map(|certificates| peer(certificates).unwrap().id);
    let service =
        service_fn(move |request| answer(request, peer.clone(), opened.clone(), conduct.clone()));
    // A sidecar that goes away is what tests are about.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .serve_connection(TokioIo::new(tls), service)
        .await;
}

type Answer = Response<Either<Full<Bytes>, Frames>>;

async fn answer(
    request: Request<Incoming>,
    peer: Option<SpiffeId>,
    opened: mpsc::Sender<FakeStream>,
    conduct: Conduct,
) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body();
    if let ("/v1/stream", Some(peer)) = (&*path, &peer) {
        let (said, hears) = mpsc::channel();
        let (say, frames) = async_mpsc::unbounded_channel();
        if conduct.deaf {
            tokio::spawn(async move {
                let _unread = (body, said);
                std::future::pending::<()>().await;
            });
        } else {
            tokio::spawn(listen(body, said));
        }
        let stream = FakeStream {
            peer: peer.clone(),
            said: hears,
            say,
        };
        // A test that is over does not take it.
        let _ = opened.send(stream);
        return Ok(Response::new(Either::Right(Frames(frames))));
    }
    let body = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap();
    let (status, answer) = (conduct.certify)(&path, peer.as_ref(), &body);
    let mut response = Response::new(Either::Left(Full::from(answer.to_string())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

async fn listen(mut body: Incoming, said: mpsc::Sender<(Kind, Bytes)>) {
    let mut decoder = Decoder::new();
    while let Some(Ok(chunk)) = body.frame().await {
        decoder.push(chunk.data_ref().unwrap());
        while let Some(frame) = decoder.next_frame().unwrap() {
            let _ = said.send((frame.kind, frame.payload));
        }
    }
}

struct Frames(async_mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(cx);
        next.map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }
}
