//! Open loop: requests are due by a schedule, whatever happened to the ones before.
//!
//! A latency runs from the moment a request was *due*, not from when a connection was free for
//! it, so a proxy that stalls pays for every request it delayed (no coordinated omission).

use crate::arguments::Load;
use crate::http1::{Fleet, Progress};
use crate::samples::Samples;
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Longest wait for the last answers once the schedule is over.
const TAIL: Duration = Duration::from_secs(5);

/// Requests due at a steady rate, and the connections that can take one.
struct Schedule {
    begin: Instant,
    rate: usize,
    sent_out: usize,
    total: usize,
    waiting: VecDeque<Instant>,
    idle: VecDeque<usize>,
}

impl Schedule {
    fn due(&self, number: usize) -> Instant {
        self.begin + Duration::from_nanos(number as u64 * 1_000_000_000 / self.rate as u64)
    }

    /// Moves what is due by now to the waiting line.
    fn advance(&mut self, now: Instant) {
        while self.sent_out < self.total && self.due(self.sent_out) <= now {
            self.waiting.push_back(self.due(self.sent_out));
            self.sent_out += 1;
        }
    }

    /// Time until the next request is due, or the tail's length when none is left.
    fn pause(&self, now: Instant) -> Duration {
        if self.sent_out < self.total {
            self.due(self.sent_out).saturating_duration_since(now)
        } else {
            TAIL
        }
    }
}

/// Sends `rate` requests a second for the load's duration and waits for all answers.
pub fn run(load: &Load, rate: usize) -> io::Result<Samples> {
    // The default slack of 50 µs would be added to every request's latency.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut fleet = Fleet::open(load)?;
    let mut samples = Samples::default();
    let begin = Instant::now();
    let mut due_of = vec![None; load.connections];
    let mut schedule = Schedule {
        begin,
        rate,
        sent_out: 0,
        total: (rate as f64 * load.duration.as_secs_f64()) as usize,
        waiting: VecDeque::new(),
        idle: (0..load.connections).collect(),
    };
    let mut answered = 0;
    while answered < schedule.total {
        schedule.advance(Instant::now());
        while !schedule.waiting.is_empty() {
            let Some(index) = schedule.idle.pop_front() else {
                break;
            };
            due_of[index] = schedule.waiting.pop_front();
            fleet.send(index)?;
        }
        let ready = fleet.wait(schedule.pause(Instant::now()))?;
        if ready.is_empty() && schedule.sent_out == schedule.total {
            break;
        }
        for index in ready {
            // An event on a connection that has nothing in flight.
            let Some(due) = due_of[index] else {
                continue;
            };
            match fleet.drive(index) {
                Ok(Progress::Waiting) => continue,
                Ok(Progress::Answered(true)) => samples.add(due.elapsed()),
                Ok(Progress::Answered(false)) => samples.errors += 1,
                Err(_) => {
                    samples.errors += 1;
                    fleet.reconnect(index)?;
                }
            }
            answered += 1;
            due_of[index] = None;
            schedule.idle.push_back(index);
        }
    }
    samples.errors += (schedule.total - answered) as u64;
    samples.elapsed = begin.elapsed();
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    #[test]
    fn a_late_turn_still_gets_every_request_at_its_own_due_time() {
        let begin = Instant::now();
        let mut schedule = Schedule {
            begin,
            rate: 1000,
            sent_out: 0,
            total: 5,
            waiting: VecDeque::new(),
            idle: VecDeque::new(),
        };
        schedule.advance(begin + Duration::from_micros(3500));
        let due: Vec<_> = schedule.waiting.iter().map(|due| *due - begin).collect();
        assert_eq!(due, [0, 1, 2, 3].map(Duration::from_millis));
        assert_eq!(
            schedule.pause(begin + Duration::from_micros(3500)),
            Duration::from_micros(500)
        );
    }
}
