//! The admin endpoint of a sidecar: health, metrics, what it holds, and drain.
//!
//! It is for programs on the same machine. A web page must not reach it through the user's
//! browser, so the `Host` must be loopback (no DNS rebinding) and no `Origin` may be sent with
//! what changes something (no cross-site request). Everything that changes something is a POST.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::timer::within;

/// Connections at once: a few probes, a scraper and a person.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may take: one request, and what is read of its answer.
const EXCHANGE_TIME: Duration = Duration::from_secs(30);

/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long accepting rests after an error, most likely too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the endpoint shows and does.
pub trait Admin: Send + Sync {
    /// All metrics, in the Prometheus text format.
    fn metrics_text(&self) -> String;
    /// Whether the workload may be sent traffic.
    fn ready(&self) -> bool;
    /// Names and versions of the records that are in force.
    fn held(&self) -> Vec<(String, String)>;
    /// Start to drain; returns at once.
    fn drain(&self);
}

/// Serve the endpoint until dropped.
pub async fn serve(listener: TcpListener, admin: Arc<dyn Admin>) {
    // Those that are open end with this future.
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => accepted,
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                open.spawn_local(converse(stream, Arc::clone(&admin)));
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(stream: TcpStream, admin: Arc<dyn Admin>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (head, _) = request.into_parts();
        let path = head.uri.path();
        let response = answer(&*admin, &head.method, path, &head.headers);
        async { Ok::<_, Infallible>(response) }
    });
    let exchange = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // An error here is the client's: it left, was too slow, or sent no HTTP.
    let _ = within(EXCHANGE_TIME, pin!(exchange)).await;
}

fn answer(
    admin: &dyn Admin,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response<Full<Bytes>> {
    if !is_local(headers) {
        let why = "the Host header must be localhost or a loopback address\n";
        return text(StatusCode::FORBIDDEN, why);
    }
    let allowed = match path {
        "/healthz" | "/readyz" | "/metrics" | "/records" => "GET, HEAD",
        "/drain" => "POST",
        _ => return text(StatusCode::NOT_FOUND, "no such path\n"),
    };
    if !allowed.split(", ").any(|name| name == method.as_str()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "");
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
        return response;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if admin.ready() => text(StatusCode::OK, "ready\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/metrics" => metrics(admin.metrics_text()),
        "/records" => json(StatusCode::OK, &held(admin)),
        _ if headers.contains_key(ORIGIN) => text(StatusCode::FORBIDDEN, "not from a web page\n"),
        _ => {
            admin.drain();
            json(StatusCode::ACCEPTED, &json!({"draining": true}))
        }
    }
}

/// Whether a request names this machine: one `Host`, and it is `localhost` or loopback.
fn is_local(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Ok(host) = Authority::try_from(host.as_bytes()) else {
        return false;
    };
    if host.as_str().contains('@') {
        return false;
    }
    let name = host.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

fn held(admin: &dyn Admin) -> Value {
    let record = |(name, version): (String, String)| json!({"name": name, "version": version});
    json!({"records": admin.held().into_iter().map(record).collect::<Vec<_>>()})
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(body.as_bytes()),
    )
}

fn metrics(body: String) -> Response<Full<Bytes>> {
    let format = "text/plain; version=0.0.4; charset=utf-8";
    respond(StatusCode::OK, format, Bytes::from(body))
}

fn json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", Bytes::from(body.to_string()))
}

fn respond(status: StatusCode, format: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let format = HeaderValue::from_static(format);
    response.headers_mut().insert(CONTENT_TYPE, format);
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::spawn_local;
    use tokio::time::timeout;

    use super::*;
    use crate::timer::tests::{hold, on_local, pass};

    /// Long enough, in real time, for what must happen.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A request for the metrics, with a field of such a value.
    fn get(fill: &str) -> String {
        format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\nfill: {fill}\r\n\r\n")
    }

    #[derive(Default)]
    struct Sidecar {
        metrics: String,
        ready: AtomicBool,
        drained: AtomicBool,
    }

    impl Admin for Sidecar {
        fn metrics_text(&self) -> String {
            self.metrics.clone()
        }

        fn ready(&self) -> bool {
            self.ready.load(Ordering::Relaxed)
        }

        fn held(&self) -> Vec<(String, String)> {
            vec![(
                "service/shop/cart".to_owned(),
                "0123456789abcdef".to_owned(),
            )]
        }

        fn drain(&self) {
            self.drained.store(true, Ordering::Relaxed);
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn status(sidecar: &Sidecar, method: Method, path: &str) -> u16 {
        let headers = headers(&[("host", "localhost:9000")]);
        answer(sidecar, &method, path, &headers).status().as_u16()
    }

    async fn body(response: Response<Full<Bytes>>) -> Bytes {
        let Ok(body) = response.into_body().collect().await;
        body.to_bytes()
    }

    #[test]
    fn readiness_follows_the_workload_and_health_does_not() {
        let sidecar = Sidecar::default();
        assert_eq!(status(&sidecar, Method::GET, "/healthz"), 200);
        assert_eq!(status(&sidecar, Method::GET, "/readyz"), 503);
        sidecar.ready.store(true, Ordering::Relaxed);
        assert_eq!(status(&sidecar, Method::GET, "/readyz"), 200);
    }

    #[test]
    fn only_a_post_drains_and_not_one_from_a_web_page() {
        let sidecar = Sidecar::default();
        assert_eq!(status(&sidecar, Method::GET, "/drain"), 405);
        let page = headers(&[("host", "localhost"), ("origin", "http://evil.example")]);
        let refused = answer(&sidecar, &Method::POST, "/drain", &page);
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert!(!sidecar.drained.load(Ordering::Relaxed));
        assert_eq!(status(&sidecar, Method::POST, "/drain"), 202);
        assert!(sidecar.drained.load(Ordering::Relaxed));
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let sidecar = Sidecar::default();
        assert_eq!(status(&sidecar, Method::GET, "/"), 404);
        assert_eq!(status(&sidecar, Method::GET, "/records/more"), 404);
        assert_eq!(status(&sidecar, Method::POST, "/metrics"), 405);
        assert_eq!(status(&sidecar, Method::HEAD, "/metrics"), 200);
    }

    #[test]
    fn the_host_must_be_loopback() {
        for (host, is_let_in) in [
            ("localhost", true),
            ("LocalHost:9000", true),
            ("127.0.0.1:9000", true),
            ("127.8.8.8", true),
            ("[::1]:9000", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost@evil.example", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_local(&headers(&[("host", host)])), is_let_in, "{host:?}");
        }
        assert!(!is_local(&HeaderMap::new()));
        let mut two = headers(&[("host", "localhost")]);
        two.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(!is_local(&two));
    }

    #[tokio::test]
    async fn records_are_listed_with_their_versions() {
        let headers = headers(&[("host", "localhost")]);
        let sidecar = Sidecar::default();
        let listed = body(answer(&sidecar, &Method::GET, "/records", &headers)).await;
        let wanted = r#"{"records":[{"name":"service/shop/cart","version":"0123456789abcdef"}]}"#;
        assert_eq!(listed, wanted);
    }

    /// The endpoint of a sidecar with such metrics.
    async fn endpoint(metrics: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let sidecar = Sidecar {
            metrics,
            ..Sidecar::default()
        };
        spawn_local(serve(listener, Arc::new(sidecar)));
        address
    }

    /// A connection that has sent `text`.
    async fn send(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(text.as_bytes()).await.expect("it is sent");
        stream
    }

    /// What comes until the end.
    async fn rest(mut stream: TcpStream) -> String {
        let mut rest = String::new();
        let read = timeout(PATIENCE, stream.read_to_string(&mut rest)).await;
        read.expect("an end").expect("a whole answer");
        rest
    }

    #[test]
    fn it_answers_over_a_socket() {
        on_local(async {
            let address = endpoint("tulle_requests_total 7\n".to_owned()).await;
            let response = rest(send(address, &get("")).await).await;
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            let end = "\r\n\r\ntulle_requests_total 7\n";
            assert!(response.ends_with(end), "{response}");
        });
    }

    #[test]
    fn a_head_may_have_so_many_bytes() {
        on_local(async {
            let address = endpoint(String::new()).await;
            let fill = "x".repeat(HEAD_BYTES_MAX - get("").len());
            let response = rest(send(address, &get(&fill)).await).await;
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            let unended = format!("{}xxxx", get(&fill).trim_end());
            assert_eq!(unended.len(), HEAD_BYTES_MAX);
            let response = rest(send(address, &unended).await).await;
            assert!(response.starts_with("HTTP/1.1 431"), "{response}");
        });
    }

    #[test]
    fn a_request_and_its_answer_may_take_so_long() {
        on_local(async {
            hold();
            // More than all buffers between two ends take.
            let address = endpoint("x".repeat(64 << 20)).await;
            for begun in ["", "GET /metrics HTTP/1.1\r\n", &get("")] {
                let stream = send(address, begun).await;
                let unread = begun == get("");
                if unread {
                    stream.readable().await.expect("an answer begins");
                }
                pass(Duration::ZERO).await;
                pass(EXCHANGE_TIME - Duration::from_micros(1)).await;
                if !unread {
                    let read = stream.try_read(&mut [0]).map_err(|error| error.kind());
                    assert_eq!(read, Err(std::io::ErrorKind::WouldBlock), "{begun}");
                }
                pass(Duration::from_micros(1)).await;
                assert!(rest(stream).await.len() < 64 << 20, "{begun}");
            }
        });
    }

    #[test]
    fn so_many_are_served_at_once() {
        on_local(async {
            hold();
            let address = endpoint(String::new()).await;
            let mut open = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                open.push(send(address, "GET").await);
            }
            pass(Duration::ZERO).await;
            let next = send(address, &get("")).await;
            pass(Duration::ZERO).await;
            let read = next.try_read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(read, Err(std::io::ErrorKind::WouldBlock));
            open.pop();
            assert!(rest(next).await.starts_with("HTTP/1.1 200"));
        });
    }
}
