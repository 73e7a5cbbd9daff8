//! Closed loop: each connection sends its next request when the last one is answered.
//!
//! This finds the cost of a request at saturation. Its latencies say little: a slow proxy is sent
//! less.

use crate::arguments::Load;
use crate::http1::{Fleet, Progress};
use crate::samples::Samples;
use std::io;
use std::time::{Duration, Instant};

/// Longest wait for any answer; past it the run ends and what is in flight counts as failed.
const STALL: Duration = Duration::from_secs(5);

/// Sends until the budget is used up, then waits for the answers in flight.
pub fn run(load: &Load) -> io::Result<Samples> {
    let mut fleet = Fleet::open(load)?;
    let mut samples = Samples::default();
    let begin = Instant::now();
    let mut budget = load.budget(begin);
    let mut started = vec![None; load.connections];
    let mut in_flight = 0;
    for (index, start) in started.iter_mut().enumerate() {
        if budget.take(begin) {
            *start = Some(begin);
            fleet.send(index)?;
            in_flight += 1;
        }
    }
    while in_flight > 0 {
        let ready = fleet.wait(STALL)?;
        if ready.is_empty() {
            break;
        }
        for index in ready {
            // An event on a connection that is done for, or waits for its end.
            let Some(start) = started[index] else {
                continue;
            };
            let progress = fleet.drive(index);
            let now = Instant::now();
            let broken = progress.is_err();
            match progress {
                Ok(Progress::Waiting) => continue,
                Ok(Progress::Answered(true)) => {
                    samples.add(now - start);
                    samples.resumed += u64::from(load.resumes && fleet.resumed(index));
                }
                Ok(Progress::Answered(false)) | Err(_) => samples.errors += 1,
            }
            if !budget.take(now) {
                started[index] = None;
                in_flight -= 1;
                continue;
            }
            started[index] = Some(now);
            if broken || load.fresh {
                fleet.reconnect(index)?;
            }
            fleet.send(index)?;
        }
    }
    samples.errors += in_flight;
    samples.elapsed = begin.elapsed();
    Ok(samples)
}
