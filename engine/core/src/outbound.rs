//! The way of a request from the application to another service, step by step.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::discover::{self, Entrance};
use crate::error::{Error, Reason};
use crate::head::{Normal, RequestHead, normalize_path};
use crate::observe::Observation;
use crate::observe::metrics::Direction;
use crate::plan::endpoints::Endpoint;
use crate::plan::service::{BackendPlan, RulePlan, ServicePlan};
use crate::record::Protocol;
use crate::respond::{Asked, REASON_HEADER, respond};
use crate::steps::retry::{Conditions, Outcome};
use crate::steps::route::Routed;
use crate::steps::{balance, framing, headers, limit, outlier, route, trace};
use crate::timer::{Deadline, now_us, until};
use crate::upgrade;
use crate::upstream::body::{BodySource, Guards, InFlight, ResponseBody};
use crate::upstream::{self, Sent, Target};
use crate::worker::Worker;

/// The latency that counts for a try without a response.
const FAILED_LATENCY_US: u64 = 1_000_000;

/// Answer one request of the application.
///
/// # Errors
/// Never: every error becomes a response here.
pub async fn handle(
    worker: Rc<Worker>,
    entrance: Entrance,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let asked = Asked::of(&request);
    let mut seen = Observation::begin(&worker, Direction::Outbound, &request);
    let show_reason = worker.shared.settings.reason_header;
    Ok(match carry(&worker, &entrance, request, &mut seen).await {
        Ok(Answer::Carried(carried)) => {
            seen.answered(
                carried.response.status(),
                reason_of(&seen, &carried.response),
            );
            finish(&worker, carried, seen, show_reason).await
        }
        Ok(Answer::Redirect(response)) => {
            seen.answered(response.status(), None);
            response
        }
        Err(error) => {
            seen.answered(crate::respond::status(error.reason), Some(error.reason));
            respond(&error, asked, show_reason)
        }
    })
}

/// What a request is answered with.
enum Answer {
    /// A response of the called service.
    Carried(Carried),
    /// A rule's redirect.
    Redirect(Response<ResponseBody>),
}

/// A response on its way back.
struct Carried {
    response: Response<Incoming>,
    connection: Option<upstream::http1::Http1>,
    guards: Guards,
    deadline: Option<Deadline>,
}

/// The steps in order.
async fn carry(
    worker: &Rc<Worker>,
    entrance: &Entrance,
    mut request: Request<Incoming>,
    seen: &mut Observation,
) -> Result<Answer, Error> {
    normalize(&mut request)?;
    let (service, port_number) = discover::service(worker, entrance, &mut request).await?;
    let plan = discover::plan(worker, &service).await?;
    let port = discover::port(&service, &plan, port_number)?;
    seen.key.service = service.name_id;
    seen.key.protocol = port.protocol;
    service
        .last_used_s
        .store(seen.start_us() / 1_000_000, Relaxed);

    headers::strip_own(request.headers_mut());
    trace::ensure(request.headers_mut());
    seen.traced(request.headers());

    let Routed { rule, prefix } = route::route(port, &RequestHead::of(&request))?;
    seen.key.route = rule.name_id;
    if let Some((redirect, status)) = &rule.redirect {
        let host = host_of(&request);
        let to = headers::location(redirect, request.uri(), &host, port_number, prefix);
        return Ok(Answer::Redirect(redirected(*status, &to)));
    }
    let backend = route::backend(rule)?;
    let backend_plan = match Arc::ptr_eq(&backend.service, &service) {
        true => Arc::clone(&plan),
        false => discover::plan(worker, &backend.service).await?,
    };
    let permit = limit::admit(&backend.service, backend_plan.traffic.limits.requests)?;

    let upgrade = headers::upgrade(request.headers());
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    for filters in [&rule.filters, &backend.filters] {
        headers::filter_request(&mut parts.uri, &mut parts.headers, filters, prefix);
    }
    let journey = Journey {
        worker,
        rule,
        backend,
        plan: &backend_plan,
        method: parts.method.clone(),
    };
    if let (Some(protocol), Some(client)) = (upgrade, client) {
        let upgraded = Box::pin(journey.upgrade(parts, protocol, client, seen, permit)).await;
        return upgraded.map(Answer::Carried);
    }
    let (body, sent_bytes) = BodySource::new(body);
    seen.request_bytes = sent_bytes;
    let limit_ms = rule
        .request_ms
        .unwrap_or(backend_plan.traffic.request_timeout_ms);
    let end_us = (limit_ms > 0).then(|| {
        seen.start_us()
            .saturating_add(limit_ms.saturating_mul(1000))
    });
    let (sent, in_flight) = journey.tries(parts, &body, seen, end_us).await?;
    let carried = journey.carried(sent, in_flight, permit, end_us);
    Ok(Answer::Carried(carried))
}

fn redirected(status: StatusCode, to: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    *response.status_mut() = status;
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// One request to one backend: what stays the same over its tries.
struct Journey<'a> {
    worker: &'a Rc<Worker>,
    rule: &'a Arc<RulePlan>,
    backend: &'a BackendPlan,
    plan: &'a ServicePlan,
    method: Method,
}

impl Journey<'_> {
    /// Try, and try again while it is wanted, safe, within the budget and in time.
    async fn tries(
        &self,
        parts: Parts,
        body: &BodySource,
        seen: &mut Observation,
        end_us: Option<u64>,
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
            let outcome = self.one_try(request, seen, &mut tried, end_us).await;
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

    /// The response with its filters applied and all that must last as long as it.
    fn carried(
        &self,
        sent: Sent,
        in_flight: InFlight,
        permit: limit::RequestPermit,
        end_us: Option<u64>,
    ) -> Carried {
        let mut response = sent.response;
        for filters in [&self.backend.filters, &self.rule.filters] {
            headers::change(response.headers_mut(), &filters.response);
        }
        // A route's own timeout holds for the whole response (GEP-1742); the service's default
        // ends with its head, or it would cut long streams that nobody bounded.
        let whole = self.rule.request_ms.is_some();
        Carried {
            response,
            connection: sent.connection,
            guards: Guards {
                permit: Some(permit),
                in_flight: Some(in_flight),
            },
            deadline: end_us.filter(|_| whole).map(Deadline::at_us),
        }
    }

    /// One try at one endpoint.
    async fn one_try(
        &self,
        request: Request<upstream::body::RequestBody>,
        seen: &mut Observation,
        tried: &mut Vec<u64>,
        end_us: Option<u64>,
    ) -> Result<(Sent, InFlight), Error> {
        let endpoints = self.endpoints().await?;
        let started_us = now_us();
        let endpoint = self.pick(&endpoints, tried, started_us)?;
        tried.push(endpoint.id);
        seen.endpoint(endpoint);
        let target = self.target(endpoint)?;
        let in_flight = InFlight::begin(endpoint);
        let (limit_us, reason) = self.limit(started_us, end_us);
        let mut sending = std::pin::pin!(upstream::send(self.worker, &target, request));
        let result = match limit_us {
            None => sending.await,
            Some(limit_us) => until(started_us + limit_us, sending.as_mut())
                .await
                .unwrap_or_else(|| {
                    Err(Error::new(
                        reason,
                        format!("no response within {} ms", limit_us / 1000),
                    ))
                }),
        };
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
            // Our own limits say nothing about the endpoint.
            Err(error) if error.reason == Reason::PendingLimit => return,
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
        })
    }

    /// The microseconds left for one try, and what to call it when they run out.
    fn limit(&self, now_us: u64, end_us: Option<u64>) -> (Option<u64>, Reason) {
        let try_ms = self
            .rule
            .try_ms
            .unwrap_or(self.plan.traffic.per_try_timeout_ms);
        let one = (try_ms > 0).then(|| try_ms.saturating_mul(1000));
        let all = end_us.map(|end_us| end_us.saturating_sub(now_us));
        match (one, all) {
            (Some(one), Some(all)) if one < all => (Some(one), Reason::TryTimeout),
            (Some(one), None) => (Some(one), Reason::TryTimeout),
            (_, all) => (all, Reason::RequestTimeout),
        }
    }

    /// A switch of protocols: one try on a connection of its own, then bytes both ways.
    async fn upgrade(
        &self,
        parts: Parts,
        protocol: HeaderValue,
        client: hyper::upgrade::OnUpgrade,
        seen: &mut Observation,
        permit: limit::RequestPermit,
    ) -> Result<Carried, Error> {
        let endpoints = self.endpoints().await?;
        let endpoint = self.pick(&endpoints, &[], now_us())?;
        seen.endpoint(endpoint);
        seen.tries = 1;
        let target = self.target(endpoint)?;
        let guards = Guards {
            permit: Some(permit),
            in_flight: Some(InFlight::begin(endpoint)),
        };
        let response = upgrade::carry(self.worker, &target, parts, protocol, client).await?;
        Ok(Carried {
            response,
            connection: None,
            guards,
            deadline: None,
        })
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
fn reason_of(seen: &Observation, response: &Response<Incoming>) -> Option<Reason> {
    let text = response
        .headers()
        .get(REASON_HEADER)
        .filter(|_| seen.key.mtls)?;
    Reason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str().as_bytes() == text.as_bytes())
}

/// Make the response fit for the application and tie to it all that must last as long.
async fn finish(
    worker: &Rc<Worker>,
    carried: Carried,
    seen: Observation,
    show_reason: bool,
) -> Response<ResponseBody> {
    let Carried {
        response,
        connection,
        guards,
        deadline,
    } = carried;
    let (mut parts, body) = response.into_parts();
    // A proxy speaks its own version, whatever the application's (RFC 9110 §6.2).
    parts.version = Version::HTTP_11;
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        headers::strip_hop_by_hop(&mut parts.headers);
    }
    if !show_reason || seen.key.reason.is_none() {
        headers::strip_own(&mut parts.headers);
    }
    if hyper::body::Body::is_end_stream(&body) {
        give_back(worker, connection).await;
        drop((seen, guards));
        return Response::from_parts(parts, ResponseBody::full(Bytes::new()));
    }
    let body = ResponseBody::stream(body, connection, worker, seen, deadline, guards);
    Response::from_parts(parts, body)
}

/// Give a connection back whose response had no body.
pub(crate) async fn give_back(worker: &Rc<Worker>, connection: Option<upstream::http1::Http1>) {
    if let Some(connection) = connection {
        let mut connection = Some(connection);
        std::future::poll_fn(|cx| {
            if let Some(connection) = connection.take() {
                connection.give_back(worker, cx);
            }
            std::task::Poll::Ready(())
        })
        .await;
    }
}

/// Bring the path into normal form; refuse it, or the head, if it could be read in two ways.
pub(crate) fn normalize<B>(request: &mut Request<B>) -> Result<(), Error> {
    framing::check(request)?;
    match normalize_path(request.uri().path()) {
        Normal::Same => Ok(()),
        Normal::Changed(path) => {
            headers::set_path(request.uri_mut(), &path);
            Ok(())
        }
        Normal::Refused => Err(Error::new(
            Reason::BadRequest,
            "the path is not in a safe form",
        )),
    }
}

fn host_of<B>(request: &Request<B>) -> String {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future of a request is part of every idle connection's memory, and is moved when a
    /// request begins.
    #[test]
    fn a_requests_future_stays_small() {
        fn size<A, B, C, R>(_: fn(A, B, C) -> R) -> usize {
            size_of::<R>()
        }
        let outbound = size::<_, _, _, _>(handle);
        assert!(outbound <= 6144, "{outbound}");
    }
}
