//! What a WebSocket proves in HTTP/1.1 by a key and need not on a stream (RFC 8441 §5).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The name of the protocol, as servers on HTTP/2 want it.
pub const NAME: &str = "websocket";
/// What the client shows.
pub const KEY: &str = "sec-websocket-key";
/// What the server answers it with.
pub const ACCEPT: &str = "sec-websocket-accept";
/// What the server adds to the key (RFC 6455 §1.3).
const SERVER: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether `protocol` names it, in any case (RFC 9110 §7.8).
pub fn is(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(NAME.as_bytes())
}

/// A new key.
pub fn key() -> String {
    base64(&fastrand::u128(..).to_ne_bytes())
}

/// What a server answers `key` with (RFC 6455 §4.2.2).
pub fn accept(key: &[u8]) -> String {
    let shown = [key, SERVER].concat();
    base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, &shown).as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | usize::from(three.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * at) & 63];
            out.push(if at > three.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_the_rfc_shows() {
        let accepted = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(key().len(), 24);
        assert_ne!(key(), key());
    }
}
