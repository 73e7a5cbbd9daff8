//! Heads of HTTP/2 in our form, and back (RFC 9113 §8).

use h2::ext::Protocol;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use super::websocket;
use crate::error::{Error, Reason};
use crate::fields::{Fields, Name, items};
use crate::head::{Length, RequestHead, ResponseHead};
use crate::http1::parse;

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
        fields.set(b"cookie", &crumbs.join(&b"; "[..]));
    }
}

/// The trailer section `map`, without what frames a message: it has no meaning there (RFC 9110
/// §6.5.1).
pub fn trailers(map: &HeaderMap) -> Fields {
    let mut trailers = fields(map);
    trailers.retain(|field| !field.known.is_framing() && field.known != Name::Host);
    trailers
}

/// `fields` as a map; what HTTP/2 knows no form for is left out.
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
    if protocol.is_some_and(|protocol| protocol.as_str().as_bytes() == websocket::PROTOCOL) {
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
pub fn to_request(head: &RequestHead, switch: Option<&[u8]>, fallback: &str) -> Request<()> {
    let mut request = Request::new(());
    let authority = head.written_host().or_else(|| head.authority());
    let authority = authority.and_then(|host| Authority::try_from(host).ok());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority.or_else(|| Authority::try_from(fallback).ok());
    let path = match head.query() {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", head.path())),
        None => PathAndQuery::try_from(head.path()),
    };
    parts.path_and_query = Some(path.unwrap_or_else(|_| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = header_map(&head.fields);
    let protocol = switch.and_then(one_protocol);
    if let Some(protocol) = protocol.and_then(|protocol| std::str::from_utf8(protocol).ok()) {
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().remove(websocket::KEY);
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    request
}

/// The protocol that a client of HTTP/1.1 likes best: a stream names one alone.
fn one_protocol(asked: &[u8]) -> Option<&[u8]> {
    items(asked).next()
}

/// A response that came.
pub fn response<B>(response: &Response<B>, ended: bool) -> ResponseHead {
    let fields = fields(response.headers());
    ResponseHead {
        status: response.status(),
        phrase: None,
        length: length(&fields, ended),
        fields,
    }
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
        let accept = key.filter(|_| protocol.eq_ignore_ascii_case(websocket::PROTOCOL));
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
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_asks_for_the_first_of_several_protocols() {
        let mut head = RequestHead::described(Method::GET, "/", Fields::default());
        head.switch = Some(head.fields.store(b"websocket, chat"));
        let sent = to_request(&head, head.protocol(), "cart");
        let protocol = sent.extensions().get::<Protocol>().expect("a protocol");
        assert_eq!(protocol.as_str(), "websocket");
    }

    #[test]
    fn crumbs_become_one_cookie() {
        for (crumbs, expected) in [
            (&[][..], &[][..]),
            (&["a=1; b=2"], &["a=1; b=2"]),
            (&["a=1", "b=2", "c=3"], &["a=1; b=2; c=3"]),
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
