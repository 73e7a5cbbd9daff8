//! The way of a request from the application to another service, step by step.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;

use crate::clock::End;
use crate::discover::{self, Entrance};
use crate::downstream::Downstream;
use crate::error::{Error, Reason};
use crate::head::{Length, RequestHead, ResponseHead};
use crate::observe::Observation;
use crate::observe::metrics::Direction;
use crate::plan::endpoints::InFlight;
use crate::plan::service::{BackendPlan, RulePlan};
use crate::relay::relay;
use crate::respond::respond;
use crate::steps::limit::RequestPermit;
use crate::steps::route::Routed;
use crate::steps::{framing, headers, limit, route, timeout, trace};
use crate::tries::{Answered, Journey, reason_of};
use crate::upload::Upload;
use crate::worker::Worker;

/// Answer one request of the application.
pub async fn handle(
    worker: &Rc<Worker>,
    entrance: &Entrance,
    mut client: Downstream<'_>,
    mut head: RequestHead,
) -> crate::downstream::State {
    let mut seen = Observation::begin(worker, Direction::Outbound, Some(&head));
    let grpc = head.fields.is_grpc();
    let mut upload = Upload::new(head.length, false);
    let carried = carry(
        worker,
        entrance,
        &mut client,
        &mut head,
        &mut upload,
        &mut seen,
    )
    .await;
    match carried {
        Ok(Answer::Carried(carried)) => {
            finish(worker, &mut client, carried, &mut upload, &mut seen).await;
        }
        Ok(Answer::Redirect(head)) => {
            seen.answered(head.status, None);
            // A client that is gone misses nothing.
            let _gone = client.answer(head, "").await;
        }
        Err(error) => {
            seen.request_bytes += upload.sent();
            let show_reason = worker.shared.settings.reason_header;
            answer_error(&mut client, &error, grpc, show_reason, &mut seen).await;
        }
    }
    client.state()
}

/// Answer in place of the application, and record why.
pub(crate) async fn answer_error(
    client: &mut Downstream<'_>,
    error: &Error,
    grpc: bool,
    show_reason: bool,
    seen: &mut Observation,
) {
    seen.answered(crate::respond::status(error.reason), Some(error.reason));
    let (head, text) = respond(error, grpc, show_reason);
    seen.look_for_grpc_status(&head.fields);
    if matches!(
        error.reason,
        Reason::BadRequest | Reason::ClientGone | Reason::ClientTimeout
    ) {
        // What follows on the connection cannot be trusted to be a request.
        client.close();
    }
    // A client that is gone misses nothing.
    let _gone = client.answer(head, &text).await;
}

/// What a request is answered with.
enum Answer {
    /// A response of the called service.
    Carried(Carried),
    /// A rule's redirect.
    Redirect(ResponseHead),
}

/// A response on its way back, and what is held until it has ended.
struct Carried {
    answered: Answered,
    end_us: Option<u64>,
    _permit: RequestPermit,
    _in_flight: InFlight,
}

/// The steps in order.
async fn carry(
    worker: &Rc<Worker>,
    entrance: &Entrance,
    client: &mut Downstream<'_>,
    head: &mut RequestHead,
    upload: &mut Upload,
    seen: &mut Observation,
) -> Result<Answer, Error> {
    framing::check(head)?;
    let (service, port_number) = discover::service(worker, entrance, head)?;
    let plan = discover::plan(worker, &service).await?;
    let port = discover::port(&service, &plan, port_number)?;
    seen.key.service = service.name_id;
    let protocol = port.protocol.spoken_in(head.version, port.declared);
    seen.key.protocol = protocol;
    service
        .last_used_s
        .store(seen.start_us() / 1_000_000, Relaxed);

    headers::strip_own(&mut head.fields);
    trace::ensure(&mut head.fields);
    seen.traced(&head.fields);

    let Routed { rule, prefix } = route::route(port, head)?;
    seen.key.route = rule.name_id;
    if let Some((redirect, status)) = &rule.redirect {
        let host = head.host().unwrap_or_default();
        let to = headers::location(redirect, head, host, port_number, prefix);
        return Ok(Answer::Redirect(redirected(*status, &to)));
    }
    let backend = route::backend(rule)?;
    let backend_plan = match Arc::ptr_eq(&backend.service, &service) {
        true => Arc::clone(&plan),
        false => discover::plan(worker, &backend.service).await?,
    };
    let permit = limit::admit(&backend.service, backend_plan.traffic.limits.requests)?;
    let given_us = timeout::of(head).map(|given_us| seen.start_us().saturating_add(given_us));
    let end = End::of(rule, &backend_plan.traffic, protocol, seen.start_us()).before(given_us);
    prepare(head, rule, backend, prefix);
    let journey = Journey {
        worker,
        rule,
        backend,
        plan: &backend_plan,
        head,
        end,
    };
    *upload = Upload::new(head.length, journey.may_retry());
    let (mut answered, in_flight) = journey.tries(client, upload, seen).await?;
    for filters in [&backend.filters, &rule.filters] {
        headers::change(&mut answered.head.fields, &filters.response);
    }
    Ok(Answer::Carried(Carried {
        answered,
        end_us: end.of_all(rule),
        _permit: permit,
        _in_flight: in_flight,
    }))
}

/// Change the request as its filters say, and leave out what concerns this connection alone.
fn prepare(head: &mut RequestHead, rule: &RulePlan, backend: &BackendPlan, prefix: Option<&str>) {
    headers::note_switch(head);
    headers::strip_hop_by_hop(&mut head.fields);
    for filters in [&rule.filters, &backend.filters] {
        headers::filter_request(head, filters, prefix);
    }
}

fn redirected(status: StatusCode, to: &str) -> ResponseHead {
    let mut head = ResponseHead::new(status, Length::None);
    head.fields.append(b"location", to.as_bytes());
    head
}

/// Make the response fit for the application, and carry it.
async fn finish(
    worker: &Rc<Worker>,
    client: &mut Downstream<'_>,
    carried: Carried,
    upload: &mut Upload,
    seen: &mut Observation,
) {
    let mut answered = carried.answered;
    seen.answered(answered.head.status, reason_of(seen, &answered.head));
    seen.look_for_grpc_status(&answered.head.fields);
    if !worker.shared.settings.reason_header || seen.key.reason.is_none() {
        headers::strip_own(&mut answered.head.fields);
    }
    let relayed = relay(worker, client, answered, upload, carried.end_us, seen).await;
    if let Err(error) = relayed {
        seen.key.reason = Some(error.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future of a request is moved when a request begins.
    #[test]
    fn a_requests_future_stays_small() {
        fn size<A, B, C, D, R>(_: fn(A, B, C, D) -> R) -> usize {
            size_of::<R>()
        }
        let outbound = size::<_, _, _, _, _>(handle);
        assert!(outbound <= 4096, "{outbound}");
    }
}
