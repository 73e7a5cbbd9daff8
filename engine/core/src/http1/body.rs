//! Where a body ends: a length, chunks, or the connection's end (RFC 9112 §6 and §7).

use super::parse::{Scan, trailers};
use crate::fields::Fields;
use crate::head::Length;

/// Longest line that begins a chunk, extensions included.
const CHUNK_LINE_MAX: usize = 4096;
/// Most bytes of chunk extensions in one body: they mean nothing to us and are not passed on.
const EXTENSIONS_MAX: usize = 16 * 1024;
/// Most hexadecimal digits of a chunk's size.
const SIZE_DIGITS_MAX: usize = 16;

/// Finds the data in what is read after a head, and the end of it.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    extensions: usize,
    trailers: Option<Fields>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Exact(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers(Scan),
}

/// What the front of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of the body; at least one.
    Data(usize),
    /// So many bytes that frame it.
    Skip(usize),
    /// More must be read to tell.
    More,
    /// The body has ended; what follows belongs to the next message.
    End,
}

impl PartialEq for Decoder {
    fn eq(&self, other: &Decoder) -> bool {
        self.state == other.state
    }
}

impl Decoder {
    /// No body.
    pub const DONE: Decoder = Decoder::begin(State::Done);
    /// All up to the connection's end.
    pub const UNTIL_CLOSE: Decoder = Decoder::begin(State::UntilClose);

    const fn begin(state: State) -> Decoder {
        Decoder {
            state,
            extensions: 0,
            trailers: None,
        }
    }

    /// A body of `length` bytes.
    pub fn exact(length: u64) -> Decoder {
        Decoder::begin(match length {
            0 => State::Done,
            length => State::Exact(length),
        })
    }

    /// A body in chunks.
    pub fn chunked() -> Decoder {
        Decoder::begin(State::ChunkSize)
    }

    /// How long the body is, before any of it was read.
    pub fn length(&self) -> Length {
        match self.state {
            State::Done => Length::None,
            State::Exact(length) => Length::Exact(length),
            _ => Length::Unknown,
        }
    }

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the connection's end is the body's.
    pub fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// The bytes that are still to come, when a length tells.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Exact(left) => Some(left),
            _ => None,
        }
    }

    /// What the front of `input` is. After [`Step::Data`] or [`Step::Skip`] as many bytes are to
    /// be taken from it as [`Decoder::advance`] is told.
    ///
    /// # Errors
    /// What is wrong with the chunks; the message cannot be told from the next one any more.
    pub fn next(&mut self, input: &[u8]) -> Result<Step, &'static str> {
        let data = |left: u64| match input.len() {
            0 => Step::More,
            held => Step::Data(usize::try_from(left).map_or(held, |left| left.min(held))),
        };
        match self.state {
            State::Done => Ok(Step::End),
            State::Exact(left) | State::ChunkData(left) => Ok(data(left)),
            State::UntilClose => Ok(data(u64::MAX)),
            State::ChunkSize => self.size(input),
            State::ChunkEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Step::Skip(2))
                }
                [] | [b'\r'] => Ok(Step::More),
                _ => Err("a chunk is longer than its size"),
            },
            State::Trailers(mut scan) => {
                let end = scan.end(input).map_err(|_| "the trailer section is none")?;
                self.state = State::Trailers(scan);
                let Some(end) = end else {
                    return Ok(Step::More);
                };
                if end > 2 {
                    self.trailers = Some(trailers(&input[..end])?);
                }
                self.state = State::Done;
                Ok(Step::Skip(end))
            }
        }
    }

    /// `taken` bytes of data were taken.
    pub fn advance(&mut self, taken: usize) {
        match &mut self.state {
            State::Exact(left) => {
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
            }
            State::ChunkData(left) => {
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::ChunkEnd;
                }
            }
            _ => {}
        }
    }

    /// The trailer section, once the body has ended.
    pub fn take_trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    fn size(&mut self, input: &[u8]) -> Result<Step, &'static str> {
        let Some(feed) = memchr::memchr(b'\n', input) else {
            return match input.len() < CHUNK_LINE_MAX {
                true => Ok(Step::More),
                false => Err("a chunk's line is too long"),
            };
        };
        let line = match input[..feed].strip_suffix(b"\r") {
            Some(line) if line.len() < CHUNK_LINE_MAX => line,
            Some(_) => return Err("a chunk's line is too long"),
            None => return Err("a chunk's line ends without carriage return"),
        };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let digits = digits.count();
        if digits == 0 || digits > SIZE_DIGITS_MAX {
            return Err("a chunk's size is no number");
        }
        let extension = &line[digits..];
        let begins = extension.trim_ascii_start().first();
        let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        if begins.is_some_and(|&byte| byte != b';') || !extension.iter().all(is_text) {
            return Err("a chunk's size is no number");
        }
        self.extensions += extension.len();
        if self.extensions > EXTENSIONS_MAX {
            return Err("too many chunk extensions");
        }
        let size = std::str::from_utf8(&line[..digits]).ok();
        let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
        self.state = match size {
            Some(0) => State::Trailers(Scan::of_trailers()),
            Some(size) => State::ChunkData(size),
            None => return Err("a chunk's size is no number"),
        };
        Ok(Step::Skip(feed + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of `input`, given in pieces of `piece` bytes, and what is left behind the end.
    fn read(
        decoder: Decoder,
        input: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, usize), &'static str> {
        let (mut decoder, mut data) = (decoder, Vec::new());
        let (mut at, mut held) = (0, 0);
        loop {
            match decoder.next(&input[at..held])? {
                Step::End => return Ok((data, input.len() - at)),
                Step::More if held == input.len() => return Err("more"),
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

    #[test]
    fn chunks_are_read_alike_however_they_are_split() {
        let long = format!("{}\r\n", "0".repeat(SIZE_DIGITS_MAX + 1));
        let deep = format!("5;{}\r\n", "a".repeat(CHUNK_LINE_MAX));
        for (input, expected) in [
            ("0\r\n\r\n", Ok(("", 0))),
            ("5\r\nhello\r\n0\r\n\r\nnext", Ok(("hello", 4))),
            (
                "A;x=\"1\"\r\n0123456789\r\n1 ; y\r\na\r\n00\r\nX: 1\r\n\r\n",
                Ok(("0123456789a", 0)),
            ),
            ("5\r\nhello\r\n", Err("more")),
            ("\r\n", Err("a chunk's size is no number")),
            ("-1\r\n", Err("a chunk's size is no number")),
            ("+1\r\na", Err("a chunk's size is no number")),
            ("0x1\r\na", Err("a chunk's size is no number")),
            ("1 1\r\na", Err("a chunk's size is no number")),
            ("1;\u{1}\r\na", Err("a chunk's size is no number")),
            (
                "1\na\n0\n\n",
                Err("a chunk's line ends without carriage return"),
            ),
            (
                "1\r\nab\r\n0\r\n\r\n",
                Err("a chunk is longer than its size"),
            ),
            ("1\r\na\n0\r\n\r\n", Err("a chunk is longer than its size")),
            ("0\r\nX\r\n\r\n", Err("the trailer section is none")),
            ("0\r\nX: 1\n\r\n", Err("the trailer section is none")),
            (&long, Err("a chunk's size is no number")),
            (&deep, Err("a chunk's line is too long")),
        ] {
            let expected = expected.map(|(data, left)| (data.as_bytes().to_vec(), left));
            for piece in 1..=input.len() {
                let found = read(Decoder::chunked(), input.as_bytes(), piece);
                assert_eq!(found, expected, "{input:?} by {piece}");
            }
        }
    }

    #[test]
    fn a_length_ends_a_body_and_a_close_the_rest() {
        assert_eq!(
            read(Decoder::exact(3), b"abcd", 2),
            Ok((b"abc".to_vec(), 1))
        );
        assert_eq!(read(Decoder::exact(0), b"abcd", 9), Ok((vec![], 4)));
        assert_eq!(read(Decoder::exact(9), b"abcd", 9), Err("more"));
        assert_eq!(read(Decoder::UNTIL_CLOSE, b"abcd", 9), Err("more"));
    }

    #[test]
    fn extensions_are_bounded_over_the_whole_body() {
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(1023));
        let within = chunk.repeat(EXTENSIONS_MAX / 1024) + "0\r\n\r\n";
        assert!(read(Decoder::chunked(), within.as_bytes(), 9999).is_ok());
        let past = chunk.repeat(EXTENSIONS_MAX / 1024 + 1) + "0\r\n\r\n";
        let found = read(Decoder::chunked(), past.as_bytes(), 9999);
        assert_eq!(found, Err("too many chunk extensions"));
    }

    #[test]
    fn trailers_are_kept_but_for_what_frames_a_message() {
        let input = b"0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: a\r\n\r\n";
        let mut decoder = Decoder::chunked();
        let mut at = 0;
        while let Step::Skip(count) = decoder.next(&input[at..]).expect("chunks") {
            at += count;
        }
        let trailers = decoder.take_trailers().expect("trailers");
        assert_eq!(trailers.names(), ["X-Sum"]);
    }
}
