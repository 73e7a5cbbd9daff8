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
    timeout: Duration,
    next: Deadline,
    waits: bool,
}

impl KeepAlive {
    /// Through `pings`, each `interval`.
    pub fn new(pings: Option<PingPong>, interval: Duration) -> KeepAlive {
        KeepAlive {
            pings,
            interval,
            timeout: PING_TIMEOUT,
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
                true => self.timeout,
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
    use crate::timer::tests::on_local;
    use tokio::io::DuplexStream;

    const SHORT: Duration = Duration::from_millis(20);
    /// Long enough for many pings, and for a machine that does other things.
    const WHILE: Duration = Duration::from_secs(1);

    /// Whether a client whose streams keep it `busy` finds its peer gone.
    fn finds_gone(busy: bool, peer: impl AsyncFnOnce(DuplexStream) + 'static) -> bool {
        on_local(async move {
            let (ours, theirs) = tokio::io::duplex(4096);
            tokio::task::spawn_local(async move { peer(theirs).await });
            let (_sender, mut connection) =
                h2::client::handshake(ours).await.expect("a connection");
            let mut alive = KeepAlive::new(connection.ping_pong(), SHORT);
            alive.timeout = 10 * SHORT;
            let gone = std::future::poll_fn(|cx| {
                assert!(Pin::new(&mut connection).poll(cx).is_pending());
                alive.poll(cx, busy)
            });
            tokio::time::timeout(WHILE, gone).await.is_ok()
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
        assert!(finds_gone(true, silent));
    }

    #[test]
    fn a_connection_is_idle_from_its_last_stream_on() {
        on_local(async {
            let mut idle = Idle::new(SHORT);
            let mut late = Deadline::after(5 * SHORT);
            let busy = std::future::poll_fn(|cx| match Pin::new(&mut late).poll(cx) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => idle.poll(cx, true).map(|()| true),
            });
            assert!(!busy.await);
            let over = std::future::poll_fn(|cx| idle.poll(cx, false));
            assert!(tokio::time::timeout(WHILE, over).await.is_ok());
        });
    }

    #[test]
    fn a_peer_that_answers_stays_and_so_does_one_that_is_not_asked() {
        assert!(!finds_gone(true, answering));
        assert!(!finds_gone(false, silent));
    }
}
