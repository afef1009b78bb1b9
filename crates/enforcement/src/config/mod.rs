//! What a module is configured to do. In: the flattened JSON that Higress gives it, in upstream's form, in ours, or
//! mixed. Out: stores and, per rule, a policy or the reason why it cannot be enforced. What a policy consists of is
//! said by each kind of enforcement, by [`Policy`]. Pure.

mod native;
mod node;
mod store;

use std::fmt;
use std::sync::Arc;

pub(crate) use native::read;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
pub use store::{NamedStores, Store, Stores};

use crate::paths::Paths;
use crate::rules::{Envelope, EnvelopeError, Matcher, Needs, Rules, Subject};
use crate::values::MAX_AMOUNT;
use crate::wire;

/// What a module does.
#[derive(Debug)]
pub enum Config<P> {
    /// Only removes the identity header, see [`crate::guard`].
    Guard,
    Policies(Box<Policies<P>>),
}

/// What requests can be held to, read from both forms of configuration.
pub trait Policy: Sized {
    /// One policy in our form.
    type Wire: DeserializeOwned;
    /// What all policies of a configuration have in common besides their stores.
    type Shared: Default;

    /// Reads what stands under `aiquota`, without its stores and policies.
    ///
    /// # Errors
    /// If it has another shape.
    fn common(native: Value) -> Result<Common<Self::Shared>, ConfigError>;

    /// Reads the keys of a rule, or of the default, in upstream's form.
    ///
    /// # Errors
    /// The field that cannot be used.
    fn upstream(keys: &Map<String, Value>, shared: &Self::Shared, stores: &mut Stores) -> Result<Self, Invalid>;

    /// Checks a policy in our form.
    ///
    /// # Errors
    /// The field that cannot be used.
    fn native(wire: Self::Wire, shared: &Self::Shared, stores: NamedStores<'_>) -> Result<Compiled<Self>, Invalid>;
}

/// What [`Policy::common`] finds.
#[derive(Debug)]
pub enum Common<S> {
    /// Nothing but the guard is wanted.
    Guard,
    Shared(S),
}

/// A policy in our form, checked.
#[derive(Debug)]
pub enum Compiled<P> {
    Policy(Arc<P>),
    Unavailable { reason: String, paths: Paths },
}

/// How much is held for the answer to a request that does not say how long it may be; nothing where nothing is held.
pub(crate) fn reserve(said: Option<wire::Reserve>, ends: &wire::Ends) -> Result<Option<i64>, Invalid> {
    let Some(wire::Reserve { default_max_tokens }) = said else { return Ok(None) };
    if !(1..=MAX_AMOUNT).contains(&default_max_tokens) {
        return Err(Invalid::new("reserve.defaultMaxTokens", "is out of range"));
    }
    // Who only observes refuses nothing, so that holding would keep nothing.
    Ok(Some(default_max_tokens).filter(|_| !ends.observes()))
}

/// Why a module must not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("aiquota.version is {0}, this module reads version {known}", known = wire::VERSION)]
    Version(String),
    #[error("the configuration under aiquota is not as version {known} has it: {0}", known = wire::VERSION)]
    Native(String),
    #[error("nothing in the configuration can be enforced: {0}")]
    Nothing(Invalid),
}

/// A field of the configuration that cannot be used. Its value is never shown: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub field: String,
    pub problem: &'static str,
}

/// Policies, ready to be asked.
#[derive(Debug)]
pub struct Policies<P> {
    rules: Rules,
    targets: Vec<Target<P>>,
    /// For each target the name of its policy, which only our form has.
    names: Vec<Option<Arc<str>>>,
    default: Option<Target<P>>,
    stores: Vec<Arc<Store>>,
    report: Option<wire::Report>,
}

/// What becomes of the requests that a rule or the default matches.
#[derive(Debug, PartialEq, Eq)]
pub enum Target<P> {
    Enforce {
        policy: Arc<P>,
        /// Paths that are neither metered nor the admin's pass without a consumer.
        open: bool,
    },
    /// Answered with 503 and the reason.
    Refuse {
        reason: String,
        /// Only what these paths do not call [`crate::paths::Mode::Other`]; `None`: everything.
        only: Option<Paths>,
    },
}

/// What a request is under.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a, P> {
    pub target: &'a Target<P>,
    /// The name of its policy, which only our form has.
    pub policy: Option<&'a Arc<str>>,
}

impl<P: Policy> Config<P> {
    /// Reads a flattened configuration.
    ///
    /// # Errors
    /// If it is no envelope; if it is upstream's form throughout and nothing in it can be enforced.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let Envelope { rules, default, native } = Envelope::parse(json)?;
        let mut stores = Stores::default();
        let native = match native.map(|native| native::Native::<P>::read(native, &mut stores)).transpose()? {
            None => None,
            Some(native::Read::Guard) => return Ok(Self::Guard),
            Some(native::Read::Policies(native)) => Some(native),
        };
        let none = P::Shared::default();
        let shared = native.as_ref().map_or(&none, |native| &native.shared);
        let mut upstream = |keys: &Map<String, Value>| {
            P::upstream(keys, shared, &mut stores)
                .map(|policy| Target::Enforce { policy: Arc::new(policy), open: false })
        };
        let (matchers, keys): (Vec<Matcher>, Vec<_>) = rules.into_iter().unzip();
        let mut first_invalid = None;
        let mut parsed = 0_usize;
        let mut target = |result: Result<Target<P>, Invalid>| match result {
            Ok(target) => {
                parsed += 1;
                target
            }
            Err(invalid) => {
                let target = Target::invalid(&invalid);
                first_invalid.get_or_insert(invalid);
                target
            }
        };
        let default = default.map(|keys| target(upstream(&keys)));
        let targets: Vec<Target<P>> = (0_usize..)
            .zip(&keys)
            .map(|(index, keys)| {
                let result = match (&native, keys.contains_key(native::POLICY)) {
                    (_, false) => upstream(keys),
                    (Some(native), true) => native.target(keys),
                    (None, true) => Err(Invalid::new(native::POLICY, "names a policy, but there is no aiquota")),
                };
                target(result.map_err(|invalid| invalid.under(&format!("_rules_[{index}]"))))
            })
            .collect();
        if native.is_none() && parsed == 0 {
            let invalid = first_invalid.unwrap_or_else(|| Invalid::new("_rules_", "is empty"));
            return Err(ConfigError::Nothing(invalid));
        }
        let names = native::names(&keys);
        let (rules, report) = (Rules::new(&matchers), native.and_then(|native| native.report));
        Ok(Self::Policies(Box::new(Policies { rules, targets, names, default, stores: stores.into_list(), report })))
    }
}

impl<P> Policies<P> {
    /// What of a request must be known for [`Self::target`].
    #[must_use]
    pub const fn needs(&self) -> Needs {
        self.rules.needs()
    }

    /// What the request is under; nothing: it passes untouched.
    #[must_use]
    pub fn target(&self, subject: &Subject<'_>) -> Option<&Target<P>> {
        self.matched(subject).map(|matched| matched.target)
    }

    fn matched(&self, subject: &Subject<'_>) -> Option<Matched<'_, P>> {
        match self.rules.find(subject) {
            Some(rule) => {
                let policy = self.names.get(rule).and_then(Option::as_ref);
                self.targets.get(rule).map(|target| Matched { target, policy })
            }
            None => self.default.as_ref().map(|target| Matched { target, policy: None }),
        }
    }

    /// What the request is under by whichever value of the identity header: who sends one more must not fall out of the
    /// rule of the other.
    #[must_use]
    pub fn matched_by_any(&self, subject: &Subject<'_>, identity: &[&[u8]]) -> Option<Matched<'_, P>> {
        let others = if self.needs().consumer { identity.get(1..).unwrap_or_default() } else { &[] };
        let under = |consumer: &&[u8]| self.matched(&Subject { consumer, ..*subject });
        self.matched(subject).or_else(|| others.iter().find_map(under))
    }

    /// How many rules there are besides the default.
    #[must_use]
    pub const fn rules(&self) -> usize {
        self.targets.len()
    }

    /// Every store that a policy uses, each once.
    #[must_use]
    pub fn stores(&self) -> &[Arc<Store>] {
        &self.stores
    }

    /// What the module is to say of itself in those stores; nothing where that was not asked for.
    #[must_use]
    pub const fn report(&self) -> Option<&wire::Report> {
        self.report.as_ref()
    }

    /// Why some of what is configured cannot be enforced, for the log.
    pub fn refusals(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().chain(&self.default).filter_map(|target| match target {
            Target::Refuse { reason, .. } => Some(reason.as_str()),
            Target::Enforce { .. } => None,
        })
    }
}

impl<P> Target<P> {
    fn invalid(invalid: &Invalid) -> Self {
        Self::Refuse { reason: format!("Invalid configuration: {invalid}."), only: None }
    }
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, problem: &'static str) -> Self {
        Self { field: field.into(), problem }
    }

    pub(crate) fn under(self, parent: &str) -> Self {
        // What stands under our own key is named from there, whichever rule leads to it.
        let root = self.field.starts_with(wire::KEY);
        let field = match self.field.as_str() {
            "" => parent.to_owned(),
            _ if root => self.field,
            field => format!("{parent}.{field}"),
        };
        Self { field, ..self }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.problem)
    }
}
