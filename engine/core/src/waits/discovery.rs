//! What the control plane is waited for, and who asks for names.

use std::rc::Rc;

use serde_json::{Value, json};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

use super::{GET, MOMENT, Mesh, OK, ends_at, fill, head, pair, send, service, settle};
use crate::discover::DISCOVERY_MAX;
use crate::dns;
use crate::timer::tests::{on_local, pass};

const OTHER: &str = "GET / HTTP/1.1\r\nhost: other.shop\r\n\r\n";

#[test]
fn the_word_on_a_service_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, _served) = mesh.client().await;
        send(&mut client, OTHER).await;
        settle().await;
        pass(DISCOVERY_MAX - MOMENT).await;
        assert!(!mesh.has_recorded("no-healthy-endpoint"));
        pass(MOMENT).await;
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("no-healthy-endpoint"), "{answer}");
    });
}

#[test]
fn the_word_on_its_endpoints_may_take_as_long_after_it() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let of_other = |mut record: Value| {
            record["name"] = json!("other");
            record
        };
        for comes in [false, true] {
            let (mut client, _served) = mesh.client().await;
            send(&mut client, OTHER).await;
            settle().await;
            if !comes {
                pass(DISCOVERY_MAX - MOMENT).await;
                mesh.apply(&of_other(service()));
                settle().await;
            }
            pass(DISCOVERY_MAX - MOMENT).await;
            assert!(!mesh.has_recorded("http-200"));
            if comes {
                // At the last moment.
                mesh.apply(&of_other(mesh.endpoints()));
                let mut program = mesh.asked().await;
                send(&mut program, OK).await;
                assert!(head(&mut client).await.starts_with("HTTP/1.1 200"));
            } else {
                pass(MOMENT).await;
                let answer = head(&mut client).await;
                assert!(answer.contains("no-healthy-endpoint"), "{answer}");
            }
        }
    });
}

#[test]
fn what_is_known_waits_for_nothing() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, _served) = mesh.client().await;
        send(&mut client, GET).await;
        let mut program = mesh.asked().await;
        send(&mut program, OK).await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200"));
    });
}

/// A client that asks for names by TCP, and the task that answers it.
async fn asker(mesh: &Mesh) -> (TcpStream, JoinHandle<()>) {
    let (client, served) = pair().await;
    for socket in [&client, &served].map(SockRef::from) {
        socket.set_recv_buffer_size(4096).expect("a size");
        socket.set_send_buffer_size(4096).expect("a size");
    }
    let worker = Rc::clone(&mesh.worker);
    let task = spawn_local(async move { dns::serve_tcp(&worker, served).await });
    (client, task)
}

#[test]
fn who_asks_for_names_may_be_silent_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        for begun in ["", "\0", "\0\x0cquest"] {
            let (mut client, served) = asker(&mesh).await;
            send(&mut client, begun).await;
            ends_at(dns::IDLE_TIME, served).await;
        }
    });
}

#[test]
fn who_asks_for_names_may_leave_answers_unread_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = asker(&mesh).await;
        // Something else than a question, which is answered at once.
        let status = [0, 12, 7, 7, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        fill(&mut client, &status.repeat(1000)).await;
        ends_at(dns::IDLE_TIME, served).await;
    });
}
