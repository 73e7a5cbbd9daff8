//! Plain TCP to plain TCP. Small reads pass through a buffer of the thread; a flow that fills it is
//! moved by the kernel from socket to socket through a pipe, and its bytes are never seen here.
//!
//! A connection at rest holds neither. So goes a long body of HTTP/1.1 between two plain
//! connections, where its length says where it ends.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// The buffer of a thread, bytes: what fills it is moved by the kernel from then on.
const SCRATCH: usize = 16 * 1024;
/// Pipes of a thread; each takes two file descriptors and up to [`PIPE_SIZE`] of the kernel's
/// memory. What finds none is copied.
pub const PIPES_MAX: usize = 64;
/// What a pipe holds if the kernel lets it, bytes.
const PIPE_SIZE: usize = 256 * 1024;
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

thread_local! {
    static THREAD: RefCell<Thread> = const {
        RefCell::new(Thread { scratch: Vec::new(), pipes: Vec::new(), taken: 0, refused: false })
    };
}

/// What the connections of a thread share.
struct Thread {
    scratch: Vec<u8>,
    /// Empty pipes.
    pipes: Vec<Pipe>,
    /// Pipes in use.
    taken: usize,
    /// This kernel moves nothing between sockets.
    refused: bool,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe in use; when dropped it goes back if it is empty.
#[derive(Debug)]
struct Taken {
    pipe: Option<Pipe>,
    holds: usize,
}

impl Taken {
    /// A pipe; `None`: all are in use, or the process has no more file descriptors.
    fn take() -> Option<Taken> {
        THREAD.with_borrow_mut(|thread| {
            if thread.refused || thread.taken >= PIPES_MAX {
                return None;
            }
            let pipe = thread.pipes.pop().or_else(Pipe::new)?;
            thread.taken += 1;
            Some(Taken {
                pipe: Some(pipe),
                holds: 0,
            })
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        THREAD.with_borrow_mut(|thread| {
            thread.taken -= 1;
            thread
                .pipes
                .extend(self.pipe.take().filter(|_| self.holds == 0));
        });
    }
}

impl Pipe {
    fn new() -> Option<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Past the user's share of pipe memory it stays as it is.
        let _size = fcntl_setpipe_size(&write, PIPE_SIZE);
        Some(Pipe { read, write })
    }
}

/// From how many bytes of a body on a pipe is worth its calls.
pub const BODY_MIN: u64 = 64 * 1024;

/// How a body goes on that is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// So many bytes were written.
    Moved(usize),
    /// The reader has nothing; the task is woken when it has.
    Empty,
    /// The writer has no room; the task is woken when it has.
    Full,
    /// It has to be copied.
    Copy,
}

/// Which end of a move broke.
#[derive(Debug)]
pub enum End {
    /// The one that is read; `None`: it has ended.
    Reader(Option<io::Error>),
    /// The one that is written.
    Writer(io::Error),
}

/// The part of a body that is in the kernel's hands.
#[derive(Debug, Default)]
pub struct Body(Option<Taken>);

impl Body {
    /// Whether it is moved.
    pub fn is_begun(&self) -> bool {
        self.0.is_some()
    }

    /// Whether bytes were taken from the reader that the writer has not got.
    pub fn holds_any(&self) -> bool {
        self.0.as_ref().is_some_and(|taken| taken.holds > 0)
    }

    /// Move some of the `left` bytes that `to` is still owed; `reads`: they come next from `from`.
    ///
    /// # Errors
    /// Either end broke.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        left: u64,
        reads: bool,
    ) -> Result<Move, End> {
        let Some(mut taken) = self.0.take().or_else(Taken::take) else {
            return Ok(Move::Copy);
        };
        let step = taken.step(cx, from, to, left, reads);
        // Kept when an end broke, too: bytes in it are missing to every other try.
        if !matches!(step, Ok(Move::Copy)) {
            self.0 = Some(taken);
        }
        step
    }
}

impl Taken {
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        left: u64,
        reads: bool,
    ) -> Result<Move, End> {
        if self.holds > 0 {
            return self.empty(cx, to);
        }
        if !reads || left == 0 {
            return Ok(Move::Copy);
        }
        match self.fill(cx, from, left)? {
            Move::Moved(_) => self.empty(cx, to),
            waits => Ok(waits),
        }
    }

    /// Take up to `left` bytes from `from`.
    fn fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, left: u64) -> Result<Move, End> {
        let Some(pipe) = &self.pipe else {
            return Ok(Move::Copy);
        };
        let most = usize::try_from(left).map_or(PIPE_SIZE, |left| left.min(PIPE_SIZE));
        loop {
            let ready = from.poll_read_ready(cx);
            if ready
                .map_err(|error| End::Reader(Some(error)))?
                .is_pending()
            {
                return Ok(Move::Empty);
            }
            let filled = from.try_io(Interest::READABLE, || {
                Ok(splice(from, None, &pipe.write, None, most, FLAGS)?)
            });
            match filled {
                Ok(0) => return Err(End::Reader(None)),
                Ok(filled) => {
                    self.holds = filled;
                    return Ok(Move::Moved(filled));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_refusal(&error) => {
                    THREAD.with_borrow_mut(|thread| thread.refused = true);
                    return Ok(Move::Copy);
                }
                Err(error) => return Err(End::Reader(Some(error))),
            }
        }
    }

    /// Give `to` what it takes.
    fn empty(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Result<Move, End> {
        let Some(pipe) = &self.pipe else {
            return Ok(Move::Copy);
        };
        loop {
            let written = to.try_io(Interest::WRITABLE, || {
                Ok(splice(&pipe.read, None, to, None, self.holds, FLAGS)?)
            });
            match written {
                Ok(written) => {
                    self.holds -= written;
                    return Ok(Move::Moved(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if to.poll_write_ready(cx).map_err(End::Writer)?.is_pending() {
                        return Ok(Move::Full);
                    }
                }
                Err(error) => return Err(End::Writer(error)),
            }
        }
    }
}

/// How a flow goes on.
enum Flow {
    /// The reader has ended.
    End,
    /// As much was moved, and nothing more is there.
    Moved(usize),
    /// It has to be copied.
    Copy,
}

/// Carry one direction to its end.
///
/// # Errors
/// Either end broke.
pub async fn carry(
    reader: &mut ReadHalf<'_>,
    writer: &mut WriteHalf<'_>,
    carried: &impl Fn(usize),
) -> io::Result<()> {
    let mut is_bulk = false;
    loop {
        let flow = match is_bulk.then(Taken::take).flatten() {
            Some(mut pipe) => {
                poll_fn(|cx| reader.as_ref().poll_read_ready(cx)).await?;
                pipe.carry(reader, writer, carried).await?
            }
            None => Flow::Copy,
        };
        match flow {
            Flow::End => return writer.shutdown().await,
            Flow::Moved(moved) => is_bulk = moved >= SCRATCH,
            Flow::Copy => {
                let (read, left) = copy(reader, writer).await?;
                if read == 0 {
                    return writer.shutdown().await;
                }
                writer.write_all(&left).await?;
                carried(read);
                is_bulk = read >= SCRATCH;
            }
        }
    }
}

/// Wait for bytes and write them; how many were read, and those that could not be written yet.
async fn copy(reader: &mut ReadHalf<'_>, writer: &mut WriteHalf<'_>) -> io::Result<(usize, Bytes)> {
    poll_fn(|cx| {
        THREAD.with_borrow_mut(|thread| {
            thread.scratch.resize(SCRATCH, 0);
            let mut buffer = ReadBuf::new(&mut thread.scratch);
            ready!(Pin::new(&mut *reader).poll_read(cx, &mut buffer))?;
            let (read, mut written) = (buffer.filled(), 0);
            while written < read.len() {
                match Pin::new(&mut *writer).poll_write(cx, &read[written..]) {
                    Poll::Ready(more) => written += more?,
                    Poll::Pending => break,
                }
            }
            let left = Bytes::copy_from_slice(&read[written..]);
            Poll::Ready(Ok((read.len(), left)))
        })
    })
    .await
}

impl Taken {
    /// Move what is there, until the reader has no more.
    async fn carry(
        &mut self,
        reader: &ReadHalf<'_>,
        writer: &WriteHalf<'_>,
        carried: &impl Fn(usize),
    ) -> io::Result<Flow> {
        let (from, to) = (reader.as_ref(), writer.as_ref());
        let Some(pipe) = &self.pipe else {
            return Ok(Flow::Copy);
        };
        let mut moved = 0;
        loop {
            // Others of this thread have their turn, too.
            tokio::task::coop::consume_budget().await;
            let filled = from.try_io(Interest::READABLE, || {
                Ok(splice(from, None, &pipe.write, None, PIPE_SIZE, FLAGS)?)
            });
            match filled {
                Ok(0) => return Ok(Flow::End),
                Ok(filled) => self.holds = filled,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flow::Moved(moved));
                }
                Err(error) if is_refusal(&error) => {
                    THREAD.with_borrow_mut(|thread| thread.refused = true);
                    return Ok(Flow::Copy);
                }
                Err(error) => return Err(error),
            }
            while self.holds > 0 {
                let (holds, written) = (self.holds, || {
                    to.try_io(Interest::WRITABLE, || {
                        Ok(splice(&pipe.read, None, to, None, self.holds, FLAGS)?)
                    })
                });
                match written() {
                    Ok(written) => {
                        self.holds = holds - written;
                        moved += written;
                        carried(written);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        to.writable().await?;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Whether the kernel cannot do it at all.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::NOSYS, Errno::PERM];
    refusals
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::timer::tests::on_local;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let near = TcpStream::connect(at).await.expect("a connection");
        (near, listener.accept().await.expect("a connection").0)
    }

    /// Send `size` bytes through [`carry`] to a reader that rests now and then.
    async fn transfer(size: usize) {
        let ((mut client, mut near), (mut far, mut server)) = (pair().await, pair().await);
        let data: Vec<u8> = (0..size).map(|i| ((i * 7) >> 3) as u8).collect();
        let counted = std::cell::Cell::new(0);
        let carried = |count| counted.set(counted.get() + count);
        let send = async {
            client.write_all(&data).await?;
            client.shutdown().await
        };
        let (mut reader, mut writer) = (near.split().0, far.split().1);
        let receive = async {
            let mut received = Vec::new();
            let mut part = vec![0; 100_000];
            loop {
                match server.read(&mut part).await? {
                    0 => return Ok(received),
                    count => received.extend_from_slice(&part[..count]),
                }
                tokio::task::yield_now().await;
            }
        };
        let all = tokio::try_join!(send, carry(&mut reader, &mut writer, &carried), receive);
        let ((), (), received) = all.expect("no end broke");
        assert!(received == data, "other bytes came");
        assert_eq!(counted.get(), size);
    }

    fn held() -> (usize, usize) {
        THREAD.with_borrow(|thread| (thread.pipes.len(), thread.taken))
    }

    #[test]
    fn a_big_flow_goes_through_a_pipe_that_is_kept_and_a_small_one_does_not() {
        on_local(async {
            transfer(1000).await;
            assert_eq!(held(), (0, 0));
            transfer(20_000_000).await;
            assert_eq!(held(), (1, 0));
            transfer(20_000_000).await;
            assert_eq!(held(), (1, 0));
        });
    }

    #[test]
    fn what_a_broken_writer_did_not_take_is_not_forgotten() {
        on_local(async {
            let ((mut client, near), (far, server)) = (pair().await, pair().await);
            client.write_all(&[7; 1000]).await.expect("it is sent");
            server.set_zero_linger().expect("an option");
            drop(server);
            // Its reset has come.
            far.ready(Interest::READABLE).await.expect("readiness");
            let mut body = Body::default();
            let ended = poll_fn(|cx| match body.poll(cx, &near, &far, 1000, true) {
                Ok(Move::Empty) => Poll::Pending,
                ended => Poll::Ready(ended),
            })
            .await;
            assert!(matches!(ended, Err(End::Writer(_))), "{ended:?}");
            assert!(body.holds_any(), "as if nothing had been read");
        });
    }

    #[test]
    fn without_pipes_bytes_are_copied() {
        on_local(async {
            THREAD.with_borrow_mut(|thread| thread.refused = true);
            transfer(20_000_000).await;
            assert_eq!(held(), (0, 0));
        });
    }

    #[test]
    fn pipes_are_bounded_and_one_with_bytes_left_is_not_used_again() {
        let mut taken: Vec<Taken> = std::iter::from_fn(Taken::take).collect();
        assert_eq!(taken.len(), PIPES_MAX);
        taken[0].holds = 1;
        drop(taken);
        assert_eq!(held(), (PIPES_MAX - 1, 0));
        assert!(Taken::take().is_some());
    }
}
