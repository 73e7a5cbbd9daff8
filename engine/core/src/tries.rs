//! The tries of one request: pick an endpoint, send, learn from the outcome, and try again while
//! that is wanted, safe, within the budget and in time.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;

use crate::discover;
use crate::downstream::Downstream;
use crate::error::{Error, Reason};
use crate::fields::Name;
use crate::head::{RequestHead, ResponseHead};
use crate::observe::Observation;
use crate::plan::endpoints::{Endpoint, InFlight};
use crate::plan::service::{BackendPlan, RulePlan, ServicePlan};
use crate::record::{Protocol, Traffic};
use crate::respond::REASON_HEADER;
use crate::side::Failed;
use crate::steps::retry::{Conditions, Outcome};
use crate::steps::{balance, headers, outlier, timeout};
use crate::timer::{Deadline, micros, now_us};
use crate::upload::Upload;
use crate::upstream::{Target, Upstream};
use crate::worker::Worker;

/// The latency that counts for a try without a response.
const FAILED_LATENCY_US: u64 = 1_000_000;
/// Most interim responses of one try: they wait in memory for a client that does not read.
pub const INTERIM_MAX: usize = 32;
/// How long a client may owe more of a body that it began (Envoy's stream idle timeout).
pub const BODY_IDLE_TIME: Duration = Duration::from_secs(300);

/// One request to one backend: what stays the same over its tries.
#[derive(Debug)]
pub struct Journey<'a> {
    /// The thread's state.
    pub worker: &'a Rc<Worker>,
    /// The rule in force.
    pub rule: &'a Arc<RulePlan>,
    /// The backend chosen.
    pub backend: &'a BackendPlan,
    /// The plan of the backend's service.
    pub plan: &'a ServicePlan,
    /// The request as it is sent.
    pub head: &'a RequestHead,
    /// When the request must be answered.
    pub end: End,
}

/// A response that has begun, and where its body comes from.
#[derive(Debug)]
pub struct Answered {
    /// The response's head.
    pub head: ResponseHead,
    /// Its body.
    pub upstream: Upstream,
}

/// When a request must be answered.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Microseconds of [`now_us`]; `None`: never.
    pub at_us: Option<u64>,
    /// The service's default counts anew from the end of the request's body, so that it cuts no
    /// upload and no client's stream (as Envoy's route timeout); a route's own does not.
    after_body_us: Option<u64>,
    /// When the caller itself gives up, if it has said so; nothing moves that.
    caller_us: Option<u64>,
}

impl End {
    /// Of a request whose head came at `start_us`. A gRPC service without a policy has no
    /// default: its streams may be silent for as long as they like.
    pub fn of(rule: &RulePlan, traffic: &Traffic, protocol: Protocol, start_us: u64) -> End {
        let default_ms = match protocol {
            Protocol::Grpc if traffic.policy.is_none() => 0,
            _ => traffic.request_timeout_ms,
        };
        let limit_us = rule.request_ms.unwrap_or(default_ms).saturating_mul(1000);
        End {
            at_us: (limit_us > 0).then(|| start_us.saturating_add(limit_us)),
            after_body_us: (limit_us > 0 && rule.request_ms.is_none()).then_some(limit_us),
            caller_us: None,
        }
    }

    /// No end of its own.
    pub fn never() -> End {
        End {
            at_us: None,
            after_body_us: None,
            caller_us: None,
        }
    }

    /// No later than `caller_us`, when the caller gives up by its own words.
    pub fn before(self, caller_us: Option<u64>) -> End {
        End {
            at_us: self.at_us.into_iter().chain(caller_us).min(),
            caller_us,
            ..self
        }
    }

    /// When even a response that has begun ends: a route's own timeout holds for the whole of it
    /// (GEP-1742), and so does the caller's. The service's default ends with its head, or it
    /// would cut long streams that nobody bounded.
    pub fn of_all(&self, rule: &RulePlan) -> Option<u64> {
        match rule.request_ms {
            Some(_) => self.at_us,
            None => self.caller_us,
        }
    }

    /// The head as a try sends it: where the caller has said how long it waits and there is less
    /// left by now, the program is told so. `None`: as it is.
    ///
    /// # Errors
    /// There is nothing left.
    fn told(
        &self,
        head: &RequestHead,
        rule: &RulePlan,
        retry: u32,
    ) -> Result<Option<RequestHead>, Error> {
        let (Some(caller_us), Some(end_us)) = (self.caller_us, self.of_all(rule)) else {
            return Ok(None);
        };
        let left_us = end_us.saturating_sub(now_us());
        if left_us == 0 {
            let detail = "the caller waits no longer";
            return Err(Error::new(Reason::RequestTimeout, detail));
        }
        let is_less = retry > 0 || end_us < caller_us;
        Ok(is_less.then(|| timeout::told(head, left_us)))
    }

    /// The later end that the body gives; `None`: the time is over.
    fn later(&self, upload: &Upload, now_us: u64) -> Option<u64> {
        let after_us = self.after_body_us?;
        // An upload that the upstream does not take is none.
        let since_us = upload.ended_us().or(upload.stuck_us()).unwrap_or(now_us);
        let end_us = since_us.saturating_add(after_us);
        let end_us = self.caller_us.map_or(end_us, |caller| caller.min(end_us));
        (end_us > now_us).then_some(end_us)
    }
}

/// The times that one try is held to.
#[derive(Debug)]
pub struct Clock {
    started_us: u64,
    try_end: Option<u64>,
    end: End,
    /// Made when something has to wait, and for when.
    armed: Option<(u64, Deadline)>,
}

impl Clock {
    /// For a try that begins at `started_us`; `try_ms`: 0 is no limit.
    pub fn new(started_us: u64, try_ms: u64, end: End) -> Clock {
        Clock {
            started_us,
            try_end: (try_ms > 0).then(|| started_us.saturating_add(try_ms.saturating_mul(1000))),
            end,
            armed: None,
        }
    }

    /// Ready when a time is over: of the try, of the request, or of a client that owes more of
    /// its body.
    fn poll(&mut self, cx: &mut Context<'_>, upload: &Upload) -> Poll<Error> {
        loop {
            let idle = |since: u64| since + micros(BODY_IDLE_TIME);
            let idle_end = upload.waits_us().map(idle);
            let stuck_end = upload.stuck_us().map(idle);
            let ends = [self.try_end, self.end.at_us, idle_end, stuck_end];
            let Some(next) = ends.into_iter().flatten().min() else {
                return Poll::Pending;
            };
            let (_, deadline) = match &mut self.armed {
                Some(armed) if armed.0 == next => armed,
                other => other.insert((next, Deadline::at_us(next))),
            };
            if Pin::new(deadline).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
            let ms = next.saturating_sub(self.started_us) / 1000;
            let late =
                |reason| Poll::Ready(Error::new(reason, format!("no response after {ms} ms")));
            if idle_end == Some(next) {
                let detail = "the request's body does not go on";
                return Poll::Ready(Error::new(Reason::ClientTimeout, detail));
            }
            if self.try_end == Some(next) {
                return late(Reason::TryTimeout);
            }
            self.end.at_us = self.end.later(upload, next);
            if self.end.at_us.is_none() || stuck_end == Some(next) {
                return late(Reason::RequestTimeout);
            }
        }
    }
}

/// Send `head` and the body to `target` and wait for the head of the response; interim ones are
/// passed on.
///
/// # Errors
/// Why there is none; the reason tells whether sending again is safe.
pub async fn exchange(
    worker: &Rc<Worker>,
    target: &Target,
    head: &RequestHead,
    client: &mut Downstream<'_>,
    upload: &mut Upload,
    mut clock: Clock,
) -> Result<Answered, Error> {
    loop {
        let mut upstream = {
            let mut beginning = pin!(Upstream::begin(worker, target, head));
            std::future::poll_fn(|cx| match beginning.as_mut().poll(cx) {
                Poll::Pending if client.poll_gone(cx).is_ready() => Poll::Ready(Err(gone())),
                Poll::Pending => clock.poll(cx, upload).map(Err),
                ready => ready,
            })
            .await?
        };
        let (mut upload_over, mut interim) = (false, 0);
        let answered = std::future::poll_fn(|cx| {
            if !upload_over {
                match upload.poll(cx, client.side(), upstream.side()) {
                    Poll::Pending => {}
                    Poll::Ready(Err(Failed::Source(broken))) => {
                        return Poll::Ready(Err(body_broke(&broken)));
                    }
                    // An upstream that reads no further may still have answered.
                    Poll::Ready(_) => upload_over = true,
                }
            }
            poll_answer(
                cx,
                &mut upstream,
                (&mut *client, &mut interim),
                upload,
                &mut clock,
            )
        })
        .await;
        match answered {
            Ok(head) => return Ok(Answered { head, upstream }),
            // A pooled connection that the peer closed meanwhile: another may take the very same
            // request. A fresh one is never stale, so this ends.
            Err(error) if error.reason == Reason::Reset && upstream.is_stale() => {
                if upload.begin() {
                    continue;
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

fn poll_answer(
    cx: &mut Context<'_>,
    upstream: &mut Upstream,
    (client, interim): (&mut Downstream<'_>, &mut usize),
    upload: &Upload,
    clock: &mut Clock,
) -> Poll<Result<ResponseHead, Error>> {
    loop {
        match upstream.poll_head(cx) {
            Poll::Ready(Ok(head))
                if head.status.is_informational()
                    && head.status != StatusCode::SWITCHING_PROTOCOLS =>
            {
                *interim += 1;
                if *interim > INTERIM_MAX {
                    let detail = "too many interim responses";
                    return Poll::Ready(Err(Error::new(Reason::BadResponse, detail)));
                }
                pass_interim(client, head);
            }
            Poll::Ready(head) => return Poll::Ready(head),
            Poll::Pending => break,
        }
    }
    let flushed = client.side().poll_flush(cx, false);
    if matches!(flushed, Poll::Ready(Err(_))) || client.poll_gone(cx).is_ready() {
        return Poll::Ready(Err(gone()));
    }
    clock.poll(cx, upload).map(Err)
}

/// Pass an interim response on, without what concerns us or one connection.
fn pass_interim(client: &mut Downstream<'_>, mut head: ResponseHead) {
    headers::strip_hop_by_hop(&mut head.fields);
    headers::strip_own(&mut head.fields);
    client.interim(&head);
}

fn gone() -> Error {
    Error::new(Reason::ClientGone, "the client went away")
}

fn body_broke(broken: &crate::side::Broken) -> Error {
    let detail = format!("the request's body broke off: {broken}");
    match broken {
        crate::side::Broken::Framing(_) => Error::new(Reason::BadRequest, detail),
        _ => Error::new(Reason::ClientGone, detail),
    }
}

impl Journey<'_> {
    /// Try, and try again while it is wanted, safe, within the budget and in time.
    ///
    /// # Errors
    /// Why the last try brought no response.
    pub async fn tries(
        &self,
        client: &mut Downstream<'_>,
        upload: &mut Upload,
        seen: &mut Observation,
    ) -> Result<(Answered, InFlight), Error> {
        let conditions = self.conditions();
        let budget = &self.backend.service.load.budget;
        budget.deposit(&self.plan.traffic.retry_budget);
        let mut tried = Vec::new();
        for retry in 0.. {
            if !upload.begin() {
                break;
            }
            let last = retry >= conditions.attempts();
            seen.tries = retry + 1;
            let told = self.end.told(self.head, self.rule, retry)?;
            let head = told.as_ref().unwrap_or(self.head);
            let outcome = self.one_try(head, client, upload, seen, &mut tried).await;
            let ended = match &outcome {
                Ok((answered, _)) => outcome_of(seen, &answered.head),
                Err(error) => Outcome::Failed(error.reason),
            };
            let again = !last
                && conditions.wants(ended, &self.head.method)
                && upload.can_replay()
                && budget.withdraw(&self.plan.traffic.retry_budget, now_us());
            if !again {
                return outcome;
            }
            drop(outcome);
            let pause = conditions.backoff(retry);
            // The first retry of something that never left goes at once to another endpoint.
            if retry > 0
                || !matches!(
                    ended,
                    Outcome::Failed(Reason::ConnectFailed | Reason::Unsent)
                )
            {
                Deadline::after(pause).await;
            }
        }
        Err(Error::new(
            Reason::Reset,
            "the request's body cannot be sent again",
        ))
    }

    fn conditions(&self) -> Conditions<'_> {
        Conditions {
            traffic: &self.plan.traffic,
            rule: self.rule.retry.as_ref(),
            grpc: self.head.fields.is_grpc(),
        }
    }

    /// Whether another try may want the request's body.
    pub fn may_retry(&self) -> bool {
        self.conditions().attempts() > 0
    }

    /// One try at one endpoint.
    async fn one_try(
        &self,
        head: &RequestHead,
        client: &mut Downstream<'_>,
        upload: &mut Upload,
        seen: &mut Observation,
        tried: &mut Vec<u64>,
    ) -> Result<(Answered, InFlight), Error> {
        let endpoints = self.endpoints().await?;
        let started_us = now_us();
        let endpoint = self.pick(&endpoints, tried, started_us)?;
        tried.push(endpoint.id);
        seen.endpoint(endpoint);
        let target = self.target(endpoint)?;
        let in_flight = InFlight::begin(endpoint);
        let try_ms = self
            .rule
            .try_ms
            .unwrap_or(self.plan.traffic.per_try_timeout_ms);
        let clock = Clock::new(started_us, try_ms, self.end);
        let result = exchange(self.worker, &target, head, client, upload, clock).await;
        self.learn(endpoint, &endpoints, &result, started_us);
        result.map(|answered| (answered, in_flight))
    }

    /// What the try says about the endpoint.
    fn learn(
        &self,
        endpoint: &Arc<Endpoint>,
        all: &[Arc<Endpoint>],
        result: &Result<Answered, Error>,
        started_us: u64,
    ) {
        let now = now_us();
        let (failed, latency) = match result {
            Ok(answered) => (
                answered.head.status.is_server_error(),
                now.saturating_sub(started_us),
            ),
            Err(error) if says_nothing(error.reason) => return,
            Err(_) => (true, FAILED_LATENCY_US.max(now.saturating_sub(started_us))),
        };
        endpoint.state.observe(latency, now);
        outlier::observe(
            endpoint,
            failed,
            self.plan.traffic.outlier.as_ref(),
            all,
            now,
        );
    }

    /// The endpoints of the backend, waiting for the control plane's first word on them.
    async fn endpoints(&self) -> Result<Arc<[Arc<Endpoint>]>, Error> {
        if let Some(endpoints) = self.backend.endpoints() {
            return Ok(endpoints);
        }
        Box::pin(discover::endpoints(self.worker, &self.backend.service)).await;
        Ok(self.backend.endpoints().unwrap_or_default())
    }

    fn pick<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        tried: &[u64],
        now_us: u64,
    ) -> Result<&'e Arc<Endpoint>, Error> {
        let load = &self.backend.service.load;
        balance::pick(
            endpoints,
            self.plan.traffic.load_balancer,
            &load.turn,
            tried,
            now_us,
        )
        .ok_or_else(|| {
            let labels: Vec<String> = self
                .backend
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let detail = format!("{} {}", self.backend.service.key, labels.join(","));
            Error::new(Reason::NoEndpoint, detail.trim_end())
        })
    }

    fn target(&self, endpoint: &Endpoint) -> Result<Target, Error> {
        let port = self.backend.port;
        let address = endpoint.address(port).ok_or_else(|| {
            let detail = format!("{} has no port {port}", endpoint.workload);
            Error::new(Reason::NoEndpoint, detail)
        })?;
        let protocol = self
            .plan
            .port(port)
            .map_or(Protocol::Http, |port| port.protocol);
        Ok(Target {
            id: endpoint.id,
            address,
            identity: endpoint.identity.clone(),
            http2: matches!(protocol, Protocol::Http2 | Protocol::Grpc),
            connect_timeout: Duration::from_millis(self.plan.traffic.connect_timeout_ms),
            limits: Some((
                Arc::clone(&self.backend.service),
                self.plan.traffic.limits.clone(),
            )),
            source: None,
        })
    }
}

/// Our own limits, the want of a certificate, and what the client did say nothing about an
/// endpoint.
fn says_nothing(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PendingLimit
            | Reason::NoIdentity
            | Reason::BadRequest
            | Reason::ClientGone
            | Reason::ClientTimeout
    )
}

/// What a response says about the try.
fn outcome_of(seen: &Observation, head: &ResponseHead) -> Outcome {
    match peer_failure(seen, head) {
        Some(reason) => Outcome::Failed(reason),
        None => Outcome::answered(head.status, head.fields.first(Name::GrpcStatus)),
    }
}

/// What the peer's sidecar says went wrong between it and its application.
fn peer_failure(seen: &Observation, response: &ResponseHead) -> Option<Reason> {
    reason_of(seen, response).filter(|reason| {
        matches!(
            reason,
            Reason::AppUnreachable | Reason::Reset | Reason::Unsent
        )
    })
}

/// The reason that the peer's sidecar gave; nobody else is believed.
pub fn reason_of(seen: &Observation, response: &ResponseHead) -> Option<Reason> {
    if !seen.key.mtls || !response.fields.has(crate::fields::Name::Own) {
        return None;
    }
    let text = response.fields.get(REASON_HEADER)?;
    Reason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == text)
}
