//! Joins, renewals, and what else may be asked over HTTP.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tulle_engine::hub::Limits;

use crate::sidecar::{CART, Http2, Mesh, asking, post, send};

fn id(asked: &Value) -> u64 {
    asked["request_id"].as_u64().expect("a number")
}

async fn stranger(mesh: &Mesh) -> Http2 {
    mesh.dial(None).await.expect("let in without a certificate")
}

#[tokio::test]
async fn python_answers_a_join_without_a_certificate() {
    let mesh = Mesh::new();
    let mut client = stranger(&mesh).await;
    let joined =
        tokio::spawn(async move { post(&mut client, "/v1/join", r#"{"token":"t"}"#).await });
    let asked = mesh.event("join").await;
    assert_eq!(
        asked,
        json!({"request_id": id(&asked), "body": {"token": "t"}})
    );
    assert!(
        mesh.hub
            .reply(id(&asked), 200, br#"{"chain_pem":"c"}"#.to_vec())
    );
    let answered = joined.await.expect("no panic");
    assert_eq!(answered, (200, json!({"chain_pem": "c"})));
    assert!(!mesh.hub.reply(id(&asked), 200, b"again".to_vec()));
}

#[tokio::test]
async fn python_knows_who_renews_and_may_refuse() {
    let mesh = Mesh::new();
    let mut client = mesh.dial_as(CART).await;
    let body = r#"{"csr_pem":"c","identity":"spiffe://tulle.local/ns/shop/sa/other"}"#;
    let renewed = tokio::spawn(async move { post(&mut client, "/v1/renew", body).await });
    let asked = mesh.event("renew").await;
    assert_eq!(asked["identity"], CART);
    assert!(
        mesh.hub
            .reply(id(&asked), 403, br#"{"error":"no"}"#.to_vec())
    );
    assert_eq!(
        renewed.await.expect("no panic"),
        (403, json!({"error": "no"}))
    );
}

/// A report is large, and the last one of a process is not said on a stream.
#[tokio::test]
async fn python_counts_a_last_report_up_to_the_size_of_a_frame() {
    let mesh = Mesh::new();
    let mut client = mesh.dial_as(CART).await;
    let bytes_max = Limits::default().report_bytes;
    let body = |bytes: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - r#"{"a":""}"#.len()));
    let (largest, larger) = (body(bytes_max), body(bytes_max + 1));
    assert_eq!(post(&mut client, "/v1/report", &larger).await.0, 413);
    let told = tokio::spawn(async move { post(&mut client, "/v1/report", &largest).await });
    let asked = mesh.event("last_report").await;
    assert_eq!(asked["identity"], CART);
    assert!(mesh.hub.reply(id(&asked), 200, b"{}".to_vec()));
    assert_eq!(told.await.expect("no panic"), (200, json!({})));
}

#[tokio::test]
async fn renewals_and_streams_need_a_certificate() {
    let mesh = Mesh::new();
    let mut client = stranger(&mesh).await;
    for path in ["/v1/renew", "/v1/report", "/v1/stream"] {
        let wanted = json!({"error": format!("{path} needs a client certificate")});
        assert_eq!(post(&mut client, path, "{}").await, (401, wanted));
    }
    assert!(mesh.is_quiet());
}

#[tokio::test]
async fn a_body_that_is_no_small_json_object_is_refused() {
    let mesh = Mesh::new();
    let mut client = stranger(&mesh).await;
    for (body, status) in [
        ("[]".to_owned(), 400),
        ("{".to_owned(), 400),
        ("[".repeat(1000), 400),
        (format!(r#"{{"token":"{}"}}"#, "x".repeat(64 * 1024)), 413),
    ] {
        assert_eq!(post(&mut client, "/v1/join", &body).await.0, status);
    }
    assert_eq!(post(&mut client, "/v1/other", "{}").await.0, 404);
    assert!(mesh.is_quiet());
}

#[tokio::test]
async fn a_join_nobody_answers_is_told_to_come_again() {
    let mesh = Mesh::with(Limits {
        reply_wait: Duration::from_millis(50),
        ..Limits::default()
    });
    let mut client = stranger(&mesh).await;
    let response = send(&mut client, "/v1/join", Bytes::from_static(b"{}")).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let asked = mesh.event("join").await;
    assert!(!mesh.hub.reply(id(&asked), 200, b"{}".to_vec()), "too late");
    assert_eq!(mesh.stat("requests_waiting"), 0);
}

#[tokio::test]
async fn joins_that_wait_have_a_bound() {
    let mesh = Mesh::with(Limits {
        requests_waiting: 1,
        ..Limits::default()
    });
    let mut first = stranger(&mesh).await;
    let joined = tokio::spawn(async move { post(&mut first, "/v1/join", "{}").await });
    let asked = mesh.event("join").await;
    let mut second = stranger(&mesh).await;
    assert_eq!(post(&mut second, "/v1/join", "{}").await.0, 503);
    assert!(mesh.is_quiet());
    assert!(mesh.hub.reply(id(&asked), 200, b"{}".to_vec()));
    assert_eq!(joined.await.expect("no panic").0, 200);
}

#[tokio::test]
async fn the_fields_of_a_request_have_a_bound() {
    const MOST: usize = 8 * 1024;
    /// Of what every request has, at most.
    const OTHERS: usize = 512;
    let mesh = Mesh::new();
    let client = stranger(&mesh).await;
    for (fill, status) in [(MOST - OTHERS, 404), (MOST, 431)] {
        let mut request = asking("/v1/other", Bytes::new());
        let value = "x".repeat(fill).parse().expect("a value");
        request.headers_mut().insert("fill", value);
        let response = client.sender.clone().send_request(request).await;
        assert_eq!(response.expect("a response").status(), status);
    }
}

#[tokio::test]
async fn requests_at_once_on_one_connection_have_a_bound() {
    const MOST: usize = 8;
    let mesh = Mesh::new();
    let mut client = stranger(&mesh).await;
    // By its answer the client knows how many it may send.
    assert_eq!(post(&mut client, "/v1/other", "{}").await.0, 404);
    let asked: Vec<_> = (0..=MOST)
        .map(|_| {
            let request = asking("/v1/join", Bytes::from_static(b"{}"));
            tokio::spawn(client.sender.clone().send_request(request))
        })
        .collect();
    let mut first = json!(null);
    for _ in 0..MOST {
        first = mesh.event("join").await;
    }
    assert!(mesh.is_quiet());
    assert_eq!(mesh.stat("requests_waiting"), MOST as u64);
    assert!(mesh.hub.reply(id(&first), 200, b"{}".to_vec()));
    mesh.event("join").await;
    drop(asked);
}

#[tokio::test]
async fn a_join_whose_client_left_waits_no_longer() {
    let mesh = Mesh::new();
    let mut client = stranger(&mesh).await;
    let joined = tokio::spawn(async move { post(&mut client, "/v1/join", "{}").await });
    let asked = mesh.event("join").await;
    joined.abort();
    assert!(joined.await.is_err());
    let mut other = mesh.dial_as(CART).await;
    // The hub has seen the reset once it has answered what came after it.
    while mesh.stat("requests_waiting") > 0 {
        post(&mut other, "/v1/nothing", "{}").await;
    }
    assert!(!mesh.hub.reply(id(&asked), 200, b"{}".to_vec()));
}
