//! What the HTTP/1.1 codec makes of any bytes, against what hyper makes of them, against itself, and
//! between it and HTTP/2.
//!
//! [`ours`] and [`theirs`] read the same bytes into the same [`Message`]s. Where the two differ,
//! one of the [`rules`] says why, or the target fails. [`split`] reads once in pieces and writes
//! what was read, [`bridge`] passes it on in the other version. [`seeds`] are where the fuzzer begins, and a case for every rule.

pub mod bridge;
pub mod ours;
pub mod rules;
pub mod seeds;
pub mod split;
pub mod theirs;

use http::Version;
use rules::Difference;
use tulle_engine::http1::parse::AskedWith;

/// Follows every input of requests: whoever keeps the connection reads it as the next request.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nhost: probe\r\n\r\n";

/// Name and value of a line.
pub type Line = (Vec<u8>, Vec<u8>);

/// What a reader made of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What the first line means: method and target, or status and phrase.
    pub first: String,
    /// The version it came in.
    pub version: Version,
    /// The lines, names in lower case; those of one name in the order they came in.
    pub fields: Vec<Line>,
    /// As much of the body as was read.
    pub body: Vec<u8>,
    /// The trailer section.
    pub trailers: Vec<Line>,
    /// The body was read to its end.
    pub whole: bool,
}

impl Message {
    /// Whether both readers say the same. What comes of a body that breaks off depends on how it
    /// was read, and is not compared.
    fn agrees(&self, other: &Message) -> bool {
        let heads = (&self.first, self.version, &self.fields)
            == (&other.first, other.version, &other.fields);
        let bodies = (&self.body, &self.trailers) == (&other.body, &other.trailers);
        heads && self.whole == other.whole && (!self.whole || bodies)
    }
}

/// Lines by name, as a map keeps them.
fn by_name(lines: impl Iterator<Item = Line>) -> Vec<Line> {
    let mut lines: Vec<Line> = lines
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines
}

/// A response and what is told of the connection after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The final response.
    pub message: Message,
    /// The bytes behind it.
    pub left: usize,
    /// Whether the connection may carry another request; `None`: it was not asked.
    pub kept: Option<bool>,
}

impl Reply {
    fn agrees(&self, other: &Reply) -> bool {
        let kept = self.left > 0 || other.kept.is_none() || self.kept == other.kept;
        self.message.agrees(&other.message)
            && (!self.message.whole || (self.left == other.left && kept))
    }
}

/// The target `request`: pipelined requests, as a server reads them.
///
/// # Panics
/// hyper reads something else, and no rule says why.
pub fn request(input: &[u8]) {
    requests(input).unwrap_or_else(|found| panic!("{found}"));
}

/// The rule that explains how the two readings differ; `None`: they do not.
///
/// # Errors
/// No rule does.
pub fn requests(input: &[u8]) -> Result<Option<&'static str>, String> {
    let input = [input, PROBE].concat();
    let (ours, ends) = ours::requests(&input);
    let theirs = theirs::requests(&input);
    for at in 0..ours.len().max(theirs.len()) {
        let (one, other) = (ours.get(at), theirs.get(at));
        if one.is_some_and(|one| other.is_some_and(|other| one.agrees(other))) {
            continue;
        }
        let before = at.checked_sub(1);
        let begin = before.map_or(0, |before| ends[before]);
        let before = before.and_then(|before| ours.get(before));
        let difference = Difference::new(&input[begin..], before, one, other);
        return rules::find(rules::REQUEST, &difference).map(Some);
    }
    Ok(None)
}

/// The target `response`: the final response to what the first byte says was asked.
///
/// # Panics
/// hyper reads something else, and no rule says why.
pub fn response(input: &[u8]) {
    if let Some((&asked, input)) = input.split_first() {
        responses(asked_with(asked), input).unwrap_or_else(|found| panic!("{found}"));
    }
}

/// The rule that explains how the two readings differ; `None`: they do not.
///
/// # Errors
/// No rule does.
pub fn responses(asked: AskedWith, input: &[u8]) -> Result<Option<&'static str>, String> {
    let (ours, interim) = ours::response(asked, input);
    let theirs = theirs::response(asked, input);
    let agree = match (&ours, &theirs) {
        (Some(one), Some(other)) => one.agrees(other),
        (one, other) => one.is_none() && other.is_none(),
    };
    if agree {
        return Ok(None);
    }
    let one = ours.as_ref().map(|reply| &reply.message);
    let other = theirs.as_ref().map(|reply| &reply.message);
    let difference = Difference::new(&input[interim..], one, one, other);
    let found = rules::find(rules::RESPONSE, &difference).map(Some);
    found.map_err(|text| format!("{text}\nreplies: {ours:#?}\n{theirs:#?}"))
}

/// What a byte stands for.
fn asked_with(byte: u8) -> AskedWith {
    AskedWith {
        head: byte % 4 == 1,
        switch: byte % 4 == 2,
    }
}
