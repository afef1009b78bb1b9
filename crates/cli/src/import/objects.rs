//! Rules of hand-written WasmPlugins as our objects, and a report of what is otherwise or has no equivalent. Everything
//! that comes out is valid by the controller's own checks. Pure.

use std::collections::HashSet;

use api::{AiQuota, AiQuotaStore, AiTokenRateLimit, TARGETS_MAX};
use enforcement::wire::VERSION;
use enforcement::wire::limit::Dialect;
use enforcement::{limit, quota};
use plan::Refusal;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::limit as limits;
use super::quota as quotas;
use super::report::{Finding, Kind};
use super::rules::{Around, At, Rule, Source, Wanted, rules, settings};
use super::store::Stores;
use super::together::against;

/// What came of an import.
#[derive(Default)]
pub(crate) struct Imported {
    pub(crate) stores: Vec<Value>,
    pub(crate) quotas: Vec<Quota>,
    pub(crate) limits: Vec<Value>,
    pub(crate) findings: Vec<Finding>,
}

/// An AIQuota, and which balances it is about.
pub(crate) struct Quota {
    pub(crate) object: Value,
    pub(crate) store: String,
    pub(crate) key_prefix: String,
}

/// How to import.
pub(crate) struct Options {
    pub(crate) around: Around,
    pub(crate) trusted_namespaces: HashSet<String>,
    pub(crate) dialect: Dialect,
    /// Whether AITokenRateLimit has the field that says what an answer without usage costs.
    pub(crate) limits_may_ignore: bool,
}

pub(super) const AI_QUOTA: &str = "ai-quota";
pub(super) const AI_TOKEN_RATELIMIT: &str = "ai-token-ratelimit";

/// Whether it is one of the plugins that can be imported, and none that aiquota wrote.
pub(crate) fn is_imported(plugin: &api::WasmPlugin) -> bool {
    let name = plugin.metadata.name.as_deref().unwrap_or_default();
    ![plan::GUARD, plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT].contains(&name)
        && [AI_QUOTA, AI_TOKEN_RATELIMIT].iter().any(|known| plan::is_plugin(plugin, known))
}

pub(crate) fn import(sources: &[Source], options: &Options) -> Imported {
    let mut found = Imported::default();
    let (mut stores, mut names) = (Stores::default(), Names::default());
    let namespace = &options.around.gateway_namespace;
    for known in [AI_QUOTA, AI_TOKEN_RATELIMIT] {
        if sources.iter().filter(|source| plan::is_plugin(&source.plugin, known)).count() > 1 {
            let message = format!(
                "several WasmPlugins are {known} and each of them charges; of their objects on one target the \
                                   older will decide alone"
            );
            found.findings.push(Finding::general(Kind::Differs, message));
        }
    }
    for source in sources {
        let is = |known| plan::is_plugin(&source.plugin, known);
        if is(AI_QUOTA) {
            let rules = rules::<quota::config::Policy>(source, &options.around, None, &mut found.findings);
            settings(source, "--priority", "modules.quota.priority", 750, &mut found.findings);
            let mut groups = Groups::default();
            for mut rule in rules.into_iter().filter(|rule| !rule.targets.is_empty()) {
                let spec = quotas::spec(&rule.config);
                found.keep_valid::<AiQuota>("AIQuota", &spec, &mut rule, plan::validate);
                if rule.targets.is_empty() {
                    continue;
                }
                let Some(store) = stores.of(&rule.config, namespace, &rule.at, &mut found.findings) else { continue };
                groups.add(&spec, store, &rule);
            }
            found.quotas(groups, &stores, &mut names, options);
        } else if is(AI_TOKEN_RATELIMIT) {
            let dialect = json!({"version": VERSION, "dialect": options.dialect});
            let rules = rules::<limit::config::Policy>(source, &options.around, Some(&dialect), &mut found.findings);
            settings(source, "--limit-priority", "modules.limits.priority", 600, &mut found.findings);
            let mut groups = Groups::default();
            for mut rule in rules.into_iter().filter(|rule| !rule.targets.is_empty()) {
                let Some(mut spec) = limits::spec(&rule.config, options.dialect, &rule.at, &mut found.findings) else {
                    continue;
                };
                if options.limits_may_ignore {
                    spec["onMissingUsage"] = json!("Ignore");
                }
                found.keep_valid::<AiTokenRateLimit>("AITokenRateLimit", &spec, &mut rule, plan::validate_limit);
                if rule.targets.is_empty() {
                    continue;
                }
                let Some(store) = stores.of(&rule.config, namespace, &rule.at, &mut found.findings) else { continue };
                groups.add(&spec, store, &rule);
            }
            found.limits(groups, &stores, &mut names, options);
        }
    }
    for object in stores.objects(namespace) {
        let problems = problems::<AiQuotaStore>(&object, plan::validate_store);
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let told = problems.iter().map(|problem| {
            Finding::general(
                Kind::Lost,
                format!("AIQuotaStore {name}, and what uses it, has to be written by hand: {problem}"),
            )
        });
        found.findings.extend(told.collect::<Vec<_>>());
        if problems.is_empty() {
            found.stores.push(object);
        }
    }
    found.in_general(options);
    let objects: Vec<&Value> =
        found.stores.iter().chain(found.quotas.iter().map(|quota| &quota.object)).chain(&found.limits).collect();
    let against = against(&objects, namespace);
    found.findings.extend(against);
    found
}

/// Rules that say the same, with all of their targets in one namespace.
#[derive(Default)]
struct Groups {
    found: Vec<Group>,
}

struct Group {
    spec: Value,
    store: usize,
    namespace: String,
    targets: Vec<Wanted>,
    at: At,
}

impl Groups {
    fn add(&mut self, spec: &Value, store: usize, rule: &Rule) {
        for (namespace, wanted) in &rule.targets {
            let is = |group: &&mut Group| {
                (group.store, &group.namespace, &group.spec) == (store, namespace, spec)
                    && group.targets.len() < TARGETS_MAX
            };
            match self.found.iter_mut().find(is) {
                Some(group) => group.targets.push(wanted.clone()),
                None => self.found.push(Group {
                    spec: spec.clone(),
                    store,
                    namespace: namespace.clone(),
                    targets: vec![wanted.clone()],
                    at: rule.at.clone(),
                }),
            }
        }
    }
}

impl Imported {
    /// Takes out the targets with which the controller would not take the rule, so that they are in no other's way.
    fn keep_valid<K: DeserializeOwned>(
        &mut self,
        kind: &'static str,
        spec: &Value,
        rule: &mut Rule,
        validate: impl Fn(&K) -> Result<(), Vec<Refusal>>,
    ) {
        let mut told: Vec<String> = Vec::new();
        rule.targets.retain(|(namespace, wanted)| {
            let mut spec = spec.clone();
            spec["targetRefs"] = json!([wanted.value()]);
            let problems = problems(&object(kind, namespace, "imported", &spec), &validate);
            for problem in &problems {
                let of_target = problem.field.starts_with("spec.targetRefs") || problem.field.starts_with("metadata");
                let whose = if of_target { format!("{}: ", wanted.shown(namespace)) } else { String::new() };
                let message = format!("it would be an invalid {kind}: {whose}{problem}");
                if !told.contains(&message) {
                    self.findings.push(rule.at.finding(Kind::Lost, "", message.clone()));
                    told.push(message);
                }
            }
            problems.is_empty()
        });
    }

    fn quotas(&mut self, groups: Groups, stores: &Stores, names: &mut Names, options: &Options) {
        for group in groups.found {
            let key_prefix = group.spec["keyPrefix"].as_str().unwrap_or_default().to_owned();
            let store = stores.name(group.store);
            let object = self.object("AIQuota", group, &store, names, options);
            self.quotas.push(Quota { object, store, key_prefix });
        }
    }

    fn limits(&mut self, groups: Groups, stores: &Stores, names: &mut Names, options: &Options) {
        for group in groups.found {
            let store = stores.name(group.store);
            let object = self.object("AITokenRateLimit", group, &store, names, options);
            self.limits.push(object);
        }
    }

    fn object(&mut self, kind: &'static str, group: Group, store: &str, names: &mut Names, options: &Options) -> Value {
        let Group { mut spec, store: _, namespace, targets, at } = group;
        let name = names.take(kind, &namespace, &targets);
        let wide = targets.iter().any(Wanted::is_wide);
        spec["targetRefs"] = targets.iter().map(Wanted::value).collect();
        if store != "default" {
            spec["storeRef"] = json!({"name": store});
        }
        if wide {
            // Rules for other namespaces' routes counted beside it.
            spec["allowNarrower"] = json!(true);
            let message = "who asks without identity is let through where nothing is metered, for people's other requests to \
                           the gateway; the module answers all of them 401";
            if kind == "AIQuota" {
                self.findings.push(at.finding(Kind::Differs, "", message));
            }
        }
        if namespace != options.around.gateway_namespace && !options.trusted_namespaces.contains(&namespace) {
            let chosen = if kind == "AIQuota" { "keyPrefix" } else { "ruleName" };
            let message = format!(
                "{kind} {namespace}/{name} keeps its keys with {chosen}, which its namespace may choose only with \
                 --trusted-namespace={namespace} of `aiquota run`"
            );
            self.findings.push(at.finding(Kind::ToDo, "", message));
        }
        object(kind, &namespace, &name, &spec)
    }

    /// What is so for every import.
    fn in_general(&mut self, options: &Options) {
        let mut say = |message: &str| self.findings.push(Finding::general(Kind::Differs, message));
        if !self.quotas.is_empty() || !self.limits.is_empty() {
            say(
                "Ingress targets cover the routes N-default, N-fallback and canaries that Higress derives from them too",
            );
        }
        if !self.quotas.is_empty() {
            say("metered paths are compared in every spelling that servers accept, not as exact suffixes only");
        }
        if !self.limits.is_empty() {
            say(
                "with aiquota's own module /v1/chat/completions, /v1/messages and /v1/responses are limited; list other \
                 paths in spec.paths (Higress' module limits every path)",
            );
        }
        if !self.limits.is_empty() && options.dialect == Dialect::V1 {
            say("counters of the module's first generation have other names (no braces around the rule's name): they \
                 begin anew");
        }
    }
}

fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "quota.higress.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// Why the controller would not take it.
fn problems<K: DeserializeOwned>(object: &Value, validate: impl Fn(&K) -> Result<(), Vec<Refusal>>) -> Vec<Refusal> {
    match plan::decode::<K>(object.clone()) {
        Ok(object) => validate(&object).err().unwrap_or_default(),
        Err(refusal) => vec![refusal],
    }
}

/// Each object is named after its first target; with a number where another has that name.
#[derive(Default)]
struct Names(HashSet<(&'static str, String, String)>);

impl Names {
    fn take(&mut self, kind: &'static str, namespace: &str, targets: &[Wanted]) -> String {
        let first = targets.first().and_then(|target| target.name.as_deref()).unwrap_or("gateway");
        let first = first.strip_prefix("*.").unwrap_or(first).to_ascii_lowercase();
        let plain = |char: char| if char.is_ascii_alphanumeric() || char == '.' { char } else { '-' };
        let name: String = first.chars().map(plain).take(200).collect();
        // Each part between dots begins and ends with a letter or digit.
        let parts: Vec<&str> =
            name.split('.').map(|part| part.trim_matches('-')).filter(|part| !part.is_empty()).collect();
        let name = if parts.is_empty() { "imported".to_owned() } else { parts.join(".") };
        let mut chosen = name.clone();
        let mut count = 1;
        while !self.0.insert((kind, namespace.to_owned(), chosen.clone())) {
            count += 1;
            chosen = format!("{name}-{count}");
        }
        chosen
    }
}
