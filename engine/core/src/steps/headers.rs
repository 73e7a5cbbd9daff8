//! What changes in a head on its way: hop-by-hop fields, filters, rewrites, redirects, Host.

use http::header::{self, Entry, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Uri};

use crate::plan::service::{FilterPlan, HeaderChange};
use crate::record::{PathModifier, PathModifierKind, Redirect};

/// Header names that only sidecars may set, to each other.
const OWN_PREFIX: &[u8] = b"x-tulle-";
/// Where other meshes put the caller's certificate. Ours proves callers by mTLS alone, and an
/// application that still reads it must not get it from the caller.
const CLIENT_CERTIFICATE: &[u8] = b"x-forwarded-client-cert";

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Remove what concerns one connection only (RFC 9110 §7.6.1). `te: trailers` stays: it says
/// what the client itself understands.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Entry::Occupied(lines) = headers.entry(header::CONNECTION) {
        let (_, mut lines) = lines.remove_entry_mult();
        let first = lines.next();
        // Of one line, the usual case, nothing is collected.
        let more: Vec<HeaderValue> = lines.collect();
        for name in first.iter().chain(&more).flat_map(items) {
            if let Ok(name) = HeaderName::from_bytes(name) {
                if !matches!(name, header::HOST | header::CONTENT_LENGTH | header::TE) {
                    headers.remove(name);
                }
            }
        }
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    if headers.contains_key(header::TE) {
        let is_trailers = |item: &[u8]| item.eq_ignore_ascii_case(b"trailers");
        let lines = headers.get_all(header::TE);
        let trailers = lines.iter().any(|line| items(line).any(is_trailers));
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// The items of a list (RFC 9110 §5.6.1).
fn items(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
}

/// Remove the headers that only a mesh may set.
pub fn strip_own(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_own(name)).cloned() {
        headers.remove(name);
    }
}

/// Many applications read `_` in a name as `-` (RFC 3875 §4.1.18), so both are the same here.
fn is_own(name: &HeaderName) -> bool {
    let is = |wanted: &[u8], found: &[u8]| {
        let pairs = wanted.iter().zip(found);
        wanted.len() == found.len()
            && pairs.fold(true, |same, (&wanted, &found)| {
                same && (wanted == found || (wanted == b'-' && found == b'_'))
            })
    };
    let name = name.as_str().as_bytes();
    name.get(..OWN_PREFIX.len())
        .is_some_and(|start| is(OWN_PREFIX, start))
        || is(CLIENT_CERTIFICATE, name)
}

/// The protocol that the client asks to switch to, if it does so correctly (RFC 9110 §7.8).
///
/// A switch to more HTTP is not heeded, as any server may do: its requests would pass unseen by
/// policies and by the limits of this hop.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE)?;
    let mut options = headers.get_all(header::CONNECTION).iter().flat_map(items);
    let asked = options.any(|item| item.eq_ignore_ascii_case(b"upgrade"));
    (asked && !items(protocol).any(carries_http)).then(|| protocol.clone())
}

/// Whether HTTP requests follow a switch to `protocol`: `h2c`, `HTTP/2.0`, `TLS/1.0`.
fn carries_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next();
    let name = name.unwrap_or_default().trim_ascii();
    [&b"h2"[..], b"h2c", b"h3", b"http", b"https", b"tls"]
        .iter()
        .any(|one| name.eq_ignore_ascii_case(one))
}

/// Apply header changes in order.
pub fn change(headers: &mut HeaderMap, changes: &[HeaderChange]) {
    for change in changes {
        match change {
            HeaderChange::Set(name, value) => {
                headers.insert(name.clone(), value.clone());
            }
            HeaderChange::Add(name, value) => {
                headers.append(name.clone(), value.clone());
            }
            HeaderChange::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

/// Apply a rule's or backend's request filters. `prefix`: what the match asked for.
pub fn filter_request(
    uri: &mut Uri,
    headers: &mut HeaderMap,
    filters: &FilterPlan,
    prefix: Option<&str>,
) {
    change(headers, &filters.request);
    let Some(rewrite) = &filters.rewrite else {
        return;
    };
    if let Some(host) = &rewrite.host {
        headers.insert(header::HOST, host.clone());
    }
    if let Some(modifier) = &rewrite.path {
        set_path(uri, &modified_path(uri.path(), modifier, prefix));
    }
}

/// Replace the path of `uri`, keeping its query. A path that is no path leaves it as it was.
pub fn set_path(uri: &mut Uri, path: &str) {
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if let Ok(path_and_query) = PathAndQuery::try_from(text) {
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query = Some(path_and_query);
        *uri = Uri::from_parts(parts).unwrap_or_default();
    }
}

/// The path after a modifier (Gateway API `HTTPPathModifier`).
pub fn modified_path(path: &str, modifier: &PathModifier, prefix: Option<&str>) -> String {
    match (modifier.kind, prefix) {
        (PathModifierKind::Full, _) => modifier.value.clone(),
        (PathModifierKind::Prefix, None) => path.to_owned(),
        (PathModifierKind::Prefix, Some(prefix)) => {
            let rest = path.strip_prefix(prefix).unwrap_or(path);
            let new = modifier.value.trim_end_matches('/');
            match (new, rest) {
                ("", "") => "/".to_owned(),
                (new, rest) if rest.is_empty() || rest.starts_with('/') => format!("{new}{rest}"),
                (new, rest) => format!("{new}/{rest}"),
            }
        }
    }
}

/// The location of a redirect. Scheme and host are the request's where the filter names none;
/// a port is left out when it is the scheme's own (Gateway API, `HTTPRequestRedirectFilter`).
pub fn location(
    redirect: &Redirect,
    uri: &Uri,
    host: &str,
    service_port: u16,
    prefix: Option<&str>,
) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let name = redirect
        .hostname
        .as_deref()
        .unwrap_or_else(|| bare_host(host));
    let default_port = if scheme == "https" { 443 } else { 80 };
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => default_port,
        (None, None) => service_port,
    };
    let path = match &redirect.path {
        Some(modifier) => modified_path(uri.path(), modifier, prefix),
        None => uri.path().to_owned(),
    };
    let port = if port == default_port {
        String::new()
    } else {
        format!(":{port}")
    };
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("{scheme}://{name}{port}{path}{query}")
}

/// A host without its port.
pub fn bare_host(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Bring a request from HTTP/1.1 into the form that HTTP/2 needs (RFC 9113 §8.3).
pub fn to_http2(uri: &mut Uri, headers: &mut HeaderMap, fallback_host: &str) {
    let host = headers.remove(header::HOST);
    let authority = host
        .as_ref()
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
        .or_else(|| uri.authority().cloned())
        .or_else(|| Authority::try_from(fallback_host).ok());
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority;
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Bring a request into the origin form of HTTP/1.1, with a Host (RFC 9112 §3.2).
pub fn to_http1(method: &Method, uri: &mut Uri, headers: &mut HeaderMap) {
    if !headers.contains_key(header::HOST) {
        let host = uri
            .authority()
            .and_then(|a| HeaderValue::from_str(a.as_str()).ok());
        headers.insert(
            header::HOST,
            host.unwrap_or_else(|| HeaderValue::from_static("")),
        );
    }
    if uri.scheme().is_none() && uri.authority().is_none() {
        return;
    }
    let asterisk = method == Method::OPTIONS && uri.path() == "*";
    let path = uri.path_and_query().cloned().filter(|_| !asterisk);
    *uri = path.map_or_else(|| Uri::from_static("*"), Uri::from);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modifier(kind: PathModifierKind, value: &str) -> PathModifier {
        PathModifier {
            kind,
            value: value.to_owned(),
        }
    }

    #[test]
    fn prefixes_are_replaced_as_the_gateway_api_table_says() {
        for (path, prefix, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "", "/v1", "/v1/bar"),
        ] {
            let result =
                modified_path(path, &modifier(PathModifierKind::Prefix, new), Some(prefix));
            assert_eq!(result, expected, "{path} {prefix} {new}");
        }
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret, host"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("host", "cart"),
            ("x-kept", "1"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        strip_hop_by_hop(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "te", "x-kept"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn every_connection_line_counts() {
        let mut headers = HeaderMap::new();
        for line in ["close", "x-secret", "x-other , x-secret"] {
            headers.append("connection", HeaderValue::from_static(line));
        }
        for name in ["x-secret", "x-other", "x-kept"] {
            headers.append(name, HeaderValue::from_static("1"));
            headers.append(name, HeaderValue::from_static("2"));
        }
        strip_hop_by_hop(&mut headers);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-kept"]);
    }

    #[test]
    fn a_switch_to_more_http_is_not_heeded() {
        for (connection, protocol, heeded) in [
            ("Upgrade", "websocket", true),
            ("keep-alive, upgrade", "WebSocket", true),
            ("keep-alive", "websocket", false),
            ("Upgrade, HTTP2-Settings", "h2c", false),
            ("Upgrade", "websocket, H2C", false),
            ("Upgrade", "TLS/1.0, HTTP/1.1", false),
            ("Upgrade", "HTTP/2.0", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("connection", HeaderValue::from_static(connection));
            headers.insert("upgrade", HeaderValue::from_static(protocol));
            assert_eq!(
                upgrade(&headers).is_some(),
                heeded,
                "{connection}: {protocol}"
            );
        }
        assert_eq!(upgrade(&HeaderMap::new()), None);
    }

    #[test]
    fn locations_keep_what_the_filter_does_not_name() {
        let uri = Uri::from_static("/a?b=c");
        let base = Redirect {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status: 302,
        };
        let at = |redirect: &Redirect| location(redirect, &uri, "cart:8080", 8080, None);
        assert_eq!(at(&base), "http://cart:8080/a?b=c");
        let https = Redirect {
            scheme: Some("https".into()),
            ..base.clone()
        };
        assert_eq!(at(&https), "https://cart/a?b=c");
        let path = Some(modifier(PathModifierKind::Full, "/x"));
        let full = Redirect {
            hostname: Some("new.example".into()),
            port: Some(80),
            path,
            ..base
        };
        assert_eq!(at(&full), "http://new.example/x?b=c");
    }

    #[test]
    fn a_caller_cannot_speak_for_the_mesh() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-tulle-reason",
            HeaderValue::from_static("app-unreachable"),
        );
        headers.append("x-tulle-peer", HeaderValue::from_static("a"));
        headers.append("x_tulle-peer", HeaderValue::from_static("a"));
        headers.append("x-forwarded-client-cert", HeaderValue::from_static("a"));
        headers.append("x_forwarded_client_cert", HeaderValue::from_static("a"));
        headers.append("x-tull", HeaderValue::from_static("kept"));
        headers.append("x-forwarded-client-certs", HeaderValue::from_static("kept"));
        strip_own(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["x-forwarded-client-certs", "x-tull"]);
    }
}
