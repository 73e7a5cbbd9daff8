//! A sidecar and its successor, where one of them is late.

#[allow(dead_code, reason = "requests have other tests")]
mod loopback;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loopback::{OK, PATIENCE, address, connect, head, program, start};
use serde_json::{Value, json};
use tulle_engine::engine::Engine;

/// Long enough to see what must not happen.
const WHILE: Duration = Duration::from_millis(900);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n";

/// A state directory, gone at the end.
struct StateDir(PathBuf);

impl StateDir {
    fn new(name: &str) -> StateDir {
        let name = format!("tulle-takeover-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        StateDir(dir)
    }

    /// A sidecar that was not started yet, with a service at `at`.
    fn bind(&self, at: std::net::SocketAddr) -> Engine {
        let settings = loopback::settings(1, at);
        let mut settings: Value = serde_json::from_slice(&settings).expect("JSON");
        settings["state_dir"] = json!(self.0);
        Engine::bind(settings.to_string().as_bytes()).expect("an engine")
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // What is left of a test hurts nobody.
        let _left = fs::remove_dir_all(&self.0);
    }
}

/// Ask whoever serves with `dir` for its sockets.
fn successor(dir: &Path) -> BufReader<UnixStream> {
    let end = Instant::now() + PATIENCE;
    let mut line = loop {
        match UnixStream::connect(dir.join("takeover.sock")) {
            Ok(line) => break line,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    line.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    line.write_all(b"take over\n").expect("it is sent");
    let mut line = BufReader::with_capacity(1, line);
    let mut offer = String::new();
    line.read_line(&mut offer).expect("an offer");
    assert!(offer.contains("\"sockets\""), "{offer}");
    line
}

/// The names of the events until the one called `last`, or for `time`.
fn events(engine: &Engine, last: &str, time: Duration) -> Vec<String> {
    let end = Instant::now() + time;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|name| name != last) && Instant::now() < end {
        if let Some(event) = engine.next_event(Duration::from_millis(20)) {
            let event: Value = serde_json::from_slice(&event).expect("JSON");
            seen.push(event["event"].as_str().expect("a name").to_owned());
        }
    }
    seen
}

#[test]
fn who_shall_end_serves_until_its_successor_does_or_has_failed() {
    for serves in [true, false] {
        let dir = StateDir::new(if serves { "serves" } else { "fails" });
        let (at, asked) = program();
        let engine = start(dir.bind(at), "http", at, |_| {});
        let mut successor = successor(&dir.0);
        engine.drain();
        let meanwhile = events(&engine, "drained", WHILE);
        assert!(
            !meanwhile.contains(&"inbound-drained".to_owned()),
            "{meanwhile:?}"
        );
        let mut client = connect(address(&engine, "/proxy"));
        client.write_all(GET).expect("it is sent");
        let (mut program, _) = asked.recv_timeout(PATIENCE).expect("a request");
        program.write_all(OK).expect("it is sent");
        let answer = head(&mut client);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(client);
        if serves {
            successor
                .get_mut()
                .write_all(b"serving\n")
                .expect("it is sent");
        } else {
            drop(successor);
        }
        let seen = events(&engine, "drained", PATIENCE);
        assert_eq!(seen.last().map(String::as_str), Some("drained"), "{seen:?}");
        assert_eq!(seen.contains(&"handed-over".to_owned()), serves, "{seen:?}");
    }
}

#[test]
fn a_successor_that_comes_too_late_does_not_serve() {
    let dir = StateDir::new("late");
    let meeting = UnixListener::bind(dir.0.join("takeover.sock")).expect("a meeting");
    let (at, _asked) = program();
    let late = std::thread::scope(|scope| {
        let binds = scope.spawn(|| dir.bind(at));
        let (mut line, _) = meeting.accept().expect("a successor");
        line.write_all(b"{\"app_ready\":true,\"sockets\":0}\nwithdrawn\n")
            .expect("it is sent");
        binds.join().expect("an engine")
    });
    let late = start(late, "http", at, |_| {});
    let seen = events(&late, "drained", PATIENCE);
    assert!(seen.contains(&"failed".to_owned()), "{seen:?}");
    assert!(!seen.contains(&"serving".to_owned()), "{seen:?}");
    assert_eq!(seen.last().map(String::as_str), Some("drained"), "{seen:?}");
    // Its predecessor's meeting is left alone.
    assert!(UnixStream::connect(dir.0.join("takeover.sock")).is_ok());
}
