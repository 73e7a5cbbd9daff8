//! What this process costs, read from the kernel.

/// Memory and CPU of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// CPU time in user and kernel mode since the start, seconds.
    pub cpu_s: f64,
}

/// Read `/proc/self`; zeros where there is none.
pub fn usage() -> Usage {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    // proc(5): the second field of statm is the resident set, in pages of 4096 bytes.
    let pages = read("/proc/self/statm")
        .split(' ')
        .nth(1)
        .and_then(|text| text.parse::<u64>().ok());
    // proc(5): the first field of schedstat is the time on the CPU in nanoseconds, per thread.
    let nanoseconds: u64 = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum();
    Usage {
        rss_bytes: pages.unwrap_or(0) * 4096,
        cpu_s: nanoseconds as f64 / 1e9,
    }
}
