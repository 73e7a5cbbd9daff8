//! Latencies in buckets whose width is at most a quarter of their value (log-linear, as in
//! HdrHistogram with two bits): about 100 counters cover 1 microsecond to two minutes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Number of buckets; the last one takes all that is longer.
pub const BUCKETS: usize = 108;

/// One writer, many readers.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            sum_us: AtomicU64::new(0),
        }
    }
}

/// The bucket of a latency.
fn bucket(us: u64) -> usize {
    if us < 4 {
        return us as usize;
    }
    let power = 63 - us.leading_zeros() as usize;
    let quarter = (us >> (power - 2)) as usize & 3;
    ((power - 1) * 4 + quarter).min(BUCKETS - 1)
}

/// The largest latency of a bucket, microseconds.
pub fn upper_us(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let (power, quarter) = (bucket / 4 + 1, (bucket % 4) as u64);
    (1 << power) + (quarter + 1) * (1 << (power - 2)) - 1
}

impl Histogram {
    /// Count one latency. Only the owning thread calls this.
    pub fn record(&self, us: u64) {
        add(&self.counts[bucket(us)], 1);
        add(&self.sum_us, us);
    }

    /// Sum of all latencies, microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Relaxed)
    }

    /// Count of each bucket.
    pub fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|index| self.counts[index].load(Relaxed))
    }
}

/// Add without a locked instruction: there is one writer.
pub(crate) fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_under_its_buckets_bound_and_above_the_one_before() {
        for us in (0..5000)
            .chain((1..27).map(|power| (1 << power) - 1))
            .chain((1..27).map(|p| 1 << p))
        {
            let index = bucket(us);
            assert!(us <= upper_us(index), "{us} in {index}");
            assert!(index == 0 || us > upper_us(index - 1), "{us} in {index}");
            assert!(
                upper_us(index) as f64 <= (us.max(1) as f64) * 1.25 + 1.0,
                "{us} in {index}"
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
