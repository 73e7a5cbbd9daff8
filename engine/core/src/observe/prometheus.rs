//! Metrics in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use super::histogram::upper_us;
use super::metrics::{Direction, Metrics, Row, SeriesKey, TABLE};
use super::process;
use crate::error::Reason;
use crate::record::Protocol;

/// One in this many buckets is exported to Prometheus: the upper bounds that are powers of two.
const EXPORT_STEP: usize = 4;

impl Metrics {
    /// The Prometheus text format, version 0.0.4. `workload`: `namespace/name` of this sidecar;
    /// `identity`: its SPIFFE id; `connections_max`: how many there may be.
    pub fn prometheus(&self, workload: &str, identity: &str, connections_max: i64) -> String {
        let rows: Vec<(String, Row)> = self
            .rows()
            .into_iter()
            .map(|row| (self.labels(&row.key, workload, identity), row))
            .collect();
        let mut families: BTreeMap<&str, String> = BTreeMap::new();
        for (labels, row) in &rows {
            write_row(&mut families, labels, row);
        }
        let process = process::usage();
        for (name, value) in [
            (
                "tulle_connections",
                self.connections.load(Relaxed).to_string(),
            ),
            ("tulle_connections_max", connections_max.to_string()),
            (
                "tulle_connections_refused_total",
                self.refused_connections.load(Relaxed).to_string(),
            ),
            (
                "tulle_connections_overflow_total",
                self.overflown_connections.load(Relaxed).to_string(),
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
             code=\"{}\",grpc_status=\"{}\",reason=\"{}\",mtls=\"{}\"",
            key.direction.as_str(),
            name(key.service),
            name(key.route),
            key.protocol.as_str(),
            key.code,
            key.grpc_status
                .map_or_else(String::new, |status| status.to_string()),
            key.reason.map_or("", Reason::as_str),
            key.mtls,
        )
    }
}

/// A row's lines, each to its family.
fn write_row(families: &mut BTreeMap<&str, String>, labels: &str, row: &Row) {
    let (request, response) = match row.key.direction {
        Direction::Outbound => (row.bytes_out, row.bytes_in),
        Direction::Inbound => (row.bytes_in, row.bytes_out),
    };
    let lines = match row.key.protocol {
        Protocol::Tcp => [
            ("tulle_tcp_connections_opened_total", row.requests),
            ("tulle_tcp_connections_closed_total", row.closed),
            ("tulle_tcp_sent_bytes_total", request),
            ("tulle_tcp_received_bytes_total", response),
        ],
        _ => [
            ("tulle_requests_total", row.requests),
            ("tulle_request_retries_total", row.retries),
            ("tulle_request_bytes_total", request),
            ("tulle_response_bytes_total", response),
        ],
    };
    for (name, value) in lines {
        let _ = writeln!(
            families.entry(name).or_default(),
            "{name}{{{labels}}} {value}"
        );
    }
    if row.key.protocol != Protocol::Tcp {
        let family = families
            .entry("tulle_request_duration_seconds")
            .or_default();
        write_histogram(family, labels, row);
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
    use super::super::metrics::ThreadMetrics;
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
    fn the_text_names_both_sides_and_every_bucket_is_cumulative() {
        let metrics = Metrics::default();
        let peer = metrics.names.id("shop/cart-\"1\"");
        ThreadMetrics::default()
            .series(key(503, peer), &metrics)
            .request(1500, 2, 5, 7);
        let text = metrics.prometheus("shop/web-1", "spiffe://t/ns/shop/sa/web", 9);
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
