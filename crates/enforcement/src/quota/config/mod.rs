//! What consumers of a quota are held to. In: a rule in upstream's form, or a policy in ours with the schedules beside
//! it. Out: the checked policy, or the field that cannot be used. Pure.

mod native;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{self, Common, Compiled, ConfigError, Invalid, NamedStores, Store, Stores};
use crate::models::Models;
use crate::paths::Paths;
use crate::wire;

/// What requests are held to.
#[derive(Debug, PartialEq, Eq)]
pub struct Policy {
    pub store: Arc<Store>,
    pub key_prefix: String,
    pub paths: Paths,
    /// Who may use the admin API.
    pub admin: Option<String>,
    pub flavor: Flavor,
    /// Tokens are held for requests in flight; so many for the answer to one that does not say how long it may be.
    pub reserve: Option<i64>,
    /// How requests may end; in upstream's form nothing of it is said.
    pub ends: wire::Ends,
    /// What requests for one model draw on instead; nothing where that are the common balances.
    pub models: Models<Option<Own>>,
}

/// The balances of one model.
#[derive(Debug, PartialEq, Eq)]
pub struct Own {
    pub key_prefix: String,
    pub said: wire::Own,
}

/// Whose rules decide: which commands are sent, and what happens where upstream has nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Flavor {
    Upstream,
    Native {
        /// Who owns a ledger that a request creates.
        owner: String,
        default_quota: Option<i64>,
        /// Whether another policy decides on what other objects' defaults made.
        yields: bool,
        refresh: Option<(wire::Refresh, Table)>,
    },
}

/// The boundaries of a schedule with their ordinals, ascending.
pub type Table = Arc<[(i64, i64)]>;

/// Tables by the names of their schedules, as far as they can be read.
pub type Tables = BTreeMap<String, Result<Table, Invalid>>;

impl config::Policy for Policy {
    type Wire = wire::Policy;
    type Shared = Tables;

    fn common(native: Value) -> Result<Common<Tables>, ConfigError> {
        native::common(native)
    }

    fn upstream(keys: &Map<String, Value>, _: &Tables, stores: &mut Stores) -> Result<Self, Invalid> {
        upstream::policy(keys, stores)
    }

    fn native(wire: wire::Policy, tables: &Tables, stores: NamedStores<'_>) -> Result<Compiled<Self>, Invalid> {
        native::policy(wire, tables, stores)
    }
}
