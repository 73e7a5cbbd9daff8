//! Heads and trailers of either version through the engine to the other.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use proptest::prelude::*;
use proptest::strategy::Strategy;
use tulle_engine::http1::encode::Asked;
use tulle_engine::http1::parse::AskedWith;
use tulle_fuzz::bridge;

/// Names that mean something to one parser or the other, and one that does not.
const FIELD: &str = "content-length|transfer-encoding|connection|upgrade|keep-alive|host|te|cookie|\
                     expect|sec-websocket-key|x-tulle-peer|x-a";

/// Lines, of which the types of a stream's head hold what HTTP/2 allows.
fn lines() -> impl Strategy<Value = Vec<(String, String)>> {
    let value = prop_oneof![
        "[0-9,+ ]{0,21}",
        "\\PC{0,9}",
        "chunked|close|x-a|trailers|upgrade|websocket|chat/1, WebSocket"
    ];
    prop::collection::vec((FIELD, value), 0..6)
}

fn map(lines: &[(String, String)]) -> HeaderMap {
    let line = |(name, value): &(String, String)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    };
    lines
        .iter()
        .filter_map(line)
        .collect::<Vec<_>>()
        .into_iter()
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

/// The same as HTTP/1.1 writes them.
fn text(lines: &[(String, String)]) -> String {
    let line = |(name, value): &(String, String)| format!("{name}: {value}\r\n");
    lines.iter().map(line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_streams_request_leaves_as_one_head(
        method in "GET|POST|CONNECT|OPTIONS|[A-Z!#$%&'*+.^_`|~-]{1,9}",
        target in prop_oneof!["/[a-z?/%.\u{7f}\"<>`]{0,9}", "\\*|/\\PC{0,9}"],
        protocol in prop::option::of(
            prop_oneof!["websocket|h2c|TLS/1.0|WebSocket", "[a-c \r\n:/,]{0,9}", "\\PC{0,9}"]
        ),
        lines in lines(),
        ended in any::<bool>(),
    ) {
        let built = Request::builder().method(method.as_str()).uri(format!("http://cart{target}"));
        let Ok(mut came) = built.body(()) else { return Ok(()) };
        *came.headers_mut() = map(&lines);
        if let Some(protocol) = &protocol {
            came.extensions_mut().insert(h2::ext::Protocol::from(protocol.as_str()));
        }
        bridge::request_down(&came, ended);
    }

    #[test]
    fn a_streams_response_leaves_as_one_head_and_its_trailers(
        status in prop_oneof![Just(200), Just(204), Just(304), Just(103), 100..1000_u16],
        head_lines in lines(),
        trailers in lines(),
        (ended, head, old, persistent) in any::<(bool, bool, bool, bool)>(),
    ) {
        let mut came = Response::new(());
        *came.status_mut() = StatusCode::from_u16(status).expect("a status");
        *came.headers_mut() = map(&head_lines);
        let asked = Asked { head, old, persistent, expects: false };
        bridge::response_down(&came, &map(&trailers), ended, asked);
    }

    #[test]
    fn a_request_goes_on_a_stream_as_it_came(
        line in "(GET|POST|OPTIONS) (/[a-z?/%.\"|{}^`<>é]{0,9}|\\*|http://cart(:80)?/a\\?b)",
        host in "|cart|cart:80|cart:80:90|\\[::1\\]:80|\\[::1|a_b|é",
        lines in lines(),
        end in "\r\n|Content-Length: 0\r\n\r\n|Content-Length: 1\r\n\r\na",
        trailers in prop::option::of(lines()),
    ) {
        let end = match trailers {
            Some(lines) => format!("Transfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n", text(&lines)),
            None => end,
        };
        let input = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{}{end}", text(&lines));
        bridge::request_up(input.as_bytes());
    }

    #[test]
    fn a_response_goes_on_a_stream_as_it_came(
        status in prop_oneof![Just(200), Just(204), Just(304), Just(103), 100..1000_u16],
        lines in lines(),
        end in "\r\n|Content-Length: 0\r\n\r\n|Content-Length: 1\r\n\r\na",
        trailers in prop::option::of(lines()),
        (head, switch) in any::<(bool, bool)>(),
    ) {
        let end = match trailers {
            Some(lines) => format!("Transfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n", text(&lines)),
            None => end,
        };
        let input = format!("HTTP/1.1 {status} X\r\n{}{end}", text(&lines));
        bridge::response_up(input.as_bytes(), AskedWith { head, switch });
    }
}
