//! What is recorded of a request: a series, a line of the access log, an entry for a watcher.

pub mod access_log;
pub mod histogram;
pub mod metrics;
pub mod names;
pub mod process;
pub mod prometheus;
pub mod report;
pub mod tap;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::control::Outgoing;
use crate::error::Reason;
use crate::fields::{Fields, Name};
use crate::head::RequestHead;
use crate::plan::endpoints::Endpoint;
use crate::record::Protocol;
use crate::settings::AccessLog;
use crate::steps::trace;
use crate::timer::now_us;
use crate::worker::Worker;
use metrics::{Direction, Series, SeriesKey};

/// One request from its head to the end of its response, or one connection that carries bytes. It is recorded when dropped, so that no
/// way out of the request path can forget it.
#[derive(Debug)]
pub struct Observation {
    worker: Rc<Worker>,
    start_us: u64,
    /// What is counted.
    pub key: SeriesKey,
    /// Tries so far.
    pub tries: u32,
    /// Bytes of the request's body that were sent on.
    pub request_bytes: u64,
    /// Bytes of the response's body that were sent back.
    pub response_bytes: u64,
    /// The policy that denied or allowed it.
    pub policy: Option<Arc<str>>,
    detail: Option<Box<Detail>>,
    /// The series of a connection, which counts while it lives; `None`: a request.
    connection: Option<Arc<Series>>,
}

/// Text that only a log or a watcher needs.
#[derive(Debug, Default)]
struct Detail {
    /// Empty for a connection and an unreadable head, as is the path.
    method: String,
    path: String,
    trace_id: Option<String>,
}

impl Observation {
    /// Begin. `method`, `path` and the trace are kept only if someone will read them; a head that
    /// cannot be read has none.
    pub fn begin(
        worker: &Rc<Worker>,
        direction: Direction,
        head: Option<&RequestHead>,
    ) -> Observation {
        let wanted = worker.shared.log.is_some() || worker.shared.taps.is_active();
        let detail = wanted.then(|| {
            Box::new(head.map_or_else(Detail::default, |head| Detail {
                method: head.method.as_str().to_owned(),
                path: head.path().to_owned(),
                trace_id: trace::of(&head.fields).map(str::to_owned),
            }))
        });
        Observation {
            worker: Rc::clone(worker),
            start_us: now_us(),
            key: SeriesKey::new(direction, Protocol::Http),
            tries: 0,
            request_bytes: 0,
            response_bytes: 0,
            policy: None,
            detail,
            connection: None,
        }
    }

    /// Begin with a connection that carries bytes: what it is counted as is known by now.
    pub fn connection(
        worker: &Rc<Worker>,
        key: SeriesKey,
        policy: Option<Arc<str>>,
    ) -> Observation {
        let series = worker
            .metrics
            .borrow_mut()
            .series(key, &worker.shared.metrics);
        series.opened();
        let wanted = worker.shared.log.is_some() || worker.shared.taps.is_active();
        Observation {
            worker: Rc::clone(worker),
            start_us: now_us(),
            key,
            tries: 1,
            request_bytes: 0,
            response_bytes: 0,
            policy,
            detail: wanted.then(Box::default),
            connection: Some(series),
        }
    }

    /// Bytes that a connection carried, counted at once: it may live for days.
    pub fn carried(&mut self, request: u64, response: u64) {
        self.request_bytes += request;
        self.response_bytes += response;
        if let Some(series) = &self.connection {
            let (bytes_in, bytes_out) = self.key.direction.sides(request, response);
            series.bytes(bytes_in, bytes_out);
        }
    }

    /// The trace was made here.
    pub fn traced(&mut self, fields: &Fields) {
        if let Some(detail) = &mut self.detail {
            detail.trace_id = trace::of(fields).map(str::to_owned);
        }
    }

    /// The endpoint that answered, or was tried last.
    pub fn endpoint(&mut self, endpoint: &Endpoint) {
        self.key.peer = endpoint.name_id;
        self.key.peer_identity = endpoint.identity_id;
        self.key.mtls = endpoint.identity.is_some();
    }

    /// The status sent back, and why if the mesh made it.
    pub fn answered(&mut self, status: http::StatusCode, reason: Option<Reason>) {
        self.key.code = status.as_u16();
        self.key.reason = reason;
    }

    /// Look for a gRPC status in a response's head or trailers.
    pub fn look_for_grpc_status(&mut self, fields: &Fields) {
        if self.key.protocol != Protocol::Http
            && let Some(status) = fields.first_text(Name::GrpcStatus)
        {
            self.key.grpc_status = status.parse().ok();
        }
    }

    /// Whether answers of the mesh say why.
    pub fn shows_reason(&self) -> bool {
        self.worker.shared.settings.reason_header
    }

    /// When the head came, microseconds of [`now_us`].
    pub fn start_us(&self) -> u64 {
        self.start_us
    }

    /// Microseconds since the head.
    pub fn elapsed_us(&self) -> u64 {
        now_us().saturating_sub(self.start_us)
    }

    /// Log and show the request.
    fn tell(&self, latency_us: u64, detail: &Detail) {
        let shared = &self.worker.shared;
        let failed = self.key.reason.is_some()
            || self.key.code >= 400
            || self.key.grpc_status.is_some_and(|status| status != 0);
        let log = shared
            .log
            .as_ref()
            .filter(|_| shared.settings.access_log == AccessLog::All || failed);
        let service = shared.metrics.names.text(self.key.service);
        let watchers = if shared.taps.is_active() {
            shared.taps.wanting(&tap::Seen {
                service: &service,
                method: &detail.method,
                path: &detail.path,
                code: self.key.code,
                denied: self.key.reason == Some(Reason::Denied),
            })
        } else {
            Vec::new()
        };
        if log.is_none() && watchers.is_empty() {
            return;
        }
        let line = self.entry(latency_us, detail, &service);
        for id in watchers {
            shared.tell(Outgoing::Tap {
                id,
                entry: line.clone().into_bytes(),
            });
        }
        if let Some(log) = log
            && !log.write(line)
        {
            shared.metrics.dropped_log_lines.fetch_add(1, Relaxed);
        }
    }

    fn entry(&self, latency_us: u64, detail: &Detail, service: &str) -> String {
        let shared = &self.worker.shared;
        let name = |id| shared.metrics.names.text(id);
        let (own, own_identity) = (shared.workload_name.as_str(), shared.identity_uri());
        let (peer, peer_identity) = (name(self.key.peer), name(self.key.peer_identity));
        let (source, source_identity, destination, destination_identity) = match self.key.direction
        {
            Direction::Outbound => (own, own_identity, &*peer, &*peer_identity),
            Direction::Inbound => (&*peer, &*peer_identity, own, own_identity),
        };
        let text = |text: &str| {
            if text.is_empty() {
                None
            } else {
                Some(text.to_owned())
            }
        };
        json!({
            "time": rfc3339(SystemTime::now()),
            "direction": self.key.direction.as_str(),
            "source": source,
            "source_identity": text(source_identity),
            "service": text(service),
            "destination": text(destination),
            "destination_identity": text(destination_identity),
            "protocol": self.key.protocol.as_str(),
            "method": text(&detail.method),
            "path": text(&detail.path),
            "code": self.key.code,
            "grpc_status": self.key.grpc_status,
            "reason": self.key.reason.map(Reason::as_str),
            "duration_ms": latency_us as f64 / 1000.0,
            "tries": self.tries,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "route": text(&name(self.key.route)),
            "policy": self.policy.as_deref(),
            "mtls": self.key.mtls,
            "trace_id": detail.trace_id,
        })
        .to_string()
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let latency_us = self.elapsed_us();
        match &self.connection {
            Some(series) => series.closed(latency_us),
            None => self.count_request(latency_us),
        }
        if let Some(detail) = self.detail.take() {
            self.tell(latency_us, &detail);
        }
    }
}

impl Observation {
    fn count_request(&mut self, latency_us: u64) {
        if self.key.code == 0 && self.key.reason.is_none() {
            // No response was ever made: the caller went away.
            self.key.reason = Some(Reason::ClientGone);
        }
        let (bytes_in, bytes_out) = self
            .key
            .direction
            .sides(self.request_bytes, self.response_bytes);
        let retries = u64::from(self.tries.saturating_sub(1));
        self.worker
            .metrics
            .borrow_mut()
            .series(self.key, &self.worker.shared.metrics)
            .request(latency_us, retries, bytes_in, bytes_out);
    }
}

/// A time as RFC 3339 asks, in UTC with milliseconds.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to date: H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000, "2023-11-14T22:13:20.000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
