//! Heads of HTTP/2 in our form, and back (RFC 9113 §8).

use std::net::SocketAddr;

use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use super::websocket;
use crate::error::{Error, Reason};
use crate::fields::{Fields, Name, items};
use crate::head::{Length, RequestHead, ResponseHead};
use crate::http1::{HEADERS_MAX, parse};

/// Room that a line takes in the text, to guess how much there will be.
const LINE_GUESS: usize = 48;

/// The fields of `map`.
pub fn fields(map: &HeaderMap) -> Fields {
    let mut fields = Fields::with_room(map.len() * LINE_GUESS, map.len());
    for (name, value) in map {
        fields.append(name.as_str().as_bytes(), value.as_bytes());
    }
    fields
}

/// Make one cookie of those that came in a line each, which packs better: only HTTP/2 knows such
/// crumbs (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut Fields, map: &HeaderMap) {
    let crumbs = map.get_all(http::header::COOKIE);
    let crumbs: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        // An empty one would leave a space at an end, which nobody wrote.
        let crumbs: Vec<&[u8]> = crumbs
            .into_iter()
            .filter(|crumb| !crumb.is_empty())
            .collect();
        fields.set(b"cookie", &crumbs.join(&b"; "[..]));
    }
}

/// The trailer section `map`, without what frames a message: it has no meaning there (RFC 9110
/// §6.5.1).
///
/// # Errors
/// It is longer than HTTP/1.1's parser takes.
pub fn trailers(map: &HeaderMap) -> Result<Fields, &'static str> {
    if map.len() > HEADERS_MAX {
        return Err("the trailer section is too long");
    }
    let mut trailers = fields(map);
    trailers.retain(|field| !field.known.is_framing() && field.known != Name::Host);
    Ok(trailers)
}

/// `fields` as a map, without Host, which is the target's here.
pub fn header_map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.iter().count());
    for field in fields.iter() {
        let name = HeaderName::from_bytes(field.name);
        let value = HeaderValue::from_bytes(field.value);
        if let (Ok(name), Ok(value), false) = (name, value, field.known == Name::Host) {
            map.append(name, value);
        }
    }
    map
}

/// The length that the fields of a message tell; `ended`: no body follows.
fn length(fields: &Fields, ended: bool) -> Length {
    if ended {
        return Length::None;
    }
    let told = fields.first(Name::ContentLength);
    told.and_then(parse::length)
        .map_or(Length::Unknown, Length::Exact)
}

/// A request that came. An extended CONNECT (RFC 8441) is what a request for a switch of
/// protocols is in HTTP/1.1, and is seen as such: GET with a protocol to switch to, and a key for
/// a WebSocket.
///
/// # Errors
/// [`Reason::BadRequest`] for a CONNECT to a host: there is no tunnel through a stream here.
pub fn request<B>(request: &Request<B>, ended: bool) -> Result<RequestHead, Error> {
    let protocol = request.extensions().get::<Protocol>();
    let mut fields = fields(request.headers());
    join_cookies(&mut fields, request.headers());
    let method = match (request.method(), protocol) {
        (&Method::CONNECT, Some(_)) => Method::GET,
        (&Method::CONNECT, None) => {
            return Err(Error::new(Reason::BadRequest, "no tunnel through a stream"));
        }
        (method, _) => method.clone(),
    };
    if protocol.is_some_and(|protocol| websocket::is(protocol.as_str().as_bytes())) {
        fields.set(websocket::KEY.as_bytes(), websocket::key().as_bytes());
    }
    let uri = request.uri();
    let authority = uri.authority();
    let authority = authority.map(|authority| fields.store(authority.as_str().as_bytes()));
    let path = fields.store(uri.path().as_bytes());
    let query = uri.query().map(|query| fields.store(query.as_bytes()));
    let switch = protocol.map(|protocol| fields.store(protocol.as_str().as_bytes()));
    let length = match switch {
        Some(_) => Length::None,
        None => length(&fields, ended),
    };
    let target = (authority, path, query);
    let mut head = RequestHead::new(method, Version::HTTP_2, fields, target);
    (head.length, head.switch) = (length, switch);
    Ok(head)
}

/// `head` as a request to send; `fallback` is whom it is for where it names no host.
///
/// # Errors
/// [`Reason::BadRequest`] for a target that HTTP/2 knows no form for; no other is put in its place.
pub fn to_request(
    head: &RequestHead,
    switch: Option<&[u8]>,
    fallback: SocketAddr,
) -> Result<Request<()>, Error> {
    let refused = |_| Error::new(Reason::BadRequest, "the target is none of HTTP/2");
    let mut request = Request::new(());
    let host = head.written_host().or_else(|| head.authority());
    let authority = match host.filter(|host| !host.is_empty()) {
        Some(host) => Authority::try_from(host),
        None => Authority::try_from(fallback.to_string()),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.map_err(refused)?);
    let path = match head.query() {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", head.path())),
        None => PathAndQuery::try_from(head.path()),
    };
    parts.path_and_query = Some(path.map_err(refused)?);
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = header_map(&head.fields);
    let protocol = switch.and_then(one_protocol);
    if let Some(protocol) = protocol.and_then(|protocol| std::str::from_utf8(protocol).ok()) {
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().remove(websocket::KEY);
        // What follows has none; an HTTP/1.1 client may have said 0.
        request.headers_mut().remove(CONTENT_LENGTH);
        let protocol = match websocket::is(protocol.as_bytes()) {
            true => websocket::NAME,
            false => protocol,
        };
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    Ok(request)
}

/// The protocol that a client of HTTP/1.1 likes best: a stream names one alone.
fn one_protocol(asked: &[u8]) -> Option<&[u8]> {
    items(asked).next()
}

/// The length that a head tells; `None`: it tells none.
///
/// # Errors
/// There is more than one, or it is no number (RFC 9113 §8.1.1).
pub fn told_length(fields: &Fields) -> Result<Option<u64>, &'static str> {
    let mut lengths = fields.all(Name::ContentLength);
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err("there is more than one length");
    }
    let length = parse::length(length.value).ok_or("the length is none")?;
    Ok(Some(length))
}

/// A response that came.
///
/// # Errors
/// [`Reason::BadResponse`] for what HTTP/1.1's parser would refuse.
pub fn response<B>(response: &Response<B>, ended: bool) -> Result<ResponseHead, Error> {
    let bad = |detail| Err(Error::new(Reason::BadResponse, detail));
    if response.headers().len() > HEADERS_MAX {
        return bad("too many header lines");
    }
    let fields = fields(response.headers());
    if let Err(detail) = told_length(&fields) {
        return bad(detail);
    }
    Ok(ResponseHead {
        status: response.status(),
        phrase: None,
        length: length(&fields, ended),
        fields,
    })
}

/// A switch of protocols that was asked for, and how HTTP/1.1 tells that it is made.
#[derive(Debug)]
pub struct Switch {
    protocol: Vec<u8>,
    accept: Option<String>,
}

impl Switch {
    /// That of `head`, if it asks for one.
    pub fn of(head: &RequestHead) -> Option<Switch> {
        let protocol = one_protocol(head.protocol()?)?.to_vec();
        let key = head.fields.get(websocket::KEY);
        let accept = key.filter(|_| websocket::is(&protocol));
        Some(Switch {
            protocol,
            accept: accept.map(|key| websocket::accept(key.as_bytes())),
        })
    }

    /// `head`, a success on a stream, as the 101 that it is.
    pub fn made(&self, mut head: ResponseHead) -> ResponseHead {
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        head.fields.append(b"upgrade", &self.protocol);
        if let Some(accept) = &self.accept {
            head.fields
                .set(websocket::ACCEPT.as_bytes(), accept.as_bytes());
        }
        head
    }
}

/// `head` as a response to send.
pub fn to_response(head: &ResponseHead) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = header_map(&head.fields);
    if head.is_bare() {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const FALLBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

    #[test]
    fn a_stream_asks_for_the_first_of_several_protocols() {
        let mut head = RequestHead::described(Method::GET, "/", Fields::default());
        for (asked, expected) in [("chat/1, websocket", "chat/1"), ("WebSocket", "websocket")] {
            head.switch = Some(head.fields.store(asked.as_bytes()));
            let sent = to_request(&head, head.protocol(), FALLBACK).expect("a request");
            let protocol = sent.extensions().get::<Protocol>().expect("a protocol");
            assert_eq!(protocol.as_str(), expected);
        }
    }

    #[test]
    fn the_bounds_of_a_head_hold_for_what_answers_on_a_stream() {
        for (lines, refused) in [(HEADERS_MAX, false), (HEADERS_MAX + 1, true)] {
            let mut came = Response::new(());
            for _ in 0..lines {
                came.headers_mut()
                    .append("x", HeaderValue::from_static("1"));
            }
            assert_eq!(response(&came, true).is_err(), refused);
            assert_eq!(trailers(came.headers()).is_err(), refused);
        }
    }

    #[test]
    fn a_response_tells_its_length_once() {
        for (lengths, expected) in [
            (&[][..], Some(Length::Unknown)),
            (&["5"], Some(Length::Exact(5))),
            (&["5", "5"], None),
            (&["5, 5"], None),
            (&["5", "6"], None),
            (&[""], None),
            (&["+5"], None),
            (&[" 5"], None),
        ] {
            let mut came = Response::new(());
            for &length in lengths {
                let length = HeaderValue::from_static(length);
                came.headers_mut().append(CONTENT_LENGTH, length);
            }
            let head = response(&came, false);
            assert_eq!(head.ok().map(|head| head.length), expected, "{lengths:?}");
        }
    }

    #[test]
    fn only_what_may_have_a_body_tells_a_length() {
        for (status, has_length) in [(200, true), (304, true), (204, false), (103, false)] {
            let status = StatusCode::from_u16(status).expect("a status");
            let mut head = ResponseHead::new(status, Length::None);
            head.fields = Fields::of(&[("Content-Length", "5")]);
            let sent = to_response(&head);
            assert_eq!(sent.headers().contains_key(CONTENT_LENGTH), has_length);
        }
    }

    #[test]
    fn a_target_is_sent_as_it_is_or_not_at_all() {
        for (path, host, expected) in [
            ("/a?b", "cart:80", Some("http://cart:80/a?b")),
            ("/", "", Some("http://127.0.0.1:80/")),
            ("/a b", "cart", None),
            ("/a\r\nx: 1", "cart", None),
            ("", "cart", None),
            ("/", "ca rt", None),
        ] {
            let fields = Fields::of(&[("host", host)]);
            let head = RequestHead::described(Method::GET, path, fields);
            let sent = to_request(&head, None, FALLBACK);
            let sent = sent.ok().map(|sent| sent.uri().to_string());
            assert_eq!(sent.as_deref(), expected, "{path:?} {host:?}");
        }
    }

    #[test]
    fn a_websocket_is_one_in_any_case() {
        for (protocol, has_key) in [("websocket", true), ("WebSocket", true), ("chat", false)] {
            let mut came = Request::new(());
            *came.method_mut() = Method::CONNECT;
            came.extensions_mut().insert(Protocol::from(protocol));
            let head = request(&came, false).expect("a head");
            assert_eq!(head.fields.get(websocket::KEY).is_some(), has_key);
        }
    }

    #[test]
    fn a_switch_is_sent_without_a_length() {
        let fields = Fields::of(&[("content-length", "0")]);
        let head = RequestHead::described(Method::GET, "/", fields);
        for (switch, has_length) in [(None, true), (Some(&b"websocket"[..]), false)] {
            let sent = to_request(&head, switch, FALLBACK).expect("a request");
            assert_eq!(sent.headers().contains_key(CONTENT_LENGTH), has_length);
        }
    }

    #[test]
    fn crumbs_become_one_cookie() {
        for (crumbs, expected) in [
            (&[][..], &[][..]),
            (&["a=1; b=2"], &["a=1; b=2"]),
            (&["a=1", "b=2", "c=3"], &["a=1; b=2; c=3"]),
            (&["", "a=1", "", "b=2", ""], &["a=1; b=2"]),
            (&["", ""], &[""]),
        ] {
            let mut came = Request::new(());
            for &crumb in crumbs {
                let crumb = HeaderValue::from_static(crumb);
                came.headers_mut().append("cookie", crumb);
            }
            let head = request(&came, true).expect("a head");
            let seen: Vec<&[u8]> = head.fields.iter().map(|field| field.value).collect();
            let expected: Vec<&[u8]> = expected.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(seen, expected);
        }
    }
}
