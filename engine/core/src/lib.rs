//! The data plane of Tulle: everything that runs per connection and per request.
//!
//! The way of a request: [`listen`] accepts, [`outbound`] (from the application) or [`inbound`]
//! (to it) lists its steps in order, [`steps`] decide, [`upstream`] carries, [`respond`] answers
//! when nobody else does, [`observe`] records. Records come in through [`control`] and become
//! plans in [`plan`]. [`hub`] is the other end of the record stream, in the control plane.

#![forbid(unsafe_code)]

pub mod accept;
pub mod admin;
pub mod clock;
pub mod control;
pub mod detect;
pub mod discover;
pub mod dns;
pub mod downstream;
pub mod engine;
pub mod error;
pub mod fields;
pub mod hbone;
pub mod head;
mod hosting;
mod house;
pub mod http1;
pub mod http2;
pub mod hub;
pub mod inbound;
pub mod intercept;
pub mod join;
pub mod listen;
pub mod observe;
pub mod outbound;
pub mod path;
pub mod plan;
pub mod probe;
pub mod proxy_protocol;
pub mod record;
pub mod relay;
pub mod resolve;
pub mod respond;
pub mod serve;
pub mod settings;
pub mod shared;
pub mod side;
mod sockets;
pub mod splice;
pub mod steps;
pub mod takeover;
pub mod tcp;
pub mod threads;
pub mod timer;
pub mod tls;
pub mod tries;
pub mod upload;
pub mod upstream;
#[cfg(test)]
mod waits;
pub mod worker;
