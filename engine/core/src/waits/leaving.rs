//! How a sidecar leaves, with one connection open.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::spawn_local;

use super::{MOMENT, ends_at, lasts_until, settle, shared, within};
use crate::control::Host;
use crate::control::test_dir::TestDir;
use crate::house::{self, ANNOUNCE_MAX, DRAIN_CHECK, House, IDLE_CHECK, LAME_DUCK, STREAM_TIME};
use crate::listen::Closing;
use crate::record::ServiceKey;
use crate::shared::{IDLE_SERVICE_S, Shared};
use crate::sockets::Held;
use crate::takeover;
use crate::timer::tests::{hold, on_local, pass};

/// How long connections may take, seconds.
const DRAIN_SECONDS: u64 = 60;

/// One whose control plane hears nothing, and which has one connection.
async fn sidecar(change: impl Fn(&mut Value)) -> Arc<Shared> {
    hold();
    let (shared, outgoing) = shared(|settings| {
        settings["drain_seconds"] = json!(DRAIN_SECONDS);
        change(settings);
    });
    shared.metrics.connections.store(1, Relaxed);
    shared.inbound_connections.store(1, Relaxed);
    let admin = TcpListener::bind("127.0.0.1:0").expect("a port");
    admin.set_nonblocking(true).expect("an option");
    let house = House {
        admin,
        held: Held::default(),
        predecessor: None,
        control: None,
        outgoing,
    };
    spawn_local(house::keep(Arc::clone(&shared), house));
    settle().await;
    shared
}

/// What `shared` has told its host since it was last asked.
async fn told(shared: &Shared) -> Vec<String> {
    settle().await;
    let next = || shared.next_event(Duration::ZERO);
    std::iter::from_fn(next)
        .filter_map(|event| event["event"].as_str().map(str::to_owned))
        .collect()
}

/// `happens` is told when `bound` has passed, and not before.
async fn tells_at(bound: Duration, shared: &Shared, happens: &str) {
    let happens = happens.to_owned();
    settle().await;
    pass(bound - MOMENT).await;
    assert!(!told(shared).await.contains(&happens), "{happens}");
    pass(MOMENT).await;
    assert!(told(shared).await.contains(&happens), "{happens}");
}

/// Connections are asked to end when `bound` has passed, and not before.
async fn closes_at(bound: Duration, shared: &Shared, closing: Closing) {
    settle().await;
    pass(bound - MOMENT).await;
    assert_ne!(*shared.closing.borrow(), closing);
    pass(MOMENT).await;
    settle().await;
    assert_eq!(*shared.closing.borrow(), closing);
}

#[test]
fn a_drain_takes_as_long_as_its_connections_may_take() {
    on_local(async {
        let shared = sidecar(|_| {}).await;
        shared.drain();
        closes_at(LAME_DUCK, &shared, Closing::Inbound).await;
        tells_at(
            Duration::from_secs(DRAIN_SECONDS),
            &shared,
            "inbound-drained",
        )
        .await;
        assert_eq!(*shared.closing.borrow(), Closing::All);
        tells_at(STREAM_TIME, &shared, "drained").await;
    });
}

#[test]
fn the_end_of_a_connection_is_noticed_so_soon() {
    on_local(async {
        let shared = sidecar(|_| {}).await;
        shared.drain_inbound();
        closes_at(LAME_DUCK, &shared, Closing::Inbound).await;
        shared.inbound_connections.store(0, Relaxed);
        tells_at(DRAIN_CHECK, &shared, "inbound-drained").await;
    });
}

#[test]
fn idle_connections_hear_of_a_successor_for_so_long() {
    for (seconds, announced) in [(60, ANNOUNCE_MAX), (8, Duration::from_secs(8) / 2)] {
        on_local(async {
            let dir = TestDir::new();
            let shared = sidecar(|settings| {
                settings["state_dir"] = json!(dir.path());
                settings["drain_seconds"] = json!(seconds);
            })
            .await;
            until_told(&shared, "serving").await;
            let place = dir.path().join("takeover.sock");
            let mut successor = UnixStream::connect(place).await.expect("a meeting");
            let asks = successor.write_all(b"take over\n");
            asks.await.expect("it is sent");
            // What is to be on the disk by then is not.
            offers_at(STREAM_TIME, &mut successor).await;
            let successor = successor.into_std().expect("a socket");
            let released = spawn_local(async move {
                let released = takeover::succeed(successor).await;
                released.expect("it is told");
            });
            until_told(&shared, "handed-over").await;
            assert_eq!(*shared.closing.borrow(), Closing::HandedOver);
            lasts_until(LAME_DUCK, &released).await;
            ends_at(STREAM_TIME, released).await;
            let left = announced - LAME_DUCK - STREAM_TIME;
            closes_at(left, &shared, Closing::All).await;
            let left = Duration::from_secs(seconds) - announced;
            tells_at(left, &shared, "drained").await;
        });
    }
}

/// It is offered what there is when `bound` has passed, and not before.
async fn offers_at(bound: Duration, successor: &mut UnixStream) {
    // It comes in, and it is read.
    for _ in 0..4 {
        settle().await;
    }
    pass(bound - MOMENT).await;
    let early = successor.try_read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(io::ErrorKind::WouldBlock));
    pass(MOMENT).await;
    while within(successor.read_u8()).await.expect("an offer") != b'\n' {}
}

/// Wait, in real time, until `shared` has told this.
async fn until_told(shared: &Shared, what: &str) {
    let is_told = async { while !told(shared).await.iter().any(|event| event == what) {} };
    within(is_told).await;
}

#[test]
fn idle_services_are_looked_for_so_often() {
    on_local(async {
        let shared = sidecar(|_| {}).await;
        Host::connected(&*shared, true);
        let key = ServiceKey::parse("shop/cart").expect("a name");
        shared.use_service(&key, false).expect("a place");
        pass(Duration::from_secs(IDLE_SERVICE_S) - IDLE_CHECK).await;
        settle().await;
        pass(IDLE_CHECK - MOMENT).await;
        assert!(shared.directory.get("shop/cart").is_some());
        pass(MOMENT).await;
        assert!(shared.directory.get("shop/cart").is_none());
    });
}
