//! The control plane with many objects, on a real API server, Redis and controller: what `cargo xtask bench --scale`
//! measures, and what a test with fewer objects asserts by counts. A size comes in, counts and times go out.

mod bed;
mod counts;
mod edits;
mod objects;
mod process;
mod rounds;
mod tables;

pub use bed::{Bed, Ready};
pub use counts::Counts;
pub use edits::{Edit, Edited};
pub use objects::Size;
pub use process::Usage;
pub use rounds::Round;
pub use tables::run;
