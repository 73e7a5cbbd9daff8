//! Circuit breaking: how many requests to a service may be in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::error::{Error, Reason};
use crate::plan::service::Service;

/// A place among the requests in flight; given back when dropped.
#[derive(Debug)]
pub struct RequestPermit(Arc<Service>);

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.load.requests.fetch_sub(1, Relaxed);
    }
}

/// Take a place, at most `limit` at once.
///
/// # Errors
/// [`Reason::RequestLimit`] when all are taken.
pub fn admit(service: &Arc<Service>, limit: u32) -> Result<RequestPermit, Error> {
    if try_take(&service.load.requests, limit) {
        Ok(RequestPermit(Arc::clone(service)))
    } else {
        let detail = format!("{} has {limit} requests in flight", service.key);
        Err(Error::new(Reason::RequestLimit, detail))
    }
}

/// Add one to `counter` unless it has reached `limit`.
pub fn try_take(counter: &AtomicU32, limit: u32) -> bool {
    counter
        .fetch_update(Relaxed, Relaxed, |taken| {
            (taken < limit).then_some(taken + 1)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ServiceKey;

    #[test]
    fn the_place_past_the_bound_is_refused_and_a_freed_one_is_taken() {
        let service = Arc::new(Service::new(ServiceKey::new("shop", "cart"), 0));
        let first = admit(&service, 2).expect("one of two");
        let _second = admit(&service, 2).expect("two of two");
        let error = admit(&service, 2).expect_err("past the bound");
        assert_eq!(error.reason, Reason::RequestLimit);
        drop(first);
        assert!(admit(&service, 2).is_ok());
    }
}
