//! The times that a request and each of its tries are held to.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{Error, Reason};
use crate::head::RequestHead;
use crate::plan::service::RulePlan;
use crate::record::{Protocol, Traffic};
use crate::steps::timeout;
use crate::timer::{Deadline, micros, now_us};
use crate::upload::Upload;

/// How long a client may owe more of a body that it began (Envoy's stream idle timeout).
pub const BODY_IDLE_TIME: Duration = Duration::from_secs(300);

/// When a request must be answered.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Microseconds of [`now_us`]; `None`: never.
    pub at_us: Option<u64>,
    /// The service's default counts anew from the end of the request's body, so that it cuts no
    /// upload and no client's stream (as Envoy's route timeout); a route's own does not.
    after_body_us: Option<u64>,
    /// When the caller itself gives up, if it has said so; nothing moves that.
    caller_us: Option<u64>,
}

impl End {
    /// Of a request whose head came at `start_us`. A gRPC service without a policy has no
    /// default: its streams may be silent for as long as they like.
    pub fn of(rule: &RulePlan, traffic: &Traffic, protocol: Protocol, start_us: u64) -> End {
        let default_ms = match protocol {
            Protocol::Grpc if traffic.policy.is_none() => 0,
            _ => traffic.request_timeout_ms,
        };
        let limit_us = rule.request_ms.unwrap_or(default_ms).saturating_mul(1000);
        End {
            at_us: (limit_us > 0).then(|| start_us.saturating_add(limit_us)),
            after_body_us: (limit_us > 0 && rule.request_ms.is_none()).then_some(limit_us),
            caller_us: None,
        }
    }

    /// No end of its own.
    pub fn never() -> End {
        End {
            at_us: None,
            after_body_us: None,
            caller_us: None,
        }
    }

    /// No later than `caller_us`, when the caller gives up by its own words.
    pub fn before(self, caller_us: Option<u64>) -> End {
        End {
            at_us: self.at_us.into_iter().chain(caller_us).min(),
            caller_us,
            ..self
        }
    }

    /// When even a response that has begun ends: a route's own timeout holds for the whole of it
    /// (GEP-1742), and so does the caller's. The service's default ends with its head, or it
    /// would cut long streams that nobody bounded.
    pub fn of_all(&self, rule: &RulePlan) -> Option<u64> {
        match rule.request_ms {
            Some(_) => self.at_us,
            None => self.caller_us,
        }
    }

    /// The head as a try sends it: where the caller has said how long it waits and there is less
    /// left by now, the program is told so. `None`: as it is.
    ///
    /// # Errors
    /// There is nothing left.
    pub fn told(
        &self,
        head: &RequestHead,
        rule: &RulePlan,
        retry: u32,
    ) -> Result<Option<RequestHead>, Error> {
        let (Some(caller_us), Some(end_us)) = (self.caller_us, self.of_all(rule)) else {
            return Ok(None);
        };
        let left_us = end_us.saturating_sub(now_us());
        if left_us == 0 {
            let detail = "the caller waits no longer";
            return Err(Error::new(Reason::RequestTimeout, detail));
        }
        let is_less = retry > 0 || end_us < caller_us;
        Ok(is_less.then(|| timeout::told(head, left_us)))
    }

    /// The later end that the body gives; `None`: the time is over.
    pub fn later(&self, upload: &Upload, now_us: u64) -> Option<u64> {
        let after_us = self.after_body_us?;
        // An upload that the upstream does not take is none.
        let since_us = upload.ended_us().or(upload.stuck_us()).unwrap_or(now_us);
        let end_us = since_us.saturating_add(after_us);
        let end_us = self.caller_us.map_or(end_us, |caller| caller.min(end_us));
        (end_us > now_us).then_some(end_us)
    }
}

/// The times that one try is held to.
#[derive(Debug)]
pub struct Clock {
    started_us: u64,
    try_end: Option<u64>,
    end: End,
    /// Made when something has to wait, and for when.
    armed: Option<(u64, Deadline)>,
}

impl Clock {
    /// For a try that begins at `started_us`; `try_ms`: 0 is no limit.
    pub fn new(started_us: u64, try_ms: u64, end: End) -> Clock {
        Clock {
            started_us,
            try_end: (try_ms > 0).then(|| started_us.saturating_add(try_ms.saturating_mul(1000))),
            end,
            armed: None,
        }
    }

    /// Ready when a time is over: of the try, of the request, or of a client that owes more of
    /// its body.
    pub fn poll(&mut self, cx: &mut Context<'_>, upload: &Upload) -> Poll<Error> {
        loop {
            let idle = |since: u64| since + micros(BODY_IDLE_TIME);
            let idle_end = upload.waits_us().map(idle);
            let stuck_end = upload.stuck_us().map(idle);
            let ends = [self.try_end, self.end.at_us, idle_end, stuck_end];
            let Some(next) = ends.into_iter().flatten().min() else {
                return Poll::Pending;
            };
            let (_, deadline) = match &mut self.armed {
                Some(armed) if armed.0 == next => armed,
                other => other.insert((next, Deadline::at_us(next))),
            };
            if Pin::new(deadline).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
            let ms = next.saturating_sub(self.started_us) / 1000;
            let late =
                |reason| Poll::Ready(Error::new(reason, format!("no response after {ms} ms")));
            if idle_end == Some(next) {
                let detail = "the request's body does not go on";
                return Poll::Ready(Error::new(Reason::ClientTimeout, detail));
            }
            if self.try_end == Some(next) {
                return late(Reason::TryTimeout);
            }
            self.end.at_us = self.end.later(upload, next);
            if self.end.at_us.is_none() || stuck_end == Some(next) {
                return late(Reason::RequestTimeout);
            }
        }
    }
}
