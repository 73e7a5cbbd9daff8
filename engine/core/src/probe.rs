//! Whether the application is ready, asked from its own sidecar over loopback.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::settings::Probe;
use crate::shared::Shared;
use crate::timer::{Deadline, within};

/// Between probes until the application is ready for the first time.
const FAST: Duration = Duration::from_millis(50);
/// Between probes afterwards.
const STEADY: Duration = Duration::from_secs(1);
/// Longest time for one probe.
const LIMIT: Duration = Duration::from_secs(1);
/// Most bytes of an answer that are read.
const ANSWER_MAX: usize = 256 * 1024;
/// Failures in a row that make a ready application not ready (as the kubelet's default).
const FAILURES: u32 = 3;

/// Probe for ever.
pub async fn run(shared: Arc<Shared>, probe: Probe) {
    let mut ready = shared.is_app_ready();
    let mut failures = 0;
    loop {
        let passes = pin!(passes(&shared, &probe));
        let passed = within(LIMIT, passes).await.unwrap_or(false);
        failures = if passed { 0 } else { failures + 1 };
        if passed || failures >= FAILURES {
            ready = passed;
            shared.set_app_ready(ready);
        }
        Deadline::after(if ready { STEADY } else { FAST }).await;
    }
}

async fn passes(shared: &Shared, probe: &Probe) -> bool {
    let inbound = &shared.settings.inbound;
    match probe {
        Probe::Tcp {} => {
            for port in inbound {
                if TcpStream::connect(port.app).await.is_err() {
                    return false;
                }
            }
            true
        }
        Probe::Http { port, path } => {
            let address = inbound
                .iter()
                .find(|inbound| inbound.port == *port)
                .map_or_else(
                    || SocketAddr::from(([127, 0, 0, 1], *port)),
                    |inbound| inbound.app,
                );
            status(address, path)
                .await
                .is_ok_and(|status| (200..400).contains(&status))
        }
    }
}

/// The status of `GET path`.
async fn status(address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: tulle-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200": the code is at a fixed place (RFC 9112 §4).
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    drain(&mut stream).await?;
    let code = std::str::from_utf8(&line[9..])
        .ok()
        .and_then(|code| code.parse().ok());
    code.filter(|_| line.starts_with(b"HTTP/1."))
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Read what is left of an answer, within a bound: an application whose answer is cut off may take
/// it for an error worth a stack trace.
async fn drain(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut rest = [0; 4096];
    for _ in 0..ANSWER_MAX / rest.len() {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::spawn_local;
    use tokio::time::timeout;

    use super::*;
    use crate::timer::tests::{hold, on_local, pass};
    use crate::waits::shared;

    /// The least time there is.
    const MOMENT: Duration = Duration::from_micros(1);
    /// Long enough, in real time, for what must happen.
    const PATIENCE: Duration = Duration::from_secs(10);

    async fn asked(app: &TcpListener) -> TcpStream {
        let (mut stream, _) = timeout(PATIENCE, app.accept())
            .await
            .expect("a probe")
            .expect("one");
        let read = stream.read(&mut [0; 1024]).await.expect("a request");
        assert_ne!(read, 0);
        pass(Duration::ZERO).await;
        stream
    }

    #[test]
    fn a_probe_may_take_so_long_and_so_many_may_fail() {
        on_local(async {
            hold();
            let app = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = app.local_addr().expect("an address").port();
            let (shared, _told) = shared(|_| {});
            let probe = Probe::Http {
                port,
                path: "/".to_owned(),
            };
            spawn_local(run(Arc::clone(&shared), probe));
            for failed in 1..=FAILURES {
                let _silent = asked(&app).await;
                pass(LIMIT - MOMENT).await;
                // It was not given up yet: the next is not due a pause later.
                assert!(shared.is_app_ready());
                pass(MOMENT).await;
                assert_eq!(shared.is_app_ready(), failed < FAILURES);
                let pause = if failed < FAILURES { STEADY } else { FAST };
                pass(pause - MOMENT).await;
                let early = timeout(Duration::ZERO, app.accept()).await;
                assert!(early.is_err(), "{failed}");
                pass(MOMENT).await;
            }
            let mut stream = asked(&app).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                .await
                .expect("it is sent");
            drop(stream);
            let is_ready = async {
                while !shared.is_app_ready() {
                    pass(Duration::ZERO).await;
                }
            };
            timeout(PATIENCE, is_ready).await.expect("it is ready");
        });
    }
}
