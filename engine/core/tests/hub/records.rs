//! Subscriptions: who is sent what, and when Python is asked.

use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinSet;
use tulle_engine::control::frame::{Kind, Record};

use crate::sidecar::{Mesh, Sidecar, hello};

const CART: &str = "service/shop/cart";
const WEB: &str = "spiffe://tulle.local/ns/shop/sa/web";

fn record(name: &str, version: &str, data: &'static str) -> Record {
    Record {
        name: name.to_owned(),
        version: version.to_owned(),
        data: data.into(),
    }
}

fn publish(mesh: &Mesh, name: &str, version: &str, data: &str) {
    let published = mesh.hub.publish(name, version, data.as_bytes());
    published.expect("it fits into a frame");
}

/// A sidecar that holds version `v1` of cart's record.
async fn holder(mesh: &Mesh) -> Sidecar {
    let (mut sidecar, _) = mesh.sidecar("web-1").await;
    sidecar.subscribe(CART, None);
    mesh.event("subscribed").await;
    publish(mesh, CART, "v1", "one");
    assert_eq!(sidecar.hear_record().await, record(CART, "v1", "one"));
    sidecar
}

#[tokio::test]
async fn python_is_asked_once_and_its_answer_goes_to_all_who_wait() {
    let mesh = Mesh::new();
    let (mut first, _) = mesh.sidecar("web-1").await;
    let (mut second, _) = mesh.sidecar("web-2").await;
    first.subscribe(CART, None);
    assert_eq!(mesh.event("subscribed").await, json!({"name": CART}));
    second.subscribe(CART, None);
    second.say(Kind::Status, &json!({"ready": true, "draining": false}));
    mesh.event("status").await;

    publish(&mesh, CART, "v1", "one");

    assert_eq!(first.hear_record().await, record(CART, "v1", "one"));
    assert_eq!(second.hear_record().await, record(CART, "v1", "one"));
    assert!(mesh.is_quiet());
}

#[tokio::test]
async fn a_held_record_is_sent_without_asking() {
    let mesh = Mesh::new();
    let _holder = holder(&mesh).await;
    let (mut late, _) = mesh.sidecar("web-2").await;
    late.subscribe(CART, None);
    assert_eq!(late.hear_record().await, record(CART, "v1", "one"));
    assert!(mesh.is_quiet());
}

#[tokio::test]
async fn who_holds_the_version_is_told_so_and_who_does_not_gets_the_record() {
    let mesh = Mesh::new();
    let (mut waiting, _) = mesh.sidecar("web-1").await;
    waiting.subscribe(CART, Some("v1"));
    mesh.event("subscribed").await;
    publish(&mesh, CART, "v1", "one");
    let unchanged = json!({"name": CART, "version": "v1"});
    assert_eq!(waiting.hear_json(Kind::Unchanged).await, unchanged);

    let (mut same, _) = mesh.sidecar("web-2").await;
    same.subscribe(CART, Some("v1"));
    assert_eq!(same.hear_json(Kind::Unchanged).await, unchanged);

    let (mut older, _) = mesh.sidecar("web-3").await;
    older.subscribe(CART, Some("v0"));
    assert_eq!(older.hear_record().await, record(CART, "v1", "one"));
}

#[tokio::test]
async fn the_same_version_is_sent_once() {
    let mesh = Mesh::new();
    let mut sidecar = holder(&mesh).await;
    publish(&mesh, CART, "v1", "one");
    publish(&mesh, CART, "v2", "two");
    assert_eq!(sidecar.hear_record().await, record(CART, "v2", "two"));
}

#[tokio::test]
async fn a_withdrawn_record_is_absent_for_old_and_new_subscribers() {
    let mesh = Mesh::new();
    let mut old = holder(&mesh).await;
    mesh.hub.withdraw(CART);
    assert_eq!(old.hear_json(Kind::Absent).await, json!({"name": CART}));

    let (mut new, _) = mesh.sidecar("web-2").await;
    new.subscribe(CART, Some("v1"));
    assert_eq!(new.hear_json(Kind::Absent).await, json!({"name": CART}));
    assert!(mesh.is_quiet());

    publish(&mesh, CART, "v1", "one");
    assert_eq!(old.hear_record().await, record(CART, "v1", "one"));
    assert_eq!(new.hear_record().await, record(CART, "v1", "one"));
}

#[tokio::test]
async fn the_last_unsubscribe_drops_the_bytes_and_what_is_published_then() {
    let mesh = Mesh::new();
    let mut sidecar = holder(&mesh).await;
    assert!(mesh.stat("record_bytes") > 0);
    sidecar.say(Kind::Unsubscribe, &json!({"name": CART}));
    assert_eq!(mesh.event("unsubscribed").await, json!({"name": CART}));
    publish(&mesh, CART, "v2", "two");
    assert_eq!((mesh.stat("record_bytes"), mesh.stat("names")), (0, 0));

    sidecar.subscribe(CART, Some("v1"));
    assert_eq!(mesh.event("subscribed").await, json!({"name": CART}));
    publish(&mesh, CART, "v3", "three");
    assert_eq!(sidecar.hear_record().await, record(CART, "v3", "three"));
}

#[tokio::test]
async fn a_peer_that_leaves_takes_its_subscriptions_along() {
    let mesh = Mesh::new();
    let mut sidecar = holder(&mesh).await;
    sidecar.fall_silent();
    let gone = mesh.event("disconnected").await;
    assert_eq!(gone["reason"], "closed by the sidecar");
    assert_eq!(mesh.event("unsubscribed").await, json!({"name": CART}));
    assert_eq!((mesh.stat("peers"), mesh.stat("subscriptions")), (0, 0));
}

#[tokio::test]
async fn a_forgotten_record_is_asked_for_again_and_nobody_is_told() {
    let mesh = Mesh::new();
    let mut old = holder(&mesh).await;
    mesh.hub.forget(CART);
    assert_eq!(mesh.stat("record_bytes"), 0);

    let (mut new, _) = mesh.sidecar("web-2").await;
    new.subscribe(CART, None);
    assert_eq!(mesh.event("subscribed").await, json!({"name": CART}));
    publish(&mesh, CART, "v1", "one");
    assert_eq!(new.hear_record().await, record(CART, "v1", "one"));
    publish(&mesh, CART, "v2", "two");
    assert_eq!(old.hear_record().await, record(CART, "v2", "two"));
}

#[tokio::test]
async fn a_slow_reader_skips_to_the_newest_version() {
    let mesh = Mesh::new();
    let (mut slow, _) = mesh.sidecar("web-1").await;
    slow.subscribe(CART, None);
    mesh.event("subscribed").await;

    // Far more than the windows and buffers between the two can hold.
    let large = "x".repeat(256 * 1024);
    for version in 1..=100 {
        publish(&mesh, CART, &format!("v{version}"), &large);
    }

    let (mut heard, mut last) = (0, String::new());
    while last != "v100" {
        heard += 1;
        last = slow.hear_record().await.version;
    }
    assert!(heard <= 10, "{heard} of 100 versions were sent");
}

#[tokio::test]
async fn a_slow_reader_holds_up_nobody() {
    let mesh = Mesh::new();
    let (slow, _) = mesh.sidecar("web-1").await;
    slow.subscribe(CART, None);
    mesh.event("subscribed").await;
    let (mut quick, _) = mesh.sidecar("web-2").await;
    quick.subscribe(CART, None);
    let large = "x".repeat(1024 * 1024);
    for version in 1..=20 {
        let version = format!("v{version}");
        publish(&mesh, CART, &version, &large);
        assert_eq!(quick.hear_record().await.version, version);
    }
}

#[tokio::test]
async fn only_a_workload_itself_gets_its_record() {
    let mesh = Mesh::new();
    let (mut sidecar, _) = mesh.sidecar("web-1").await;
    let (own, other) = ("workload/shop/web-1", "workload/shop/web-2");
    sidecar.subscribe(other, None);
    assert_eq!(
        sidecar.hear_json(Kind::Absent).await,
        json!({"name": other})
    );
    sidecar.subscribe(own, None);
    assert_eq!(mesh.event("subscribed").await, json!({"name": own}));
    assert_eq!(mesh.stat("refused_subscriptions"), 1);
    publish(&mesh, other, "v1", "a secret");
    publish(&mesh, own, "v1", "one");
    assert_eq!(sidecar.hear_record().await, record(own, "v1", "one"));
}

#[tokio::test]
async fn a_storm_of_reconnects_sends_no_payload() {
    const SIDECARS: u64 = 200;
    let mesh = Arc::new(Mesh::new());
    let _holder = holder(&mesh).await;
    let mut storm = JoinSet::new();
    for _ in 0..SIDECARS {
        let mesh = Arc::clone(&mesh);
        storm.spawn(async move {
            let mut sidecar = mesh.silent(WEB).await;
            sidecar.say(Kind::Hello, &hello("shop", "web-1", "web"));
            sidecar.subscribe(CART, Some("v1"));
            let wanted = json!({"name": CART, "version": "v1"});
            assert_eq!(sidecar.hear_json(Kind::Unchanged).await, wanted);
            sidecar
        });
    }
    let back = storm.join_all().await;
    assert_eq!(mesh.stat("subscriptions"), 1 + SIDECARS);
    assert_eq!(mesh.stat("failed_handshakes"), 0);
    drop(back);
}
