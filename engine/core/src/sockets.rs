//! The listening sockets of a sidecar: bound, or taken over from a predecessor.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::intercept;
use crate::listen::{Closing, Purpose};
use crate::settings::Settings;
use crate::takeover::{self, Inherited};
use crate::upstream::connect::keep_alive;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The listeners of each worker, and what each is for.
pub(crate) type Listeners = Vec<Vec<(Purpose, TcpListener)>>;

/// A second handle of every socket that others call, to be handed to a successor. A socket is open
/// until the last handle is closed.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Where other sidecars come in.
    pub(crate) inbound: Vec<TcpListener>,
    /// All others that listen.
    pub(crate) others: Vec<TcpListener>,
    /// Those for datagrams.
    pub(crate) datagrams: Vec<UdpSocket>,
}

impl Held {
    /// A handle of each; where one is missing, a successor cannot bind, and gives up.
    pub(crate) fn handles(&self) -> Vec<OwnedFd> {
        let listeners = self.inbound.iter().chain(&self.others);
        let listeners = listeners.filter_map(|one| one.try_clone().ok().map(OwnedFd::from));
        let datagrams = self.datagrams.iter();
        let datagrams = datagrams.filter_map(|one| one.try_clone().ok().map(OwnedFd::from));
        listeners.chain(datagrams).collect()
    }
}

/// All sockets of a sidecar, while they are bound.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// What the workers accept from.
    pub(crate) listeners: Listeners,
    /// What a successor may ask for; empty where there is no state directory to meet in.
    pub(crate) held: Held,
    /// What is left of a predecessor.
    pub(crate) inherited: Option<Inherited>,
    holds: bool,
}

impl Sockets {
    /// Ask a predecessor, if there is one; nothing is bound yet.
    pub(crate) fn new(settings: &Settings) -> Sockets {
        let dir = settings.state_dir.as_deref();
        Sockets {
            listeners: (0..settings.workers).map(|_| Vec::new()).collect(),
            held: Held::default(),
            holds: dir.is_some(),
            // Nobody there, or nobody who hands over: then the addresses are free, or the error
            // of binding tells.
            inherited: dir.and_then(|dir| takeover::ask(dir).ok()),
        }
    }

    /// Bind an address once per worker.
    pub(crate) fn add(
        &mut self,
        purpose: &Purpose,
        address: SocketAddr,
    ) -> Result<SocketAddr, String> {
        let bound = self.bind(address, self.listeners.len())?;
        let local = bound[0].local_addr().map_err(|error| error.to_string())?;
        if self.holds {
            let held = match purpose.closes() {
                Closing::Inbound => &mut self.held.inbound,
                _ => &mut self.held.others,
            };
            for listener in &bound {
                held.push(second_handle(listener)?);
            }
        }
        for (index, listener) in bound.into_iter().enumerate() {
            let worker = index % self.listeners.len();
            self.listeners[worker].push((purpose.clone(), listener));
        }
        Ok(local)
    }

    /// Bind an address once.
    pub(crate) fn admin(&mut self, address: SocketAddr) -> Result<TcpListener, String> {
        let mut bound = self.bind(address, 1)?;
        let admin = bound.swap_remove(0);
        if self.holds {
            self.held.others.push(second_handle(&admin)?);
        }
        Ok(admin)
    }

    /// Bind a socket for datagrams, or take the predecessor's, with the questions that wait in it.
    pub(crate) fn datagrams(&mut self, address: SocketAddr) -> Result<UdpSocket, String> {
        let inherited = self.inherited.as_mut();
        let taken = inherited.and_then(|inherited| inherited.take(address, Type::DGRAM).pop());
        let socket: UdpSocket = match taken {
            Some(socket) => socket,
            None => intercept::bind_udp(address)?,
        };
        if self.holds {
            let handle = socket.try_clone().map_err(|error| error.to_string())?;
            self.held.datagrams.push(handle);
        }
        Ok(socket)
    }

    /// Sockets that listen on `address`: at least one for each worker, and all of a predecessor's,
    /// since the kernel spreads connections over each that there is.
    fn bind(&mut self, address: SocketAddr, workers: usize) -> Result<Vec<TcpListener>, String> {
        let inherited = self.inherited.as_mut();
        let mut sockets =
            inherited.map_or_else(Vec::new, |inherited| inherited.take(address, Type::STREAM));
        if sockets.is_empty() {
            return bind(address, workers);
        }
        for socket in &sockets {
            inherit(SockRef::from(socket));
        }
        for index in 0..workers.saturating_sub(sockets.len()) {
            sockets.push(second_handle(&sockets[index])?);
        }
        Ok(sockets)
    }
}

fn second_handle(listener: &TcpListener) -> Result<TcpListener, String> {
    listener.try_clone().map_err(|error| error.to_string())
}

/// Bind `address` once per worker thread; the kernel spreads connections over them.
fn bind(address: SocketAddr, workers: usize) -> Result<Vec<TcpListener>, String> {
    let mut bound = Vec::with_capacity(workers);
    let mut exact = address;
    if workers > 1 && address.port() != 0 {
        // Sockets that share a port would share it with those of another sidecar, too.
        bind_one(address, false).map_err(|error| in_use(address, &error))?;
    }
    for _ in 0..workers {
        let socket = bind_one(exact, workers > 1).map_err(|error| in_use(exact, &error))?;
        socket
            .listen(BACKLOG)
            .map_err(|error| in_use(exact, &error))?;
        let listener = TcpListener::from(socket);
        exact = listener
            .local_addr()
            .map_err(|error| format!("{exact}: {error}"))?;
        bound.push(listener);
    }
    Ok(bound)
}

fn in_use(address: SocketAddr, error: &io::Error) -> String {
    format!("cannot listen on {address}: {error}")
}

/// What is accepted inherits both: without the one small answers wait for acknowledgements, by the
/// other a client that vanished is found out. A socket that refuses is broken anyway.
fn inherit(socket: SockRef<'_>) {
    let _broken = socket.set_tcp_nodelay(true);
    keep_alive(socket);
}

fn bind_one(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    inherit(SockRef::from(&socket));
    if address.is_ipv6() {
        // `::` is every address of both versions, whatever `net.ipv6.bindv6only` says.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sidecars_never_share_a_port() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = bind(free, 2).expect("a free port");
        let address = first[0].local_addr().expect("bound");
        assert_eq!(first[1].local_addr().expect("bound"), address);

        for workers in [1, 2] {
            let refused = bind(address, workers).expect_err("it is in use");
            assert!(refused.contains("in use"), "{refused}");
        }
        drop(first);
        assert!(bind(address, 2).is_ok());
    }
}
