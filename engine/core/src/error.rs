//! Why a request did not get an answer from an application.
//!
//! Each error is made where it happens and knows its reason; the reason knows whose fault it
//! is and whether the request can be sent again. `respond.rs` alone turns it into a status.

use std::fmt;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The caller.
    Client,
    /// The called application or the connection to it.
    Upstream,
    /// The mesh's configuration or state.
    Mesh,
}

/// When the request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetrySafety {
    /// Nothing reached an application: any method.
    Always,
    /// It may have reached it: idempotent methods.
    Idempotent,
    /// Never.
    Never,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $source:ident, $retry:ident;)*) => {
        /// Why a request failed; the text is the value of `x-tulle-reason`, of the label
        /// `reason` and of the access log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name),* }

        impl Reason {
            /// Every reason, in declaration order.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The reason in words of a program.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text),* }
            }

            /// Whose fault it is.
            pub fn source(self) -> Source {
                match self { $(Reason::$name => Source::$source),* }
            }

            /// When the request may be sent again.
            pub fn retry(self) -> RetrySafety {
                match self { $(Reason::$name => RetrySafety::$retry),* }
            }
        }
    };
}

reasons! {
    /// The request cannot be understood or forwarded.
    BadRequest = "bad-request", Client, Never;
    /// The head is longer than allowed, or has too many lines.
    HeadTooLarge = "head-too-large", Client, Never;
    /// The request's target is longer than allowed.
    TargetTooLong = "target-too-long", Client, Never;
    /// The client did not send what it began within the time.
    ClientTimeout = "client-timeout", Client, Never;
    /// No service of this name.
    UnknownService = "unknown-service", Client, Never;
    /// The service has no such port.
    UnknownPort = "unknown-port", Client, Never;
    /// Routes exist, but none matches.
    NoRoute = "no-route", Mesh, Never;
    /// The chosen backend is not valid.
    InvalidBackend = "invalid-backend", Mesh, Never;
    /// The rule has no backend.
    NoBackend = "no-backend", Mesh, Never;
    /// The service has no ready endpoint.
    NoEndpoint = "no-healthy-endpoint", Mesh, Never;
    /// A policy denied it, or none allowed it.
    Denied = "denied", Mesh, Never;
    /// Too many requests in flight.
    RequestLimit = "request-limit", Mesh, Never;
    /// Too many requests wait for a connection.
    PendingLimit = "pending-limit", Mesh, Never;
    /// No connection within the time, or refused.
    ConnectFailed = "connect-failed", Upstream, Always;
    /// The peer's certificate is not the expected one, or the handshake failed.
    TlsFailed = "tls-failed", Upstream, Always;
    /// A pooled connection was closed before the request was sent.
    Unsent = "unsent", Upstream, Always;
    /// The connection broke before a response.
    Reset = "reset", Upstream, Idempotent;
    /// The peer's sidecar could not reach its application.
    AppUnreachable = "app-unreachable", Upstream, Always;
    /// One try took too long.
    TryTimeout = "try-timeout", Upstream, Idempotent;
    /// The request took too long.
    RequestTimeout = "request-timeout", Upstream, Never;
    /// The response is not HTTP.
    BadResponse = "bad-response", Upstream, Never;
    /// The caller went away.
    ClientGone = "client-gone", Client, Never;
    /// This sidecar has no identity yet.
    NoIdentity = "no-identity", Mesh, Never;
}

/// A request that failed.
#[derive(Debug)]
pub struct Error {
    /// Why.
    pub reason: Reason,
    /// What happened, for the log and for the caller; never holds secrets.
    pub detail: String,
}

impl Error {
    /// An error with a detail for humans.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Error {
        Error {
            reason,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.reason.as_str())
        } else {
            write!(f, "{}: {}", self.reason.as_str(), self.detail)
        }
    }
}

impl std::error::Error for Error {}
