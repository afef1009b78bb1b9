//! Proxies between a program under test and what it writes to: they count what it changes, can stop everything at the
//! n-th change, and can be slow, silent or closed. Comes in: connections of the program. Goes out: the same bytes to
//! the real thing, and [`Operations`] for the test to look at.

mod api;
mod door;
mod operations;
mod redis;

pub use api::{ApiProxy, Held};
pub use operations::{Moment, Operation, Operations, Reached};
pub use redis::{RedisProxy, Replies};

/// What a proxy does with what arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Pass,
    /// Connections are accepted and nothing moves on them, until it passes again.
    Pause,
    /// Connections are accepted and what comes is thrown away: it is never answered, also not later.
    Swallow,
    /// Open connections break and new ones are refused.
    Refuse,
}
