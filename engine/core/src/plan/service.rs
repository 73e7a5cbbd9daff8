//! A service as the request path needs it: routes compiled, backends resolved, counters beside.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};

use arc_swap::{ArcSwapOption, Guard};
use http::StatusCode;
use tokio::sync::Notify;

use super::endpoints::{Endpoint, EndpointSet};
use super::filters::{self, FilterPlan};
use super::matcher::{Matcher, ServerName};
use super::{Build, Known};
use crate::record::{
    self, Filter, Labels, PortRecord, Protocol, Redirect, RuleRetry, ServiceKey, ServiceRecord,
    Table, TableKind, Traffic,
};

/// One service: its plan, its endpoints, and what all threads count together.
#[derive(Debug)]
pub struct Service {
    /// `namespace/name`.
    pub key: ServiceKey,
    /// The id of its name in metrics.
    pub name_id: u32,
    known: AtomicU8,
    plan: ArcSwapOption<ServicePlan>,
    endpoints: ArcSwapOption<EndpointSet>,
    /// Woken when plan or endpoints arrive.
    pub changed: Notify,
    /// Requests in flight, connections and waiters, for circuit breaking.
    pub load: ServiceLoad,
    /// Seconds of the engine's clock when it was last asked for.
    pub last_used_s: AtomicU64,
    /// Declared in the settings, or its address was told: it is never dropped.
    pub declared: AtomicBool,
    /// Taken out of the directory: caches must look again.
    pub retired: AtomicBool,
}

/// Counters for circuit breaking, retry budget and turns.
#[derive(Debug, Default)]
pub struct ServiceLoad {
    /// Requests in flight.
    pub requests: AtomicU32,
    /// Open upstream connections.
    pub connections: AtomicU32,
    /// Requests that wait for a connection.
    pub pending: AtomicU32,
    /// Round robin's turn.
    pub turn: AtomicU32,
    /// The retry budget.
    pub budget: crate::steps::retry::Budget,
    /// Woken when a connection is closed or returned.
    pub freed: Notify,
}

impl Service {
    /// A service of which nothing is known yet.
    pub fn new(key: ServiceKey, name_id: u32) -> Service {
        Service {
            key,
            name_id,
            known: AtomicU8::new(Known::Asked as u8),
            plan: ArcSwapOption::empty(),
            endpoints: ArcSwapOption::empty(),
            changed: Notify::new(),
            load: ServiceLoad::default(),
            last_used_s: AtomicU64::new(0),
            declared: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        }
    }

    /// What is known of it.
    pub fn known(&self) -> Known {
        match self.known.load(Acquire) {
            0 => Known::Asked,
            1 => Known::Present,
            2 => Known::Absent,
            _ => Known::Refused,
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> Guard<Option<Arc<ServicePlan>>> {
        self.plan.load()
    }

    /// The endpoints in force.
    pub fn endpoints(&self) -> Guard<Option<Arc<EndpointSet>>> {
        self.endpoints.load()
    }

    /// Put a plan in force.
    pub fn set_plan(&self, plan: ServicePlan) {
        if plan.traffic.outlier.is_none()
            && let Some(endpoints) = self.endpoints.load().as_ref()
        {
            // Who switches ejection off wants the ejected ones back.
            for endpoint in endpoints.all.iter() {
                endpoint.state.ejected_until_us.store(0, Relaxed);
            }
        }
        self.plan.store(Some(Arc::new(plan)));
        self.known.store(Known::Present as u8, Release);
        self.changed.notify_waiters();
    }

    /// Put endpoints in force.
    pub fn set_endpoints(&self, endpoints: EndpointSet) {
        self.endpoints.store(Some(Arc::new(endpoints)));
        self.changed.notify_waiters();
    }

    /// The service does not exist, or no longer.
    pub fn set_absent(&self) {
        self.plan.store(None);
        self.endpoints.store(None);
        self.known.store(Known::Absent as u8, Release);
        self.changed.notify_waiters();
    }

    /// Its first record was refused: nobody need wait for it. A later one may be right.
    pub fn set_refused(&self) {
        if self.known() == Known::Asked {
            self.known.store(Known::Refused as u8, Release);
            self.changed.notify_waiters();
        }
    }

    /// Forget the endpoints alone.
    pub fn clear_endpoints(&self) {
        self.endpoints.store(None);
        self.changed.notify_waiters();
    }
}

/// A compiled service record, as this sidecar sees it.
#[derive(Debug)]
pub struct ServicePlan {
    /// Stand for the service where traffic is intercepted.
    pub addresses: Vec<IpAddr>,
    /// Ports, ascending.
    pub ports: Vec<PortPlan>,
    /// Balancing and resilience.
    pub traffic: Traffic,
}

/// One port.
#[derive(Debug)]
pub struct PortPlan {
    /// The port number.
    pub number: u16,
    /// What is spoken; on a port that is not declared, by what is not carried as bytes.
    pub protocol: Protocol,
    /// Whether it is known without a look at a connection.
    pub declared: bool,
    /// Routes; `None`: forward to the service itself.
    pub table: Option<TablePlan>,
    /// The rule in force without routes.
    pub direct: Arc<RulePlan>,
}

/// Compiled routes.
#[derive(Debug)]
pub struct TablePlan {
    /// Most specific first, with the index of the rule.
    pub entries: Vec<(Matcher, usize)>,
    /// The same of a TLSRoute: server names. `None`: of another kind.
    pub names: Option<Vec<(ServerName, usize)>>,
    /// The rules.
    pub rules: Vec<Arc<RulePlan>>,
}

/// A compiled rule.
#[derive(Debug)]
pub struct RulePlan {
    /// `namespace/route/rule`; empty for traffic without a route.
    pub label: Arc<str>,
    /// The id of the label in metrics.
    pub name_id: u32,
    /// `file:line` of the rule.
    pub source: Option<String>,
    /// Filters of the rule.
    pub filters: FilterPlan,
    /// The answer, when the rule redirects.
    pub redirect: Option<(Redirect, StatusCode)>,
    /// Targets.
    pub backends: Vec<BackendPlan>,
    /// Sum of the weights.
    pub total_weight: u32,
    /// For the whole request; 0 disables, `None` leaves the service's own.
    pub request_ms: Option<u64>,
    /// For one try; 0 disables, `None` leaves the service's own.
    pub try_ms: Option<u64>,
    /// Retries of the rule.
    pub retry: Option<RuleRetry>,
}

/// A compiled backend.
#[derive(Debug)]
pub struct BackendPlan {
    /// The service.
    pub service: Arc<Service>,
    /// Its port.
    pub port: u16,
    /// Its share.
    pub weight: u32,
    /// Only endpoints with these labels.
    pub labels: Labels,
    /// Filters for this backend.
    pub filters: FilterPlan,
    /// Why it cannot be used.
    pub error: Option<String>,
    subset: ArcSwapOption<Subset>,
}

/// Endpoints with a backend's labels, and the set they were taken from.
#[derive(Debug)]
struct Subset {
    of: Arc<EndpointSet>,
    endpoints: Arc<[Arc<Endpoint>]>,
}

impl BackendPlan {
    /// The endpoints this backend may use; computed once per set of endpoints.
    pub fn endpoints(&self) -> Option<Arc<[Arc<Endpoint>]>> {
        let set = self.service.endpoints();
        let set = set.as_ref()?;
        if self.labels.is_empty() {
            return Some(Arc::clone(&set.all));
        }
        if let Some(known) = self.subset.load().as_ref()
            && Arc::ptr_eq(&known.of, set)
        {
            return Some(Arc::clone(&known.endpoints));
        }
        let endpoints = set.subset(&self.labels);
        let subset = Subset {
            of: Arc::clone(set),
            endpoints: Arc::clone(&endpoints),
        };
        self.subset.store(Some(Arc::new(subset)));
        Some(endpoints)
    }
}

impl ServicePlan {
    /// Compile `record` for a consumer in the namespace of `build`.
    ///
    /// # Errors
    /// The first thing that cannot be compiled, with its place in the record.
    pub fn build(record: &ServiceRecord, build: &mut Build<'_>) -> Result<ServicePlan, String> {
        let key = ServiceKey::new(&record.namespace, &record.name);
        let ports = record
            .ports
            .iter()
            .map(|port| {
                PortPlan::build(port, &key, build)
                    .map_err(|error| format!("port {}: {error}", port.number))
            })
            .collect::<Result<_, _>>()?;
        Ok(ServicePlan {
            addresses: record.addresses.clone(),
            ports,
            traffic: record.traffic.clone(),
        })
    }

    /// The port of this number.
    pub fn port(&self, number: u16) -> Option<&PortPlan> {
        self.ports.iter().find(|port| port.number == number)
    }
}

impl PortPlan {
    fn build(
        record: &PortRecord,
        key: &ServiceKey,
        build: &mut Build<'_>,
    ) -> Result<PortPlan, String> {
        let own = record
            .tables
            .iter()
            .find(|table| table.consumer_namespace.as_deref() == Some(build.namespace))
            .or_else(|| {
                record
                    .tables
                    .iter()
                    .find(|table| table.consumer_namespace.is_none())
            });
        let itself = record::Backend {
            service: key.as_str().to_owned(),
            port: record.number,
            weight: 1,
            labels: Labels::new(),
            filters: vec![],
            error: None,
        };
        let direct = RulePlan {
            label: "".into(),
            name_id: build.name(""),
            source: None,
            filters: FilterPlan::default(),
            redirect: None,
            backends: vec![BackendPlan::build(&itself, build)?],
            total_weight: 1,
            request_ms: None,
            try_ms: None,
            retry: None,
        };
        Ok(PortPlan {
            number: record.number,
            protocol: record.protocol.or_http(),
            declared: record.protocol != Protocol::Auto,
            table: own
                .map(|table| TablePlan::build(table, build))
                .transpose()?,
            direct: Arc::new(direct),
        })
    }
}

impl TablePlan {
    fn build(record: &Table, build: &mut Build<'_>) -> Result<TablePlan, String> {
        let rules = record
            .rules
            .iter()
            .map(|rule| {
                RulePlan::build(rule, build)
                    .map(Arc::new)
                    .map_err(|error| format!("route {} rule {}: {error}", rule.route, rule.rule))
            })
            .collect::<Result<Vec<_>, String>>()?;
        if let Some(entry) = record.entries.iter().find(|e| e.rule >= rules.len()) {
            let (rule, rules) = (entry.rule, rules.len());
            return Err(format!("entry points to rule {rule} of {rules}"));
        }
        if record.kind == TableKind::Tls {
            let names = record.entries.iter().map(|entry| {
                let name = entry.matches.server_name.as_deref();
                let name = name.ok_or("an entry of a TLSRoute has no server name")?;
                Ok((ServerName::build(name), entry.rule))
            });
            return Ok(TablePlan {
                entries: vec![],
                names: Some(names.collect::<Result<_, String>>()?),
                rules,
            });
        }
        let entries = record.entries.iter();
        let entries = entries
            .map(|entry| Ok((Matcher::build(&entry.matches)?, entry.rule)))
            .collect::<Result<_, String>>()?;
        Ok(TablePlan {
            entries,
            names: None,
            rules,
        })
    }
}

impl RulePlan {
    fn build(record: &record::Rule, build: &mut Build<'_>) -> Result<RulePlan, String> {
        let label = format!("{}/{}", record.route, record.rule);
        let redirect = record.filters.iter().find_map(|filter| match filter {
            Filter::Redirect(redirect) => Some(redirect),
            _ => None,
        });
        let redirect = redirect
            .map(|redirect| Ok::<_, String>((redirect.clone(), filters::check_redirect(redirect)?)))
            .transpose()?;
        let backends = record
            .backends
            .iter()
            .map(|backend| BackendPlan::build(backend, build))
            .collect::<Result<Vec<_>, _>>()?;
        let total_weight = backends
            .iter()
            .try_fold(0u32, |sum, backend| sum.checked_add(backend.weight))
            .ok_or("the weights add up to more than 2^32")?;
        Ok(RulePlan {
            name_id: build.name(&label),
            label: label.into(),
            source: record.source.clone(),
            filters: FilterPlan::build(&record.filters)?,
            redirect,
            backends,
            total_weight,
            request_ms: record.timeouts.request_ms,
            try_ms: record.timeouts.backend_request_ms,
            retry: record.retry.clone(),
        })
    }
}

impl BackendPlan {
    fn build(record: &record::Backend, build: &mut Build<'_>) -> Result<BackendPlan, String> {
        let key = ServiceKey::parse(&record.service)
            .ok_or_else(|| format!("backend \"{}\" is not namespace/name", record.service))?;
        Ok(BackendPlan {
            service: build.service(&key),
            port: record.port,
            weight: record.weight,
            labels: record.labels.clone(),
            filters: FilterPlan::build(&record.filters)?,
            error: record.error.clone(),
            subset: ArcSwapOption::empty(),
        })
    }
}
