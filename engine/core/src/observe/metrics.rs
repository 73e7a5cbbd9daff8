//! Request and connection counters: one writer per cell, summed when read, bounded in number.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::histogram::{BUCKETS, Histogram, add, upper_us};
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
    /// Why the mesh answered in place of the application.
    pub reason: Option<Reason>,
    /// Whether the other side was reached, or came, by mTLS.
    pub mtls: bool,
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
            route: NONE,
            protocol: Protocol::Http,
            code: 0,
            reason: None,
            mtls: false,
            ..key
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
        "tulle_connections_refused_total",
        "counter",
        "Connections refused for want of mTLS, or with a failed handshake.",
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

/// One in this many buckets is exported to Prometheus: the upper bounds that are powers of two.
const EXPORT_STEP: usize = 4;

impl Metrics {
    /// The Prometheus text format, version 0.0.4. `workload`: `namespace/name` of this sidecar;
    /// `identity`: its SPIFFE id.
    pub fn prometheus(&self, workload: &str, identity: &str) -> String {
        let rows: Vec<(String, Row)> = self
            .rows()
            .into_iter()
            .map(|row| (self.labels(&row.key, workload, identity), row))
            .collect();
        let mut families: BTreeMap<&str, String> = BTreeMap::new();
        for (labels, row) in &rows {
            let tcp = row.key.protocol == Protocol::Tcp;
            let (request, response) = match row.key.direction {
                Direction::Outbound => (row.bytes_out, row.bytes_in),
                Direction::Inbound => (row.bytes_in, row.bytes_out),
            };
            let mut line = |name: &'static str, value: u64| {
                let _ = writeln!(
                    families.entry(name).or_default(),
                    "{name}{{{labels}}} {value}"
                );
            };
            if tcp {
                line("tulle_tcp_connections_opened_total", row.requests);
                line("tulle_tcp_connections_closed_total", row.closed);
                line("tulle_tcp_sent_bytes_total", request);
                line("tulle_tcp_received_bytes_total", response);
            } else {
                line("tulle_requests_total", row.requests);
                line("tulle_request_retries_total", row.retries);
                line("tulle_request_bytes_total", request);
                line("tulle_response_bytes_total", response);
                let family = families
                    .entry("tulle_request_duration_seconds")
                    .or_default();
                write_histogram(family, labels, row);
            }
        }
        let process = super::process::usage();
        for (name, value) in [
            (
                "tulle_connections",
                self.connections.load(Relaxed).to_string(),
            ),
            (
                "tulle_connections_refused_total",
                self.refused_connections.load(Relaxed).to_string(),
            ),
            (
                "tulle_dropped_series_total",
                self.dropped_series.load(Relaxed).to_string(),
            ),
            (
                "tulle_dropped_log_lines_total",
                self.dropped_log_lines.load(Relaxed).to_string(),
            ),
            (
                "process_resident_memory_bytes",
                process.rss_bytes.to_string(),
            ),
            ("process_cpu_seconds_total", process.cpu_s.to_string()),
        ] {
            families.insert(name, format!("{name} {value}\n"));
        }
        let mut text = String::new();
        for (name, kind, help) in TABLE {
            if let Some(lines) = families.get(name) {
                let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
            }
        }
        text
    }

    fn labels(&self, key: &SeriesKey, workload: &str, identity: &str) -> String {
        let name = |id| escape(&self.names.text(id));
        let (peer, peer_identity) = (name(key.peer), name(key.peer_identity));
        let (source, source_identity, destination, destination_identity) = match key.direction {
            Direction::Outbound => (workload, identity, &*peer, &*peer_identity),
            Direction::Inbound => (&*peer, &*peer_identity, workload, identity),
        };
        format!(
            "direction=\"{}\",source=\"{source}\",source_identity=\"{source_identity}\",\
             service=\"{}\",destination=\"{destination}\",\
             destination_identity=\"{destination_identity}\",route=\"{}\",protocol=\"{}\",\
             code=\"{}\",reason=\"{}\",mtls=\"{}\"",
            key.direction.as_str(),
            name(key.service),
            name(key.route),
            key.protocol.as_str(),
            key.code,
            key.reason.map_or("", Reason::as_str),
            key.mtls,
        )
    }
}

fn write_histogram(out: &mut String, labels: &str, row: &Row) {
    const NAME: &str = "tulle_request_duration_seconds";
    let mut sum = 0;
    for (index, count) in row.counts.iter().enumerate() {
        sum += count;
        if index % EXPORT_STEP == EXPORT_STEP - 1 {
            let bound = (upper_us(index) + 1) as f64 / 1e6;
            let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {sum}");
        }
    }
    let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {sum}");
    let _ = writeln!(out, "{NAME}_sum{{{labels}}} {}", row.sum_us as f64 / 1e6);
    let _ = writeln!(out, "{NAME}_count{{{labels}}} {sum}");
}

/// Escape a label's value as the text format asks.
fn escape(text: &str) -> String {
    if text.contains(['\\', '"', '\n']) {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: u16, peer: u32) -> SeriesKey {
        SeriesKey {
            direction: Direction::Outbound,
            service: NONE,
            peer,
            peer_identity: NONE,
            route: NONE,
            protocol: Protocol::Http,
            code,
            reason: None,
            mtls: true,
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

    #[test]
    fn the_text_names_both_sides_and_every_bucket_is_cumulative() {
        let metrics = Metrics::default();
        let peer = metrics.names.id("shop/cart-\"1\"");
        ThreadMetrics::default()
            .series(key(503, peer), &metrics)
            .request(1500, 2, 5, 7);
        let text = metrics.prometheus("shop/web-1", "spiffe://t/ns/shop/sa/web");
        assert!(text.contains("source=\"shop/web-1\""), "{text}");
        assert!(
            text.contains("destination=\"shop/cart-\\\"1\\\"\""),
            "{text}"
        );
        assert!(text.contains("le=\"0.001024\"} 0\n") && text.contains("le=\"0.002048\"} 1\n"));
        assert!(
            text.contains("_sum{") && text.contains(" 0.0015\n"),
            "{text}"
        );
    }
}
