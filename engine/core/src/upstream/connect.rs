//! TCP connect and, between sidecars, the mTLS handshake, within one time limit.

use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::Target;
use super::stream::Stream;
use crate::error::{Error, Reason};
use crate::intercept;
use crate::plan::service::Service;
use crate::record::Limits;
use crate::steps::limit::try_take;
use crate::timer::{now_us, within};
use crate::tls::{self, SpiffeId};
use crate::worker::Worker;

/// Share of a certificate's remaining life that a connection may use, percent: new requests
/// leave it before either certificate ends.
const CERTIFICATE_SHARE: u64 = 80;
/// A peer that has said nothing for so long is asked whether it is there, so many times at this
/// interval; one that is gone without a word would cost an hour of memory else.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// What is spoken on a connection between sidecars; also the ALPN name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and bytes in its tunnels.
    Http2,
}

impl Alpn {
    /// All, in declaration order.
    pub const ALL: [Alpn; 2] = [Alpn::Http1, Alpn::Http2];

    /// The name on the wire.
    pub fn name(self) -> &'static [u8] {
        match self {
            Alpn::Http1 => b"http/1.1",
            Alpn::Http2 => b"h2",
        }
    }
}

/// A new connection.
#[derive(Debug)]
pub struct Connected {
    /// The connection, handshake done.
    pub stream: Stream,
    /// When new requests must leave it, microseconds of the engine's clock; `None`: never.
    pub expires_us: Option<u64>,
}

/// A place among a service's connections; given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit(pub Arc<Service>);

impl ConnectionPermit {
    /// Take a place, at most `limits.connections` at once.
    ///
    /// # Errors
    /// [`Reason::PendingLimit`] when all are taken.
    pub fn take(service: &Arc<Service>, limits: &Limits) -> Result<ConnectionPermit, Error> {
        if try_take(&service.load.connections, limits.connections) {
            return Ok(ConnectionPermit(Arc::clone(service)));
        }
        let detail = format!(
            "{} connections to {} are open",
            limits.connections, service.key
        );
        Err(Error::new(Reason::PendingLimit, detail))
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.load.connections.fetch_sub(1, Relaxed);
        self.0.load.freed.notify_one();
    }
}

/// A place among those that wait for a connection to a service; given back when dropped.
#[derive(Debug)]
pub struct PendingPermit(Arc<Service>);

impl PendingPermit {
    /// Take a place, at most `limits.pending` at once.
    ///
    /// # Errors
    /// [`Reason::PendingLimit`] when all are taken.
    pub fn take(service: &Arc<Service>, limits: &Limits) -> Result<PendingPermit, Error> {
        if try_take(&service.load.pending, limits.pending) {
            return Ok(PendingPermit(Arc::clone(service)));
        }
        let detail = format!(
            "{} requests wait for a connection to {}",
            limits.pending, service.key
        );
        Err(Error::new(Reason::PendingLimit, detail))
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.0.load.pending.fetch_sub(1, Relaxed);
    }
}

/// Connect to `target`.
///
/// # Errors
/// [`Reason::ConnectFailed`], [`Reason::TlsFailed`] or [`Reason::NoIdentity`].
pub async fn connect(worker: &Rc<Worker>, target: &Target, alpn: Alpn) -> Result<Connected, Error> {
    in_time(target, Box::pin(connect_now(worker, target, alpn))).await
}

/// Connect to `target` in plaintext.
///
/// # Errors
/// [`Reason::ConnectFailed`].
pub async fn connect_plain(target: &Target) -> Result<TcpStream, Error> {
    in_time(target, Box::pin(plain(target))).await
}

/// What `connecting` gives within the time that `target` allows.
///
/// # Errors
/// [`Reason::ConnectFailed`] when it took longer.
pub async fn in_time<T>(
    target: &Target,
    connecting: impl Future<Output = Result<T, Error>> + Unpin,
) -> Result<T, Error> {
    within(target.connect_timeout, connecting)
        .await
        .unwrap_or_else(|| {
            let limit = target.connect_timeout.as_millis();
            let detail = format!("no connection to {} within {limit} ms", target.address);
            Err(Error::new(Reason::ConnectFailed, detail))
        })
}

/// As [`connect`], without a limit of time.
///
/// # Errors
/// As [`connect`].
pub async fn connect_now(
    worker: &Rc<Worker>,
    target: &Target,
    alpn: Alpn,
) -> Result<Connected, Error> {
    let tcp = plain(target).await?;
    if alpn == Alpn::Http1 {
        // HTTP/2 has pings for it.
        keep_alive(SockRef::from(&tcp));
    }
    match &target.identity {
        None => Ok(Connected {
            stream: Stream::Plain(tcp),
            expires_us: None,
        }),
        Some(expected) => handshake(worker, target, expected, alpn, tcp).await,
    }
}

/// Ask a peer that is silent for long whether it is still there.
pub fn keep_alive(socket: SockRef<'_>) {
    let ask = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_TRIES);
    // A socket that refuses is gone already.
    let _gone = socket.set_tcp_keepalive(&ask);
}

async fn plain(target: &Target) -> Result<TcpStream, Error> {
    let failed = |error: io::Error| {
        Error::new(
            Reason::ConnectFailed,
            format!("{}: {error}", target.address),
        )
    };
    let tcp = intercept::connect(target.address, target.source)
        .await
        .map_err(failed)?;
    if tcp.as_raw_fd() >= target.files_end {
        return Err(Error::new(Reason::ConnectFailed, "too many open files"));
    }
    tcp.set_nodelay(true).map_err(failed)?;
    Ok(tcp)
}

async fn handshake(
    worker: &Rc<Worker>,
    target: &Target,
    expected: &SpiffeId,
    alpn: Alpn,
    tcp: TcpStream,
) -> Result<Connected, Error> {
    let failed = |error: String| {
        Error::new(
            Reason::TlsFailed,
            format!("{} as {expected}: {error}", target.address),
        )
    };
    let (config, own_end) = worker.client_tls(expected, alpn)?;
    let stream = TlsConnector::from(config)
        .connect(tls::session_name(target.address), tcp.into())
        .await
        .map_err(|error| failed(error.to_string()))?;
    let now = SystemTime::now();
    let peer = tls::verified_peer(stream.get_ref().1, now).map_err(|e| failed(e.to_string()))?;
    let left = peer
        .not_after
        .min(own_end)
        .duration_since(now)
        .unwrap_or_default();
    let left_us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
    Ok(Connected {
        stream: Stream::Tls(Box::new(TlsStream::Client(stream))),
        expires_us: Some(now_us() + left_us / 100 * CERTIFICATE_SHARE),
    })
}
