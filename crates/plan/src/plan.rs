//! What shall be: Redis endpoints, balances, one verdict per object, and what the WasmPlugins are made of. Data
//! only; made by [`crate::build`].

use std::{collections::HashSet, fmt, ops::Range, sync::Arc, time::Duration};

use api::{
    AiQuota, AiQuotaStatus, AiQuotaStore, AiTokenRateLimit, Condition, Consumer, Model, NearLimit, OnStoreFailure,
    Rule, TargetRef, TargetStatus,
};
use enforcement::redis::{
    Apply, Balance, Fence, Grant, Query,
    overrides::{Overrides, SetOverrides},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use jiff::Timestamp;

use crate::{
    Database, Finalizer, Key, Life, ObjectKind, Reason, Undecodable,
    gateway::{Gateway, Part},
    kind::{Limit, Quota},
    models::{self, Listed},
    near_limits::Watched,
    overrides::OverridesProblem,
    stores::{self, Databases},
    tables::{Refreshing, Turn},
};

pub struct Plan {
    /// One per AIQuotaStore object.
    pub stores: Vec<StorePlan>,
    /// One per balance; those of one object stand together.
    pub seeds: Vec<Seed>,
    /// The limits of single values, one set per rule of an AITokenRateLimit that has them; those of one object stand
    /// together.
    pub overrides: Vec<OverrideSet>,
    /// One per AIQuota, then one per AITokenRateLimit, undecodable ones too.
    pub verdicts: Vec<Verdict>,
    /// The first moment at which the same world would give another plan.
    pub next: Option<Timestamp>,
    /// What the WasmPlugins are made of: [`crate::program`] finishes it.
    pub(crate) gateway: Gateway,
    pub(crate) quotas: Part<Quota>,
    pub(crate) limits: Part<Limit>,
    /// The uid of the namespace kube-system.
    pub(crate) cluster: String,
    /// As owners, the objects that cannot be understood: asked for each balance in the way, of which there may be many.
    pub(crate) unread: HashSet<String>,
    /// The sets that somebody wants, though they may not be among those to be made.
    pub(crate) wanted_overrides: Wanted,
    /// The lease's term.
    pub(crate) term: i64,
    /// The stores that cannot be read.
    pub(crate) unread_stores: Vec<String>,
    /// The stores as Redis databases.
    pub(crate) databases: Databases,
}

/// A store and how the controller reaches it.
#[derive(Clone, Debug)]
pub struct StorePlan {
    pub object: Arc<AiQuotaStore>,
    /// Or why the store cannot be used.
    pub access: Result<Access, Reason>,
    /// The database that this plan takes it for.
    pub database: Option<Database>,
    pub warnings: Vec<StoreWarning>,
}

/// How a store is reached. Two that are equal may share a connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Access {
    pub host: String,
    pub port: u16,
    pub database: u32,
    pub username: Option<String>,
    pub password: Option<String>,
    pub timeout: Duration,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, database, username: _, password: _, timeout } = self;
        write!(f, "{host}:{port}/{database} within {timeout:?}")
    }
}

/// A balance as it should be.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The index of its store in [`Plan::stores`], whose `access` is there.
    pub store: usize,
    pub balance: Balance,
    pub grant: Grant,
    pub object: Arc<Owner>,
    /// Nothing where balances are not refreshed.
    pub(crate) refreshing: Option<Arc<Refreshing>>,
    /// How they were refreshed until now, where that is edited.
    pub(crate) former: Option<Arc<Refreshing>>,
    pub(crate) turn: Option<Turn>,
    /// The index of the consumer among all that the object lists.
    pub consumer: usize,
}

/// An object as the owner of balances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `<uid of namespace kube-system>/<namespace>/<name>`.
    pub name: String,
    pub uid: String,
    pub generation: i64,
    pub term: i64,
    /// The token of a refresh by hand, which each of its balances honours once.
    pub refresh: Option<String>,
}

/// Stores, as the index in [`Plan::stores`], and the sets of overrides that are wanted there; without a store: whose
/// cannot be told.
pub(crate) struct Wanted(pub(crate) HashSet<(Option<usize>, Overrides)>);

/// Limits that single values have instead of their rule's, as they should be.
#[derive(Clone, Debug)]
pub struct OverrideSet {
    /// The index of its store in [`Plan::stores`], whose `access` is there.
    pub store: usize,
    pub key: Overrides,
    pub object: Arc<Owner>,
    pub(crate) digest: String,
    /// Hashes and limits.
    pub(crate) entries: Vec<(String, String)>,
}

impl OverrideSet {
    /// The script call that makes it so.
    #[must_use]
    pub fn set(&self) -> SetOverrides<'_> {
        let Self { store: _, key, object, digest, entries } = self;
        let Owner { name, uid, generation, term, refresh: _ } = &**object;
        let fence = Fence { term: *term, uid, generation: *generation };
        SetOverrides { key, owner: name, fence, digest, entries }
    }

    /// How many values have a limit.
    #[must_use]
    pub fn values(&self) -> usize {
        self.entries.len()
    }

    /// Equal as long as it is the same that is to be written.
    #[must_use]
    pub fn stamp(&self) -> (&str, &str, i64) {
        (&self.digest, &self.object.uid, self.object.generation)
    }
}

impl Plan {
    /// The uid of the namespace kube-system, and the lease's term.
    #[must_use]
    pub fn writer(&self) -> (&str, i64) {
        (&self.cluster, self.term)
    }

    /// For whom modules say what they run: see [`enforcement::redis::loaded`].
    #[must_use]
    pub fn whose(&self) -> &str {
        &self.gateway.whose
    }

    /// Whether anybody wants a set of overrides that was found in the database that these stores lead to.
    #[must_use]
    pub fn wants_overrides(&self, stores: &[usize], key: &Overrides) -> bool {
        let Wanted(all) = &self.wanted_overrides;
        // Where it is not known yet which database a store is, it may be this one.
        let unknown = (0..self.stores.len()).filter(|store| !self.databases.possible(*store).is_empty());
        let all_of = stores.iter().copied().chain(unknown).map(Some).chain([None]);
        all_of.into_iter().any(|store| all.contains(&(store, key.clone())))
    }

    /// Whether a seed that was answered with another owner may take the balance from it: the plan has given it to the
    /// seed's object, so the other one, if it lives, no longer lists it; but what another cluster, an object that
    /// cannot be understood, or one whose store has not said which database it is, may still want is theirs.
    #[must_use]
    pub fn may_take_over(&self, owner: &str) -> bool {
        let cluster = owner.split_once('/').map(|(cluster, _)| cluster);
        cluster == Some(self.cluster.as_str()) && !self.unread.contains(owner)
    }
}

impl Seed {
    /// The script call that makes it so. `takeover`: see [`Plan::may_take_over`].
    #[must_use]
    pub fn apply(&self, takeover: bool) -> Apply<'_> {
        let Owner { name, uid, generation, term, refresh } = &*self.object;
        Apply {
            balance: &self.balance,
            owner: name,
            fence: Fence { term: *term, uid, generation: *generation },
            grant: self.grant,
            takeover,
            refresh: refresh.as_deref(),
            period: self.refreshing.as_deref().and_then(Refreshing::period),
        }
    }

    /// The script call to be made before [`Self::apply`] where the refresh was edited: it gives what the boundaries
    /// that passed before the edit give, whether or not the consumer asked for anything since.
    #[must_use]
    pub fn roll(&self) -> Option<Query<'_>> {
        let period = self.former.as_deref().and_then(Refreshing::period);
        period.is_some().then_some(Query { balance: &self.balance, period })
    }

    /// The ordinal of the period that it is in by the plan's clock.
    #[must_use]
    pub fn ordinal(&self) -> Option<i64> {
        self.refreshing.as_deref().and_then(Refreshing::turn).map(|turn| turn.ordinal)
    }

    /// The period that applying it begins. Nothing where it has none, or the gateway's module begins periods itself:
    /// then what was applied once need not be applied again.
    #[must_use]
    pub const fn turn(&self) -> Option<Turn> {
        self.turn
    }
}

/// What became of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seeded {
    /// No answer yet.
    Pending,
    Applied,
    /// Another object owns the balance and keeps it.
    Conflict {
        owner: String,
    },
    /// What is stored is not a balance; requests of the consumer are refused.
    Malformed {
        /// What it is instead, without its text.
        found: String,
    },
    /// What is stored was made by another version of this product; requests of the consumer are refused.
    Unreadable {
        problem: String,
    },
    /// A newer controller or generation was there first: what this plan knows is old.
    Stale {
        /// The term of who was there first.
        term: i64,
    },
    Unreachable {
        error: String,
    },
}

impl Seeded {
    /// Whether asking again would change nothing: a rule need not wait any longer.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Applied | Self::Conflict { .. } | Self::Malformed { .. } | Self::Unreadable { .. } => true,
            Self::Pending | Self::Stale { .. } | Self::Unreachable { .. } => false,
        }
    }
}

/// What the planner says about one object.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub key: Key,
    pub object: Object,
    pub owner: Arc<Owner>,
    pub life: Life,
    /// What has to be done about our finalizer.
    pub finalizer: Finalizer,
    /// Where its balances are, if it could be understood.
    pub(crate) declared: Option<Declared>,
    /// Each target, and why the quota does not apply to it.
    pub targets: Vec<(TargetRef, Option<Reason>)>,
    /// Why the object is not, or not wholly, accepted: the reasons that are not a target's.
    pub refused: Vec<Reason>,
    /// Why its store, or the prefix of its balances, cannot be used: rules that were never programmed are withheld,
    /// others refuse.
    pub withheld: Option<Reason>,
    /// Targets, by their index, that have no rule yet, and why that waits.
    pub waits: Vec<(usize, Reason)>,
    /// The object's seeds in [`Plan::seeds`].
    pub seeds: Range<usize>,
    /// The object's sets in [`Plan::overrides`].
    pub overrides: Range<usize>,
    /// Which of its limits may be noted as nearly reached; nothing where it does not warn, or limits nothing.
    pub watched: Option<Watched>,
    /// When its next period begins, by the table of its schedule.
    pub next_refresh: Option<Timestamp>,
    pub warnings: Vec<Warning>,
}

/// Where the balances of an object are.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) key_prefix: String,
    /// The index of its store in [`Plan::stores`]; nothing while that cannot be used.
    pub(crate) store: Option<usize>,
}

/// An object as the watch holds it.
#[derive(Clone, Debug)]
pub enum Object {
    Read(Arc<AiQuota>),
    Limit(Arc<AiTokenRateLimit>),
    Undecodable(Arc<Undecodable>),
}

impl Verdict {
    /// Whether the object cannot be understood, so that what was in force before stays.
    pub(crate) fn keeps_last_rule(&self) -> bool {
        self.refused.first().is_some_and(Reason::keeps_last_rule)
    }

    /// Whether nobody may take its balances: what they are for cannot be told. A prefix that its namespace may not have
    /// any more keeps nothing from others.
    pub(crate) fn keeps_balances(&self) -> bool {
        self.keeps_last_rule() && !matches!(self.withheld, Some(Reason::NotTrusted { .. }))
    }
}

impl Object {
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Read(quota) => &quota.metadata,
            Self::Limit(limit) => &limit.metadata,
            Self::Undecodable(unread) => &unread.metadata,
        }
    }

    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        match self {
            Self::Read(_) => ObjectKind::AiQuota,
            Self::Limit(_) => ObjectKind::AiTokenRateLimit,
            Self::Undecodable(unread) => unread.kind,
        }
    }

    /// The conditions that were reported last.
    pub(crate) fn conditions(&self) -> &[Condition] {
        match self {
            Self::Limit(limit) => limit.status.as_ref().map(|status| status.conditions.as_slice()),
            Self::Read(_) | Self::Undecodable(_) => self.status().map(|status| status.conditions.as_slice()),
        }
        .unwrap_or_default()
    }

    /// What was reported last of its targets.
    pub(crate) fn targets(&self) -> &[TargetStatus] {
        match self {
            Self::Limit(limit) => limit.status.as_ref().map(|status| status.targets.as_slice()),
            Self::Read(_) | Self::Undecodable(_) => self.status().map(|status| status.targets.as_slice()),
        }
        .unwrap_or_default()
    }

    /// The status it has, if it is an AIQuota, or cannot be read.
    #[must_use]
    pub fn status(&self) -> Option<&AiQuotaStatus> {
        match self {
            Self::Read(quota) => quota.status.as_ref(),
            Self::Limit(_) => None,
            Self::Undecodable(unread) => unread.status.as_ref(),
        }
    }

    /// Why it cannot be read.
    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Read(_) | Self::Limit(_) => None,
            Self::Undecodable(unread) => Some(&unread.error),
        }
    }

    /// One of those, as messages name it.
    #[must_use]
    pub fn listed_name(&self, index: usize) -> Option<String> {
        self.listed().nth(index).map(|listed| listed.name())
    }

    /// The field that lists whom messages name so.
    #[must_use]
    pub fn listed_field(&self, name: &str) -> Option<String> {
        match self {
            Self::Read(quota) => models::field(&quota.spec.consumers, &quota.spec.models, name),
            Self::Limit(_) | Self::Undecodable(_) => None,
        }
    }

    /// The percentage of a quota, or of a limit, at which somebody is warned.
    pub(crate) fn warn_at(&self) -> Option<u8> {
        match self {
            Self::Read(quota) => quota.spec.warn_at,
            Self::Limit(limit) => limit.spec.warn_at,
            Self::Undecodable(_) => None,
        }
    }

    /// The limits that were said to be nearly reached.
    pub(crate) fn near_limits(&self) -> &[NearLimit] {
        match self {
            Self::Limit(limit) => limit.status.as_ref().map(|status| status.nearly_exhausted.as_slice()),
            Self::Read(_) | Self::Undecodable(_) => None,
        }
        .unwrap_or_default()
    }

    /// Its store and what it says of requests about which that does not answer; nothing where it could not be read.
    pub(crate) fn store(&self) -> Option<(&str, OnStoreFailure)> {
        let (store, ends, usual) = match self {
            Self::Read(quota) => (&quota.spec.store_ref, quota.spec.ends(), OnStoreFailure::Refuse),
            Self::Limit(limit) => (&limit.spec.store_ref, limit.spec.ends(), OnStoreFailure::Admit),
            Self::Undecodable(_) => return None,
        };
        let store = store.as_ref().map_or(stores::DEFAULT, |store| &store.name);
        Some((store, ends.on_store_failure.unwrap_or(usual)))
    }

    /// The rules it has, if it is an AITokenRateLimit.
    pub(crate) fn rules(&self) -> &[Rule] {
        match self {
            Self::Limit(limit) => &limit.spec.rules,
            Self::Read(_) | Self::Undecodable(_) => &[],
        }
    }

    /// The consumers it lists; none where it could not be read.
    pub(crate) fn listed(&self) -> impl Iterator<Item = Listed<'_>> {
        let (consumers, models): (&[Consumer], &[Model]) = match self {
            Self::Read(quota) => (&quota.spec.consumers, &quota.spec.models),
            Self::Limit(_) | Self::Undecodable(_) => (&[], &[]),
        };
        models::listed(consumers, models)
    }
}

/// Something the author should know though the rule is in force: a condition of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    #[error(
        "no auth plugin runs before {before} on {targets}, so that requests come there without identity and {nobody}; {seen}"
    )]
    NoAuthentication { targets: String, seen: String, before: &'static str, nobody: &'static str },
    #[error(
        "{plugins} before {before} on {target} knows no consumer {consumers}, and lets only those it lists come through; add them to the consumers of the plugin, or correct the names"
    )]
    ConsumerUnknown { consumers: String, target: String, plugins: String, before: &'static str },
    #[error(
        "{plugins} before {before} does not allow consumer {consumers} on {target}, so that its requests are refused there with 403; add it to `allow` of the plugin's rule"
    )]
    ConsumerNotAllowed { consumers: String, target: String, plugins: String, before: &'static str },
    #[error(
        "WasmPlugin {plugin} is {known} too and has a rule over {target}: tokens are charged twice; remove that rule"
    )]
    ForeignRule { target: String, plugin: String, known: &'static str },
    #[error(
        "the identity guard is off (--guard=off): a client that sends x-mse-consumer past the auth plugins spends another's quota"
    )]
    IdentityUnguarded,
    #[error(
        "no consumer is listed and there is no defaultQuota: every request to a metered path is refused with 403, unless \
         somebody else put a balance of its consumer into Redis; list consumers, or give a defaultQuota"
    )]
    NobodyMaySpend,
    #[error(
        "the annotation {annotation} must be 1 to 64 visible ASCII characters, for example a time: nothing is refreshed by it",
        annotation = api::REFRESH
    )]
    RefreshUnreadable,
    #[error(
        "what consumers have left that are not listed any more could not be put aside, so that they may still spend it; store {store}: {problem}; this is tried again every 30 seconds"
    )]
    NotParked { store: String, problem: String },
    #[error("{percent} percent of {of} {named}")]
    NearlyExhausted { percent: u8, of: &'static str, named: String },
    #[error("{0}; what was last read stays in force")]
    OverridesInvalid(OverridesProblem),
    #[error(
        "the controller cannot reach store {store}, {at}: the AIQuotaStore says why; where the gateway cannot either, requests {then}"
    )]
    StoreUnreachable { store: String, at: String, then: &'static str },
}

impl Warning {
    /// The type of the condition, and the word of the Event.
    #[must_use]
    pub const fn condition(&self) -> &'static str {
        match self {
            Self::NoAuthentication { .. } => "NoAuthentication",
            Self::ConsumerUnknown { .. } => "ConsumerUnknown",
            Self::ConsumerNotAllowed { .. } => "ConsumerNotAllowed",
            Self::ForeignRule { .. } => "ForeignRule",
            Self::IdentityUnguarded => "IdentityUnguarded",
            Self::NobodyMaySpend => "NobodyMaySpend",
            Self::RefreshUnreadable => "RefreshUnreadable",
            Self::NotParked { .. } => "NotParked",
            Self::NearlyExhausted { .. } => "NearlyExhausted",
            Self::OverridesInvalid(_) => "OverridesInvalid",
            Self::StoreUnreachable { .. } => "StoreUnreachable",
        }
    }
}

/// Something the administrator should know though the store is in use: a condition of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreWarning {
    #[error(
        "WasmPlugin {plugin} sets up Redis service {service} with another {option}; plugins share one client per service, and the last that sets it up decides for all{}: make them equal, or give this Redis another name for one of them",
        Others(.more)
    )]
    RedisShared { service: String, plugin: String, option: &'static str, more: usize },
    #[error(
        "database {database} without credentials: not every gateway chooses the database of a client that does not authenticate, and would then look for balances in database 0; use database 0, or a password"
    )]
    DatabaseWithoutPassword { database: u32 },
    #[error(
        "service {service} has {addresses} addresses: the gateway takes any of them for each call, but balances are in one Redis; give one address"
    )]
    SeveralAddresses { service: String, addresses: usize },
    #[error(
        "the maxmemory-policy of Redis is {policy}: when its memory is full it removes balances, and consumers are refused or begin anew; set it to noeviction"
    )]
    MayEvict { policy: String },
}

impl StoreWarning {
    /// The type of the condition, and the word of the Event.
    #[must_use]
    pub const fn condition(&self) -> &'static str {
        match self {
            Self::RedisShared { .. } => "RedisShared",
            Self::DatabaseWithoutPassword { .. } => "DatabaseWithoutPassword",
            Self::SeveralAddresses { .. } => "SeveralAddresses",
            Self::MayEvict { .. } => "MayEvict",
        }
    }
}

struct Others<'a>(&'a usize);

impl fmt::Display for Others<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.0 == 0 { Ok(()) } else { write!(f, " (and {} more plugins differ)", self.0) }
    }
}
