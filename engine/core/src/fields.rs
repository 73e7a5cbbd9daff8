//! Header fields as both codecs hold them: one text, and where names and values are in it.
//!
//! What is read is copied once and never again: changes append to the text, removals forget a
//! line. Names keep the case they came in; they are compared without it (RFC 9110 §5.1).

use std::borrow::Cow;

/// Names that the request path asks for, so that a line is compared once, when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Any other.
    Other,
    /// `connection`.
    Connection,
    /// `content-length`.
    ContentLength,
    /// `content-type`.
    ContentType,
    /// `expect`.
    Expect,
    /// `grpc-status`.
    GrpcStatus,
    /// `grpc-timeout`.
    GrpcTimeout,
    /// `host`.
    Host,
    /// `keep-alive`.
    KeepAlive,
    /// What only sidecars may set (`x-tulle-…`), and where other meshes put who the caller is
    /// (`x-forwarded-client-cert`, `l5d-client-id`): ours proves callers by mTLS alone, and an
    /// application that still reads these must not get them from the caller.
    Own,
    /// `proxy-connection`.
    ProxyConnection,
    /// `te`.
    Te,
    /// `traceparent`.
    Traceparent,
    /// `tracestate`.
    Tracestate,
    /// `transfer-encoding`.
    TransferEncoding,
    /// `upgrade`.
    Upgrade,
}

impl Name {
    /// Which of them `name` is.
    pub fn of(name: &[u8]) -> Name {
        match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
            (2, Some(b't')) if is(name, b"te") => Name::Te,
            (4, Some(b'h')) if is(name, b"host") => Name::Host,
            (6, Some(b'e')) if is(name, b"expect") => Name::Expect,
            (7, Some(b'u')) if is(name, b"upgrade") => Name::Upgrade,
            (10, Some(b'c')) if is(name, b"connection") => Name::Connection,
            (10, Some(b'k')) if is(name, b"keep-alive") => Name::KeepAlive,
            (10, Some(b't')) if is(name, b"tracestate") => Name::Tracestate,
            (11, Some(b't')) if is(name, b"traceparent") => Name::Traceparent,
            (11, Some(b'g')) if is(name, b"grpc-status") => Name::GrpcStatus,
            (12, Some(b'g')) if is(name, b"grpc-timeout") => Name::GrpcTimeout,
            (12, Some(b'c')) if is(name, b"content-type") => Name::ContentType,
            (14, Some(b'c')) if is(name, b"content-length") => Name::ContentLength,
            (16, Some(b'p')) if is(name, b"proxy-connection") => Name::ProxyConnection,
            (17, Some(b't')) if is(name, b"transfer-encoding") => Name::TransferEncoding,
            (_, Some(b'x' | b'l')) if is_own(name) => Name::Own,
            _ => Name::Other,
        }
    }

    /// What concerns one connection only (RFC 9110 §7.6.1).
    pub const HOP_BY_HOP: &[Name] = &[
        Name::Connection,
        Name::KeepAlive,
        Name::ProxyConnection,
        Name::Te,
        Name::TransferEncoding,
        Name::Upgrade,
    ];

    /// Whether it frames a message or concerns one connection only: no filter may set it.
    pub fn is_framing(self) -> bool {
        self == Name::ContentLength || Name::HOP_BY_HOP.contains(&self)
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Whether `name` is `known` in any case; a length known when compiled needs no loop.
fn is<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    <&[u8; N]>::try_from(name).is_ok_and(|name| name.eq_ignore_ascii_case(known))
}

/// Many applications read `_` in a name as `-` (RFC 3875 §4.1.18), and some any other sign, so all
/// are the same here.
fn is_own(name: &[u8]) -> bool {
    let is = |wanted: &str| {
        name.len() >= wanted.len()
            && name.iter().zip(wanted.bytes()).all(|(&found, wanted)| {
                found.eq_ignore_ascii_case(&wanted)
                    || (wanted == b'-' && !found.is_ascii_alphanumeric())
            })
    };
    let is_whole = |wanted: &str| name.len() == wanted.len() && is(wanted);
    is("x-tulle-") || is_whole("x-forwarded-client-cert") || is_whole("l5d-client-id")
}

/// A part of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// From `start` up to `end`; a head is far below what a span can hold.
    pub fn new(start: usize, end: usize) -> Span {
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Span {
            start: place(start),
            end: place(end),
        }
    }

    /// Where `part`, a slice of `whole`, lies in it.
    pub fn within(whole: &[u8], part: &[u8]) -> Span {
        let start = start_in(whole, part);
        Span::new(start, start + part.len())
    }
}

/// Where `part`, a slice of `whole`, begins in it.
pub fn start_in(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

#[derive(Clone, Copy, Debug)]
struct Line {
    known: Name,
    name: Span,
    value: Span,
}

/// One header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Which of the known names it has.
    pub known: Name,
    /// Its name, as it came.
    pub name: &'a [u8],
    /// Its value, without white space around it.
    pub value: &'a [u8],
}

impl<'a> Field<'a> {
    /// The items of a list (RFC 9110 §5.6.1).
    pub fn items(self) -> impl Iterator<Item = &'a [u8]> {
        items(self.value)
    }
}

/// The items of a list (RFC 9110 §5.6.1).
pub fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let items = value.split(|&byte| byte == b',');
    items.map(<[u8]>::trim_ascii)
}

/// The header fields of a message, in order.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<Line>,
    /// The known names that were added, as [`Name::bit`]: most questions are about one that was not.
    names: u32,
}

impl Fields {
    /// No fields yet, over a head's `text`, with room for some changes.
    pub fn over(text: &[u8], lines: usize) -> Fields {
        const ROOM: usize = 256;
        let mut held = Vec::with_capacity(text.len() + ROOM);
        held.extend_from_slice(text);
        Fields {
            text: held,
            lines: Vec::with_capacity(lines + 4),
            names: 0,
        }
    }

    /// No fields yet, with room for `text` bytes and `lines`.
    pub fn with_room(text: usize, lines: usize) -> Fields {
        Fields {
            text: Vec::with_capacity(text),
            lines: Vec::with_capacity(lines),
            names: 0,
        }
    }

    /// Add a line whose name and value are in the text already.
    pub fn add(&mut self, name: Span, value: Span) -> Name {
        let known = Name::of(self.slice(name));
        self.lines.push(Line { known, name, value });
        self.names |= known.bit();
        known
    }

    /// Keep `part` in the text.
    pub fn store(&mut self, part: &[u8]) -> Span {
        let start = self.text.len();
        self.text.extend_from_slice(part);
        Span::new(start, self.text.len())
    }

    /// The bytes of `span`.
    pub fn slice(&self, span: Span) -> &[u8] {
        self.text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }

    /// `span` as text; what is none is empty.
    pub fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.slice(span)).unwrap_or_default()
    }

    /// All lines, in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.lines.iter().map(|line| self.field(line))
    }

    fn field(&self, line: &Line) -> Field<'_> {
        Field {
            known: line.known,
            name: self.slice(line.name),
            value: self.slice(line.value),
        }
    }

    /// The lines of a known name.
    pub fn all(&self, known: Name) -> impl Iterator<Item = Field<'_>> {
        self.lines_of(known).map(|line| self.field(line))
    }

    fn lines_of(&self, known: Name) -> impl Iterator<Item = &Line> {
        let lines = match self.names & known.bit() {
            0 => &[],
            _ => &self.lines[..],
        };
        lines.iter().filter(move |line| line.known == known)
    }

    /// The value of the first line of a known name.
    pub fn first(&self, known: Name) -> Option<&[u8]> {
        self.all(known).next().map(|field| field.value)
    }

    /// Where the value of the first line of a known name is.
    pub fn first_span(&self, known: Name) -> Option<Span> {
        self.lines_of(known).next().map(|line| line.value)
    }

    /// The value of the first line of a known name, if it is text.
    pub fn first_text(&self, known: Name) -> Option<&str> {
        std::str::from_utf8(self.first(known)?).ok()
    }

    /// Whether there is a line of a known name.
    pub fn has(&self, known: Name) -> bool {
        self.lines_of(known).next().is_some()
    }

    /// The value of the header `name`; several lines of it are joined by commas (RFC 9110 §5.3).
    /// `None` also for a value that is not visible ASCII.
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let text = |value| {
            let text = std::str::from_utf8(value).ok()?;
            let is_visible = |byte| matches!(byte, b'\t' | b' '..=b'~');
            text.bytes().all(is_visible).then_some(text)
        };
        let mut values = self
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| field.value);
        let mut joined = Cow::Borrowed(text(values.next()?)?);
        for value in values {
            let owned = joined.to_mut();
            owned.push(',');
            owned.push_str(text(value)?);
        }
        Some(joined)
    }

    /// Whether the content type is gRPC's.
    pub fn is_grpc(&self) -> bool {
        let rest = self
            .first(Name::ContentType)
            .and_then(|value| value.strip_prefix(b"application/grpc"));
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    }

    /// Add a line; it is kept in the form in which it is written.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        self.store(b": ");
        let value = self.store(value);
        self.store(b"\r\n");
        self.add(name, value);
    }

    /// Write all lines as HTTP/1.1 does; neighbours in the text go by one copy.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut run = 0..0;
        for line in &self.lines {
            let (start, end) = (line.name.start as usize, line.value.end as usize + 2);
            let between = line.name.end as usize..line.value.start as usize;
            let is_whole = self.text.get(between) == Some(b": ")
                && self.text.get(end - 2..end) == Some(b"\r\n");
            if is_whole && run.end == start {
                run.end = end;
                continue;
            }
            out.extend_from_slice(&self.text[run]);
            run = start..end;
            if !is_whole {
                let field = self.field(line);
                for part in [field.name, b": ", field.value, b"\r\n"] {
                    out.extend_from_slice(part);
                }
                run = 0..0;
            }
        }
        out.extend_from_slice(&self.text[run]);
    }

    /// Make `value` the only one of `name`.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove_name(name);
        self.append(name, value);
    }

    /// Remove the lines of known names.
    pub fn remove(&mut self, known: &[Name]) {
        let bits = known.iter().fold(0, |bits, name| bits | name.bit());
        if self.names & bits != 0 {
            self.lines.retain(|line| line.known.bit() & bits == 0);
            self.names &= !bits;
        }
    }

    /// Remove the lines of the header `name`.
    pub fn remove_name(&mut self, name: &[u8]) {
        self.retain(|field| !field.name.eq_ignore_ascii_case(name));
    }

    /// Keep the lines that `keep` wants.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|line| keep(self.field(line)));
        self.lines = lines;
    }
}

#[cfg(test)]
impl Fields {
    /// The fields of `lines`.
    pub fn of(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .iter()
            .filter_map(|field| std::str::from_utf8(field.name).ok())
            .collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        for (name, known) in [
            ("Host", Name::Host),
            ("hosts", Name::Other),
            ("TE", Name::Te),
            ("Transfer-Encoding", Name::TransferEncoding),
            ("transfer_encoding", Name::Other),
            ("X-Tulle-Reason", Name::Own),
            ("x_tulle-peer", Name::Own),
            ("x-tull", Name::Other),
            ("X_Forwarded_Client_Cert", Name::Own),
            ("x.forwarded~client-cert", Name::Own),
            ("L5d-Client-Id", Name::Own),
            ("l5d-client-ids", Name::Other),
            ("l", Name::Other),
            ("x-forwarded-client-certs", Name::Other),
            ("", Name::Other),
        ] {
            assert_eq!(Name::of(name.as_bytes()), known, "{name}");
        }
    }

    #[test]
    fn grpc_is_told_from_what_begins_alike() {
        for (kind, is_grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web+proto", false),
            ("application/grpcfoo", false),
            ("text/plain", false),
        ] {
            assert_eq!(Fields::of(&[("content-type", kind)]).is_grpc(), is_grpc);
        }
    }

    #[test]
    fn lines_are_written_in_order_whatever_lies_between_them() {
        let text = b"A: 1\r\nB:2\r\nC:  3 \r\nD: 4\r\nE: 5\r\n";
        let mut fields = Fields::over(text, 5);
        for (name, value) in [(0, 3), (6, 8), (11, 15), (19, 22), (25, 28)] {
            fields.add(Span::new(name, name + 1), Span::new(value, value + 1));
        }
        fields.append(b"F", b"");
        fields.remove_name(b"D");
        let mut out = Vec::new();
        fields.write(&mut out);
        assert_eq!(out, b"A: 1\r\nB: 2\r\nC: 3\r\nE: 5\r\nF: \r\n");
    }

    #[test]
    fn lines_are_joined_set_and_removed_in_any_case() {
        let mut fields = Fields::of(&[("Accept", "a"), ("x-other", "1"), ("accept", "b")]);
        assert_eq!(fields.get("ACCEPT").as_deref(), Some("a,b"));
        fields.set(b"accept", b"c");
        assert_eq!(fields.get("Accept").as_deref(), Some("c"));
        fields.append(b"X-Bytes", b"\xff");
        assert_eq!(fields.get("x-bytes"), None);
        fields.remove_name(b"ACCEPT");
        assert_eq!(fields.names(), ["X-Bytes", "x-other"]);
    }
}
