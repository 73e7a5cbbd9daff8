//! The hub with the sidecar's own client: join, records, resumption.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tulle_engine::control::{ControlSettings, Host, Joined, Outgoing, join, run};
use tulle_engine::tls::{Identity, SpiffeId};

use crate::sidecar::{CART, Mesh, PATIENCE, hello};
use crate::test_ca::Leaf;

const RECORD: &str = "service/shop/cart";

/// An engine that keeps what it is given.
#[derive(Default)]
struct Kept {
    records: Mutex<Vec<(String, String, Vec<u8>)>>,
}

impl Host for Kept {
    fn apply(&self, name: &str, version: &str, bytes: &[u8]) -> Result<(), String> {
        if bytes == b"bad" {
            return Err("not a record".to_owned());
        }
        let record = (name.to_owned(), version.to_owned(), bytes.to_vec());
        self.records.lock().expect("not poisoned").push(record);
        Ok(())
    }

    fn absent(&self, _name: &str) {}

    fn wanted(&self) -> Vec<String> {
        vec![RECORD.to_owned()]
    }

    fn set_identity(&self, _identity: Identity) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> (bool, bool) {
        (true, false)
    }

    fn hello(&self) -> Value {
        hello("shop", "cart-1", "cart")
    }

    fn report(&self) -> Option<Vec<u8>> {
        None
    }

    fn resolve(&self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    fn tap(&self, _id: u64, _filter: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn untap(&self, _id: u64) {}

    fn connected(&self, _connected: bool) {}

    fn event(&self, _event: Value) {}
}

fn settings(mesh: &Mesh) -> ControlSettings {
    let id = SpiffeId::parse(CART).expect("an id");
    ControlSettings::new(&mesh.hub.address().to_string(), id, None).expect("good settings")
}

/// Join as Python would see it: it gets the request, and signs it.
async fn joined(mesh: &Mesh) -> Identity {
    let (settings, roots) = (settings(mesh), mesh.ca.root_pem.clone());
    let joining = tokio::task::spawn_blocking(move || {
        let workload = hello("shop", "cart-1", "cart")["workload"].clone();
        join(&settings, &workload, Some("token"), Some(&roots), PATIENCE)
    });
    let asked = mesh.event("join").await;
    assert_eq!(asked["body"]["token"], "token");
    let csr = asked["body"]["csr_pem"].as_str().expect("a text");
    let reply = json!({
        "chain_pem": mesh.ca.sign(csr, &Leaf::of(CART)),
        "roots_pem": [mesh.ca.root_pem],
        "trust_domain": "tulle.local",
    });
    let request = asked["request_id"].as_u64().expect("a number");
    mesh.hub.reply(request, 200, reply.to_string().into_bytes());
    match joining.await.expect("no panic").expect("joined") {
        Joined::Fresh(identity) => identity,
        Joined::Cached(_) => panic!("there was nothing cached"),
    }
}

#[tokio::test(flavor = "local")]
async fn a_sidecar_joins_follows_its_records_and_resumes_without_payload() {
    let mesh = Mesh::new();
    let identity = joined(&mesh).await;
    let kept = Arc::new(Kept::default());
    let (_outgoing, said) = mpsc::channel::<Outgoing>(8);
    let following = run(kept.clone(), settings(&mesh), identity, said, async {});
    tokio::task::spawn_local(following);

    let connected = mesh.event_in_time("connected").await;
    assert_eq!(connected["identity"], CART);
    assert_eq!(mesh.event_in_time("subscribed").await["name"], RECORD);
    mesh.hub.publish(RECORD, "v1", b"one").expect("small");
    assert_eq!(mesh.event_in_time("ack").await["version"], "v1");

    mesh.hub.publish(RECORD, "v2", b"bad").expect("small");
    let nack = mesh.event_in_time("nack").await;
    let wanted = json!({
        "peer": connected["peer"], "name": RECORD, "version": "v2", "error": "not a record",
    });
    assert_eq!(nack, wanted);

    let peer = connected["peer"].as_u64().expect("a number");
    assert!(mesh.hub.disconnect(peer, "moving house"));
    mesh.event_in_time("connected").await;
    mesh.event_in_time("subscribed").await;
    mesh.hub.publish(RECORD, "v1", b"one").expect("small");
    mesh.hub.publish(RECORD, "v3", b"three").expect("small");
    while mesh.event_in_time("ack").await["version"] != "v3" {}
    let applied = kept.records.lock().expect("not poisoned").clone();
    let record =
        |version: &str, bytes: &[u8]| (RECORD.to_owned(), version.to_owned(), bytes.to_vec());
    assert_eq!(applied, [record("v1", b"one"), record("v3", b"three")]);
}
