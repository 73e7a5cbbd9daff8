//! A successor takes over the listening sockets of a running sidecar, and nobody is refused.
//!
//! They meet at a socket in the state directory, which only the sidecar's user may open:
//!
//! | says | |
//! |---|---|
//! | successor | `take over` |
//! | predecessor | `{"app_ready": …, "sockets": …}`, and the sockets |
//! | successor | `serving`: it accepts. Until then the predecessor goes on as if it were alone |
//! | predecessor | `released`: its record stream is closed, the successor opens its own |
//! | or | `withdrawn`, to who took too long: it must not serve beside the predecessor |
//!
//! Whoever ends in between leaves the other one with all it needs: both hold the same sockets.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net as std_unix;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::{Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use crate::timer::within;

/// Where the two meet, in the state directory.
const FILE: &str = "takeover.sock";
const ASK: &str = "take over\n";
const SERVING: &str = "serving\n";
const RELEASED: &str = "released\n";
const WITHDRAWN: &str = "withdrawn\n";
/// Most bytes of a line of the above.
const LINE_MAX: usize = 256;
/// Most sockets that are handed over: a hundred listeners of sixty-four workers each.
const SOCKETS_MAX: usize = 6400;
/// Sockets in one message; the kernel takes 253.
const SOCKETS_PER_MESSAGE: usize = 128;
/// How long an answer may take that needs no work, and what is said may wait to be read.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long a successor may take from the sockets to its first accept.
const START_TIME: Duration = Duration::from_secs(60);
/// Pause after an accept failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is said with the sockets.
#[derive(Debug, Deserialize, Serialize)]
struct Offer {
    app_ready: bool,
    sockets: usize,
}

/// What a successor was given.
#[derive(Debug)]
pub struct Inherited {
    /// Whether the application was ready: it need not prove it again.
    pub app_ready: bool,
    /// The line to the predecessor, for [`succeed`].
    pub predecessor: std_unix::UnixStream,
    sockets: Vec<(SocketAddr, Type, Socket)>,
}

impl Inherited {
    /// The sockets of `kind` that are bound to `address`; none if the predecessor had none.
    pub fn take<T: From<Socket>>(&mut self, address: SocketAddr, kind: Type) -> Vec<T> {
        let (taken, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition(|(local, its, _)| (*local, *its) == (address, kind));
        self.sockets = rest;
        taken
            .into_iter()
            .map(|(.., socket)| socket.into())
            .collect()
    }
}

/// The socket's path by way of an open directory: the whole one may be longer than an address
/// of a Unix socket.
fn path(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{FILE}", dir.as_raw_fd()))
}

/// Ask the sidecar that runs with this state directory for its sockets.
///
/// # Errors
/// Nobody runs there, or it drains already, or it does not speak as we do.
pub fn ask(state_dir: &Path) -> io::Result<Inherited> {
    let dir = File::open(state_dir)?;
    let mut predecessor = std_unix::UnixStream::connect(path(&dir))?;
    predecessor.set_read_timeout(Some(ANSWER_TIME))?;
    predecessor.set_write_timeout(Some(ANSWER_TIME))?;
    predecessor.write_all(ASK.as_bytes())?;
    // Not one byte more than the line: with what follows come the sockets.
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < LINE_MAX {
        let mut byte = [0];
        predecessor.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let offer: Offer = serde_json::from_slice(&line)?;
    let mut sockets = Vec::new();
    while sockets.len() < offer.sockets.min(SOCKETS_MAX) {
        let before = sockets.len();
        for socket in receive(&predecessor)? {
            let socket = Socket::from(socket);
            let local = socket.local_addr()?.as_socket();
            let local = local.ok_or(io::ErrorKind::InvalidData)?;
            sockets.push((local, socket.r#type()?, socket));
        }
        if sockets.len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Inherited {
        app_ready: offer.app_ready,
        predecessor,
        sockets,
    })
}

fn receive(stream: &std_unix::UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let parts = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    Ok(sockets)
}

/// Whether the predecessor has waited for too long: it serves on.
pub fn is_withdrawn(predecessor: &std_unix::UnixStream) -> bool {
    let mut said = [0; WITHDRAWN.len()];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let length = recv(predecessor, &mut said, flags).map_or(0, |(length, _)| length);
    said[..length] == *WITHDRAWN.as_bytes()
}

/// Tell the predecessor that we accept, and wait until its record stream is closed.
pub async fn succeed(predecessor: std_unix::UnixStream) -> io::Result<()> {
    predecessor.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(predecessor)?;
    say(&mut stream, SERVING.as_bytes()).await?;
    line(&mut stream, START_TIME).await.map(|_| ())
}

/// Where a running sidecar waits for its successor.
#[derive(Debug)]
pub struct Meeting(UnixListener);

impl Meeting {
    /// Listen in `state_dir`; what a predecessor left there is replaced.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn open(state_dir: &Path) -> io::Result<Meeting> {
        let dir = File::open(state_dir)?;
        let path = path(&dir);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Meeting(listener))
    }

    /// Wait for a successor that serves; those that give up before change nothing.
    ///
    /// `offer` gives what to hand over: whether the application is ready, and the sockets;
    /// `handing` is told whether somebody is about to take them.
    pub async fn successor(
        &self,
        offer: impl AsyncFn() -> (bool, Vec<OwnedFd>),
        handing: impl Fn(bool),
    ) -> Successor {
        loop {
            let Ok((stream, _)) = self.0.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let own = rustix::process::geteuid().as_raw();
            if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own) {
                continue;
            }
            handing(true);
            if let Ok(successor) = hand_over(stream, &offer).await {
                return successor;
            }
            handing(false);
        }
    }
}

/// A process that has taken over.
#[derive(Debug)]
pub struct Successor(UnixStream);

impl Successor {
    /// Tell it that the record stream is closed.
    pub async fn release(mut self) {
        // If it is gone, nobody waits for it.
        let _told = say(&mut self.0, RELEASED.as_bytes()).await;
    }
}

async fn hand_over(
    mut stream: UnixStream,
    offer: &impl AsyncFn() -> (bool, Vec<OwnedFd>),
) -> io::Result<Successor> {
    if line(&mut stream, ANSWER_TIME).await? != ASK {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (app_ready, sockets) = offer().await;
    let offer = serde_json::to_vec(&Offer {
        app_ready,
        sockets: sockets.len(),
    })?;
    let given = async {
        stream.write_all(&[&offer[..], b"\n"].concat()).await?;
        for some in sockets.chunks(SOCKETS_PER_MESSAGE) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            stream
                .async_io(Interest::WRITABLE, || send(&stream, &some))
                .await?;
        }
        Ok(())
    };
    in_time(ANSWER_TIME, Box::pin(given)).await?;
    match line(&mut stream, START_TIME).await {
        Ok(said) if said == SERVING => Ok(Successor(stream)),
        other => {
            // If it is gone, it need not know.
            let _told = say(&mut stream, WITHDRAWN.as_bytes()).await;
            Err(other.err().unwrap_or(io::ErrorKind::InvalidData.into()))
        }
    }
}

/// Write all of `bytes`, for which a peer that does not read leaves so much time.
async fn say(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    in_time(ANSWER_TIME, Box::pin(stream.write_all(bytes))).await
}

/// What comes of `future`; an error if it takes longer than `limit`.
async fn in_time<T>(
    limit: Duration,
    future: impl Future<Output = io::Result<T>> + Unpin,
) -> io::Result<T> {
    within(limit, future)
        .await
        .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

fn send(stream: &UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(sockets));
    sendmsg(
        stream,
        &[IoSlice::new(b".")],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The next line, which may take so long; an error at the end.
async fn line(stream: &mut UnixStream, limit: Duration) -> io::Result<String> {
    let whole = Box::pin(async {
        let mut said = String::new();
        while !said.ends_with('\n') {
            if said.len() >= LINE_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            said.push(stream.read_u8().await?.into());
        }
        Ok(said)
    });
    in_time(limit, whole).await
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::control::test_dir::TestDir;
    use crate::timer::tests::{hold, on_local, pass};

    /// The least time there is.
    const MOMENT: Duration = Duration::from_micros(1);
    /// More than fit into one message.
    const MANY: usize = SOCKETS_PER_MESSAGE + 2;

    /// A state directory, and what listens there.
    fn predecessor() -> (TestDir, PathBuf, Vec<TcpListener>) {
        let dir = TestDir::new();
        // Longer than an address of a Unix socket may be.
        let place = dir.path().join("long".repeat(30));
        fs::create_dir(&place).expect("a directory");
        let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a free port");
        (dir, place, (0..MANY).map(bind).collect())
    }

    #[test]
    fn a_successor_gets_every_socket_and_one_that_gives_up_changes_nothing() {
        let (_dir, place, sockets) = predecessor();
        let addresses: Vec<SocketAddr> = sockets
            .iter()
            .map(|socket| socket.local_addr().expect("bound"))
            .collect();
        on_local(async {
            let meeting = Meeting::open(&place).expect("a socket");
            let handle = |socket: &TcpListener| socket.try_clone().expect("a handle").into();
            let datagrams = UdpSocket::bind(addresses[0]).expect("TCP alone has the port");
            let offer = async || {
                let mut all: Vec<OwnedFd> = sockets.iter().map(handle).collect();
                all.push(datagrams.try_clone().expect("a handle").into());
                (true, all)
            };
            let gives_up = std_unix::UnixStream::connect(path(&File::open(&place).expect("open")));
            drop(gives_up);
            let asking = std::thread::spawn(move || {
                drop(ask(&place).expect("sockets"));
                let mut inherited = ask(&place).expect("sockets");
                assert!(inherited.app_ready);
                let mut listen = |address| inherited.take::<TcpListener>(address, Type::STREAM);
                for address in &addresses {
                    assert_eq!(listen(*address).len(), 1, "{address}");
                    assert_eq!(listen(*address).len(), 0, "{address}");
                }
                let datagrams = inherited.take::<UdpSocket>(addresses[0], Type::DGRAM);
                assert_eq!(datagrams.len(), 1);
                on_local(succeed(inherited.predecessor)).expect("released");
            });
            let successor = meeting.successor(offer, |_| {}).await;
            successor.release().await;
            asking.join().expect("the successor");
        });
    }

    #[test]
    fn so_many_sockets_are_taken_and_no_more() {
        const OFFERED: usize = SOCKETS_MAX + SOCKETS_PER_MESSAGE;
        let (_dir, place, sockets) = predecessor();
        on_local(async {
            let meeting = Meeting::open(&place).expect("a socket");
            let asking = std::thread::spawn(move || ask(&place).expect("sockets").sockets.len());
            let (mut stream, _) = meeting.0.accept().await.expect("a successor");
            let offer = format!(r#"{{"app_ready":true,"sockets":{OFFERED}}}"#);
            let offer = [offer.as_bytes(), b"\n"].concat();
            stream.write_all(&offer).await.expect("it is sent");
            let many = [sockets[0].as_fd(); SOCKETS_PER_MESSAGE];
            for _ in 0..OFFERED / SOCKETS_PER_MESSAGE {
                let sent = stream.async_io(Interest::WRITABLE, || send(&stream, &many));
                sent.await.expect("they are sent");
            }
            assert_eq!(asking.join().expect("the successor"), SOCKETS_MAX);
        });
    }

    #[test]
    fn where_nobody_runs_nothing_is_inherited() {
        let (_dir, place, _) = predecessor();
        assert!(ask(&place).is_err());
        on_local(async { drop(Meeting::open(&place).expect("a socket")) });
        assert!(ask(&place).is_err(), "what a dead process left");
    }

    #[test]
    fn a_successor_may_take_so_long_to_ask_and_to_start() {
        let (_dir, place, _) = predecessor();
        on_local(async {
            hold();
            let meeting = Meeting::open(&place).expect("a socket");
            let meets = tokio::task::spawn_local(async move {
                let offer = async || (true, Vec::new());
                meeting.successor(offer, |_| {}).await
            });
            for (said, limit) in [("", ANSWER_TIME), ("take", ANSWER_TIME), (ASK, START_TIME)] {
                let dir = File::open(&place).expect("open");
                let mut stream = UnixStream::connect(path(&dir)).await.expect("a meeting");
                stream.write_all(said.as_bytes()).await.expect("it is sent");
                if said == ASK {
                    line(&mut stream, limit).await.expect("an offer");
                }
                pass(Duration::ZERO).await;
                pass(limit - MOMENT).await;
                let read = stream.try_read(&mut [0]).map_err(|error| error.kind());
                assert_eq!(read, Err(io::ErrorKind::WouldBlock), "{said}");
                pass(MOMENT).await;
                let mut last = String::new();
                stream.read_to_string(&mut last).await.expect("an end");
                let expected = if said == ASK { WITHDRAWN } else { "" };
                assert_eq!(last, expected, "{said}");
            }
            assert!(!meets.is_finished(), "others may come");
        });
    }

    #[test]
    fn a_successor_that_reads_nothing_is_waited_for_so_long() {
        on_local(async {
            hold();
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            theirs.write_all(ASK.as_bytes()).await.expect("it is sent");
            while ours.try_write(&[0; 4096]).is_ok() {}
            let offers = async move { hand_over(ours, &async || (true, Vec::new())).await };
            let offered = tokio::task::spawn_local(offers);
            pass(Duration::ZERO).await;
            pass(ANSWER_TIME - MOMENT).await;
            assert!(!offered.is_finished());
            pass(MOMENT).await;
            let error = offered.await.expect("no panic").expect_err("nobody reads");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }

    #[test]
    fn a_predecessor_may_take_so_long_to_release() {
        on_local(async {
            hold();
            let (ours, _theirs) = std_unix::UnixStream::pair().expect("a pair");
            let succeeds = tokio::task::spawn_local(succeed(ours));
            pass(Duration::ZERO).await;
            pass(START_TIME - MOMENT).await;
            assert!(!succeeds.is_finished());
            pass(MOMENT).await;
            let error = succeeds.await.expect("no panic").expect_err("it does not");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
