//! Pings that find out whether the peer of a connection is still there.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};

use crate::timer::Deadline;

/// Time without an answer to a ping after which the peer is gone.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a ping each interval.
#[derive(Debug)]
pub struct KeepAlive {
    pings: Option<PingPong>,
    interval: Duration,
    next: Deadline,
    waits: bool,
}

impl KeepAlive {
    /// Through `pings`, each `interval`.
    pub fn new(pings: Option<PingPong>, interval: Duration) -> KeepAlive {
        KeepAlive {
            pings,
            interval,
            next: Deadline::after(interval),
            waits: false,
        }
    }

    /// Ready when the peer is gone. While nothing is `busy`, none is sent.
    pub fn poll(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<()> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        loop {
            if self.waits && pings.poll_pong(cx).is_ready() {
                self.waits = false;
                self.next = Deadline::after(self.interval);
            }
            if Pin::new(&mut self.next).poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waits {
                return Poll::Ready(());
            }
            self.waits = busy && pings.send_ping(Ping::opaque()).is_ok();
            self.next = Deadline::after(match self.waits {
                true => PING_TIMEOUT,
                false => self.interval,
            });
        }
    }
}
