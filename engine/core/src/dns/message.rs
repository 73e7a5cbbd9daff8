//! The little of DNS (RFC 1035) that is read and written here: a header and one question in,
//! addresses or nothing out. Everything else is passed on as it came.

use std::net::IpAddr;

use super::DATAGRAM_MAX;

/// Of an IPv4 address.
pub const A: u16 = 1;
/// Of an IPv6 address.
pub const AAAA: u16 = 28;
/// The class of the Internet.
const INTERNET: u16 = 1;
const SOA: u16 = 6;
/// What either side says of itself (RFC 6891).
const OPT: u16 = 41;
/// Whether answers of DNSSEC are wanted; an answer says it again (RFC 3225 §3).
const WANTS_DNSSEC: u8 = 0x80;
const HEADER: usize = 12;
/// Longest name, in its form on the wire (RFC 1035 §2.3.4).
const NAME_MAX: usize = 255;
const LABEL_MAX: usize = 63;
/// The name of the question, which stands right behind the header, once more (RFC 1035 §4.1.4).
const SAME_NAME: u16 = 0xC000 | HEADER as u16;

/// How long an address may be kept: a service that is deleted and made again has another one.
const TTL_S: u32 = 30;
/// How long it may be remembered that there is nothing.
const NEGATIVE_TTL_S: u32 = 5;

const RESPONSE: u16 = 1 << 15;
const OPCODE: u16 = 0b1111 << 11;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;

/// What an answer says of the question as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// There is such a name, perhaps without what was asked for.
    Fine = 0,
    /// The question cannot be read.
    Malformed = 1,
    /// Nobody could be asked in time.
    Failed = 2,
    /// There is no such name.
    NoSuchName = 3,
    /// Something else than a question.
    Unsupported = 4,
    /// Extensions of a version that is not known here.
    BadVersion = 16,
}

impl Code {
    /// As much of it as stands in the header.
    fn low(self) -> u16 {
        self as u16 & 0b1111
    }
}

/// What the asking side says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extensions {
    version: u8,
    flags: u8,
}

/// A message as far as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// The name in lower case without the last dot; `None`: it has bytes that no host has.
    pub name: Option<String>,
    /// What is asked for.
    pub kind: u16,
    /// Whether it is of the Internet, as all are that matter.
    pub is_internet: bool,
    /// Where the question ends in the message.
    end: usize,
    /// `None`: the client knows no extensions.
    extensions: Option<Extensions>,
}

impl Question {
    /// Whether it is of a version of DNS that is not known here.
    pub fn is_newer(&self) -> bool {
        self.extensions.is_some_and(|asked| asked.version > 0)
    }
}

/// Read a query.
///
/// # Errors
/// The code to answer with; `None`: it needs no answer.
pub fn read(message: &[u8]) -> Result<Question, Option<Code>> {
    let header = message.get(..HEADER).ok_or(None)?;
    let flags = number(header, 2).ok_or(None)?;
    if flags & RESPONSE != 0 {
        return Err(None);
    }
    if flags & OPCODE != 0 {
        return Err(Some(Code::Unsupported));
    }
    let malformed = Some(Code::Malformed);
    // One question, no answers: nobody asks otherwise (RFC 9619).
    if header[4..HEADER - 4] != [0, 1, 0, 0] {
        return Err(malformed);
    }
    let (name, after) = read_name(message).ok_or(malformed)?;
    let kind = number(message, after).ok_or(malformed)?;
    let class = number(message, after + 2).ok_or(malformed)?;
    let end = after + 4;
    let extensions = read_extensions(message, end).ok_or(malformed)?;
    Ok(Question {
        name,
        kind,
        is_internet: class == INTERNET,
        end,
        extensions,
    })
}

/// What the one OPT record among those behind the question says, if there is one (RFC 6891 §6.1);
/// `None`: they cannot be read. Each takes a part of the message.
fn read_extensions(message: &[u8], end: usize) -> Option<Option<Extensions>> {
    let records = u32::from(number(message, 8)?) + u32::from(number(message, 10)?);
    let (mut at, mut found) = (end, None);
    for _ in 0..records {
        let is_root = *message.get(at)? == 0;
        at = after_name(message, at)?;
        let data = at + 10;
        let length = usize::from(number(message, data - 2)?);
        if number(message, at)? == OPT {
            if !is_root || found.is_some() {
                return None;
            }
            found = Some(Extensions {
                version: message[at + 5],
                flags: message[at + 6],
            });
        }
        at = data + length;
        message.get(data..at)?;
    }
    Some(found)
}

/// Where the name at `at` ends, by its last label or by a pointer.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            length if length <= LABEL_MAX => at += 1 + length,
            pointer if pointer >> 6 == 0b11 => return Some(at + 2),
            _ => return None,
        }
    }
}

/// The name behind the header, and where it ends.
fn read_name(message: &[u8]) -> Option<(Option<String>, usize)> {
    let mut text = Some(String::new());
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        // A pointer has nothing to point to before the first name.
        if length > LABEL_MAX || at + 1 + length - HEADER > NAME_MAX {
            return None;
        }
        if length == 0 {
            return Some((text, at + 1));
        }
        let label = message.get(at + 1..at + 1 + length)?;
        let plain = label
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        text = text.filter(|_| plain).map(|mut text| {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(
                label
                    .iter()
                    .map(|byte| char::from(byte.to_ascii_lowercase())),
            );
            text
        });
        at += 1 + length;
    }
}

/// Whether `reply` answers `query`: the same id and question.
pub fn answers(reply: &[u8], query: &[u8], question: &Question) -> bool {
    reply.get(..2) == query.get(..2)
        && number(reply, 2).is_some_and(|flags| flags & RESPONSE != 0)
        // Some servers leave the question out of an error.
        && (reply.get(4..6) == Some(&[0, 0])
            || reply.get(HEADER..question.end).is_some_and(|asked| {
                asked.eq_ignore_ascii_case(&query[HEADER..question.end])
            }))
}

/// Whether a reply says that there is no such name (RFC 1035 §4.1.1).
pub fn denies(reply: &[u8]) -> bool {
    reply
        .get(3)
        .is_some_and(|flags| flags & 0x0f == Code::NoSuchName as u8)
}

/// The answer to `question` in `query`: these addresses, or that there are none.
pub fn answer(query: &[u8], question: &Question, code: Code, addresses: &[IpAddr]) -> Vec<u8> {
    let mut message = head(query, question.end, AUTHORITATIVE | code.low());
    let answers = u16::try_from(addresses.len()).unwrap_or(0);
    message[6..8].copy_from_slice(&answers.to_be_bytes());
    for address in addresses {
        match address {
            IpAddr::V4(address) => record(&mut message, A, TTL_S, &address.octets()),
            IpAddr::V6(address) => record(&mut message, AAAA, TTL_S, &address.octets()),
        }
    }
    if addresses.is_empty() {
        message[8..10].copy_from_slice(&1u16.to_be_bytes());
        // Both names of the authority are the root; of its times only the last counts
        // (RFC 2308 §4): how long to remember that there is nothing.
        let mut authority = vec![0, 0];
        for time in [
            1,
            NEGATIVE_TTL_S,
            NEGATIVE_TTL_S,
            NEGATIVE_TTL_S,
            NEGATIVE_TTL_S,
        ] {
            authority.extend_from_slice(&time.to_be_bytes());
        }
        record(&mut message, SOA, NEGATIVE_TTL_S, &authority);
    }
    extend(&mut message, question, code);
    message
}

/// An answer that says `code` and no more; `question`, if it could be read, is in it.
pub fn refusal(query: &[u8], question: Option<&Question>, code: Code) -> Vec<u8> {
    let end = question.map_or(HEADER, |question| question.end);
    let mut message = head(query, end, code.low());
    if let Some(question) = question {
        extend(&mut message, question, code);
    }
    message
}

/// An answer that has to be asked for by TCP.
pub fn truncated(query: &[u8], question: &Question) -> Vec<u8> {
    let mut message = head(query, question.end, TRUNCATED);
    extend(&mut message, question, Code::Fine);
    message
}

/// Say of ourselves what has to be said to who does so, too (RFC 6891 §6.1.1).
fn extend(message: &mut Vec<u8>, question: &Question, code: Code) {
    let Some(asked) = question.extensions else {
        return;
    };
    message[10..HEADER].copy_from_slice(&1u16.to_be_bytes());
    message.push(0); // the root
    for number in [OPT, DATAGRAM_MAX as u16] {
        message.extend_from_slice(&number.to_be_bytes());
    }
    let (high, version) = ((code as u16 >> 4) as u8, 0);
    message.extend_from_slice(&[high, version, asked.flags & WANTS_DNSSEC, 0]);
    message.extend_from_slice(&[0, 0]); // no options
}

/// The query up to `end` as the beginning of an answer. It must have a header.
fn head(query: &[u8], end: usize, flags: u16) -> Vec<u8> {
    let mut message = query[..end].to_vec();
    let kept = number(query, 2).unwrap_or(0) & (OPCODE | RECURSION_DESIRED);
    let flags = RESPONSE | RECURSION_AVAILABLE | kept | flags;
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    message[4..6].copy_from_slice(&u16::from(end > HEADER).to_be_bytes());
    message[6..HEADER].fill(0);
    message
}

fn record(message: &mut Vec<u8>, kind: u16, ttl_s: u32, data: &[u8]) {
    let length = u16::try_from(data.len()).unwrap_or(0);
    for number in [SAME_NAME, kind, INTERNET] {
        message.extend_from_slice(&number.to_be_bytes());
    }
    message.extend_from_slice(&ttl_s.to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(data);
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(labels: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut message = vec![0xAB, 0xCD, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            message.push(u8::try_from(label.len()).expect("a label"));
            message.extend_from_slice(label);
        }
        message.push(0);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&INTERNET.to_be_bytes());
        message
    }

    #[test]
    fn a_question_is_read_in_lower_case() {
        let message = query(&[b"Cart", b"shop"], AAAA);
        let question = read(&message).expect("a question");

        assert_eq!(question.name.as_deref(), Some("cart.shop"));
        assert_eq!((question.kind, question.is_internet), (AAAA, true));
        assert_eq!(question.end, message.len());
    }

    #[test]
    fn what_is_no_question_is_told_apart() {
        let whole = query(&[b"cart"], A);
        let changed = |at: usize, byte: u8| {
            let mut message = whole.clone();
            message[at] = byte;
            read(&message).err()
        };
        let malformed = Some(Some(Code::Malformed));
        for (what, found, expected) in [
            ("cut in the header", read(&whole[..11]).err(), Some(None)),
            ("a response", changed(2, 0x81), Some(None)),
            ("an update", changed(2, 0x28), Some(Some(Code::Unsupported))),
            ("two questions", changed(5, 2), malformed),
            ("an answer in it", changed(7, 1), malformed),
            ("a pointer", changed(12, 0xC0), malformed),
            ("a label that is too long", changed(12, 64), malformed),
            ("cut in the name", read(&whole[..15]).err(), malformed),
            (
                "cut in the class",
                read(&whole[..whole.len() - 1]).err(),
                malformed,
            ),
        ] {
            assert_eq!(found, expected, "{what}");
        }
    }

    /// `message` with what its client says of itself.
    fn extended(mut message: Vec<u8>, version: u8) -> Vec<u8> {
        message[11] += 1;
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, version, 0x80, 0, 0, 4, 0, 10, 0, 0]);
        message
    }

    #[test]
    fn who_speaks_of_itself_is_answered_in_kind() {
        let asked = extended(query(&[b"cart"], A), 0);
        let question = read(&asked).expect("a question");
        assert!(!question.is_newer());
        let address = ["240.240.0.1".parse().expect("an address")];
        for (answer, high) in [
            (answer(&asked, &question, Code::Fine, &address), 0),
            (answer(&asked, &question, Code::NoSuchName, &[]), 0),
            (refusal(&asked, Some(&question), Code::Failed), 0),
            (refusal(&asked, Some(&question), Code::BadVersion), 1),
            (truncated(&asked, &question), 0),
        ] {
            assert_eq!(answer[10..12], [0, 1]);
            let own = [0, 0, 41, 16, 0, high, 0, 0x80, 0, 0, 0];
            assert!(answer.ends_with(&own), "{answer:?}");
            assert!(high == 0 || answer[3] & 0xf == 0);
        }
        let plain = query(&[b"cart"], A);
        let question = read(&plain).expect("a question");
        assert_eq!(answer(&plain, &question, Code::Fine, &[])[10..12], [0, 0]);
    }

    #[test]
    fn a_newer_version_is_seen_and_what_cannot_be_read_is_no_question() {
        let plain = query(&[b"cart"], A);
        let newer = read(&extended(plain.clone(), 1)).expect("a question");
        assert!(newer.is_newer());
        let malformed = Err(Some(Code::Malformed));
        let whole = extended(plain.clone(), 0);
        for length in plain.len()..whole.len() {
            assert_eq!(read(&whole[..length]), malformed, "{length}");
        }
        assert_eq!(read(&extended(whole.clone(), 0)), malformed, "two of them");
        let mut named = whole;
        named.splice(plain.len()..=plain.len(), [0xC0, 12]);
        assert_eq!(read(&named), malformed, "its name is not the root");
        // Other records are passed over: this one's name is a pointer.
        let mut before = plain.clone();
        before[11] = 1;
        before.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 7]);
        let question = read(&extended(before, 1)).expect("a question");
        assert!(question.is_newer());
    }

    #[test]
    fn a_name_of_255_bytes_is_the_bound() {
        let label = [b'a'; 63];
        let name = |last: usize| [&label[..], &label, &label, &label[..last]];

        assert!(read(&query(&name(61), A)).is_ok());
        assert_eq!(read(&query(&name(62), A)), Err(Some(Code::Malformed)));
    }

    #[test]
    fn a_name_that_no_host_has_is_passed_on() {
        for label in [&b"a.b"[..], b"\xffa", b"a b"] {
            let message = query(&[label, b"shop"], A);
            assert_eq!(read(&message).expect("a question").name, None);
        }
    }

    #[test]
    fn a_reply_must_be_to_the_question() {
        let message = query(&[b"cart"], A);
        let question = read(&message).expect("a question");
        let reply = answer(&message, &question, Code::Fine, &[]);

        assert!(answers(&reply, &message, &question));
        assert!(answers(
            &refusal(&message, None, Code::Failed),
            &message,
            &question
        ));
        assert!(!answers(&message, &message, &question));
        let other = query(&[b"carp"], A);
        let other = answer(&other, &read(&other).expect("a question"), Code::Fine, &[]);
        assert!(!answers(&other, &message, &question));
        let mut another_id = reply;
        another_id[0] ^= 1;
        assert!(!answers(&another_id, &message, &question));
    }

    #[test]
    fn an_answer_fits_into_a_datagram_of_any_resolver() {
        let label = [b'a'; 63];
        let message = extended(query(&[&label, &label, &label, &label[..61]], A), 0);
        let question = read(&message).expect("a question");
        let addresses = ["240.240.0.1".parse().expect("an address"); 2];

        assert!(answer(&message, &question, Code::Fine, &addresses).len() <= 512);
        assert!(answer(&message, &question, Code::Fine, &[]).len() <= 512);
    }

    proptest! {
        /// Never a panic, and every answer can be read by its own client.
        #[test]
        fn any_bytes_are_read_or_refused(
            message in prop::collection::vec(any::<u8>(), 0..300),
            as_query in any::<bool>(),
        ) {
            let mut message = message;
            if as_query && message.len() >= HEADER {
                message[2..8].copy_from_slice(&[1, 0, 0, 1, 0, 0]);
                message[8..11].fill(0);
                message[11] %= 3;
            }
            match read(&message) {
                Err(None) => {}
                Err(Some(code)) => {
                    prop_assert_eq!(refusal(&message, None, code).len(), HEADER);
                }
                Ok(question) => {
                    prop_assert!(question.end <= message.len());
                    let reply = answer(&message, &question, Code::Fine, &[]);
                    prop_assert!(answers(&reply, &message, &question));
                }
            }
        }

        /// A name that is written is the one that is read.
        #[test]
        fn names_round_trip(labels in prop::collection::vec("[a-z0-9-]{1,20}", 1..8)) {
            let bytes: Vec<&[u8]> = labels.iter().map(String::as_bytes).collect();
            let question = read(&query(&bytes, A)).expect("a question");
            prop_assert_eq!(question.name, Some(labels.join(".")));
        }
    }
}
