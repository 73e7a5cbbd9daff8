//! One record stream: what the sidecar says, turned into subscriptions and events.
//!
//! The other direction is the outbox, which hyper drains by itself.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::book::{PeerId, Subscribed};
use super::events::Event;
use super::outbox::Outbox;
use super::requests::Client;
use super::state::{State, event};
use super::wire::{self, Hello, Said};
use crate::control::frame::Decoder;
use crate::tls::SpiffeId;

/// Bytes of a record's name; Kubernetes names have at most 253 each.
const NAME_BYTES_MAX: usize = 600;

/// Characters of an error or reason that are handed on.
const REASON_CHARACTERS_MAX: usize = 1024;

/// Open the stream of a connection. Returns what will be written to it.
pub(super) fn open(client: Rc<Client>, identity: SpiffeId, body: Incoming) -> Arc<Outbox> {
    let state = Arc::clone(&client.state);
    let outbox = Outbox::new(state.limits.commands_per_peer);
    let id = state.new_id();
    // The caller has seen that there is none yet.
    let _ = client.stream.set(Arc::clone(&outbox));
    let stream = Stream {
        id,
        identity,
        share: Arc::new(Semaphore::new(state.limits.events_per_peer)),
        frames: Frames {
            body,
            decoder: Decoder::default(),
        },
        outbox: Arc::clone(&outbox),
        own_record: String::new(),
        state,
    };
    tokio::task::spawn_local(async move {
        stream.run().await;
        client.closing.notify_one();
    });
    outbox
}

struct Frames {
    body: Incoming,
    decoder: Decoder,
}

impl Frames {
    /// The next thing the sidecar says; `None` at the end of its stream.
    async fn next(&mut self) -> Result<Option<Said>, String> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(|why| why.to_string())? {
                return wire::parse(frame.kind, frame.payload).map(Some);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(format!("connection lost: {error}")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.push(&data);
                    }
                }
            }
        }
    }
}

struct Stream {
    id: PeerId,
    identity: SpiffeId,
    /// This peer's part of the event queue.
    share: Arc<Semaphore>,
    frames: Frames,
    outbox: Arc<Outbox>,
    /// The one workload record this peer may have.
    own_record: String,
    state: Arc<State>,
}

impl Stream {
    async fn run(mut self) {
        let hello = match self.greet().await {
            Ok(hello) => hello,
            Err(why) => return self.outbox.end(&why),
        };
        self.own_record = format!("workload/{}/{}", hello.namespace, hello.name);
        self.state.book().join(self.id, Arc::clone(&self.outbox));
        let connected = json!({
            "peer": self.id,
            "identity": self.identity.as_str(),
            "hello": hello.whole,
        });
        self.tell(event("connected", &connected)).await;
        let outbox = Arc::clone(&self.outbox);
        let reason = tokio::select! {
            ended = self.listen() => ended,
            reason = outbox.wait_ended() => reason,
        };
        outbox.end(&reason);
        self.leave(&reason);
    }

    /// Wait for the hello, and check it against the certificate.
    async fn greet(&mut self) -> Result<Hello, String> {
        let wait = self.state.limits.body_wait;
        let said = timeout(wait, self.frames.next()).await;
        let Ok(Some(Said::Hello(hello))) = said.map_err(|_| format!("no hello in {wait:?}"))?
        else {
            return Err("the first frame must be a hello".to_owned());
        };
        let (namespace, account) = (self.identity.namespace(), self.identity.service_account());
        if (&*hello.namespace, &*hello.service_account) != (namespace, account) {
            return Err(format!("the hello does not fit {}", self.identity));
        }
        if hello.name.len() > NAME_BYTES_MAX || hello.name.contains('/') {
            return Err("hello: workload.name is not a name".to_owned());
        }
        Ok(hello)
    }

    /// Take what the sidecar says until it ends. Returns why it ended.
    async fn listen(&mut self) -> String {
        loop {
            let heard = match self.frames.next().await {
                Ok(Some(said)) => self.hear(said).await,
                Ok(None) => Err("closed by the sidecar".to_owned()),
                Err(why) => Err(why),
            };
            if let Err(reason) = heard {
                return reason.chars().take(REASON_CHARACTERS_MAX).collect();
            }
        }
    }

    /// # Errors
    /// Why the stream has to end.
    async fn hear(&mut self, said: Said) -> Result<(), String> {
        let peer = self.id;
        match said {
            Said::Hello(_) => return Err("a second hello".to_owned()),
            Said::Subscribe(wanted) => {
                return self
                    .subscribe(&wanted.name, wanted.version.as_deref())
                    .await;
            }
            Said::Unsubscribe(unwanted) => {
                if self.state.book().unsubscribe(peer, &unwanted.name) {
                    self.say("unsubscribed", &json!({"name": unwanted.name}));
                }
            }
            Said::Ack(ack) => {
                let body = json!({"peer": peer, "name": ack.name, "version": ack.version});
                self.tell(event("ack", &body)).await;
            }
            Said::Nack(nack) => {
                let error: String = nack.error.chars().take(REASON_CHARACTERS_MAX).collect();
                let body = json!({
                    "peer": peer, "name": nack.name, "version": nack.version, "error": error,
                });
                self.tell(event("nack", &body)).await;
            }
            Said::Status(status) => {
                let body =
                    json!({"peer": peer, "ready": status.ready, "draining": status.draining});
                self.tell(event("status", &body)).await;
            }
            Said::Report(report) => self.offer(report_event(peer, &report)),
            Said::Tap(tap) => {
                let body = json!({"peer": peer, "id": tap.id, "entry": tap.entry});
                self.offer(event("tap", &body));
            }
            Said::Resolved(resolved) => {
                let body = json!({"peer": peer, "id": resolved.id, "result": resolved.result});
                self.tell(event("resolved", &body)).await;
            }
        }
        Ok(())
    }

    async fn subscribe(&self, name: &str, version: Option<&str>) -> Result<(), String> {
        if !is_record_name(name) {
            return Err(format!("not the name of a record: {name:?}"));
        }
        if name.starts_with("workload/") && name != self.own_record {
            let refused = &self.state.counters.refused_subscriptions;
            refused.fetch_add(1, Ordering::Relaxed);
            self.outbox.put(&Arc::from(name), wire::absent(name));
            return Ok(());
        }
        // Room comes first: from here on, the book and the event have to change together.
        let room = self.state.events.room(&self.share).await;
        let names_max = self.state.limits.subscriptions_per_peer;
        let mut book = self.state.book();
        match book.subscribe(self.id, name, version, names_max) {
            Subscribed::Settled => {}
            Subscribed::TooMany => return Err(format!("more than {names_max} subscriptions")),
            Subscribed::Ask => {
                let asked = event("subscribed", &json!({"name": name}));
                self.state.events.push(Some(room), asked);
            }
        }
        Ok(())
    }

    fn leave(&self, reason: &str) {
        let unused = self.state.book().leave(self.id);
        self.say("disconnected", &json!({"peer": self.id, "reason": reason}));
        for name in unused {
            self.say("unsubscribed", &json!({"name": &*name}));
        }
    }

    /// Queue an event that must arrive; the peer waits while there is no room.
    async fn tell(&self, event: Event) {
        let room = self.state.events.room(&self.share).await;
        self.state.events.push(Some(room), event);
    }

    /// Queue an event that may be lost.
    fn offer(&self, event: Event) {
        self.state.events.push_or_drop(&self.share, event);
    }

    /// Queue what the hub itself has to say.
    fn say(&self, kind: &'static str, body: &serde_json::Value) {
        self.state.events.push(None, event(kind, body));
    }
}

fn report_event(peer: PeerId, report: &Bytes) -> Event {
    let mut body = format!("{{\"peer\":{peer},\"report\":").into_bytes();
    body.extend_from_slice(report);
    body.push(b'}');
    let kind = "report";
    Event { kind, body }
}

/// Whether a name has the shape of one: `service/shop/cart`, `trust/tulle.local`.
fn is_record_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        !part.is_empty() && part.bytes().all(fits)
    };
    let mut parts = name.split('/');
    let parts_wanted = match parts.next() {
        Some("service" | "endpoints" | "workload") => 2,
        Some("trust") => 1,
        _ => return false,
    };
    name.len() <= NAME_BYTES_MAX && parts.clone().count() == parts_wanted && parts.all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_records_can_be_subscribed_to() {
        for (name, is_name) in [
            ("service/shop/cart", true),
            ("endpoints/shop/cart.v1", true),
            ("workload/shop/cart-1", true),
            ("trust/tulle.local", true),
            ("secret/shop/cart", false),
            ("service/shop", false),
            ("service/shop/cart/more", false),
            ("service//cart", false),
            ("trust/a/b", false),
            ("service/shop/ca rt", false),
            ("", false),
        ] {
            assert_eq!(is_record_name(name), is_name, "{name:?}");
        }
        let long = |bytes: usize| format!("trust/{}", "a".repeat(bytes - "trust/".len()));
        assert!(is_record_name(&long(NAME_BYTES_MAX)));
        assert!(!is_record_name(&long(NAME_BYTES_MAX + 1)));
    }
}
