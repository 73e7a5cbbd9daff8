//! The access log: one JSON object a line, written by a thread of its own.
//!
//! A request hands its line over and goes on; when the writer is behind, lines are dropped and
//! counted, and no request waits for a disk.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Lines that may wait for the writer; the queue takes memory as they come.
pub const QUEUE_MAX: usize = 8192;

/// Where request threads put their lines.
#[derive(Clone, Debug)]
pub struct AccessLog(Sender<String>);

impl AccessLog {
    /// Open the log and start its writer. `None`: standard error.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(path: Option<&Path>) -> io::Result<AccessLog> {
        let file: Box<dyn Write + Send> = match path {
            Some(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
            None => Box::new(io::stderr()),
        };
        let (sender, receiver) = channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("tulle-log".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || write_all(receiver, BufWriter::new(file)))?;
        Ok(AccessLog(sender))
    }

    /// Hand a line over; `false`: it was dropped.
    pub fn write(&self, line: String) -> bool {
        self.0.try_send(line).is_ok()
    }
}

/// Write lines as they come; flush when there is nothing more to write.
fn write_all(mut lines: Receiver<String>, mut file: impl Write) {
    while let Some(first) = lines.blocking_recv() {
        let mut written = writeln!(file, "{first}");
        while let Ok(line) = lines.try_recv() {
            written = written.and(writeln!(file, "{line}"));
        }
        if written.and(file.flush()).is_err() {
            // A full disk must not stop traffic; the next line may fit again.
            continue;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_the_writer_cannot_keep_up_with_are_refused() {
        let (sender, receiver) = channel(QUEUE_MAX);
        let log = AccessLog(sender);
        for _ in 0..QUEUE_MAX {
            assert!(log.write("{}".to_owned()));
        }
        assert!(!log.write("{}".to_owned()));
        drop(log);
        let mut written = Vec::new();
        write_all(receiver, &mut written);
        assert_eq!(written.len(), QUEUE_MAX * "{}\n".len());
    }
}
