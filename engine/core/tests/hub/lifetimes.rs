//! How long connections live, who is let in, and what a new identity changes.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tulle_engine::control::frame::Kind;
use tulle_engine::hub::Limits;

use crate::sidecar::{CART, Mesh, PATIENCE, Sidecar, dial, hello};
use crate::test_ca::{Leaf, TestCa};

const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_new_certificate_or_root_drops_no_connection() {
    let mesh = Mesh::new();
    let (mut sidecar, _) = mesh.sidecar("cart-1").await;
    let new_ca = TestCa::new();
    mesh.present_certificate_of(&mesh.ca, &[&mesh.ca]);
    mesh.present_certificate_of(&new_ca, &[&mesh.ca, &new_ca]);

    assert!(
        mesh.dial(None).await.is_err(),
        "the old certificate is gone"
    );
    assert!(dial(&mesh.hub, &new_ca, None).await.is_ok());

    sidecar.subscribe("service/shop/cart", None);
    mesh.event("subscribed").await;
    mesh.hub.withdraw("service/shop/cart");
    sidecar.hear_json(Kind::Absent).await;
}

#[tokio::test]
async fn who_came_in_by_a_root_that_is_taken_away_has_to_come_again() {
    let mesh = Mesh::new();
    let (mut sidecar, _) = mesh.sidecar("cart-1").await;
    let mut without_stream = mesh.dial_as(CART).await;
    let new_ca = TestCa::new();
    mesh.present_certificate_of(&new_ca, &[&new_ca]);
    let reason = sidecar.hear_goodbye().await;
    assert_eq!(reason, "a root was taken away; connect again");
    without_stream.wait_closed().await;
    mesh.event("disconnected").await;
}

#[tokio::test]
async fn a_bad_identity_is_refused_and_the_old_one_stays() {
    let mesh = Mesh::new();
    assert!(mesh.hub.set_identity("", "", "").is_err());
    assert!(mesh.dial(None).await.is_ok());
}

#[tokio::test]
async fn certificates_of_others_and_expired_ones_are_refused() {
    let mesh = Mesh::new();
    let stranger = Mesh::new().identity(&Leaf::of(CART));
    let expired = mesh.identity(&Leaf {
        not_after: SystemTime::now() - Duration::from_secs(5),
        ..Leaf::of(CART)
    });
    let other_domain = mesh.identity(&Leaf::of("spiffe://other/ns/shop/sa/cart"));
    for identity in [stranger, expired, other_domain] {
        // TLS 1.3: the client is done before the server has looked at its certificate.
        if let Ok(mut client) = mesh.dial(Some(&identity)).await {
            client.wait_closed().await;
        }
    }
    mesh.reaches("failed_handshakes", 3).await;
}

#[tokio::test]
async fn a_stream_ends_with_the_certificate_of_its_peer() {
    let mesh = Mesh::new();
    let identity = mesh.identity(&Leaf {
        not_after: SystemTime::now() + Duration::from_secs(2),
        ..Leaf::of(CART)
    });
    let mut sidecar = Sidecar::open(mesh.dial(Some(&identity)).await.expect("let in")).await;
    sidecar.say(Kind::Hello, &hello("shop", "cart-1", "cart"));
    mesh.event("connected").await;
    assert_eq!(sidecar.hear_goodbye().await, "the certificate has expired");
    mesh.event("disconnected").await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_stream_is_not_idle() {
    let mesh = Mesh::with(Limits {
        idle: SOON,
        ..Limits::default()
    });
    let (sidecar, peer) = mesh.sidecar("cart-1").await;
    let mut idle = mesh.dial_as(CART).await;
    idle.wait_closed().await;
    sidecar.say(Kind::Status, &json!({"ready": true, "draining": false}));
    assert_eq!(mesh.event("status").await["peer"], peer);
}

#[tokio::test]
async fn a_connection_without_certificate_lives_as_long_as_a_join_needs() {
    let mesh = Mesh::with(Limits {
        unauthenticated_life: SOON,
        ..Limits::default()
    });
    let mut stranger = mesh.dial(None).await.expect("let in");
    stranger.wait_closed().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() -> std::io::Result<()> {
    let mesh = Mesh::with(Limits {
        handshakes: 1,
        handshake_wait: SOON,
        ..Limits::default()
    });
    let mut mute = TcpStream::connect(mesh.hub.address()).await?;
    let mut rude = TcpStream::connect(mesh.hub.address()).await?;
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    let _polite = mesh.dial_as(CART).await;
    assert_eq!(mute.read(&mut [0; 16]).await?, 0);
    mesh.reaches("failed_handshakes", 2).await;
    Ok(())
}

#[tokio::test]
async fn a_stream_without_hello_is_not_waited_for() {
    let mesh = Mesh::with(Limits {
        body_wait: SOON,
        ..Limits::default()
    });
    let mut sidecar = mesh.silent(CART).await;
    assert_eq!(sidecar.hear_goodbye().await, "no hello in 50ms");
}

#[tokio::test]
async fn connections_have_a_bound() {
    let mesh = Mesh::with(Limits {
        connections: 1,
        ..Limits::default()
    });
    let (first, _) = mesh.sidecar("cart-1").await;
    assert!(mesh.dial(None).await.is_err());
    assert_eq!(mesh.stat("refused_connections"), 1);
    drop(first);
    mesh.event("disconnected").await;
    while mesh.stat("connections") > 0 {
        tokio::task::yield_now().await;
    }
    assert!(mesh.dial(None).await.is_ok());
}

#[tokio::test]
async fn stopping_says_goodbye_and_closes_the_port() {
    let mesh = Mesh::new();
    let (mut sidecar, _) = mesh.sidecar("cart-1").await;
    let hub = mesh.hub.clone();
    let stopped = tokio::task::spawn_blocking(move || hub.stop());
    assert_eq!(
        sidecar.hear_goodbye().await,
        "the control plane is stopping"
    );
    mesh.event("disconnected").await;
    timeout(PATIENCE, stopped)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(
        mesh.is_quiet(),
        "a stopped hub does not make its reader wait"
    );
    assert!(TcpStream::connect(mesh.hub.address()).await.is_err());
}
