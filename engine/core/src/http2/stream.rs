//! One stream of HTTP/2: data comes and goes within the peer's windows, and what is not taken
//! here stays with the peer.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};

use super::STREAM_SEND_MAX;
use super::heads;
use crate::fields::Fields;
use crate::side::Broken;

/// Both directions of a stream; either may be over, or not begun.
#[derive(Debug, Default)]
pub struct Stream {
    recv: Option<RecvStream>,
    send: Option<SendStream<Bytes>>,
    data: Bytes,
    trailers: Option<Fields>,
}

impl Stream {
    /// What comes is read from `recv`.
    pub fn receive(&mut self, recv: RecvStream) {
        self.recv = Some(recv);
    }

    /// What goes is written to `send`.
    pub fn send_to(&mut self, send: SendStream<Bytes>) {
        self.send = Some(send);
    }

    /// Wait for data; `false`: the body has ended.
    ///
    /// # Errors
    /// The peer has reset the stream, or the connection is broken.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        while self.data.is_empty() {
            let Some(recv) = &mut self.recv else {
                return Poll::Ready(Ok(false));
            };
            match ready!(recv.poll_data(cx)) {
                Some(data) => self.data = data?,
                None => {
                    let trailers = ready!(recv.poll_trailers(cx))?;
                    let trailers = trailers.map(|trailers| heads::trailers(&trailers));
                    self.trailers = trailers.transpose().map_err(Broken::Framing)?;
                    self.recv = None;
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The data that [`Stream::poll_fill`] found.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Take `count` bytes of the data: only now the peer may send as many more.
    pub fn consume(&mut self, count: usize) {
        self.data.advance(count);
        self.release(count);
    }

    /// As [`Stream::consume`], and hand them over.
    pub fn take(&mut self, count: usize) -> Bytes {
        let taken = self.data.split_to(count);
        self.release(count);
        taken
    }

    fn release(&mut self, count: usize) {
        if let Some(recv) = &mut self.recv {
            // Of a stream that is gone nothing needs to be released.
            let _gone = recv.flow_control().release_capacity(count);
        }
    }

    /// Whether the body is known to end after `count` more bytes.
    pub fn ends_after(&self, count: usize) -> bool {
        self.data.len() == count && self.recv.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// The trailer section of a body that has ended.
    pub fn take_trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    /// Wait for room for at least one of `wanted` bytes.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Result<usize, Broken>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Err(Broken::Ended));
        };
        send.reserve_capacity(wanted.min(STREAM_SEND_MAX));
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(more) => more?,
                None => return Poll::Ready(Err(Broken::Ended)),
            };
        }
        Poll::Ready(Ok(wanted.min(send.capacity())))
    }

    /// Send `data`, for which there is room; `last`: the body ends with it.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn send(&mut self, data: Bytes, last: bool) -> Result<(), Broken> {
        let send = self.send.as_mut().ok_or(Broken::Ended)?;
        Ok(send.send_data(data, last)?)
    }

    /// The body that goes has ended.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Broken> {
        let Some(send) = &mut self.send else {
            return Ok(());
        };
        match trailers {
            Some(trailers) => send.send_trailers(heads::header_map(trailers))?,
            None => send.send_data(Bytes::new(), true)?,
        }
        Ok(())
    }

    /// Reset the stream, if it is open.
    pub fn reset(&mut self, reason: Reason) {
        if let Some(send) = &mut self.send {
            send.send_reset(reason);
        }
    }

    /// Whether the peer has reset the stream.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => Poll::Pending,
        }
    }
}
