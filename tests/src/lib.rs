//! What several tests of the whole system share.

pub mod bench;
pub mod random;
pub mod raw;
