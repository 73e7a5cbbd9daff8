//! The decision path of a described request, by the very steps that serve traffic.

use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Reason};
use crate::fields::Fields;
use crate::head::RequestHead;
use crate::path::{Normal, normalize_path};
use crate::plan::service::{BackendPlan, PortPlan, RulePlan, Service, ServicePlan};
use crate::record::{Action, Protocol, ServiceKey, Traffic};
use crate::shared::Shared;
use crate::steps::authorize::{Call, authorize};
use crate::steps::headers;
use crate::steps::route::{Routed, route};
use crate::timer::now_us;
use crate::tls::SpiffeId;
use crate::{discover, respond, tcp};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Outbound,
    Inbound,
}

/// A described request.
#[derive(Debug, Deserialize)]
struct Asked {
    direction: Direction,
    service: String,
    port: u16,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    principal: Option<String>,
}

/// What was decided so far.
#[derive(Default)]
struct Steps(Vec<Value>);

impl Steps {
    fn add(&mut self, step: &str, decision: impl Into<String>, source: Option<&str>) {
        self.0
            .push(json!({"step": step, "decision": decision.into(), "source": source}));
    }
}

/// Decide on a described request; JSON in, JSON out.
pub fn resolve(shared: &Shared, request: &[u8]) -> Vec<u8> {
    let mut steps = Steps::default();
    let outcome = match serde_json::from_slice::<Asked>(request) {
        Err(error) => Err(Error::new(Reason::BadRequest, error.to_string())),
        Ok(asked) => match asked.direction {
            Direction::Outbound => outbound(shared, &asked, &mut steps),
            Direction::Inbound => inbound(shared, &asked, &mut steps),
        },
    };
    let (outcome, code, reason) = match outcome {
        Ok((outcome, code)) => (outcome, code, None),
        Err(error) => {
            let outcome = if error.reason == Reason::Denied {
                "deny"
            } else {
                "error"
            };
            (
                outcome,
                Some(respond::status(error.reason).as_u16()),
                Some(error.to_string()),
            )
        }
    };
    json!({"steps": steps.0, "outcome": outcome, "code": code, "reason": reason})
        .to_string()
        .into_bytes()
}

type Outcome = Result<(&'static str, Option<u16>), Error>;

fn outbound(shared: &Shared, asked: &Asked, steps: &mut Steps) -> Outcome {
    let unknown = || {
        Error::new(
            Reason::UnknownService,
            format!("no service {}", asked.service),
        )
    };
    let key = ServiceKey::parse(&asked.service).ok_or_else(unknown)?;
    let service = shared.use_service(&key, false).ok_or_else(unknown)?;
    let plan = service.plan();
    let plan = plan.as_ref().ok_or_else(unknown)?;
    steps.add("service", format!("{key} is known to this sidecar"), None);
    let port = discover::port(&service, plan, asked.port)?;
    steps.add(
        "port",
        format!("{} speaks {}", port.number, port.protocol.as_str()),
        None,
    );

    let head = described(asked)?;
    let Routed { rule, prefix } = routed(&service, port, &head)?;
    match rule.label.is_empty() {
        true => steps.add("route", "no route; to the service itself", None),
        false => steps.add("route", &*rule.label, rule.source.as_deref()),
    }
    if let Some((redirect, status)) = &rule.redirect {
        let to = headers::location(redirect, &head, key.as_str(), asked.port, prefix);
        steps.add(
            "redirect",
            format!("{} to {to}", status.as_u16()),
            rule.source.as_deref(),
        );
        return Ok(("redirect", Some(status.as_u16())));
    }
    backends(rule, steps)
}

/// The rule of a request, or of a connection where the port carries those.
fn routed<'a>(
    service: &Service,
    port: &'a PortPlan,
    head: &RequestHead,
) -> Result<Routed<'a>, Error> {
    let by_name = port.table.as_ref().is_some_and(|it| it.names.is_some());
    if port.protocol != Protocol::Tcp && !by_name {
        return route(port, head);
    }
    let name = head.written_host().map(headers::bare_host);
    if by_name && name.is_none() {
        let detail = "the port is routed by the name that a client of TLS asks for; \
                      say which one by a header host";
        return Err(Error::new(Reason::NoRoute, detail));
    }
    let rule = tcp::rule(service, port, name)?;
    Ok(Routed { rule, prefix: None })
}

fn normal(path: &str) -> Result<String, Error> {
    match normalize_path(path) {
        Normal::Same => Ok(path.to_owned()),
        Normal::Changed(path) => Ok(path),
        Normal::Refused => Err(Error::new(
            Reason::BadRequest,
            "the path is not in a safe form",
        )),
    }
}

/// Every backend with its share, its endpoints and its policy.
fn backends(rule: &RulePlan, steps: &mut Steps) -> Outcome {
    let mut reachable = None;
    for backend in rule.backends.iter().filter(|backend| backend.weight > 0) {
        let share = 100.0 * f64::from(backend.weight) / f64::from(rule.total_weight.max(1));
        let labels: Vec<String> = backend
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let name = format!("{} {}", backend.service.key, labels.join(","));
        let name = name.trim_end();
        if let Some(error) = &backend.error {
            let decision = format!("{name}: {share:.1} % answered 500: {error}");
            steps.add("backend", decision, rule.source.as_deref());
            continue;
        }
        let (ready, ejected) = endpoints(backend);
        let decision = format!("{name}: {share:.1} %, {ready} endpoints ready, {ejected} ejected");
        steps.add("backend", decision, rule.source.as_deref());
        if ready > 0 && reachable.is_none() {
            reachable = Some(backend);
        }
    }
    let Some(backend) = reachable else {
        let reason = match rule.backends.iter().any(|backend| backend.weight > 0) {
            true if rule.backends.iter().all(|backend| backend.error.is_some()) => {
                Reason::InvalidBackend
            }
            true => Reason::NoEndpoint,
            false => Reason::NoBackend,
        };
        return Err(Error::new(reason, &*rule.label));
    };
    if let Some(plan) = backend.service.plan().as_ref() {
        policy(rule, plan, steps);
    }
    Ok(("forward", None))
}

fn endpoints(backend: &BackendPlan) -> (usize, usize) {
    let all = backend.endpoints().unwrap_or_default();
    let now = now_us();
    (
        all.len(),
        all.iter()
            .filter(|endpoint| endpoint.is_ejected(now))
            .count(),
    )
}

/// The timeouts and retries in force.
fn policy(rule: &RulePlan, plan: &ServicePlan, steps: &mut Steps) {
    let Traffic { policy, source, .. } = &plan.traffic;
    let by = policy
        .as_ref()
        .map_or("defaults".to_owned(), |name| format!("policy {name}"));
    let request_ms = rule.request_ms.unwrap_or(plan.traffic.request_timeout_ms);
    let attempts = rule
        .retry
        .as_ref()
        .map_or(plan.traffic.retry.attempts, |retry| retry.attempts);
    let decision = format!(
        "{by}: connect {} ms, request {request_ms} ms, {attempts} retries on {}",
        plan.traffic.connect_timeout_ms,
        json!(plan.traffic.retry.on),
    );
    steps.add("traffic", decision, source.as_deref());
}

fn inbound(shared: &Shared, asked: &Asked, steps: &mut Steps) -> Outcome {
    let peer = match &asked.principal {
        None => None,
        Some(text) => {
            let uri = match text.starts_with("spiffe://") {
                true => text.clone(),
                false => format!("spiffe://{text}"),
            };
            let bad =
                |error: crate::tls::TlsError| Error::new(Reason::BadRequest, error.to_string());
            Some(SpiffeId::parse(&uri).map_err(bad)?)
        }
    };
    let path = normal(asked.path.split('?').next().unwrap_or_default())?;
    let call = Call {
        peer: peer.as_ref(),
        http: Some((&asked.method, &path)),
        port: asked.port,
    };
    let plan = shared.inbound.load();
    let verdict = authorize(&plan, &call);
    let caller = peer
        .as_ref()
        .map_or("a plaintext caller".to_owned(), ToString::to_string);
    let by = match &verdict.policy {
        Some(policy) => format!("policy {policy}"),
        None if plan.allow.is_empty() => "the namespace's default".to_owned(),
        None => "allow policies of which none matches".to_owned(),
    };
    let word = if verdict.action == Action::Allow {
        "allowed"
    } else {
        "denied"
    };
    steps.add(
        "authorize",
        format!("{caller} is {word} by {by}"),
        verdict.source.as_deref(),
    );
    match verdict.action {
        Action::Allow => Ok(("forward", None)),
        Action::Deny => Err(Error::new(Reason::Denied, by)),
    }
}

/// The described request in the form that the steps see.
fn described(asked: &Asked) -> Result<RequestHead, Error> {
    let bad = |detail: String| Error::new(Reason::BadRequest, detail);
    let mut fields = Fields::default();
    for (name, value) in &asked.headers {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|error| bad(format!("header \"{name}\": {error}")))?;
        HeaderValue::from_str(value).map_err(|error| bad(format!("header \"{name}\": {error}")))?;
        fields.append(name.as_bytes(), value.as_bytes());
    }
    let method = Method::from_bytes(asked.method.as_bytes())
        .map_err(|error| bad(format!("method \"{}\": {error}", asked.method)))?;
    let mut head = RequestHead::described(method, &asked.path, fields);
    let path = normal(head.path())?;
    head.set_path(&path);
    Ok(head)
}
