//! Measurements that `cargo xtask bench` prints; none of them is a test.

pub mod exchange;
pub mod lookup;
pub mod lua;
