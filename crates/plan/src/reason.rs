//! Why something is not as declared. Each reason knows its word (for conditions, Events and metrics) and its fate:
//! what can heal it. Pure.

use std::fmt;

use api::TargetRef;

use crate::{Key, ObjectKind, kind::Kind, overrides::OverridesProblem, validate::Refusal};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("{}", Listed(.0))]
    Invalid(Vec<Refusal>),

    #[error("the object cannot be read: {0}")]
    Undecodable(String),

    #[error("upstream's module (--flavor=upstream) cannot do what is declared: {}", Listed(.0))]
    NotSupportedByPlugin(Vec<Refusal>),

    #[error(
        "{field}: namespace {namespace} is not trusted with {what}; {}, or have the administrator add the namespace to \
         trustedNamespaces of the chart (--trusted-namespace)",
        untrusted(what)
    )]
    NotTrusted { field: String, namespace: String, what: &'static str },

    #[error(
        "{} is unmetered now: upstream's {known} module (--flavor=upstream) would {stricter}, which the rule that was in \
         force did not; correct the object, name Ingresses or HTTPRoutes, or let \
         the administrator go back to --flavor=native",
        Target(.target)
    )]
    NotKept { target: TargetRef, known: &'static str, stricter: &'static str },

    #[error(
        "{} is unmetered now: upstream's {known} module (--flavor=upstream) has no means for what was in force before; \
         correct the object, or let the administrator go back to --flavor=native",
        Target(.target)
    )]
    NotSayable { target: TargetRef, known: &'static str },

    /// What was reported before of a target that it has not had since.
    #[error("{message}")]
    AsBefore { reason: &'static str, message: String },

    #[error("{} does not exist{}", Target(.target), Where(.target, .namespace))]
    TargetNotFound { target: TargetRef, namespace: String },

    #[error("{} is already under the older {kind} {winner}, which differs in {field}; {}", Target(.target), Equal(.derived))]
    TargetConflicted {
        target: TargetRef,
        kind: ObjectKind,
        winner: Key,
        field: &'static str,
        /// Whether the field is a key prefix that the object may not choose.
        derived: bool,
    },

    #[error("{} lies in the ceiling {} of {kind} {winner}; remove it, or let that object say `allowNarrower: true`", Target(.target), Target(.ceiling))]
    Overridden { target: TargetRef, kind: ObjectKind, winner: Key, ceiling: TargetRef },

    #[error(
        "the balance of consumer {consumer} already belongs to the older AIQuota {winner}; list it in one of the \
         two{}{}",
        if *.apart { ", or give one another keyPrefix" } else { "" },
        More(.more)
    )]
    ConsumerConflicted {
        consumer: String,
        winner: Key,
        /// Whether another key prefix would do: the object may choose one, and the two share no target.
        apart: bool,
        more: usize,
    },

    #[error(
        "spec.rules[{rule}].overridesFrom: the limits of single values under this rule name already are those of the older \
         AITokenRateLimit {winner}; give one another ruleName, or the same overridesFrom"
    )]
    OverridesConflicted {
        /// The index of the rule.
        rule: usize,
        winner: Key,
    },

    #[error("{0}")]
    OverridesInvalid(OverridesProblem),

    #[error("the limits of single values belong to {owner}, which keeps them; give another ruleName")]
    OverridesOwned { owner: String },

    #[error(
        "spec.rules[{rule}].overridesFrom: Secrets and ConfigMaps are read in namespace {gateway} only; move the object there \
         and let it target the Domain of the route"
    )]
    OverridesElsewhere { rule: usize, gateway: String },

    #[error(
        "the rules of all objects of this kind would take more than {limit} bytes in one WasmPlugin; use fewer targets or shorter settings, or let objects share settings"
    )]
    GatewayFull { limit: usize },

    #[error(
        "the rules of namespace {namespace} would take more than {percent} % of the {limit} bytes of one WasmPlugin \
         (--namespace-share); use fewer targets or shorter settings, let objects share settings, or let the administrator raise the share \
         or trust the namespace"
    )]
    ShareFull { namespace: String, percent: u8, limit: usize },

    #[error(
        "the controller runs without a module for token rate limits: the administrator says where that is with --limit-module-url"
    )]
    NoModule,

    #[error("the object is being deleted with its balances and limits nothing any more")]
    BeingDeleted,

    #[error("there is no AIQuotaStore {0} in the gateway's namespace")]
    StoreNotFound(String),

    #[error("stores are honoured in namespace {0} only: create it there")]
    NotInGatewayNamespace(String),

    #[error(
        "service {service} is already that of the older AIQuotaStore {winner}, which differs in {field}; plugins share one client per service, so make them equal or remove one of the two"
    )]
    StoreConflicted { service: String, winner: String, field: &'static str },

    #[error("service {service} does not exist: {detail}")]
    ServiceNotFound { service: String, detail: String },

    #[error("service {service} has no port {port}: {detail}")]
    PortNotFound { service: String, port: u16, detail: String },

    #[error("there is no Secret {namespace}/{name}")]
    SecretNotFound { namespace: String, name: String },

    #[error("Secret {namespace}/{name}: {problem}")]
    SecretInvalid { namespace: String, name: String, problem: String },

    #[error("Redis of store {store} cannot be used: {error}")]
    StoreUnreachable { store: String, error: String },

    #[error("the balance of consumer {consumer} is not a number ({found}) and its requests are refused; remove or correct the key {key}{}", More(.more))]
    MalformedBalance { consumer: String, key: String, found: String, more: usize },

    #[error("the balance of consumer {consumer} cannot be used ({problem}) and its requests are refused; run the version of aiquota that wrote it{}", More(.more))]
    UnreadableBalance { consumer: String, problem: String, more: usize },

    #[error("the balance of consumer {consumer} belongs to {owner}, which keeps it{}", More(.more))]
    BalanceOwned { consumer: String, owner: String, more: usize },

    #[error("a newer controller or a newer version of the object was at the balances first")]
    Superseded,

    #[error("{done} of {all} balances are in Redis")]
    Seeding { done: usize, all: usize },

    #[error("the limits of single values are about to be written to Redis")]
    SeedingOverrides,

    #[error("the rule waits for its balances")]
    WaitsForSeeds,

    #[error(
        "{} waits, because WasmPlugin {plugin} is {known} too and has a rule over it, so that tokens would be charged twice; remove that rule",
        Target(.target)
    )]
    ForeignRule { target: TargetRef, plugin: String, known: &'static str },

    #[error("the WasmPlugin is about to be written")]
    WaitsForWrite,

    #[error("the WasmPlugin could not be written: {0}")]
    WriteFailed(String),
}

/// The reasons that pass by themselves within seconds: what is declared is on its way, and nobody has to do anything.
pub const PASSING: [&str; 7] =
    ["Seeding", "WaitsForSeeds", "WaitsForWrite", "Superseded", "Connecting", "Draining", "DeletingBalances"];

/// What can heal a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A change of the object's own spec.
    Spec,
    /// Another object: a target, a store, a secret, a winner.
    Object,
    /// Nothing but another attempt.
    Time,
}

impl Reason {
    /// The word of conditions, Events and metric labels.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::Undecodable(_) => "Undecodable",
            Self::NotSupportedByPlugin(_) | Self::NotKept { .. } | Self::NotSayable { .. } => "NotSupportedByPlugin",
            Self::AsBefore { reason, .. } => reason,
            Self::NotTrusted { .. } => "NotTrusted",
            Self::TargetNotFound { .. } => "TargetNotFound",
            Self::TargetConflicted { .. }
            | Self::ConsumerConflicted { .. }
            | Self::StoreConflicted { .. }
            | Self::BalanceOwned { .. }
            | Self::OverridesConflicted { .. }
            | Self::OverridesOwned { .. } => "Conflicted",
            Self::Overridden { .. } => "Overridden",
            Self::GatewayFull { .. } | Self::ShareFull { .. } => "GatewayFull",
            Self::NoModule => "NoModule",
            Self::BeingDeleted => "BeingDeleted",
            Self::StoreNotFound(_) => "StoreNotFound",
            Self::OverridesInvalid(_) => "OverridesInvalid",
            Self::NotInGatewayNamespace(_) | Self::OverridesElsewhere { .. } => "NotInGatewayNamespace",
            Self::ServiceNotFound { .. } => "ServiceNotFound",
            Self::PortNotFound { .. } => "PortNotFound",
            Self::SecretNotFound { .. } => "SecretNotFound",
            Self::SecretInvalid { .. } => "SecretInvalid",
            Self::StoreUnreachable { .. } => "StoreUnreachable",
            Self::MalformedBalance { .. } => "MalformedBalance",
            Self::UnreadableBalance { .. } => "UnreadableBalance",
            Self::Superseded => "Superseded",
            Self::Seeding { .. } | Self::SeedingOverrides => "Seeding",
            Self::WaitsForSeeds => "WaitsForSeeds",
            Self::ForeignRule { .. } => "ForeignRule",
            Self::WaitsForWrite => "WaitsForWrite",
            Self::WriteFailed(_) => "WriteFailed",
        }
    }

    pub(crate) fn target_not_trusted(field: String, namespace: &str) -> Self {
        Self::NotTrusted { field, namespace: namespace.to_owned(), what: TRUSTED_TARGETS }
    }

    /// A name in Redis that is not for objects of this namespace to choose.
    pub(crate) fn choice_not_trusted<K: Kind>(namespace: &str) -> Self {
        let (field, what) = K::CHOICE;
        Self::NotTrusted { field: field.to_owned(), namespace: namespace.to_owned(), what }
    }

    /// The word under which a target may have been reported as lost.
    pub(crate) fn word(reported: &str) -> Option<&'static str> {
        ["TargetNotFound", "NotTrusted", "NotSupportedByPlugin", "Conflicted", "Overridden", "GatewayFull"]
            .into_iter()
            .find(|word| *word == reported)
    }

    /// Whether an object that is refused for this, not only one of its targets, stays under its last rule: nothing
    /// becomes free by a typo.
    pub(crate) const fn keeps_last_rule(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_)
                | Self::Undecodable(_)
                | Self::NotSupportedByPlugin(_)
                | Self::NotTrusted { .. }
                | Self::NoModule
                | Self::OverridesElsewhere { .. }
                | Self::GatewayFull { .. }
                | Self::ShareFull { .. }
        )
    }

    #[must_use]
    pub const fn waits_for(&self) -> WaitsFor {
        match self {
            Self::Invalid(_)
            | Self::Undecodable(_)
            | Self::NotSupportedByPlugin(_)
            | Self::NotKept { .. }
            | Self::NotSayable { .. }
            | Self::AsBefore { .. }
            | Self::NotTrusted { .. }
            | Self::OverridesElsewhere { .. }
            | Self::NotInGatewayNamespace(_) => WaitsFor::Spec,
            Self::TargetNotFound { .. }
            | Self::TargetConflicted { .. }
            | Self::Overridden { .. }
            | Self::ForeignRule { .. }
            | Self::ConsumerConflicted { .. }
            | Self::StoreConflicted { .. }
            | Self::GatewayFull { .. }
            | Self::ShareFull { .. }
            | Self::NoModule
            | Self::OverridesConflicted { .. }
            | Self::OverridesInvalid(_)
            | Self::OverridesOwned { .. }
            | Self::BeingDeleted
            | Self::BalanceOwned { .. }
            | Self::StoreNotFound(_)
            | Self::ServiceNotFound { .. }
            | Self::PortNotFound { .. }
            | Self::SecretNotFound { .. }
            | Self::SecretInvalid { .. } => WaitsFor::Object,
            Self::StoreUnreachable { .. }
            | Self::MalformedBalance { .. }
            | Self::UnreadableBalance { .. }
            | Self::Superseded
            | Self::Seeding { .. }
            | Self::SeedingOverrides
            | Self::WaitsForSeeds
            | Self::WaitsForWrite
            | Self::WriteFailed(_) => WaitsFor::Time,
        }
    }
}

/// A target as its author would say it.
pub(crate) struct Target<'a>(pub(crate) &'a TargetRef);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.name {
            Some(name) => write!(f, "{} {name}", self.0.kind),
            None => write!(f, "the whole gateway"),
        }
    }
}

/// What to do about two objects on one target that differ.
struct Equal<'a>(&'a bool);

impl fmt::Display for Equal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self.0 {
            "it is made of the first of targetRefs: let both begin with the same, or remove this target from one"
        } else {
            "make them equal or remove one of the two"
        })
    }
}

/// The namespace a target is looked for in, unless its name has it.
struct Where<'a>(&'a TargetRef, &'a str);

impl fmt::Display for Where<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_full = self.0.name.as_deref().is_some_and(|name| name.ends_with(".svc.cluster.local"));
        if is_full { Ok(()) } else { write!(f, " in namespace {}", self.1) }
    }
}

struct Listed<'a>(&'a [Refusal]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for (index, refusal) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{refusal}", if index == 0 { "" } else { "; " })?;
        }
        More(&self.0.len().saturating_sub(SHOWN)).fmt(f)
    }
}

struct More<'a>(&'a usize);

impl fmt::Display for More<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.0 == 0 { Ok(()) } else { write!(f, "; and {} more", self.0) }
    }
}

/// What [`Reason::NotTrusted`] says of targets.
const TRUSTED_TARGETS: &str = "Service, Domain and Gateway targets";

/// What helps without the administrator.
fn untrusted(what: &str) -> &'static str {
    if what == TRUSTED_TARGETS {
        "name Ingresses or HTTPRoutes of this namespace instead"
    } else {
        "leave the field out"
    }
}
