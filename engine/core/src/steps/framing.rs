//! A head that two readers could understand differently is refused, so that what the mesh has
//! checked is what the application reads. How bodies are framed is the codec's (`http1/parse.rs`).

use http::{Method, Version};

use crate::error::{Error, Reason};
use crate::fields::Name;
use crate::head::RequestHead;
use crate::path::{Normal, normalize_path};
use crate::steps::timeout;

/// Bring the path into normal form, and let Host be the target's where that names one. Refuse a
/// request without a path, more than one host, one that is none, spaces around a field or more than
/// one length in HTTP/2 (RFC 9112 §3.2, RFC 9113 §8.2.1, §8.3.1 and §8.1.1), and a malformed time of
/// gRPC.
///
/// # Errors
/// [`Reason::BadRequest`], with what is wrong.
pub fn check(head: &mut RequestHead) -> Result<(), Error> {
    let refused = |detail: &str| Err(Error::new(Reason::BadRequest, detail));
    // A tunnel is made by the listener, where there is one; here only a path is routed.
    // A path that begins otherwise would be another form of target in HTTP/1.1 (RFC 9112 §3.2).
    let (path, _) = head.target();
    let is_path = path.starts_with(b"/") || (head.method == Method::OPTIONS && path == b"*");
    if head.method == Method::CONNECT || !is_path {
        return refused("the request has no path");
    }
    let mut hosts = head.fields.all(Name::Host);
    let host = hosts.next();
    if hosts.next().is_some() {
        return refused("the request has several hosts");
    }
    if host.is_some_and(|host| !host.value.iter().all(|&byte| is_of_host(byte))) {
        return refused("the host is none");
    }
    let mut counts_alone = None;
    if let Some(authority) = head.authority() {
        if !authority.bytes().all(is_of_host) {
            return refused("the host is none");
        }
        let differs = |host: &[u8]| !authority.as_bytes().eq_ignore_ascii_case(host);
        if host.is_some_and(|host| differs(host.value)) {
            if head.version == Version::HTTP_2 {
                return refused("the request has two hosts");
            }
            counts_alone = Some(authority.to_owned());
        }
    }
    drop(hosts);
    // In the absolute form of HTTP/1.1 the target counts, and becomes the Host (RFC 9112 §3.2.2).
    if let Some(host) = counts_alone {
        head.fields.set(b"host", host.as_bytes());
    }
    if head.version == Version::HTTP_2 {
        if head.fields.iter().any(|field| is_padded(field.value)) {
            return refused("a field begins or ends with a space");
        }
        if head.fields.all(Name::ContentLength).nth(1).is_some() {
            return refused("the request has more than one length");
        }
    }
    // Servers of gRPC remember such a field with its fault, and hold that against later calls of
    // others on the same connection (HPACK's table in gRPC's C core).
    let mut timeouts = head.fields.all(Name::GrpcTimeout);
    if timeouts.any(|field| timeout::parse(field.value).is_none()) {
        return refused("the grpc-timeout is none");
    }
    drop(timeouts);
    match normalize_path(head.path()) {
        Normal::Same => {}
        Normal::Changed(path) => head.set_path(&path),
        Normal::Refused => return refused("the path is not in a safe form"),
    }
    Ok(())
}

/// What a name or address and its port are made of (RFC 3986 §3.2.2); the escapes and
/// sub-delimiters that it also allows are in no name of a service.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']')
}

/// RFC 9113 §8.2.1; HTTP/1.1 takes such spaces away.
fn is_padded(value: &[u8]) -> bool {
    value.trim_ascii().len() < value.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (fields, refused) in [
            (&[("host", "cart.shop:80")][..], false),
            (&[("host", "[::1]:80")], false),
            (&[("host", "")], false),
            (&[], false),
            (&[("host", "cart"), ("Host", "cart")], true),
            (&[("host", "ca rt")], true),
            (&[("host", "cart/x")], true),
            (&[("host", "user@cart")], true),
            (&[("grpc-timeout", "5S")], false),
            (&[("grpc-timeout", "5S"), ("grpc-timeout", "5s")], true),
        ] {
            let mut head = RequestHead::described(Method::GET, "/", Fields::of(fields));
            assert_eq!(check(&mut head).is_err(), refused, "{fields:?}");
        }
    }

    #[test]
    fn only_requests_with_a_path_are_routed() {
        for (method, path, refused) in [
            (Method::GET, "/", false),
            (Method::OPTIONS, "*", false),
            (Method::GET, "*", true),
            (Method::GET, "http://other/x", true),
            (Method::GET, "", true),
            (Method::CONNECT, "", true),
            (Method::CONNECT, "/", true),
            (Method::GET, "/../x", true),
        ] {
            let mut head = RequestHead::described(method.clone(), path, Fields::default());
            assert_eq!(check(&mut head).is_err(), refused, "{method} {path}");
        }
    }

    /// Whether a request to `authority` with these fields is refused.
    fn is_refused(version: Version, authority: &str, fields: &[(&str, &str)]) -> bool {
        let mut fields = Fields::of(fields);
        let authority = fields.store(authority.as_bytes());
        let target = (Some(authority), fields.store(b"/"), None);
        check(&mut RequestHead::new(Method::GET, version, fields, target)).is_err()
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
            let found = is_refused(version, "cart", &[("x-user", value)]);
            assert_eq!(found, refused, "{version:?} {value:?}");
        }
    }

    #[test]
    fn the_target_of_the_absolute_form_is_the_host() {
        for (host, expected) in [("other", "cart:80"), ("Cart:80", "Cart:80")] {
            let mut fields = Fields::of(&[("Host", host)]);
            let authority = fields.store(b"cart:80");
            let target = (Some(authority), fields.store(b"/"), None);
            let mut head = RequestHead::new(Method::GET, Version::HTTP_11, fields, target);
            check(&mut head).expect("a request");
            assert_eq!(head.written_host(), Some(expected));
            assert_eq!(head.host(), Some("cart:80"));
        }
    }

    #[test]
    fn a_length_is_told_once_on_a_stream() {
        for (count, refused) in [(1, false), (2, true)] {
            let fields = vec![("content-length", "5"); count];
            assert_eq!(is_refused(Version::HTTP_2, "cart", &fields), refused);
        }
    }

    #[test]
    fn a_target_and_a_host_that_differ_are_refused_where_both_count() {
        for (version, authority, host, refused) in [
            (Version::HTTP_2, "cart", "Cart", false),
            (Version::HTTP_2, "cart", "other", true),
            (Version::HTTP_11, "cart", "other", false),
            (Version::HTTP_11, "user@cart", "cart", true),
        ] {
            let found = is_refused(version, authority, &[("host", host)]);
            assert_eq!(found, refused, "{authority} {host}");
        }
    }
}
