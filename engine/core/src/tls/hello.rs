//! The server name in the first message of a TLS client, read and not answered.

/// Most bytes of a first message: keys that resist quantum computers fit several times.
pub const HELLO_MAX: usize = 16 * 1024;
/// Content type of a handshake record (RFC 8446 §5.1).
pub const HANDSHAKE: u8 = 22;
/// Most payload of a record.
const RECORD_MAX: usize = 1 << 14;
/// `client_hello` (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// `server_name` (RFC 6066 §3).
const SERVER_NAME: u16 = 0;
/// `host_name` within it.
const HOST_NAME: u8 = 0;
/// A fatal alert: nobody here has that name (RFC 6066 §3).
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The beginning of a first message; more must come.
    Partial,
    /// A whole one, with its server name in lower case.
    Whole(Option<String>),
    /// No TLS, or a message that breaks its rules.
    Invalid,
}

/// Read the first message of a client, however it is cut into records.
pub fn client_hello(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Ok(Some(message)) => match server_name(&message) {
            Some(name) => Hello::Whole(name),
            None => Hello::Invalid,
        },
        Ok(None) if bytes.len() < HELLO_MAX => Hello::Partial,
        Ok(None) | Err(NotTls) => Hello::Invalid,
    }
}

struct NotTls;

/// The body of the message, put together from its records; `None`: it is not whole yet.
fn message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, NotTls> {
    let mut joined: Vec<u8> = Vec::new();
    loop {
        if let Some((&kind, rest)) = joined.split_first() {
            if kind != CLIENT_HELLO {
                return Err(NotTls);
            }
            if let Some(length) = rest.first_chunk::<3>() {
                let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
                if length > HELLO_MAX {
                    return Err(NotTls);
                }
                if let Some(body) = rest[3..].get(..length) {
                    return Ok(Some(body.to_vec()));
                }
            }
        }
        let (known, expected) = (bytes.len().min(2), [HANDSHAKE, 3]);
        if bytes[..known] != expected[..known] {
            return Err(NotTls);
        }
        let Some(header) = bytes.first_chunk::<5>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > RECORD_MAX {
            return Err(NotTls);
        }
        let payload = &bytes[5..];
        joined.extend_from_slice(&payload[..length.min(payload.len())]);
        bytes = payload.get(length..).unwrap_or_default();
    }
}

/// The server name of a message, if it has one; `None`: the message breaks its rules.
fn server_name(message: &[u8]) -> Option<Option<String>> {
    let mut hello = Fields(message);
    // Version and random.
    hello.take(2 + 32)?;
    let session = hello.one_byte()?;
    hello.take(usize::from(session))?;
    hello.list()?;
    let compressions = hello.one_byte()?;
    hello.take(usize::from(compressions))?;
    if hello.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Fields(hello.list()?);
    if !hello.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.two_bytes()?;
        let data = extensions.list()?;
        if kind == SERVER_NAME && found.replace(host_name(data)?).is_some() {
            return None;
        }
    }
    Some(found)
}

fn host_name(extension: &[u8]) -> Option<String> {
    let mut extension = Fields(extension);
    let mut names = Fields(extension.list()?);
    if names.one_byte()? != HOST_NAME {
        return None;
    }
    let name = names.list()?;
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let whole = extension.0.is_empty() && names.0.is_empty();
    if !whole || name.is_empty() || name.len() > 253 || !name.iter().all(is_name) {
        return None;
    }
    String::from_utf8(name.to_ascii_lowercase()).ok()
}

/// What is left of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn one_byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn two_bytes(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes after their length in two bytes.
    fn list(&mut self) -> Option<&'a [u8]> {
        let length = self.two_bytes()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What a real client sends first.
    fn hello(name: &'static str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(super::super::PROVIDER.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a config")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name).expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("a hello");
        bytes
    }

    /// The same message in records of at most `size`.
    fn cut(hello: &[u8], size: usize) -> Vec<u8> {
        let records = hello[5..].chunks(size).map(|part| {
            let length = u16::try_from(part.len()).expect("short").to_be_bytes();
            [&[HANDSHAKE, 3, 1], &length[..], part].concat()
        });
        records.collect::<Vec<_>>().concat()
    }

    fn named(name: &str) -> Hello {
        Hello::Whole(Some(name.to_owned()))
    }

    #[test]
    fn a_clients_server_name_is_read_whole_and_from_records_of_any_size() {
        let hello = hello("Cart.Shop.example");
        assert_eq!(client_hello(&hello), named("cart.shop.example"));
        for size in [1, 2, 3, 7, 100] {
            let cut = cut(&hello, size);
            assert_eq!(client_hello(&cut), named("cart.shop.example"), "{size}");
            for end in 0..cut.len() {
                assert_eq!(client_hello(&cut[..end]), Hello::Partial, "{size} {end}");
            }
        }
    }

    #[test]
    fn an_address_is_no_name_and_what_follows_does_not_matter() {
        let mut hello = hello("127.0.0.1");
        assert_eq!(client_hello(&hello), Hello::Whole(None));
        hello.extend_from_slice(b"early data");
        assert_eq!(client_hello(&hello), Hello::Whole(None));
    }

    #[test]
    fn what_is_no_hello_is_known_by_its_first_bytes() {
        for bytes in [
            &b"G"[..],
            b"\x16\x02",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x40\x01",
            b"\x16\x03\x01\x00\x01\x02",
            b"\x16\x03\x01\x00\x04\x01\x01\x00\x00",
        ] {
            assert_eq!(client_hello(bytes), Hello::Invalid, "{bytes:?}");
        }
        assert_eq!(client_hello(b""), Hello::Partial);
    }

    #[test]
    fn a_hello_that_does_not_end_is_given_up_at_the_bound() {
        let mut bytes = [&[HANDSHAKE, 3, 1, 0x40, 0][..], &[CLIENT_HELLO, 0, 0x40, 0]].concat();
        bytes.resize(HELLO_MAX - 1, 0);
        assert_eq!(client_hello(&bytes), Hello::Partial);
        bytes.push(0);
        assert_eq!(client_hello(&bytes), Hello::Invalid);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            client_hello(&bytes);
        }

        #[test]
        fn a_spoiled_hello_never_gets_another_name(at in 0usize..200, value in any::<u8>()) {
            let mut hello = hello("cart.example");
            let at = at % hello.len();
            let name = b"cart.example";
            let start = hello.windows(name.len()).position(|part| part == name).expect("a name");
            prop_assume!(!(start..start + name.len()).contains(&at));
            hello[at] = value;
            if let Hello::Whole(Some(found)) = client_hello(&hello) {
                prop_assert_eq!(found, "cart.example");
            }
        }
    }
}
