//! What happens to a request, one step a file. A step decides from the plan, the head and a
//! little state of its own; it knows no socket. `inbound.rs` and `outbound.rs` list the order.

pub mod authorize;
pub mod balance;
pub mod framing;
pub mod headers;
pub mod limit;
pub mod outlier;
pub mod retry;
pub mod route;
pub mod timeout;
pub mod trace;
