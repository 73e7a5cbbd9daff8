//! `tulle._engine.Hub`: the control plane's port.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tulle_engine::hub::{Command, Limits};

use crate::error::raise;

/// The control plane's mTLS port, on a thread of its own.
#[pyclass(frozen, module = "tulle._engine")]
pub(crate) struct Hub {
    inner: tulle_engine::hub::Hub,
}

#[pymethods]
impl Hub {
    #[new]
    fn new(py: Python<'_>, listen: &str) -> PyResult<Self> {
        let inner = py.detach(|| tulle_engine::hub::Hub::bind(listen, Limits::default()));
        Ok(Self {
            inner: inner.map_err(raise)?,
        })
    }

    fn address(&self) -> String {
        self.inner.address().to_string()
    }

    fn set_identity(
        &self,
        py: Python<'_>,
        chain_pem: &str,
        key_pem: &str,
        roots_pem: &str,
    ) -> PyResult<()> {
        py.detach(|| self.inner.set_identity(chain_pem, key_pem, roots_pem))
            .map_err(raise)
    }

    fn publish(&self, py: Python<'_>, name: &str, version: &str, data: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner.publish(name, version, data))
            .map_err(raise)
    }

    fn withdraw(&self, py: Python<'_>, name: &str) {
        py.detach(|| self.inner.withdraw(name));
    }

    fn forget(&self, py: Python<'_>, name: &str) {
        py.detach(|| self.inner.forget(name));
    }

    fn next_event<'py>(
        &self,
        py: Python<'py>,
        timeout_ms: u64,
    ) -> Option<(&'static str, Bound<'py, PyBytes>)> {
        let event = py.detach(|| self.inner.next_event(Duration::from_millis(timeout_ms)))?;
        Some((event.kind, PyBytes::new(py, &event.body)))
    }

    fn reply(&self, py: Python<'_>, request_id: u64, status: u16, body: &[u8]) -> bool {
        py.detach(|| self.inner.reply(request_id, status, body.to_vec()))
    }

    fn send(&self, py: Python<'_>, peer: u64, kind: &str, body: &[u8]) -> PyResult<bool> {
        let command = match kind {
            "tap" => Command::Tap,
            "untap" => Command::Untap,
            "resolve" => Command::Resolve,
            _ => {
                return Err(raise(format!(
                    "kind: {kind:?} is unknown; allowed: tap, untap, resolve"
                )));
            }
        };
        py.detach(|| self.inner.send(peer, command, body))
            .map_err(raise)
    }

    fn disconnect(&self, py: Python<'_>, peer: u64, reason: &str) -> bool {
        py.detach(|| self.inner.disconnect(peer, reason))
    }

    fn stats<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.inner.stats()))
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.inner.stop());
    }
}
