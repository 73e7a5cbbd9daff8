//! The tickets a client keeps to resume TLS sessions.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Tickets one client config holds, over all its servers; one is about 3 KiB.
pub(super) const MAX_TICKETS: usize = 32;

/// A bounded store of tickets; the oldest goes first. It belongs to one client config, hence to
/// one expected identity, and each ticket is used once.
#[derive(Default)]
pub(super) struct Tickets {
    held: Mutex<VecDeque<(ServerName<'static>, Tls13ClientSessionValue)>>,
}

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(ServerName<'static>, Tls13ClientSessionValue)>> {
        // A ticket store is whole between any two of its operations.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<Tickets {}/{MAX_TICKETS}>", self.lock().len())
    }
}

impl ClientSessionStore for Tickets {
    /// Not kept: every server takes the first group offered.
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut held = self.lock();
        if held.len() == MAX_TICKETS {
            held.pop_front();
        }
        held.push_back((server, ticket));
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut held = self.lock();
        let newest = held.iter().rposition(|(name, _)| name == server)?;
        held.remove(newest).map(|(_, ticket)| ticket)
    }
}

/// The name to give rustls for a connection to `address`.
///
/// Nothing checks it and it is never sent (the peer is known by its SPIFFE id): it is the key of
/// the tickets, and a ticket is only good at the sidecar that gave it.
pub fn session_name(address: SocketAddr) -> ServerName<'static> {
    let host = match address.ip() {
        IpAddr::V4(ip) => format!("{:08x}", u32::from(ip)),
        IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
    };
    ServerName::try_from(format!("p{}.x{host}", address.port()))
        .expect("hex digits between letters are a DNS name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_name() {
        let names: std::collections::HashSet<_> = [
            "127.0.0.1:80",
            "127.0.0.1:81",
            "127.0.0.2:80",
            "[::1]:80",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        ]
        .iter()
        .map(|address| session_name(address.parse().unwrap()))
        .collect();

        assert_eq!(5, names.len());
    }
}
