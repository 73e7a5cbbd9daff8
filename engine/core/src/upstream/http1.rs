//! A connection of HTTP/1.1 to an endpoint: one request at a time, and back to the pool.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::StatusCode;

use super::connect::{Connected, ConnectionPermit};
use super::pool;
use crate::error::{Error, Reason};
use crate::fields::Name;
use crate::head::{RequestHead, ResponseHead};
use crate::http1::parse::{self, AskedWith};
use crate::http1::{Connection, encode};
use crate::plan::service::Service;
use crate::timer::now_us;
use crate::worker::Worker;

/// A connection, boxed: it moves between pool and request.
#[derive(Debug)]
pub struct Http1(Box<Open>);

#[derive(Debug)]
struct Open {
    connection: Connection,
    key: pool::Key,
    expires_us: Option<u64>,
    permit: Option<ConnectionPermit>,
    asked: AskedWith,
    /// Whether the peer keeps the connection after the response at hand.
    persistent: bool,
    /// Whether no request was sent before the one at hand.
    fresh: bool,
}

impl Http1 {
    /// Over a new connection.
    pub fn new(connected: Connected, key: pool::Key, permit: Option<ConnectionPermit>) -> Http1 {
        Http1(Box::new(Open {
            connection: Connection::new(connected.stream),
            key,
            expires_us: connected.expires_us,
            permit,
            asked: AskedWith::default(),
            persistent: false,
            fresh: true,
        }))
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.0.connection
    }

    /// Whether no request was sent before the one at hand.
    pub fn is_fresh(&self) -> bool {
        self.0.fresh
    }

    /// Whether another request may be sent now.
    pub fn is_usable(&mut self) -> bool {
        self.0.expires_us.is_none_or(|end| now_us() < end) && self.0.connection.is_quiet()
    }

    /// Begin a request; `switch` asks for a switch of protocols.
    pub fn begin(&mut self, head: &RequestHead, switch: Option<&[u8]>) {
        let open = &mut *self.0;
        open.asked = AskedWith {
            head: head.method == http::Method::HEAD,
            switch: switch.is_some(),
        };
        open.persistent = false;
        let encoder = encode::request(open.connection.out(), head, switch);
        open.connection.begin_body(encoder);
    }

    /// Wait for the next head, interim ones included.
    ///
    /// # Errors
    /// [`Reason::Reset`] or [`Reason::BadResponse`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        let open = &mut *self.0;
        let asked = open.asked;
        let parsed = open
            .connection
            .poll_head(cx, |input| parse::response(input, asked));
        let framed = ready!(parsed).map_err(|error| {
            let reason = match error.reason {
                Reason::ClientGone => Reason::Reset,
                _ => Reason::BadResponse,
            };
            Error::new(reason, error.detail)
        })?;
        let Some(framed) = framed else {
            let detail = "the connection ended without a response";
            return Poll::Ready(Err(Error::new(Reason::Reset, detail)));
        };
        if framed.head.status == StatusCode::SWITCHING_PROTOCOLS {
            if !framed.head.fields.has(Name::Upgrade) {
                let detail = "a switch to no protocol";
                return Poll::Ready(Err(Error::new(Reason::BadResponse, detail)));
            }
            open.connection.switch();
        } else if !framed.head.status.is_informational() {
            open.connection.expect_body(framed.body);
            // Who saw a switch where there was none would take the next request for its data.
            open.persistent = framed.persistent && !asked.switch;
        }
        Poll::Ready(Ok(framed.head))
    }

    /// Whether the connection counts against the limits of `service`.
    pub fn belongs_to(&self, service: &Arc<Service>) -> bool {
        self.0
            .permit
            .as_ref()
            .is_some_and(|permit| Arc::ptr_eq(&permit.0, service))
    }

    /// The response has ended: keep the connection for the next request if it is in order.
    pub fn give_back(mut self, worker: &Rc<Worker>) {
        self.0.fresh = false;
        if !self.0.persistent || !self.0.connection.is_at_rest() {
            return;
        }
        let service = self.0.permit.as_ref().map(|permit| Arc::clone(&permit.0));
        pool::check_in(worker, self.0.key, self, service);
    }
}
