//! What requests under token rate limits are held to. In: a rule in upstream's form, or a policy in ours. Out: the
//! checked policy, or the field that cannot be used. Pure.

mod native;
#[cfg(test)]
mod tests;
mod upstream;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::rule::Rule;
use crate::config::{self, Common, Compiled, ConfigError, Invalid, NamedStores, Store, Stores};
use crate::models::Models;
use crate::paths::Paths;
use crate::values::{MAX_AMOUNT, WINDOW_SECONDS_MAX};
use crate::wire;
use crate::wire::limit::{Dialect, Rate, Rejection};

/// What requests are held to.
#[derive(Debug)]
pub struct Policy {
    pub store: Arc<Store>,
    pub rule_name: String,
    pub flavor: Flavor,
    /// Limits of all requests.
    pub limits: Limits,
    /// Limits of the requests for one model, besides.
    pub models: Models<Limits>,
    pub rejection: Rejection,
    /// Tokens are held for requests in flight; so many for the answer to one that does not say how long it may be.
    pub reserve: Option<i64>,
    /// How requests may end; in upstream's form nothing of it is said.
    pub ends: wire::Ends,
}

/// Limits that apply together.
#[derive(Debug)]
pub struct Limits {
    /// For all requests together.
    pub global: Vec<Rate>,
    pub rules: Vec<Rule>,
}

/// Whose rules decide where upstream and we differ.
#[derive(Debug, PartialEq, Eq)]
pub enum Flavor {
    Upstream(Dialect),
    Native {
        /// What is limited; upstream limits every path.
        paths: Paths,
    },
}

impl Policy {
    /// How keys are spelled.
    pub(super) const fn dialect(&self) -> Dialect {
        match self.flavor {
            Flavor::Upstream(dialect) => dialect,
            Flavor::Native { .. } => Dialect::V2,
        }
    }
}

impl config::Policy for Policy {
    type Wire = wire::limit::Policy;
    type Shared = Dialect;

    fn common(native: Value) -> Result<Common<Dialect>, ConfigError> {
        let wire::limit::Native { version: _, dialect, stores: _, policies: _, report: _ } =
            config::read::<wire::limit::Native<Value, Value>>(native)
                .map_err(|invalid| ConfigError::Native(invalid.to_string()))?;
        Ok(Common::Shared(dialect))
    }

    fn upstream(keys: &Map<String, Value>, dialect: &Dialect, stores: &mut Stores) -> Result<Self, Invalid> {
        upstream::policy(keys, *dialect, stores)
    }

    fn native(wire: wire::limit::Policy, _: &Dialect, stores: NamedStores<'_>) -> Result<Compiled<Self>, Invalid> {
        native::policy(wire, stores)
    }
}

/// Whether so many tokens in such a window can be counted.
fn is_rate(rate: Rate) -> bool {
    (1..=MAX_AMOUNT).contains(&rate.tokens) && (1..=WINDOW_SECONDS_MAX).contains(&rate.window_seconds)
}
