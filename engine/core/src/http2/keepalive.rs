//! Pings that find out whether the peer of a connection is still there.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};

use crate::timer::{Deadline, micros, now_us};
use crate::upstream::stream::Heard;

/// Time after a ping without a byte from the peer after which it is gone.
pub const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a ping when nothing came for an interval. Whatever comes then is a sign of life: the answer
/// may wait behind much that was sent before it.
#[derive(Debug)]
pub struct KeepAlive {
    pings: Option<PingPong>,
    heard: Heard,
    interval: Duration,
    /// When something came last, microseconds of [`now_us`].
    last_us: u64,
    next: Deadline,
    /// For a sign of life.
    waits: bool,
    /// A ping was not answered yet, and there can be no second one.
    asked: bool,
}

impl KeepAlive {
    /// Through `pings`, after each silent `interval`; `heard` knows of all that comes.
    pub fn new(pings: Option<PingPong>, heard: Heard, interval: Duration) -> KeepAlive {
        KeepAlive {
            pings,
            heard,
            interval,
            last_us: now_us(),
            next: Deadline::after(interval),
            waits: false,
            asked: false,
        }
    }

    /// Ready when the peer is gone. While nothing is `busy`, none is sent.
    pub fn poll(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<()> {
        let Some(pings) = &mut self.pings else {
            return Poll::Pending;
        };
        if self.heard.take() {
            self.last_us = now_us();
            if std::mem::take(&mut self.waits) {
                self.next = Deadline::after(self.interval);
            }
        }
        self.asked = self.asked && pings.poll_pong(cx).is_pending();
        loop {
            if Pin::new(&mut self.next).poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waits {
                return Poll::Ready(());
            }
            let due_us = self.last_us.saturating_add(micros(self.interval));
            self.next = if due_us > now_us() {
                Deadline::at_us(due_us)
            } else {
                self.asked = self.asked || (busy && pings.send_ping(Ping::opaque()).is_ok());
                self.waits = busy && self.asked;
                Deadline::after(match self.waits {
                    true => PING_TIMEOUT,
                    false => self.interval,
                })
            };
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
    use crate::upstream::stream::{Rewound, Stream};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    const INTERVAL: Duration = Duration::from_secs(20);
    /// The least time there is.
    const MOMENT: Duration = Duration::from_micros(1);

    /// A frame that says something of no interest: the connection's window is a byte larger.
    const UPDATE: &[u8] = &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    /// A client whose streams keep it `busy`, which ends when it has found its peer gone, and the
    /// peer's end.
    async fn client(busy: bool) -> (JoinHandle<()>, TcpStream) {
        hold();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let ours = TcpStream::connect(at).await.expect("a connection");
        let theirs = listener.accept().await.expect("a connection").0;
        // What it says comes at once.
        theirs.set_nodelay(true).expect("a socket");
        let heard = Heard::default();
        let ours = heard.from(Rewound::new(Stream::Plain(ours), Vec::new()));
        let shaken = h2::client::handshake(ours).await;
        let (sender, mut connection) = shaken.expect("a connection");
        let mut alive = KeepAlive::new(connection.ping_pong(), heard, INTERVAL);
        let gone = tokio::task::spawn_local(async move {
            let _sender = sender;
            std::future::poll_fn(|cx| {
                assert!(Pin::new(&mut connection).poll(cx).is_pending());
                alive.poll(cx, busy)
            })
            .await;
        });
        pass(Duration::ZERO).await;
        (gone, theirs)
    }

    /// When a client whose streams keep it `busy` has found its peer gone; `None`: not within two
    /// intervals and more.
    fn gone_after(busy: bool, peer: impl AsyncFnOnce(TcpStream) + 'static) -> Option<Duration> {
        on_local(async move {
            let (gone, theirs) = client(busy).await;
            tokio::task::spawn_local(async move { peer(theirs).await });
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

    async fn silent(_held: TcpStream) {
        std::future::pending::<()>().await;
    }

    async fn answering(stream: TcpStream) {
        let mut connection = h2::server::handshake(stream).await.expect("a connection");
        while connection.accept().await.is_some() {}
    }

    #[test]
    fn whatever_comes_is_a_sign_of_life_and_silence_from_then_on_counts() {
        on_local(async {
            let (gone, mut theirs) = client(true).await;
            let mut says = async |what| {
                theirs.write_all(what).await.expect("it is sent");
                pass(Duration::ZERO).await;
            };
            says(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await; // its settings
            // Its answer to the first ping never comes.
            for _ in 0..3 {
                pass(INTERVAL).await;
                pass(PING_TIMEOUT - MOMENT).await;
                says(UPDATE).await;
            }
            pass(INTERVAL).await;
            pass(PING_TIMEOUT - MOMENT).await;
            assert!(!gone.is_finished());
            pass(MOMENT).await;
            assert!(gone.is_finished());
        });
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
