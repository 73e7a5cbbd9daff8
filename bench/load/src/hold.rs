//! Holds connections idle after one request each, so that their memory can be read.

use crate::arguments::Load;
use crate::http1::{Fleet, Progress, request};
use std::io::{self, Read};
use std::time::Duration;

/// Longest wait for one answer.
const STALL: Duration = Duration::from_secs(5);

/// Opens the connections, prints a line when each has been answered once, and waits for the end of
/// standard input.
pub fn run(load: &Load) -> io::Result<()> {
    let request = request(&load.host);
    let mut fleet = Fleet::open(load)?;
    let mut errors = 0;
    for index in 0..load.connections {
        fleet.connection(index).send(&request)?;
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
        if fleet.wait(STALL)?.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if let Progress::Answered(success) = fleet.connection(index).receive()? {
            return Ok(success);
        }
    }
}
