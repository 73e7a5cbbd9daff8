//! Which service a request is for, and what is known of it; the first request to an unknown
//! service waits, within a bound, until the control plane has spoken.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Reason};
use crate::head::RequestHead;
use crate::plan::Known;
use crate::plan::service::{PortPlan, Service, ServicePlan};
use crate::record::ServiceKey;
use crate::steps::headers::bare_host;
use crate::timer::within;
use crate::worker::Worker;

/// Longest wait for the control plane's word on a service.
pub const DISCOVERY_MAX: Duration = Duration::from_secs(2);

/// The port of `http` URIs.
const DEFAULT_PORT: u16 = 80;

/// How a request came in, which tells what it is for.
#[derive(Clone, Debug)]
pub enum Entrance {
    /// By a local address that stands for one service.
    Service(Rc<LocalAddress>),
    /// By the HTTP proxy: the host tells.
    Proxy,
}

/// A local address that stands for a service.
#[derive(Debug)]
pub struct LocalAddress {
    service: Arc<Service>,
    port: u16,
    local: SocketAddr,
    /// What an application that calls the address writes into Host.
    written: [String; 2],
    /// What the called service reads there instead.
    name: String,
}

impl Entrance {
    /// By `local`, which stands for `port` of `service`. Connections by one address share it.
    pub fn service(
        worker: &Worker,
        service: Arc<Service>,
        port: u16,
        local: SocketAddr,
    ) -> Entrance {
        let mut last = worker.last_entrance.borrow_mut();
        if let Some(Entrance::Service(last)) = &*last
            && Arc::ptr_eq(&last.service, &service)
            && (last.port, last.local) == (port, local)
        {
            return Entrance::Service(Rc::clone(last));
        }
        let name = format!("{}.{}", service.key.name(), service.key.namespace());
        let entrance = Entrance::Service(Rc::new(LocalAddress {
            written: [local.to_string(), format!("localhost:{}", local.port())],
            name,
            service,
            port,
            local,
        }));
        *last = Some(entrance.clone());
        entrance
    }
}

/// The service and port that a request is for. Host is brought into the form that the called
/// service expects.
///
/// # Errors
/// [`Reason::BadRequest`] without a usable host, [`Reason::UnknownService`] for a host that is
/// none of a service.
pub fn service(
    worker: &Rc<Worker>,
    entrance: &Entrance,
    head: &mut RequestHead,
) -> Result<(Arc<Service>, u16), Error> {
    match entrance {
        Entrance::Service(local) => {
            local.name_the_service(head);
            Ok((Arc::clone(&local.service), local.port))
        }
        Entrance::Proxy => {
            // In absolute form the target counts and Host does not (RFC 9112 §3.2.2).
            if let Some(authority) = head.authority() {
                let host = authority.to_owned();
                head.set_host(host.as_bytes());
                return by_host(worker, &host);
            }
            let host = head
                .written_host()
                .ok_or_else(|| Error::new(Reason::BadRequest, "the request names no host"))?;
            by_host(worker, host)
        }
    }
}

impl LocalAddress {
    /// An application that calls the local address means the service: say so in Host.
    fn name_the_service(&self, head: &mut RequestHead) {
        let called = head.written_host().or_else(|| head.authority());
        let called = called.unwrap_or_default();
        if self.written.iter().any(|local| local == called) {
            head.set_host(self.name.as_bytes());
        }
    }
}

/// The service and port of a host such as `cart`, `cart.shop:8080` or
/// `cart.shop.svc.cluster.local`.
///
/// # Errors
/// [`Reason::UnknownService`] when the host has another form.
pub fn by_host(worker: &Rc<Worker>, host: &str) -> Result<(Arc<Service>, u16), Error> {
    if let Some(known) = worker.known_host(host) {
        return Ok(known);
    }
    let unknown = || Error::new(Reason::UnknownService, format!("no service \"{host}\""));
    let namespace = &worker.shared.settings.workload.namespace;
    let (key, port) = parse_host(host, namespace).ok_or_else(unknown)?;
    let service = worker.shared.use_service(&key, false).ok_or_else(|| {
        Error::new(
            Reason::UnknownService,
            "this sidecar uses too many services already",
        )
    })?;
    if service.known() == Known::Present {
        worker.remember_host(host, &service, port);
    }
    Ok((service, port))
}

/// Read a host; `None`: it cannot be a service's.
fn parse_host(host: &str, own_namespace: &str) -> Option<(ServiceKey, u16)> {
    let bare = bare_host(host);
    let port = match host.len() - bare.len() {
        0 => DEFAULT_PORT,
        _ => host[bare.len() + 1..].parse().ok()?,
    };
    parse_name(bare, own_namespace).map(|(key, _)| (key, port))
}

/// Read the name of a service, and tell how many labels it has; `None`: it cannot be one.
pub fn parse_name(name: &str, own_namespace: &str) -> Option<(ServiceKey, usize)> {
    let lower = name.to_ascii_lowercase();
    let count = lower.trim_end_matches('.').split('.').count();
    let mut labels = lower.trim_end_matches('.').split('.');
    let (name, namespace) = (labels.next()?, labels.next().unwrap_or(own_namespace));
    let rest: Vec<&str> = labels.collect();
    let known_suffix = matches!(rest[..], [] | ["svc"] | ["svc", "cluster", "local"]);
    let label = |text: &str| {
        !text.is_empty()
            && text.len() <= 63
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    (known_suffix && label(name) && label(namespace))
        .then(|| (ServiceKey::new(namespace, name), count))
}

/// The plan of a service, waiting at most [`DISCOVERY_MAX`] for the control plane's first word.
///
/// # Errors
/// [`Reason::UnknownService`] when it does not exist, [`Reason::NoEndpoint`] when nobody answers.
pub async fn plan(worker: &Rc<Worker>, service: &Arc<Service>) -> Result<Arc<ServicePlan>, Error> {
    if let Some(plan) = service.plan().as_ref() {
        return Ok(Arc::clone(plan));
    }
    until(worker, service, || service.known() != Known::Asked).await;
    match (service.plan().as_ref(), service.known()) {
        (Some(plan), _) => Ok(Arc::clone(plan)),
        (None, Known::Asked) if worker.shared.settings.control.is_some() => Err(Error::new(
            Reason::NoEndpoint,
            format!("the control plane has not answered about {}", service.key),
        )),
        (None, Known::Refused) => Err(Error::new(
            Reason::NoEndpoint,
            format!("the record of {} was refused", service.key),
        )),
        (None, _) => Err(Error::new(
            Reason::UnknownService,
            format!("no service {}", service.key),
        )),
    }
}

/// Wait until the endpoints of a service are known, at most [`DISCOVERY_MAX`].
pub async fn endpoints(worker: &Rc<Worker>, service: &Arc<Service>) {
    until(worker, service, || {
        service.endpoints().is_some() || matches!(service.known(), Known::Absent | Known::Refused)
    })
    .await;
}

async fn until(worker: &Rc<Worker>, service: &Service, done: impl Fn() -> bool) {
    if worker.shared.settings.control.is_none() {
        return;
    }
    let wait = async {
        loop {
            let mut changed = std::pin::pin!(service.changed.notified());
            // Registered before the check, or a change between the two would be missed.
            changed.as_mut().enable();
            if done() {
                return;
            }
            std::future::poll_fn(|cx| changed.as_mut().poll(cx)).await;
        }
    };
    within(DISCOVERY_MAX, Box::pin(wait)).await;
}

/// The port of a service.
///
/// # Errors
/// [`Reason::UnknownPort`], with the ports it has.
pub fn port<'a>(
    service: &Service,
    plan: &'a ServicePlan,
    number: u16,
) -> Result<&'a PortPlan, Error> {
    plan.port(number).ok_or_else(|| {
        let known: Vec<String> = plan
            .ports
            .iter()
            .map(|port| port.number.to_string())
            .collect();
        let detail = format!(
            "{} has no port {number}; it has {}",
            service.key,
            known.join(", ")
        );
        Error::new(Reason::UnknownPort, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_all_forms() {
        for (host, expected) in [
            ("cart", Some(("shop/cart", 80))),
            ("Cart:8080", Some(("shop/cart", 8080))),
            ("cart.pay", Some(("pay/cart", 80))),
            ("cart.pay.svc", Some(("pay/cart", 80))),
            ("cart.pay.svc.cluster.local.", Some(("pay/cart", 80))),
            ("cart.pay.svc.cluster.local:81", Some(("pay/cart", 81))),
            ("www.example.com", None),
            ("cart:port", None),
            ("cart:99999", None),
            ("", None),
            ("a_b", None),
        ] {
            let found = parse_host(host, "shop");
            let found = found.as_ref().map(|(key, port)| (key.as_str(), *port));
            assert_eq!(found, expected, "{host}");
        }
    }
}
