//! W3C Trace Context: pass `traceparent` on, make one where there is none or a broken one.

use crate::fields::{Fields, Name};

/// Make sure that the request carries a valid `traceparent` (W3C Trace Context, level 1).
pub fn ensure(fields: &mut Fields) {
    if of(fields).is_some() {
        return;
    }
    // A broken parent means that its state cannot be trusted (§3.3.1.2).
    fields.remove(&[Name::Traceparent, Name::Tracestate]);
    let mut text = [b'0'; 55];
    let (trace, span) = (fastrand::u128(1..), fastrand::u64(1..));
    write_hex(&mut text[3..35], &trace.to_be_bytes());
    write_hex(&mut text[36..52], &span.to_be_bytes());
    // Sampled: a parent that is not would make every application drop its part of the trace.
    text[54] = b'1';
    for dash in [2, 35, 52] {
        text[dash] = b'-';
    }
    fields.append(b"traceparent", &text);
}

/// The trace id of a valid `traceparent` in `fields`.
pub fn of(fields: &Fields) -> Option<&str> {
    trace_id(fields.first(Name::Traceparent)?)
}

fn trace_id(value: &[u8]) -> Option<&str> {
    let hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &[u8]| part.iter().all(|&byte| byte == b'0');
    let known_length = value.len() == 55 || (value.len() > 55 && value[55] == b'-');
    if !known_length || value[2] != b'-' || value[35] != b'-' || value[52] != b'-' {
        return None;
    }
    let (version, trace, span, flags) =
        (&value[..2], &value[3..35], &value[36..52], &value[53..55]);
    let valid = hex(version)
        && version != b"ff"
        && (version != b"00" || value.len() == 55)
        && hex(trace)
        && !zero(trace)
        && hex(span)
        && !zero(span)
        && hex(flags);
    valid.then(|| std::str::from_utf8(trace).ok()).flatten()
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (place, byte) in out.chunks_exact_mut(2).zip(bytes) {
        place[0] = DIGITS[usize::from(byte >> 4)];
        place[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_parent_is_passed_on_and_anything_else_replaced() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (given, kept) in [
            (valid.to_owned(), true),
            (valid.replace("00-4", "01-4"), true),
            (valid.replace("00-4", "ff-4"), false),
            (valid.to_uppercase(), false),
            (format!("{valid}-more"), false),
            (
                valid.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
                false,
            ),
            ("nonsense".to_owned(), false),
            (String::new(), false),
        ] {
            let mut fields = Fields::of(&[("Traceparent", &given), ("tracestate", "a=b")]);
            ensure(&mut fields);
            let now = fields.get("traceparent").expect("one").into_owned();
            assert_eq!(now == given, kept, "{given}");
            assert!(trace_id(now.as_bytes()).is_some(), "{now}");
            assert_eq!(fields.has(Name::Tracestate), kept);
        }
    }
}
