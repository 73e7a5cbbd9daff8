//! Who is at the other end of an inbound connection: mTLS, or plaintext where it is let in.

use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::inbound::{App, Caller};
use crate::listen::HANDSHAKE_TIME;
use crate::observe::names::NONE;
use crate::proxy_protocol::{self, Told};
use crate::record::{MtlsMode, Protocol};
use crate::timer::{Deadline, within};
use crate::tls;
use crate::upstream::connect::Alpn;
use crate::upstream::stream::Stream;
use crate::worker::Worker;

/// How long a client of a TCP port may be silent before it is taken for one that lets the server
/// begin, where plaintext is let in.
pub const SERVER_FIRST_TIME: Duration = Duration::from_millis(500);
/// The first byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// A connection whose caller is known.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, handshake done.
    pub stream: Stream,
    /// Who is calling.
    pub caller: Rc<Caller>,
    /// What a PROXY protocol header told of it; `None`: none is expected.
    pub told: Option<Told>,
    /// When the caller's certificate ends; `None`: it showed none.
    pub expiry: Option<Deadline>,
}

/// Find out who is calling; `None`: refused.
pub async fn authenticate(worker: &Rc<Worker>, app: App, stream: TcpStream) -> Option<Accepted> {
    let mode = worker.shared.inbound.load().mtls(app.port);
    let is_tls = match mode {
        MtlsMode::Strict => true,
        MtlsMode::Disable => false,
        MtlsMode::Permissive => begins_tls(app, &stream).await?,
    };
    if !is_tls {
        return plain(app, stream).await;
    }
    let alpn = match app.protocol {
        Protocol::Http | Protocol::Auto => Alpn::Http1,
        Protocol::Http2 | Protocol::Grpc | Protocol::Tcp => Alpn::Http2,
    };
    let config = worker.shared.server_tls(alpn)?;
    let handshake = TlsAcceptor::from(config).accept(stream.into());
    let stream = within(HANDSHAKE_TIME, Box::pin(handshake)).await?.ok()?;
    let now = SystemTime::now();
    let peer = tls::verified_peer(stream.get_ref().1, now).ok()?;
    let names = &worker.shared.metrics.names;
    let name = format!("{}/{}", peer.id.namespace(), peer.id.service_account());
    let caller = Caller {
        name_id: names.id(&name),
        identity_id: names.id(peer.id.as_str()),
        id: Some(peer.id),
    };
    let left = peer.not_after.duration_since(now).unwrap_or_default();
    Some(Accepted {
        stream: Stream::Tls(Box::new(TlsStream::Server(stream))),
        caller: Rc::new(caller),
        told: None,
        expiry: Some(Deadline::after(left)),
    })
}

/// A connection in plaintext; `None`: the PROXY protocol header that it needs is not there.
async fn plain(app: App, mut stream: TcpStream) -> Option<Accepted> {
    let told = match app.proxy_protocol {
        true => Some(proxy_protocol::read(&mut stream).await.ok()?),
        false => None,
    };
    let caller = Caller {
        id: None,
        name_id: NONE,
        identity_id: NONE,
    };
    Some(Accepted {
        stream: Stream::Plain(stream),
        caller: Rc::new(caller),
        told,
        expiry: None,
    })
}

/// Whether the client begins a TLS handshake; `None`: it left, or says nothing where it should.
async fn begins_tls(app: App, stream: &TcpStream) -> Option<bool> {
    let may_be_bytes = app.protocol == Protocol::Tcp || !app.declared;
    let limit = match may_be_bytes {
        true => SERVER_FIRST_TIME,
        false => HANDSHAKE_TIME,
    };
    match within(limit, Box::pin(first_byte(stream))).await {
        Some(byte) => byte.ok().map(|byte| byte == TLS_HANDSHAKE),
        // A client that waits for the server to begin does not speak TLS.
        None => may_be_bytes.then_some(false),
    }
}

async fn first_byte(stream: &TcpStream) -> io::Result<u8> {
    let mut first = [0; 1];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0]),
    }
}
