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

/// How long a connection may be without streams.
#[derive(Debug)]
pub struct Idle {
    limit: Duration,
    end: Option<Deadline>,
}

impl Idle {
    /// At most `limit` at a time.
    pub fn new(limit: Duration) -> Idle {
        Idle { limit, end: None }
    }

    /// Ready when nothing was `busy` for as long as the limit.
    pub fn poll(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<()> {
        if busy {
            self.end = None;
            return Poll::Pending;
        }
        let end = self.end.get_or_insert_with(|| Deadline::after(self.limit));
        Pin::new(end).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::tests::{hold, on_local, pass};
    use tokio::io::DuplexStream;

    const INTERVAL: Duration = Duration::from_secs(20);
    /// The least time there is.
    const MOMENT: Duration = Duration::from_micros(1);

    /// When a client whose streams keep it `busy` has found its peer gone; `None`: not within two
    /// intervals and more.
    fn gone_after(busy: bool, peer: impl AsyncFnOnce(DuplexStream) + 'static) -> Option<Duration> {
        on_local(async move {
            hold();
            let (ours, theirs) = tokio::io::duplex(4096);
            tokio::task::spawn_local(async move { peer(theirs).await });
            let (_sender, mut connection) =
                h2::client::handshake(ours).await.expect("a connection");
            let mut alive = KeepAlive::new(connection.ping_pong(), INTERVAL);
            let gone = tokio::task::spawn_local(std::future::poll_fn(move |cx| {
                assert!(Pin::new(&mut connection).poll(cx).is_pending());
                alive.poll(cx, busy)
            }));
            pass(Duration::ZERO).await;
            let mut passed = Duration::ZERO;
            let moments = [INTERVAL - MOMENT, MOMENT, PING_TIMEOUT - MOMENT, MOMENT];
            for moment in moments.into_iter().chain([INTERVAL, PING_TIMEOUT]) {
                pass(moment).await;
                passed += moment;
                if gone.is_finished() {
                    return Some(passed);
                }
            }
            None
        })
    }

    async fn silent(_held: DuplexStream) {
        std::future::pending::<()>().await;
    }

    async fn answering(stream: DuplexStream) {
        let mut connection = h2::server::handshake(stream).await.expect("a connection");
        while connection.accept().await.is_some() {}
    }

    #[test]
    fn a_peer_that_answers_no_ping_is_gone() {
        assert_eq!(gone_after(true, silent), Some(INTERVAL + PING_TIMEOUT));
    }

    #[test]
    fn a_peer_that_answers_stays_and_so_does_one_that_is_not_asked() {
        assert_eq!(gone_after(true, answering), None);
        assert_eq!(gone_after(false, silent), None);
    }

    #[test]
    fn a_connection_is_idle_from_its_last_stream_on() {
        on_local(async {
            hold();
            let mut idle = Idle::new(INTERVAL);
            let mut is_over = async |busy| {
                std::future::poll_fn(|cx| Poll::Ready(idle.poll(cx, busy).is_ready())).await
            };
            for busy in [true, false, true, false] {
                assert!(!is_over(busy).await);
                pass(INTERVAL - MOMENT).await;
            }
            assert!(!is_over(false).await);
            pass(MOMENT).await;
            assert!(is_over(false).await);
        });
    }
}
