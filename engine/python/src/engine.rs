//! `tulle._engine.Engine` and `Threads`: the data plane of one workload, and what several share.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::raise;
use crate::memory;

/// The longest join: whoever wants to wait longer tries again.
const JOIN_SECONDS_MAX: f64 = 3600.0;

/// Threads that carry the traffic of several workloads.
#[pyclass(frozen, module = "tulle._engine")]
pub(crate) struct Threads {
    inner: Arc<tulle_engine::threads::Threads>,
}

#[pymethods]
impl Threads {
    #[new]
    fn new(workers: usize) -> PyResult<Self> {
        let inner = tulle_engine::threads::Threads::start(workers);
        Ok(Self {
            inner: inner.map_err(raise)?,
        })
    }

    fn wait(&self, py: Python<'_>, seen: u64, timeout_ms: u64) -> u64 {
        py.detach(|| self.inner.wait(seen, Duration::from_millis(timeout_ms)))
    }
}

/// The data plane of one workload.
#[pyclass(frozen, module = "tulle._engine")]
pub(crate) struct Engine {
    inner: tulle_engine::engine::Engine,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (settings, threads=None))]
    fn new(py: Python<'_>, settings: &[u8], threads: Option<&Threads>) -> PyResult<Self> {
        memory::set_give_back();
        let inner = py.detach(|| match threads {
            None => tulle_engine::engine::Engine::bind(settings),
            Some(threads) => tulle_engine::engine::Engine::bind_on(&threads.inner, settings),
        });
        Ok(Self {
            inner: inner.map_err(raise)?,
        })
    }

    fn addresses<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.addresses())
    }

    #[pyo3(signature = (token, roots_pem, timeout_s))]
    fn join(
        &self,
        py: Python<'_>,
        token: Option<&str>,
        roots_pem: Option<&str>,
        timeout_s: f64,
    ) -> PyResult<&'static str> {
        let timeout = join_time(timeout_s)?;
        py.detach(|| self.inner.join(token, roots_pem, timeout))
            .map_err(raise)
    }

    #[pyo3(signature = (token, roots_pem, timeout_s))]
    fn enter(
        &self,
        token: Option<String>,
        roots_pem: Option<String>,
        timeout_s: f64,
    ) -> PyResult<()> {
        let timeout = join_time(timeout_s)?;
        self.inner.enter(token, roots_pem, timeout).map_err(raise)
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.inner.start()).map_err(raise)
    }

    fn apply(&self, py: Python<'_>, name: &str, data: &[u8]) -> PyResult<()> {
        py.detach(|| self.inner.apply(name, data)).map_err(raise)
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

    fn next_event<'py>(&self, py: Python<'py>, timeout_ms: u64) -> Option<Bound<'py, PyBytes>> {
        let event = py.detach(|| self.inner.next_event(Duration::from_millis(timeout_ms)))?;
        Some(PyBytes::new(py, &event))
    }

    fn stats<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.inner.stats()))
    }

    fn resolve<'py>(&self, py: Python<'py>, request: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.inner.resolve(request)))
    }

    fn drain_inbound(&self, py: Python<'_>) {
        py.detach(|| self.inner.drain_inbound());
    }

    fn drain(&self, py: Python<'_>) {
        py.detach(|| self.inner.drain());
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.inner.stop());
    }
}

fn join_time(timeout_s: f64) -> PyResult<Duration> {
    if !(0.0..=JOIN_SECONDS_MAX).contains(&timeout_s) {
        return Err(raise(format!(
            "timeout_s: {timeout_s} is no wait; allowed: 0 to {JOIN_SECONDS_MAX}"
        )));
    }
    Ok(Duration::from_secs_f64(timeout_s))
}
