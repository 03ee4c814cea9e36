//! `ckpt_store._core`: the store for the Python package around it. Never imports a framework, and never holds the GIL while the
//! store works.

use pyo3::prelude::*;

/// The core of `ckpt_store`; what people use is the package.
#[pymodule]
mod _core {}
