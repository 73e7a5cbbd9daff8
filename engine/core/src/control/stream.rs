//! The record stream: one connection at a time, for as long as the engine lives.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::backoff::Backoff;
use super::cache::Cache;
use super::frame::Decoder;
use super::holdings::Holdings;
use super::host::{Host, Outgoing};
use super::keyring::Keyring;
use super::link::{Link, LinkError, with_causes};
use super::{ControlSettings, renew};
use crate::timer::within;
use crate::tls::Identity;

/// Frames that wait to be sent; when they are as many, nothing more is read or made.
pub(crate) const MAX_UNSENT_FRAMES: usize = 64;
/// How soon the end of the engine is noticed while a hub does not read.
pub(crate) const STOP_CHECK: Duration = Duration::from_millis(200);

/// Why a stream is over.
enum End {
    /// Nobody can have anything to say any more: the engine stops.
    Stopped,
    /// So it is said, and who waits for the stream's last word.
    Left(Arc<Notify>),
    /// The connection broke, or the hub ended it.
    Lost(LinkError),
    /// It should be opened anew, with the renewed certificate; it serves until then.
    Outlived(Open),
}

/// An open stream.
struct Open {
    _link: Link,
    frames: mpsc::Sender<Bytes>,
    body: Incoming,
    /// When the certificate it was opened with ends, and a hub may end it.
    not_after: SystemTime,
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

pub(super) async fn run(
    host: Arc<dyn Host>,
    settings: ControlSettings,
    identity: Identity,
    outgoing: mpsc::Receiver<Outgoing>,
    serve: impl Future<Output = ()>,
) {
    let cache = Cache::open(settings.state_dir.as_deref()).unwrap_or_else(|error| {
        host.event(json!({"event": "cache", "error": error.to_string()}));
        Cache::nowhere()
    });
    let keyring = match Keyring::new(host.clone(), settings, identity) {
        Ok(keyring) => Rc::new(keyring),
        Err(error) => {
            host.event(json!({"event": "disconnected", "reason": error.to_string()}));
            return serve.await;
        }
    };
    let renewal = tokio::task::spawn_local(renew::keep_fresh(keyring.clone()));
    let mut client = Client {
        holdings: Holdings::load(keyring.clone(), cache),
        keyring,
        outgoing,
        outlived: None,
        up: None,
        up_since: None,
        told_expired: false,
    };
    if client.meanwhile(serve).await.is_some() {
        client.run().await;
    }
    renewal.abort();
}

struct Client {
    keyring: Rc<Keyring>,
    holdings: Holdings,
    outgoing: mpsc::Receiver<Outgoing>,
    /// The stream that the next one replaces, so that we are never seen to be away.
    outlived: Option<Open>,
    /// What the host process was told last; `None` at the start.
    up: Option<bool>,
    up_since: Option<Instant>,
    /// The host process knows that the control plane does not take our expired certificate.
    told_expired: bool,
}

impl Client {
    async fn run(&mut self) {
        let timing = self.keyring.settings().timing.clone();
        let mut backoff = Backoff::new(&timing);
        loop {
            let error = match self.connect_and_serve().await {
                End::Stopped | End::Left(_) => return,
                End::Lost(error) => error,
                End::Outlived(open) => {
                    self.holdings.stream_ended();
                    self.outlived = Some(open);
                    continue;
                }
            };
            self.outlived = None;
            self.down(&error);
            // A stream that ends at once, over and over, must not be opened at full speed.
            let lived = self.up_since.take().map(|since| since.elapsed());
            if lived >= Some(timing.backoff_max) {
                backoff.reset();
            }
            if self.meanwhile(sleep(backoff.next_wait())).await.is_none() {
                return;
            }
        }
    }

    /// One connection, from its start to its end.
    async fn connect_and_serve(&mut self) -> End {
        let keyring = self.keyring.clone();
        let (frames, queue) = mpsc::channel(MAX_UNSENT_FRAMES);
        if let Some(hello) = self.holdings.hello() {
            // The queue is empty, so there is room.
            let _ = frames.try_send(hello);
        }
        let opening = async {
            let settings = keyring.settings();
            let timing = &settings.timing;
            let not_after = keyring.not_after();
            let mut link = Link::open(&settings.address, keyring.client(), timing).await?;
            let body = link.stream("/v1/stream", queue, timing.answer).await?;
            Ok(Open {
                _link: link,
                frames,
                body,
                not_after,
            })
        };
        match self.meanwhile(opening).await {
            None => End::Stopped,
            Some(Err(error)) => End::Lost(error),
            Some(Ok(mut open)) => {
                self.outlived = None;
                self.up();
                match self.serve(&mut open).await {
                    Ok(()) => End::Outlived(open),
                    Err(End::Left(heard)) => {
                        self.leave(open).await;
                        heard.notify_one();
                        End::Stopped
                    }
                    Err(end) => end,
                }
            }
        }
    }

    /// Waits for something without a stream; `None` when the engine stops before.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return Some(done),
                outgoing = self.outgoing.recv() => match outgoing? {
                    Outgoing::Leave(heard) => {
                        heard.notify_one();
                        return None;
                    }
                    // Noted, and said when there is a stream.
                    outgoing => drop(self.holdings.say(outgoing)),
                },
            }
        }
    }

    /// Talks until one side ends it; `Ok` when it should be opened anew.
    async fn serve(&mut self, open: &mut Open) -> Result<(), End> {
        let Open {
            frames,
            body,
            not_after,
            ..
        } = open;
        for frame in self.holdings.opening() {
            self.send(frames, Some(frame)).await?;
        }
        let mut reopen_at = None;
        let mut decoder = Decoder::new();
        let mut tick = interval(self.keyring.settings().timing.report_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                read = body.frame() => {
                    let chunk = chunk_of(read)?;
                    decoder.push(&chunk);
                    while let Some(frame) = decoder.next_frame().map_err(|e| lost(&e))? {
                        let answer = self.holdings.react(frame).map_err(|why| lost(&why))?;
                        self.send(frames, answer).await?;
                    }
                }
                outgoing = self.outgoing.recv() => match outgoing.ok_or(End::Stopped)? {
                    Outgoing::Leave(heard) => return Err(End::Left(heard)),
                    outgoing => self.say(frames, outgoing).await?,
                },
                _ = tick.tick() => {
                    self.holdings.flush();
                    // A report that finds no room is made later, with newer numbers.
                    if let Ok(room) = frames.try_reserve() {
                        if let Some(report) = self.holdings.report() {
                            room.send(report);
                        }
                    }
                    let now = SystemTime::now();
                    if self.keyring.not_after() > *not_after
                        && now >= *reopen_at.get_or_insert_with(|| before(now, *not_after))
                    {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Says the last numbers, ends our side, and waits until the hub has read that far and ends its.
    async fn leave(&mut self, open: Open) {
        let Open {
            _link,
            frames,
            mut body,
            ..
        } = open;
        let report = self.holdings.report();
        if self.send(&frames, report).await.is_ok() {
            drop(frames);
            while let Some(Ok(_)) = body.frame().await {}
        }
    }

    async fn say(&mut self, frames: &mpsc::Sender<Bytes>, outgoing: Outgoing) -> Result<(), End> {
        let may_be_lost = matches!(outgoing, Outgoing::Tap { .. });
        let frame = self.holdings.say(outgoing);
        match frame {
            Some(frame) if may_be_lost => {
                let _ = frames.try_send(frame);
                Ok(())
            }
            frame => self.send(frames, frame).await,
        }
    }

    /// Queues a frame, as long as it takes: a busy hub reads later, a dead one fails its ping.
    async fn send(&self, frames: &mpsc::Sender<Bytes>, frame: Option<Bytes>) -> Result<(), End> {
        let Some(frame) = frame else {
            return Ok(());
        };
        loop {
            match within(STOP_CHECK, pin!(frames.reserve())).await {
                Some(Ok(room)) => {
                    room.send(frame);
                    return Ok(());
                }
                Some(Err(_)) => return Err(lost(&"connection closed")),
                None if self.outgoing.is_closed() => return Err(End::Stopped),
                None => {}
            }
        }
    }

    fn up(&mut self) {
        let was_up = self.up.replace(true);
        self.up_since = Some(Instant::now());
        self.told_expired = false;
        let host = self.keyring.host();
        host.connected(true);
        if was_up != Some(true) {
            host.event(json!({"event": "connected"}));
        }
    }

    fn down(&mut self, error: &LinkError) {
        // What came last before the outage is what a new process has to start from.
        self.holdings.flush();
        let host = self.keyring.host();
        if self.up == Some(true) {
            host.connected(false);
            self.holdings.stream_ended();
        }
        if self.up != Some(false) {
            host.event(json!({"event": "disconnected", "reason": error.why}));
        }
        self.up = Some(false);
        // The outage is over for others, but not for us: only a new join helps.
        if error.reached && self.keyring.expired() && !self.told_expired {
            self.told_expired = true;
            // In our own words: the server's alert may be lost when it closes.
            let why = format!(
                "our certificate has expired, join with a new token ({})",
                error.why
            );
            host.event(json!({"event": "refused", "name": "stream", "error": why}));
        }
    }
}

/// A moment well between now and the end: not all sidecars at once, and none too late.
fn before(now: SystemTime, end: SystemTime) -> SystemTime {
    let left = end.duration_since(now).unwrap_or_default();
    now + left.mul_f64(0.25 + 0.5 * fastrand::f64())
}

fn chunk_of(read: Option<Result<http_body::Frame<Bytes>, hyper::Error>>) -> Result<Bytes, End> {
    match read {
        None => Err(lost(&"control plane ended the stream")),
        Some(Err(error)) => Err(lost(&with_causes(&error))),
        // Trailers have nothing to say here.
        Some(Ok(frame)) => Ok(frame.into_data().unwrap_or_default()),
    }
}

fn lost(why: &dyn std::fmt::Display) -> End {
    End::Lost(LinkError {
        why: why.to_string(),
        reached: true,
    })
}
