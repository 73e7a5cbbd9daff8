//! The one view of a request's and a response's head, whichever codec read it.

use std::borrow::Cow;

use http::{Method, StatusCode, Version};

use crate::fields::{Fields, Name, Span};
use crate::path::decode_query;

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// There is none.
    None,
    /// As many bytes as its `content-length` says.
    Exact(u64),
    /// As long as it comes: chunks, a closed connection or a stream's end tell.
    Unknown,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The version it came in.
    pub version: Version,
    /// The header fields. `Host` is not among them in HTTP/2, unless the client wrote it.
    pub fields: Fields,
    /// How long the body is.
    pub length: Length,
    /// The protocol to switch to, if the client asks for it correctly.
    pub switch: Option<Span>,
    authority: Option<Span>,
    path: Span,
    query: Option<Span>,
}

impl RequestHead {
    /// A head whose target is `path`, with an optional query and authority, all in `fields`'
    /// text.
    pub fn new(
        method: Method,
        version: Version,
        fields: Fields,
        (authority, path, query): (Option<Span>, Span, Option<Span>),
    ) -> RequestHead {
        RequestHead {
            method,
            version,
            fields,
            length: Length::None,
            switch: None,
            authority,
            path,
            query,
        }
    }

    /// A head of HTTP/1.1 without a body for `target`, a path and its query.
    pub fn described(method: Method, target: &str, mut fields: Fields) -> RequestHead {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(fields.store(query.as_bytes()))),
            None => (target, None),
        };
        let path = fields.store(path.as_bytes());
        RequestHead::new(method, Version::HTTP_11, fields, (None, path, query))
    }

    /// The path, without query; in normal form once `framing` has passed it.
    pub fn path(&self) -> &str {
        self.fields.text(self.path)
    }

    /// Path and query, as they are written.
    pub fn target(&self) -> (&[u8], Option<&[u8]>) {
        let query = self.query.map(|query| self.fields.slice(query));
        (self.fields.slice(self.path), query)
    }

    /// The query, without `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|query| self.fields.text(query))
    }

    /// The authority of the target: in HTTP/1.1 of the absolute form alone.
    pub fn authority(&self) -> Option<&str> {
        self.authority.map(|authority| self.fields.text(authority))
    }

    /// Whom the request is for: the target's authority, or else Host.
    pub fn host(&self) -> Option<&str> {
        self.authority().or_else(|| self.written_host())
    }

    /// The value of Host.
    pub fn written_host(&self) -> Option<&str> {
        self.fields.first_text(Name::Host)
    }

    /// Make `host` the one host of the request.
    pub fn set_host(&mut self, host: &[u8]) {
        self.fields.remove(&[Name::Host]);
        self.fields.append(b"host", host);
        self.authority = None;
    }

    /// Replace the path; the query stays.
    pub fn set_path(&mut self, path: &str) {
        self.path = self.fields.store(path.as_bytes());
    }

    /// The value of a header; several lines of it are joined by commas (RFC 9110 §5.3). `None`
    /// also for a value that is not text. Host is also what HTTP/2 calls `:authority`.
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let written = self.fields.get(name);
        if written.is_none() && name.eq_ignore_ascii_case("host") {
            return self.authority().map(Cow::Borrowed);
        }
        written
    }

    /// The first value of a query parameter, percent-decoded.
    pub fn query_parameter(&self, name: &str) -> Option<String> {
        self.query()?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_query(key) == name).then(|| decode_query(value))
        })
    }

    /// The protocol to switch to.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.switch.map(|switch| self.fields.slice(switch))
    }
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase of HTTP/1.1; `None`: the usual one.
    pub phrase: Option<Span>,
    /// The header fields.
    pub fields: Fields,
    /// How long the body is.
    pub length: Length,
}

impl ResponseHead {
    /// A head without fields for a body of `length`.
    pub fn new(status: StatusCode, length: Length) -> ResponseHead {
        ResponseHead {
            status,
            phrase: None,
            fields: Fields::default(),
            length,
        }
    }

    /// Whether no body may follow and no length be told, as whoever believes it would wait for one
    /// (RFC 9110 §8.6).
    pub fn is_bare(&self) -> bool {
        self.status.is_informational() || self.status == StatusCode::NO_CONTENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_decoded_and_the_first_wins() {
        let target = "/?a=1&b=x%20y+z&b=2&%63=%zz";
        let head = RequestHead::described(Method::GET, target, Fields::default());
        assert_eq!(head.query_parameter("b").as_deref(), Some("x y z"));
        assert_eq!(head.query_parameter("c").as_deref(), Some("%zz"));
        assert_eq!(head.query_parameter("d"), None);
    }

    #[test]
    fn a_host_is_set_once_and_for_all() {
        let fields = Fields::of(&[("Host", "a"), ("x", "1"), ("HOST", "b")]);
        let mut head = RequestHead::described(Method::GET, "/p?q", fields);
        head.set_host(b"c");
        head.set_path("/r");
        assert_eq!(head.host(), Some("c"));
        assert_eq!(head.fields.all(Name::Host).count(), 1);
        assert_eq!((head.path(), head.query()), ("/r", Some("q")));
    }
}
