//! Buffers that a connection holds only while something is in them: an idle one holds none.
//!
//! Freed ones wait on their thread for the next connection, so that a request on a warm thread
//! allocates none.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, Shutdown, send, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::HEAD_MAX;
use crate::upstream::stream::Stream;

/// A buffer's first size: a head and a small body.
const FIRST: usize = 16 * 1024;
/// What it grows to while a read fills it; the longest head fits.
const LARGE: usize = HEAD_MAX;
/// Most buffers of each size that wait on a thread.
const FREE_MAX: usize = 32;

#[derive(Default)]
struct Free {
    first: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    /// Empty ones, to be appended to.
    out: Vec<Vec<u8>>,
}

thread_local! {
    static FREE: RefCell<Free> = RefCell::default();
}

impl Free {
    fn of(&mut self, size: usize) -> Option<&mut Vec<Vec<u8>>> {
        match size {
            FIRST => Some(&mut self.first),
            LARGE => Some(&mut self.large),
            _ => None,
        }
    }
}

/// A buffer of `size` bytes, which may hold what was there before.
fn take(size: usize) -> Vec<u8> {
    let free = FREE.with_borrow_mut(|free| free.of(size).and_then(Vec::pop));
    free.unwrap_or_else(|| vec![0; size])
}

fn give_back(buffer: Vec<u8>) {
    FREE.with_borrow_mut(|free| {
        if let Some(free) = free.of(buffer.len())
            && free.len() < FREE_MAX
        {
            free.push(buffer);
        }
    });
}

/// Let go of half of what waits on this thread, so that a burst's memory goes with it.
pub fn trim() {
    FREE.with_borrow_mut(|free| {
        for free in [&mut free.first, &mut free.large, &mut free.out] {
            free.truncate(free.len() / 2);
            free.shrink_to_fit();
        }
    });
}

/// What was read and not yet taken.
#[derive(Debug, Default)]
pub struct Input {
    held: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all the room there was: the next gets more.
    filled: bool,
}

impl Input {
    /// With `read` in it already.
    pub fn of(read: Vec<u8>) -> Input {
        Input {
            end: read.len(),
            held: read,
            ..Input::default()
        }
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.held[self.start..self.end]
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Take `count` bytes from the front.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "taken more than there is");
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Give the buffer back if nothing is in it.
    pub fn release(&mut self) {
        if self.is_empty() && !self.held.is_empty() {
            give_back(std::mem::take(&mut self.held));
        }
    }

    /// Read more behind what is there. `Ok(0)`: the peer has ended.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut room = ReadBuf::new(&mut self.held[self.end..]);
        let read = Pin::new(stream).poll_read(cx, &mut room);
        let count = room.filled().len();
        self.filled = room.remaining() == 0;
        self.end += count;
        if count == 0 {
            self.release();
        }
        read.map_ok(|()| count)
    }

    /// Make room for at least one byte; what is there moves to the front first.
    fn make_room(&mut self) {
        if self.held.is_empty() {
            self.held = take(FIRST);
        } else if self.is_empty() && self.filled && self.held.len() < LARGE {
            give_back(std::mem::replace(&mut self.held, take(LARGE)));
        }
        self.filled = false;
        if self.end < self.held.len() {
            return;
        }
        if self.start > 0 {
            self.held.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        } else {
            // Whoever asks for more than LARGE has checked its own bound first.
            let more = take(LARGE.max(self.held.len() + FIRST));
            let less = std::mem::replace(&mut self.held, more);
            self.held[..less.len()].copy_from_slice(&less);
            give_back(less);
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        (self.start, self.end) = (0, 0);
        self.release();
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Output {
    held: Vec<u8>,
    written: usize,
}

impl Output {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.held.len() - self.written
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something waits and nothing of it was written.
    pub fn is_unwritten(&self) -> bool {
        !self.held.is_empty() && self.written == 0
    }

    /// The text to append to.
    pub fn text(&mut self) -> &mut Vec<u8> {
        if self.held.capacity() == 0 {
            let free = FREE.with_borrow_mut(|free| free.out.pop());
            self.held = free.unwrap_or_else(|| Vec::with_capacity(FIRST));
        }
        &mut self.held
    }

    /// Write all that waits and, by the same call, `data` behind it: how much of that went.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let parts = [IoSlice::new(&self.held[self.written..]), IoSlice::new(data)];
            let mut stream = Pin::new(&mut *stream);
            let count = ready!(match self.is_empty() {
                true => stream.as_mut().poll_write(cx, data),
                false => stream.as_mut().poll_write_vectored(cx, &parts),
            })?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let waited = self.len().min(count);
            self.written += waited;
            if self.is_empty() {
                self.clear();
            }
            if count > waited {
                return Poll::Ready(Ok(count - waited));
            }
        }
    }

    /// Write all that waits.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let rest = &self.held[self.written..];
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.clear();
        match stream {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(_) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Write all that waits and say that no more will come, in one segment where both fit: what
    /// the kernel is told to hold back leaves with the end that follows at once.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn poll_end(&mut self, cx: &mut Context<'_>, socket: &TcpStream) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let rest = &self.held[self.written..];
            let sent = socket.try_io(Interest::WRITABLE, || {
                Ok(send(socket, rest, SendFlags::MORE | SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.clear();
        Poll::Ready(Ok(shutdown(socket, Shutdown::Write)?))
    }

    fn clear(&mut self) {
        self.written = 0;
        let mut held = std::mem::take(&mut self.held);
        if held.capacity() == FIRST {
            held.clear();
            FREE.with_borrow_mut(|free| {
                if free.out.len() < FREE_MAX {
                    free.out.push(held);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_end_follows_all_that_waits_however_much_it_is() -> io::Result<()> {
        for length in [0, 1, FIRST, 8 * 1024 * 1024] {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let mut reader = TcpStream::connect(listener.local_addr()?).await?;
            let (socket, _) = listener.accept().await?;
            let sent: Vec<u8> = (0..length).map(|at| (at / 251) as u8).collect();
            let mut output = Output::default();
            output.text().extend_from_slice(&sent);

            let mut came = Vec::new();
            let ended = std::future::poll_fn(|cx| output.poll_end(cx, &socket));
            let (ended, _) = tokio::join!(ended, reader.read_to_end(&mut came));

            ended?;
            assert!(came == sent, "{length}: {}", came.len());
            assert!(output.is_empty());
        }
        Ok(())
    }

    #[test]
    fn so_many_freed_buffers_wait_on_a_thread() {
        for _ in 0..=FREE_MAX {
            give_back(vec![0; FIRST]);
            give_back(vec![0; LARGE]);
            give_back(vec![0; FIRST + 1]);
        }
        let mut outputs: Vec<Output> = (0..=FREE_MAX).map(|_| Output::default()).collect();
        for output in &mut outputs {
            output.text();
        }
        outputs.iter_mut().for_each(Output::clear);
        FREE.with_borrow(|free| {
            let waiting = [free.first.len(), free.large.len(), free.out.len()];
            assert_eq!(waiting, [FREE_MAX; 3]);
        });
    }
}
