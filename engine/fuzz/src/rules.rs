//! Where the codec may differ from hyper, and why. There is no other difference.
//!
//! A rule looks at the bytes, not at what the codec says of them. But for the last two of either
//! list the codec refuses what hyper takes; what both take they understand alike.

use std::net::Ipv6Addr;

use crate::{Line, Message};

/// Two readings of one message.
#[derive(Debug)]
pub struct Difference<'a> {
    /// The input from where the message begins.
    raw: &'a [u8],
    /// What both read before it on the connection, which decides whether there is more.
    before: Option<&'a Message>,
    ours: Option<&'a Message>,
    theirs: Option<&'a Message>,
}

/// Whether a difference is one of those that its function names.
pub type Rule = (&'static str, fn(&Difference<'_>) -> bool);

/// Of requests.
pub const REQUEST: &[Rule] = &[
    ("bare_line_feed", bare_line_feed),
    ("repeated_length", repeated_length),
    ("length_beside_coding", length_beside_coding),
    ("coding_beside_chunked", coding_beside_chunked),
    ("long_length", long_length),
    ("no_host", no_host),
    ("target_form", target_form),
    ("authority", authority),
    ("chunk_line", chunk_line),
    ("framing_trailer", framing_trailer),
    ("connection_is_no_text", connection_is_no_text),
];

/// Of responses.
pub const RESPONSE: &[Rule] = &[
    ("bare_line_feed", bare_line_feed),
    ("repeated_length", repeated_length),
    ("length_beside_coding", length_beside_coding),
    ("coding_beside_chunked", coding_beside_chunked),
    ("long_length", long_length),
    ("unasked_switch", unasked_switch),
    ("framing_of_nothing", framing_of_nothing),
    ("chunk_line", chunk_line),
    ("framing_trailer", framing_trailer),
    ("connection_is_no_text", connection_is_no_text),
];

/// The first of `rules` that explains the difference.
///
/// # Errors
/// None does; the text shows both readings.
pub fn find(rules: &[Rule], difference: &Difference<'_>) -> Result<&'static str, String> {
    let found = rules.iter().find(|(_, explains)| explains(difference));
    found.map(|(name, _)| *name).ok_or_else(|| {
        format!(
            "no rule explains\n{}\nours: {:#?}\nhyper's: {:#?}",
            difference.raw.escape_ascii(),
            difference.ours,
            difference.theirs
        )
    })
}

/// A line feed without carriage return may end a line for one reader and not for the next: RFC
/// 9112 §2.2 lets a recipient take it, and many attacks begin with it. Also in trailers.
fn bare_line_feed(it: &Difference<'_>) -> bool {
    let is_bare = |part: &[u8]| {
        let mut before = 0;
        part.iter().any(|&byte| {
            let bare = byte == b'\n' && before != b'\r';
            before = byte;
            bare
        })
    };
    match it.ours {
        None => it.theirs.is_some() && is_bare(it.head()),
        Some(_) => it.ours_is_cut() && is_bare(it.last_part()),
    }
}

/// RFC 9112 §6.3 lets a recipient join equal lengths; a reader before or behind us may take one
/// of them.
fn repeated_length(it: &Difference<'_>) -> bool {
    let lengths = it.values("content-length");
    let several = lengths.len() > 1 || lengths.iter().any(|value| value.contains(&b','));
    it.is_refused() && several
}

/// RFC 9112 §6.1: a coding overrides a length, and a message with both ought to be handled as an
/// error, since it may be an attempt to smuggle. hyper drops the length of a request.
fn length_beside_coding(it: &Difference<'_>) -> bool {
    let has = |name| !it.values(name).is_empty();
    it.is_refused() && has("content-length") && has("transfer-encoding")
}

/// hyper takes any codings that end in `chunked`, over several lines, and reads a response with
/// others up to the connection's end. We could not undo them, and others do not understand such
/// lists alike.
fn coding_beside_chunked(it: &Difference<'_>) -> bool {
    let codings = it.values("transfer-encoding");
    let is_chunked = |value: &&[u8]| value.eq_ignore_ascii_case(b"chunked");
    it.is_refused()
        && !(codings.len() == 1 && codings.iter().all(is_chunked))
        && !codings.is_empty()
}

/// Twenty digits and more overflow in somebody's reader, leading zeros or not.
fn long_length(it: &Difference<'_>) -> bool {
    it.is_refused()
        && it
            .values("content-length")
            .iter()
            .any(|value| value.len() > 19)
}

/// RFC 9112 §3.2: a request of HTTP/1.1 without Host must be answered with 400. hyper leaves that
/// to the application.
fn no_host(it: &Difference<'_>) -> bool {
    let is_new = it.first_line().ends_with(b"HTTP/1.1");
    it.is_refused() && is_new && it.values("host").is_empty()
}

/// hyper reads any URI as a target. RFC 9112 §3.2 has four forms, none with a fragment: a bare
/// authority is CONNECT's, `*` is OPTIONS', and a scheme that we do not speak has no service.
fn target_form(it: &Difference<'_>) -> bool {
    let mut parts = it.first_line().split(|&byte| byte == b' ');
    let (method, target) = (parts.next(), parts.next().unwrap_or_default());
    let has = |part: &[u8]| target.windows(part.len()).any(|window| window == part);
    let begins = |scheme: &[u8]| {
        let front = target.get(..scheme.len());
        front.is_some_and(|front| front.eq_ignore_ascii_case(scheme))
    };
    let is_known = match method {
        Some(b"CONNECT") => !has(b"/") && !has(b"?") && target != b"*",
        Some(b"OPTIONS") if target == b"*" => true,
        _ => target.starts_with(b"/") || begins(b"http://") || begins(b"https://"),
    };
    it.is_refused() && (!is_known || has(b"#"))
}

/// hyper takes users, escapes and any port in an authority. RFC 9110 §4.2.4 has no user there, and
/// no service has such a name.
fn authority(it: &Difference<'_>) -> bool {
    let target = String::from_utf8_lossy(it.part_of_first(1)).into_owned();
    let rest = target.split_once("://").map_or(&*target, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    let is_named = is_host && port.bytes().all(|byte| byte.is_ascii_digit());
    it.is_refused() && !target.starts_with('/') && !is_named
}

/// hyper skips whatever follows a chunk's size. RFC 9112 §7.1.1 has text there, and a reader that
/// ends it elsewhere finds another body; nor do all hold more digits than a number has.
fn chunk_line(it: &Difference<'_>) -> bool {
    let is_odd = |line: &[u8]| {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let digits = digits.count();
        let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        digits > 16 || !line[digits..].iter().all(is_text)
    };
    it.ours_is_cut() && it.chunk_lines().0.into_iter().any(is_odd)
}

/// RFC 9110 §6.5.1: what frames a message, routes it or concerns one connection has no meaning in
/// a trailer, and must not be taken as if it had come before the body. Left out of ours.
fn framing_trailer(it: &Difference<'_>) -> bool {
    let (Some(ours), Some(theirs)) = (it.ours, it.theirs) else {
        return false;
    };
    const LEFT_OUT: &[&str] = &[
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let is_kept = |line: &Line| !LEFT_OUT.iter().any(|name| name.as_bytes() == line.0);
    let mut same = theirs.clone();
    same.trailers.retain(is_kept);
    same.trailers.len() < theirs.trailers.len() && ours.agrees(&same)
}

/// What follows a switch of protocols passes unread, so nobody may claim one that was not asked
/// for (RFC 9110 §15.2.2).
fn unasked_switch(it: &Difference<'_>) -> bool {
    it.is_refused() && it.part_of_first(1) == b"101"
}

/// A response that has no body, by status or by what was asked, may still say how it would be
/// framed. hyper does not look at it there; what is wrong in it is wrong for whoever does.
fn framing_of_nothing(it: &Difference<'_>) -> bool {
    let is_digits = |value: &&[u8]| !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let old = it.first_line().starts_with(b"HTTP/1.0");
    it.is_refused()
        && (!it.values("content-length").iter().all(is_digits)
            || (old && !it.values("transfer-encoding").is_empty()))
}

/// hyper does not look for `close` and `keep-alive` beside bytes that are no text; they are
/// options nonetheless (RFC 9110 §7.6.1).
fn connection_is_no_text(it: &Difference<'_>) -> bool {
    let is_odd = |line: &Line| line.0 == b"connection" && !line.1.is_ascii();
    let before = it
        .before
        .is_some_and(|before| before.fields.iter().any(is_odd));
    before && (it.ours.is_none() || it.theirs.is_none() || it.ours == it.theirs)
}

impl<'a> Difference<'a> {
    /// Of the message at the front of `raw`.
    pub fn new(
        raw: &'a [u8],
        before: Option<&'a Message>,
        ours: Option<&'a Message>,
        theirs: Option<&'a Message>,
    ) -> Difference<'a> {
        Difference {
            raw,
            before,
            ours,
            theirs,
        }
    }

    /// The codec refuses the head and hyper does not.
    fn is_refused(&self) -> bool {
        self.ours.is_none() && self.theirs.is_some()
    }

    /// Both take the head, and only hyper the body.
    fn ours_is_cut(&self) -> bool {
        let whole = |message: Option<&Message>| message.is_some_and(|message| message.whole);
        self.ours.is_some() && !whole(self.ours) && whole(self.theirs)
    }

    /// The lines, however they end, up to the empty one that ends a head, and what follows.
    fn parts(&self) -> (Vec<&'a [u8]>, &'a [u8]) {
        let (mut lines, mut rest) = (Vec::new(), self.raw);
        while let Some(feed) = rest.iter().position(|&byte| byte == b'\n') {
            let line = &rest[..feed];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            rest = &rest[feed + 1..];
            match (line.is_empty(), lines.is_empty()) {
                (true, true) => {}
                (true, false) => break,
                (false, _) => lines.push(line),
            }
        }
        (lines, rest)
    }

    fn head(&self) -> &'a [u8] {
        &self.raw[..self.raw.len() - self.parts().1.len()]
    }

    fn first_line(&self) -> &'a [u8] {
        self.parts().0.first().copied().unwrap_or_default()
    }

    /// The part so many spaces into the first line.
    fn part_of_first(&self, at: usize) -> &'a [u8] {
        let mut parts = self.first_line().split(|&byte| byte == b' ');
        parts.nth(at).unwrap_or_default()
    }

    /// The values of all lines of a name.
    fn values(&self, name: &str) -> Vec<&'a [u8]> {
        let value = |line: &'a [u8]| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let named = line[..colon].eq_ignore_ascii_case(name.as_bytes());
            named.then(|| line[colon + 1..].trim_ascii())
        };
        self.parts().0.into_iter().filter_map(value).collect()
    }

    /// The lines that begin chunks, as hyper ends them, and what follows the last.
    fn chunk_lines(&self) -> (Vec<&'a [u8]>, &'a [u8]) {
        let (mut lines, mut rest) = (Vec::new(), self.parts().1);
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
            let line = &rest[..end];
            lines.push(line);
            rest = &rest[end + 2..];
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
            let digits = digits.count();
            let size = std::str::from_utf8(&line[..digits]).unwrap_or_default();
            match usize::from_str_radix(size, 16) {
                Ok(size) if size > 0 => {
                    rest = rest.get(size.saturating_add(2)..).unwrap_or_default();
                }
                _ => break,
            }
        }
        (lines, rest)
    }

    /// The trailer section and what follows, up to the empty line.
    fn last_part(&self) -> &'a [u8] {
        let rest = self.chunk_lines().1;
        let end = rest.windows(4).position(|part| part == b"\r\n\r\n");
        &rest[..end.map_or(rest.len(), |end| end + 4)]
    }
}
