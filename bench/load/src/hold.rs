//! Holds connections idle after one request each, so that their memory can be read.

use crate::arguments::Load;
use crate::http1::{Fleet, Progress};
use std::io::{self, Read};
use std::time::Duration;

/// Longest wait for one answer.
const STALL: Duration = Duration::from_secs(5);

/// Opens the connections, prints a line when each has been answered once, and waits for the end of
/// standard input.
pub fn run(load: &Load) -> io::Result<()> {
    let mut fleet = Fleet::open(load)?;
    let mut errors = 0;
    for index in 0..load.connections {
        fleet.send(index)?;
        if !wait_answer(&mut fleet, index)? {
            errors += 1;
        }
    }
    println!(
        "{{\"connections\":{},\"errors\":{errors}}}",
        load.connections
    );
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn wait_answer(fleet: &mut Fleet, index: usize) -> io::Result<bool> {
    loop {
        let ready = fleet.wait(STALL)?;
        if ready.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The others have nothing in flight; with TLS they may still be told something.
        for other in ready {
            match fleet.drive(other)? {
                Progress::Answered(success) if other == index => return Ok(success),
                _ => {}
            }
        }
    }
}
