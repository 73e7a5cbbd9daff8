//! The same sidecar against the engine's own hub: join, records, commands, renewal.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tulle_engine::control::{Joined, Outgoing, join};
use tulle_engine::hub::{Command, Hub, Limits};

use crate::fake_host::{Sidecar, WEB, is_told, settings, workload};
use crate::fake_hub::{CONTROL, PATIENCE};
use crate::test_ca::{Leaf, TestCa};

const OWN: &str = "workload/shop/web-1";
const CART: &str = "service/shop/cart";

struct ControlPlane {
    ca: TestCa,
    hub: Hub,
    /// How long the certificates it signs live.
    life: Duration,
}

impl ControlPlane {
    fn start(life: Duration) -> Self {
        let ca = TestCa::new();
        let hub = Hub::bind("127.0.0.1:0", Limits::default()).unwrap();
        let own = ca.issue(&Leaf::of(CONTROL));
        hub.set_identity(&own.chain_pem, &own.key_pem, &ca.root_pem)
            .unwrap();
        Self { ca, hub, life }
    }

    fn address(&self) -> String {
        self.hub.address().to_string()
    }

    /// The next event of a kind. Meanwhile it signs whatever is asked for, and passes over the rest.
    fn event(&self, kind: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.hub.next_event(left);
            let event = event.unwrap_or_else(|| panic!("no event {kind}"));
            let body: Value = serde_json::from_slice(&event.body).unwrap();
            if matches!(event.kind, "join" | "renew") {
                self.sign(&body);
            }
            if event.kind == kind {
                return body;
            }
        }
    }

    fn sign(&self, asked: &Value) {
        let leaf = Leaf {
            not_after: SystemTime::now() + self.life,
            ..Leaf::of(WEB)
        };
        let answer = json!({
            "chain_pem": self.ca.sign(asked["body"]["csr_pem"].as_str().unwrap(), &leaf),
            "roots_pem": [self.ca.root_pem],
            "trust_domain": "tulle.local",
        });
        let request = asked["request_id"].as_u64().unwrap();
        assert!(
            self.hub
                .reply(request, 200, answer.to_string().into_bytes())
        );
    }

    /// Lets the workload in with a token, and starts its control thread.
    fn sidecar(&self) -> Sidecar {
        let settings = settings(&self.address(), None);
        let joined = std::thread::scope(|scope| {
            let joining = scope.spawn(|| {
                let roots = Some(&*self.ca.root_pem);
                join(&settings, &workload(), Some("token"), roots, PATIENCE)
            });
            let asked = self.event("join");
            assert_eq!(
                ("token", &workload()),
                (
                    asked["body"]["token"].as_str().unwrap(),
                    &asked["body"]["workload"]
                )
            );
            joining.join().unwrap()
        });
        let Ok(Joined::Fresh(identity)) = joined else {
            panic!("not joined");
        };
        Sidecar::start(settings, identity, &[OWN])
    }

    /// Answers the first subscription to a name.
    fn serve(&self, name: &str, version: &str) {
        assert_eq!(json!({"name": name}), self.event("subscribed"));
        self.hub.publish(name, version, b"{}").unwrap();
        let ack = self.event("ack");
        assert_eq!(
            (&json!(name), &json!(version)),
            (&ack["name"], &ack["version"])
        );
    }
}

#[test]
fn a_sidecar_joins_and_holds_what_it_asked_for() {
    let control = ControlPlane::start(Duration::from_secs(3600));
    let sidecar = control.sidecar();

    let connected = control.event("connected");
    assert_eq!(
        (&json!(WEB), &workload()),
        (&connected["identity"], &connected["hello"]["workload"])
    );
    control.serve(OWN, "v1");
    sidecar.say(Outgoing::Subscribe(CART.to_owned()));
    control.serve(CART, "v1");

    control.hub.publish(CART, "v2", b"{\"mistake\":1}").unwrap();
    assert_eq!("v2", control.event("nack")["version"]);
    assert_eq!("v1", sidecar.host.told().records[CART].0);

    sidecar.say(Outgoing::Unsubscribe(CART.to_owned()));
    assert_eq!(json!({"name": CART}), control.event("unsubscribed"));
}

#[test]
fn reports_reach_the_control_plane() {
    let control = ControlPlane::start(Duration::from_secs(3600));
    let _sidecar = control.sidecar();

    assert_eq!(json!({"edges": []}), control.event("report")["report"]);
}

#[test]
fn a_sidecar_that_leaves_reports_before_it_is_gone() {
    let control = ControlPlane::start(Duration::from_secs(3600));
    let sidecar = control.sidecar();
    control.event("report");
    sidecar.host.count();
    let heard = Arc::new(Notify::new());

    sidecar.say(Outgoing::Leave(Arc::clone(&heard)));

    assert!(is_told(&heard, PATIENCE));
    control.event("report");
    let why = control.event("disconnected")["reason"].to_string();
    assert!(why.contains("closed by the sidecar"), "{why}");
}

#[test]
fn a_sidecar_that_is_sent_away_comes_back_with_what_it_holds() {
    let control = ControlPlane::start(Duration::from_secs(3600));
    let sidecar = control.sidecar();
    let peer = control.event("connected")["peer"].as_u64().unwrap();
    control.serve(OWN, "v1");

    assert!(control.hub.disconnect(peer, "moved"));

    let why = sidecar.event("disconnected")["reason"].to_string();
    assert!(why.contains("goodbye: moved"), "{why}");
    control.event("connected");
    assert_eq!(json!({"name": OWN}), control.event("subscribed"));
    control.hub.publish(OWN, "v1", b"{}").unwrap();
    assert_eq!("v1", control.event("ack")["version"]);
    control.hub.publish(OWN, "v2", b"{}").unwrap();
    assert_eq!("v2", control.event("ack")["version"]);
}

#[test]
fn requests_are_resolved_and_tapped() {
    let control = ControlPlane::start(Duration::from_secs(3600));
    let sidecar = control.sidecar();
    let peer = control.event("connected")["peer"].as_u64().unwrap();
    control.serve(OWN, "v1");

    let command = |command, body: Value| {
        let sent = control.hub.send(peer, command, body.to_string().as_bytes());
        assert_eq!(Ok(true), sent);
    };
    command(Command::Tap, json!({"id": 3, "filter": {"max": 1}}));
    command(Command::Resolve, json!({"id": 4, "request": {"path": "/"}}));
    let resolved = control.event("resolved");
    assert_eq!(
        (&json!(4), &json!("/")),
        (&resolved["id"], &resolved["result"]["of"])
    );
    let entry = b"{\"code\":\"200\"}".to_vec();
    sidecar.say(Outgoing::Tap { id: 3, entry });
    assert_eq!("200", control.event("tap")["entry"]["code"]);
}

#[test]
fn short_certificates_are_renewed_and_the_workload_never_seems_away() {
    let control = Arc::new(ControlPlane::start(Duration::from_secs(3)));
    let sidecar = control.sidecar();
    control.event("connected");
    control.serve(OWN, "v1");
    control.event("renew");

    // The new stream is there before the old one goes.
    control.event("connected");
    control.event("disconnected");
    sidecar.event("renewed");
    let others = sidecar.other_events();
    assert!(
        others.iter().all(|event| event["event"] == "renewed"),
        "{others:?}"
    );
}
