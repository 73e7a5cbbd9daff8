//! The sidecar as the record stream and the admin endpoint see it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use crate::admin::Admin;
use crate::control::Host;
use crate::record::Record;
use crate::shared::{EVENTS_MAX, Shared};
use crate::tls::{self, ClientAuth, Identity};
use crate::upstream::connect::Alpn;

impl Host for Shared {
    fn apply(&self, name: &str, version: &str, bytes: &[u8]) -> Result<(), String> {
        let parsed = serde_json::from_slice::<Record>(bytes).map_err(|error| error.to_string());
        if let Err(why) = parsed.and_then(|record| self.apply_record(name, record)) {
            let key = name.strip_prefix("service/");
            if let Some(service) = key.and_then(|key| self.directory.get(key)) {
                service.set_refused();
            }
            return Err(why);
        }
        self.records().insert(name.to_owned(), version.to_owned());
        Ok(())
    }

    fn absent(&self, name: &str) {
        self.records().remove(name);
        match name.split_once('/') {
            Some(("service", key)) => {
                if let Some(service) = self.directory.get(key) {
                    service.set_absent();
                }
            }
            Some(("endpoints", key)) => {
                if let Some(service) = self.directory.get(key) {
                    service.clear_endpoints();
                }
            }
            // Without its own record a workload keeps the last one: forgetting would open or
            // close doors that nobody asked for.
            _ => {}
        }
    }

    fn wanted(&self) -> Vec<String> {
        let mut names = vec![
            format!("trust/{}", self.settings.trust_domain),
            format!("workload/{}", self.workload_name),
        ];
        for service in self.directory.all() {
            names.push(format!("service/{}", service.key));
            names.push(format!("endpoints/{}", service.key));
        }
        names
    }

    fn set_identity(&self, identity: Identity) -> Result<(), String> {
        if identity.id() != &self.id {
            return Err(format!(
                "the certificate is of {}, not {}",
                identity.id(),
                self.id
            ));
        }
        let config = |alpn: &[&[u8]]| {
            tls::server_config(&identity, ClientAuth::Required, alpn)
                .map_err(|error| error.to_string())
        };
        // Bytes come in HTTP/2 to a port of HTTP/1.1 too: not every caller knows what it speaks.
        let (http1, http2) = (Alpn::Http1.name(), Alpn::Http2.name());
        let configs = [config(&[http1, http2])?, config(&[http2])?];
        self.server_tls.store(Some(Arc::new(configs)));
        let first = self.identity.swap(Some(Arc::new(identity))).is_none();
        self.identity_epoch.fetch_add(1, Relaxed);
        if first && self.is_ready() {
            self.status_changed();
        }
        Ok(())
    }

    fn status(&self) -> (bool, bool) {
        (self.is_ready(), *self.draining.borrow())
    }

    fn hello(&self) -> Value {
        json!({
            "workload": self.description.get(),
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "admin": self.admin.get(),
        })
    }

    fn report(&self) -> Option<Vec<u8>> {
        let report = self.make_report();
        let edges = report["edges"].to_string();
        let mut last = self
            .last_report
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *last == edges {
            return None;
        }
        *last = edges;
        Some(report.to_string().into_bytes())
    }

    fn resolve(&self, request: &[u8]) -> Vec<u8> {
        crate::resolve::resolve(self, request)
    }

    fn tap(&self, id: u64, filter: &[u8]) -> Result<(), String> {
        self.taps.start(id, filter)
    }

    fn untap(&self, id: u64) {
        self.taps.stop(id);
    }

    fn connected(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
        if connected {
            self.last_report
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
    }

    fn event(&self, event: Value) {
        {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            if events.len() >= EVENTS_MAX {
                events.pop_front();
            }
            events.push_back(event);
        }
        self.bell.ring();
    }
}

impl Admin for Shared {
    fn metrics_text(&self) -> String {
        let most = self.connections_max();
        self.metrics
            .prometheus(&self.workload_name, self.id.as_str(), most)
    }

    fn ready(&self) -> bool {
        self.is_ready()
    }

    fn held(&self) -> Vec<(String, String)> {
        self.records()
            .iter()
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect()
    }

    fn drain(&self) {
        self.drain();
    }
}
