//! Waits between attempts: full jitter, so that a thousand sidecars do not come back at once.

use std::time::Duration;

use super::Timing;

/// Doubling bounds; each wait is a random part of its bound.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    pub(super) fn new(timing: &Timing) -> Self {
        Self::between(timing.backoff_min, timing.backoff_max)
    }

    pub(super) fn between(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            bound: min,
        }
    }

    pub(super) fn reset(&mut self) {
        self.bound = self.min;
    }

    pub(super) fn next_wait(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(self.max);
        bound.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_doubling_bounds_and_a_reset_starts_over() {
        let timing = Timing::default();
        let mut backoff = Backoff::new(&timing);

        for bound_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            assert_eq!(Duration::from_millis(bound_ms), backoff.bound);
            assert!(backoff.next_wait() <= Duration::from_millis(bound_ms));
        }
        backoff.reset();
        assert_eq!(timing.backoff_min, backoff.bound);
    }
}
