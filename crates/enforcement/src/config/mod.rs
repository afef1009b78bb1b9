//! What a module is configured to do. In: the flattened JSON that Higress gives it, in upstream's form, in ours, or
//! mixed. Out: stores and, per rule, a policy or the reason why it cannot be enforced. Pure.

mod native;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::paths::Paths;
use crate::rules::{Envelope, EnvelopeError, Matcher, Needs, Rules, Subject};
use crate::wire;

/// What a module does.
#[derive(Debug)]
pub enum Config {
    /// Only removes the identity header, see [`crate::guard`].
    Guard,
    Quota(Box<Quota>),
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

/// Quotas, ready to be asked.
#[derive(Debug)]
pub struct Quota {
    rules: Rules,
    targets: Vec<Target>,
    default: Option<Target>,
    stores: Vec<Arc<Store>>,
}

/// What becomes of the requests that a rule or the default matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Enforce {
        policy: Arc<Policy>,
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

/// What requests are held to.
#[derive(Debug, PartialEq, Eq)]
pub struct Policy {
    pub store: Arc<Store>,
    pub key_prefix: String,
    pub paths: Paths,
    /// Who may use the admin API.
    pub admin: Option<String>,
    pub flavor: Flavor,
}

/// Whose rules decide: which commands are sent, and what happens where upstream has nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Flavor {
    Upstream,
    Native {
        /// Who owns a ledger that a request creates.
        owner: String,
        default_quota: Option<i64>,
        refresh: Option<(wire::Refresh, Table)>,
    },
}

/// The boundaries of a schedule with their ordinals, ascending.
pub type Table = Arc<[(i64, i64)]>;

/// One Redis endpoint, as the host is told of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Store {
    /// The cluster's bare name, for calls.
    pub cluster: String,
    /// The name with the client's options, for the initialisation.
    pub with_options: String,
    pub username: String,
    pub password: String,
    pub timeout_ms: u32,
}

impl Config {
    /// Reads a flattened configuration.
    ///
    /// # Errors
    /// If it is no envelope; if it is upstream's form throughout and nothing in it can be enforced.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let Envelope { rules, default, native } = Envelope::parse(json)?;
        let mut stores = Stores::default();
        let native = native.map(|native| native::Native::read(native, &mut stores)).transpose()?;
        if native.as_ref().is_some_and(native::Native::is_guard) {
            return Ok(Self::Guard);
        }
        let (matchers, keys): (Vec<Matcher>, Vec<_>) = rules.into_iter().unzip();
        let mut first_invalid = None;
        let mut parsed = 0_usize;
        let mut target = |result: Result<Target, Invalid>| match result {
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
        let default = default.map(|keys| target(upstream::target(&keys, &mut stores)));
        let targets: Vec<Target> = (0_usize..)
            .zip(&keys)
            .map(|(index, keys)| {
                let result = match (&native, keys.contains_key(native::POLICY)) {
                    (_, false) => upstream::target(keys, &mut stores),
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
        let rules = Rules::new(&matchers);
        Ok(Self::Quota(Box::new(Quota { rules, targets, default, stores: stores.list })))
    }
}

impl Quota {
    /// What of a request must be known for [`Self::target`].
    #[must_use]
    pub const fn needs(&self) -> Needs {
        self.rules.needs()
    }

    /// What the request is under; nothing: it passes untouched.
    #[must_use]
    pub fn target(&self, subject: &Subject<'_>) -> Option<&Target> {
        match self.rules.find(subject) {
            Some(rule) => self.targets.get(rule),
            None => self.default.as_ref(),
        }
    }

    /// What the request is under by whichever value of the identity header: who sends one more must not fall out of the
    /// rule of the other.
    #[must_use]
    pub fn target_of_any(&self, subject: &Subject<'_>, identity: &[&[u8]]) -> Option<&Target> {
        let others = if self.needs().consumer { identity.get(1..).unwrap_or_default() } else { &[] };
        let under = |consumer: &&[u8]| self.target(&Subject { consumer, ..*subject });
        self.target(subject).or_else(|| others.iter().find_map(under))
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

    /// Why some of what is configured cannot be enforced, for the log.
    pub fn refusals(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().chain(&self.default).filter_map(|target| match target {
            Target::Refuse { reason, .. } => Some(reason.as_str()),
            Target::Enforce { .. } => None,
        })
    }
}

impl Target {
    fn invalid(invalid: &Invalid) -> Self {
        Self::Refuse { reason: format!("Invalid configuration: {invalid}."), only: None }
    }
}

impl Invalid {
    fn new(field: impl Into<String>, problem: &'static str) -> Self {
        Self { field: field.into(), problem }
    }

    fn under(self, parent: &str) -> Self {
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

/// Stores as they are found, each kept once.
#[derive(Default)]
struct Stores {
    known: BTreeSet<Arc<Store>>,
    list: Vec<Arc<Store>>,
}

impl Stores {
    fn intern(&mut self, store: Store) -> Arc<Store> {
        if let Some(known) = self.known.get(&store) {
            return Arc::clone(known);
        }
        let store = Arc::new(store);
        self.known.insert(Arc::clone(&store));
        self.list.push(Arc::clone(&store));
        store
    }
}

impl Store {
    /// A port that Higress calls `port`, on a service it calls `service`.
    fn new(service: &str, port: u16, database: u32, timeout_ms: u32, user: (String, String)) -> Self {
        let cluster = format!("outbound|{port}||{service}");
        let database = if database == 0 { String::new() } else { format!("db={database}&") };
        let options = "buffer_flush_timeout=3&max_buffer_size_before_flush=1024";
        let with_options = format!("{cluster}?{database}{options}");
        let (username, password) = user;
        Self { cluster, with_options, username, password, timeout_ms }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster: _, with_options, username, password: _, timeout_ms } = self;
        write!(f, "Store({with_options}, user {username:?}, {timeout_ms} ms)")
    }
}

/// Whether a value is `true`; anything else that is not absent is `None`.
const fn flag(value: Option<&Value>) -> Option<bool> {
    match value {
        None => Some(false),
        Some(Value::Bool(flag)) => Some(*flag),
        Some(_) => None,
    }
}
