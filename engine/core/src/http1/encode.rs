//! Heads, chunks and ends as they are written (RFC 9112 §3 to §7).

use http::StatusCode;

use crate::fields::{Fields, Name};
use crate::head::{Length, RequestHead, ResponseHead};

/// How a body is framed on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// So many bytes are still to come.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// As they come; the connection's end is the body's.
    UntilClose,
    /// As they come, after a switch of protocols: the end of writing is the end.
    Raw,
}

impl Encoder {
    /// For a body of `length` to a peer that understands chunks or not.
    fn of(length: Length, chunks: bool) -> Encoder {
        match length {
            Length::None => Encoder::Exact(0),
            Length::Exact(length) => Encoder::Exact(length),
            Length::Unknown if chunks => Encoder::Chunked,
            Length::Unknown => Encoder::UntilClose,
        }
    }
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The same for a value that HTTP/1.1's parser may not have seen: whatever let it in, nothing
/// behind the end of a line leaves.
fn foreign_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let end = memchr::memchr3(b'\r', b'\n', 0, value).unwrap_or(value.len());
    line(out, name, &value[..end]);
}

/// Write a request in origin form with a Host, for a body of its length. Hop-by-hop fields have
/// been removed; `switch` asks for a switch of protocols.
pub fn request(out: &mut Vec<u8>, head: &RequestHead, switch: Option<&[u8]>) -> Encoder {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let (path, query) = head.target();
    out.extend_from_slice(path);
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if !head.fields.has(Name::Host) {
        foreign_line(
            out,
            b"host",
            head.authority().unwrap_or_default().as_bytes(),
        );
    }
    head.fields.write(out);
    let encoder = Encoder::of(head.length, true);
    if encoder == Encoder::Chunked {
        line(out, b"transfer-encoding", b"chunked");
    }
    if let Some(protocol) = switch {
        line(out, b"connection", b"upgrade");
        foreign_line(out, b"upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
    encoder
}

/// What the client of a response is and wants.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// It asked by HEAD: no body follows.
    pub head: bool,
    /// It speaks HTTP/1.0, thus knows no chunks.
    pub old: bool,
    /// It wants to keep the connection.
    pub persistent: bool,
    /// It may hold its body back until it is told to go on, and then send none (RFC 9110 §10.1.1).
    pub expects: bool,
}

/// Write the head of a final response, for a body of its length. Hop-by-hop fields have been
/// removed. The encoder, and whether the connection is kept.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, asked: Asked) -> (Encoder, bool) {
    status_line(out, head);
    lines_of(out, head);
    let encoder = match asked.head {
        true => Encoder::Exact(0),
        // In HTTP/2 its end may come by itself.
        false if !has_body(head.status) => Encoder::Exact(0),
        false => Encoder::of(head.length, !asked.old),
    };
    match encoder {
        Encoder::Chunked => line(out, b"transfer-encoding", b"chunked"),
        // Without a length a client waits for the connection's end.
        Encoder::Exact(0)
            if !asked.head && has_body(head.status) && !head.fields.has(Name::ContentLength) =>
        {
            line(out, b"content-length", b"0");
        }
        _ => {}
    }
    let kept = asked.persistent && encoder != Encoder::UntilClose;
    if !kept {
        line(out, b"connection", b"close");
    } else if asked.old {
        line(out, b"connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
    (encoder, kept)
}

/// Whether a response of this status may have a body (RFC 9110 §6.4.1).
fn has_body(status: StatusCode) -> bool {
    !status.is_informational()
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED
}

/// Write the lines of a response, without the length of a body that may not be.
fn lines_of(out: &mut Vec<u8>, head: &ResponseHead) {
    if head.is_bare() && head.fields.has(Name::ContentLength) {
        let mut fields = head.fields.clone();
        fields.remove(&[Name::ContentLength]);
        fields.write(out);
    } else {
        head.fields.write(out);
    }
}

/// Write an interim response (RFC 9110 §15.2), or the one that switches to `protocol`.
pub fn interim(out: &mut Vec<u8>, head: &ResponseHead, protocol: Option<&[u8]>) {
    status_line(out, head);
    lines_of(out, head);
    if let Some(protocol) = protocol {
        line(out, b"connection", b"upgrade");
        foreign_line(out, b"upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, head: &ResponseHead) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    match head.phrase {
        Some(phrase) => out.extend_from_slice(head.fields.slice(phrase)),
        None => {
            let usual = head.status.canonical_reason().unwrap_or_default();
            out.extend_from_slice(usual.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Write one chunk; an empty one would be the last.
pub fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut size = [0; 16];
    let (mut at, mut left) = (size.len(), data.len());
    while left > 0 {
        at -= 1;
        size[at] = DIGITS[left & 15];
        left >>= 4;
    }
    for part in [&size[at..], b"\r\n", data, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Write the last chunk and the trailer section.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Fields>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write(out);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn no_protocol_ends_the_line() {
        let head = RequestHead::described(Method::GET, "/", Fields::of(&[("host", "cart")]));
        for protocol in ["chat", "chat\r\n\r\nGET /", "chat\nx: 1", "chat\0"] {
            let mut out = Vec::new();
            request(&mut out, &head, Some(protocol.as_bytes()));
            assert!(out.ends_with(b"\r\nupgrade: chat\r\n\r\n"), "{protocol:?}");
            out.clear();
            let switched = ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS, Length::None);
            interim(&mut out, &switched, Some(protocol.as_bytes()));
            assert!(out.ends_with(b"\r\nupgrade: chat\r\n\r\n"), "{protocol:?}");
        }
    }

    #[test]
    fn only_what_may_have_a_body_leaves_with_a_length() {
        let asked = Asked {
            head: false,
            old: false,
            persistent: true,
            expects: false,
        };
        for (status, has_length) in [(200, true), (304, true), (204, false), (103, false)] {
            let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap(), Length::None);
            head.fields = Fields::of(&[("Content-Length", "5"), ("X", "1")]);
            let mut out = Vec::new();
            match head.status.is_informational() {
                true => interim(&mut out, &head, None),
                false => {
                    response(&mut out, &head, asked);
                }
            }
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.contains("Content-Length: 5\r\n"), has_length, "{text}");
            assert!(text.ends_with("X: 1\r\n\r\n"), "{text}");
        }
    }
}
