//! Paths and queries in the one form that policy, route and application read alike.

/// A path that no policy can be made to misread.
#[derive(Debug, PartialEq, Eq)]
pub enum Normal {
    /// It is already in normal form.
    Same,
    /// The normal form.
    Changed(String),
    /// It climbs above the root, hides a dot segment from some readers, or holds a NUL or a
    /// broken escape: refuse it.
    Refused,
}

/// Normalize a path as RFC 3986 §6.2.2 says: unreserved characters are decoded, dot segments
/// removed; a backslash counts as a slash, and several slashes as one. The application gets the
/// result, so that policy, route and application read the same path.
pub fn normalize_path(path: &str) -> Normal {
    let bytes = path.as_bytes();
    let suspicious = bytes.iter().enumerate().any(|(index, &byte)| {
        let after_slash = index > 0 && bytes[index - 1] == b'/';
        byte == b'%' || byte == b'\\' || (after_slash && (byte == b'.' || byte == b'/'))
    });
    if !suspicious {
        return Normal::Same;
    }
    let Some(decoded) = decode_unreserved(bytes) else {
        return Normal::Refused;
    };
    let Ok(text) = String::from_utf8(decoded) else {
        return Normal::Refused;
    };
    match remove_dot_segments(&text) {
        None => Normal::Refused,
        Some(result) if result == path => Normal::Same,
        Some(result) => Normal::Changed(result),
    }
}

/// How an application may read a path otherwise than as it is: with every escape decoded, without
/// the parameters of its segments (`/a;b/c`, as servlets do), or both, in either order.
pub fn readings(path: &str) -> Vec<String> {
    let (decoded, bare) = (decoded(path), without_parameters(path));
    let both = [
        decoded.as_deref().and_then(without_parameters),
        bare.as_deref().and_then(self::decoded),
    ];
    [decoded, bare].into_iter().chain(both).flatten().collect()
}

/// `None`: it has no escape.
fn decoded(path: &str) -> Option<String> {
    let is_escaped = path.contains('%');
    is_escaped.then(|| resolved(decode_escapes(path).replace('\\', "/")))
}

/// `None`: it has none.
fn without_parameters(path: &str) -> Option<String> {
    let name = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    let names = || path.split('/').map(name).collect::<Vec<_>>();
    path.contains(';').then(|| resolved(names().join("/")))
}

fn resolved(path: String) -> String {
    remove_dot_segments(&path).unwrap_or(path)
}

fn decode_unreserved(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let byte = hex_pair(bytes, at + 1)?;
                match byte {
                    0 => return None,
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        out.push(byte);
                    }
                    _ => out.extend_from_slice(&bytes[at..at + 3]),
                }
                at += 2;
            }
            b'\\' => out.push(b'/'),
            byte => out.push(byte),
        }
        at += 1;
    }
    Some(out)
}

fn remove_dot_segments(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some(path.to_owned());
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if hides_dots(segment) {
            return None;
        }
        match segment {
            "" | "." => {
                if last {
                    kept.push("");
                }
            }
            ".." => {
                kept.pop()?;
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    Some(format!("/{}", kept.join("/")))
}

/// Whether some applications find a dot segment here and others do not: `..;a`, `..%2F`.
fn hides_dots(segment: &str) -> bool {
    let is_dots = |piece: &str| matches!(piece.split(';').next(), Some("." | ".."));
    let escaped = segment.to_ascii_uppercase().replace("%5C", "%2F");
    !matches!(segment, "." | "..") && escaped.split("%2F").any(is_dots)
}

/// Decode `application/x-www-form-urlencoded` text.
pub fn decode_query(text: &str) -> String {
    decode_escapes(&text.replace('+', " "))
}

/// Decode all escapes; broken ones stay as they are.
fn decode_escapes(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => match hex_pair(bytes, at + 1) {
                Some(byte) => {
                    out.push(byte);
                    at += 2;
                }
                None => out.push(b'%'),
            },
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let high = char::from(*bytes.get(at)?).to_digit(16)?;
    let low = char::from(*bytes.get(at + 1)?).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalized_or_refused() {
        let changed = |path: &str| Normal::Changed(path.to_owned());
        for (given, expected) in [
            ("/", Normal::Same),
            ("/a/b.html", Normal::Same),
            ("/a/.well-known", Normal::Same),
            ("/a%2Fb", Normal::Same),
            ("/%61dmin", changed("/admin")),
            ("/x/../admin", changed("/admin")),
            ("/x/%2e%2E/admin", changed("/admin")),
            ("/x\\..\\admin", changed("/admin")),
            ("/a/.", changed("/a/")),
            ("/a/b/..", changed("/a/")),
            ("//admin", changed("/admin")),
            ("/x///admin//", changed("/x/admin/")),
            ("//", changed("/")),
            ("/x//../admin", changed("/admin")),
            ("/a;b/c", Normal::Same),
            ("/..;/admin", Normal::Refused),
            ("/x/.%2e;a=b/admin", Normal::Refused),
            ("/x/..%2fadmin", Normal::Refused),
            ("/x%5C..%5cadmin", Normal::Refused),
            ("/../etc", Normal::Refused),
            ("/a%00", Normal::Refused),
            ("/a%zz", Normal::Refused),
            ("/a%2", Normal::Refused),
        ] {
            assert_eq!(normalize_path(given), expected, "{given}");
        }
    }

    #[test]
    fn a_path_is_read_as_applications_may_do() {
        for (given, expected) in [
            ("/a", &[][..]),
            ("/a%2Fb%3Ac", &["/a/b:c"]),
            ("/%2Fa%5cb", &["/a/b"]),
            ("/%C3%A9", &["/é"]),
            ("/%ff", &["/\u{fffd}"]),
            ("/a;b=c/d;", &["/a/d"]),
            ("/;x/a", &["/a"]),
            ("/a%3Bb", &["/a;b", "/a"]),
            ("/a%2Fb;c", &["/a/b;c", "/a%2Fb", "/a/b", "/a/b"]),
            ("/a;%2Fb", &["/a;/b", "/a", "/a/b"]),
        ] {
            assert_eq!(readings(given), expected, "{given}");
        }
    }
}
