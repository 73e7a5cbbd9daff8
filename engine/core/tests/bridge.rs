//! From HTTP/2 to HTTP/1.1: what is let in leaves as one head that says the same.

use proptest::prelude::*;
use tulle_engine::head::Length;
use tulle_engine::http1::{encode, parse};
use tulle_engine::http2::heads;
use tulle_engine::steps::{framing, headers};

/// Names that mean something to one parser or the other, and one that does not.
const FIELD: &str = "content-length|transfer-encoding|connection|upgrade|host|te|cookie|x-a";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_a_stream_brings_leaves_as_one_head(
        method in "GET|POST|CONNECT|[A-Z!#$%&'*+.^_`|~-]{1,9}",
        target in prop_oneof!["/[a-z?/%.]{0,9}", "\\*|/\\PC{0,9}"],
        protocol in prop::option::of(prop_oneof!["websocket|h2c|TLS/1.0", "[a-c \r\n:/,]{0,9}", "\\PC{0,9}"]),
        lines in prop::collection::vec((FIELD, prop_oneof!["[0-9,+ ]{0,21}", "\\PC{0,9}", "chunked|close|x-a|trailers"]), 0..6),
        ended in any::<bool>(),
    ) {
        let built = http::Request::builder()
            .method(method.as_str())
            .uri(format!("http://cart{target}"));
        let built = lines.iter().fold(built, |built, (name, value)| built.header(name, value));
        // What the types of a stream's head cannot hold does not come by it.
        let Ok(mut came) = built.body(()) else { return Ok(()) };
        if let Some(protocol) = &protocol {
            came.extensions_mut().insert(h2::ext::Protocol::from(protocol.as_str()));
        }
        // Refused by `h2` (RFC 9113 §8.1.1).
        prop_assume!(!ended || !came.headers().contains_key("content-length"));
        let Ok(mut head) = heads::request(&came, ended) else { return Ok(()) };
        if framing::check(&mut head).is_err() {
            return Ok(());
        }
        headers::note_switch(&mut head);
        headers::strip_hop_by_hop(&mut head.fields);
        let switch = head.protocol().map(<[u8]>::to_vec);
        let mut out = Vec::new();
        encode::request(&mut out, &head, switch.as_deref());
        let framed = parse::request(&out).expect("it is a head").expect("it is whole");
        prop_assert_eq!(framed.end, out.len());
        let length = match head.length {
            Length::Exact(0) => Length::None,
            length => length,
        };
        prop_assert_eq!(framed.head.length, length);
        prop_assert_eq!(&framed.head.method, &head.method);
        prop_assert_eq!(framed.head.target(), head.target());
        let mut again = framed.head;
        headers::note_switch(&mut again);
        prop_assert_eq!(again.protocol(), switch.as_deref());
    }
}
