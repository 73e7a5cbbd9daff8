//! The way of a request from the application to another service, step by step.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, LOCATION};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::discover::{self, Entrance};
use crate::error::{Error, Reason};
use crate::head::{Normal, RequestHead, normalize_path};
use crate::observe::Observation;
use crate::observe::metrics::Direction;
use crate::plan::service::{BackendPlan, RulePlan};
use crate::respond::{Asked, respond};
use crate::steps::route::Routed;
use crate::steps::{framing, headers, limit, route, trace};
use crate::timer::Deadline;
use crate::tries::{End, Journey, reason_of};
use crate::upgrade;
use crate::upstream::body::{BodySource, Guards, InFlight, ResponseBody};
use crate::upstream::http1::Http1;
use crate::worker::Worker;

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
            let response = respond(&error, asked, show_reason);
            seen.look_for_grpc_status(response.headers());
            response
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
    connection: Option<Http1>,
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
    let end = End::of(rule, &backend_plan.traffic, port.protocol, seen.start_us());
    let method = request.method().clone();
    let journey = Journey {
        worker,
        rule,
        backend,
        plan: &backend_plan,
        method,
        end,
    };
    let (response, connection, in_flight) = forward(&journey, request, prefix, seen).await?;
    Ok(Answer::Carried(Carried {
        response: filtered(response, backend, rule),
        connection,
        guards: Guards {
            permit: Some(permit),
            in_flight: Some(in_flight),
        },
        // A route's own timeout holds for the whole response (GEP-1742); the service's default
        // ends with its head, or it would cut long streams that nobody bounded.
        deadline: end
            .at_us
            .filter(|_| rule.request_ms.is_some())
            .map(Deadline::at_us),
    }))
}

/// Change the request as its filters say, and send it.
async fn forward(
    journey: &Journey<'_>,
    mut request: Request<Incoming>,
    prefix: Option<&str>,
    seen: &mut Observation,
) -> Result<(Response<Incoming>, Option<Http1>, InFlight), Error> {
    let upgrade = upgrade::asked(&request);
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    for filters in [&journey.rule.filters, &journey.backend.filters] {
        headers::filter_request(&mut parts.uri, &mut parts.headers, filters, prefix);
    }
    if let (Some(protocol), Some(client)) = (upgrade, client) {
        let upgraded = Box::pin(journey.upgrade(parts, protocol, client, seen)).await?;
        return Ok((upgraded.0, None, upgraded.1));
    }
    let (body, sent_bytes) = BodySource::new(body);
    seen.request_bytes = sent_bytes;
    let (sent, in_flight) = journey.tries(parts, &body, seen).await?;
    Ok((sent.response, sent.connection, in_flight))
}

/// The response with the filters of backend and rule applied.
fn filtered(
    mut response: Response<Incoming>,
    backend: &BackendPlan,
    rule: &RulePlan,
) -> Response<Incoming> {
    for filters in [&backend.filters, &rule.filters] {
        headers::change(response.headers_mut(), &filters.response);
    }
    response
}

fn redirected(status: StatusCode, to: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    *response.status_mut() = status;
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Make the response fit for the application and tie to it all that must last as long.
async fn finish(
    worker: &Rc<Worker>,
    carried: Carried,
    mut seen: Observation,
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
    seen.look_for_grpc_status(&parts.headers);
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
pub(crate) async fn give_back(worker: &Rc<Worker>, connection: Option<Http1>) {
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
