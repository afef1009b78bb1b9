//! Plays scenarios: objects as YAML in, planned, "written" and "reported" into the same world, so that the next
//! step finds what the step before left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{AiQuota, AiQuotaStore, AiTokenRateLimit, Condition, McpBridge, WasmPlugin};
use enforcement::redis::{Grant, overrides::Overrides};
use enforcement::wire::limit::Dialect;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret},
    networking::v1::Ingress,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use plan::{
    Access, Database, FailStrategy, Figures, Flavor, Guard, GuardModule, Key, LimitModule, Module, Object, ObjectKind,
    Phase, PullPolicy, Seeded, Settings, StorePlan, Undecodable, Verdict, World, Write, Writes,
};
use serde::Deserialize;
use serde_json::Value;

use index::Index;

mod index;

/// More than the second run of a step is later than the first.
const DRAIN: Duration = Duration::from_secs(3_000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    #[serde(default)]
    trusted: BTreeSet<String>,
    #[serde(default)]
    guard_off: bool,
    #[serde(default)]
    auth_plugins: Vec<String>,
    module_url: Option<String>,
    /// Whether rules and values of the WasmPlugin are those of limits.
    #[serde(default)]
    of_limits: bool,
    /// There is no module for limits.
    #[serde(default)]
    no_limit_module: bool,
    steps: Vec<Step>,
}

/// Objects that come or change, objects that go, how Redis answers, and what must follow.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// Started again with this flavor, `native` or `upstream`.
    flavor: Option<String>,
    /// Started again for this generation of upstream's module for limits, `v1` or `v2`.
    limit_dialect: Option<Dialect>,
    /// Started again with these namespaces trusted.
    trusted: Option<BTreeSet<String>>,
    /// Started again: what was written is not remembered.
    #[serde(default)]
    restart: bool,
    /// What somebody makes of the annotation with the names of policies; null takes it away.
    #[serde(default, deserialize_with = "given")]
    annotate: Option<Option<String>>,
    #[serde(default)]
    put: Vec<Value>,
    /// `<kind> <namespace>/<name>`
    #[serde(default)]
    delete: Vec<String>,
    /// Seconds that passed since the step before, besides those every step takes.
    #[serde(default)]
    after: usize,
    /// How seeds are answered, by balance; `all` for the others. Applied unless said otherwise.
    #[serde(default)]
    redis: BTreeMap<String, String>,
    /// What is left of balances that are applied; all of the grant unless said otherwise.
    #[serde(default)]
    left: BTreeMap<String, i64>,
    /// What Redis says which database it is, by host; null where it is not reached. The host unless said otherwise.
    #[serde(default)]
    databases: BTreeMap<String, Option<String>>,
    expect: Expect,
}

/// What is not given is not looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// All rules of the ai-quota WasmPlugin in order, as in `ingress a b -> team/chat`.
    rules: Option<Vec<String>>,
    /// All balances, as in `store chat_quota:user1 = 10000 of team/chat`.
    seeds: Option<Vec<String>>,
    /// All sets of limits of single values, as in `default aiquota:overrides:{team.chat}:header:x-api-key of team/chat`,
    /// with how many values it has.
    overrides: Option<Vec<String>>,
    /// All balances that Redis has recorded, as in `default team/chat chat_quota:user1 parked`.
    recorded: Option<Vec<String>>,
    /// The AIQuota objects that are left.
    objects: Option<Vec<String>>,
    /// By object: `Ready` holds; `Ready=False Reason` and a part of the message; `!Deleting` is not there.
    #[serde(default)]
    conditions: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    stores: BTreeMap<String, Vec<String>>,
    /// By object, how many consumers are exhausted, then those that are shown, as in `user1 3 of 10, 7 used`.
    #[serde(default)]
    consumers: BTreeMap<String, Vec<Value>>,
    /// Values in the ai-quota WasmPlugin's `defaultConfig.aiquota` by JSON pointer.
    #[serde(default)]
    config: BTreeMap<String, Value>,
    /// Values in the ai-quota WasmPlugin by JSON pointer, whatever its flavor.
    #[serde(default)]
    plugin: BTreeMap<String, Value>,
    /// Values in the guard's spec by JSON pointer; null for none at all.
    #[serde(default)]
    guard: BTreeMap<String, Value>,
}

pub(crate) fn play(scenario: &Scenario, flavor: Flavor) {
    let mut world = world(scenario, flavor);
    let (mut index, mut clock) = (Index::default(), 0);
    for (number, step) in scenario.steps.iter().enumerate() {
        let at = format!("{} ({flavor:?}), step {}", scenario.name, number + 1);
        if let Some(flavor) = &step.flavor {
            world.settings.flavor = if flavor == "upstream" { Flavor::Upstream } else { Flavor::Native };
        }
        if let Some(dialect) = step.limit_dialect {
            world.settings.limit_dialect = dialect;
        }
        if let Some(trusted) = &step.trusted {
            world.settings.trusted_namespaces.clone_from(trusted);
        }
        if step.restart {
            world.last_written.clear();
        }
        if let Some(policies) = &step.annotate {
            annotate(&mut world, policies);
        }
        clock += step.after + 1;
        world.now = time(clock);
        for object in &step.delete {
            delete(&mut world, object);
        }
        for object in &step.put {
            put(&mut world, object.clone(), &at);
        }
        let answers = (&step.redis, &step.left, &step.databases);
        let written = run(&mut world, &mut index, answers, clock, &at);
        assert!(written <= 3, "{at}");
        check(&world, &index, step, scenario.of_limits, &at);
        // Settled: nothing more to write, nothing more to say.
        let before = statuses(&world);
        let recorded = index.shown();
        let again = run(&mut world, &mut index, answers, clock + 1_000, &at);
        assert_eq!(again, 0, "{at}: a second run writes again");
        assert_eq!(statuses(&world), before, "{at}: a second run reports something else");
        assert_eq!(index.shown(), recorded, "{at}: a second run makes something else of the balances");
    }
}

fn time(seconds: usize) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap()
}

/// Tells null from what is not there.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

fn annotate(world: &mut World, policies: &Option<String>) {
    let plugin = world.plugins.iter_mut().find(|found| found.metadata.name.as_deref() == Some(plan::AI_QUOTA));
    let annotations = Arc::make_mut(plugin.unwrap()).metadata.annotations.get_or_insert_default();
    match policies {
        Some(policies) => annotations.insert(plan::POLICIES.to_owned(), policies.clone()),
        None => annotations.remove(plan::POLICIES),
    };
}

fn statuses(world: &World) -> Vec<Value> {
    let quotas = world.quotas.iter().map(|quota| serde_json::to_value(&quota.status).unwrap());
    let limits = world.limits.iter().map(|limit| serde_json::to_value(&limit.status).unwrap());
    quotas.chain(limits).chain(world.stores.iter().map(|store| serde_json::to_value(&store.status).unwrap())).collect()
}

/// The sets that the gateway looks up by what stands in the WasmPlugin.
fn looked_up(world: &World) -> Vec<Overrides> {
    let mut plugins = world.plugins.iter();
    let found = plugins.find(|found| found.metadata.name.as_deref() == Some(plan::AI_TOKEN_RATELIMIT));
    let config = found.map(|found| serde_json::to_value(&found.spec.default_config).unwrap()).unwrap_or_default();
    let policies = config["aiquota"]["policies"].as_object().into_iter().flat_map(|policies| policies.values());
    let rules =
        policies.flat_map(|policy| policy["rules"].as_array().into_iter().flatten().map(move |rule| (policy, rule)));
    let overridden = rules.filter(|(_, rule)| rule["overridden"] == true);
    let key = |(policy, rule): (&Value, &Value)| {
        Overrides::new(policy["ruleName"].as_str().unwrap(), &serde_json::from_value(rule["by"].clone()).unwrap())
    };
    overridden.map(key).collect()
}

/// What Redis says in a step: how seeds are answered, what is left of balances, and which database it is.
type Said<'a> = (&'a BTreeMap<String, String>, &'a BTreeMap<String, i64>, &'a BTreeMap<String, Option<String>>);

/// One turn of the controller's loop; returns how many WasmPlugins it wrote.
fn run(world: &mut World, index: &mut Index, (redis, left, databases): Said<'_>, seconds: usize, at: &str) -> usize {
    let now = time(seconds);
    world.now = now;
    world.databases = plan::build(world).stores.iter().filter_map(|store| database(store, databases)).collect();
    let plan = plan::build(world);
    let stores: Vec<usize> = (0..plan.stores.len()).collect();
    for key in looked_up(world) {
        assert!(plan.wants_overrides(&stores, &key), "{at}: {key} would be dropped while the gateway looks it up");
    }
    index::finalize(world, &plan);
    let seeded: Vec<Seeded> = plan.seeds.iter().map(|seed| answer(redis, &seed.balance.to_string())).collect();
    let figures: Vec<_> = plan.seeds.iter().zip(&seeded).map(|(seed, seeded)| figures(left, seed, seeded)).collect();
    let overridden: Vec<Seeded> = plan.overrides.iter().map(|set| answer(redis, &set.key.to_string())).collect();
    let unreachable = redis.get("all").is_some_and(|said| said == "unreachable");
    let away = vec![unreachable; plan.stores.len()];
    let found = plan::Answers { seeded: &seeded, figures: &figures, ..plan::Answers::default() };
    let answers = plan::Answers { overrides: &overridden, away: &away, ..found };
    index.record(&plan, &seeded);
    let up = |store: &StorePlan| {
        let found = store.database.as_ref().is_some_and(|database| database.is_there);
        found && redis.get("all").map(String::as_str) != Some("unreachable")
    };
    let deletions = index.settle(&plan, &seeded, up);
    index::depart(world, &plan, &deletions);
    let program = plan::program(&plan, &seeded);
    let mut written = 0;
    for plugin in &program.plugins {
        if plugin.differs() {
            written += 1;
            world.plugins.retain(|found| found.metadata.name.as_deref() != Some(plugin.name));
            // As the API server returns it: what was sent, as JSON.
            let wanted = plugin.wanted.as_ref().map(|wanted| serde_json::to_value(wanted).unwrap());
            let stored: Option<Arc<WasmPlugin>> =
                wanted.map(|wanted| Arc::new(serde_json::from_value(wanted).unwrap()));
            world.plugins.extend(stored.clone());
            world.last_written.retain(|last| last.metadata.name.as_deref() != Some(plugin.name));
            world.last_written.extend(stored);
        }
    }
    let writes: Writes = program.plugins.iter().map(|plugin| (plugin.name, Write::Done)).collect();
    for index in 0..plan.verdicts.len() {
        let status = plan::status(&plan, index, answers, &program, &writes, &deletions, now);
        let status: api::AiQuotaStatus = serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap();
        let key = &plan.verdicts[index].key;
        match &plan.verdicts[index].object {
            Object::Read(_) => {
                let quota = world.quotas.iter_mut().find(|quota| Key::of(&quota.metadata) == *key);
                let Some(quota) = quota else { continue }; // gone meanwhile
                Arc::make_mut(quota).status = Some(status);
            }
            Object::Limit(_) => {
                let limit = world.limits.iter_mut().find(|limit| Key::of(&limit.metadata) == *key).unwrap();
                Arc::make_mut(limit).status = Some(plan::limit_status(&plan, index, answers, status));
            }
            Object::Undecodable(_) => {
                let unread = world.undecodable.iter_mut().find(|unread| Key::of(&unread.metadata) == *key);
                let Some(unread) = unread else { continue };
                Arc::make_mut(unread).status = Some(status);
            }
        }
    }
    for store in &plan.stores {
        let answers = if unreachable { Err("connection refused") } else { Ok(()) };
        let seen = plan::Seen { answers, evicts: redis.get("maxmemory-policy").map(String::as_str), gateways: None };
        let status = plan::store_status(store, Some(seen), now);
        let key = Key::of(&store.object.metadata);
        let found = world.stores.iter_mut().find(|store| Key::of(&store.metadata) == key).expect(at);
        Arc::make_mut(found).status = Some(status);
    }
    written
}

fn database(store: &StorePlan, said: &BTreeMap<String, Option<String>>) -> Option<(Access, Database)> {
    let access = store.access.clone().ok()?;
    let (id, is_there) = match said.get(&access.host) {
        None => (Some(access.host.as_str()), true),
        Some(said) => (said.as_deref(), said.is_some()),
    };
    let id = format!("{}/{}", id?, access.database);
    Some((access, Database { id, is_there }))
}

fn answer(redis: &BTreeMap<String, String>, balance: &str) -> Seeded {
    match redis.get(balance).or_else(|| redis.get("all")).map_or("applied", String::as_str) {
        "applied" => Seeded::Applied,
        "pending" => Seeded::Pending,
        "stale" => Seeded::Stale { term: 1 },
        "unreachable" => Seeded::Unreachable { error: "connection refused".to_owned() },
        "malformed" => Seeded::Malformed { found: "text of 4 characters".to_owned() },
        "unreadable" => Seeded::Unreadable { problem: "its ledger has layout version 2".to_owned() },
        "conflict" => Seeded::Conflict { owner: "other-cluster/team/chat".to_owned() },
        other => panic!("no such answer: {other}"),
    }
}

fn figures(left: &BTreeMap<String, i64>, seed: &plan::Seed, seeded: &Seeded) -> Option<Figures> {
    let grant = match seed.grant {
        Grant::Tokens(tokens) => Some(tokens),
        Grant::Unlimited => None,
    };
    let balance = left.get(&seed.balance.to_string()).copied().or(grant);
    let used = grant.zip(balance).map_or(0, |(grant, balance)| grant - balance);
    (*seeded == Seeded::Applied).then_some(Figures { balance, used })
}

fn check(world: &World, index: &Index, step: &Step, of_limits: bool, at: &str) {
    let plugin = |name: &str| world.plugins.iter().find(|found| found.metadata.name.as_deref() == Some(name));
    let ours = if of_limits { plan::AI_TOKEN_RATELIMIT } else { plan::AI_QUOTA };
    let ai_quota = plugin(ours);
    let Expect {
        rules,
        seeds,
        overrides,
        recorded,
        objects,
        conditions,
        stores,
        consumers,
        config,
        plugin: values,
        guard,
    } = &step.expect;
    if let Some(recorded) = recorded {
        assert_eq!(&index.shown(), recorded, "{at}: recorded balances");
    }
    if let Some(objects) = objects {
        let read = world.quotas.iter().map(|quota| Key::of(&quota.metadata));
        let unread = world.undecodable.iter().map(|unread| Key::of(&unread.metadata));
        let found: Vec<String> = read.chain(unread).map(|key| key.to_string()).collect();
        assert_eq!(&found, objects, "{at}: objects");
    }
    if let Some(rules) = rules {
        let found = ai_quota.map(|plugin| shown(plugin)).unwrap_or_default();
        assert_eq!(&found, rules, "{at}: rules");
        let waits = plan::build(world).verdicts.iter().any(|verdict| !verdict.waits.is_empty());
        let loads_ahead = waits && world.settings.flavor == Flavor::Native;
        let is_there = !rules.is_empty() || loads_ahead;
        assert_eq!(
            ai_quota.is_some(),
            is_there,
            "{at}: a WasmPlugin without rules is there while rules wait, for the module"
        );
    }
    if let Some(seeds) = seeds {
        let plan = plan::build(world);
        let shown = plan.seeds.iter().map(|seed| {
            let store = plan.stores[seed.store].object.metadata.name.as_deref().unwrap();
            let grant = match seed.grant {
                Grant::Tokens(tokens) => tokens.to_string(),
                Grant::Unlimited => "unlimited".to_owned(),
            };
            let owner = seed.object.name.strip_prefix("cluster-uid/").expect("owners begin with the cluster");
            format!("{store} {} = {grant} of {owner}", seed.balance)
        });
        assert_eq!(&shown.collect::<Vec<_>>(), seeds, "{at}: seeds");
    }
    if let Some(overrides) = overrides {
        let plan = plan::build(world);
        let shown = plan.overrides.iter().map(|set| {
            let store = plan.stores[set.store].object.metadata.name.as_deref().unwrap();
            let owner = set.object.name.strip_prefix("cluster-uid/").expect("owners begin with the cluster");
            format!("{store} {} = {} of {owner}", set.key, set.set().entries.len())
        });
        assert_eq!(&shown.collect::<Vec<_>>(), overrides, "{at}: limits of single values");
    }
    let statuses = world.quotas.iter().map(|quota| (Key::of(&quota.metadata), &quota.status));
    let unread = world.undecodable.iter().map(|unread| (Key::of(&unread.metadata), &unread.status));
    let conditions_of = |(key, status): (Key, &Option<api::AiQuotaStatus>)| {
        (key.to_string(), status.as_ref().map(|status| status.conditions.clone()))
    };
    let limits = world.limits.iter().map(|limit| {
        let status = limit.status.as_ref().map(|status| status.conditions.clone());
        (Key::of(&limit.metadata).to_string(), status)
    });
    let statuses: BTreeMap<String, _> = statuses.chain(unread).map(conditions_of).chain(limits).collect();
    for (object, expected) in conditions {
        let status = statuses.get(object).unwrap_or_else(|| panic!("{at}: no object {object}"));
        conditions_are(status.as_ref().unwrap(), expected, &format!("{at}, {object}"));
    }
    for (object, expected) in consumers {
        let quota = world.quotas.iter().find(|quota| Key::of(&quota.metadata).to_string() == *object);
        let status = quota.and_then(|quota| quota.status.as_ref());
        let status = status.unwrap_or_else(|| panic!("{at}: no status of {object}"));
        let shown = status.consumers.iter().map(|one| {
            let shown = |tokens: Option<i64>| tokens.map_or("unlimited".to_owned(), |tokens| tokens.to_string());
            let model = one.model.as_ref().map(|model| format!(" of model {model}")).unwrap_or_default();
            let (name, used) = (&one.name, one.used);
            format!("{name}{model} {} of {}, {used} used", shown(one.balance), shown(one.quota)).into()
        });
        let exhausted = status.summary.as_ref().map_or(0, |summary| summary.exhausted);
        let found: Vec<Value> = [exhausted.into()].into_iter().chain(shown).collect();
        assert_eq!(&found, expected, "{at}, {object}");
    }
    for (object, expected) in stores {
        let found = world.stores.iter().find(|store| Key::of(&store.metadata).to_string() == *object);
        let status = found.and_then(|store| store.status.as_ref()).unwrap_or_else(|| panic!("{at}: no store {object}"));
        conditions_are(&status.conditions, expected, &format!("{at}, {object}"));
    }
    for (pointer, expected) in config {
        let config = ai_quota.and_then(|plugin| plugin.spec.default_config.as_ref()).unwrap_or(&Value::Null);
        let found = config.pointer(&format!("/aiquota{pointer}")).unwrap_or(&Value::Null);
        assert_eq!(found, expected, "{at}: {pointer} in {config:#}");
    }
    for (pointer, expected) in values {
        let plugin = ai_quota.map_or(Value::Null, |plugin| serde_json::to_value(&**plugin).unwrap());
        assert_eq!(plugin.pointer(pointer).unwrap_or(&Value::Null), expected, "{at}: {pointer} in {plugin:#}");
    }
    for (pointer, expected) in guard {
        let spec = plugin(plan::GUARD).map_or(Value::Null, |plugin| serde_json::to_value(&plugin.spec).unwrap());
        assert_eq!(spec.pointer(pointer).unwrap_or(&Value::Null), expected, "{at}: {pointer} in {spec:#}");
    }
}

fn conditions_are(conditions: &[Condition], expected: &[String], at: &str) {
    let all = || {
        conditions
            .iter()
            .map(|one| format!("{}={} {}: {}", one.type_, one.status, one.reason, one.message))
            .collect::<Vec<_>>()
    };
    let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    for wanted in expected {
        if let Some(absent) = wanted.strip_prefix('!') {
            assert!(find(absent).is_none(), "{at}: {wanted}: {:#?}", all());
            continue;
        }
        let (kind, rest) = wanted.split_once('=').unwrap_or((wanted, "True"));
        let mut words = rest.splitn(3, ' ');
        let (status, reason, message) = (words.next().unwrap(), words.next(), words.next().unwrap_or_default());
        let found = find(kind).unwrap_or_else(|| panic!("{at}: {wanted}: {:#?}", all()));
        let fits = found.status == status
            && reason.is_none_or(|reason| found.reason == reason)
            && found.message.contains(message);
        assert!(fits, "{at}: {wanted}: {:#?}", all());
    }
}

/// The rules of a WasmPlugin, one line each.
fn shown(plugin: &WasmPlugin) -> Vec<String> {
    let notes = plugin.metadata.annotations.as_ref().and_then(|all| all.get(plan::POLICIES));
    let mut notes = notes.map(|text| serde_json::from_str::<Vec<Value>>(text).unwrap()).unwrap_or_default().into_iter();
    let rules = plugin.spec.match_rules.iter().flatten().map(|rule| {
        let matchers: Vec<String> = [("ingress", &rule.ingress), ("service", &rule.service), ("domain", &rule.domain)]
            .into_iter()
            .filter_map(|(kind, names)| Some(format!("{kind} {}", names.as_ref()?.join(" "))))
            .collect();
        assert_eq!(matchers.len(), 1, "kinds in one rule are ANDed or ignored");
        let config = rule.config.as_ref().unwrap();
        let open = if config.get("open") == Some(&Value::Bool(true)) { " (open)" } else { "" };
        // Upstream's rules do not say whom they are for.
        let policy = config.get("policy").cloned().unwrap_or_else(|| notes.next().unwrap()["policy"].clone());
        format!("{} -> {}{open}", matchers[0], policy.as_str().unwrap())
    });
    rules.collect()
}

fn world(scenario: &Scenario, flavor: Flavor) -> World {
    World {
        settings: Settings {
            gateway_namespace: "higress-system".to_owned(),
            trusted_namespaces: scenario.trusted.clone(),
            flavor,
            module: Module {
                url: scenario.module_url.clone().unwrap_or_else(|| "oci://example/ai-quota:1.0.0".to_owned()),
                sha256: None,
                image_pull_policy: PullPolicy::IfNotPresent,
                image_pull_secret: None,
                fail_strategy: FailStrategy::Close,
                phase: Phase::Unspecified,
                priority: 750,
            },
            limit_module: (!scenario.no_limit_module).then(|| LimitModule {
                url: "oci://example/limits:1.0.0".to_owned(),
                sha256: None,
                phase: Phase::Unspecified,
                priority: 600,
            }),
            limit_dialect: Dialect::V2,
            guard: if scenario.guard_off { Guard::Off } else { Guard::On },
            guard_module: GuardModule {
                url: scenario.module_url.clone().unwrap_or_else(|| "oci://example/guard:1.0.0".to_owned()),
                sha256: None,
            },
            auth_plugins: scenario.auth_plugins.clone(),
            namespace_share: 50,
            drain: DRAIN,
        },
        now: Timestamp::UNIX_EPOCH,
        cluster: "cluster-uid".to_owned(),
        term: 1,
        quotas: Vec::new(),
        undecodable: Vec::new(),
        stores: Vec::new(),
        undecodable_stores: std::collections::HashSet::new(),
        ingresses: Vec::new(),
        http_routes: std::collections::HashMap::new(),
        services: std::collections::HashMap::new(),
        secrets: Vec::new(),
        config_maps: Vec::new(),
        plugins: Vec::new(),
        last_written: Vec::new(),
        limits: Vec::new(),
        bridges: Vec::new(),
        databases: std::collections::HashMap::new(),
    }
}

/// As the API server would keep it: creation time and uid by name and order, spec as given.
fn put(world: &mut World, mut object: Value, at: &str) {
    let kind = object["kind"].as_str().unwrap_or_else(|| panic!("{at}: an object without kind")).to_owned();
    let metadata = &mut object["metadata"];
    if metadata.get("namespace").is_none() {
        metadata["namespace"] = "higress-system".into();
    }
    let key = Key::new(metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().expect(at));
    metadata["uid"] = format!("uid of {key}").into();
    let found = world.quotas.iter().map(|quota| &quota.metadata);
    let found = found.chain(world.undecodable.iter().map(|unread| &unread.metadata));
    if let Some(found) = found.filter(|_| kind == "AIQuota").find(|found| Key::of(found) == key) {
        // Who edits an object says nothing of these.
        if metadata.get("finalizers").is_none() {
            metadata["finalizers"] = serde_json::to_value(&found.finalizers).unwrap();
        }
        metadata["deletionTimestamp"] = serde_json::to_value(&found.deletion_timestamp).unwrap();
    }
    fn keep<K: serde::de::DeserializeOwned + kube::Resource>(
        all: &mut Vec<Arc<K>>,
        key: &Key,
        object: Value,
        at: &str,
    ) -> Arc<K> {
        all.retain(|found| Key::of(found.meta()) != *key);
        let object: Arc<K> =
            Arc::new(serde_json::from_value(object).unwrap_or_else(|error| panic!("{at}: {key}: {error}")));
        all.push(object.clone());
        object
    }
    match kind.as_str() {
        "AIQuota" => {
            let before = world.quotas.iter().find(|found| Key::of(&found.metadata) == key).cloned();
            // Who may patch a status says what they like.
            let status = match object.get("status") {
                Some(patched) => Some(serde_json::from_value(patched.clone()).expect(at)),
                None => before.as_ref().and_then(|before| before.status.clone()),
            };
            let metadata = &mut object["metadata"];
            metadata["generation"] =
                before.and_then(|before| before.metadata.generation).map_or(1, |last| last + 1).into();
            world.undecodable.retain(|found| Key::of(&found.metadata) != key);
            match plan::decode::<AiQuota>(object.clone()) {
                Ok(_) => {
                    keep::<AiQuota>(&mut world.quotas, &key, object, at);
                    Arc::make_mut(world.quotas.last_mut().unwrap()).status = status;
                }
                Err(refusal) => {
                    world.quotas.retain(|found| Key::of(&found.metadata) != key);
                    world.undecodable.push(Arc::new(Undecodable {
                        kind: ObjectKind::AiQuota,
                        metadata: serde_json::from_value(object["metadata"].clone()).unwrap(),
                        error: refusal.to_string(),
                        status,
                    }));
                }
            }
        }
        "AITokenRateLimit" => {
            let before = world.limits.iter().find(|found| Key::of(&found.metadata) == key).cloned();
            world.undecodable.retain(|found| Key::of(&found.metadata) != key);
            match plan::decode::<AiTokenRateLimit>(object.clone()) {
                Ok(_) => {
                    keep::<AiTokenRateLimit>(&mut world.limits, &key, object, at);
                    let status = before.and_then(|before| before.status.clone());
                    Arc::make_mut(world.limits.last_mut().unwrap()).status = status;
                }
                Err(refusal) => {
                    world.limits.retain(|found| Key::of(&found.metadata) != key);
                    let status = before.and_then(|before| before.status.clone());
                    world.undecodable.push(Arc::new(Undecodable {
                        kind: ObjectKind::AiTokenRateLimit,
                        metadata: serde_json::from_value(object["metadata"].clone()).unwrap(),
                        error: refusal.to_string(),
                        status: status
                            .map(|status| serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap()),
                    }));
                }
            }
        }
        "AIQuotaStore" => {
            world.undecodable_stores.remove(&key.name);
            match plan::decode::<AiQuotaStore>(object.clone()) {
                Ok(_) => drop(keep::<AiQuotaStore>(&mut world.stores, &key, object, at)),
                Err(_) => {
                    world.stores.retain(|found| Key::of(&found.metadata) != key);
                    world.undecodable_stores.insert(key.name);
                }
            }
        }
        "Ingress" => drop(keep::<Ingress>(&mut world.ingresses, &key, object, at)),
        "Secret" => drop(keep::<Secret>(&mut world.secrets, &key, object, at)),
        "ConfigMap" => drop(keep::<ConfigMap>(&mut world.config_maps, &key, object, at)),
        "WasmPlugin" => drop(keep::<WasmPlugin>(&mut world.plugins, &key, object, at)),
        "McpBridge" => drop(keep::<McpBridge>(&mut world.bridges, &key, object, at)),
        "HTTPRoute" => {
            let hosts = object.pointer("/spec/hostnames").cloned().unwrap_or_else(|| Value::Array(Vec::new()));
            world.http_routes.insert(key, serde_json::from_value(hosts).expect(at));
        }
        "Service" => {
            let ports = object["spec"]["ports"].as_array().expect(at);
            let ports = ports.iter().map(|port| u16::try_from(port["port"].as_u64().unwrap()).unwrap()).collect();
            world.services.insert(key, ports);
        }
        other => panic!("{at}: {other} is nothing of the world"),
    }
}

fn delete(world: &mut World, object: &str) {
    let (kind, key) = object.split_once(' ').expect("a kind and a name");
    let (namespace, name) = key.split_once('/').expect("a namespace and a name");
    let key = Key::new(namespace, name);
    match kind {
        "AIQuota" => {
            let quotas = world.quotas.iter_mut().map(|quota| &mut Arc::make_mut(quota).metadata);
            let unread = world.undecodable.iter_mut().map(|unread| &mut Arc::make_mut(unread).metadata);
            let found = quotas.chain(unread).find(|found| Key::of(found) == key).expect("what is deleted is there");
            found.deletion_timestamp = Some(Time(world.now));
            if found.finalizers.iter().flatten().count() == 0 {
                remove_key(world, &key);
            }
        }
        "AIQuotaStore" => {
            world.stores.retain(|found| Key::of(&found.metadata) != key);
            world.undecodable_stores.remove(&key.name);
        }
        "AITokenRateLimit" => remove_key(world, &key),
        "Ingress" => world.ingresses.retain(|found| Key::of(&found.metadata) != key),
        "Secret" => world.secrets.retain(|found| Key::of(&found.metadata) != key),
        "ConfigMap" => world.config_maps.retain(|found| Key::of(&found.metadata) != key),
        "WasmPlugin" => world.plugins.retain(|found| Key::of(&found.metadata) != key),
        other => panic!("{other} is not deleted by any scenario"),
    }
}

fn remove(world: &mut World, verdict: &Verdict) {
    remove_key(world, &verdict.key);
}

fn remove_key(world: &mut World, key: &Key) {
    world.quotas.retain(|found| Key::of(&found.metadata) != *key);
    world.limits.retain(|found| Key::of(&found.metadata) != *key);
    world.undecodable.retain(|found| Key::of(&found.metadata) != *key);
}
