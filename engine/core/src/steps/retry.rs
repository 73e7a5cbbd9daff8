//! Whether a failed try is worth another, when, and whether the budget still allows it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::{Method, StatusCode};

use crate::error::{Reason, RetrySafety, Source};
use crate::record::{RetryBudget, RetryOn, RuleRetry, Traffic};
use crate::respond::grpc_status;

/// Most tries of one request, whatever a policy asks for.
pub const TRIES_MAX: u32 = 10;
/// Seconds of the guaranteed rate that can be saved up.
const RESERVE_S: i64 = 2;
/// Most retries that requests can earn ahead.
const EARNED_MAX: i64 = 1000;

/// What a try ended with.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// A response with this status.
    Status(StatusCode),
    /// A response of gRPC with this status and no messages.
    Grpc(u8),
    /// No response.
    Failed(Reason),
}

impl Outcome {
    /// Of a response. Of gRPC only a head that has the status already can count: what follows
    /// any other is passed on as it comes, and waiting for it could make both sides wait.
    pub fn answered(status: StatusCode, grpc_status: Option<&[u8]>) -> Outcome {
        let text = grpc_status.and_then(|text| std::str::from_utf8(text).ok());
        match text.and_then(|text| text.parse().ok()) {
            Some(grpc_status) if status == StatusCode::OK => Outcome::Grpc(grpc_status),
            _ => Outcome::Status(status),
        }
    }
}

/// The conditions in force for one request.
#[derive(Clone, Copy, Debug)]
pub struct Conditions<'a> {
    /// The service's policy.
    pub traffic: &'a Traffic,
    /// The route's, which wins on attempts and codes.
    pub rule: Option<&'a RuleRetry>,
    /// Whether the request is one of gRPC.
    pub grpc: bool,
}

impl Conditions<'_> {
    /// Tries after the first.
    pub fn attempts(&self) -> u32 {
        self.rule
            .map_or(self.traffic.retry.attempts, |rule| rule.attempts)
            .min(TRIES_MAX - 1)
    }

    /// Whether the outcome asks for another try and sending again is safe.
    pub fn wants(&self, outcome: Outcome, method: &Method) -> bool {
        let on = |condition| self.traffic.retry.on.contains(&condition);
        match outcome {
            Outcome::Status(status) => {
                let code = status.as_u16();
                self.rule.is_some_and(|rule| rule.codes.contains(&code))
                    || self.traffic.retry.codes.contains(&code)
                    || (status.is_server_error() && on(RetryOn::ServerError))
                    || (matches!(code, 502..=504) && on(RetryOn::GatewayError))
            }
            Outcome::Grpc(status) => self.wants_grpc(status),
            Outcome::Failed(reason) => {
                // The status that gRPC would be told: a policy that names it says that calls
                // may be repeated.
                let told = reason.source() == Source::Upstream
                    && reason.retry() != RetrySafety::Never
                    && self.wants_grpc(grpc_status(reason));
                let asked = match reason {
                    Reason::ConnectFailed | Reason::TlsFailed => on(RetryOn::ConnectFailure),
                    Reason::Unsent | Reason::Reset => on(RetryOn::Reset),
                    Reason::AppUnreachable => on(RetryOn::Unavailable),
                    // A rule that asks for retries means its own timeout, too (GEP-1731).
                    Reason::TryTimeout => on(RetryOn::Timeout) || self.rule.is_some(),
                    _ => false,
                };
                let safe = match reason.retry() {
                    RetrySafety::Always => true,
                    RetrySafety::Idempotent => method.is_idempotent(),
                    RetrySafety::Never => false,
                };
                told || (asked && safe)
            }
        }
    }

    fn wants_grpc(&self, status: u8) -> bool {
        self.grpc && self.traffic.retry.grpc_statuses.contains(&status)
    }

    /// The wait before retry number `retry` (from 0): exponential with full jitter, so that
    /// callers that failed together do not come back together.
    pub fn backoff(&self, retry: u32) -> Duration {
        let base = self.rule.and_then(|rule| rule.backoff_ms);
        let base_us = base
            .unwrap_or(self.traffic.retry.backoff_base_ms)
            .saturating_mul(1000);
        let max_us = self
            .traffic
            .retry
            .backoff_max_ms
            .saturating_mul(1000)
            .max(base.unwrap_or(0).saturating_mul(1000));
        let ceiling = base_us
            .saturating_mul(1 << retry.min(TRIES_MAX))
            .min(max_us);
        Duration::from_micros(fastrand::u64(0..=ceiling))
    }
}

/// How many retries are allowed at all: a share of the requests, and a small rate always.
/// Counted in thousandths of a retry.
#[derive(Debug)]
pub struct Budget {
    earned: AtomicI64,
    reserve: AtomicI64,
    reserve_at_us: AtomicU64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget {
            earned: AtomicI64::new(0),
            reserve: AtomicI64::new(i64::MAX),
            reserve_at_us: AtomicU64::new(0),
        }
    }
}

impl Budget {
    /// A request was made: it earns its share.
    pub fn deposit(&self, config: &RetryBudget) {
        let earned = self.earned.load(Relaxed);
        if earned < EARNED_MAX * 1000 {
            self.earned
                .store(earned + i64::from(config.percent) * 10, Relaxed);
        }
    }

    /// Take one retry; `false`: none is left.
    pub fn withdraw(&self, config: &RetryBudget, now_us: u64) -> bool {
        let rate = i64::from(config.min_per_second) * 1000;
        let then = self.reserve_at_us.load(Relaxed);
        let passed_ms = now_us.saturating_sub(then) / 1000;
        // Only what counts is taken from the clock, or many retries a millisecond would stop it;
        // of two threads that take the same time, one gets it.
        let taken = self.reserve_at_us.compare_exchange(
            then,
            then.saturating_add(passed_ms * 1000),
            Relaxed,
            Relaxed,
        );
        let grown = taken.map_or(0, |_| i64::try_from(passed_ms).unwrap_or(i64::MAX));
        let reserve = self
            .reserve
            .load(Relaxed)
            .saturating_add(grown.saturating_mul(rate / 1000))
            .min(rate * RESERVE_S);
        if reserve >= 1000 {
            self.reserve.store(reserve - 1000, Relaxed);
            return true;
        }
        self.reserve.store(reserve, Relaxed);
        self.earned
            .fetch_update(Relaxed, Relaxed, |earned| {
                (earned >= 1000).then_some(earned - 1000)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Retry;

    fn traffic(on: &[RetryOn], codes: &[u16]) -> Traffic {
        let text = include_str!("../../tests/traffic.json");
        let mut traffic: Traffic = serde_json::from_str(text).expect("valid");
        traffic.retry = Retry {
            attempts: 2,
            on: on.to_vec(),
            codes: codes.to_vec(),
            grpc_statuses: Vec::new(),
            backoff_base_ms: 25,
            backoff_max_ms: 250,
        };
        traffic
    }

    #[test]
    fn only_what_is_safe_is_sent_again() {
        use RetryOn::{ConnectFailure, Reset, Timeout, Unavailable};
        let traffic = traffic(&[ConnectFailure, Reset, Unavailable, Timeout], &[]);
        let conditions = Conditions {
            traffic: &traffic,
            rule: None,
            grpc: false,
        };
        for (reason, get, post) in [
            (Reason::ConnectFailed, true, true),
            (Reason::TlsFailed, true, true),
            (Reason::Unsent, true, true),
            (Reason::AppUnreachable, true, true),
            (Reason::Reset, true, false),
            (Reason::TryTimeout, true, false),
            (Reason::RequestTimeout, false, false),
            (Reason::NoEndpoint, false, false),
            (Reason::Denied, false, false),
        ] {
            let outcome = Outcome::Failed(reason);
            assert_eq!(
                conditions.wants(outcome, &Method::GET),
                get,
                "GET {reason:?}"
            );
            assert_eq!(
                conditions.wants(outcome, &Method::POST),
                post,
                "POST {reason:?}"
            );
        }
    }

    #[test]
    fn codes_are_retried_when_asked_for() {
        let plain = traffic(&[], &[]);
        let asked = traffic(&[RetryOn::GatewayError], &[409]);
        let rule = RuleRetry {
            attempts: 1,
            codes: vec![500],
            backoff_ms: None,
        };
        let wants = |traffic, rule, code| {
            let status = StatusCode::from_u16(code).expect("a status");
            let grpc = false;
            Conditions {
                traffic,
                rule,
                grpc,
            }
            .wants(Outcome::Status(status), &Method::POST)
        };
        assert!(!wants(&plain, None, 503));
        assert!(wants(&asked, None, 503) && wants(&asked, None, 409) && !wants(&asked, None, 500));
        assert!(wants(&plain, Some(&rule), 500) && !wants(&plain, Some(&rule), 503));
    }

    #[test]
    fn grpc_statuses_are_retried_when_asked_for() {
        let mut traffic = traffic(&[], &[]);
        traffic.retry.grpc_statuses = vec![4, 14];
        traffic.retry.codes = vec![409];
        let answered = |text: &[u8]| Outcome::answered(StatusCode::OK, Some(text));
        for (outcome, grpc, other) in [
            (answered(b"14"), true, false),
            (answered(b"4"), true, false),
            (answered(b"13"), false, false),
            (answered(b"0"), false, false),
            (answered(b"014x"), false, false),
            (Outcome::answered(StatusCode::OK, None), false, false),
            // Whoever answers so does not speak gRPC.
            (
                Outcome::answered(StatusCode::CONFLICT, Some(b"14")),
                true,
                true,
            ),
            (Outcome::Failed(Reason::Reset), true, false),
            (Outcome::Failed(Reason::TryTimeout), true, false),
            // The time is over, and nobody was asked.
            (Outcome::Failed(Reason::RequestTimeout), false, false),
            (Outcome::Failed(Reason::BadResponse), false, false),
            (Outcome::Failed(Reason::NoEndpoint), false, false),
            (Outcome::Failed(Reason::ClientGone), false, false),
        ] {
            for (is_grpc, wanted) in [(true, grpc), (false, other)] {
                let conditions = Conditions {
                    traffic: &traffic,
                    rule: None,
                    grpc: is_grpc,
                };
                let found = conditions.wants(outcome, &Method::POST);
                assert_eq!(found, wanted, "{outcome:?}, gRPC: {is_grpc}");
            }
        }
    }

    #[test]
    fn the_wait_is_bounded() {
        let traffic = traffic(&[], &[]);
        let conditions = Conditions {
            traffic: &traffic,
            rule: None,
            grpc: false,
        };
        for retry in 0..40 {
            assert!(conditions.backoff(retry) <= Duration::from_millis(250));
        }
    }

    #[test]
    fn tries_are_bounded_whoever_asks_for_more() {
        let mut traffic = traffic(&[], &[]);
        let rule = |attempts| RuleRetry {
            attempts,
            codes: Vec::new(),
            backoff_ms: None,
        };
        for (asked, tries) in [
            (TRIES_MAX - 1, TRIES_MAX),
            (TRIES_MAX, TRIES_MAX),
            (99, TRIES_MAX),
        ] {
            traffic.retry.attempts = asked;
            for rule in [None, Some(&rule(asked))] {
                let conditions = Conditions {
                    traffic: &traffic,
                    rule,
                    grpc: false,
                };
                assert_eq!(1 + conditions.attempts(), tries, "{asked}");
            }
        }
    }

    #[test]
    fn so_many_retries_are_earned_ahead() {
        let config = RetryBudget {
            percent: 100,
            min_per_second: 0,
        };
        let budget = Budget::default();
        for _ in 0..3 * EARNED_MAX {
            budget.deposit(&config);
        }
        let spent = (0..3 * EARNED_MAX).filter(|_| budget.withdraw(&config, 1));
        assert_eq!(i64::try_from(spent.count()), Ok(EARNED_MAX));
    }

    #[test]
    fn the_small_rate_is_kept_under_many_retries() {
        let config = RetryBudget {
            percent: 0,
            min_per_second: 10,
        };
        let budget = Budget::default();
        let retries = (0..100_000).filter(|step| budget.withdraw(&config, 1 + step * 100));
        assert_eq!(
            retries.count(),
            20 + 99,
            "the saved reserve and ten seconds"
        );
    }

    #[test]
    fn the_budget_is_a_share_and_a_small_rate() {
        let config = RetryBudget {
            percent: 20,
            min_per_second: 5,
        };
        let budget = Budget::default();
        let spend = |now| (0..1000).filter(|_| budget.withdraw(&config, now)).count();
        assert_eq!(spend(1), 10, "the saved reserve");
        assert_eq!(spend(1), 0);
        assert_eq!(spend(1_000_001), 5, "a second's rate");
        for _ in 0..100 {
            budget.deposit(&config);
        }
        assert_eq!(spend(1_000_001), 20, "a fifth of a hundred requests");
    }
}
