//! `ckpt_store._core`: the store for the Python package around it. Never imports a framework, and never holds the GIL while the
//! store works.

mod describe;
mod failure;
mod memory;
mod reader;
mod store;
mod work;

use pyo3::prelude::*;

/// The core of `ckpt_store`; what people use is the package.
#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::memory::{Memory, copy};
    #[pymodule_export]
    use crate::reader::Reader;
    #[pymodule_export]
    use crate::store::{Part, Store};
}
