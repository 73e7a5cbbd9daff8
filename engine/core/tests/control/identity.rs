//! Joining, renewal, and certificates that run out.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tulle_engine::control::{Joined, join};

use crate::fake_host::{Sidecar, WEB, settings, workload};
use crate::fake_hub::{CONTROL, Certify, FakeHub, PATIENCE, denying, identity, signing};
use crate::test_ca::{Leaf, TestCa};
use crate::test_dir::TestDir;

const HOUR: Duration = Duration::from_secs(3600);

fn hub(ca: &TestCa, certify: Arc<Certify>) -> FakeHub {
    FakeHub::start(&identity(ca, &Leaf::of(CONTROL)), certify)
}

/// An address nobody listens at.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn join_web(
    address: &str,
    dir: Option<&TestDir>,
    token: Option<&str>,
    roots: Option<&str>,
) -> Result<Joined, String> {
    let settings = settings(address, dir.map(TestDir::path));
    join(&settings, &workload(), token, roots, PATIENCE)
}

#[test]
fn a_token_becomes_an_identity_that_only_the_owner_can_read() {
    let (ca, dir) = (Arc::new(TestCa::new()), TestDir::new());
    let sign = signing(&ca, WEB, HOUR);
    let hub = hub(
        &ca,
        Arc::new(move |path, peer, body| {
            assert_eq!(("/v1/join", None), (path, peer));
            assert_eq!(
                ("secret", &workload()),
                (body["token"].as_str().unwrap(), &body["workload"])
            );
            sign(path, peer, body)
        }),
    );

    let joined = join_web(
        &hub.address.to_string(),
        Some(&dir),
        Some("secret"),
        Some(&ca.root_pem),
    );

    assert!(matches!(&joined, Ok(Joined::Fresh(identity)) if identity.id().as_str() == WEB));
    let file = dir.path().join("identity.json");
    assert_eq!(
        0o600,
        fs::metadata(&file).unwrap().permissions().mode() & 0o777
    );

    let offline = join_web(&nowhere(), Some(&dir), None, None);
    assert!(matches!(&offline, Ok(Joined::Cached(identity)) if identity.id().as_str() == WEB));
    let offline = join_web(&nowhere(), Some(&dir), Some("spent"), Some(&ca.root_pem));
    assert!(matches!(offline, Ok(Joined::Cached(_))));
}

#[test]
fn a_join_waits_for_a_control_plane_that_is_not_ready_yet() {
    let ca = Arc::new(TestCa::new());
    let (asked, sign) = (AtomicU32::new(0), signing(&ca, WEB, HOUR));
    let hub = hub(
        &ca,
        Arc::new(
            move |path, peer, body| match asked.fetch_add(1, Ordering::Relaxed) {
                0..3 => (503, json!({"error": "starting"})),
                _ => sign(path, peer, body),
            },
        ),
    );

    let address = hub.address.to_string();
    let joined = join_web(&address, None, Some("secret"), Some(&ca.root_pem));

    assert!(matches!(joined, Ok(Joined::Fresh(_))));
}

#[test]
fn a_refusal_is_final_and_says_why() {
    let ca = TestCa::new();
    let hub = hub(&ca, denying(403, "token is used"));

    let joined = join_web(
        &hub.address.to_string(),
        None,
        Some("x"),
        Some(&ca.root_pem),
    );

    let why = "join refused: control plane answered 403: token is used";
    assert_eq!(Some(why.to_owned()), joined.err());
}

#[test]
fn an_answer_has_a_bound() {
    const MOST: usize = 256 * 1024;
    let ca = TestCa::new();
    for (more, part) in [(0, "answered 403: xxx"), (1, "length limit exceeded")] {
        let why = "x".repeat(MOST + more - r#"{"error":""}"#.len());
        let hub = hub(&ca, denying(403, &why));
        let settings = settings(&hub.address.to_string(), None);
        let (root, time) = (Some(&*ca.root_pem), Duration::from_millis(200));
        let time = if more == 0 { PATIENCE } else { time };
        let why = join(&settings, &workload(), Some("x"), root, time).unwrap_err();
        assert!(why.contains(part), "{}", &why[..200.min(why.len())]);
    }
}

#[test]
fn without_control_plane_a_join_ends_with_the_last_reason() {
    let ca = TestCa::new();
    let (settings, timeout) = (settings(&nowhere(), None), Duration::from_millis(100));

    let joined = join(
        &settings,
        &workload(),
        Some("x"),
        Some(&ca.root_pem),
        timeout,
    );

    let why = joined.unwrap_err();
    assert!(why.starts_with("not joined within 100ms: "), "{why}");
    assert!(why.contains("refused"), "{why}");
}

#[test]
fn without_token_or_roots_or_valid_identity_there_is_nothing_to_join_with() {
    let (ca, dir) = (TestCa::new(), TestDir::new());

    for text in [None, Some("no JSON"), Some("{}")] {
        if let Some(text) = text {
            fs::write(dir.path().join("identity.json"), text).unwrap();
        }
        let why = join_web(&nowhere(), Some(&dir), None, Some(&ca.root_pem)).unwrap_err();
        assert!(
            why.starts_with("no join token, and no valid identity"),
            "{why}"
        );
    }
    let why = join_web(&nowhere(), None, Some("x"), None).unwrap_err();
    assert!(why.starts_with("no roots"), "{why}");
}

#[test]
fn a_certificate_for_somebody_else_is_not_taken() {
    let ca = Arc::new(TestCa::new());
    let hub = hub(&ca, signing(&ca, CONTROL, HOUR));

    let joined = join_web(
        &hub.address.to_string(),
        None,
        Some("x"),
        Some(&ca.root_pem),
    );

    let why = format!("join refused: certificate is of {CONTROL}, expected {WEB}");
    assert_eq!(Some(why), joined.err());
}

#[test]
fn a_certificate_is_renewed_again_and_again_before_it_ends() {
    let (ca, dir) = (Arc::new(TestCa::new()), TestDir::new());
    let sign = signing(&ca, WEB, Duration::from_secs(2));
    let hub = hub(
        &ca,
        Arc::new(move |path, peer, body| {
            assert!(path == "/v1/join" || peer.is_some_and(|peer| peer.as_str() == WEB));
            sign(path, peer, body)
        }),
    );
    let address = hub.address.to_string();
    let joined = join_web(&address, Some(&dir), Some("x"), Some(&ca.root_pem)).unwrap();
    let first = joined.into_identity();

    let sidecar = Sidecar::start(settings(&address, Some(dir.path())), first.clone(), &[]);
    for _ in 0..2 {
        sidecar.event("renewed");
    }

    let others = sidecar.other_events();
    let host = sidecar.stop();
    let newest = host.told().identities.last().unwrap().not_after();
    assert!(newest > first.not_after());
    assert!(
        others.iter().all(|event| event["event"] != "expired"),
        "{others:?}"
    );
    let Ok(Joined::Cached(kept)) = join_web(&nowhere(), Some(&dir), None, None) else {
        panic!("the renewed identity was not kept");
    };
    assert_eq!(newest, kept.not_after());
}

#[test]
fn a_stream_is_reopened_with_the_renewed_certificate_before_the_old_one_ends() {
    let ca = Arc::new(TestCa::new());
    let hub = hub(&ca, signing(&ca, WEB, HOUR));
    let short = Leaf {
        not_after: SystemTime::now() + Duration::from_secs(3),
        ..Leaf::of(WEB)
    };
    let short = identity(&ca, &short);

    let settings = settings(&hub.address.to_string(), None);
    let sidecar = Sidecar::start(settings, short.clone(), &[]);
    let first = hub.stream();
    sidecar.event("renewed");
    let _second = hub.stream();

    assert!(SystemTime::now() < short.not_after());
    assert!(first.closed());
    let others = sidecar.other_events();
    assert!(others.is_empty(), "seen to be away: {others:?}");
    assert!(sidecar.host.told().connected);
}

#[test]
fn a_failed_renewal_is_tried_again() {
    let ca = Arc::new(TestCa::new());
    let (asked, sign) = (AtomicU32::new(0), signing(&ca, WEB, HOUR));
    let hub = hub(
        &ca,
        Arc::new(
            move |path, peer, body| match asked.fetch_add(1, Ordering::Relaxed) {
                0 => (403, json!({"error": "not now"})),
                1 => (503, json!({"error": "busy"})),
                _ => sign(path, peer, body),
            },
        ),
    );
    let short = Leaf {
        not_after: SystemTime::now() + Duration::from_secs(3),
        ..Leaf::of(WEB)
    };

    let settings = settings(&hub.address.to_string(), None);
    let sidecar = Sidecar::start(settings, identity(&ca, &short), &[]);

    let why = sidecar.event("refused")["error"].to_string();
    assert!(why.contains("not now"), "{why}");
    sidecar.event("renewed");
}

#[test]
fn an_expired_certificate_is_reported_and_so_is_the_control_plane_refusing_it() {
    let ca = TestCa::new();
    let hub = hub(&ca, denying(403, "no"));
    let expired = Leaf {
        not_after: SystemTime::now() - Duration::from_secs(5),
        ..Leaf::of(WEB)
    };

    let settings = settings(&hub.address.to_string(), None);
    let sidecar = Sidecar::start(settings, identity(&ca, &expired), &[]);

    let mut seen = [(); 2].map(|()| sidecar.event_among(&["refused", "expired"]));
    seen.sort_by_key(|event| event["event"].to_string());
    assert_eq!("expired", seen[0]["event"]);
    assert_eq!("stream", seen[1]["name"]);
    let why = seen[1]["error"].to_string();
    assert!(why.contains("our certificate has expired"), "{why}");
}
