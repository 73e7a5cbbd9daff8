//! The hub's side of the frames: what peers may say, and what is said to them.
//!
//! Payloads are parsed into types here, once. Only a report stays bytes, as it may be large:
//! it is checked to be JSON that Python's parser takes, and handed on as it came.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::Command;
use crate::control::frame::{Kind, encode, encode_record};

/// JSON nested deeper than this is refused; a report needs 5.
const JSON_DEPTH_MAX: usize = 64;

/// Python refuses integers of more than 4,300 digits; nothing here needs more than 25.
const NUMBER_DIGITS_MAX: usize = 100;

/// What a sidecar said.
#[derive(Debug)]
pub(super) enum Said {
    Hello(Hello),
    Subscribe(Subscribe),
    Unsubscribe(Named),
    Ack(Ack),
    Nack(Nack),
    Status(Status),
    /// A JSON value, checked and unparsed.
    Report(Bytes),
    Tap(Tap),
    Resolved(Resolved),
}

/// The first frame: who the sidecar serves. The hub reads the names and hands on the whole.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    pub(super) whole: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct Subscribe {
    pub(super) name: String,
    pub(super) version: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ack {
    pub(super) name: String,
    pub(super) version: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Nack {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) error: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Status {
    pub(super) ready: bool,
    pub(super) draining: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tap {
    pub(super) id: u64,
    pub(super) entry: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct Resolved {
    pub(super) id: u64,
    pub(super) result: Value,
}

/// Read one frame of a sidecar.
///
/// # Errors
/// Why the peer has to be told goodbye.
pub(super) fn parse(kind: Kind, payload: Bytes) -> Result<Said, String> {
    Ok(match kind {
        Kind::Hello => Said::Hello(hello(&payload)?),
        Kind::Subscribe => Said::Subscribe(typed("subscribe", &payload)?),
        Kind::Unsubscribe => Said::Unsubscribe(typed("unsubscribe", &payload)?),
        Kind::Ack => Said::Ack(typed("ack", &payload)?),
        Kind::Nack => Said::Nack(typed("nack", &payload)?),
        Kind::Status => Said::Status(typed("status", &payload)?),
        Kind::Report => {
            check_json(&payload).map_err(|why| format!("report: {why}"))?;
            Said::Report(payload)
        }
        Kind::TapEntry => Said::Tap(typed("tap", &payload)?),
        Kind::Resolved => Said::Resolved(typed("resolved", &payload)?),
        other => return Err(format!("a sidecar does not send {other:?} frames")),
    })
}

fn typed<'a, T: Deserialize<'a>>(what: &str, payload: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| format!("{what}: {error}"))
}

fn hello(payload: &[u8]) -> Result<Hello, String> {
    let whole: Value = typed("hello", payload)?;
    let text = |field: &str| {
        let value = whole.pointer(&format!("/workload/{field}"));
        let text = value.and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| format!("hello: workload.{field} must be a string"))
    };
    Ok(Hello {
        namespace: text("namespace")?,
        name: text("name")?,
        service_account: text("service_account")?,
        whole,
    })
}

/// Whether bytes are JSON that both serde and Python's parser take.
fn check_json(payload: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())?;
    let (mut depth, mut digits) = (0_usize, 0_usize);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return Err(format!("nested deeper than {JSON_DEPTH_MAX}"));
        }
        if digits > NUMBER_DIGITS_MAX {
            return Err(format!("a number of more than {NUMBER_DIGITS_MAX} digits"));
        }
    }
    Ok(())
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// A record, encoded once for all its subscribers.
///
/// # Errors
/// The record is too large for a frame.
pub(super) fn record(name: &str, version: &str, data: &[u8]) -> Result<Bytes, String> {
    encode_record(name, version, data).map_err(|error| error.to_string())
}

/// A command to one peer.
///
/// # Errors
/// The body is too large for a frame.
pub(super) fn command(command: Command, body: &[u8]) -> Result<Bytes, String> {
    let kind = match command {
        Command::Tap => Kind::Tap,
        Command::Untap => Kind::Untap,
        Command::Resolve => Kind::Resolve,
    };
    encode(kind, body).map_err(|error| error.to_string())
}

pub(super) fn unchanged(name: &str, version: &str) -> Bytes {
    small(
        Kind::Unchanged,
        &json!({"name": name, "version": version}).to_string(),
    )
}

pub(super) fn absent(name: &str) -> Bytes {
    small(Kind::Absent, &json!({"name": name}).to_string())
}

pub(super) fn goodbye(reason: &str) -> Bytes {
    small(Kind::Goodbye, &json!({"reason": reason}).to_string())
}

fn small(kind: Kind, payload: &str) -> Bytes {
    encode(kind, payload.as_bytes()).expect("names, versions and reasons are short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(payload: &str) -> Result<Said, String> {
        parse(Kind::Report, Bytes::copy_from_slice(payload.as_bytes()))
    }

    #[test]
    fn a_report_must_be_json_python_can_parse() {
        let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
        let digits = |count| format!("[{}]", "1".repeat(count));
        assert!(report(r#"{"edges":[{"route":"]]]\"[[["}]}"#).is_ok());
        assert!(report(&deep(JSON_DEPTH_MAX)).is_ok());
        assert!(report(&deep(JSON_DEPTH_MAX + 1)).is_err());
        assert!(report(&digits(NUMBER_DIGITS_MAX)).is_ok());
        assert!(report(&digits(NUMBER_DIGITS_MAX + 1)).is_err());
        assert!(report("{").is_err());
        let not_utf8 = Bytes::from_static(b"\"\xff\"");
        assert!(parse(Kind::Report, not_utf8).is_err());
    }

    #[test]
    fn a_hello_names_its_workload() {
        let parsed =
            |payload: &'static str| parse(Kind::Hello, Bytes::from_static(payload.as_bytes()));
        let said = parsed(r#"{"workload":{"namespace":"shop","name":"a","service_account":"b"}}"#);
        assert!(matches!(said, Ok(Said::Hello(hello)) if hello.name == "a"));
        let why = parsed(r#"{"workload":{"namespace":"shop","name":7}}"#).expect_err("no name");
        assert_eq!(why, "hello: workload.name must be a string");
    }

    #[test]
    fn a_sidecar_may_not_send_what_the_hub_sends() {
        let why = parse(Kind::Goodbye, Bytes::from_static(b"{}")).expect_err("wrong way");
        assert_eq!(why, "a sidecar does not send Goodbye frames");
    }
}
