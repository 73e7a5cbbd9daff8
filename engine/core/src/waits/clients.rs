//! What clients are waited for, between requests and in them.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    GET, LARGE, MOMENT, Mesh, OK, POST, ends_at, exchange, fill, head, lasts_until, no_end, pair,
    send, settle, shared, within,
};
use crate::clock::BODY_IDLE_TIME;
use crate::control::Host;
use crate::downstream::{HALF_CLOSED_TIME, READ_IDLE_TIME};
use crate::http2::keepalive::PING_TIMEOUT;
use crate::join::{self, join};
use crate::observe::Observation;
use crate::observe::metrics::Direction;
use crate::serve::{DRAIN_MAX, DRAIN_TIME, HEAD_TIME, IDLE_TIME, IDLE_TIME_HTTP2, PING_INTERVAL};
use crate::shared::IDLE_SERVICE_S;
use crate::timer::tests::{on_local, pass};

#[test]
fn a_client_may_be_idle_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        // Before its first request as after one.
        let (_silent, served) = mesh.client().await;
        ends_at(IDLE_TIME, served).await;
        let (mut client, served) = mesh.client().await;
        exchange(&mesh, &mut client).await;
        ends_at(IDLE_TIME, served).await;
        assert_eq!(head(&mut client).await, "");
    });
}

#[test]
fn a_request_begins_the_idle_time_anew() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        settle().await;
        pass(IDLE_TIME - MOMENT).await;
        exchange(&mesh, &mut client).await;
        ends_at(IDLE_TIME, served).await;
    });
}

#[test]
fn a_head_that_has_begun_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, "GET / HT").await;
        lasts_until(HEAD_TIME, &served).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("tulle-reason: client-timeout"), "{answer}");
        assert!(mesh.has_recorded("client-timeout"));
    });
}

#[test]
fn a_client_may_owe_its_body_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, POST).await;
        send(&mut client, "half").await;
        let _program = mesh.asked().await;
        settle().await;
        pass(BODY_IDLE_TIME - MOMENT).await;
        // More of it begins the time anew.
        send(&mut client, "more").await;
        lasts_until(BODY_IDLE_TIME, &served).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("tulle-reason: client-timeout"), "{answer}");
        assert!(mesh.has_recorded("client-timeout"));
    });
}

#[test]
fn an_upstream_may_take_nothing_of_a_body_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(no_end).await;
        let (mut client, served) = mesh.client().await;
        let post = format!("POST / HTTP/1.1\r\nhost: cart.shop\r\ncontent-length: {LARGE}\r\n\r\n");
        send(&mut client, &post).await;
        let _program = mesh.asked().await;
        fill(&mut client, &[0; 1 << 20]).await;
        lasts_until(BODY_IDLE_TIME, &served).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(answer.contains("tulle-reason: request-timeout"), "{answer}");
    });
}

#[test]
fn a_client_may_leave_a_response_unread_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, GET).await;
        let mut program = mesh.asked().await;
        let large = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
        send(&mut program, &large).await;
        fill(&mut program, &[0; 1 << 20]).await;
        ends_at(READ_IDLE_TIME, served).await;
        assert!(mesh.has_recorded("client-gone"));
        // What is left in the socket, and no end that could be taken for the whole.
        let mut left = Vec::new();
        let ended = within(client.read_to_end(&mut left)).await;
        assert!(ended.is_err() || left.len() < LARGE);
    });
}

#[test]
fn a_client_that_closed_its_half_is_waited_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(no_end).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, GET).await;
        let _program = mesh.asked().await;
        client.shutdown().await.expect("a half");
        ends_at(HALF_CLOSED_TIME, served).await;
        assert!(mesh.has_recorded("client-gone"));
    });
}

#[test]
fn a_client_of_http2_may_be_idle_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ((_sender, connection), served) = mesh.client_http2(65_535).await;
        let leaves = tokio::task::spawn_local(async {
            // Told to leave, it does.
            connection.await.expect("a goodbye");
        });
        ends_at(IDLE_TIME_HTTP2, served).await;
        within(leaves).await.expect("no panic");
    });
}

#[test]
fn one_that_is_told_to_leave_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ((_sender, mut connection), served) = mesh.client_http2(65_535).await;
        // It says that it speaks HTTP/2, and hears nothing from then on.
        std::future::poll_fn(|cx| {
            let _pending = std::pin::Pin::new(&mut connection).poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
        lasts_until(IDLE_TIME_HTTP2, &served).await;
        ends_at(PING_TIMEOUT, served).await;
    });
}

#[test]
fn a_client_of_http2_may_leave_an_answer_unread_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ((mut sender, connection), _served) = mesh.client_http2(0).await;
        let _driven = tokio::task::spawn_local(connection);
        let request = http::Request::get("http://www.example.com/")
            .body(())
            .expect("a request");
        let (response, _) = sender.send_request(request, true).expect("it is sent");
        let response = within(response).await.expect("a head");
        let mut body = response.into_body();
        let mut read = tokio::task::spawn_local(async move { body.data().await });
        settle().await;
        pass(READ_IDLE_TIME - MOMENT).await;
        assert!(!read.is_finished());
        pass(MOMENT).await;
        let read = within(&mut read).await.expect("no panic");
        assert!(matches!(read, Some(Err(error)) if error.is_reset()));
    });
}

#[test]
fn bytes_may_be_silent_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ((mut client, near), (mut app, far)) = (pair().await, pair().await);
        let seen = Observation::begin(&mesh.worker, Direction::Inbound, None);
        let joined = async move {
            let (near, far) = (join::Side::Tcp(near).into(), join::Side::Tcp(far).into());
            join(near, far, seen, join::IDLE_TIME).await;
        };
        let joined = tokio::task::spawn_local(joined);
        settle().await;
        pass(join::IDLE_TIME - MOMENT).await;
        // A byte either way begins the time anew.
        client.write_u8(7).await.expect("it is sent");
        assert_eq!(within(app.read_u8()).await.expect("a byte"), 7);
        pass(join::IDLE_TIME - MOMENT).await;
        app.write_u8(8).await.expect("it is sent");
        assert_eq!(within(client.read_u8()).await.expect("a byte"), 8);
        ends_at(join::IDLE_TIME, joined).await;
    });
}

#[test]
fn a_service_that_nobody_calls_is_known_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let shared = &mesh.worker.shared;
        Host::connected(&**shared, true);
        let (mut client, _served) = mesh.client().await;
        exchange(&mesh, &mut client).await;
        let is_known = || {
            shared.drop_idle_services();
            shared.directory.get("shop/cart").is_some()
        };
        // It is counted in whole seconds.
        pass(Duration::from_secs(IDLE_SERVICE_S - 1)).await;
        assert!(is_known());
        pass(Duration::from_secs(1)).await;
        assert!(!is_known());
    });
}

/// A program may have its address from an earlier process of the sidecar.
#[test]
fn one_that_was_known_at_the_start_stays_so_where_addresses_are_told() {
    on_local(async {
        let intercept = json!({
            "outbound": [], "inbound": null, "dns": [], "resolv_conf": "/dev/null",
            "tproxy": false, "mesh_only": false, "mark": null,
        });
        let shared = shared(|settings| settings["intercept"] = intercept.clone());
        let mesh = Mesh::of(shared, |_| {}).await;
        let shared = &mesh.worker.shared;
        Host::connected(&**shared, true);
        shared.begin();
        pass(Duration::from_secs(IDLE_SERVICE_S)).await;
        shared.drop_idle_services();
        assert!(shared.directory.get("shop/cart").is_some());
    });
}

#[test]
fn one_that_says_nothing_at_all_may_be_idle_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        for begun in ["", "PRI * HTTP/2.0\r\n"] {
            let (mut client, served) = mesh.undecided().await;
            send(&mut client, begun).await;
            ends_at(IDLE_TIME, served).await;
        }
    });
}

#[test]
fn the_preface_of_http2_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.http2().await;
        send(&mut client, "PRI * HTTP/2.0\r\n").await;
        ends_at(HEAD_TIME, served).await;
    });
}

#[test]
fn a_client_of_http2_that_answers_no_ping_is_gone() {
    on_local(async {
        let mesh = Mesh::start(no_end).await;
        let ((mut sender, mut connection), served) = mesh.client_http2(65_535).await;
        let request = http::Request::get("http://cart.shop/").body(());
        let sent = sender.send_request(request.expect("a request"), true);
        let _response = sent.expect("it is sent");
        // It asks, and hears nothing from then on.
        std::future::poll_fn(|cx| {
            let _pending = std::pin::Pin::new(&mut connection).poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
        let mut program = mesh.asked().await;
        lasts_until(PING_INTERVAL, &served).await;
        ends_at(PING_TIMEOUT, served).await;
        settle().await;
        assert!(mesh.has_recorded("client-gone"));
        assert!(
            within(program.read_u8()).await.is_err(),
            "nobody waits for it"
        );
    });
}

#[test]
fn one_that_was_refused_may_keep_the_connection_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, "GET / HTTP/1.1\r\nhost : cart.shop\r\n\r\n").await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 400"));
        ends_at(DRAIN_TIME, served).await;
    });
}

#[test]
fn a_body_that_nobody_wants_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = mesh.client().await;
        send(&mut client, POST).await;
        send(&mut client, "half").await;
        let mut program = mesh.asked().await;
        send(&mut program, OK).await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200"));
        // To read the rest, and as long for the client to take the answer and leave.
        lasts_until(DRAIN_TIME, &served).await;
        ends_at(DRAIN_TIME, served).await;
    });
}

#[test]
fn so_much_of_a_body_that_nobody_wants_is_read() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        for (length, is_kept) in [(DRAIN_MAX, true), (2 * DRAIN_MAX, false)] {
            let (mut client, served) = mesh.client().await;
            let post = format!(
                "POST / HTTP/1.1\r\nhost: www.example.com\r\ncontent-length: {length}\r\n\r\n"
            );
            send(&mut client, &post).await;
            assert!(head(&mut client).await.starts_with("HTTP/1.1 404"));
            let sent = within(client.write_all(&vec![0; length])).await;
            assert!(sent.is_ok() || !is_kept);
            for _ in 0..3 {
                settle().await;
            }
            // The time to read it, and to linger where that was not all.
            pass(DRAIN_TIME).await;
            pass(DRAIN_TIME).await;
            if is_kept {
                assert!(!served.is_finished());
                ends_at(IDLE_TIME - 2 * DRAIN_TIME, served).await;
            } else {
                within(served).await.expect("no panic");
            }
        }
    });
}
