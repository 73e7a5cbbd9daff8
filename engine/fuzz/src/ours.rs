//! The engine's reader over bytes that come whole or in pieces.

use http::{Method, StatusCode};
use tulle_engine::error::{Error, Reason};
use tulle_engine::fields::Fields;
use tulle_engine::head::{RequestHead, ResponseHead};
use tulle_engine::http1::body::{Decoder, Step};
use tulle_engine::http1::parse::{self, AskedWith, Framed, Scan};

use crate::{Line, Message, Reply, by_name};

/// A body that was read, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// Its data.
    pub data: Vec<u8>,
    /// The trailer section.
    pub trailers: Option<Fields>,
    /// It was read to its end.
    pub whole: bool,
}

/// Reads as a connection does: what was read once stays, and more comes when it is asked for.
#[derive(Debug)]
pub struct Reader<'a> {
    input: &'a [u8],
    /// How long the pieces are, over and over; empty: all comes at once.
    pieces: &'a [u8],
    reads: usize,
    at: usize,
    held: usize,
}

impl<'a> Reader<'a> {
    /// Of `input`, in pieces of so many bytes.
    pub fn new(input: &'a [u8], pieces: &'a [u8]) -> Reader<'a> {
        Reader {
            input,
            pieces,
            reads: 0,
            at: 0,
            held: 0,
        }
    }

    /// Where the next message begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Read once more; `false`: the peer has ended.
    fn more(&mut self) -> bool {
        let room = self.input.len() - self.held;
        let piece = match self.pieces {
            [] => room,
            pieces => usize::from(pieces[self.reads % pieces.len()]).max(1),
        };
        self.reads += 1;
        self.held += piece.min(room);
        room > 0
    }

    /// The next head; `None`: the peer ended before it was whole.
    ///
    /// # Errors
    /// What `parse` or the scan refuse.
    pub fn head<H>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<Framed<H>>, Error>,
    ) -> Result<Option<Framed<H>>, Error> {
        let mut scan = Scan::default();
        loop {
            let front = &self.input[self.at..self.held];
            if let Some(framed) = scan.head(front, &parse)? {
                self.at += framed.end;
                return Ok(Some(framed));
            }
            if !self.more() {
                return Ok(None);
            }
        }
    }

    /// The body that `decoder` finds.
    pub fn body(&mut self, mut decoder: Decoder) -> Body {
        let mut body = Body::default();
        loop {
            match decoder.next(&self.input[self.at..self.held]) {
                Err(_) => return body,
                Ok(Step::Skip(count)) => self.at += count,
                Ok(Step::Data(count)) => {
                    let data = &self.input[self.at..self.at + count];
                    body.data.extend_from_slice(data);
                    decoder.advance(count);
                    self.at += count;
                }
                Ok(Step::More) if self.more() => {}
                Ok(Step::More) => {
                    body.whole = decoder.is_until_close();
                    return body;
                }
                Ok(Step::End) => {
                    body.whole = true;
                    body.trailers = decoder.take_trailers();
                    return body;
                }
            }
        }
    }

    /// The next request with its body, and whether the connection carries on after it.
    ///
    /// # Errors
    /// It is refused.
    pub fn request(&mut self) -> Result<Option<(RequestHead, Body, bool)>, Reason> {
        let head = self.head(parse::request).map_err(|error| error.reason)?;
        Ok(head.map(
            |Framed {
                 head,
                 body,
                 persistent,
                 ..
             }| {
                let body = self.body(body);
                let kept = persistent && body.whole;
                (head, body, kept)
            },
        ))
    }

    /// The next response with its body, and whether the connection carries on after it.
    ///
    /// # Errors
    /// It is refused.
    pub fn response(
        &mut self,
        asked: AskedWith,
    ) -> Result<Option<(ResponseHead, Body, bool)>, Reason> {
        let head = self.head(|input| parse::response(input, asked));
        let head = head.map_err(|error| error.reason)?;
        Ok(head.map(
            |Framed {
                 head,
                 body,
                 persistent,
                 ..
             }| {
                let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
                let body = self.body(body);
                let kept = persistent && body.whole && !switched;
                (head, body, kept)
            },
        ))
    }
}

/// The lines of `fields`.
pub fn lines(fields: &Fields) -> impl Iterator<Item = Line> + '_ {
    fields
        .iter()
        .map(|field| (field.name.to_vec(), field.value.to_vec()))
}

fn message(first: String, version: http::Version, fields: &Fields, body: Body) -> Message {
    let trailers = body.trailers.unwrap_or_default();
    Message {
        first,
        version,
        fields: by_name(lines(fields)),
        body: body.data,
        trailers: by_name(lines(&trailers)),
        whole: body.whole,
    }
}

/// Method, authority, path and query.
pub fn target(head: &RequestHead) -> String {
    let path = match (&head.method, head.path()) {
        (&Method::CONNECT, _) => "",
        // hyper does not say whether an absolute form had a path (RFC 9112 §3.2.4).
        (&Method::OPTIONS, "*") if head.authority().is_some() => "/",
        (_, path) => path,
    };
    format!(
        "{} {:?} {path:?} {:?}",
        head.method,
        head.authority(),
        head.query()
    )
}

/// The requests at the front of `input`, and where each of them ends.
pub fn requests(input: &[u8]) -> (Vec<Message>, Vec<usize>) {
    let mut reader = Reader::new(input, &[]);
    let (mut messages, mut ends) = (Vec::new(), Vec::new());
    while let Ok(Some((head, body, kept))) = reader.request() {
        messages.push(message(target(&head), head.version, &head.fields, body));
        ends.push(reader.at());
        if !kept {
            break;
        }
    }
    (messages, ends)
}

/// The final response at the front of `input`, and where it begins behind interim ones.
pub fn response(asked: AskedWith, input: &[u8]) -> (Option<Reply>, usize) {
    let mut reader = Reader::new(input, &[]);
    loop {
        let begin = reader.at();
        let Ok(Some((head, body, kept))) = reader.response(asked) else {
            return (None, begin);
        };
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let phrase = head.phrase.map(|phrase| head.fields.slice(phrase));
        let first = status(head.status, phrase);
        let left = input.len() - reader.at();
        // A response's version decides on the connection alone, which is compared.
        let message = message(first, http::Version::HTTP_11, &head.fields, body);
        let kept = Some(kept);
        return (
            Some(Reply {
                message,
                left,
                kept,
            }),
            begin,
        );
    }
}

/// Status and phrase; no phrase or an empty one stands for the usual one.
pub fn status(status: StatusCode, phrase: Option<&[u8]>) -> String {
    let usual = status.canonical_reason().unwrap_or_default().as_bytes();
    let phrase = phrase.filter(|phrase| !phrase.is_empty()).unwrap_or(usual);
    format!("{} {}", status.as_u16(), phrase.escape_ascii())
}
