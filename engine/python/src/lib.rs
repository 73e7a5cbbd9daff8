//! The engine as Python sees it: `tulle._engine`.
//!
//! Thin on purpose: bytes in, bytes out, and the GIL given up around every call that may wait.

mod engine;
mod error;
mod hub;
mod memory;

use pyo3::prelude::*;

/// The compiled part of Tulle: the sidecar's data plane and the control plane's port.
#[pymodule]
mod _engine {
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::engine::Threads;
    #[pymodule_export]
    use crate::error::EngineError;
    #[pymodule_export]
    use crate::hub::Hub;
}
