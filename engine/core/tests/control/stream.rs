//! Records, subscriptions, reconnects and the cache.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tulle_engine::control::Outgoing;
use tulle_engine::control::frame::{Kind, Record};
use tulle_engine::tls::SpiffeId;

use crate::fake_host::{Sidecar, WEB, is_told, settings};
use crate::fake_hub::{CONTROL, FakeHub, FakeStream, PATIENCE, denying, identity};
use crate::test_ca::{Leaf, TestCa};
use crate::test_dir::TestDir;

const OWN: &str = "workload/shop/web-1";
/// Long enough to see what must not happen.
const WHILE: Duration = Duration::from_millis(100);
const CART: &str = "service/shop/cart";

fn record(name: &str, version: &str, text: &str) -> Record {
    Record {
        name: name.to_owned(),
        version: version.to_owned(),
        data: Bytes::from(text.to_owned()),
    }
}

fn hub(ca: &TestCa) -> FakeHub {
    FakeHub::start(&identity(ca, &Leaf::of(CONTROL)), denying(403, "no"))
}

fn again(ca: &TestCa, stopped: FakeHub) -> FakeHub {
    let address = stopped.stop();
    FakeHub::start_at(
        address,
        &identity(ca, &Leaf::of(CONTROL)),
        denying(403, "no"),
    )
}

fn sidecar(ca: &TestCa, hub: &FakeHub, dir: Option<&TestDir>) -> Sidecar {
    let settings = settings(&hub.address.to_string(), dir.map(TestDir::path));
    Sidecar::start(settings, identity(ca, &Leaf::of(WEB)), &[OWN])
}

/// The sidecar subscribes to its own record and gets it.
fn bring_up(hub: &FakeHub) -> FakeStream {
    let stream = hub.stream();
    assert_eq!(
        json!({"name": OWN, "version": null}),
        stream.hear(Kind::Subscribe)
    );
    stream.say_record(&record(OWN, "v1", "{}"));
    assert_eq!(
        json!({"name": OWN, "version": "v1"}),
        stream.hear(Kind::Ack)
    );
    stream
}

#[test]
fn a_stream_starts_with_hello_subscriptions_status_and_a_report() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);

    let stream = hub.stream();

    assert_eq!(SpiffeId::parse(WEB).unwrap(), stream.peer);
    assert_eq!("web-1", stream.hear(Kind::Hello)["workload"]["name"]);
    assert_eq!(
        json!({"name": OWN, "version": null}),
        stream.hear(Kind::Subscribe)
    );
    assert_eq!(
        json!({"ready": true, "draining": false}),
        stream.hear(Kind::Status)
    );
    assert_eq!(json!({"edges": []}), stream.hear(Kind::Report));
    sidecar.event("connected");
    assert!(sidecar.host.told().connected);
}

#[test]
fn a_record_is_applied_and_acknowledged() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);

    let stream = bring_up(&hub);

    let held = ("v1".to_owned(), "{}".to_owned());
    assert_eq!(Some(&held), sidecar.host.told().records.get(OWN));
    drop(stream);
}

#[test]
fn a_refused_record_is_reported_by_name_and_the_previous_one_stays() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);
    let stream = bring_up(&hub);

    stream.say_record(&record(OWN, "v2", r#"{"mistake":1}"#));

    let why = "unknown field `mistake`";
    let nack = json!({"name": OWN, "version": "v2", "error": why});
    assert_eq!(nack, stream.hear(Kind::Nack));
    let event = sidecar.event("refused");
    assert_eq!(
        (&json!(OWN), &json!(why)),
        (&event["name"], &event["error"])
    );
    assert_eq!("v1", sidecar.host.told().records[OWN].0);

    stream.say_record(&record(OWN, "v3", "{}"));
    assert_eq!("v3", stream.hear(Kind::Ack)["version"]);
}

#[test]
fn after_a_restart_of_the_hub_it_resumes_and_applies_nothing_anew() {
    let ca = TestCa::new();
    let first = hub(&ca);
    let sidecar = sidecar(&ca, &first, None);
    bring_up(&first);

    let second = again(&ca, first);
    let stream = second.stream();

    assert_eq!(
        json!({"name": OWN, "version": "v1"}),
        stream.hear(Kind::Subscribe)
    );
    assert_eq!(
        json!({"edges": []}),
        stream.hear(Kind::Report),
        "reported anew"
    );
    let held = json!({"name": OWN, "version": "v1"});
    stream.say(Kind::Unchanged, &held);
    assert_eq!(held, stream.hear(Kind::Ack), "the new hub learns it");
    stream.say(Kind::Resolve, &json!({"id": 1, "request": {}}));
    stream.hear(Kind::Resolved);
    assert_eq!(1, sidecar.host.told().applied);
    sidecar.event("disconnected");
    sidecar.event("connected");
}

#[test]
fn an_outage_is_one_event() {
    let ca = TestCa::new();
    let first = hub(&ca);
    let sidecar = sidecar(&ca, &first, None);
    bring_up(&first);
    let address = first.stop();
    // Three attempts fail: somebody is there, and hangs up.
    let busy = TcpListener::bind(address).unwrap();
    for _ in 0..3 {
        busy.accept().unwrap();
    }
    drop(busy);
    let own = identity(&ca, &Leaf::of(CONTROL));

    let second = FakeHub::start_at(address, &own, denying(403, "no"));
    let _stream = second.stream();

    sidecar.event("disconnected");
    sidecar.event("connected");
    let others = sidecar.other_events();
    let outages = others.iter().filter(|e| e["event"] == "disconnected");
    assert_eq!(0, outages.count(), "{others:?}");
}

#[test]
fn unchanged_from_a_version_we_do_not_hold_is_asked_for_again() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let _sidecar = sidecar(&ca, &hub, None);
    let stream = bring_up(&hub);

    stream.say(Kind::Unchanged, &json!({"name": OWN, "version": "v9"}));

    assert_eq!(
        json!({"name": OWN, "version": null}),
        stream.hear(Kind::Subscribe)
    );
}

#[test]
fn records_are_subscribed_to_on_demand_and_given_back() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);
    let stream = bring_up(&hub);

    sidecar.say(Outgoing::Subscribe(CART.to_owned()));
    sidecar.say(Outgoing::Subscribe(CART.to_owned()));
    assert_eq!(
        json!({"name": CART, "version": null}),
        stream.hear(Kind::Subscribe)
    );
    stream.say_record(&record(CART, "v1", "{}"));
    stream.hear(Kind::Ack);
    sidecar.say(Outgoing::Unsubscribe(CART.to_owned()));
    assert_eq!(json!({"name": CART}), stream.hear(Kind::Unsubscribe));

    // On its way when we unsubscribed: neither applied nor answered.
    stream.say_record(&record(CART, "v2", "{}"));
    stream.say_record(&record(OWN, "v2", "{}"));
    assert_eq!(
        json!({"name": OWN, "version": "v2"}),
        stream.hear(Kind::Ack)
    );
    assert_eq!("v1", sidecar.host.told().records[CART].0);
}

#[test]
fn what_is_wanted_during_an_outage_is_asked_for_after_it() {
    let ca = TestCa::new();
    let first = hub(&ca);
    let sidecar = sidecar(&ca, &first, None);
    bring_up(&first);
    let address = first.stop();
    sidecar.event("disconnected");

    sidecar.say(Outgoing::Subscribe(CART.to_owned()));
    let own = identity(&ca, &Leaf::of(CONTROL));
    let second = FakeHub::start_at(address, &own, denying(403, "no"));
    let stream = second.stream();

    assert_eq!(
        json!({"name": CART, "version": null}),
        stream.hear(Kind::Subscribe)
    );
    assert_eq!(
        json!({"name": OWN, "version": "v1"}),
        stream.hear(Kind::Subscribe)
    );
}

#[test]
fn an_absent_record_is_dropped() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);
    let stream = bring_up(&hub);

    stream.say(Kind::Absent, &json!({"name": OWN}));
    stream.say(Kind::Resolve, &json!({"id": 1, "request": {}}));
    stream.hear(Kind::Resolved);

    assert!(sidecar.host.told().records.is_empty());
}

#[test]
fn requests_are_resolved_and_tapped_until_the_stream_ends() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);
    let stream = bring_up(&hub);

    stream.say(
        Kind::Resolve,
        &json!({"id": 5, "request": {"path": "/cart"}}),
    );
    let resolved = json!({"id": 5, "result": {"outcome": "forward", "of": "/cart"}});
    assert_eq!(resolved, stream.hear(Kind::Resolved));

    stream.say(Kind::Tap, &json!({"id": 8, "filter": {"max": null}}));
    let refused = sidecar.event("refused");
    assert_eq!(
        (&json!("tap 8"), &json!("max is missing")),
        (&refused["name"], &refused["error"])
    );

    stream.say(Kind::Tap, &json!({"id": 9, "filter": {"max": 2}}));
    stream.say(Kind::Resolve, &json!({"id": 6, "request": {}}));
    stream.hear(Kind::Resolved);
    assert_eq!(vec![9], sidecar.host.told().taps);
    for id in [8, 9] {
        let entry = json!({"path": "/cart"}).to_string().into_bytes();
        sidecar.say(Outgoing::Tap { id, entry });
    }
    let entry = json!({"id": 9, "entry": {"path": "/cart"}});
    assert_eq!(entry, stream.hear(Kind::TapEntry));

    drop(stream);
    sidecar.event("disconnected");
    hub.stream();
    assert!(sidecar.host.told().taps.is_empty());
}

#[test]
fn so_many_taps_are_open_and_a_refusal_is_told_up_to_a_bound() {
    const MOST: u64 = 16;
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);
    let stream = bring_up(&hub);
    stream.say_record(&record(OWN, "v2", "it is told at length"));
    let nack = stream.hear(Kind::Nack);
    assert_eq!(1024, nack["error"].as_str().unwrap().len());
    sidecar.event("refused");
    for id in 1..=MOST + 1 {
        stream.say(Kind::Tap, &json!({"id": id, "filter": {"max": 2}}));
    }
    assert_eq!("tap 17", sidecar.event("refused")["name"]);
    assert_eq!(MOST, sidecar.host.told().taps.len() as u64);
}

#[test]
fn so_many_records_are_subscribed_to() {
    const MOST: usize = 4096;
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);
    let stream = bring_up(&hub);
    // Its own is one of them.
    for number in 1..=MOST {
        sidecar.say(Outgoing::Subscribe(format!("service/shop/{number}")));
    }
    let refused = sidecar.event("refused");
    assert_eq!(format!("service/shop/{MOST}"), refused["name"]);
    for number in 1..MOST {
        let heard = stream.hear(Kind::Subscribe);
        assert_eq!(format!("service/shop/{number}"), heard["name"]);
    }
}

#[test]
fn rubbish_and_goodbye_end_the_stream_with_a_reason() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let sidecar = sidecar(&ca, &hub, None);
    let cases: [(&[u8], &str); 3] = [
        (b"\0\0\0\x01\x63", "frame of unknown kind 99"),
        (b"\0\0\0\x03\x12{}", "Absent frame: missing field `name`"),
        (
            b"\0\0\0\x15\x16{\"reason\":\"upgrade\"}",
            "control plane said goodbye: upgrade",
        ),
    ];
    for (bytes, reason) in cases {
        let stream = hub.stream();
        stream.say_bytes(Bytes::from_static(bytes));

        let why = sidecar.event("disconnected")["reason"].to_string();
        assert!(why.contains(reason), "{why}");
        assert!(stream.closed());
    }
}

#[test]
fn records_on_disk_serve_while_the_control_plane_is_away() {
    let (ca, dir) = (TestCa::new(), TestDir::new());
    let first = hub(&ca);
    let before = sidecar(&ca, &first, Some(&dir));
    let stream = bring_up(&first);
    for name in [CART, "endpoints/shop/cart"] {
        before.say(Outgoing::Subscribe(name.to_owned()));
        stream.hear(Kind::Subscribe);
        stream.say_record(&record(name, "v1", "{}"));
        stream.hear(Kind::Ack);
    }
    before.say(Outgoing::Unsubscribe(CART.to_owned()));
    stream.hear(Kind::Unsubscribe);
    before.stop();
    let address = first.stop();

    let settings = settings(&address.to_string(), Some(dir.path()));
    let after = Sidecar::start(settings, identity(&ca, &Leaf::of(WEB)), &[OWN]);

    after.event("disconnected");
    let held: Vec<_> = after.host.told().records.keys().cloned().collect();
    assert_eq!(vec!["endpoints/shop/cart", OWN], held);
    let own = identity(&ca, &Leaf::of(CONTROL));
    let second = FakeHub::start_at(address, &own, denying(403, "no"));
    let stream = second.stream();
    let subscribed = |name: &str| json!({"name": name, "version": "v1"});
    assert_eq!(
        subscribed("endpoints/shop/cart"),
        stream.hear(Kind::Subscribe)
    );
    assert_eq!(subscribed(OWN), stream.hear(Kind::Subscribe));
}

#[test]
fn a_damaged_record_on_disk_is_reported_and_fetched_anew() {
    let (ca, dir) = (TestCa::new(), TestDir::new());
    let first = hub(&ca);
    let before = sidecar(&ca, &first, Some(&dir));
    bring_up(&first);
    before.stop();
    let kept = std::fs::read_dir(dir.path().join("records")).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(1, kept.len());
    std::fs::write(&kept[0], b"{}\nnonsense").unwrap();

    let after = sidecar(&ca, &first, Some(&dir));

    let why = after.event("cache")["error"].to_string();
    assert!(why.contains("removed"), "{why}");
    bring_up(&first);
}

#[test]
fn changed_roots_are_used_for_the_next_connection_and_kept() {
    let (ca, next, dir) = (TestCa::new(), TestCa::new(), TestDir::new());
    let first = hub(&ca);
    let sidecar = sidecar(&ca, &first, Some(&dir));
    let stream = bring_up(&first);
    sidecar.say(Outgoing::Subscribe("trust/tulle.local".to_owned()));
    stream.hear(Kind::Subscribe);

    let trust = |roots: Value| {
        let text = json!({"kind": "trust", "domain": "tulle.local", "roots_pem": roots});
        record("trust/tulle.local", "v1", &text.to_string())
    };
    stream.say_record(&trust(json!(["no PEM"])));
    stream.hear(Kind::Nack);
    stream.say_record(&trust(json!([ca.root_pem, next.root_pem])));
    stream.hear(Kind::Ack);
    assert_eq!(1, sidecar.host.told().identities.len());

    // The new control plane is certified by the next root, and trusts the old one still.
    let issued = next.issue(&Leaf::of(CONTROL));
    let both = [&ca.root_pem, &next.root_pem];
    let own = tulle_engine::tls::Identity::from_pem(&issued.chain_pem, &issued.key_pem, &both);
    let second = FakeHub::start_at(first.stop(), &own.unwrap(), denying(403, "no"));
    second.stream();
}

#[test]
fn a_server_that_is_not_the_control_plane_gets_nothing() {
    let ca = TestCa::new();
    let other = identity(&ca, &Leaf::of("spiffe://tulle.local/ns/shop/sa/cart"));
    let hub = FakeHub::start(&other, Arc::new(|_, _, _| unreachable!("not asked")));

    let sidecar = sidecar(&ca, &hub, None);

    let why = sidecar.event("disconnected")["reason"].to_string();
    assert!(why.contains(&format!("expected {CONTROL}")), "{why}");
}

#[test]
fn who_leaves_is_heard_to_the_end() {
    let ca = TestCa::new();
    let hub = hub(&ca);
    let mut settings = settings(&hub.address.to_string(), None);
    settings.timing.report_every = Duration::from_secs(3600);
    let sidecar = Sidecar::start(settings, identity(&ca, &Leaf::of(WEB)), &[OWN]);
    let stream = hub.stream();
    stream.hear(Kind::Subscribe);
    stream.hear(Kind::Report);
    sidecar.host.count();
    let heard = Arc::new(Notify::new());

    sidecar.say(Outgoing::Leave(Arc::clone(&heard)));

    stream.hear(Kind::Report);
    assert!(stream.closed());
    assert!(!is_told(&heard, WHILE), "the hub has not ended its side");
    drop(stream);
    assert!(is_told(&heard, PATIENCE));
}

#[test]
fn who_leaves_without_a_stream_waits_for_nobody() {
    let ca = TestCa::new();
    let settings = settings("127.0.0.1:1", None);
    let sidecar = Sidecar::start(settings, identity(&ca, &Leaf::of(WEB)), &[OWN]);
    sidecar.event("disconnected");
    let heard = Arc::new(Notify::new());

    sidecar.say(Outgoing::Leave(Arc::clone(&heard)));

    assert!(is_told(&heard, PATIENCE));
}

#[test]
fn the_engine_stops_even_while_the_hub_does_not_read() {
    let ca = TestCa::new();
    let hub = FakeHub::deaf(&identity(&ca, &Leaf::of(CONTROL)));
    let names: Vec<_> = (0..2000)
        .map(|number| format!("service/shop/{number:0>200}"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();

    let settings = settings(&hub.address.to_string(), None);
    let sidecar = Sidecar::start(settings, identity(&ca, &Leaf::of(WEB)), &names);
    let _stream = hub.stream();
    sidecar.event("connected");

    sidecar.stop();
}
