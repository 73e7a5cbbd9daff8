//! The latencies of one run, kept whole, so that percentiles are exact.

use std::time::Duration;

/// Every answered request's latency, and how many were not answered as they should be.
#[derive(Default)]
pub struct Samples {
    latencies_us: Vec<u32>,
    /// Requests that failed or were answered with anything but success.
    pub errors: u64,
    /// Requests on a connection that resumed a TLS session.
    pub resumed: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Samples {
    /// Adds one request that was answered well.
    pub fn add(&mut self, latency: Duration) {
        self.latencies_us
            .push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds all of another run's requests.
    pub fn join(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        self.errors += other.errors;
    }

    /// Prints the run as one JSON object.
    pub fn print(mut self) {
        self.latencies_us.sort_unstable();
        println!(
            "{{\"requests\":{},\"errors\":{},\"resumed\":{},\"seconds\":{:.6},\"p50_us\":{},\"p99_us\":{}}}",
            self.latencies_us.len(),
            self.errors,
            self.resumed,
            self.elapsed.as_secs_f64(),
            percentile(&self.latencies_us, 50),
            percentile(&self.latencies_us, 99),
        );
    }
}

/// The smallest value that `percent` of all values do not exceed; 0 when there are none.
fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!(percentile(&values, 50), 100);
        assert_eq!(percentile(&values, 99), 198);
        assert_eq!(percentile(&[7], 99), 7);
        assert_eq!(percentile(&[], 50), 0);
    }
}
