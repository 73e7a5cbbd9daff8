//! The report to the control plane: cumulative, so that a lost one costs nothing.

use serde_json::{Value, json};

use super::histogram::upper_us;
use super::metrics::{Direction, Metrics, Row};
use super::process;
use crate::error::Reason;

/// Who reports.
#[derive(Debug)]
pub struct Reporter<'a> {
    /// `namespace/name` of the workload.
    pub workload: &'a str,
    /// Its SPIFFE id; empty before it has one.
    pub identity: &'a str,
    /// Changes at each start of the process.
    pub epoch: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
}

/// The report as JSON.
pub fn report(metrics: &Metrics, reporter: &Reporter<'_>) -> Value {
    let usage = process::usage();
    let edges: Vec<Value> = metrics
        .rows()
        .iter()
        .map(|row| edge(row, metrics, reporter))
        .collect();
    json!({
        "epoch": reporter.epoch,
        "uptime_s": reporter.uptime_s,
        "rss_bytes": usage.rss_bytes,
        "cpu_s": usage.cpu_s,
        "connections": metrics.connections.load(std::sync::atomic::Ordering::Relaxed),
        "dropped_series": metrics.dropped_series.load(std::sync::atomic::Ordering::Relaxed),
        "edges": edges,
    })
}

fn edge(row: &Row, metrics: &Metrics, reporter: &Reporter<'_>) -> Value {
    let name = |id| metrics.names.text(id);
    let (peer, peer_identity) = (name(row.key.peer), name(row.key.peer_identity));
    let (own, own_identity) = (reporter.workload, reporter.identity);
    let (source, source_identity, destination, destination_identity) = match row.key.direction {
        Direction::Outbound => (own, own_identity, &*peer, &*peer_identity),
        Direction::Inbound => (&*peer, &*peer_identity, own, own_identity),
    };
    let latency: Vec<(u64, u64)> = row
        .counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(index, count)| (upper_us(index), *count))
        .collect();
    json!({
        "direction": row.key.direction.as_str(),
        "source": source,
        "source_identity": source_identity,
        "service": &*name(row.key.service),
        "destination": destination,
        "destination_identity": destination_identity,
        "route": &*name(row.key.route),
        "protocol": row.key.protocol.as_str(),
        "code": row.key.code.to_string(),
        "grpc_status": row.key.grpc_status.map(|status| status.to_string()),
        "reason": row.key.reason.map(Reason::as_str),
        "mtls": row.key.mtls,
        "requests": row.requests,
        "retries": row.retries,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "latency_us": latency,
    })
}
