//! What is reported about each object: verdict, seeds and writes in, the whole status out, which equals the one
//! before unless something changed. Pure.

use std::collections::BTreeMap;

/// What became of each WasmPlugin of a [`crate::Program`], by its name.
pub type Writes = BTreeMap<&'static str, Write>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is as wanted, by this write or an earlier one.
    Done,
    /// It has not been tried yet.
    Waiting,
    Failed {
        error: String,
    },
}
