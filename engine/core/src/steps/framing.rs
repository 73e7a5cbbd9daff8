//! A head that two readers could understand differently is refused, so that what the mesh has
//! checked is what the application reads. How bodies are framed is the codec's (`http1/parse.rs`).

use http::{Method, Version};

use crate::error::{Error, Reason};
use crate::fields::Name;
use crate::head::RequestHead;
use crate::http1::parse::{LINE_REST, is_authority};
use crate::http1::{HEADERS_MAX, TARGET_MAX};
use crate::http2::heads;
use crate::path::{Normal, normalize_path};
use crate::steps::headers::{carries_http, is_protocol};
use crate::steps::timeout;

/// Bring the path into normal form, and let Host be the target's where that names one. Refuse a
/// request without a path, more than one host, one that is none (RFC 9112 §3.2, RFC 9113 §8.3.1), a
/// malformed time of gRPC, and of HTTP/2 what HTTP/1.1's parser would refuse.
///
/// # Errors
/// [`Reason::BadRequest`], with what is wrong; of HTTP/2 also [`Reason::HeadTooLarge`] and
/// [`Reason::TargetTooLong`].
pub fn check(head: &mut RequestHead) -> Result<(), Error> {
    let refused = |detail: &str| Err(Error::new(Reason::BadRequest, detail));
    // A tunnel is made by the listener, where there is one; here only a path is routed.
    // A path that begins otherwise would be another form of target in HTTP/1.1 (RFC 9112 §3.2).
    let is_path = match head.target() {
        (b"*", None) => head.method == Method::OPTIONS,
        (path, _) => path.starts_with(b"/"),
    };
    if head.method == Method::CONNECT || !is_path {
        return refused("the request has no path");
    }
    let mut hosts = head.fields.all(Name::Host);
    let host = hosts.next();
    if hosts.next().is_some() {
        return refused("the request has several hosts");
    }
    // An empty one stands for a target without an authority (RFC 9112 §3.2).
    if host.is_some_and(|host| !host.value.is_empty() && !is_authority(host.value)) {
        return refused("the host is none");
    }
    let mut counts_alone = None;
    if let Some(authority) = head.authority() {
        if !is_authority(authority.as_bytes()) {
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
        check_stream(head)?;
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

/// What is particular to a request of HTTP/2: the bounds of a head, which its parser does not know;
/// spaces around a field and more than one length (RFC 9113 §8.2.1 and §8.1.1); a switch to what is
/// no protocol, to more HTTP, or with a length, as what follows a switch has none (RFC 8441 §4).
fn check_stream(head: &RequestHead) -> Result<(), Error> {
    let refused = |detail: &str| Err(Error::new(Reason::BadRequest, detail));
    let (path, query) = head.target();
    let target = path.len() + query.map_or(0, |query| 1 + query.len());
    // Up to the line feed, as the parser counts.
    let line = head.method.as_str().len() + target + "  HTTP/1.1\r".len();
    if target > TARGET_MAX || line > TARGET_MAX + LINE_REST {
        let detail = format!("more than {TARGET_MAX} bytes");
        return Err(Error::new(Reason::TargetTooLong, detail));
    }
    if head.fields.iter().nth(HEADERS_MAX).is_some() {
        let detail = format!("more than {HEADERS_MAX} header lines");
        return Err(Error::new(Reason::HeadTooLarge, detail));
    }
    if head.fields.iter().any(|field| is_padded(field.value)) {
        return refused("a field begins or ends with a space");
    }
    let length = match heads::told_length(&head.fields) {
        Ok(length) => length,
        Err(detail) => return refused(detail),
    };
    match head.protocol() {
        Some(protocol) if !is_protocol(protocol) => refused("the protocol is none"),
        Some(protocol) if carries_http(protocol) => refused("a switch to more HTTP"),
        Some(_) if length.is_some() => refused("a switch has no length"),
        // Read as GET where it came as CONNECT.
        Some(_) if head.method != Method::GET => refused("the method switches no protocol"),
        _ => Ok(()),
    }
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
            (&[("host", "cart:80:90")], true),
            (&[("host", "cart:x")], true),
            (&[("host", "[::1")], true),
            (&[("host", ":80")], true),
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
            (Method::OPTIONS, "*?a", true),
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
        for (lengths, refused) in [
            (&["5"][..], false),
            (&["5", "5"], true),
            (&["5, 5"], true),
            (&["+5"], true),
            (&[""], true),
            (&["9999999999999999999"], false),
            (&["00000000000000000005"], true),
        ] {
            let fields: Vec<_> = lengths.iter().map(|&at| ("content-length", at)).collect();
            assert_eq!(is_refused(Version::HTTP_2, "cart", &fields), refused);
        }
    }

    #[test]
    fn the_bounds_of_a_head_hold_on_a_stream() {
        let check_of = |path: &str, lines: usize| {
            let fields = Fields::of(&vec![("x", "1"); lines]);
            let mut head = RequestHead::described(Method::GET, path, fields);
            head.version = Version::HTTP_2;
            check(&mut head).map_err(|error| error.reason)
        };
        let longest = format!("/{}", "x".repeat(TARGET_MAX - 1));
        assert_eq!(check_of(&longest, HEADERS_MAX), Ok(()));
        let longer = format!("{longest}x");
        assert_eq!(check_of(&longer, 0), Err(Reason::TargetTooLong));
        assert_eq!(check_of("/", HEADERS_MAX + 1), Err(Reason::HeadTooLarge));
    }

    #[test]
    fn a_first_line_is_as_long_on_a_stream_as_a_parser_takes() {
        let target = format!("/{}", "x".repeat(TARGET_MAX - 1));
        for (method, reason) in [(53, None), (54, Some(Reason::TargetTooLong))] {
            let method = Method::from_bytes("X".repeat(method).as_bytes()).expect("a method");
            let fields = Fields::of(&[("host", "cart")]);
            let mut head = RequestHead::described(method, &target, fields);
            let mut line = Vec::new();
            crate::http1::encode::request(&mut line, &head, None);
            let parsed = crate::http1::parse::request(&line).map_err(|error| error.reason);
            assert_eq!(parsed.err(), reason);
            head.version = Version::HTTP_2;
            let checked = check(&mut head).map_err(|error| error.reason);
            assert_eq!(checked.err(), reason);
        }
    }

    #[test]
    fn a_switch_on_a_stream_names_one_protocol_and_no_length() {
        for (protocol, fields, refused) in [
            ("websocket", &[][..], false),
            ("chat/1.0", &[], false),
            ("", &[], true),
            ("x y", &[], true),
            ("x, y", &[], true),
            ("x/1/2", &[], true),
            ("x/", &[], true),
            ("x\r\n\r\nGET / HTTP/1.1", &[], true),
            ("h2c", &[], true),
            ("TLS/1.0", &[], true),
            ("HTTP/2.0", &[], true),
            ("websocket", &[("content-length", "0")], true),
        ] {
            let mut head = RequestHead::described(Method::GET, "/", Fields::of(fields));
            head.version = Version::HTTP_2;
            head.switch = Some(head.fields.store(protocol.as_bytes()));
            assert_eq!(
                check(&mut head).is_err(),
                refused,
                "{protocol:?} {fields:?}"
            );
        }
        let mut head = RequestHead::described(Method::OPTIONS, "*", Fields::default());
        head.version = Version::HTTP_2;
        head.switch = Some(head.fields.store(b"websocket"));
        assert!(check(&mut head).is_err());
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
