//! The body of a request on its way up: what another try needs is kept up to a bound, the rest
//! streams.

use std::task::{Context, Poll, ready};

use crate::fields::Fields;
use crate::head::Length;
use crate::side::{Failed, Side, poll_carry};
use crate::splice::{self, Move};
use crate::steps::headers;
use crate::timer::now_us;

/// Most of a request's body that is kept for another try (as Linkerd's and Pingora's).
pub const REPLAY_MAX: usize = 64 * 1024;

/// What is left of the client's body, and what was read so far.
#[derive(Debug)]
pub struct Upload {
    length: Length,
    /// What was read so far; emptied for good when it grew too large.
    kept: Vec<u8>,
    keeps: bool,
    /// How much of `kept` this try has sent.
    at: usize,
    trailers: Option<Fields>,
    /// When the client had sent all of it, microseconds of [`now_us`].
    ended_us: Option<u64>,
    /// Since when this try waits for the client; 0: it does not.
    waits_us: u64,
    /// Since when the upstream takes nothing more in this try; 0: it does.
    stuck_us: u64,
    /// The end was passed on in this try.
    finished: bool,
    /// Bytes of the last try.
    sent: u64,
    moving: splice::Body,
}

/// What a body of `length` takes as a whole, bytes; 0: that is not known.
fn room(length: Length) -> usize {
    match length {
        Length::Exact(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
        Length::None | Length::Unknown => 0,
    }
}

impl Upload {
    /// A body of `length`; `may_retry`: another try may want it.
    pub fn new(length: Length, may_retry: bool) -> Upload {
        Upload {
            length,
            kept: Vec::new(),
            // Of a body that is known to be too long nothing is kept (as in Linkerd).
            keeps: may_retry && room(length) <= REPLAY_MAX,
            at: 0,
            trailers: None,
            ended_us: (length == Length::None).then_some(0),
            waits_us: 0,
            stuck_us: 0,
            finished: false,
            sent: 0,
            moving: splice::Body::default(),
        }
    }

    /// Begin a try from the body's beginning; `false`: too much was sent to send it again.
    pub fn begin(&mut self) -> bool {
        if !self.can_replay() {
            return false;
        }
        self.at = 0;
        self.sent = 0;
        (self.waits_us, self.stuck_us) = (0, 0);
        self.finished = self.length == Length::None;
        true
    }

    /// Whether another try could send the body from its beginning.
    pub fn can_replay(&self) -> bool {
        self.keeps || (self.sent == 0 && !self.moving.holds_any())
    }

    /// Whether this try has sent all of it.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// When the client had sent all of it; `None`: it still sends.
    pub fn ended_us(&self) -> Option<u64> {
        self.ended_us
    }

    /// Since when the client owes more of it, microseconds of [`now_us`].
    pub fn waits_us(&self) -> Option<u64> {
        Some(self.waits_us).filter(|&since| since > 0)
    }

    /// Since when the upstream takes nothing of what is there to send.
    pub fn stuck_us(&self) -> Option<u64> {
        Some(self.stuck_us).filter(|&since| since > 0)
    }

    /// Bytes that the last try has sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// No other try will come: let go of what was kept.
    pub fn settle(&mut self) {
        if self.at >= self.kept.len() {
            self.keeps = false;
            self.kept = Vec::new();
            self.at = 0;
        }
    }

    /// Send on until all is sent and written.
    ///
    /// # Errors
    /// The client broke off (the source), or the upstream did (the sink).
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: Side<'_>,
        upstream: Side<'_>,
    ) -> Poll<Result<(), Failed>> {
        let before = self.sent;
        let polled = self.poll_on(cx, client, upstream);
        if polled.is_ready() || self.waits_us > 0 {
            self.stuck_us = 0;
        } else if self.stuck_us == 0 || self.sent > before {
            // Nobody may look again before the time is over.
            self.stuck_us = now_us();
        }
        polled
    }

    fn poll_on(
        &mut self,
        cx: &mut Context<'_>,
        mut client: Side<'_>,
        mut upstream: Side<'_>,
    ) -> Poll<Result<(), Failed>> {
        while !self.finished {
            if self.at < self.kept.len() {
                let written = upstream.poll_write(cx, &self.kept[self.at..]);
                let count = ready!(written).map_err(Failed::Sink)?;
                self.at += count;
                self.sent += count as u64;
            } else if self.ended_us.is_some() {
                upstream
                    .finish(self.trailers.as_ref())
                    .map_err(Failed::Sink)?;
                self.finished = true;
            } else {
                ready!(self.poll_live(cx, &mut client, &mut upstream))?;
            }
        }
        upstream.poll_flush(cx, true).map_err(Failed::Sink)
    }

    /// Send what the client sends now.
    fn poll_live(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Side<'_>,
        upstream: &mut Side<'_>,
    ) -> Poll<Result<(), Failed>> {
        let moved = match self.keeps {
            true => Move::Copy,
            false => client.poll_move(cx, upstream, &mut self.moving)?,
        };
        let filled = match moved {
            Move::Copy => client.poll_fill(cx),
            Move::Moved(count) => {
                self.waits_us = 0;
                self.sent += count as u64;
                return Poll::Ready(Ok(()));
            }
            Move::Full => {
                self.waits_us = 0;
                return Poll::Pending;
            }
            Move::Empty => Poll::Pending,
        };
        let Poll::Ready(filled) = filled else {
            ready!(upstream.poll_flush(cx, false)).map_err(Failed::Sink)?;
            if self.waits_us == 0 {
                self.waits_us = now_us();
            }
            return Poll::Pending;
        };
        self.waits_us = 0;
        match filled {
            Err(error) => {
                // What came is not all, and must never be sent as if it were.
                self.keeps = false;
                return Poll::Ready(Err(Failed::Source(error)));
            }
            Ok(false) => {
                self.trailers = client.take_trailers();
                if let Some(trailers) = &mut self.trailers {
                    headers::strip_own(trailers);
                }
                self.ended_us = Some(now_us());
            }
            Ok(true) => {
                let (kept, keeps) = (&mut self.kept, &mut self.keeps);
                if *keeps && kept.is_empty() {
                    kept.reserve_exact(room(self.length));
                }
                let carried = poll_carry(cx, client, upstream, |data| {
                    if *keeps && kept.len() + data.len() <= REPLAY_MAX {
                        kept.extend_from_slice(data);
                    } else {
                        *keeps = false;
                        *kept = Vec::new();
                    }
                });
                let (count, last) = ready!(carried).map_err(Failed::Sink)?;
                self.at = self.kept.len();
                self.sent += count as u64;
                if last {
                    self.ended_us = Some(now_us());
                    self.finished = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
