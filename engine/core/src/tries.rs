//! The tries of one request: pick an endpoint, send, learn from the outcome, and try again while
//! that is wanted, safe, within the budget and in time.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::error::{Error, Reason};
use crate::observe::Observation;
use crate::plan::endpoints::Endpoint;
use crate::plan::service::{BackendPlan, RulePlan, ServicePlan};
use crate::record::{Protocol, Traffic};
use crate::respond::REASON_HEADER;
use crate::steps::retry::{Conditions, Outcome};
use crate::steps::{balance, outlier};
use crate::timer::{Deadline, now_us, until};
use crate::upstream::body::{BodySource, InFlight, RequestBody};
use crate::upstream::{self, Sent, Target};
use crate::worker::Worker;
use crate::{discover, upgrade};

/// The latency that counts for a try without a response.
const FAILED_LATENCY_US: u64 = 1_000_000;

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
    /// The request's method.
    pub method: Method,
    /// When the request must be answered.
    pub end: End,
}

/// When a request must be answered.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Microseconds of [`now_us`]; `None`: never.
    pub at_us: Option<u64>,
    /// The service's default counts anew from the end of the request's body, so that it cuts no
    /// upload and no client's stream (as Envoy's route timeout); a route's own does not.
    after_body_us: Option<u64>,
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
        }
    }

    /// The later end that the body gives; `None`: the time is over.
    fn later(&self, body: &BodySource, now_us: u64) -> Option<u64> {
        let after_us = self.after_body_us?;
        let end_us = body.ended_us().unwrap_or(now_us).saturating_add(after_us);
        (end_us > now_us).then_some(end_us)
    }
}

impl Journey<'_> {
    /// Try, and try again while it is wanted, safe, within the budget and in time.
    ///
    /// # Errors
    /// Why the last try brought no response.
    pub async fn tries(
        &self,
        parts: Parts,
        body: &BodySource,
        seen: &mut Observation,
    ) -> Result<(Sent, InFlight), Error> {
        let conditions = Conditions {
            traffic: &self.plan.traffic,
            rule: self.rule.retry.as_ref(),
        };
        let budget = &self.backend.service.load.budget;
        budget.deposit(&self.plan.traffic.retry_budget);
        let mut tried = Vec::new();
        let mut parts = Some(parts);
        for retry in 0.. {
            let last = retry >= conditions.attempts();
            let head = if last { parts.take() } else { parts.clone() };
            let (Some(head), Some(body_of_try)) = (head, body.next()) else {
                break;
            };
            seen.tries = retry + 1;
            let request = Request::from_parts(head, body_of_try);
            let outcome = self.one_try(request, body, seen, &mut tried).await;
            let ended = match &outcome {
                Ok((sent, _)) => match peer_failure(seen, &sent.response) {
                    Some(reason) => Outcome::Failed(reason),
                    None => Outcome::Status(sent.response.status()),
                },
                Err(error) => Outcome::Failed(error.reason),
            };
            let again = !last
                && conditions.wants(ended, &self.method)
                && body.can_replay()
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

    /// One try at one endpoint.
    async fn one_try(
        &self,
        request: Request<RequestBody>,
        body: &BodySource,
        seen: &mut Observation,
        tried: &mut Vec<u64>,
    ) -> Result<(Sent, InFlight), Error> {
        let endpoints = self.endpoints().await?;
        let started_us = now_us();
        let endpoint = self.pick(&endpoints, tried, started_us)?;
        tried.push(endpoint.id);
        seen.endpoint(endpoint);
        let target = self.target(endpoint)?;
        let in_flight = InFlight::begin(endpoint);
        let sending = std::pin::pin!(upstream::send(self.worker, &target, request));
        let result = self.in_time(sending, body, started_us).await;
        if result.is_err() && body.is_broken() {
            // Neither the endpoint's fault, nor worth another try.
            return Err(Error::new(
                Reason::ClientGone,
                "the request's body broke off",
            ));
        }
        self.learn(endpoint, &endpoints, &result, started_us);
        result.map(|sent| (sent, in_flight))
    }

    /// What the try says about the endpoint.
    fn learn(
        &self,
        endpoint: &Arc<Endpoint>,
        all: &[Arc<Endpoint>],
        result: &Result<Sent, Error>,
        started_us: u64,
    ) {
        let now = now_us();
        let (failed, latency) = match result {
            Ok(sent) => (
                sent.response.status().is_server_error(),
                now.saturating_sub(started_us),
            ),
            // Our own limits, or the want of a certificate, say nothing about the endpoint.
            Err(error) if matches!(error.reason, Reason::PendingLimit | Reason::NoIdentity) => {
                return;
            }
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

    /// Wait for the head of a response as long as the try and the request may take.
    async fn in_time(
        &self,
        mut sending: impl Future<Output = Result<Sent, Error>> + Unpin,
        body: &BodySource,
        started_us: u64,
    ) -> Result<Sent, Error> {
        let try_ms = self
            .rule
            .try_ms
            .unwrap_or(self.plan.traffic.per_try_timeout_ms);
        let try_end = (try_ms > 0).then(|| started_us.saturating_add(try_ms.saturating_mul(1000)));
        let mut end = self.end.at_us;
        loop {
            let next = match (try_end, end) {
                (None, None) => return sending.await,
                (Some(one), Some(all)) => one.min(all),
                (Some(one), None) | (None, Some(one)) => one,
            };
            if let Some(result) = until(next, &mut sending).await {
                return result;
            }
            let ms = now_us().saturating_sub(started_us) / 1000;
            let late = |reason| Err(Error::new(reason, format!("no response after {ms} ms")));
            if try_end == Some(next) {
                return late(Reason::TryTimeout);
            }
            end = self.end.later(body, next);
            if end.is_none() {
                return late(Reason::RequestTimeout);
            }
        }
    }

    /// A switch of protocols: one try on a connection of its own, then bytes both ways.
    ///
    /// # Errors
    /// No endpoint, no connection or no response.
    pub async fn upgrade(
        &self,
        parts: Parts,
        protocol: HeaderValue,
        client: OnUpgrade,
        seen: &mut Observation,
    ) -> Result<(Response<Incoming>, InFlight), Error> {
        let endpoints = self.endpoints().await?;
        let endpoint = self.pick(&endpoints, &[], now_us())?;
        seen.endpoint(endpoint);
        seen.tries = 1;
        let target = self.target(endpoint)?;
        let in_flight = InFlight::begin(endpoint);
        let carrying = upgrade::carry(self.worker, &target, parts, protocol, client);
        let response = match self.end.at_us {
            None => carrying.await?,
            Some(end_us) => until(end_us, Box::pin(carrying))
                .await
                .unwrap_or_else(|| Err(Error::new(Reason::RequestTimeout, "no response")))?,
        };
        Ok((response, in_flight))
    }
}

/// What the peer's sidecar says went wrong between it and its application.
fn peer_failure(seen: &Observation, response: &Response<Incoming>) -> Option<Reason> {
    reason_of(seen, response).filter(|reason| {
        matches!(
            reason,
            Reason::AppUnreachable | Reason::Reset | Reason::Unsent
        )
    })
}

/// The reason that the peer's sidecar gave; nobody else is believed.
pub fn reason_of(seen: &Observation, response: &Response<Incoming>) -> Option<Reason> {
    let text = response
        .headers()
        .get(REASON_HEADER)
        .filter(|_| seen.key.mtls)?;
    Reason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str().as_bytes() == text.as_bytes())
}
