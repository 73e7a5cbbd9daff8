//! Matches compiled for speed: expressions built once, whole-value, bounded.

use regex::Regex;

use crate::head::RequestHead;
use crate::record::{Match, PathMatch, PathMatchKind, ValueMatch, ValueMatchKind};

/// Longest expression accepted, characters.
const REGEX_MAX: usize = 1024;
/// Largest compiled expression, bytes.
const REGEX_COMPILED_MAX: usize = 256 * 1024;

/// A compiled match.
#[derive(Debug)]
pub struct Matcher {
    path: Option<PathMatcher>,
    method: Option<String>,
    headers: Vec<(String, ValueMatcher)>,
    query: Vec<(String, ValueMatcher)>,
}

/// A compiled match on the path.
#[derive(Debug)]
enum PathMatcher {
    Exact(String),
    /// Without a trailing slash.
    Prefix(String),
    Regex(Regex),
}

#[derive(Debug)]
enum ValueMatcher {
    Exact(String),
    Regex(Regex),
}

impl Matcher {
    /// Compile `record`.
    ///
    /// # Errors
    /// An expression that is too long, too large or wrong.
    pub fn build(record: &Match) -> Result<Matcher, String> {
        Ok(Matcher {
            path: record.path.as_ref().map(PathMatcher::build).transpose()?,
            method: record.method.clone(),
            headers: build_values(&record.headers)?,
            query: build_values(&record.query)?,
        })
    }

    /// Whether the request, whose path is `path`, is matched.
    pub fn matches(&self, head: &RequestHead, path: &str) -> bool {
        self.path
            .as_ref()
            .is_none_or(|matcher| matcher.matches(path))
            && self
                .method
                .as_ref()
                .is_none_or(|method| method == head.method.as_str())
            && self.headers.iter().all(|(name, matcher)| {
                head.header(name)
                    .is_some_and(|value| matcher.matches(&value))
            })
            && self.query.iter().all(|(name, matcher)| {
                head.query_parameter(name)
                    .is_some_and(|value| matcher.matches(&value))
            })
    }

    /// The prefix that this match asks for, if it is a prefix match.
    pub fn prefix(&self) -> Option<&str> {
        match &self.path {
            Some(PathMatcher::Prefix(prefix)) => Some(prefix),
            _ => None,
        }
    }
}

impl PathMatcher {
    fn build(record: &PathMatch) -> Result<PathMatcher, String> {
        Ok(match record.kind {
            PathMatchKind::Exact => PathMatcher::Exact(record.value.clone()),
            PathMatchKind::Prefix => {
                PathMatcher::Prefix(record.value.trim_end_matches('/').to_owned())
            }
            PathMatchKind::Regex => PathMatcher::Regex(whole(&record.value)?),
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            PathMatcher::Exact(value) => path == value,
            PathMatcher::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            PathMatcher::Regex(regex) => regex.is_match(path),
        }
    }
}

impl ValueMatcher {
    fn matches(&self, value: &str) -> bool {
        match self {
            ValueMatcher::Exact(wanted) => wanted == value,
            ValueMatcher::Regex(regex) => regex.is_match(value),
        }
    }
}

fn build_values(records: &[ValueMatch]) -> Result<Vec<(String, ValueMatcher)>, String> {
    records
        .iter()
        .map(|record| {
            let matcher = match record.kind {
                ValueMatchKind::Exact => ValueMatcher::Exact(record.value.clone()),
                ValueMatchKind::Regex => ValueMatcher::Regex(whole(&record.value)?),
            };
            Ok((record.name.clone(), matcher))
        })
        .collect()
}

/// An expression that must match the whole value.
fn whole(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > REGEX_MAX {
        return Err(format!(
            "regex of {} characters; at most {REGEX_MAX}",
            pattern.len()
        ));
    }
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(REGEX_COMPILED_MAX)
        .build()
        .map_err(|error| format!("regex \"{pattern}\": {error}"))
}

/// A server name that routes ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerName {
    /// Equal.
    Whole(Box<str>),
    /// It ends with this, which begins with a dot, and has more before it.
    Under(Box<str>),
}

impl ServerName {
    /// Read a name of a record.
    pub fn build(text: &str) -> ServerName {
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix('*') {
            Some(end) => ServerName::Under(end.into()),
            None => ServerName::Whole(lower.into()),
        }
    }

    /// Whether a name, in lower case, is asked for.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            ServerName::Whole(whole) => **whole == *name,
            ServerName::Under(end) => name.len() > end.len() && name.ends_with(&**end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;
    use http::Method;

    fn path(kind: PathMatchKind, value: &str) -> Match {
        Match {
            path: Some(PathMatch {
                kind,
                value: value.to_owned(),
            }),
            method: None,
            headers: vec![],
            query: vec![],
            server_name: None,
        }
    }

    fn hit(record: &Match, path: &str) -> bool {
        let head = RequestHead::described(Method::GET, path, Fields::default());
        Matcher::build(record)
            .expect("the match is valid")
            .matches(&head, path)
    }

    #[test]
    fn server_names_are_compared_whole_or_by_their_end() {
        for (pattern, name, expected) in [
            ("cart.example", "cart.example", true),
            ("Cart.Example", "cart.example", true),
            ("cart.example", "a.cart.example", false),
            ("*.example", "cart.example", true),
            ("*.example", "a.cart.example", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "cartexample", false),
        ] {
            let found = ServerName::build(pattern).matches(name);
            assert_eq!(found, expected, "{pattern} {name}");
        }
    }

    #[test]
    fn prefixes_match_by_segment() {
        for (prefix, given, expected) in [
            ("/abc", "/abc", true),
            ("/abc", "/abc/", true),
            ("/abc", "/abc/def", true),
            ("/abc", "/abcd", false),
            ("/abc/", "/abc", true),
            ("/", "/anything", true),
            ("/abc", "/ABC", false),
        ] {
            assert_eq!(
                hit(&path(PathMatchKind::Prefix, prefix), given),
                expected,
                "{prefix} {given}"
            );
        }
    }

    #[test]
    fn expressions_match_the_whole_path() {
        let record = path(PathMatchKind::Regex, "/v[12]|/x");
        assert!(hit(&record, "/v1"));
        assert!(hit(&record, "/x"));
        assert!(!hit(&record, "/v1/more"));
        assert!(!hit(&record, "/v3"));
    }

    #[test]
    fn a_bad_or_too_long_expression_is_refused_by_name() {
        let error = Matcher::build(&path(PathMatchKind::Regex, "(")).expect_err("unbalanced");
        assert!(error.contains("\"(\""), "{error}");
        let is_taken = |regex: &str| Matcher::build(&path(PathMatchKind::Regex, regex)).is_ok();
        assert!(is_taken(&"a".repeat(REGEX_MAX)));
        assert!(!is_taken(&"a".repeat(REGEX_MAX + 1)));
    }

    #[test]
    fn an_expression_that_compiles_to_too_much_is_refused() {
        let is_taken = |count: usize| {
            let regex = format!("/[a-z]{{{count}}}");
            Matcher::build(&path(PathMatchKind::Regex, &regex)).is_ok()
        };
        let fits_in = |count: usize, bytes: usize| {
            let regex = format!("^(?:/[a-z]{{{count}}})$");
            let mut builder = regex::RegexBuilder::new(&regex);
            builder.size_limit(bytes).build().is_ok()
        };
        let first = (1..100_000).step_by(50).find(|count| !is_taken(*count));
        let first = first.expect("a bound");
        assert!(
            first > 50 && fits_in(first, REGEX_COMPILED_MAX * 5 / 4),
            "{first}"
        );
        assert!(!fits_in(first, REGEX_COMPILED_MAX * 3 / 4), "{first}");
    }
}
