//! What the kernel knows of connections.

use std::fs;

/// Whether the kernel will ask the peer of a connection between these ports if it is still there.
pub(crate) fn has_keepalive(local: u16, remote: u16) -> bool {
    const KEEPALIVE_TIMER: &str = "02:";
    let table = fs::read_to_string("/proc/net/tcp").expect("a table");
    let ends = [local, remote].map(|port| format!(":{port:04X}"));
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&ends[0])
            && fields[2].ends_with(&ends[1])
            && fields[5].starts_with(KEEPALIVE_TIMER)
    })
}
