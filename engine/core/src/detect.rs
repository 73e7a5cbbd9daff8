//! What a client speaks on a port whose protocol nobody declared, by its first bytes.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::timer::{Deadline, within};

/// Most bytes that are looked at: the first line of a request is no longer.
pub const LOOK_MAX: usize = 8 * 1024;
/// How long a client that has begun may take to show what it speaks.
pub const LOOK_TIME: Duration = Duration::from_millis(500);
/// How long a client may be silent before the server gets its turn.
pub const SILENCE_TIME: Duration = Duration::from_millis(50);
/// How often it is looked again while a first line is not whole.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// The client preface of HTTP/2 (RFC 9113 §3.4); no method begins like it.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest name of a method that is taken for one.
const METHOD_MAX: usize = 20;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1 or 1.0.
    Http1,
    /// HTTP/2 without an upgrade.
    Http2,
    /// Anything else, TLS too.
    Bytes,
}

/// What begins like this; `None`: too few bytes to tell.
pub fn spoken(bytes: &[u8]) -> Option<Spoken> {
    let seen = bytes.len().min(PREFACE.len());
    if bytes[..seen] == PREFACE[..seen] {
        return (seen == PREFACE.len()).then_some(Spoken::Http2);
    }
    let method = bytes.iter().take(METHOD_MAX + 1);
    let method = method.take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-');
    match (method.count(), bytes) {
        (length, bytes) if length == bytes.len() && length <= METHOD_MAX => None,
        (length @ 1..=METHOD_MAX, bytes) if bytes[length] == b' ' => first_line(bytes),
        _ => Some(Spoken::Bytes),
    }
}

/// A request line ends with its version (RFC 9112 §3); commands of other protocols do not.
fn first_line(bytes: &[u8]) -> Option<Spoken> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return (bytes.len() >= LOOK_MAX).then_some(Spoken::Bytes);
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
    Some(if is_http {
        Spoken::Http1
    } else {
        Spoken::Bytes
    })
}

/// What the client of `stream` speaks, which stays unread. Waits as long as it says nothing.
///
/// # Errors
/// It left, or the connection broke.
pub async fn look(stream: &TcpStream) -> io::Result<Spoken> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let whole = Box::pin(async {
        let mut bytes = vec![0; LOOK_MAX];
        loop {
            let seen = stream.peek(&mut bytes).await?;
            if let Some(spoken) = spoken(&bytes[..seen]) {
                return Ok(spoken);
            }
            // More is on its way; readiness would be reported at once again.
            Deadline::after(LOOK_AGAIN).await;
        }
    });
    // Who begins like HTTP and does not go on is left to the server.
    within(LOOK_TIME, whole).await.unwrap_or(Ok(Spoken::Bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn protocols_are_known_by_how_they_begin() {
        for (bytes, expected) in [
            (
                &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
                Some(Spoken::Http1),
            ),
            (b"M-SEARCH * HTTP/1.1\n", Some(Spoken::Http1)),
            (b"GET /%20 HTTP/1.0\r\n", Some(Spoken::Http1)),
            (PREFACE, Some(Spoken::Http2)),
            (b"", None),
            (b"G", None),
            (b"GET /slow", None),
            (&PREFACE[..23], None),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Spoken::Bytes)),
            (b"GET key\r\n", Some(Spoken::Bytes)),
            (b"GET / HTTP/2.0\r\n", Some(Spoken::Bytes)),
            (b"get / HTTP/1.1\r\n", Some(Spoken::Bytes)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Bytes)),
            (b"\x16\x03\x01\x02\x00\x01", Some(Spoken::Bytes)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Spoken::Bytes)),
            (b"EHLO mail.example\r\n", Some(Spoken::Bytes)),
            (b" GET / HTTP/1.1\r\n", Some(Spoken::Bytes)),
            (b"AAAAAAAAAAAAAAAAAAAAA", Some(Spoken::Bytes)),
        ] {
            assert_eq!(spoken(bytes), expected, "{:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_line_that_does_not_end_is_given_up_at_the_bound() {
        let mut line = b"GET /".to_vec();
        line.resize(LOOK_MAX - 1, b'a');
        assert_eq!(spoken(&line), None);
        line.push(b'a');
        assert_eq!(spoken(&line), Some(Spoken::Bytes));
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_what_was_found(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut before = None;
            for end in 0..=bytes.len() {
                let now = spoken(&bytes[..end]);
                prop_assert!(before.is_none() || now == before);
                before = now;
            }
        }
    }
}
