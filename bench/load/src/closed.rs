//! Closed loop: each connection sends its next request when the last one is answered.
//!
//! This finds the cost of a request at saturation. Its latencies say little: a slow proxy is sent
//! less.

use crate::arguments::Load;
use crate::http1::{Fleet, Progress, request};
use crate::samples::Samples;
use std::io;
use std::time::{Duration, Instant};

/// Longest wait for any answer; past it the run ends and what is in flight counts as failed.
const STALL: Duration = Duration::from_secs(5);

/// Sends until the time is over, then waits for the answers in flight.
pub fn run(load: &Load) -> io::Result<Samples> {
    let request = request(&load.host);
    let mut fleet = Fleet::open(load)?;
    let mut samples = Samples::default();
    let begin = Instant::now();
    let end = begin + load.duration;
    let mut started = vec![begin; load.connections];
    for index in 0..load.connections {
        fleet.connection(index).send(&request)?;
    }
    let mut in_flight = load.connections;
    while in_flight > 0 {
        let ready = fleet.wait(STALL)?;
        if ready.is_empty() {
            break;
        }
        for index in ready {
            let progress = fleet.connection(index).receive();
            let now = Instant::now();
            match progress {
                Ok(Progress::Waiting) => continue,
                Ok(Progress::Answered(true)) => samples.add(now - started[index]),
                Ok(Progress::Answered(false)) => samples.errors += 1,
                Err(_) => {
                    samples.errors += 1;
                    fleet.reconnect(index)?;
                }
            }
            if now < end {
                started[index] = now;
                fleet.connection(index).send(&request)?;
            } else {
                in_flight -= 1;
            }
        }
    }
    samples.errors += in_flight as u64;
    samples.elapsed = begin.elapsed();
    Ok(samples)
}
