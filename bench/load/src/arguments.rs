//! The command line: one command, then pairs of `--name value`.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Longest run that is bounded by its requests alone.
const RUN_MAX: Duration = Duration::from_secs(300);

/// The options of one command.
pub struct Arguments(HashMap<String, String>);

/// What to send, where, and for how long.
pub struct Load {
    /// The proxy (or the application itself) that receives the requests.
    pub target: SocketAddr,
    /// The Host header, or gRPC's authority.
    pub host: String,
    /// Connections kept open throughout.
    pub connections: usize,
    /// How long to send.
    pub duration: Duration,
    /// How many requests to send at most.
    pub requests: usize,
    /// Bytes of a request's body; 0: a request without one.
    pub request_bytes: usize,
    /// Bytes of an answer's body; 0: the application's own twelve.
    pub response_bytes: usize,
    /// Whether each request gets a connection of its own.
    pub fresh: bool,
    /// Whether to count answers for which a TLS session was resumed.
    pub resumes: bool,
    /// Mutual TLS; `None`: plaintext.
    pub tls: Option<Identity>,
}

/// What one end shows to the other, and whether it resumes sessions.
pub struct Identity {
    /// PEM file of the certificate chain.
    pub chain: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
    /// Whether sessions are resumed; otherwise every handshake is a full one.
    pub resume: bool,
}

/// What is left of a run: time, and requests to begin.
pub struct Budget {
    end: Instant,
    requests: usize,
}

impl Budget {
    /// Takes one request, unless the time is over or none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        let allowed = now < self.end && self.requests > 0;
        self.requests -= usize::from(allowed);
        allowed
    }
}

impl Load {
    /// The run's budget, its time beginning now.
    pub fn budget(&self, begin: Instant) -> Budget {
        Budget {
            end: begin + self.duration,
            requests: self.requests,
        }
    }
}

impl Arguments {
    /// Reads the command and its options; `None` when they are not pairs.
    pub fn read(mut words: impl Iterator<Item = String>) -> Option<(String, Self)> {
        let command = words.next()?;
        let mut options = HashMap::new();
        while let Some(name) = words.next() {
            options.insert(name.strip_prefix("--")?.to_owned(), words.next()?);
        }
        Some((command, Self(options)))
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        self.0
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| format!("--{name} is missing"))
    }

    fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, String> {
        self.0
            .get(name)
            .map(|text| text.parse())
            .transpose()
            .map_err(|error| format!("--{name}: {error}"))
    }

    /// The option as a socket address.
    pub fn address(&self, name: &str) -> Result<SocketAddr, String> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_| format!("--{name}: \"{text}\" is not an address and a port"))
    }

    /// The option as a positive number.
    pub fn number(&self, name: &str) -> Result<usize, String> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("--{name}: \"{text}\" is not a positive number")),
        }
    }

    /// The option as true or false; false when it is not given.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        Ok(self.parsed(name)?.unwrap_or(false))
    }

    /// Mutual TLS, when `--chain` is given.
    pub fn identity(&self) -> Result<Option<Identity>, String> {
        let Some(chain) = self.0.get("chain") else {
            return Ok(None);
        };
        Ok(Some(Identity {
            chain: chain.into(),
            key: self.text("key")?.into(),
            resume: self.flag("resume")?,
        }))
    }

    /// The options of a load; without `--seconds` and `--requests` it ends by itself.
    pub fn load(&self) -> Result<Load, String> {
        let seconds: Option<f64> = self.parsed("seconds")?;
        Ok(Load {
            target: self.address("target")?,
            host: self.text("host")?.to_owned(),
            connections: self.number("connections")?,
            duration: seconds.map_or(RUN_MAX, Duration::from_secs_f64),
            requests: self.parsed("requests")?.unwrap_or(usize::MAX),
            request_bytes: self.parsed("request-bytes")?.unwrap_or(0),
            response_bytes: self.parsed("response-bytes")?.unwrap_or(0),
            fresh: self.flag("fresh")?,
            resumes: self.flag("resume")?,
            tls: self.identity()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;
    use std::time::{Duration, Instant};

    #[test]
    fn a_run_ends_with_its_time_or_its_requests() {
        let now = Instant::now();
        let mut budget = Budget {
            end: now + Duration::from_secs(1),
            requests: 2,
        };
        assert!(budget.take(now));
        assert!(!budget.take(now + Duration::from_secs(1)));
        assert!(budget.take(now));
        assert!(!budget.take(now));
    }
}
