//! What a sidecar has to say to its control plane.

use std::net::SocketAddr;
use std::sync::Arc;

use h2::server::SendResponse;
use http::Response;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::server::{Asked, Server};
use super::{MOMENT, PATIENCE, WEB, ends_at, identity, settle, shared, within};
use crate::control::{
    self, ControlSettings, Host, MAX_UNSENT_FRAMES, Outgoing, REPORT_TIME, STOP_CHECK,
};
use crate::shared::{EVENTS_MAX, OUTGOING_MAX};
use crate::timer::tests::{hold, on_local};
use crate::tls::SpiffeId;
use crate::tls::test_ca::{Leaf, TestCa};

const CONTROL: &str = "spiffe://tulle.local/ns/tulle-system/sa/control-plane";
/// More than a stream takes whose other end does not read.
const LARGE: usize = 70_000;

fn settings(at: SocketAddr) -> ControlSettings {
    let id = SpiffeId::parse(WEB).expect("an id");
    let mut settings = ControlSettings::new(&at.to_string(), id, None).expect("settings");
    settings.timing.report_every = 100 * PATIENCE;
    settings
}

#[test]
fn a_last_report_may_take_so_long() {
    on_local(async {
        hold();
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let settings = settings(silent.local_addr().expect("an address"));
        let own = identity(&TestCa::new(), &Leaf::of(WEB));
        let reports = spawn_local(async move {
            let reported = control::report_rest(&settings, &own, &json!({})).await;
            reported.expect_err("nobody hears it");
        });
        ends_at(REPORT_TIME, reports).await;
    });
}

#[test]
fn so_much_is_kept_for_a_control_plane_that_does_not_read_and_the_end_is_noticed_so_soon() {
    on_local(async {
        hold();
        let ca = TestCa::new();
        let mut hub = Server::start(1, Some(&identity(&ca, &Leaf::of(CONTROL)))).await;
        let (host, _told) = shared(|_| {});
        let (outgoing, queue) = mpsc::channel(2 * MAX_UNSENT_FRAMES);
        let (settings, own) = (settings(hub.at), identity(&ca, &Leaf::of(WEB)));
        let runs = control::run(Arc::clone(&host) as _, settings, own, queue, async {});
        let runs = spawn_local(runs);
        let _stream = open(hub.next().await);
        let is_up = || host.stats()["connected"] == json!(true);
        within(async {
            while !is_up() {
                settle().await
            }
        })
        .await;
        while let Ok(room) = outgoing.try_reserve() {
            let name = outgoing.capacity().to_string().repeat(LARGE);
            room.send(Outgoing::Subscribe(name));
        }
        let taken = || outgoing.capacity();
        within(async {
            while taken() < MAX_UNSENT_FRAMES {
                settle().await
            }
        })
        .await;
        for _ in 0..4 {
            settle().await;
        }
        // Some more are on their way, and one waits for room.
        assert!(taken() <= MAX_UNSENT_FRAMES + 4, "{}", taken());
        drop(outgoing);
        ends_at(STOP_CHECK, runs).await;
    });
}

fn open(asked: Asked) -> (h2::RecvStream, h2::SendStream<bytes::Bytes>) {
    let mut respond: SendResponse<_> = asked.respond;
    let sent = respond.send_response(Response::new(()), false);
    (asked.body, sent.expect("it is sent"))
}

#[test]
fn what_is_said_without_a_stream_has_a_bound_and_so_has_what_a_host_is_told() {
    let (shared, told) = shared(|_| {});
    while let Some(_early) = shared.next_event(MOMENT) {}
    while told.len() < OUTGOING_MAX {
        shared.tell(Outgoing::Status);
    }
    assert_eq!(shared.next_event(MOMENT), None);
    shared.tell(Outgoing::Status);
    assert_eq!(told.len(), OUTGOING_MAX);
    let event = shared.next_event(MOMENT).expect("an event");
    assert_eq!(event["event"], "overloaded");
    for number in 0..=EVENTS_MAX {
        shared.event(json!(number));
    }
    for number in 1..=EVENTS_MAX {
        assert_eq!(shared.next_event(MOMENT), Some(json!(number)));
    }
    assert_eq!(shared.next_event(MOMENT), None);
}
