//! TCP to a peer without a sidecar, and from one.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kernel::has_keepalive;
use crate::mesh::{
    PATIENCE, Pair, apply, connect, counted, endpoints, eventually, expect, is_closed, is_reset,
    joined, program, reset, service, workload,
};

/// A caller's program, and a called one without a sidecar.
fn plain() -> (Pair, impl Fn(&Pair) -> (TcpStream, TcpStream)) {
    let pair = Pair::new();
    let (at, accepted) = program();
    apply(&pair.web, &endpoints(at, None));
    let open = move |pair: &Pair| {
        let near = pair.connect();
        (near, accepted.recv_timeout(PATIENCE).expect("a call"))
    };
    (pair, open)
}

#[test]
fn halves_end_one_by_one_and_a_break_breaks_the_other_end() {
    let (pair, open) = plain();
    let (mut near, mut far) = open(&pair);
    far.write_all(b"banner").expect("it is sent");
    expect(&mut near, b"banner");
    near.write_all(b"last words").expect("it is sent");
    near.shutdown(Shutdown::Write).expect("an end");
    expect(&mut far, b"last words");
    assert!(is_closed(&mut far));
    far.write_all(b"answer").expect("the other half is open");
    drop(far);
    expect(&mut near, b"answer");
    assert!(is_closed(&mut near));
    for swap in [false, true] {
        let (mut near, mut far) = open(&pair);
        joined(&mut near, &mut far);
        let (broken, mut other) = if swap { (far, near) } else { (near, far) };
        reset(broken);
        assert!(is_reset(&mut other));
    }
}

#[test]
fn many_megabytes_are_moved_and_counted() {
    let (pair, open) = plain();
    let (mut near, mut far) = open(&pair);
    let data: Vec<u8> = (0..30_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let expected = data.clone();
    let reading = thread::spawn(move || {
        expect(&mut far, &expected);
        far
    });
    near.write_all(&data).expect("it is sent");
    let far = reading.join().expect("all came");
    // Also while the connection is open.
    let size = data.len() as u64;
    eventually("it is counted", || counted(&pair.web, None).2 == size);
    drop((near, far));
}

#[test]
fn a_plain_caller_is_let_in_where_policy_says_so() {
    let pair = Pair::new();
    apply(&pair.cart, &workload("permissive", "allow"));
    let mut near = connect(pair.listen());
    near.write_all(b"hello").expect("it is sent");
    let mut far = pair.accepted.recv_timeout(PATIENCE).expect("a call");
    expect(&mut far, b"hello");
    reset(near);
    assert!(is_reset(&mut far));
    let (mut near, mut far) = pair.pair();
    near.write_all(b"in a tunnel").expect("it is sent");
    expect(&mut far, b"in a tunnel");
}

#[test]
fn a_connection_that_carries_nothing_is_broken_after_the_policys_time() {
    let idle = |traffic: &mut Value| traffic["idle_timeout_ms"] = json!(300);
    let (pair, open) = plain();
    apply(&pair.web, &service("tcp", idle));
    let ((mut near, mut far), begin) = (open(&pair), Instant::now());
    // What is carried puts it off.
    thread::sleep(Duration::from_millis(200));
    far.write_all(b"x").expect("it is sent");
    expect(&mut near, b"x");
    let spoke = Instant::now();
    assert!(is_reset(&mut near), "neither side has ended");
    let (rest, whole) = (spoke.elapsed(), begin.elapsed());
    assert!(rest >= Duration::from_millis(280), "{rest:?}");
    assert!(whole >= Duration::from_millis(500), "{whole:?}");
    assert!(is_reset(&mut far));
    apply(
        &pair.web,
        &service("tcp", |traffic| traffic["idle_timeout_ms"] = json!(0)),
    );
    let (mut near, _far) = open(&pair);
    near.set_read_timeout(Some(Duration::from_millis(600)))
        .expect("a timeout");
    assert!(!is_closed(&mut near), "0 is no bound");
}

#[test]
fn peers_that_are_silent_for_long_are_asked_whether_they_are_there() {
    let (pair, open) = plain();
    let (mut near, mut far) = open(&pair);
    joined(&mut near, &mut far);
    for end in [&near, &far] {
        let own = end.local_addr().expect("an address").port();
        let engines = end.peer_addr().expect("an address").port();
        eventually("keepalive is on", || has_keepalive(engines, own));
    }
}
