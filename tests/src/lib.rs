//! What several tests of the whole system share.

pub mod bench;
pub mod permissions;
pub mod random;
pub mod raw;
