//! Request and connection counters: one writer per cell, summed when read, bounded in number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::histogram::{BUCKETS, Histogram, add};
use super::names::{NONE, Names, OTHER};
use crate::error::Reason;
use crate::record::Protocol;

/// Most series of one sidecar; requests of further ones are counted under `other`.
pub const SERIES_MAX: usize = 2000;

/// Which way a request goes as the workload sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the application.
    Outbound,
    /// To the application.
    Inbound,
}

impl Direction {
    /// Bytes received from and sent to the other side, given those of request and response.
    pub fn sides(self, request: u64, response: u64) -> (u64, u64) {
        match self {
            Direction::Outbound => (response, request),
            Direction::Inbound => (request, response),
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        }
    }
}

/// What a series counts, all as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// Outbound or inbound.
    pub direction: Direction,
    /// The service called; empty when inbound.
    pub service: u32,
    /// The other side's workload when outbound; empty when inbound.
    pub peer: u32,
    /// The other side's SPIFFE id.
    pub peer_identity: u32,
    /// The route's rule.
    pub route: u32,
    /// What was spoken.
    pub protocol: Protocol,
    /// HTTP status; 0 for bytes.
    pub code: u16,
    /// The gRPC status, where one was sent.
    pub grpc_status: Option<u8>,
    /// Why the mesh answered in place of the application.
    pub reason: Option<Reason>,
    /// Whether the other side was reached, or came, by mTLS.
    pub mtls: bool,
}

impl SeriesKey {
    /// Of traffic of which nothing but its way and its protocol is known yet.
    pub fn new(direction: Direction, protocol: Protocol) -> SeriesKey {
        SeriesKey {
            direction,
            service: NONE,
            peer: NONE,
            peer_identity: NONE,
            route: NONE,
            protocol,
            code: 0,
            grpc_status: None,
            reason: None,
            mtls: false,
        }
    }
}

/// The counters of one series on one thread.
#[derive(Debug)]
pub struct Series {
    key: SeriesKey,
    requests: AtomicU64,
    closed: AtomicU64,
    retries: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    latency: Histogram,
}

impl Series {
    fn new(key: SeriesKey) -> Series {
        Series {
            key,
            requests: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            latency: Histogram::default(),
        }
    }

    /// A request is answered.
    pub fn request(&self, latency_us: u64, retries: u64, bytes_in: u64, bytes_out: u64) {
        add(&self.requests, 1);
        if retries > 0 {
            add(&self.retries, retries);
        }
        self.bytes(bytes_in, bytes_out);
        self.latency.record(latency_us);
    }

    /// A connection that carries bytes is opened.
    pub fn opened(&self) {
        add(&self.requests, 1);
    }

    /// A connection that carries bytes is closed.
    pub fn closed(&self, lived_us: u64) {
        add(&self.closed, 1);
        self.latency.record(lived_us);
    }

    /// Bytes were carried.
    pub fn bytes(&self, bytes_in: u64, bytes_out: u64) {
        add(&self.bytes_in, bytes_in);
        add(&self.bytes_out, bytes_out);
    }
}

/// The counters of a sidecar, over all threads.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Names of services, routes, workloads and identities.
    pub names: Names,
    series: Mutex<Vec<Arc<Series>>>,
    /// Requests counted under `other` because there were too many series.
    pub dropped_series: AtomicU64,
    /// Open connections from applications and other sidecars.
    pub connections: AtomicI64,
    /// Connections refused: plaintext where mTLS is asked for, or a failed handshake.
    pub refused_connections: AtomicU64,
    /// Connections that were closed at once for want of room.
    pub overflown_connections: AtomicU64,
    /// Access log lines lost because the writer was behind.
    pub dropped_log_lines: AtomicU64,
}

/// The series of one worker thread.
#[derive(Debug, Default)]
pub struct ThreadMetrics {
    known: HashMap<SeriesKey, Arc<Series>, ahash::RandomState>,
}

impl ThreadMetrics {
    /// The series of `key`, registered on first use.
    pub fn series(&mut self, key: SeriesKey, metrics: &Metrics) -> Arc<Series> {
        if let Some(series) = self.known.get(&key) {
            return Arc::clone(series);
        }
        let mut all = metrics.lock();
        if all.len() >= SERIES_MAX {
            drop(all);
            metrics.dropped_series.fetch_add(1, Relaxed);
            return self.other(key, metrics);
        }
        let series = Arc::new(Series::new(key));
        all.push(Arc::clone(&series));
        self.known.insert(key, Arc::clone(&series));
        series
    }

    /// The series for all that found no place: few, since only the direction is told apart.
    fn other(&mut self, key: SeriesKey, metrics: &Metrics) -> Arc<Series> {
        let other = SeriesKey {
            service: OTHER,
            peer: OTHER,
            peer_identity: OTHER,
            ..SeriesKey::new(key.direction, Protocol::Http)
        };
        let series = self.known.entry(other).or_insert_with(|| {
            let series = Arc::new(Series::new(other));
            metrics.lock().push(Arc::clone(&series));
            series
        });
        Arc::clone(series)
    }
}

/// One series summed over threads, with its names.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is counted.
    pub key: SeriesKey,
    /// Requests answered, or connections opened.
    pub requests: u64,
    /// Connections closed.
    pub closed: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Bytes received from the other side.
    pub bytes_in: u64,
    /// Bytes sent to the other side.
    pub bytes_out: u64,
    /// Sum of latencies, microseconds.
    pub sum_us: u64,
    /// Latencies by bucket.
    pub counts: [u64; BUCKETS],
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Series>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All series, summed over threads.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let mut places: HashMap<SeriesKey, usize> = HashMap::new();
        for series in self.lock().iter() {
            let place = *places.entry(series.key).or_insert_with(|| {
                rows.push(Row {
                    key: series.key,
                    requests: 0,
                    closed: 0,
                    retries: 0,
                    bytes_in: 0,
                    bytes_out: 0,
                    sum_us: 0,
                    counts: [0; BUCKETS],
                });
                rows.len() - 1
            });
            let row = &mut rows[place];
            row.requests += series.requests.load(Relaxed);
            row.closed += series.closed.load(Relaxed);
            row.retries += series.retries.load(Relaxed);
            row.bytes_in += series.bytes_in.load(Relaxed);
            row.bytes_out += series.bytes_out.load(Relaxed);
            row.sum_us += series.latency.sum_us();
            for (sum, count) in row.counts.iter_mut().zip(series.latency.counts()) {
                *sum += count;
            }
        }
        rows
    }
}

/// Name, type and meaning of every metric; the reference page is made from this table.
pub const TABLE: &[(&str, &str, &str)] = &[
    (
        "tulle_requests_total",
        "counter",
        "Requests answered, by the application or by the mesh.",
    ),
    (
        "tulle_request_duration_seconds",
        "histogram",
        "Time from a request's head to the end of its response.",
    ),
    (
        "tulle_request_retries_total",
        "counter",
        "Tries after the first.",
    ),
    (
        "tulle_request_bytes_total",
        "counter",
        "Bytes of request bodies.",
    ),
    (
        "tulle_response_bytes_total",
        "counter",
        "Bytes of response bodies.",
    ),
    (
        "tulle_tcp_connections_opened_total",
        "counter",
        "TCP connections opened.",
    ),
    (
        "tulle_tcp_connections_closed_total",
        "counter",
        "TCP connections closed.",
    ),
    (
        "tulle_tcp_sent_bytes_total",
        "counter",
        "Bytes sent to the called side of TCP connections.",
    ),
    (
        "tulle_tcp_received_bytes_total",
        "counter",
        "Bytes received from the called side of TCP connections.",
    ),
    (
        "tulle_connections",
        "gauge",
        "Open connections from applications and other sidecars.",
    ),
    (
        "tulle_connections_max",
        "gauge",
        "Most connections there may be; fewer than 16,384 where the limit of open files is low.",
    ),
    (
        "tulle_connections_refused_total",
        "counter",
        "Connections refused for want of mTLS, or with a failed handshake.",
    ),
    (
        "tulle_connections_overflow_total",
        "counter",
        "Connections closed at once because too many were open.",
    ),
    (
        "tulle_dropped_series_total",
        "counter",
        "Requests counted under \"other\" because there were too many series.",
    ),
    (
        "tulle_dropped_log_lines_total",
        "counter",
        "Access log lines lost because the writer was behind.",
    ),
    (
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory of the sidecar process.",
    ),
    (
        "process_cpu_seconds_total",
        "counter",
        "CPU time of the sidecar process.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: u16, peer: u32) -> SeriesKey {
        SeriesKey {
            peer,
            code,
            mtls: true,
            ..SeriesKey::new(Direction::Outbound, Protocol::Http)
        }
    }

    #[test]
    fn threads_are_summed() {
        let metrics = Metrics::default();
        let (mut one, mut two) = (ThreadMetrics::default(), ThreadMetrics::default());
        one.series(key(200, 0), &metrics).request(100, 1, 10, 20);
        two.series(key(200, 0), &metrics).request(300, 0, 1, 2);
        let rows = metrics.rows();
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].requests, rows[0].retries, rows[0].sum_us),
            (2, 1, 400)
        );
        assert_eq!((rows[0].bytes_in, rows[0].bytes_out), (11, 22));
    }

    #[test]
    fn past_the_bound_requests_are_counted_as_other_and_none_is_lost() {
        let metrics = Metrics::default();
        let mut thread = ThreadMetrics::default();
        let asked = SERIES_MAX + 50;
        for index in 0..asked {
            let peer = u32::try_from(index).expect("small");
            thread.series(key(200, peer), &metrics).request(1, 0, 0, 0);
        }
        let rows = metrics.rows();
        assert_eq!(rows.len(), SERIES_MAX + 1);
        assert_eq!(
            rows.iter().map(|row| row.requests).sum::<u64>(),
            asked as u64
        );
        assert_eq!(metrics.dropped_series.load(Relaxed), 50);
    }
}
