//! The form that upstream's module reads: each rule has all of its settings itself. It has no means for defaults, for
//! consumers without limit and for refusals by word, and no place for names: those stand in an annotation. Pure.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, hash_map::Entry},
};

use api::{AiQuota, AiQuotaSpec, Consumer, MatchRule, OnStoreFailure, TargetKind, WasmPlugin};
use enforcement::{
    values::DEFAULT_ADMIN_PATH,
    wire::{
        self,
        upstream::{Redis, Rule},
    },
};
use serde::{Deserialize, Serialize};

use super::{Body, Form, NAMELESS, Read, Ruled, Size, Stores, policies, text, value};
use crate::{
    Refusal, Refused, ends,
    form::beyond_upstream,
    gateway::{Gateway, Matcher, Part, Policy},
    kind::Quota,
    prefix::fnv1a,
    validate::admission,
};

/// Around a rule's matchers and its configuration: `{"ingress":[],"config":},`.
const AROUND: usize = 25;
/// Around a name in the annotation: `{"policy":"","store":""},`.
const NOTE: usize = 25;

/// The prefix of balances that nobody has, so that whoever asks is refused. No prefix of an object begins so: after
/// `aiquota:` comes a namespace and a slash.
const NO_BALANCE: &str = "aiquota:unavailable:";
/// An admin that nobody is: no header can have it as its value.
const NOBODY: &str = "\n";
/// Where nothing is known that could be asked.
const NO_SERVICE: &str = "aiquota-unavailable.static";

pub(crate) struct Upstream;

/// What a rule cannot say about itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    policy: String,
    #[serde(flatten)]
    stands_for: StandsFor,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StandsFor {
    /// What it says, with the balances in this store.
    Store(String),
    /// Nothing of that, because its store cannot be used: it refuses.
    Refused(Box<wire::Policy>),
}

impl Form<Quota> for Upstream {
    fn unsupported(&self, quota: &AiQuota) -> Vec<Refusal> {
        let AiQuotaSpec {
            target_refs,
            allow_narrower: _,
            store_ref: _,
            key_prefix: _,
            admin,
            consumers,
            default_quota,
            refresh: _,
            models,
            paths: _,
            admission: _,
            reservation: _,
            mode: _,
            on_store_failure: _,
            on_missing_usage: _,
            unlisted_paths: _,
            rate_limit_headers: _,
            errors: _,
            include_usage: _,
            warn_at: _,
            deletion_policy: _,
        } = &quota.spec;
        let mut refusals = Vec::new();
        let mut refuse = |field: String, message: String| {
            refusals.push(Refusal { field, reason: Refused::Unsupported, message });
        };
        if let Some(at) = target_refs.iter().position(|target| target.kind == TargetKind::Gateway) {
            refuse(
                format!("spec.targetRefs[{at}]"),
                "would refuse every request to the gateway that has no consumer, whatever its path: name Domains"
                    .to_owned(),
            );
        }
        if admin.is_none() {
            refuse("spec.admin".to_owned(), "is required: the module does not start without an admin".to_owned());
        }
        let unlimited = |consumer: &Consumer| consumer.unlimited == Some(true);
        if let Some(at) = consumers.iter().position(unlimited) {
            let more = match consumers.iter().filter(|consumer| unlimited(consumer)).count() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let message = format!("the module lets nobody pass without a balance{more}: give a quota");
            refuse(format!("spec.consumers[{at}].unlimited"), message);
        }
        if default_quota.is_some() {
            refuse("spec.defaultQuota".to_owned(), "the module makes no balances: list the consumers".to_owned());
        }
        refusals.extend(admission::beyond_upstream(quota.spec.admission));
        let store = (OnStoreFailure::Refuse, "the module refuses while the store does not answer");
        refusals.extend(beyond_upstream(models.is_empty()));
        refusals.extend(ends::beyond_upstream(quota.spec.ends(), store, "the module lets other paths pass"));
        refusals
    }

    fn default_paths(&self) -> Vec<String> {
        Vec::new()
    }

    fn said<'a>(&self, settings: &'a wire::Policy) -> Cow<'a, wire::Policy> {
        let wire::Policy {
            store,
            key_prefix,
            owner: _,
            paths,
            admin,
            default_quota: _,
            yields: _,
            refresh: _,
            reserve: _,
            ends: _,
            models: _,
            unavailable,
        } = settings;
        Cow::Owned(wire::Policy {
            store: store.clone(),
            key_prefix: key_prefix.clone(),
            owner: String::new(),
            paths: paths.clone(),
            admin: admin.clone(),
            default_quota: None,
            yields: false,
            refresh: None,
            reserve: None,
            ends: wire::Ends::default(),
            models: Vec::new(),
            unavailable: unavailable.clone(),
        })
    }

    fn rolls(&self) -> bool {
        false
    }

    fn keeps(&self, what: &Matcher, open: bool) -> bool {
        match what {
            Matcher::Route(_) | Matcher::Service(_) => true,
            Matcher::Domain(_) => !open,
            Matcher::Gateway => false,
        }
    }

    /// What it leaves out makes nothing free and refuses whom nothing is owed; but it cannot only observe.
    fn can_say(&self, settings: &wire::Policy) -> bool {
        !settings.ends.observes()
    }

    /// Its start fails where nothing is configured.
    fn loads_ahead(&self) -> bool {
        false
    }

    fn write(&self, gateway: &Gateway, part: &Part<Quota>, rules: Vec<Ruled>) -> Body {
        let stores = Stores { usable: &gateway.stores, known: &part.existing.stores };
        let mut written: HashMap<usize, serde_json::Value> = HashMap::new();
        let mut notes = Vec::with_capacity(rules.len());
        let rules = rules.into_iter().map(|Ruled { rule, by, open: _ }| {
            let policy = &part.policies[by];
            let config = written.entry(by).or_insert_with(|| value(&configuration(policy, stores)));
            notes.push(note(policy));
            MatchRule { config: Some(config.clone()), ..rule }
        });
        let match_rules = rules.collect();
        Body { default_config: None, match_rules, policies: Some(text(&notes)) }
    }

    fn size(&self, policy: &Policy<Quota>, stores: Stores<'_>) -> Size {
        let note = match &policy.unavailable {
            // The usual case without the cost of writing it.
            None => policy.name.len() + policy.settings.store.as_ref().map_or(0, String::len) + NOTE,
            Some(_) => text(&note(policy)).len() + 1,
        };
        Size { once: 0, rule: text(&configuration(policy, stores)).len() + AROUND, note }
    }
}

fn configuration(policy: &Policy<Quota>, stores: Stores<'_>) -> Rule {
    let wire::Policy { store, key_prefix, paths, admin, unavailable, .. } = policy.written();
    let (admin_consumer, admin_path) =
        admin.map_or_else(|| (NOBODY.to_owned(), DEFAULT_ADMIN_PATH.to_owned()), |admin| (admin.consumer, admin.path));
    let enable_path_suffixes = Some(paths).filter(|paths| !paths.is_empty());
    let store = store.and_then(|store| stores.usable.get(&store)).filter(|_| unavailable.is_none());
    match store {
        Some(store) => Rule {
            redis_key_prefix: key_prefix,
            admin_consumer,
            admin_path,
            enable_path_suffixes,
            redis: store.clone().into(),
        },
        None => Rule {
            redis_key_prefix: NO_BALANCE.to_owned(),
            admin_consumer: NOBODY.to_owned(),
            admin_path,
            enable_path_suffixes,
            redis: anything(stores),
        },
    }
}

/// A Redis to ask for balances that nobody has. Options of a service are shared by all who use it: those of a store
/// that can be used are what they are anyway.
pub(super) fn anything(stores: Stores<'_>) -> Redis {
    let known = || {
        let store = stores.known.values().next()?.clone();
        Some(wire::Store { username: None, password: None, ..store })
    };
    let nothing = || wire::Store {
        service: NO_SERVICE.to_owned(),
        port: 80,
        database: 0,
        timeout_ms: enforcement::values::DEFAULT_TIMEOUT_MS,
        username: None,
        password: None,
    };
    stores.usable.values().next().cloned().or_else(known).unwrap_or_else(nothing).into()
}

fn note(policy: &Policy<Quota>) -> Note {
    let settings = Upstream.said(&policy.written()).into_owned();
    let stands_for = match settings.store {
        Some(store) => StandsFor::Store(store),
        None => StandsFor::Refused(Box::new(settings)),
    };
    Note { policy: policy.name.clone(), stands_for }
}

/// Where the annotation does not fit the rules, what they say is known, but not for whom.
pub(crate) fn read(plugin: &WasmPlugin) -> Read<Quota> {
    let configs = plugin.spec.match_rules.iter().flatten().map(|rule| Rule::deserialize(rule.config.as_ref()?).ok());
    let configs: Vec<Option<Rule>> = configs.collect();
    let notes = policies(plugin).and_then(|text| serde_json::from_str::<Vec<Note>>(text).ok());
    notes.and_then(|notes| read_by(&configs, notes)).unwrap_or_else(|| read_without(configs))
}

/// Nothing if any of the notes cannot be about its rule.
fn read_by(configs: &[Option<Rule>], notes: Vec<Note>) -> Option<Read<Quota>> {
    if configs.len() != notes.len() {
        return None;
    }
    let mut read = Read::default();
    let mut said: HashMap<String, &Rule> = HashMap::new();
    for (config, Note { policy, stands_for }) in configs.iter().zip(notes) {
        let Some(config) = config else {
            read.rules.push(None);
            continue;
        };
        read.rules.push(Some(policy.clone()));
        match said.entry(policy.clone()) {
            Entry::Occupied(first) if *first.get() != config => return None,
            Entry::Occupied(_) => continue,
            Entry::Vacant(entry) => drop(entry.insert(config)),
        }
        let refuses = config.redis_key_prefix == NO_BALANCE;
        let settings = match stands_for {
            StandsFor::Store(name) if !refuses => {
                let store = wire::Store::from(config.redis.clone());
                if read.stores.entry(name.clone()).or_insert_with(|| store.clone()) != &store {
                    return None;
                }
                settings(config, name)
            }
            StandsFor::Refused(settings) if refuses && settings.unavailable.is_some() => {
                read.stores.insert(nameless(&config.redis), config.redis.clone().into());
                *settings
            }
            StandsFor::Store(_) | StandsFor::Refused(_) => return None,
        };
        read.policies.insert(policy, settings);
    }
    Some(read)
}

fn read_without(configs: Vec<Option<Rule>>) -> Read<Quota> {
    let mut read = Read::default();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for config in configs {
        let name = config.map(|config| {
            let next = format!("{NAMELESS}{}", names.len());
            names
                .entry(text(&config))
                .or_insert_with(|| {
                    let store = nameless(&config.redis);
                    let mut policy = settings(&config, store.clone());
                    if config.redis_key_prefix == NO_BALANCE {
                        policy = wire::Policy { store: None, key_prefix: String::new(), ..policy };
                        policy.unavailable = Some("the reason is not known any more".to_owned());
                    }
                    read.stores.insert(store, config.redis.clone().into());
                    read.policies.insert(next.clone(), policy);
                    next
                })
                .clone()
        });
        read.rules.push(name);
    }
    read
}

fn nameless(redis: &Redis) -> String {
    format!("{NAMELESS}{:016x}", fnv1a(text(redis).as_bytes()))
}

fn settings(config: &Rule, store: String) -> wire::Policy {
    let Rule { redis_key_prefix, admin_consumer, admin_path, enable_path_suffixes, redis: _ } = config.clone();
    wire::Policy {
        store: Some(store),
        key_prefix: redis_key_prefix,
        owner: String::new(),
        paths: enable_path_suffixes.unwrap_or_default(),
        admin: (admin_consumer != NOBODY).then_some(wire::Admin { consumer: admin_consumer, path: admin_path }),
        default_quota: None,
        yields: false,
        refresh: None,
        reserve: None,
        ends: wire::Ends::default(),
        models: Vec::new(),
        unavailable: None,
    }
}
