//! Between HTTP/2 and HTTP/1.1: what is let in leaves as one message that says the same, with no
//! line, length or framing that it did not come with.

use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};
use tulle_engine::fields::{Fields, Name};
use tulle_engine::head::{Length, RequestHead, ResponseHead};
use tulle_engine::http1::HEADERS_MAX;
use tulle_engine::http1::encode::{self, Asked, Encoder};
use tulle_engine::http1::parse::{self, AskedWith};
use tulle_engine::http2::{heads, websocket};
use tulle_engine::steps::{framing, headers};

use crate::ours::{Reader, lines};
use crate::{Line, asked_with, by_name};

/// Whom a request is for that names no host.
const FALLBACK: &str = "127.0.0.1:80";

/// The target `bridge`. The first byte says which way, what was asked, and whether a stream ends
/// with its head; then what comes: of HTTP/1.1 as it is, of HTTP/2 in parts with a NUL between them
/// (method, authority, path, protocol, or status; names and values; behind an empty name trailers).
///
/// # Panics
/// A message leaves as another.
pub fn check(input: &[u8]) {
    let Some((&kind, input)) = input.split_first() else {
        return;
    };
    let (ended, asked) = (kind & 4 > 0, kind >> 3);
    match kind % 4 {
        0 => {
            if let Some(came) = request_of(input) {
                request_down(&came, ended);
            }
        }
        1 => {
            if let Some((came, trailers)) = response_of(input) {
                let asked = Asked {
                    head: asked & 1 > 0,
                    old: asked & 2 > 0,
                    persistent: asked & 4 > 0,
                    expects: false,
                };
                response_down(&came, &trailers, ended, asked);
            }
        }
        2 => request_up(input),
        _ => response_up(input, asked_with(asked)),
    }
}

/// A request as `h2` hands it over; `None`: its types cannot hold it.
fn request_of(text: &[u8]) -> Option<Request<()>> {
    let mut parts = text.split(|&byte| byte == 0);
    let method = Method::from_bytes(parts.next()?).ok()?;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(Authority::try_from(parts.next()?).ok()?);
    uri.path_and_query = Some(PathAndQuery::try_from(parts.next()?).ok()?);
    let protocol = std::str::from_utf8(parts.next()?).ok()?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    if !protocol.is_empty() {
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    *request.headers_mut() = section(&mut parts);
    Some(request)
}

fn response_of(text: &[u8]) -> Option<(Response<()>, HeaderMap)> {
    let mut parts = text.split(|&byte| byte == 0);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_bytes(parts.next()?).ok()?;
    *response.headers_mut() = section(&mut parts);
    Some((response, section(&mut parts)))
}

/// Names and values up to an empty name.
fn section<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut map = HeaderMap::new();
    while let Some(name) = parts.next().filter(|name| !name.is_empty()) {
        let value = parts.next().unwrap_or_default();
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

/// What the first length of `map` says to `h2`, which takes none for 0 and refuses what is no
/// number.
fn told(map: &HeaderMap) -> Option<u64> {
    let value = map.get(CONTENT_LENGTH)?.as_bytes();
    match value {
        b"" => Some(0),
        value => std::str::from_utf8(value).ok()?.parse().ok(),
    }
}

/// Lines as HTTP/1.1's parser shows them, the `added` ones last.
fn shown(fields: &Fields, added: &[(&str, &str)]) -> Vec<Line> {
    let trimmed = |(name, value): Line| (name, value.trim_ascii().to_vec());
    let added = added
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    by_name(lines(fields).map(trimmed).chain(added))
}

/// A request of HTTP/2 to an upstream of HTTP/1.1.
///
/// # Panics
/// It leaves as another.
pub fn request_down(came: &Request<()>, ended: bool) {
    // Refused by `h2` (RFC 9113 §8.1.1).
    if ended && told(came.headers()) != Some(0) && came.headers().contains_key(CONTENT_LENGTH) {
        return;
    }
    let Ok(mut head) = heads::request(came, ended) else {
        return;
    };
    if framing::check(&mut head).is_err() {
        return;
    }
    headers::note_switch(&mut head);
    headers::strip_hop_by_hop(&mut head.fields);
    let switch = head.protocol().map(<[u8]>::to_vec);
    let mut out = Vec::new();
    encode::request(&mut out, &head, switch.as_deref());
    let text = out.escape_ascii();
    if head.fields.iter().count() + 4 > HEADERS_MAX {
        return;
    }
    let framed = parse::request(&out).expect("it is a head").expect("whole");
    assert_eq!(framed.end, out.len(), "{text}");
    let length = match head.length {
        Length::Exact(0) => Length::None,
        length => length,
    };
    assert_eq!(framed.head.length, length, "{text}");
    assert_eq!(framed.head.method, head.method, "{text}");
    assert_eq!(framed.head.target(), head.target(), "{text}");
    let mut added = Vec::new();
    if !head.fields.has(Name::Host) {
        added.push(("host", head.authority().unwrap_or_default()));
    }
    if length == Length::Unknown {
        added.push(("transfer-encoding", "chunked"));
    }
    let protocol = switch.as_deref().map(std::str::from_utf8);
    if let Some(protocol) = protocol {
        added.extend([
            ("connection", "upgrade"),
            ("upgrade", protocol.expect("text")),
        ]);
    }
    let found = shown(&framed.head.fields, &[]);
    assert_eq!(found, shown(&head.fields, &added), "{text}");
    let mut again = framed.head;
    headers::note_switch(&mut again);
    assert_eq!(again.protocol(), switch.as_deref(), "{text}");
}

/// A response of an HTTP/2 upstream, and its trailers, to a client of HTTP/1.1.
///
/// # Panics
/// It leaves as another.
pub fn response_down(came: &Response<()>, trailers: &HeaderMap, ended: bool, asked: Asked) {
    let status = came.status();
    let is_interim = status.is_informational();
    let bodiless = matches!(status.as_u16(), 204 | 304);
    let told = told(came.headers());
    let refused_by_h2 = ended && told.is_some_and(|told| told > 0) && !asked.head && !bodiless;
    // Nor has HTTP/2 this switch (RFC 9113 §8.6).
    if refused_by_h2 || status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let Ok(mut head) = heads::response(came, ended || is_interim) else {
        return;
    };
    headers::strip_hop_by_hop(&mut head.fields);
    headers::strip_own(&mut head.fields);
    let mut out = Vec::new();
    let (encoder, kept) = match is_interim {
        true => {
            encode::interim(&mut out, &head, None);
            (Encoder::Exact(0), true)
        }
        false => encode::response(&mut out, &head, asked),
    };
    if head.fields.iter().count() + 2 > HEADERS_MAX {
        return;
    }
    let mut added = Vec::new();
    let expected = match told {
        _ if is_interim || asked.head || bodiless => Encoder::Exact(0),
        None if ended => {
            added.push(("content-length", "0"));
            Encoder::Exact(0)
        }
        Some(told) => Encoder::Exact(told),
        None if asked.old => Encoder::UntilClose,
        None => {
            added.push(("transfer-encoding", "chunked"));
            Encoder::Chunked
        }
    };
    assert_eq!(encoder, expected);
    match (kept, asked.old) {
        (false, _) => added.push(("connection", "close")),
        (true, true) if !is_interim => added.push(("connection", "keep-alive")),
        _ => {}
    }
    if is_interim || status == StatusCode::NO_CONTENT {
        head.fields.remove(&[Name::ContentLength]);
    }
    if encoder == Encoder::Chunked {
        let Ok(mut section) = heads::trailers(trailers) else {
            return;
        };
        headers::strip_own(&mut section);
        encode::chunk(&mut out, b"data");
        encode::last_chunk(&mut out, Some(&section));
        is_read_back(&out, asked, (&head, &added), Some((trailers, &section)));
    } else {
        is_read_back(&out, asked, (&head, &added), None);
    }
}

/// What `out` says is `head` with the `added` lines, and the trailers that came as a `section`.
fn is_read_back(
    out: &[u8],
    asked: Asked,
    (head, added): (&ResponseHead, &[(&str, &str)]),
    trailers: Option<(&HeaderMap, &Fields)>,
) {
    let text = out.escape_ascii();
    let mut reader = Reader::new(out, &[]);
    let asked = AskedWith {
        head: asked.head,
        switch: false,
    };
    let framed = reader.head(|input| parse::response(input, asked));
    let framed = framed.expect("it is a head").expect("whole");
    assert_eq!(framed.head.status, head.status, "{text}");
    let found = shown(&framed.head.fields, &[]);
    assert_eq!(found, shown(&head.fields, added), "{text}");
    let closes = added.contains(&("connection", "close"));
    assert_eq!(!framed.persistent, closes, "{text}");
    if let Some((came, section)) = trailers {
        let body = reader.body(framed.body);
        assert!(body.whole && body.data == b"data", "{text}");
        let found = body.trailers.unwrap_or_default();
        assert_eq!(shown(&found, &[]), shown(section, &[]), "{text}");
        assert!(
            found
                .iter()
                .all(|field| came.contains_key(name(field.name)))
        );
    }
    assert_eq!(reader.at(), out.len(), "{text}");
}

fn name(name: &[u8]) -> HeaderName {
    HeaderName::from_bytes(name).expect("a name")
}

/// Whether `map` holds what concerns a connection of HTTP/1.1, or a host (RFC 9113 §8.2.2).
fn is_fit(map: &HeaderMap) -> bool {
    let hop_by_hop = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "host",
    ];
    let te = map.get_all("te").iter().all(|value| value == "trailers");
    te && hop_by_hop.iter().all(|name| !map.contains_key(*name))
}

/// The lines of `map`, but for those of `left_out`.
fn of_map(map: &HeaderMap, left_out: &[&str]) -> Vec<Line> {
    let lines = map
        .iter()
        .map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()));
    by_name(lines.filter(|(name, _)| left_out.iter().all(|out| out.as_bytes() != name)))
}

fn without(fields: &Fields, left_out: &[&str]) -> Vec<Line> {
    let is_kept = |line: &Line| {
        left_out
            .iter()
            .all(|out| !line.0.eq_ignore_ascii_case(out.as_bytes()))
    };
    by_name(lines(fields).filter(is_kept))
}

/// Requests of a client of HTTP/1.1 to an upstream of HTTP/2.
///
/// # Panics
/// One leaves as another.
pub fn request_up(input: &[u8]) {
    let mut reader = Reader::new(input, &[]);
    while let Ok(Some((mut head, body, kept))) = reader.request() {
        if framing::check(&mut head).is_err() {
            return;
        }
        headers::note_switch(&mut head);
        headers::strip_hop_by_hop(&mut head.fields);
        let switch = head.protocol().map(<[u8]>::to_vec);
        one_request_up(&head, switch.as_deref());
        trailers_are_fit(body.trailers.as_ref());
        if !kept {
            return;
        }
    }
}

fn one_request_up(head: &RequestHead, switch: Option<&[u8]>) {
    let fallback = FALLBACK.parse().expect("an address");
    let sent = heads::to_request(head, switch, fallback).expect("it can be said in HTTP/2");
    assert!(is_fit(sent.headers()), "{sent:?}");
    let mut left_out = vec!["host"];
    if switch.is_some() {
        assert!(!sent.headers().contains_key(CONTENT_LENGTH), "{sent:?}");
        assert_eq!(sent.method(), Method::CONNECT);
        left_out.extend(["content-length", "sec-websocket-key"]);
    }
    let expected = without(&head.fields, &left_out);
    assert_eq!(of_map(sent.headers(), &left_out), expected, "{sent:?}");
    // As the next sidecar reads it.
    let ended = head.length == Length::None && switch.is_none();
    let mut again = heads::request(&sent, ended).expect("it is let in");
    framing::check(&mut again).expect("it is let in");
    let method = if switch.is_some() {
        &Method::GET
    } else {
        &head.method
    };
    assert_eq!(again.method, *method, "{sent:?}");
    assert_eq!(again.target(), head.target(), "{sent:?}");
    let host = head.host().filter(|host| !host.is_empty());
    // A target and a Host may differ in case, as names do not.
    let (came, went) = (
        again.authority().unwrap_or_default(),
        host.unwrap_or(FALLBACK),
    );
    assert!(came.eq_ignore_ascii_case(went), "{sent:?}");
    let length = match switch {
        Some(_) => Length::None,
        None => head.length,
    };
    assert_eq!(again.length, length, "{sent:?}");
    let asked = switch.and_then(|asked| tulle_engine::fields::items(asked).next());
    let asked = asked.map(|asked| match websocket::is(asked) {
        true => websocket::NAME.as_bytes(),
        false => asked,
    });
    assert_eq!(again.protocol(), asked, "{sent:?}");
}

/// Responses of an HTTP/1.1 upstream to a client of HTTP/2, up to a final one.
///
/// # Panics
/// One leaves as another.
pub fn response_up(input: &[u8], asked: AskedWith) {
    let mut reader = Reader::new(input, &[]);
    while let Ok(Some((mut head, body, _))) = reader.response(asked) {
        // What follows a switch is not HTTP.
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        headers::strip_hop_by_hop(&mut head.fields);
        headers::strip_own(&mut head.fields);
        let sent = heads::to_response(&head);
        assert!(is_fit(sent.headers()), "{sent:?}");
        assert_eq!(sent.status(), head.status);
        let mut left_out = vec!["host"];
        if head.is_bare() {
            assert!(!sent.headers().contains_key(CONTENT_LENGTH), "{sent:?}");
            left_out.push("content-length");
        }
        let expected = without(&head.fields, &left_out);
        assert_eq!(of_map(sent.headers(), &left_out), expected, "{sent:?}");
        if head.status.is_informational() {
            continue;
        }
        let ended = asked.head || head.length == Length::None;
        let again = heads::response(&sent, ended).expect("it is let in");
        if !ended {
            assert_eq!(again.length, head.length, "{sent:?}");
        }
        trailers_are_fit(body.trailers.as_ref());
        return;
    }
}

fn trailers_are_fit(trailers: Option<&Fields>) {
    let Some(trailers) = trailers else {
        return;
    };
    let sent = heads::header_map(trailers);
    let is_bare = !sent.contains_key(CONTENT_LENGTH) && !sent.contains_key("te");
    assert!(is_fit(&sent) && is_bare, "{sent:?}");
    assert_eq!(of_map(&sent, &[]), without(trailers, &[]), "{sent:?}");
}
