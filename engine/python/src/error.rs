//! The one place where an error of the engine becomes an exception.

use std::fmt::Display;

use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::PyException;

create_exception!(
    tulle._engine,
    EngineError,
    PyException,
    "The engine refused what it was given, or could not do what it was asked."
);

/// Whatever the engine said, as an exception with the same words.
pub(crate) fn raise(error: impl Display) -> PyErr {
    EngineError::new_err(error.to_string())
}
