//! Heads and bodies of HTTP/1.1: what is refused, what is read, and that it leaves framed as it
//! came, however it is split.

use http::{Method, StatusCode, Version};
use proptest::prelude::*;
use tulle_engine::error::Reason;
use tulle_engine::fields::Fields;
use tulle_engine::head::{Length, RequestHead};
use tulle_engine::http1::body::{Decoder, Step};
use tulle_engine::http1::encode::{self, Asked, Encoder};
use tulle_engine::http1::parse::{self, AskedWith, Framed, Scan};
use tulle_engine::http1::{HEAD_MAX, HEADERS_MAX, TARGET_MAX};

/// The head at the front of `input`, given in pieces; `None`: more is wanted.
fn request(input: &[u8], piece: usize) -> Result<Option<Framed<RequestHead>>, Reason> {
    let mut scan = Scan::default();
    let mut held = 0;
    loop {
        held = input.len().min(held + piece);
        let found = scan.head(&input[..held], parse::request);
        if let Some(framed) = found.map_err(|error| error.reason)? {
            return Ok(Some(framed));
        }
        if held == input.len() {
            return Ok(None);
        }
    }
}

/// What would be answered, and with which framing the body is read.
fn verdict(input: &[u8], piece: usize) -> Result<Length, Reason> {
    let found = request(input, piece)?;
    found.map_or(Err(Reason::ClientGone), |framed| Ok(framed.head.length))
}

fn head(lines: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

const REFUSED: Result<Length, Reason> = Err(Reason::BadRequest);

/// Lines beside Host, and how long the body is then.
const LENGTHS: &[(&str, Result<Length, Reason>)] = &[
    ("", Ok(Length::None)),
    ("Content-Length: 0\r\n", Ok(Length::None)),
    ("content-length:5 \r\n", Ok(Length::Exact(5))),
    (
        "Content-Length: 0000000000000000005\r\n",
        Ok(Length::Exact(5)),
    ),
    ("Transfer-Encoding: ChunKed\r\n", Ok(Length::Unknown)),
    ("Content-Length: 5\r\nContent-Length: 5\r\n", REFUSED),
    ("Content-Length: 5\r\nContent-Length: 6\r\n", REFUSED),
    ("Content-Length: 5, 5\r\n", REFUSED),
    ("Content-Length: +5\r\n", REFUSED),
    ("Content-Length: -5\r\n", REFUSED),
    ("Content-Length: 0x5\r\n", REFUSED),
    ("Content-Length: 5 5\r\n", REFUSED),
    ("Content-Length:\r\n", REFUSED),
    ("Content-Length: 00000000000000000005\r\n", REFUSED),
    ("Content-Length: 18446744073709551616\r\n", REFUSED),
    (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        REFUSED,
    ),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        REFUSED,
    ),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        REFUSED,
    ),
    ("Transfer-Encoding: chunked, chunked\r\n", REFUSED),
    ("Transfer-Encoding: gzip, chunked\r\n", REFUSED),
    ("Transfer-Encoding: chunked, identity\r\n", REFUSED),
    ("Transfer-Encoding: identity\r\n", REFUSED),
    ("Transfer-Encoding: xchunked\r\n", REFUSED),
    ("Transfer-Encoding: \"chunked\"\r\n", REFUSED),
    ("Transfer-Encoding:\u{b}chunked\r\n", REFUSED),
    ("Transfer-Encoding:\r\n", REFUSED),
    ("Transfer-Encoding : chunked\r\n", REFUSED),
    ("Transfer-Encoding: chunked\r\n\t\r\n", REFUSED),
    (" Transfer-Encoding: chunked\r\n", REFUSED),
    ("X: a\r\n Transfer-Encoding: chunked\r\n", REFUSED),
    ("X: a\rTransfer-Encoding: chunked\r\n", REFUSED),
    ("X: a\nTransfer-Encoding: chunked\r\n", REFUSED),
    ("X: a\0b\r\n", REFUSED),
    ("X: a\u{7f}b\r\n", REFUSED),
    ("X\0: a\r\n", REFUSED),
    ("X\r\n", REFUSED),
    (": a\r\n", REFUSED),
    ("X(: a\r\n", REFUSED),
    ("X\u{e9}: a\r\n", REFUSED),
    ("X: \u{e9}\r\n", Ok(Length::None)),
];

#[test]
fn a_message_has_one_length_or_is_refused_at_every_split() {
    for (lines, expected) in LENGTHS {
        let input = head(lines);
        for piece in 1..=input.len() {
            let found = verdict(input.as_bytes(), piece);
            assert_eq!(found, *expected, "{lines:?} by {piece}");
        }
    }
}

/// Path, query and authority.
type Target = (&'static str, Option<&'static str>, Option<&'static str>);

/// First lines, and the target they name; `None`: refused.
const FIRST_LINES: &[(&str, Option<Target>)] = &[
    ("GET / HTTP/1.1", Some(("/", None, None))),
    (
        "GET /a/b?c=d?e HTTP/1.1",
        Some(("/a/b", Some("c=d?e"), None)),
    ),
    ("GET /? HTTP/1.1", Some(("/", Some(""), None))),
    (
        "GET http://b:80/c?d HTTP/1.1",
        Some(("/c", Some("d"), Some("b:80"))),
    ),
    ("GET HTTPS://b HTTP/1.1", Some(("/", None, Some("b")))),
    ("GET http://b?c HTTP/1.1", Some(("/", Some("c"), Some("b")))),
    ("OPTIONS * HTTP/1.1", Some(("*", None, None))),
    ("OPTIONS http://b HTTP/1.1", Some(("*", None, Some("b")))),
    ("CONNECT b:80 HTTP/1.1", Some(("/", None, Some("b:80")))),
    ("GET /\u{e9} HTTP/1.1", Some(("/\u{e9}", None, None))),
    ("GET * HTTP/1.1", None),
    ("GET b:80 HTTP/1.1", None),
    ("GET b/c HTTP/1.1", None),
    ("GET ftp://b/c HTTP/1.1", None),
    ("GET http:///c HTTP/1.1", None),
    ("GET /a#b HTTP/1.1", None),
    ("CONNECT /a HTTP/1.1", None),
    ("CONNECT a@b:80 HTTP/1.1", None),
    ("GET  / HTTP/1.1", None),
    ("GET /  HTTP/1.1", None),
    ("GET\t/ HTTP/1.1", None),
    ("GET / HTTP/1.1 ", None),
    (" GET / HTTP/1.1", None),
    ("GET /a b HTTP/1.1", None),
    ("GET /", None),
    ("GET / HTTP/1.2", None),
    ("GET / HTTP/2.0", None),
    ("GET / http/1.1", None),
    ("GET / HTTP/01.1", None),
    ("G@T / HTTP/1.1", None),
    ("GET /\0 HTTP/1.1", None),
];

#[test]
fn a_first_line_has_one_reading_or_is_refused_at_every_split() {
    for (line, expected) in FIRST_LINES {
        let input = format!("{line}\r\nHost: a\r\n\r\n");
        for piece in 1..=input.len() {
            let found = request(input.as_bytes(), piece);
            let found = found.map(|found| found.expect("it is whole").head);
            let target = found
                .as_ref()
                .map(|head| (head.path(), head.query(), head.authority()));
            assert_eq!(
                target.as_ref().ok(),
                expected.as_ref(),
                "{line:?} by {piece}"
            );
            assert!(matches!(found, Ok(_) | Err(Reason::BadRequest)), "{line:?}");
        }
    }
}

#[test]
fn versions_decide_on_hosts_chunks_and_the_connections_life() {
    for (input, persistent) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(true)),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Ok(true)),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n",
            Ok(false),
        ),
        ("GET / HTTP/1.0\r\n\r\n", Ok(false)),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Ok(true)),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
            Ok(false),
        ),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(true)),
        ("GET / HTTP/1.1\r\n\r\n", Err(Reason::BadRequest)),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(Reason::BadRequest),
        ),
    ] {
        for piece in 1..=input.len() {
            let found = request(input.as_bytes(), piece);
            let found = found.map(|found| found.expect("it is whole").persistent);
            assert_eq!(found, persistent, "{input:?} by {piece}");
        }
    }
}

#[test]
fn heads_are_held_to_their_bounds_and_no_less() {
    let with = |lines: String| head(&lines).into_bytes();
    let filler = HEAD_MAX - head("X: \r\n").len();
    let many = |count: usize| "X: 1\r\n".repeat(count - 1);
    let target = |length: usize| {
        let path = "/".repeat(length);
        format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
    };
    for (input, expected) in [
        (
            with(format!("X: {}\r\n", "a".repeat(filler))),
            Ok(Length::None),
        ),
        (
            with(format!("X: {}\r\n", "a".repeat(filler + 1))),
            Err(Reason::HeadTooLarge),
        ),
        (vec![b'\r'; HEAD_MAX], Err(Reason::TargetTooLong)),
        (
            b"GET / HTTP/1.1\r\nX".repeat(HEAD_MAX / 8),
            Err(Reason::HeadTooLarge),
        ),
        (with(many(HEADERS_MAX)), Ok(Length::None)),
        (with(many(HEADERS_MAX + 1)), Err(Reason::HeadTooLarge)),
        (target(TARGET_MAX), Ok(Length::None)),
        (target(TARGET_MAX + 1), Err(Reason::TargetTooLong)),
        (target(10 * TARGET_MAX), Err(Reason::TargetTooLong)),
    ] {
        let start = String::from_utf8_lossy(&input[..20]).into_owned();
        for piece in [1000, input.len()] {
            assert_eq!(verdict(&input, piece), expected, "{start} by {piece}");
        }
    }
}

const PLAIN: AskedWith = AskedWith {
    head: false,
    switch: false,
};
const BY_HEAD: AskedWith = AskedWith {
    head: true,
    switch: false,
};
const SWITCHING: AskedWith = AskedWith {
    head: false,
    switch: true,
};

/// What was asked, the status and lines that came, and what follows on which connection; `None`:
/// refused.
type Response = (
    AskedWith,
    &'static str,
    &'static str,
    Option<(Length, bool)>,
);
const RESPONSES: &[Response] = &[
    (
        PLAIN,
        "200 OK",
        "Content-Length: 5\r\n",
        Some((Length::Exact(5), true)),
    ),
    (
        PLAIN,
        "200",
        "Content-Length: 5\r\n",
        Some((Length::Exact(5), true)),
    ),
    (
        PLAIN,
        "200 OK",
        "Transfer-Encoding: chunked\r\n",
        Some((Length::Unknown, true)),
    ),
    (PLAIN, "200 OK", "", Some((Length::Unknown, false))),
    (
        PLAIN,
        "200 OK",
        "Content-Length: 5\r\nConnection: close\r\n",
        Some((Length::Exact(5), false)),
    ),
    (
        BY_HEAD,
        "200 OK",
        "Content-Length: 5\r\n",
        Some((Length::None, true)),
    ),
    (BY_HEAD, "200 OK", "", Some((Length::None, true))),
    (PLAIN, "204 No Content", "", Some((Length::None, true))),
    (
        PLAIN,
        "304 Not Modified",
        "Content-Length: 5\r\n",
        Some((Length::None, true)),
    ),
    (PLAIN, "103 Early Hints", "", Some((Length::None, true))),
    (
        SWITCHING,
        "101 Switching Protocols",
        "",
        Some((Length::None, true)),
    ),
    (PLAIN, "101 Switching Protocols", "", None),
    (
        PLAIN,
        "200 OK",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        None,
    ),
    (
        PLAIN,
        "200 OK",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        None,
    ),
    (PLAIN, "200 OK", "Transfer-Encoding: gzip\r\n", None),
    (PLAIN, "20 OK", "", None),
    (PLAIN, "2000 OK", "", None),
    (PLAIN, "200 OK", "X : 1\r\n", None),
    (PLAIN, "200 OK", "X: 1\r\n y\r\n", None),
];

#[test]
fn what_follows_a_response_is_told_by_status_method_and_lines() {
    for (asked, status, lines, expected) in RESPONSES {
        let input = format!("HTTP/1.1 {status}\r\n{lines}\r\n");
        let found = parse::response(input.as_bytes(), *asked).ok().flatten();
        let found = found.map(|framed| (framed.head.length, framed.persistent));
        assert_eq!(found, *expected, "{input:?} {asked:?}");
    }
}

#[test]
fn an_old_client_gets_no_chunks_and_a_head_alone_no_body() {
    let head = |length| tulle_engine::head::ResponseHead::new(StatusCode::OK, length);
    let asked = Asked {
        head: false,
        old: false,
        persistent: true,
        expects: false,
    };
    let old = Asked { old: true, ..asked };
    let by_head = Asked {
        head: true,
        ..asked
    };
    for (length, asked, encoder, kept, line) in [
        (
            Length::Unknown,
            asked,
            Encoder::Chunked,
            true,
            "transfer-encoding: chunked",
        ),
        (
            Length::Unknown,
            old,
            Encoder::UntilClose,
            false,
            "connection: close",
        ),
        (
            Length::Exact(3),
            old,
            Encoder::Exact(3),
            true,
            "connection: keep-alive",
        ),
        (
            Length::None,
            asked,
            Encoder::Exact(0),
            true,
            "content-length: 0",
        ),
        (Length::Unknown, by_head, Encoder::Exact(0), true, "200 OK"),
    ] {
        let mut out = Vec::new();
        let found = encode::response(&mut out, &head(length), asked);
        let text = String::from_utf8(out).expect("text");
        assert_eq!(found, (encoder, kept), "{length:?} {asked:?}");
        assert!(text.contains(line), "{text}");
    }
}

/// Read a body from `input` in pieces, as [`Decoder`] sees it.
fn body(mut decoder: Decoder, input: &[u8], piece: usize) -> Result<Option<Vec<u8>>, &'static str> {
    let (mut data, mut at, mut held) = (Vec::new(), 0, 0);
    loop {
        match decoder.next(&input[at..held])? {
            Step::End => return Ok(Some(data)),
            Step::More if held == input.len() => return Ok(None),
            Step::More => held = input.len().min(held + piece),
            Step::Skip(count) => at += count,
            Step::Data(count) => {
                data.extend_from_slice(&input[at..at + count]);
                decoder.advance(count);
                at += count;
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_in_chunks_is_read_back(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 0..8),
        piece in 1_usize..700,
    ) {
        let mut out = Vec::new();
        for part in &parts {
            encode::chunk(&mut out, part);
        }
        encode::last_chunk(&mut out, None);
        prop_assert_eq!(body(Decoder::chunked(), &out, piece), Ok(Some(parts.concat())));
    }

    #[test]
    fn a_head_is_read_back_as_it_was_written(
        path in "/[a-z0-9/._~-]{0,40}",
        query in prop::option::of("[a-z=&]{0,20}"),
        lines in prop::collection::vec(("x-[a-z]{1,12}", "[!-~]([ -~]{0,20}[!-~])?"), 0..20),
        length in prop::option::of(0_u64..1_000_000),
        piece in 1_usize..200,
    ) {
        let mut fields = Fields::default();
        fields.append(b"host", b"cart");
        for (name, value) in &lines {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        if let Some(length) = length {
            fields.append(b"content-length", length.to_string().as_bytes());
        }
        let target = match &query {
            Some(query) => format!("{path}?{query}"),
            None => path.clone(),
        };
        let mut head = RequestHead::described(Method::PUT, &target, fields);
        head.length = length.map_or(Length::Unknown, Length::Exact);
        let mut out = Vec::new();
        encode::request(&mut out, &head, None);
        let framed = request(&out, piece).expect("a head").expect("it is whole");
        prop_assert_eq!(framed.end, out.len());
        let read = framed.head;
        prop_assert_eq!((read.path(), read.query()), (&*path, query.as_deref()));
        prop_assert_eq!(read.version, Version::HTTP_11);
        let expected = length.map_or(Length::Unknown, |length| match length {
            0 => Length::None,
            length => Length::Exact(length),
        });
        prop_assert_eq!(read.length, expected);
        let mut sent: Vec<_> = head.fields.iter().collect();
        let mut came: Vec<_> = read.fields.iter().collect();
        came.retain(|field| field.name != b"transfer-encoding");
        sent.sort_by_key(|field| (field.name, field.value));
        came.sort_by_key(|field| (field.name, field.value));
        prop_assert_eq!(sent, came);
    }

    #[test]
    fn no_bytes_make_the_reader_panic_and_a_split_changes_nothing(
        input in prop::collection::vec(
            prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b';'), Just(b'0'),
                Just(b'5'), any::<u8>(),
            ],
            0..200,
        ),
        piece in 1_usize..50,
    ) {
        let whole = verdict(&input, input.len().max(1));
        prop_assert_eq!(verdict(&input, piece), whole);
        let chunks = body(Decoder::chunked(), &input, input.len().max(1));
        prop_assert_eq!(body(Decoder::chunked(), &input, piece), chunks);
    }
}
