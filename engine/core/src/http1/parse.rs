//! Heads of requests and responses, and trailer sections (RFC 9112 §2 to §5).

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use http::{Method, StatusCode, Version};
use httparse::{Header, Status};

use super::body::Decoder;
use super::{HEAD_MAX, HEADERS_MAX, TARGET_MAX};
use crate::error::{Error, Reason};
use crate::fields::{Fields, Name, Span, start_in};
use crate::head::{RequestHead, ResponseHead};

/// What a first line holds beside its target: method, version and what is between them.
pub(crate) const LINE_REST: usize = 64;
/// Most digits of a length: what a 64-bit number can always hold.
const DIGITS_MAX: usize = 19;

/// How far the end of a head was looked for: no byte is looked at twice, however they trickle in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    at: usize,
    line: usize,
    begun: bool,
}

impl Scan {
    /// For a trailer section, which an empty line may end at once.
    pub fn of_trailers() -> Scan {
        Scan {
            begun: true,
            ..Scan::default()
        }
    }

    /// The head that `input` begins with, by `parse`; `None`: it is not whole yet. `input` may
    /// only grow until then.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn head<H>(
        &mut self,
        input: &[u8],
        parse: impl Fn(&[u8]) -> Result<Option<Framed<H>>, Error>,
    ) -> Result<Option<Framed<H>>, Error> {
        // Nearly every head is whole and right at once. Of any other the scan says what it is,
        // and it alone skips empty lines.
        if *self == Scan::default() && !matches!(input.first(), None | Some(b'\r' | b'\n')) {
            let head = parse(input);
            if matches!(head, Ok(Some(_))) {
                return head;
            }
        }
        let Some(end) = self.end(input)? else {
            return Ok(None);
        };
        *self = Scan::default();
        parse(&input[..end])
    }

    /// Where the head ends that begins `input`; `None`: not yet. Empty lines before it belong to
    /// it (RFC 9112 §2.2). `input` may only grow between two calls.
    ///
    /// # Errors
    /// A line that ends in a bare line feed, or more than [`HEAD_MAX`].
    pub fn end(&mut self, input: &[u8]) -> Result<Option<usize>, Error> {
        while let Some(found) = memchr::memchr(b'\n', &input[self.at..]) {
            let feed = self.at + found;
            if feed == 0 || input[feed - 1] != b'\r' {
                return Err(bad("a line ends without carriage return"));
            }
            let is_empty = feed - 1 == self.line;
            if !self.begun && feed - self.line > TARGET_MAX + LINE_REST {
                return Err(Error::new(Reason::TargetTooLong, ""));
            }
            (self.at, self.line) = (feed + 1, feed + 1);
            if is_empty && self.begun {
                return match feed < HEAD_MAX {
                    true => Ok(Some(feed + 1)),
                    false => Err(Error::new(Reason::HeadTooLarge, "")),
                };
            }
            self.begun |= !is_empty;
        }
        self.at = input.len();
        if !self.begun && input.len() - self.line > TARGET_MAX + LINE_REST {
            return Err(Error::new(Reason::TargetTooLong, ""));
        }
        if input.len() >= HEAD_MAX {
            return Err(Error::new(Reason::HeadTooLarge, ""));
        }
        Ok(None)
    }
}

fn bad(detail: impl Into<String>) -> Error {
    Error::new(Reason::BadRequest, detail)
}

fn refused(error: httparse::Error) -> Error {
    match error {
        httparse::Error::TooManyHeaders => {
            let detail = format!("more than {HEADERS_MAX} header lines");
            Error::new(Reason::HeadTooLarge, detail)
        }
        other => bad(other.to_string()),
    }
}

/// What is wrong with the lines of a head up to `end`, `lines` behind the first: `httparse` bounds
/// none, and also takes a bare line feed for the end of one.
fn wrong_lines(input: &[u8], end: usize, lines: &[Header<'_>]) -> Option<Error> {
    let is_end = |at: usize| input[..at].ends_with(b"\r\n");
    let start = |line: &Header<'_>| start_in(input, line.name.as_bytes());
    let is_empty = |byte: &&u8| matches!(byte, b'\r' | b'\n');
    let first = input.iter().take_while(is_empty).count();
    let feed = lines.first().map_or(end - 2, start) - 1;
    if feed - first > TARGET_MAX + LINE_REST {
        return Some(Error::new(Reason::TargetTooLong, ""));
    }
    if end > HEAD_MAX {
        return Some(Error::new(Reason::HeadTooLarge, ""));
    }
    let are_ends = is_end(end) && is_end(end - 2) && lines.iter().all(|line| is_end(start(line)));
    (!are_ends).then(|| bad("a line ends without carriage return"))
}

/// A head with how its body is framed and whether the connection can be used again after it.
#[derive(Debug)]
pub struct Framed<H> {
    /// The head.
    pub head: H,
    /// Finds the end of the body.
    pub body: Decoder,
    /// Whether the peer keeps the connection.
    pub persistent: bool,
    /// Where the head ends in what was parsed.
    pub end: usize,
}

/// Parse the head of a request; `None`: it is not whole.
///
/// # Errors
/// [`Reason::BadRequest`] or what is past its bound, each with what is wrong.
pub fn request(input: &[u8]) -> Result<Option<Framed<RequestHead>>, Error> {
    let mut slots = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed
        .parse_with_uninit_headers(input, &mut slots)
        .map_err(refused)?;
    let (Status::Complete(end), Some(method), Some(target), Some(minor)) =
        (status, parsed.method, parsed.path, parsed.version)
    else {
        return Ok(None);
    };
    if let Some(wrong) = wrong_lines(input, end, parsed.headers) {
        return Err(wrong);
    }
    let input = &input[..end];
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| bad("the method is none"))?;
    if target.len() > TARGET_MAX {
        let detail = format!("a target of {} bytes", target.len());
        return Err(Error::new(Reason::TargetTooLong, detail));
    }
    let parts = target_parts(&method, target)?;
    let (fields, seen) = fields(input, parsed.headers).map_err(bad)?;
    if minor == 1 && seen.hosts == 0 {
        return Err(bad("the request names no host"));
    }
    let body = seen.body().map_err(bad)?.unwrap_or(Decoder::DONE);
    if minor == 0 && seen.coding {
        return Err(bad("a transfer coding in HTTP/1.0"));
    }
    let span = |part: &str| Span::within(input, part.as_bytes());
    let parts = match parts {
        // An absolute form may have no path (RFC 9112 §3.2.4).
        Parts(authority, "", query) => {
            let mut fields = fields;
            let path = fields.store(if method == Method::OPTIONS && query.is_none() {
                b"*"
            } else {
                b"/"
            });
            (fields, (authority.map(span), path, query.map(span)))
        }
        Parts(authority, path, query) => {
            let spans = (authority.map(span), span(path), query.map(span));
            (fields, spans)
        }
    };
    let version = version(minor);
    let persistent = seen.persistent(version);
    let mut head = RequestHead::new(method, version, parts.0, parts.1);
    head.length = body.length();
    Ok(Some(Framed {
        head,
        body,
        persistent,
        end,
    }))
}

fn version(minor: u8) -> Version {
    match minor {
        0 => Version::HTTP_10,
        _ => Version::HTTP_11,
    }
}

/// Authority, path and query of a target.
struct Parts<'a>(Option<&'a str>, &'a str, Option<&'a str>);

/// Take a target apart (RFC 9112 §3.2).
fn target_parts<'a>(method: &Method, target: &'a str) -> Result<Parts<'a>, Error> {
    if target.contains('#') {
        return Err(bad("the target has a fragment"));
    }
    if *method == Method::CONNECT {
        return match is_authority(target.as_bytes()) {
            true => Ok(Parts(Some(target), "", None)),
            false => Err(bad("CONNECT names no host and port")),
        };
    }
    if *method == Method::OPTIONS && target == "*" {
        return Ok(Parts(None, target, None));
    }
    let (authority, rest) = if target.starts_with('/') {
        (None, target)
    } else {
        let (scheme, rest) = target.split_once("://").unwrap_or_default();
        if !is_http(scheme) {
            return Err(bad("the target is not of a known form"));
        }
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        (Some(authority), rest)
    };
    if authority.is_some_and(|authority| !is_authority(authority.as_bytes())) {
        return Err(bad("the target names no host"));
    }
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    // Of what must be escaped (RFC 3986 §2) only that is taken which browsers do not escape.
    if path.contains(['<', '>', '`']) || query.is_some_and(|query| query.contains(['<', '>', '"']))
    {
        return Err(bad("the target has a character that must be escaped"));
    }
    Ok(Parts(authority, path, query))
}

/// Whether `text` is a name or an address, and a port if there is one (RFC 3986 §3.2). A user has
/// no place in a request (RFC 9110 §4.2.4).
pub(crate) fn is_authority(text: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let name = text.iter().take_while(|byte| is_of_name(byte)).count();
    let after = match text.strip_prefix(b"[") {
        Some(rest) => after_address(rest),
        None => Some(&text[name..]).filter(|_| name > 0),
    };
    match after {
        Some([b':', port @ ..]) => port.iter().all(u8::is_ascii_digit),
        Some(after) => after.is_empty(),
        None => false,
    }
}

/// What stands behind the IPv6 address and its bracket.
fn after_address(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|&byte| byte == b']')?;
    let address = std::str::from_utf8(&text[..end]).ok()?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(&text[end + 1..])
}

fn is_http(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// What a response is asked with, which decides on its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct AskedWith {
    /// By HEAD: the head alone comes.
    pub head: bool,
    /// A switch of protocols was asked for.
    pub switch: bool,
}

/// Parse the head of a response; `None`: it is not whole.
///
/// # Errors
/// [`Reason::BadResponse`], with what is wrong.
pub fn response(input: &[u8], asked: AskedWith) -> Result<Option<Framed<ResponseHead>>, Error> {
    let wrong = |detail: &str| Error::new(Reason::BadResponse, detail);
    let mut slots = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let whole = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, input, &mut slots)
        .map_err(|error| wrong(&error.to_string()))?;
    let (Status::Complete(end), Some(code), Some(minor)) = (whole, parsed.code, parsed.version)
    else {
        return Ok(None);
    };
    if let Some(found) = wrong_lines(input, end, parsed.headers) {
        return Err(found);
    }
    let input = &input[..end];
    let status = StatusCode::from_u16(code).map_err(|_| wrong("the status is none"))?;
    let phrase = parsed.reason.filter(|phrase| !phrase.is_empty());
    let phrase = phrase.map(|phrase| Span::within(input, phrase.as_bytes()));
    let (fields, seen) = fields(input, parsed.headers).map_err(wrong)?;
    if minor == 0 && seen.coding {
        return Err(wrong("a transfer coding in HTTP/1.0"));
    }
    let framed = seen.body().map_err(wrong)?;
    let body = match status {
        // A switch that nobody asked for would hide what follows from every check.
        StatusCode::SWITCHING_PROTOCOLS if !asked.switch => {
            return Err(wrong("a switch of protocols that was not asked for"));
        }
        _ if asked.head => Decoder::DONE,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Decoder::DONE,
        status if status.is_informational() => Decoder::DONE,
        _ => framed.unwrap_or(Decoder::UNTIL_CLOSE),
    };
    let persistent = body != Decoder::UNTIL_CLOSE && seen.persistent(version(minor));
    let head = ResponseHead {
        status,
        phrase,
        fields,
        length: body.length(),
    };
    Ok(Some(Framed {
        head,
        body,
        persistent,
        end,
    }))
}

/// Parse a trailer section up to and with its empty line. What frames a message or concerns one
/// connection has no meaning there and is left out (RFC 9110 §6.5.1).
///
/// # Errors
/// What is wrong.
pub fn trailers(input: &[u8]) -> Result<Fields, &'static str> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let lines = match httparse::parse_headers(input, &mut slots) {
        Ok(Status::Complete((_, lines))) => lines,
        _ => return Err("the trailer section is none"),
    };
    let mut fields = Fields::over(input, lines.len());
    for line in lines.iter() {
        let known = Name::of(line.name.as_bytes());
        if !known.is_framing() && known != Name::Host {
            let name = Span::within(input, line.name.as_bytes());
            fields.add(name, Span::within(input, line.value));
        }
    }
    Ok(fields)
}

/// What a content-length says: digits alone (RFC 9110 §8.6).
pub fn length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let digits = value.iter().map(|digit| u64::from(digit - b'0'));
    (is_number && value.len() <= DIGITS_MAX)
        .then(|| digits.fold(0, |length, digit| length * 10 + digit))
}

/// What the lines of a head say about its framing.
#[derive(Debug, Default)]
struct Seen {
    hosts: u32,
    coding: bool,
    length: Option<u64>,
    close: bool,
    keep_alive: bool,
}

fn fields(input: &[u8], lines: &[Header<'_>]) -> Result<(Fields, Seen), &'static str> {
    let mut fields = Fields::over(input, lines.len());
    let mut seen = Seen::default();
    for line in lines {
        let name = Span::within(input, line.name.as_bytes());
        let value = Span::within(input, line.value);
        match fields.add(name, value) {
            Name::Host => seen.hosts += 1,
            Name::ContentLength => seen.length(line.value)?,
            Name::TransferEncoding => seen.transfer_encoding(line.value)?,
            Name::Connection => seen.connection(line.value),
            _ => {}
        }
    }
    Ok((fields, seen))
}

impl Seen {
    /// Once (RFC 9112 §6.3; several equal ones are refused as well).
    fn length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.length.is_some() {
            return Err("more than one content-length");
        }
        self.length = Some(length(value).ok_or("content-length is no number")?);
        Ok(())
    }

    /// `chunked`, once and alone (RFC 9112 §6.1): we could not undo any other coding.
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.coding || !value.eq_ignore_ascii_case(b"chunked") {
            return Err("the transfer coding is not chunked");
        }
        self.coding = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for option in crate::fields::items(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// How the body is framed; `None`: no line says so.
    fn body(&self) -> Result<Option<Decoder>, &'static str> {
        match (self.coding, self.length) {
            (true, Some(_)) => Err("content-length beside a transfer coding"),
            (true, None) => Ok(Some(Decoder::chunked())),
            (false, Some(length)) => Ok(Some(Decoder::exact(length))),
            (false, None) => Ok(None),
        }
    }

    fn persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_at_most_a_port() {
        for (target, accepted) in [
            ("a", true),
            ("a_b-c.d:80", true),
            ("10.0.0.1:", true),
            ("[::1]:80", true),
            ("[::1]", true),
            ("", false),
            (":80", false),
            ("*", false),
            ("a:80:90", false),
            ("a:b", false),
            ("::1", false),
            ("[::1", false),
            ("[a]", false),
            ("[::1]80", false),
            ("u@a", false),
            ("a%2e", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(is_authority(target.as_bytes()), accepted, "{target}");
        }
    }

    #[test]
    fn what_must_be_escaped_is_refused_in_a_target() {
        for (target, accepted) in [
            ("/a|b{c}\"^\\?{d}`", true),
            ("/<a", false),
            ("/a>", false),
            ("/`a", false),
            ("/?<a", false),
            ("/?a>", false),
            ("/?\"", false),
        ] {
            let parts = target_parts(&Method::GET, target);
            assert_eq!(parts.is_ok(), accepted, "{target}");
        }
    }
}
