//! A response on its way back: its head made fit for the client, then both bodies at once, until
//! the response has ended.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::StatusCode;

use crate::downstream::{Downstream, READ_IDLE_TIME};
use crate::error::{Error, Reason};
use crate::fields::Name;
use crate::observe::Observation;
use crate::respond::end_of_call;
use crate::side::{Failed, Pump};
use crate::steps::headers;
use crate::timer::{Deadline, micros, now_us};
use crate::tries::{Answered, gone};
use crate::upload::Upload;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Carry a response to the client; `end_us`: the whole of it must be there by then.
///
/// # Errors
/// What broke it; the client was given an end that it cannot take for a whole response.
pub async fn relay(
    worker: &Rc<Worker>,
    client: &mut Downstream<'_>,
    answered: Answered,
    upload: &mut Upload,
    end_us: Option<u64>,
    seen: &mut Observation,
) -> Result<(), Error> {
    let Answered {
        mut head,
        mut upstream,
    } = answered;
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = head.fields.first(Name::Upgrade).filter(|_| switched);
    let protocol = protocol.map(<[u8]>::to_vec);
    headers::strip_hop_by_hop(&mut head.fields);
    let grpc = head.fields.is_grpc();
    let begun = match &protocol {
        Some(protocol) => client.switch(&head, protocol),
        None => client.respond(&head),
    };
    upload.settle();
    let carried = {
        let mut exchange = Exchange {
            client,
            upstream: &mut upstream,
            carried: false,
        };
        let Exchange {
            client, upstream, ..
        } = &mut exchange;
        let carried = match begun {
            Err(_) => Err(gone()),
            Ok(()) if switched => both_ways(client, upstream, seen).await,
            Ok(()) => {
                let mut clock = Clock {
                    end_us,
                    full_us: 0,
                    armed: None,
                };
                carry(client, upstream, upload, &mut clock, seen).await
            }
        };
        exchange.carried = true;
        carried
    };
    seen.request_bytes += upload.sent();
    match &carried {
        Ok(()) if switched => {}
        Ok(()) => upstream.finish(worker, upload.is_finished()),
        Err(error) if grpc && error.reason == Reason::RequestTimeout => {
            end_call(client, error.reason, seen);
        }
        Err(_) => client.abort(),
    }
    carried
}

/// Both sides while they are joined. They break when this is dropped before the end, for whatever
/// reason: an end that nobody said must not look like one.
struct Exchange<'a, 'b> {
    client: &'a mut Downstream<'b>,
    upstream: &'a mut Upstream,
    carried: bool,
}

impl Drop for Exchange<'_, '_> {
    fn drop(&mut self) {
        if !self.carried {
            self.client.abort();
            self.upstream.abort();
        }
    }
}

/// End a call of gRPC in the middle, in a way that its caller understands.
fn end_call(client: &mut Downstream<'_>, reason: Reason, seen: &mut Observation) {
    let trailers = end_of_call(reason);
    seen.look_for_grpc_status(&trailers);
    if client.side().finish(Some(&trailers)).is_err() {
        client.abort();
    }
}

async fn carry(
    client: &mut Downstream<'_>,
    upstream: &mut Upstream,
    upload: &mut Upload,
    clock: &mut Clock,
    seen: &mut Observation,
) -> Result<(), Error> {
    let mut download = Pump::default();
    let mut upload_over = false;
    let ended = std::future::poll_fn(|cx| {
        if !upload_over {
            match upload.poll(cx, client.side(), upstream.side()) {
                Poll::Pending => {}
                Poll::Ready(Err(Failed::Source(broken))) => {
                    let detail = format!("the request's body broke off: {broken}");
                    return Poll::Ready(Err(Error::new(Reason::ClientGone, detail)));
                }
                // An upstream that reads no further may still answer to the end.
                Poll::Ready(_) => upload_over = true,
            }
        }
        let before = download.bytes;
        let pumped = download.poll(cx, upstream.side(), client.side(), &mut |trailers| {
            seen.look_for_grpc_status(trailers);
        });
        match pumped {
            Poll::Ready(ended) => Poll::Ready(ended.map_err(failed)),
            Poll::Pending => {
                if download.bytes > before {
                    clock.full_us = 0;
                    client.reads();
                }
                clock.poll(cx, download.is_full, client)
            }
        }
    })
    .await;
    seen.response_bytes += download.bytes;
    ended
}

fn failed(failed: Failed) -> Error {
    match failed {
        Failed::Source(broken) => Error::new(Reason::Reset, broken.to_string()),
        Failed::Sink(broken) => Error::new(Reason::ClientGone, broken.to_string()),
    }
}

/// The times that a response is held to while it is carried.
struct Clock {
    end_us: Option<u64>,
    /// Since when the client takes nothing more; 0: it does.
    full_us: u64,
    /// For the nearest of the times.
    armed: Option<(u64, Deadline)>,
}

impl Clock {
    /// Ready when the whole took too long, the client is gone, or reads no further.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        is_full: bool,
        client: &mut Downstream<'_>,
    ) -> Poll<Result<(), Error>> {
        if !is_full {
            self.full_us = 0;
            if client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(gone()));
            }
        } else if self.full_us == 0 {
            self.full_us = now_us();
        }
        let full_end = (self.full_us > 0).then(|| self.full_us + micros(READ_IDLE_TIME));
        let Some(next) = self.end_us.into_iter().chain(full_end).min() else {
            return Poll::Pending;
        };
        loop {
            // What was armed for an earlier time is armed anew when that comes, not at each read.
            let (_, deadline) = match &mut self.armed {
                Some(armed) if armed.0 <= next => armed,
                other => other.insert((next, Deadline::at_us(next))),
            };
            ready!(Pin::new(deadline).poll(cx));
            self.armed = None;
            if now_us() >= next {
                break;
            }
        }
        let (reason, detail) = match self.end_us == Some(next) {
            true => (Reason::RequestTimeout, "the response took too long"),
            false => (Reason::ClientGone, "the client does not read on"),
        };
        Poll::Ready(Err(Error::new(reason, detail)))
    }
}

/// After a switch of protocols: bytes both ways until both have ended. That either broke is an
/// ordinary end of such a conversation, but it breaks the other.
async fn both_ways(
    client: &mut Downstream<'_>,
    upstream: &mut Upstream,
    seen: &mut Observation,
) -> Result<(), Error> {
    let (mut up, mut down) = (Pump::default(), Pump::default());
    let (mut up_over, mut down_over) = (false, false);
    let ended = std::future::poll_fn(|cx| {
        if !up_over
            && let Poll::Ready(ended) = up.poll(cx, client.side(), upstream.side(), &mut |_| {})
        {
            ended?;
            up_over = true;
        }
        if !down_over
            && let Poll::Ready(ended) = down.poll(cx, upstream.side(), client.side(), &mut |_| {})
        {
            ended?;
            down_over = true;
        }
        match up_over && down_over {
            true => Poll::Ready(Ok::<(), Failed>(())),
            false => Poll::Pending,
        }
    });
    if ended.await.is_err() {
        client.abort();
        upstream.abort();
    }
    seen.request_bytes += up.bytes;
    seen.response_bytes += down.bytes;
    Ok(())
}
