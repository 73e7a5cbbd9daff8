//! A head that two readers could understand differently is refused, so that what the mesh has
//! checked is what the application reads.

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Version};

use crate::error::{Error, Reason};

/// Refuse more than one host, one that is none, spaces around a field of HTTP/2, and a transfer coding other than chunked
/// (RFC 9112 §3.2 and §6.1, RFC 9113 §8.3.1). Of a length beside chunks nothing is left here:
/// hyper drops it and closes after the answer (RFC 9112 §6.3).
///
/// # Errors
/// [`Reason::BadRequest`], with what is wrong.
pub fn check<B>(request: &Request<B>) -> Result<(), Error> {
    let (headers, authority) = (request.headers(), request.uri().authority());
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    let refused = |detail: &str| Err(Error::new(Reason::BadRequest, detail));
    // A tunnel is made by the listener, where there is one; here only a path is routed.
    if request.method() == Method::CONNECT || request.uri().path().is_empty() {
        return refused("the request has no path");
    }
    if hosts.next().is_some() {
        return refused("the request has several hosts");
    }
    if host.is_some_and(|host| !host.as_bytes().iter().all(|&byte| is_of_host(byte))) {
        return refused("the host is none");
    }
    if let Some(authority) = authority {
        if !authority.as_str().bytes().all(is_of_host) {
            return refused("the host is none");
        }
        // In the absolute form of HTTP/1.1 the target counts alone (RFC 9112 §3.2.2).
        let differs = |host: &[u8]| !authority.as_str().as_bytes().eq_ignore_ascii_case(host);
        if request.version() == Version::HTTP_2 && host.is_some_and(|host| differs(host.as_bytes()))
        {
            return refused("the request has two hosts");
        }
    }
    if request.version() == Version::HTTP_2 && headers.values().any(is_padded) {
        return refused("a field begins or ends with a space");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return refused("the transfer coding is not chunked");
        }
    }
    Ok(())
}

/// What a name or address and its port are made of (RFC 3986 §3.2.2); the escapes and
/// sub-delimiters that it also allows are in no name of a service.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']')
}

/// RFC 9113 §8.2.1; HTTP/1.1 takes such spaces away.
fn is_padded(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.trim_ascii().len() < value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(version: Version, uri: &str, fields: &[(&'static str, &'static str)]) -> bool {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        check(&request.body(()).expect("a request")).is_err()
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        const TE: &str = "transfer-encoding";
        for (fields, refused) in [
            (&[("host", "cart.shop:80")][..], false),
            (&[("host", "[::1]:80")], false),
            (&[("host", "")], false),
            (&[], false),
            (&[("host", "cart"), ("host", "cart")], true),
            (&[("host", "ca rt")], true),
            (&[("host", "cart/x")], true),
            (&[("host", "user@cart")], true),
            (&[(TE, "Chunked")], false),
            (&[(TE, "gzip, chunked")], true),
            (&[(TE, "chunked"), (TE, "chunked")], true),
        ] {
            assert_eq!(
                is_refused(Version::HTTP_11, "/", fields),
                refused,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn spaces_around_a_field_are_refused_where_they_are_not_taken_away() {
        for (version, value, refused) in [
            (Version::HTTP_2, "a b", false),
            (Version::HTTP_2, "", false),
            (Version::HTTP_2, " a", true),
            (Version::HTTP_2, "a\t", true),
            (Version::HTTP_11, " a", false),
        ] {
            let found = is_refused(version, "http://cart/", &[("x-user", value)]);
            assert_eq!(found, refused, "{version:?} {value:?}");
        }
    }

    #[test]
    fn only_requests_with_a_path_are_routed() {
        for (method, uri, refused) in [
            ("GET", "/", false),
            ("OPTIONS", "*", false),
            ("GET", "http://cart", false),
            ("GET", "cart", true),
            ("CONNECT", "cart:80", true),
            ("CONNECT", "/", true),
        ] {
            let request = Request::builder().method(method).uri(uri).body(());
            let found = check(&request.expect("a request")).is_err();
            assert_eq!(found, refused, "{method} {uri}");
        }
    }

    #[test]
    fn a_target_and_a_host_that_differ_are_refused_where_both_count() {
        for (version, uri, host, refused) in [
            (Version::HTTP_2, "http://cart/", "Cart", false),
            (Version::HTTP_2, "http://cart/", "other", true),
            (Version::HTTP_11, "http://cart/", "other", false),
            (Version::HTTP_11, "http://user@cart/", "cart", true),
        ] {
            assert_eq!(
                is_refused(version, uri, &[("host", host)]),
                refused,
                "{uri} {host}"
            );
        }
    }
}
