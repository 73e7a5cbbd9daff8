//! The PROXY protocol on the way in and on the way out.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;
use tulle_engine::proxy_protocol::header;

use crate::mesh::{
    PATIENCE, Pair, address, apply, connect, endpoints, expect, is_closed, is_reset, program,
    service, workload,
};

/// The called side behind a balancer that speaks the protocol.
fn behind_a_balancer() -> Pair {
    Pair::changed(|port| port["proxy_protocol"] = json!(true))
}

/// What is told of `client`.
fn of(client: &TcpStream) -> Vec<u8> {
    let (source, destination) = (client.local_addr(), client.peer_addr());
    header(source.ok(), destination.expect("an address"))
}

#[test]
fn a_plain_caller_says_where_it_came_from_and_the_application_hears_it() {
    let pair = behind_a_balancer();
    apply(&pair.cart, &workload("permissive", "allow"));
    let mut balancer = connect(pair.listen());
    let told = header(
        "203.0.113.7:4000".parse().ok(),
        "198.51.100.1:443".parse().expect("an address"),
    );
    balancer.write_all(&told).expect("it is sent");
    balancer.write_all(b"hello").expect("it is sent");
    let mut far = pair.accepted.recv_timeout(PATIENCE).expect("a call");
    expect(&mut far, &told);
    expect(&mut far, b"hello");

    // A sidecar does not stand behind the balancer.
    let (mut near, mut far) = pair.pair();
    near.write_all(b"hello").expect("it is sent");
    expect(&mut far, b"hello");
}

#[test]
fn a_plain_caller_that_says_nothing_of_itself_is_refused() {
    let pair = behind_a_balancer();
    apply(&pair.cart, &workload("permissive", "allow"));
    let mut near = connect(pair.listen());
    near.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n")
        .expect("it is sent");
    assert!(is_reset(&mut near) || is_closed(&mut near));
    assert!(pair.accepted.try_recv().is_err());
}

#[test]
fn where_policy_asks_for_it_the_application_is_told_the_callers_address() {
    let pair = Pair::new();
    let told = service("tcp", |traffic| traffic["proxy_protocol"] = json!(true));
    apply(&pair.web, &told);
    // Through a tunnel, and to a server without a sidecar.
    let (plain, accepted) = program();
    for (at, accepted) in [(None, &pair.accepted), (Some(plain), &accepted)] {
        if let Some(at) = at {
            apply(&pair.web, &endpoints(at, None));
        }
        let mut near = connect(address(&pair.web, "/outbound/0/listen"));
        near.write_all(b"hello").expect("it is sent");
        let mut far = accepted.recv_timeout(PATIENCE).expect("a call");
        let mut told = vec![0; 28];
        far.read_exact(&mut told).expect("a header");
        assert_eq!(told[..20], of(&near)[..20], "the caller's address");
        assert_eq!(told[24..26], of(&near)[24..26], "and its port");
        expect(&mut far, b"hello");
    }
}
