//! Records compiled for speed. Every mistake is found here; a request meets nothing left to check.

pub mod endpoints;
pub mod filters;
pub mod inbound;
pub mod matcher;
pub mod service;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use crate::observe::names::Names;
use crate::record::ServiceKey;
use service::Service;

/// Most services a sidecar holds; more are answered as unknown. Each takes two of the 4096
/// records that a hub lets one sidecar subscribe to.
pub const SERVICES_MAX: usize = 2000;

/// What is known of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// The control plane has not answered yet.
    Asked = 0,
    /// It exists.
    Present = 1,
    /// It does not exist.
    Absent = 2,
    /// The control plane has answered, with a record that could not be put in force.
    Refused = 3,
}

type ServiceMap = HashMap<Arc<str>, Arc<Service>, ahash::RandomState>;

/// All services that this sidecar uses, by `namespace/name`. Readers never wait.
#[derive(Debug, Default)]
pub struct Directory {
    services: ArcSwap<ServiceMap>,
    writing: Mutex<()>,
}

impl Directory {
    /// The service of this name, if the sidecar uses it.
    pub fn get(&self, name: &str) -> Option<Arc<Service>> {
        self.services.load().get(name).cloned()
    }

    /// The service that `address` stands for. A look at each: only new connections ask.
    pub fn by_address(&self, address: IpAddr) -> Option<Arc<Service>> {
        let stands_for = |service: &&Arc<Service>| {
            let plan = service.plan();
            plan.as_ref()
                .is_some_and(|plan| plan.addresses.contains(&address))
        };
        self.services.load().values().find(stands_for).cloned()
    }

    /// The service of this key, made unknown when it is new. `true`: it is new.
    pub fn get_or_add(&self, key: &ServiceKey, names: &Names) -> Option<(Arc<Service>, bool)> {
        if let Some(known) = self.get(key.as_str()) {
            return Some((known, false));
        }
        let _writing = self
            .writing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let services = self.services.load();
        if let Some(known) = services.get(key.as_str()) {
            return Some((Arc::clone(known), false));
        }
        if services.len() >= SERVICES_MAX {
            return None;
        }
        let service = Arc::new(Service::new(key.clone(), names.id(key.as_str())));
        let mut next = ServiceMap::clone(&services);
        next.insert(key.shared(), Arc::clone(&service));
        self.services.store(Arc::new(next));
        Some((service, true))
    }

    /// Take a service out.
    pub fn remove(&self, name: &str) -> Option<Arc<Service>> {
        let _writing = self
            .writing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut next = ServiceMap::clone(&self.services.load());
        let removed = next.remove(name)?;
        removed
            .retired
            .store(true, std::sync::atomic::Ordering::Relaxed);
        self.services.store(Arc::new(next));
        Some(removed)
    }

    /// How many services there are.
    pub fn len(&self) -> usize {
        self.services.load().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All services.
    pub fn all(&self) -> Vec<Arc<Service>> {
        self.services.load().values().cloned().collect()
    }
}

/// What compiling a record needs: who reads it, and the services it speaks of.
#[derive(Debug)]
pub struct Build<'a> {
    /// The namespace of this sidecar's workload.
    pub namespace: &'a str,
    /// Where backends are found or added.
    pub directory: &'a Directory,
    /// Names for metrics.
    pub names: &'a Names,
    /// Services that were added while compiling.
    pub added: Vec<Arc<Service>>,
}

impl Build<'_> {
    fn name(&self, text: &str) -> u32 {
        self.names.id(text)
    }

    /// The service of `key`; past [`SERVICES_MAX`] one that stays unknown.
    fn service(&mut self, key: &ServiceKey) -> Arc<Service> {
        match self.directory.get_or_add(key, self.names) {
            Some((service, new)) => {
                if new {
                    self.added.push(Arc::clone(&service));
                }
                service
            }
            None => Arc::new(Service::new(key.clone(), self.names.id(key.as_str()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_past_the_bound_is_not_held_until_another_has_gone() {
        let (directory, names) = (Directory::default(), Names::default());
        let add = |number: usize| {
            let key = ServiceKey::new("shop", &format!("n{number}"));
            directory.get_or_add(&key, &names)
        };
        for number in 0..SERVICES_MAX {
            assert!(add(number).is_some_and(|(_, new)| new), "{number}");
        }
        assert!(add(SERVICES_MAX).is_none());
        assert!(add(0).is_some_and(|(_, new)| !new));
        directory.remove("shop/n0");
        assert!(add(SERVICES_MAX).is_some());
        assert!(add(0).is_none());
    }
}
