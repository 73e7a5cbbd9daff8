//! What else goes over a stream: events to Python, commands to sidecars, and what ends it.

use bytes::Bytes;
use serde_json::{Value, json};
use tulle_engine::control::frame::Kind;
use tulle_engine::hub::{Command, Limits};

use crate::sidecar::{CART, Mesh, hello};

#[tokio::test]
async fn what_a_sidecar_says_becomes_events_in_order() {
    let mesh = Mesh::new();
    let sidecar = mesh.silent(CART).await;
    let greeting = hello("shop", "cart-1", "cart");
    sidecar.say(Kind::Hello, &greeting);
    let connected = mesh.event("connected").await;
    let peer = connected["peer"].as_u64().expect("a number");
    let wanted = json!({"peer": peer, "identity": CART, "hello": greeting});
    assert_eq!(connected, wanted);

    let nack = json!({"name": "service/shop/cart", "version": "v1", "error": "no such field"});
    let said: [(Kind, &str, Value); 5] = [
        (
            Kind::Ack,
            "ack",
            json!({"name": "service/shop/cart", "version": "v1"}),
        ),
        (Kind::Nack, "nack", nack),
        (
            Kind::Status,
            "status",
            json!({"ready": true, "draining": false}),
        ),
        (
            Kind::TapEntry,
            "tap",
            json!({"id": 3, "entry": {"path": "/"}}),
        ),
        (
            Kind::Resolved,
            "resolved",
            json!({"id": 4, "result": {"steps": []}}),
        ),
    ];
    for (kind, _, payload) in &said {
        sidecar.say(*kind, payload);
    }
    for (_, event, mut payload) in said {
        payload["peer"] = json!(peer);
        assert_eq!(mesh.event(event).await, payload);
    }

    sidecar.say(Kind::Report, &json!({"epoch": 1, "edges": [], "peer": 99}));
    let report = mesh.event("report").await;
    let wanted = json!({"peer": peer, "report": {"epoch": 1, "edges": [], "peer": 99}});
    assert_eq!(report, wanted, "a sidecar cannot speak for another");
}

#[tokio::test]
async fn commands_reach_the_peer_and_only_while_it_is_there() {
    let mesh = Mesh::new();
    let (mut sidecar, peer) = mesh.sidecar("cart-1").await;
    for (command, kind) in [
        (Command::Tap, Kind::Tap),
        (Command::Untap, Kind::Untap),
        (Command::Resolve, Kind::Resolve),
    ] {
        assert_eq!(mesh.hub.send(peer, command, br#"{"id":1}"#), Ok(true));
        assert_eq!(sidecar.hear_json(kind).await, json!({"id": 1}));
    }
    drop(sidecar);
    mesh.event("disconnected").await;
    assert_eq!(mesh.hub.send(peer, Command::Tap, b"{}"), Ok(false));
    assert!(!mesh.hub.disconnect(peer, "late"));
}

#[tokio::test]
async fn a_disconnected_peer_hears_why() {
    let mesh = Mesh::new();
    let (mut sidecar, peer) = mesh.sidecar("cart-1").await;
    assert!(mesh.hub.disconnect(peer, "not your workload"));
    assert_eq!(sidecar.hear_goodbye().await, "not your workload");
    let wanted = json!({"peer": peer, "reason": "not your workload"});
    assert_eq!(mesh.event("disconnected").await, wanted);
}

#[tokio::test]
async fn the_hello_must_fit_the_certificate() {
    let mesh = Mesh::new();
    for (namespace, service_account) in [("shop", "web"), ("bank", "cart")] {
        let mut sidecar = mesh.silent(CART).await;
        sidecar.say(Kind::Hello, &hello(namespace, "cart-1", service_account));
        let reason = sidecar.hear_goodbye().await;
        assert_eq!(reason, format!("the hello does not fit {CART}"));
    }
    assert!(mesh.is_quiet());
}

#[tokio::test]
async fn a_stream_that_does_not_start_with_hello_ends() {
    let mesh = Mesh::new();
    let mut sidecar = mesh.silent(CART).await;
    sidecar.subscribe("service/shop/cart", None);
    let reason = sidecar.hear_goodbye().await;
    assert_eq!(reason, "the first frame must be a hello");
    assert!(mesh.is_quiet());
}

#[tokio::test]
async fn a_sidecar_that_talks_nonsense_hears_what_was_wrong() {
    let mesh = Mesh::new();
    let frame = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len() + 1).expect("short");
        Bytes::from([&length.to_be_bytes(), &[kind][..], payload].concat())
    };
    let second_hello = hello("shop", "cart-1", "cart").to_string();
    for (bytes, reason) in [
        (frame(99, b""), "frame of unknown kind 99"),
        (frame(1, second_hello.as_bytes()), "a second hello"),
        (frame(22, b"{}"), "a sidecar does not send Goodbye frames"),
        (
            frame(2, br#"{"name":"secret/shop/cart"}"#),
            r#"not the name of a record: "secret/shop/cart""#,
        ),
        (
            frame(7, b"{"),
            "report: EOF while parsing an object at line 1 column 1",
        ),
        (
            Bytes::from_static(b"\xff\xff\xff\xff"),
            "frame of 4294967295 bytes; must be 1 to 4194304",
        ),
    ] {
        let (mut sidecar, _) = mesh.sidecar("cart-1").await;
        sidecar.say_bytes(bytes);
        assert_eq!(sidecar.hear_goodbye().await, reason);
        assert_eq!(mesh.event("disconnected").await["reason"], reason);
    }
}

#[tokio::test]
async fn subscriptions_have_a_bound() {
    let mesh = Mesh::with(Limits {
        subscriptions_per_peer: 2,
        ..Limits::default()
    });
    let (mut sidecar, _) = mesh.sidecar("cart-1").await;
    for name in ["service/shop/a", "service/shop/b", "service/shop/a"] {
        sidecar.subscribe(name, None);
    }
    mesh.event("subscribed").await;
    mesh.event("subscribed").await;
    assert_eq!(mesh.stat("subscriptions"), 2);
    sidecar.subscribe("service/shop/c", None);
    assert_eq!(sidecar.hear_goodbye().await, "more than 2 subscriptions");
}

#[tokio::test]
async fn reports_are_dropped_and_counted_when_python_does_not_read() {
    let mesh = Mesh::with(Limits {
        events_per_peer: 2,
        ..Limits::default()
    });
    let (sidecar, _) = mesh.sidecar("cart-1").await;
    for epoch in 1..=5 {
        sidecar.say(Kind::Report, &json!({"epoch": epoch}));
    }
    sidecar.say(
        Kind::Ack,
        &json!({"name": "service/shop/cart", "version": "v1"}),
    );
    while mesh.stat("events_dropped") < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(mesh.event("report").await["report"]["epoch"], 1);
    assert_eq!(mesh.event("report").await["report"]["epoch"], 2);
    mesh.event("ack").await;
    assert!(mesh.is_quiet());
}

#[tokio::test]
async fn a_reason_is_heard_up_to_a_bound() {
    let mesh = Mesh::new();
    let (sidecar, _) = mesh.sidecar("cart-1").await;
    for (said, heard) in [(1024, 1024), (1025, 1024)] {
        let error = "\u{e9}".repeat(said);
        sidecar.say(
            Kind::Nack,
            &json!({"name": "service/shop/cart", "version": "v1", "error": error}),
        );
        let event = mesh.event("nack").await;
        let error = event["error"].as_str().expect("a text");
        assert_eq!(error.chars().count(), heard);
    }
}
