//! What is stored in Redis and how it is asked for: keys, commands, the Lua libraries, and replies turned into
//! typed outcomes. Bytes come in, bytes and values go out; no I/O. Only this module spells keys and holds Lua.
//!
//! A script is asked for with [`Invocation::evalsha`], and once more with [`Invocation::eval`] when the answer is
//! [`ReplyError::NoScript`]; the request's own `outcome` function reads the answer.

mod admin;
mod apply;
mod charge;
mod check;
pub mod database;
mod error;
pub mod index;
mod keys;
mod leave;
pub mod limits;
pub mod loaded;
pub mod overrides;
mod period;
mod resp;
mod scan;
mod script;
pub mod warned;

pub use admin::{Add, AdminOutcome, Query, Set};
pub use apply::{Apply, ApplyOutcome, Fence, Grant};
pub use charge::{Charge, ChargeOutcome};
pub use check::{Check, CheckOutcome, Hold, Left, Renew};
pub use error::ReplyError;
pub use keys::{Balance, is_of, of_model};
pub use leave::{Delete, LeaveOutcome, Park, Release};
pub use period::Period;
pub use resp::{Command, Malformed, Reply};
pub use scan::{Ledgers, Scanned};
pub use script::{Invocation, LAYOUT, Library, SHA1, SOURCE};
