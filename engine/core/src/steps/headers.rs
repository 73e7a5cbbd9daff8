//! What changes in a head on its way: hop-by-hop fields, filters, rewrites, redirects, Host.

use crate::fields::{Field, Fields, Name, items};
use crate::head::RequestHead;
use crate::plan::filters::{FilterPlan, HeaderChange};
use crate::record::{PathModifier, PathModifierKind, Redirect};

/// Remove what concerns one connection only (RFC 9110 §7.6.1). `te: trailers` stays: it says
/// what the client itself understands.
pub fn strip_hop_by_hop(fields: &mut Fields) {
    if fields.has(Name::Connection) {
        // Of `close` and `keep-alive`, the usual ones, nothing is collected.
        let named: Vec<Vec<u8>> = fields
            .all(Name::Connection)
            .flat_map(Field::items)
            .filter(|item| !is_plain_option(item))
            .map(<[u8]>::to_vec)
            .collect();
        for name in named {
            let known = Name::of(&name);
            if !matches!(known, Name::Host | Name::ContentLength | Name::Te) {
                fields.remove_name(&name);
            }
        }
    }
    let trailers = fields
        .all(Name::Te)
        .flat_map(Field::items)
        .any(|item| item.eq_ignore_ascii_case(b"trailers"));
    fields.remove(Name::HOP_BY_HOP);
    if trailers {
        fields.append(b"te", b"trailers");
    }
}

fn is_plain_option(item: &[u8]) -> bool {
    let is = |option: &[u8]| item.eq_ignore_ascii_case(option);
    item.is_empty() || is(b"close") || is(b"keep-alive") || is(b"upgrade")
}

/// Remove the headers that only a mesh may set.
pub fn strip_own(fields: &mut Fields) {
    fields.remove(&[Name::Own]);
}

/// Note the protocol that the client asks to switch to, if it does so correctly (RFC 9110 §7.8).
///
/// A switch to more HTTP is not heeded, as any server may do: its requests would pass unseen by
/// policies and by the limits of this hop. Nor is one with a body: nobody could tell the body
/// from what follows the switch. On a stream it is a CONNECT, which has a path (RFC 8441 §4).
pub fn note_switch(head: &mut RequestHead) {
    if head.switch.is_none()
        && head.version != http::Version::HTTP_10
        && head.length == crate::head::Length::None
        && let Some(protocol) = head.fields.first_span(Name::Upgrade)
        && head.target().0 != b"*"
    {
        let mut options = head.fields.all(Name::Connection).flat_map(Field::items);
        let asked = options.any(|item| item.eq_ignore_ascii_case(b"upgrade"));
        let heeded = |name: &[u8]| is_protocol(name) && !carries_http(name);
        if asked && items(head.fields.slice(protocol)).all(heeded) {
            head.switch = Some(protocol);
        }
    }
}

/// Whether `text` is a name and perhaps a version, tokens both (RFC 9110 §7.8 and §5.6.2).
pub fn is_protocol(text: &[u8]) -> bool {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_token = |part: &[u8]| !part.is_empty() && part.iter().all(is_of_token);
    let mut parts = text.splitn(2, |&byte| byte == b'/');
    parts.all(is_token)
}

/// Whether HTTP requests follow a switch to `protocol`: `h2c`, `HTTP/2.0`, `TLS/1.0`.
pub fn carries_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next();
    let name = name.unwrap_or_default().trim_ascii();
    [&b"h2"[..], b"h2c", b"h3", b"http", b"https", b"tls"]
        .iter()
        .any(|one| name.eq_ignore_ascii_case(one))
}

/// Apply header changes in order. What frames the message is not theirs to change.
pub fn change(fields: &mut Fields, changes: &[HeaderChange]) {
    for change in changes {
        let (HeaderChange::Set(name, _) | HeaderChange::Add(name, _) | HeaderChange::Remove(name)) =
            change;
        let name = name.as_str().as_bytes();
        if Name::of(name).is_framing() {
            continue;
        }
        match change {
            HeaderChange::Set(_, value) => fields.set(name, value.as_bytes()),
            HeaderChange::Add(_, value) => fields.append(name, value.as_bytes()),
            HeaderChange::Remove(_) => fields.remove_name(name),
        }
    }
}

/// Apply a rule's or backend's request filters. `prefix`: what the match asked for.
pub fn filter_request(head: &mut RequestHead, filters: &FilterPlan, prefix: Option<&str>) {
    change(&mut head.fields, &filters.request);
    let Some(rewrite) = &filters.rewrite else {
        return;
    };
    if let Some(host) = &rewrite.host {
        head.set_host(host.as_bytes());
    }
    if let Some(modifier) = &rewrite.path {
        let path = modified_path(head.path(), modifier, prefix);
        head.set_path(&path);
    }
}

/// The path after a modifier (Gateway API `HTTPPathModifier`).
pub fn modified_path(path: &str, modifier: &PathModifier, prefix: Option<&str>) -> String {
    match (modifier.kind, prefix) {
        (PathModifierKind::Full, _) if modifier.value.is_empty() => "/".to_owned(),
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
    head: &RequestHead,
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
        Some(modifier) => modified_path(head.path(), modifier, prefix),
        None => head.path().to_owned(),
    };
    let port = if port == default_port {
        String::new()
    } else {
        format!(":{port}")
    };
    let query = head
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use http::header::{HeaderName, HeaderValue};

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
        for (new, expected) in [("/xyz", "/xyz"), ("", "/")] {
            let result = modified_path("/foo", &modifier(PathModifierKind::Full, new), None);
            assert_eq!(result, expected);
        }
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let mut fields = Fields::of(&[
            ("Connection", "close, X-Secret, host"),
            ("x-secret", "1"),
            ("Keep-Alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("host", "cart"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut fields);
        assert_eq!(fields.names(), ["host", "te", "x-kept"]);
        assert_eq!(fields.get("te").as_deref(), Some("trailers"));
    }

    #[test]
    fn every_connection_line_counts() {
        let mut fields = Fields::of(&[
            ("connection", "close"),
            ("Connection", "x-secret"),
            ("connection", "x-other , x-secret"),
        ]);
        for name in ["x-secret", "x-other", "x-kept"] {
            fields.append(name.as_bytes(), b"1");
            fields.append(name.as_bytes(), b"2");
        }
        strip_hop_by_hop(&mut fields);
        assert_eq!(fields.names(), ["x-kept", "x-kept"]);
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
            ("Upgrade", "chat/1.0, websocket", true),
            ("Upgrade", "x y", false),
            ("Upgrade", "", false),
        ] {
            let fields = Fields::of(&[("connection", connection), ("upgrade", protocol)]);
            let mut head = RequestHead::described(Method::GET, "/", fields);
            note_switch(&mut head);
            assert_eq!(head.switch.is_some(), heeded, "{connection}: {protocol}");
        }
    }

    #[test]
    fn a_switch_without_a_path_is_not_heeded() {
        for (method, target, heeded) in
            [(Method::OPTIONS, "/", true), (Method::OPTIONS, "*", false)]
        {
            let fields = Fields::of(&[("connection", "upgrade"), ("upgrade", "websocket")]);
            let mut head = RequestHead::described(method, target, fields);
            note_switch(&mut head);
            assert_eq!(head.switch.is_some(), heeded, "{target}");
        }
    }

    #[test]
    fn no_filter_changes_the_framing() {
        let name = |name| HeaderName::from_static(name);
        let value = HeaderValue::from_static("1");
        let mut fields = Fields::of(&[("content-length", "5"), ("x-a", "2")]);
        change(
            &mut fields,
            &[
                HeaderChange::Set(name("content-length"), value.clone()),
                HeaderChange::Add(name("transfer-encoding"), value.clone()),
                HeaderChange::Remove(name("content-length")),
                HeaderChange::Set(name("x-a"), value),
            ],
        );
        assert_eq!(fields.names(), ["content-length", "x-a"]);
        assert_eq!(fields.get("content-length").as_deref(), Some("5"));
        assert_eq!(fields.get("x-a").as_deref(), Some("1"));
    }

    #[test]
    fn locations_keep_what_the_filter_does_not_name() {
        let head = RequestHead::described(Method::GET, "/a?b=c", Fields::default());
        let base = Redirect {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status: 302,
        };
        let at = |redirect: &Redirect| location(redirect, &head, "cart:8080", 8080, None);
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
        let mut fields = Fields::of(&[
            ("x-tulle-reason", "app-unreachable"),
            ("X-Tulle-Peer", "a"),
            ("x_tulle-peer", "a"),
            ("x-forwarded-client-cert", "a"),
            ("x_forwarded_client_cert", "a"),
            ("x.forwarded.client.cert", "a"),
            ("l5d-client-id", "a"),
            ("x-tull", "kept"),
            ("x-forwarded-client-certs", "kept"),
        ]);
        strip_own(&mut fields);
        assert_eq!(fields.names(), ["x-forwarded-client-certs", "x-tull"]);
    }
}
