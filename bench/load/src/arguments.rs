//! The command line: one command, then pairs of `--name value`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

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

    /// The options every load has, with `--seconds`.
    pub fn load(&self) -> Result<Load, String> {
        let text = self.text("seconds")?;
        let seconds: f64 = text
            .parse()
            .map_err(|_| format!("--seconds: \"{text}\" is not a number"))?;
        Ok(Load {
            duration: Duration::from_secs_f64(seconds),
            ..self.load_without_time()?
        })
    }

    /// The options every load has; the duration is zero.
    pub fn load_without_time(&self) -> Result<Load, String> {
        Ok(Load {
            target: self.address("target")?,
            host: self.text("host")?.to_owned(),
            connections: self.number("connections")?,
            duration: Duration::ZERO,
        })
    }
}
