//! The tries of one request: pick an endpoint, send, learn from the outcome, and try again while
//! that is wanted, safe, within the budget and in time.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;

use crate::clock::{Clock, End};
use crate::discover;
use crate::downstream::Downstream;
use crate::error::{Error, Reason};
use crate::fields::Name;
use crate::head::{RequestHead, ResponseHead};
use crate::observe::Observation;
use crate::plan::endpoints::{Endpoint, InFlight};
use crate::plan::service::{BackendPlan, RulePlan, ServicePlan};
use crate::record::Protocol;
use crate::respond::REASON_HEADER;
use crate::side::Failed;
use crate::steps::retry::{Conditions, Outcome};
use crate::steps::{balance, headers, outlier};
use crate::timer::{Deadline, now_us};
use crate::upload::Upload;
use crate::upstream::{Target, Upstream};
use crate::worker::Worker;

/// The latency that counts for a try without a response.
const FAILED_LATENCY_US: u64 = 1_000_000;
/// Most interim responses of one try: they wait in memory for a client that does not read.
pub const INTERIM_MAX: usize = 32;

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
            Ok(answer) if is_unswitched(head, &answer) => {
                let detail = "the service did not switch protocols";
                return Err(Error::new(Reason::BadResponse, detail));
            }
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

/// Whether a client on HTTP/2 would take `answer` for the switch that it asked for and the service
/// did not make: there any success is one (RFC 8441 §4).
fn is_unswitched(asked: &RequestHead, answer: &ResponseHead) -> bool {
    asked.version == http::Version::HTTP_2
        && asked.protocol().is_some()
        && answer.status.is_success()
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

/// The error of a client that left.
pub(crate) fn gone() -> Error {
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
        let protocol = self.plan.port(port).map_or(Protocol::Http, |port| {
            port.protocol.spoken_in(self.head.version, port.declared)
        });
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
            files_end: i32::MAX,
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
