//! The native configuration of the modules: what the controller writes under `aiquota` in a WasmPlugin's
//! `defaultConfig`, and in a rule's `config`. One type for both ends. Pure.

mod ends;
pub mod limit;
mod models;
pub mod upstream;
pub mod upstream_limit;

use std::collections::BTreeMap;

pub use ends::{Ends, Errors, OnMissingUsage, OnStoreFailure, PolicyMode, UnlistedPaths};
pub use models::{LimitedModel, Model, Own};
use serde::{Deserialize, Serialize};

use crate::values::MAX_AMOUNT;

/// The version of this format; a module refuses to start on another.
pub const VERSION: u32 = 1;

/// The key in `defaultConfig` under which all of it stands. Alone it enforces nothing.
pub const KEY: &str = "aiquota";

/// `defaultConfig.aiquota`. `P` is [`Policy`], `S` is [`Schedule`] and `R` is [`Report`] for who writes it; the module
/// reads each by itself, so that a broken one refuses only what it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Native<P = Policy, S = Schedule, R = Report> {
    pub version: u32,
    /// The module only removes the identity header of every request, and does nothing else.
    #[serde(default, skip_serializing_if = "is_false")]
    pub guard: bool,
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub stores: BTreeMap<String, Store>,
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub schedules: BTreeMap<String, S>,
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<String, P>,
    /// Absent: the module says nothing of itself.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub report: Option<R>,
}

/// What a module says of itself in the stores it uses, besides its version and who runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    /// `<uid of the namespace kube-system>/<the gateway's namespace>`: for whom. Several may share a Redis.
    pub of: String,
    /// Equal for configurations that mean the same. A hash that whoever writes the configuration makes: the gateway
    /// pastes secrets into it and may order it otherwise.
    pub revision: String,
}

/// The `config` of a match rule: which policy what it matches is under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub policy: String,
    /// Whether a request without consumer passes on paths that are neither metered nor the admin's
    /// (Gateway and Domain targets); otherwise identity is asked for on every path. Limits ask for none: never there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub open: bool,
}

/// One Redis endpoint as the gateway knows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Store {
    pub service: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub database: u32,
    pub timeout_ms: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Boundaries of periods: the unix seconds at which they begin, ascending, and the ordinal of the first; those of the
/// others follow it one by one. Two may begin in the same second, where clocks that are set forward skip one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    pub first: i64,
    pub at: Vec<i64>,
}

impl Schedule {
    /// Each with its ordinal; nothing unless they are ascending and can be counted.
    #[must_use]
    pub fn boundaries(&self) -> Option<Vec<(i64, i64)>> {
        let last = self.first.checked_add(i64::try_from(self.at.len()).ok()?)?;
        let countable = self.first >= -MAX_AMOUNT && last <= MAX_AMOUNT;
        let ascending = self.at.is_sorted() && self.at.iter().all(|at| (-MAX_AMOUNT..=MAX_AMOUNT).contains(at));
        (countable && ascending && !self.at.is_empty()).then(|| (self.first..).zip(self.at.iter().copied()).collect())
    }
}

/// What a period gives at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefreshMode {
    /// The balance becomes the grant.
    Reset,
    /// The grant is added.
    Add,
    /// The grant is added to what is left, up to a cap.
    CarryOver,
}

/// How a policy's balances refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refresh {
    /// The name of the schedule.
    pub schedule: String,
    pub mode: RefreshMode,
    /// The cap of [`RefreshMode::CarryOver`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_balance: Option<i64>,
}

/// What the modules' requests under one or several merged objects are held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// The name of the store. Absent only together with `unavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    pub key_prefix: String,
    /// Who owns a ledger that a request creates: the policy's oldest object.
    pub owner: String,
    /// Path suffixes that are metered.
    pub paths: Vec<String>,
    /// Absent: no admin API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// What a consumer without a balance starts with. Absent: such a consumer is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_quota: Option<i64>,
    /// Another policy with this prefix decides on what requests made from the defaults of other objects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yields: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
    /// Tokens are held for requests in flight. Absent: a request passes if a token is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Reserve>,
    #[serde(default, skip_serializing_if = "Ends::is_default")]
    pub ends: Ends,
    /// By name. Absent: requests are not asked which model they are for.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<Model>,
    /// Everything that is matched is answered with 503 and this reason: the store or its secret vanished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// How many tokens are held for a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reserve {
    /// For the answer to a request that does not say how long it may be; 1 to `MAX_AMOUNT`.
    pub default_max_tokens: i64,
}

/// Who may use the admin API, and where it is below `/v1/chat/completions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Admin {
    pub consumer: String,
    pub path: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, port, database, timeout_ms, username, password } = self;
        f.debug_struct("Store")
            .field("service", service)
            .field("port", port)
            .field("database", database)
            .field("timeout_ms", timeout_ms)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "<hidden>"))
            .finish()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_a_table_only_if_it_ascends_and_can_be_counted() {
        let boundaries = |first, at: &[i64]| Schedule { first, at: at.to_vec() }.boundaries();
        assert_eq!(boundaries(-1, &[5, 5, 9]), Some(vec![(-1, 5), (0, 5), (1, 9)]), "clocks that are set forward");
        assert_eq!(boundaries(MAX_AMOUNT - 1, &[5]), Some(vec![(MAX_AMOUNT - 1, 5)]));
        for (first, at) in [
            (0, &[][..]),
            (0, &[5, 4]),
            (0, &[MAX_AMOUNT + 1]),
            (-MAX_AMOUNT - 1, &[5]),
            (MAX_AMOUNT - 1, &[5, 6]),
            (i64::MAX, &[5]),
        ] {
            assert_eq!(boundaries(first, at), None, "{first} {at:?}");
        }
    }
}
