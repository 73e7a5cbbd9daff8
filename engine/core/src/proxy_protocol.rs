//! The PROXY protocol, version 2: who a connection came from, told before its first byte.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::timer::within;

/// How each header begins.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses.
const FIXED: usize = 16;
/// Most bytes of addresses and what follows them: some send certificates' names there.
pub const REST_MAX: usize = 2 * 1024;
/// Longest wait for a header: it comes with the connection.
pub const HEADER_TIME: Duration = Duration::from_secs(5);

/// What a header says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Where it came from, and where it went.
    Connection {
        /// The client.
        source: SocketAddr,
        /// What the client reached.
        destination: SocketAddr,
    },
    /// The sender's own connection, or one of a family that is not looked at: a health check.
    Local,
}

impl Told {
    /// The header that says so.
    pub fn header(self) -> Vec<u8> {
        match self {
            Told::Connection {
                source,
                destination,
            } => header(Some(source), destination),
            Told::Local => header(None, SocketAddr::from(([0, 0, 0, 0], 0))),
        }
    }
}

/// The header of a TCP connection from `source` to `destination`; without a source that of the
/// sender's own connection.
pub fn header(source: Option<SocketAddr>, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let Some(source) = source else {
        // Version 2, LOCAL, of no family, and nothing after.
        bytes.extend([0x20, 0, 0, 0]);
        return bytes;
    };
    // Version 2, PROXY.
    bytes.push(0x21);
    let (source_ip, destination_ip) = (source.ip().to_canonical(), destination.ip().to_canonical());
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (source_ip, destination_ip) {
        bytes.extend([0x11, 0, 12]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
    } else {
        bytes.extend([0x21, 0, 36]);
        bytes.extend(six(source_ip).octets());
        bytes.extend(six(destination_ip).octets());
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Read a header off `stream`, and not a byte more.
///
/// # Errors
/// There is none within [`HEADER_TIME`], or it breaks a rule.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Told> {
    let header = Box::pin(async {
        let mut fixed = [0; FIXED];
        stream.read_exact(&mut fixed).await?;
        let length = rest_length(&fixed).ok_or_else(invalid)?;
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        parse(&fixed, &rest).ok_or_else(invalid)
    });
    within(HEADER_TIME, header)
        .await
        .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY protocol header")
}

/// How many bytes follow; `None`: this is no header, or one that is too long.
fn rest_length(fixed: &[u8; FIXED]) -> Option<usize> {
    let is_version_2 = fixed[..12] == SIGNATURE && matches!(fixed[12], 0x20 | 0x21);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    (is_version_2 && length <= REST_MAX).then_some(length)
}

/// What a header says; `None`: its addresses are not whole.
fn parse(fixed: &[u8; FIXED], rest: &[u8]) -> Option<Told> {
    let told = match (fixed[12], fixed[13]) {
        (0x20, _) => Told::Local,
        (_, 0x11) => connection(
            IpAddr::V4(Ipv4Addr::from(*rest.first_chunk::<4>()?)),
            IpAddr::V4(Ipv4Addr::from(*rest.get(4..)?.first_chunk::<4>()?)),
            rest.get(8..)?,
        )?,
        (_, 0x21) => connection(
            IpAddr::V6(Ipv6Addr::from(*rest.first_chunk::<16>()?)),
            IpAddr::V6(Ipv6Addr::from(*rest.get(16..)?.first_chunk::<16>()?)),
            rest.get(32..)?,
        )?,
        // Unspecified, datagrams and Unix sockets: accepted, their addresses left alone.
        (_, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Told::Local,
        _ => return None,
    };
    Some(told)
}

fn connection(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Option<Told> {
    let ports = ports.first_chunk::<4>()?;
    Some(Told::Connection {
        source: SocketAddr::new(source, u16::from_be_bytes([ports[0], ports[1]])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([ports[2], ports[3]])),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(mut bytes: &[u8]) -> io::Result<(Told, usize)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime");
        let told = runtime.block_on(read(&mut bytes))?;
        Ok((told, bytes.len()))
    }

    fn with(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn both_families_are_read_back_and_nothing_after_them() {
        for (source, destination) in [
            ("10.0.0.1:4000", "10.0.0.2:80"),
            ("[2001:db8::1]:4000", "[2001:db8::2]:443"),
        ] {
            let (source, destination) = (
                source.parse().expect("an address"),
                destination.parse().expect("an address"),
            );
            let mut bytes = header(Some(source), destination);
            bytes.extend(b"GET /");
            let told = Told::Connection {
                source,
                destination,
            };
            assert_eq!(read_all(&bytes).expect("a header"), (told, 5));
        }
    }

    #[test]
    fn what_follows_the_addresses_is_passed_over_up_to_the_bound() {
        let mut rest = [10, 0, 0, 1, 10, 0, 0, 2, 0x0f, 0xa0, 0, 80].to_vec();
        rest.resize(REST_MAX, 7);
        assert!(read_all(&with(0x21, 0x11, &rest)).is_ok());
        rest.push(7);
        assert!(read_all(&with(0x21, 0x11, &rest)).is_err());
    }

    #[test]
    fn the_senders_own_connection_is_told_as_such() {
        let bytes = Told::Local.header();
        assert_eq!(read_all(&bytes).expect("a header"), (Told::Local, 0));
    }

    #[test]
    fn a_health_check_and_families_that_are_not_looked_at_are_local() {
        for (command, family) in [(0x20, 0x11), (0x20, 0x00), (0x21, 0x00), (0x21, 0x31)] {
            let told = read_all(&with(command, family, &[1; 216]));
            assert_eq!(told.expect("a header"), (Told::Local, 0));
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let mut torn = header(
            "10.0.0.1:1".parse().ok(),
            "10.0.0.2:2".parse().expect("an address"),
        );
        torn.pop();
        for bytes in [
            b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".to_vec(),
            with(0x11, 0x11, &[0; 12]),
            with(0x22, 0x11, &[0; 12]),
            with(0x21, 0x13, &[0; 12]),
            with(0x21, 0x41, &[0; 12]),
            with(0x21, 0x11, &[0; 11]),
            with(0x21, 0x21, &[0; 35]),
            torn,
        ] {
            assert!(read_all(&bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn every_address_survives(source: SocketAddr, destination: SocketAddr) {
            let (told, left) = read_all(&header(Some(source), destination)).expect("a header");
            let Told::Connection { source: from, destination: to } = told else {
                panic!("it names both");
            };
            let same = |one: SocketAddr, two: SocketAddr| {
                one.ip().to_canonical() == two.ip().to_canonical() && one.port() == two.port()
            };
            prop_assert!(same(source, from) && same(destination, to));
            prop_assert_eq!(left, 0);
        }

        #[test]
        fn no_bytes_make_it_panic_or_read_on(
            command: u8, family: u8, rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = with(command, family, &rest);
            bytes.extend(b"after");
            if let Ok((_, left)) = read_all(&bytes) {
                prop_assert_eq!(left, 5);
            }
        }
    }
}
