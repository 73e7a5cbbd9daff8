//! Connections that the kernel leads here although they were meant for somebody else.
//!
//! Which ones is decided by rules outside of this program (`src/tulle/sidecar/rules.py`). They
//! are kept apart from the sidecar's own by the mark that [`connect`] sets.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::dns;
use crate::inbound::{App, Caller};
use crate::join::{IDLE_TIME, Side, join};
use crate::listen;
use crate::observe::Observation;
use crate::observe::metrics::{Direction, SeriesKey};
use crate::observe::names::NONE;
use crate::record::{MtlsMode, Protocol};
use crate::serve::Client;
use crate::tcp;
use crate::timer::now_s;
use crate::upstream::Target;
use crate::upstream::connect::connect_plain;
use crate::worker::Worker;

/// Longest time to connect to what is not of the mesh; the kernel's own is two minutes.
pub const OUTSIDE_CONNECT_TIME: Duration = Duration::from_secs(10);
/// Ports of the sidecar's own that no program of this machine has by chance: systems give those
/// from 32768 upwards. The application sees a client's connections come from them.
const FOREIGN_PORTS: Range<u16> = 10_000..32_768;
/// Most of them that are tried, when some are in use.
const FOREIGN_TRIES: usize = 8;
/// What connections to destinations that are not of the mesh are counted under: no service has a
/// name without a namespace.
const OUTSIDE: &str = "outside";

/// On all sockets of this process, so that the kernel does not lead them back; 0: none. It is
/// about the process and its network namespace, not about one workload.
static MARK: AtomicU32 = AtomicU32::new(0);

/// Mark all connections of this process from now on.
///
/// # Errors
/// The process may not set a mark.
pub fn set_mark(mark: u32) -> Result<(), String> {
    Socket::new(Domain::IPV4, Type::STREAM, None)
        .and_then(|socket| socket.set_mark(mark))
        .map_err(|error| format!("settings: intercept: mark: {error}"))?;
    MARK.store(mark, Relaxed);
    Ok(())
}

/// Mark a socket as this process's own, if that is asked for.
///
/// # Errors
/// The kernel refuses.
pub fn mark<'a>(socket: impl Into<SockRef<'a>>) -> io::Result<()> {
    match MARK.load(Relaxed) {
        0 => Ok(()),
        mark => socket.into().set_mark(mark),
    }
}

/// Connect to `address`, in the name of `source` if it is given and of the same IP version.
///
/// # Errors
/// As for any connect; a foreign `source` needs a privilege.
pub async fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let source = source.filter(|source| source.is_ipv4() == address.is_ipv4());
    if MARK.load(Relaxed) == 0 && source.is_none() {
        return TcpStream::connect(address).await;
    }
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    mark(&socket)?;
    if let Some(source) = source {
        transparent(&socket)?;
        bind_foreign(&socket, source)?;
    }
    socket.connect(address).await
}

/// Bind to a port of a client's address which is not likely one that the client itself has open
/// to the same application: systems take theirs from 32768 upwards.
fn bind_foreign(socket: &TcpSocket, source: IpAddr) -> io::Result<()> {
    let mut bound = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..FOREIGN_TRIES {
        bound = socket.bind(SocketAddr::new(source, fastrand::u16(FOREIGN_PORTS)));
        if bound.is_ok() {
            break;
        }
    }
    bound
}

/// Bind a socket for datagrams.
///
/// # Errors
/// The address is in use or may not be bound; the message names it.
pub fn bind_udp(address: SocketAddr) -> Result<UdpSocket, String> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bind().map_err(|error: io::Error| format!("cannot listen on {address}: {error}"))
}

/// Bind a socket for one question to a resolver.
///
/// Its port is none that a program asks from: the kernel would take either's datagrams for more of
/// the other's, and lead them where those went, as long as it remembers them.
///
/// # Errors
/// No port is free, or the process may not set a mark.
pub fn bind_asking(any: IpAddr) -> io::Result<UdpSocket> {
    let mut bound = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..FOREIGN_TRIES {
        bound = UdpSocket::bind((any, unforeseeable_port()?));
        if bound.is_ok() {
            break;
        }
    }
    let socket = bound?;
    socket.set_nonblocking(true)?;
    mark(&socket)?;
    Ok(socket)
}

/// One of [`FOREIGN_PORTS`]. Who could guess it could answer in a resolver's place.
fn unforeseeable_port() -> io::Result<u16> {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::ErrorKind::Other)?;
    let number = u32::from_ne_bytes(bytes) % u32::from(FOREIGN_PORTS.end - FOREIGN_PORTS.start);
    Ok(FOREIGN_PORTS.start + number as u16)
}

/// Let a socket have addresses that are not of this machine.
///
/// # Errors
/// The process may not.
pub fn transparent<'a>(socket: impl Into<SockRef<'a>>) -> io::Result<()> {
    let socket = socket.into();
    match socket.domain()? {
        Domain::IPV6 => socket.set_ip_transparent_v6(true),
        _ => socket.set_ip_transparent_v4(true),
    }
}

/// Where a connection was meant to go before a REDIRECT rule led it here.
fn redirected(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let original = match canonical(stream.local_addr().ok()?) {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    original.ok()?.as_socket().map(canonical)
}

/// IPv4 as such, where a socket of both versions maps it into IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether no address of a machine can be meant: the control plane gives these to services.
fn is_virtual(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..2] == [240, 240],
        IpAddr::V6(address) => address.segments()[..7] == [0xfd74, 0x756c, 0x6c65, 0, 0, 0, 0],
    }
}

/// What an intercepted connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The application's, to another machine.
    Out,
    /// Another machine's, to the application.
    In,
    /// To a resolver.
    Dns,
}

/// Serve a connection that the kernel led here.
pub async fn serve(worker: &Rc<Worker>, way: Way, stream: TcpStream) -> Option<Box<Client>> {
    match way {
        Way::Out => outbound(worker, stream).await,
        Way::In => inbound(worker, stream).await,
        Way::Dns => {
            dns::serve_tcp(worker, stream).await;
            None
        }
    }
}

/// There is nobody to serve.
fn refuse(worker: &Worker) -> Option<Box<Client>> {
    let refused = &worker.shared.metrics.refused_connections;
    refused.fetch_add(1, Relaxed);
    None
}

/// A connection of the application: to the service that its destination stands for, or to that
/// destination itself.
async fn outbound(worker: &Rc<Worker>, stream: TcpStream) -> Option<Box<Client>> {
    let original = redirected(&stream);
    // Whoever calls this listener itself would be sent to it again and again.
    let own = stream.local_addr().map(canonical).ok();
    let Some(original) = original.filter(|original| Some(*original) != own) else {
        return refuse(worker);
    };
    if let Some(service) = worker.shared.directory.by_address(original.ip()) {
        service.last_used_s.store(now_s(), Relaxed);
        service.declared.store(true, Relaxed);
        let port = original.port();
        if service
            .plan()
            .as_ref()
            .is_none_or(|plan| plan.port(port).is_none())
        {
            return refuse(worker);
        }
        return listen::serve_service(worker, (service, port), stream).await;
    }
    let settings = worker.shared.settings.intercept.as_ref();
    if is_virtual(original.ip()) || settings.is_none_or(|settings| settings.mesh_only) {
        return refuse(worker);
    }
    outside(worker, original, stream).await;
    None
}

/// Carry bytes to a destination that is none of the mesh.
pub(crate) async fn outside(worker: &Rc<Worker>, address: SocketAddr, client: TcpStream) {
    let mut key = SeriesKey::new(Direction::Outbound, Protocol::Tcp);
    key.service = worker.shared.metrics.names.id(OUTSIDE);
    let target = Target {
        id: 0,
        address,
        identity: None,
        http2: false,
        connect_timeout: OUTSIDE_CONNECT_TIME,
        limits: None,
        source: None,
        files_end: i32::MAX,
    };
    let connected = connect_plain(&target).await;
    key.reason = connected.as_ref().err().map(|error| error.reason);
    let seen = Observation::connection(worker, key, None);
    if let Ok(server) = connected {
        join(
            Side::Tcp(client).into(),
            Side::Tcp(server).into(),
            seen,
            IDLE_TIME,
        )
        .await;
    }
}

/// A connection to the application that did not come by its mTLS listener: what that would do, by
/// the port it is for. A port that nobody declared takes bytes, where plaintext is let in.
async fn inbound(worker: &Rc<Worker>, stream: TcpStream) -> Option<Box<Client>> {
    let Some(settings) = &worker.shared.settings.intercept else {
        return refuse(worker);
    };
    let local = stream.local_addr().map(canonical).ok();
    let original = match settings.tproxy {
        true => local,
        false => redirected(&stream),
    };
    let own_port = settings.inbound.map(|own| own.port());
    let client = stream.peer_addr().map(canonical).ok();
    let (Some(original), Some(client)) = (original, client) else {
        return refuse(worker);
    };
    if Some(original.port()) == own_port {
        return refuse(worker);
    }
    let source = settings.tproxy.then_some(client.ip());
    let declared = &worker.shared.settings.inbound;
    let found = declared
        .iter()
        .position(|one| one.app.port() == original.port());
    if let Some(index) = found {
        let mut app = App::declared(index, &declared[index]);
        if let Some(source) = source {
            // At the address that the client called: from loopback nothing is answered to others.
            app = app.called_by(source, original);
        }
        return listen::serve_inbound(worker, app, stream).await;
    }
    let mode = worker.shared.inbound.load().mtls(original.port());
    if !worker.shared.has_inbound.load(Relaxed) || mode == MtlsMode::Strict {
        return refuse(worker);
    }
    let app = App {
        id: 0,
        port: original.port(),
        protocol: Protocol::Tcp,
        declared: true,
        address: original,
        proxy_protocol: false,
        source,
    };
    let nobody = Caller {
        id: None,
        name_id: NONE,
        identity_id: NONE,
    };
    tcp::inbound(worker, app, (&nobody, None), stream).await;
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn virtual_addresses_are_told_from_those_of_machines() {
        for (address, expected) in [
            ("240.240.0.1", true),
            ("240.240.255.254", true),
            ("240.241.0.1", false),
            ("10.240.0.1", false),
            ("fd74:756c:6c65::1", true),
            ("fd74:756c:6c65::1:1", false),
            ("::ffff:240.240.0.1", false),
        ] {
            let parsed = address.parse().expect("an address");
            assert_eq!(is_virtual(parsed), expected, "{address}");
        }
    }

    #[test]
    fn questions_come_from_ports_that_no_program_has() {
        for _ in 0..100 {
            let socket = bind_asking(Ipv4Addr::LOCALHOST.into()).expect("a port");
            let port = socket.local_addr().expect("bound").port();
            assert!(FOREIGN_PORTS.contains(&port), "{port}");
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = "[::ffff:240.240.0.1]:80".parse().expect("an address");
        assert_eq!(canonical(mapped).to_string(), "240.240.0.1:80");
    }
}
