//! The codec against itself: a split changes nothing, and what is written is read back.

use http::StatusCode;
use tulle_engine::fields::{Fields, Name};
use tulle_engine::head::{Length, RequestHead, ResponseHead};
use tulle_engine::http1::HEADERS_MAX;
use tulle_engine::http1::encode::{self, Asked, Encoder};
use tulle_engine::http1::parse::AskedWith;
use tulle_engine::steps::{framing, headers};

use crate::asked_with;
use crate::ours::{Body, Reader, lines, status, target};

/// The target `split`. The first byte says what was asked, the second how many of the next are
/// the lengths of pieces.
///
/// # Panics
/// The pieces read otherwise than the whole, or what is written is not read back.
pub fn check(input: &[u8]) {
    let [asked, count, rest @ ..] = input else {
        return;
    };
    let (pieces, input) = rest.split_at(usize::from(count % 8).min(rest.len()));
    requests(pieces, input);
    responses(asked_with(*asked), pieces, input);
}

/// What can be compared of a message and its body.
fn shown(first: &str, fields: &Fields, body: &Body, kept: bool) -> String {
    let trailers = body
        .trailers
        .as_ref()
        .map(|fields| lines(fields).collect::<Vec<_>>());
    let (data, whole) = (body.data.escape_ascii(), body.whole);
    let lines: Vec<_> = lines(fields).collect();
    format!("{first} {lines:?} {data} {trailers:?} {whole} {kept}")
}

fn requests(pieces: &[u8], input: &[u8]) {
    let (mut whole, mut split) = (Reader::new(input, &[]), Reader::new(input, pieces));
    loop {
        let (one, other) = (whole.request(), split.request());
        let show = |(head, body, kept): &(RequestHead, Body, bool)| {
            shown(&target(head), &head.fields, body, *kept)
        };
        let (one_shown, other_shown) = (
            one.as_ref().map(|read| read.as_ref().map(show)),
            other.as_ref().map(|read| read.as_ref().map(show)),
        );
        assert_eq!(
            one_shown,
            other_shown,
            "{pieces:?} {}",
            input.escape_ascii()
        );
        assert_eq!(whole.at(), split.at(), "{pieces:?}");
        let Ok(Some((head, body, kept))) = one else {
            return;
        };
        if body.whole {
            request_is_read_back(head, &body, pieces);
        }
        if !kept {
            return;
        }
    }
}

fn responses(asked: AskedWith, pieces: &[u8], input: &[u8]) {
    let (mut whole, mut split) = (Reader::new(input, &[]), Reader::new(input, pieces));
    loop {
        let (one, other) = (whole.response(asked), split.response(asked));
        let show = |(head, body, kept): &(ResponseHead, Body, bool)| {
            shown(&first(head), &head.fields, body, *kept)
        };
        let (one_shown, other_shown) = (
            one.as_ref().map(|read| read.as_ref().map(show)),
            other.as_ref().map(|read| read.as_ref().map(show)),
        );
        assert_eq!(
            one_shown,
            other_shown,
            "{pieces:?} {}",
            input.escape_ascii()
        );
        assert_eq!(whole.at(), split.at(), "{pieces:?}");
        let Ok(Some((head, body, kept))) = one else {
            return;
        };
        let is_interim = head.status.is_informational();
        if body.whole && !is_interim {
            response_is_read_back(asked, head, &body, pieces);
        }
        if asked.switch || !(kept || is_interim) {
            return;
        }
    }
}

fn first(head: &ResponseHead) -> String {
    let phrase = head.phrase.map(|phrase| head.fields.slice(phrase));
    status(head.status, phrase)
}

/// Write a body as `encoder` frames it.
fn write(out: &mut Vec<u8>, encoder: Encoder, body: &Body) {
    match encoder {
        Encoder::Chunked => {
            if !body.data.is_empty() {
                encode::chunk(out, &body.data);
            }
            encode::last_chunk(out, body.trailers.as_ref());
        }
        Encoder::Exact(length) => {
            assert_eq!(length, body.data.len() as u64, "the body's length");
            out.extend_from_slice(&body.data);
        }
        Encoder::UntilClose | Encoder::Raw => out.extend_from_slice(&body.data),
    }
}

fn expected(fields: &Fields, encoder: Encoder) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut lines: Vec<_> = lines(fields).collect();
    if encoder == Encoder::Chunked {
        lines.push((b"transfer-encoding".to_vec(), b"chunked".to_vec()));
    }
    lines
}

/// As a sidecar passes it on.
fn request_is_read_back(mut head: RequestHead, body: &Body, pieces: &[u8]) {
    if framing::check(&mut head).is_err() {
        return;
    }
    headers::strip_hop_by_hop(&mut head.fields);
    if let Some(host) = head.host().map(str::to_owned) {
        head.set_host(host.as_bytes());
    }
    let mut out = Vec::new();
    let encoder = encode::request(&mut out, &head, None);
    // Host and the framing are lines too, which the next reader counts.
    if out.iter().filter(|&&byte| byte == b'\n').count() > HEADERS_MAX {
        return;
    }
    write(&mut out, encoder, body);
    let mut reader = Reader::new(&out, pieces);
    let text = out.escape_ascii();
    let Ok(Some((again, read, kept))) = reader.request() else {
        panic!("what was written is refused: {text}");
    };
    assert!(
        kept && reader.at() == out.len(),
        "it ends elsewhere: {text}"
    );
    let meaning = |head: &RequestHead| {
        let query = head.query().map(str::to_owned);
        (head.method.clone(), head.path().to_owned(), query)
    };
    assert_eq!(meaning(&again), meaning(&head), "{text}");
    let mut lines_again: Vec<_> = lines(&again.fields).collect();
    if !head.fields.has(Name::Host) {
        lines_again.retain(|line| line.0 != b"host");
    }
    assert_eq!(lines_again, expected(&head.fields, encoder), "{text}");
    body_is_read_back(body, &read, encoder);
}

fn response_is_read_back(asked: AskedWith, mut head: ResponseHead, body: &Body, pieces: &[u8]) {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    headers::strip_hop_by_hop(&mut head.fields);
    let asked_of_us = Asked {
        head: asked.head,
        old: false,
        persistent: true,
        expects: false,
    };
    let mut out = Vec::new();
    let (encoder, _) = encode::response(&mut out, &head, asked_of_us);
    if out.iter().filter(|&&byte| byte == b'\n').count() > HEADERS_MAX {
        return;
    }
    write(&mut out, encoder, body);
    let mut reader = Reader::new(&out, pieces);
    let text = out.escape_ascii();
    let Ok(Some((again, read, kept))) = reader.response(asked) else {
        panic!("what was written is refused: {text}");
    };
    assert!(
        kept && reader.at() == out.len(),
        "it ends elsewhere: {text}"
    );
    assert_eq!(first(&again), first(&head), "{text}");
    if head.status == StatusCode::NO_CONTENT {
        head.fields.remove(&[Name::ContentLength]);
    }
    let mut expected = expected(&head.fields, encoder);
    let lines_again: Vec<_> = lines(&again.fields).collect();
    if lines_again.len() > expected.len() {
        assert_eq!(head.length, Length::None, "{text}");
        expected.push((b"content-length".to_vec(), b"0".to_vec()));
    }
    assert_eq!(lines_again, expected, "{text}");
    body_is_read_back(body, &read, encoder);
}

/// Trailers only fit behind chunks, which have come if there are any.
fn body_is_read_back(body: &Body, read: &Body, encoder: Encoder) {
    assert!(read.whole, "the body is whole");
    assert_eq!(read.data, body.data, "the body's data");
    let shown = |body: &Body| {
        let fields = body.trailers.as_ref();
        fields
            .map(|fields| lines(fields).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    assert_eq!(shown(read), shown(body), "{encoder:?}");
}
