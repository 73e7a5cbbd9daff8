//! Where the fuzzer begins: what is valid, what smuggles, and a case for every rule.

use std::path::PathBuf;

/// The rule that the case is for, or none: both read it alike. Then the bytes.
pub type Case = (Option<&'static str>, &'static [u8]);

macro_rules! request {
    ($($lines:literal)*) => {
        concat!("POST /a?b HTTP/1.1\r\nHost: a\r\n", $($lines,)*).as_bytes()
    };
}

macro_rules! chunked {
    ($($chunks:literal)*) => {
        request!("Transfer-Encoding: chunked\r\n\r\n" $($chunks)*)
    };
}

/// For the target `request`.
pub const REQUESTS: &[Case] = &[
    (None, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        None,
        b"\r\nGET /a/../b?c=d&e=%20 HTTP/1.1\r\nHost: a:80\r\nX: 1\r\nY:\t2 \r\nx: 3\r\n\r\n",
    ),
    (None, b"GET http://a:80/b?c HTTP/1.1\r\nHost: b\r\n\r\n"),
    (None, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        None,
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    (None, b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (None, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    (None, b"GET / HTTP/1.0\r\n\r\n"),
    (None, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    (
        None,
        b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n",
    ),
    (None, request!("Content-Length: 5\r\n\r\nhello")),
    (None, request!("Content-Length: 0\r\n\r\n")),
    (
        None,
        request!("Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"),
    ),
    (
        None,
        request!("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ),
    (None, chunked!("5\r\nhello\r\n0\r\n\r\n")),
    (
        None,
        chunked!("A;x=\"1\";y\r\n0123456789\r\n1 ; y\r\na\r\n00\r\nX-Sum: 1\r\nY: 2\r\n\r\n"),
    ),
    // Pipelined: a body that looks like a request, and requests behind requests.
    (
        None,
        request!(
            "Content-Length: 34\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n"
        ),
    ),
    (
        None,
        chunked!("0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    // Refused by both, or not whole.
    (None, b"GET /"),
    (None, b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n"),
    (None, b"GET / HTTP/1.1\r\nHost: a\r\n X: 1\r\n\r\n"),
    (
        None,
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
    ),
    (None, b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n"),
    (None, b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\0\r\n\r\n"),
    (None, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (None, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (
        None,
        request!("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ),
    (None, request!("Content-Length: +5\r\n\r\nhello")),
    (
        None,
        request!("Content-Length: 18446744073709551616\r\n\r\n"),
    ),
    (
        None,
        request!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ),
    (
        None,
        request!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        None,
        request!("Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        None,
        request!("Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        None,
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (None, chunked!("-1\r\n")),
    (None, chunked!("0x1\r\na\r\n0\r\n\r\n")),
    (None, chunked!("1\r\nab\r\n0\r\n\r\n")),
    (None, chunked!("1\na\n0\n\n")),
    (None, chunked!("1;\nx\r\na\r\n0\r\n\r\n")),
    (None, chunked!("ffffffffffffffff\r\na\r\n0\r\n\r\n")),
    (None, chunked!("0\r\nX\r\n\r\n")),
    (None, chunked!("0\r\nX: 1\nY: 2\r\n\r\n")),
    (None, b"GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n"),
    (None, b"GET /?\" HTTP/1.1\r\nHost: a\r\n\r\n"),
    (None, b"GET http://a:80:90/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Only hyper takes these.
    (Some("bare_line_feed"), b"GET / HTTP/1.1\nHost: a\n\n"),
    (
        Some("bare_line_feed"),
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\nY: 2\r\n\r\n",
    ),
    (Some("bare_line_feed"), chunked!("0\r\n\nX: 1\r\n\r\n")),
    (
        Some("repeated_length"),
        request!("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ),
    (
        Some("length_beside_coding"),
        request!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        Some("length_beside_coding"),
        request!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ),
    (
        Some("coding_beside_chunked"),
        request!("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        Some("coding_beside_chunked"),
        request!("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ),
    (
        Some("long_length"),
        request!("Content-Length: 00000000000000000005\r\n\r\nhello"),
    ),
    (Some("no_host"), b"GET / HTTP/1.1\r\n\r\n"),
    (Some("target_form"), b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (Some("target_form"), b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (Some("target_form"), b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        Some("target_form"),
        b"GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (Some("chunk_line"), chunked!("1;\x01\r\na\r\n0\r\n\r\n")),
    (
        Some("chunk_line"),
        chunked!("00000000000000001\r\na\r\n0\r\n\r\n"),
    ),
    (
        Some("authority"),
        b"GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (None, b"CONNECT a%2e:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        Some("authority"),
        b"CONNECT user@a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        Some("authority"),
        b"GET http://[::g]:x/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        Some("connection_is_no_text"),
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: \xff, close\r\n\r\n",
    ),
    (
        Some("framing_trailer"),
        chunked!("0\r\nContent-Length: 5\r\nX: 1\r\nHost: b\r\n\r\n"),
    ),
];

macro_rules! response {
    ($($lines:literal)*) => {
        concat!("HTTP/1.1 200 OK\r\n", $($lines,)*).as_bytes()
    };
}

/// What was asked, and a case for the target `response`.
pub const RESPONSES: &[(u8, Case)] = &[
    (0, (None, response!("Content-Length: 5\r\n\r\nhello"))),
    (0, (None, response!("Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n"))),
    (0, (None, response!("Content-Length: 5\r\nConnection: close\r\n\r\nhello"))),
    (0, (None, response!("Content-Length: 5\r\n\r\nhell"))),
    (0, (None, response!("\r\nuntil the end"))),
    (0, (None, response!("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n\r\n"))),
    (0, (None, b"HTTP/1.0 200 OK\r\n\r\nhello")),
    (0, (None, b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")),
    (0, (None, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n")),
    (0, (None, b"HTTP/1.1 204 None here\r\n\r\n")),
    (0, (None, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")),
    (0, (None, b"HTTP/1.1 404 \xff\r\nContent-Length: 0\r\n\r\n")),
    (0, (None, b"HTTP/1.1 999\r\nContent-Length: 0\r\n\r\n")),
    (1, (None, response!("Content-Length: 5\r\n\r\n"))),
    (1, (None, response!("Transfer-Encoding: chunked\r\n\r\n"))),
    (2, (None, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nbytes")),
    (2, (None, response!("Content-Length: 0\r\n\r\n"))),
    (0, (None, response!("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"))),
    (0, (None, response!("X : 1\r\n\r\n"))),
    (0, (None, response!("X: 1\r\n folded\r\n\r\n"))),
    (0, (None, b"HTTP/1.1 20 OK\r\n\r\n")),
    (0, (None, b"HTTP/1.1 2000 OK\r\n\r\n")),
    (0, (None, b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    (0, (Some("bare_line_feed"), b"HTTP/1.1 200 OK\nContent-Length: 0\n\n")),
    (0, (Some("repeated_length"), response!("Content-Length: 5, 5\r\n\r\nhello"))),
    (0, (Some("length_beside_coding"), response!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))),
    (0, (Some("coding_beside_chunked"), response!("Transfer-Encoding: gzip\r\n\r\nhello"))),
    (0, (Some("long_length"), response!("Content-Length: 00000000000000000005\r\n\r\nhello"))),
    (0, (Some("unasked_switch"), b"HTTP/1.1 101 Switching Protocols\r\n\r\n")),
    (1, (Some("framing_of_nothing"), response!("Content-Length: x\r\n\r\n"))),
    (0, (Some("framing_of_nothing"), b"HTTP/1.0 204 None\r\nTransfer-Encoding: chunked\r\n\r\n")),
    (0, (Some("chunk_line"), response!("Transfer-Encoding: chunked\r\n\r\n1;\x01\r\na\r\n0\r\n\r\n"))),
    (0, (Some("framing_trailer"), response!("Transfer-Encoding: chunked\r\n\r\n0\r\nTE: x\r\n\r\n"))),
    (0, (Some("connection_is_no_text"), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: \xff, close\r\n\r\n")),
];

/// Cases for the target `bridge` that come on a stream: the first byte, and the parts between bars.
const STREAMS: &[(u8, &str)] = &[
    (4, "GET|cart:80|/a?b||cookie|a=1|cookie|b=2|te|trailers"),
    (0, "POST|cart|/||content-length|5|host|cart"),
    (0, "POST|cart|/||content-length|"),
    (4, "OPTIONS|cart|*|"),
    (0, "CONNECT|cart|/chat|WebSocket|sec-websocket-version|13"),
    (1, "200|content-length|5"),
    (1, "200|content-length|"),
    (1, "200|content-length|5|content-length|6"),
    (33, "200|x|y||grpc-status|0|content-length|5|host|cart"),
    (9, "200|content-length|5"),
    (17, "200|x|y"),
    (5, "204|content-length|5"),
    (1, "304|content-length|5"),
    (5, "103|link|a|content-length|5"),
    (1, "101|upgrade|websocket"),
];

/// The name of each target, and its seeds.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    const HALVES: &[u8] = &[3, 1, 7, 64];
    let whole = |case: &Case| case.1.to_vec();
    let asked = |(asked, case): &(u8, Case)| [&[*asked], case.1].concat();
    let split = |asked: u8, case: &Case| [&[asked, HALVES.len() as u8], HALVES, case.1].concat();
    let requests = REQUESTS.iter().map(|case| split(0, case));
    let responses = RESPONSES.iter().map(|(asked, case)| split(*asked, case));
    let bridged = |kind: u8, case: &Case| [&[kind], case.1].concat();
    let up = RESPONSES
        .iter()
        .map(|(asked, case)| bridged(asked << 3 | 3, case));
    let up = REQUESTS.iter().map(|case| bridged(2, case)).chain(up);
    let down = STREAMS
        .iter()
        .map(|(kind, parts)| [&[*kind], parts.replace('|', "\0").as_bytes()].concat());
    vec![
        ("bridge", down.chain(up).collect()),
        ("request", REQUESTS.iter().map(whole).collect()),
        ("response", RESPONSES.iter().map(asked).collect()),
        ("split", requests.chain(responses).collect()),
    ]
}

/// Write the seeds of `target` into the folder that the environment names as `FUZZ_SEEDS`, if any.
///
/// # Panics
/// It cannot be written to.
pub fn write(target: &str) {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS").map(PathBuf::from) else {
        return;
    };
    let seeds = all().into_iter().filter(|(name, _)| *name == target);
    for (number, seed) in seeds.flat_map(|(_, seeds)| seeds).enumerate() {
        std::fs::write(folder.join(format!("seed-{number:03}")), seed).expect("a seed");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rules::{self, Rule};

    /// What is left of `rules` without those that a case is for.
    fn without_case(
        rules: &[Rule],
        cases: impl Iterator<Item = Option<&'static str>>,
    ) -> Vec<&'static str> {
        let cases: BTreeSet<_> = cases.flatten().collect();
        let names = rules.iter().map(|(name, _)| *name);
        names.filter(|name| !cases.contains(name)).collect()
    }

    /// A case that was explained otherwise, and how.
    fn differs((rule, input): &Case, found: Result<Option<&str>, String>) -> Option<String> {
        let input = input.escape_ascii();
        (found != Ok(*rule)).then(|| format!("{input}: {rule:?} is {found:?}"))
    }

    #[test]
    fn requests_are_read_as_hyper_reads_them_but_for_the_rules() {
        let different = REQUESTS
            .iter()
            .filter_map(|case| differs(case, crate::requests(case.1)));
        assert_eq!(different.collect::<Vec<_>>(), [""; 0]);
        let cases = REQUESTS.iter().map(|case| case.0);
        assert_eq!(without_case(rules::REQUEST, cases), [""; 0]);
    }

    #[test]
    fn responses_are_read_as_hyper_reads_them_but_for_the_rules() {
        let different = RESPONSES.iter().filter_map(|(asked, case)| {
            let asked = crate::asked_with(*asked);
            differs(case, crate::responses(asked, case.1))
        });
        assert_eq!(different.collect::<Vec<_>>(), [""; 0]);
        let cases = RESPONSES.iter().map(|(_, case)| case.0);
        assert_eq!(without_case(rules::RESPONSE, cases), [""; 0]);
    }

    #[test]
    fn seeds_say_the_same_in_the_other_version() {
        let seeds = all().into_iter().filter(|(target, _)| *target == "bridge");
        for seed in seeds.flat_map(|(_, seeds)| seeds) {
            crate::bridge::check(&seed);
        }
    }

    #[test]
    fn seeds_read_alike_in_pieces_and_are_read_back() {
        let seeds = all().into_iter().filter(|(target, _)| *target == "split");
        for seed in seeds.flat_map(|(_, seeds)| seeds) {
            crate::split::check(&seed);
        }
    }
}
