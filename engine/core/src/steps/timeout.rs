//! The time that a caller of gRPC gives a call: `grpc-timeout` of gRPC over HTTP/2.

use crate::fields::Name;
use crate::head::RequestHead;

/// Most digits of a timeout.
const DIGITS_MAX: usize = 8;
/// Units from the finest that we write, each in microseconds.
const UNITS: [(u8, u64); 5] = [
    (b'u', 1),
    (b'm', 1_000),
    (b'S', 1_000_000),
    (b'M', 60_000_000),
    (b'H', 3_600_000_000),
];

/// The time that the caller gives, in microseconds.
pub fn of(head: &RequestHead) -> Option<u64> {
    let given = head.fields.first(Name::GrpcTimeout);
    given.filter(|_| head.fields.is_grpc()).and_then(parse)
}

/// `head`, telling the program that `left_us` microseconds are left.
pub fn told(head: &RequestHead, left_us: u64) -> RequestHead {
    let mut told = head.clone();
    let text = format(left_us);
    told.fields.set(b"grpc-timeout", text.as_bytes());
    told
}

/// The time that `text` gives, in microseconds; `None`: it is malformed.
pub fn parse(text: &[u8]) -> Option<u64> {
    let (&unit, digits) = text.split_last()?;
    let fits = (1..=DIGITS_MAX).contains(&digits.len());
    if !fits || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    if unit == b'n' {
        return Some(value.div_ceil(1000));
    }
    let (_, unit_us) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(value * unit_us)
}

/// `left_us` microseconds as a timeout, as exact as eight digits can be and never longer.
pub fn format(left_us: u64) -> String {
    let most = 10_u64.pow(8);
    let fitting = UNITS.iter().find(|(_, unit_us)| left_us / unit_us < most);
    match fitting {
        Some((unit, unit_us)) => format!("{}{}", left_us / unit_us, char::from(*unit)),
        None => format!("{}H", most - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_one_to_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(3_600_000_000)),
            ("2M", Some(120_000_000)),
            ("3S", Some(3_000_000)),
            ("4m", Some(4_000)),
            ("5u", Some(5)),
            ("6n", Some(1)),
            ("0n", Some(0)),
            ("0S", Some(0)),
            ("00000001S", Some(1_000_000)),
            ("99999999H", Some(359_999_996_400_000_000)),
            ("100000000n", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("1 S", None),
            (" 1S", None),
            ("1S ", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            ("1SS", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_never_longer() {
        for (left_us, expected) in [
            (0, "0u"),
            (1, "1u"),
            (99_999_999, "99999999u"),
            (100_000_999, "100000m"),
            (99_999_999_999, "99999999m"),
            (100_000_000_000, "100000S"),
            (u64::MAX, "99999999H"),
        ] {
            assert_eq!(format(left_us), expected);
            assert!(parse(expected.as_bytes()).is_some_and(|read_us| read_us <= left_us));
        }
    }
}
