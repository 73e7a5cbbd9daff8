//! The frames of the record stream, for both ends.
//!
//! A frame is a big-endian `u32` length of what follows, a `u8` [`Kind`] and a payload. Payloads
//! are JSON, save for records: two length-prefixed texts (name, version) and the record's bytes
//! as they are, so that the hub encodes a record once for all its subscribers.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest frame, counted from its kind: room for a service with 30,000 endpoints.
pub const MAX_FRAME_BYTES: usize = 4 * 1024 * 1024;
const LENGTH_BYTES: usize = 4;
const KIND_BYTES: usize = 1;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame says; the numbers are the wire format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Sidecar: who it is; the first frame.
    Hello = 1,
    /// Sidecar: send me this record, of which I hold this version or none.
    Subscribe = 2,
    /// Sidecar: this record is not needed any more.
    Unsubscribe = 3,
    /// Sidecar: a record is in force.
    Ack = 4,
    /// Sidecar: a record was refused, the previous one stays.
    Nack = 5,
    /// Sidecar: whether the workload is ready, and whether it drains.
    Status = 6,
    /// Sidecar: what it measured.
    Report = 7,
    /// Sidecar: one request, seen by a tap.
    TapEntry = 8,
    /// Sidecar: the answer to [`Kind::Resolve`].
    Resolved = 9,
    /// Hub: a record.
    Record = 16,
    /// Hub: the version you hold is the newest.
    Unchanged = 17,
    /// Hub: there is no such record.
    Absent = 18,
    /// Hub: start to send what requests you see.
    Tap = 19,
    /// Hub: stop that.
    Untap = 20,
    /// Hub: what would you do with this request?
    Resolve = 21,
    /// Hub: I close the stream, and why.
    Goodbye = 22,
}

/// One frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub kind: Kind,
    /// The rest; it shares memory with the buffer it was read from.
    pub payload: Bytes,
}

/// Bytes that are no frame, or something that does not fit into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// A length of zero, or above [`MAX_FRAME_BYTES`].
    Length(usize),
    /// A number that is no [`Kind`].
    Kind(u8),
    /// A record whose name or version is cut off, too long, or not UTF-8.
    Record(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(bytes) => {
                write!(f, "frame of {bytes} bytes; must be 1 to {MAX_FRAME_BYTES}")
            }
            Self::Kind(number) => write!(f, "frame of unknown kind {number}"),
            Self::Record(why) => write!(f, "record frame: {why}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// The bytes of one frame.
pub fn encode(kind: Kind, payload: &[u8]) -> Result<Bytes, FrameError> {
    let mut frame = start(kind, payload.len())?;
    frame.put_slice(payload);
    Ok(frame.freeze())
}

/// The bytes of a [`Kind::Record`] frame.
pub fn encode_record(name: &str, version: &str, data: &[u8]) -> Result<Bytes, FrameError> {
    let name_len = text_length(name, "name too long")?;
    let version_len = text_length(version, "version too long")?;
    let length = 2 + name.len() + 2 + version.len() + data.len();
    let mut frame = start(Kind::Record, length)?;
    frame.put_u16(name_len);
    frame.put_slice(name.as_bytes());
    frame.put_u16(version_len);
    frame.put_slice(version.as_bytes());
    frame.put_slice(data);
    Ok(frame.freeze())
}

fn start(kind: Kind, payload_len: usize) -> Result<BytesMut, FrameError> {
    let length = KIND_BYTES + payload_len;
    let prefix = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_FRAME_BYTES)
        .ok_or(FrameError::Length(length))?;
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + length);
    frame.put_u32(prefix);
    frame.put_u8(kind as u8);
    Ok(frame)
}

fn text_length(text: &str, too_long: &'static str) -> Result<u16, FrameError> {
    u16::try_from(text.len()).map_err(|_| FrameError::Record(too_long))
}

/// The payload of a [`Kind::Record`] frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `<kind>/<namespace>/<name>`.
    pub name: String,
    /// Equal versions mean equal bytes.
    pub version: String,
    /// The record itself, JSON.
    pub data: Bytes,
}

impl Record {
    /// Reads the payload of a frame.
    pub fn parse(mut payload: Bytes) -> Result<Self, FrameError> {
        let name = take_text(&mut payload)?;
        let version = take_text(&mut payload)?;
        Ok(Self {
            name,
            version,
            data: payload,
        })
    }
}

fn take_text(payload: &mut Bytes) -> Result<String, FrameError> {
    let cut_off = FrameError::Record("cut off");
    if payload.len() < 2 {
        return Err(cut_off);
    }
    let length = usize::from(payload.get_u16());
    if payload.len() < length {
        return Err(cut_off);
    }
    let text = payload.split_to(length);
    match std::str::from_utf8(&text) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(FrameError::Record("name or version is not UTF-8")),
    }
}

/// Cuts a byte stream into frames, however it was chopped up on the way.
///
/// It holds at most one unfinished frame plus the last chunk, and nothing between frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in bytes that arrived; call [`Decoder::next_frame`] until it has no more.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole frame. After an error the stream cannot be read any further.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        // Not `try_from`: u32 fits into usize wherever the engine runs.
        let length = u32::from_be_bytes(*prefix) as usize;
        if !(KIND_BYTES..=MAX_FRAME_BYTES).contains(&length) {
            return Err(FrameError::Length(length));
        }
        let Some(&number) = self.buffer.get(LENGTH_BYTES) else {
            return Ok(None);
        };
        // Checked before the payload has arrived: rubbish is not worth waiting for.
        let kind = Kind::from_byte(number).ok_or(FrameError::Kind(number))?;
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(LENGTH_BYTES + length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        frame.advance(LENGTH_BYTES + KIND_BYTES);
        Ok(Some(Frame {
            kind,
            payload: frame.freeze(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_frame() -> impl Strategy<Value = (Kind, Vec<u8>)> {
        (
            proptest::sample::select(Kind::ALL),
            proptest::collection::vec(any::<u8>(), 0..300),
        )
    }

    fn decode_all(decoder: &mut Decoder) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in proptest::collection::vec(any_frame(), 0..8),
            cut in 1_usize..64,
        ) {
            let mut wire = Vec::new();
            for (kind, payload) in &frames {
                wire.extend_from_slice(&encode(*kind, payload).unwrap());
            }
            let (mut decoder, mut read) = (Decoder::new(), Vec::new());
            for chunk in wire.chunks(cut) {
                decoder.push(chunk);
                read.extend(decode_all(&mut decoder));
            }

            let read: Vec<_> = read.into_iter().map(|f| (f.kind, f.payload.to_vec())).collect();
            prop_assert_eq!(frames, read);
            prop_assert!(decoder.buffer.is_empty());
        }

        #[test]
        fn rubbish_never_panics_and_never_grows_past_a_frame(
            rubbish in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut decoder = Decoder::new();
            for chunk in rubbish.chunks(97) {
                decoder.push(chunk);
                while let Ok(Some(frame)) = decoder.next_frame() {
                    let _ = Record::parse(frame.payload);
                }
            }
        }

        #[test]
        fn a_record_comes_out_as_it_went_in(
            name in ".{0,80}", version in "[0-9a-f]{16}",
            data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut decoder = Decoder::new();
            decoder.push(&encode_record(&name, &version, &data).unwrap());
            let frame = decoder.next_frame().unwrap().unwrap();

            prop_assert_eq!(Kind::Record, frame.kind);
            let data = Bytes::from(data);
            prop_assert_eq!(Ok(Record { name, version, data }), Record::parse(frame.payload));
        }
    }

    #[test]
    fn the_largest_frame_passes_and_one_byte_more_does_not() {
        let payload = vec![7; MAX_FRAME_BYTES];

        let largest = encode(Kind::Report, &payload[1..]).unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&largest);

        assert_eq!(
            MAX_FRAME_BYTES - 1,
            decoder.next_frame().unwrap().unwrap().payload.len()
        );
        let error = FrameError::Length(MAX_FRAME_BYTES + 1);
        assert_eq!(Err(error.clone()), encode(Kind::Report, &payload));
        decoder.push(&u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_be_bytes());
        assert_eq!(Err(error), decoder.next_frame());
    }

    #[test]
    fn a_wrong_length_or_kind_is_an_error_before_the_payload_is_there() {
        for (wire, error) in [
            (&[0, 0, 0, 0][..], FrameError::Length(0)),
            (&[0xff; 4], FrameError::Length(0xffff_ffff)),
            (&[0, 0, 1, 0, 99], FrameError::Kind(99)),
        ] {
            let mut decoder = Decoder::new();
            decoder.push(wire);
            assert_eq!(Err(error), decoder.next_frame());
        }
    }

    #[test]
    fn a_record_with_a_wrong_inner_length_is_an_error() {
        for payload in [
            &b""[..],
            b"\0",
            b"\0\x05abc",
            b"\0\x01a\0",
            b"\0\x01a\0\x09v",
        ] {
            let error = Record::parse(Bytes::copy_from_slice(payload));
            assert_eq!(Err(FrameError::Record("cut off")), error, "{payload:?}");
        }
        assert!(Record::parse(Bytes::from_static(b"\0\x01\xff\0\0")).is_err());
    }
}
