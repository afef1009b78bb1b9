//! The world in, the plan out, in steps: stores, then each object by itself (valid, permitted, targets there), then
//! all together (who decides on what, whose balance it is, what fits), then the warnings. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::AiQuota;
use enforcement::{
    redis::{Balance, Grant},
    values::DEFAULT_ADMIN_PATH,
    wire,
};

use crate::{
    AI_QUOTA, GUARD, Key, Life, Object, Owner, Plan, Reason, Seed, Verdict, World,
    age::by_age,
    auth::AuthPlugins,
    ceiling::{Ceilings, Context},
    existing::Existing,
    foreign::Twins,
    form::{self, Form},
    gateway::{Gateway, Matcher, Policy},
    life, manual,
    merge::{Claim, Lost, Narrower, Slot, Why, ceilings_of, resolve},
    plan::Declared,
    prefix,
    room::{self, NoRoom},
    stores::{self, Stores},
    tables::{self, Known, Refreshing, Tables},
    targets::Targets,
    validate::validate,
    warn::Beside,
};

/// Everything as it should be, for a world that is known completely.
#[must_use]
pub fn build(world: &World) -> Plan {
    let plugin = |name: &str| world.plugins.iter().find(|found| found.metadata.name.as_deref() == Some(name)).cloned();
    let ai_quota = plugin(AI_QUOTA);
    let form = form::of(world.settings.flavor);
    let found = Existing::of(ai_quota.as_deref(), form);
    let changed =
        world.last_written.as_deref().filter(|last| ai_quota.as_ref().is_none_or(|now| !form::same(now, last)));
    let existing = Existing::of(changed.or(ai_quota.as_deref()), form);
    let stores = stores::resolve(world, &existing.stores);
    let existing = existing.with_names_of(&stores.wire);
    let targets = Targets::new(world);

    let mut draft = Draft::new(world);
    draft.examine(world, form, &existing, &stores, &targets);
    let slots = draft.decide(world, form, &stores, &existing, &targets);
    let own = world.last_written.is_some().then_some(&existing.schedules);
    let (tables, former) = draft.schedule(&slots, &existing, &Known { now: world.now, own, found: &found.schedules });
    let seeds = draft.seed(world, &stores, &slots, &tables, &former);

    let Draft { mut verdicts, policies, .. } = draft;
    let (auth, twins) = (AuthPlugins::new(world), Twins::new(world, "ai-quota"));
    let beside = Beside { world, targets: &targets, auth: &auth, twins: &twins, existing: &existing };
    let waiting = beside.look(&policies, &slots, &mut verdicts);
    let settles = seeds.iter().filter_map(|seed| seed.turn?.settles);
    let refreshes = verdicts.iter().filter_map(|verdict| verdict.next_refresh);
    let departures = verdicts.iter().filter_map(|verdict| match verdict.life {
        Life::Leaves(leaving) => leaving.until.filter(|until| *until > world.now),
        Life::Stays | Life::Gone => None,
    });
    let unread = verdicts.iter().filter(|verdict| verdict.keeps_last_rule());
    Plan {
        next: refreshes.chain(tables.next()).chain(departures).chain(settles).min(),
        unread: unread.map(|verdict| verdict.owner.name.clone()).collect(),
        seeds,
        verdicts,
        gateway: Gateway {
            settings: world.settings.clone(),
            form,
            guard_priority: auth.guard_priority(),
            templates: stores.templates(),
            stores: stores.wire,
            tables,
            policies,
            slots,
            waiting,
            guard: plugin(GUARD),
            ai_quota,
            existing,
            found,
        },
        stores: stores.plans,
        cluster: world.cluster.clone(),
        term: world.term,
        databases: stores.databases,
    }
}

/// By policy.
type Former = HashMap<usize, Arc<Refreshing>>;

struct Draft {
    verdicts: Vec<Verdict>,
    /// Oldest first.
    policies: Vec<Policy>,
    named: Vec<Claim<Matcher>>,
    derived: Vec<Claim<Matcher>>,
    beside: Vec<Claim<Matcher>>,
}

impl Draft {
    fn new(world: &World) -> Self {
        let read = world.quotas.iter().cloned().map(Object::Read);
        let mut objects: Vec<Object> = read.chain(world.undecodable.iter().cloned().map(Object::Undecodable)).collect();
        objects.sort_by(|a, b| by_age(a.metadata(), b.metadata()));
        let verdicts = objects.into_iter().map(|object| Verdict {
            key: Key::of(object.metadata()),
            owner: Arc::new(owner(world, &object)),
            life: life::life(&object, world.settings.drain, world.now),
            finalizer: life::finalizer(&object),
            declared: None,
            object,
            targets: Vec::new(),
            refused: Vec::new(),
            withheld: None,
            waits: Vec::new(),
            seeds: 0..0,
            next_refresh: None,
            warnings: Vec::new(),
        });
        Self {
            verdicts: verdicts.collect(),
            policies: Vec::new(),
            named: Vec::new(),
            derived: Vec::new(),
            beside: Vec::new(),
        }
    }

    /// Each object by itself.
    fn examine(&mut self, world: &World, form: &dyn Form, existing: &Existing, stores: &Stores, targets: &Targets<'_>) {
        for (index, verdict) in self.verdicts.iter_mut().enumerate() {
            let quota = match &verdict.object {
                Object::Read(quota) => match (validate(quota), form.unsupported(&quota.spec)) {
                    (Ok(()), unsupported) if unsupported.is_empty() => Ok(quota),
                    (Ok(()), unsupported) => Err(Reason::NotSupportedByPlugin(unsupported)),
                    (Err(refusals), _) => Err(Reason::Invalid(refusals)),
                },
                Object::Undecodable(unread) => Err(Reason::Undecodable(unread.error.clone())),
            };
            let name = verdict.key.to_string();
            if verdict.life != Life::Stays {
                verdict.leave(world, stores);
                continue;
            }
            let quota = match quota {
                Ok(quota) => quota,
                Err(reason) => {
                    // What cannot be understood keeps its last rule: nothing becomes free by a typo.
                    verdict.refused.push(reason);
                    if let Some(Kept { settings, named, derived }) = kept(verdict, &name, existing, targets) {
                        let settings = wire::Policy { owner: owner_name(world, &verdict.key), ..settings };
                        let by = self.policies.len();
                        let claim = |what| Claim { what, by, target: 0 };
                        self.named.extend(named.into_iter().map(claim));
                        self.derived.extend(derived.into_iter().map(claim));
                        self.policies.push(Policy {
                            name,
                            verdict: index,
                            unavailable: unavailable(settings.store.as_deref(), stores),
                            settings,
                            programmed: true,
                            in_force: true,
                            narrower: Narrower::AsItIs,
                            kept: true,
                        });
                    }
                    continue;
                }
            };
            let namespace = &verdict.key.namespace;
            let chosen = quota.spec.key_prefix.is_some() && !world.settings.trusts(namespace);
            if chosen {
                verdict.refused.push(Reason::NotTrusted {
                    field: "spec.keyPrefix".to_owned(),
                    namespace: namespace.clone(),
                    what: "the choice of a key prefix",
                });
            }
            let by = self.policies.len();
            let before = self.named.len();
            for (at, target) in quota.spec.target_refs.iter().enumerate() {
                let problem = match targets.matched(namespace, at, target) {
                    Ok(matched) if !chosen => {
                        self.named.push(Claim { what: matched.named, by, target: at });
                        let claim = |what| Claim { what, by, target: at };
                        self.derived.extend(matched.derived.into_iter().map(claim));
                        self.beside.extend(matched.beside.into_iter().map(claim));
                        None
                    }
                    Ok(_) => verdict.refused.first().cloned(),
                    Err(reason) => Some(reason),
                };
                verdict.targets.push((target.clone(), problem));
            }
            let settings = settings(world, quota, &verdict.key);
            (verdict.declared, verdict.withheld) = declared(&settings, stores);
            if self.named.len() > before {
                self.policies.push(Policy {
                    programmed: existing.enforces(&name),
                    in_force: self.named[before..].iter().any(|claim| existing.holds(&claim.what, &settings)),
                    name,
                    verdict: index,
                    unavailable: unavailable(settings.store.as_deref(), stores),
                    settings,
                    narrower: match quota.spec.allow_narrower {
                        Some(true) => Narrower::Allowed,
                        Some(false) | None => Narrower::Refused,
                    },
                    kept: false,
                });
            }
        }
    }

    /// Who decides on what: ceilings, then the older, and with it those whose settings are equal. What has no room in
    /// one WasmPlugin is not accepted; a ceiling without room is none.
    fn decide(
        &mut self,
        world: &World,
        form: &dyn Form,
        stores: &Stores,
        existing: &Existing,
        targets: &Targets<'_>,
    ) -> Vec<Slot<Matcher>> {
        let stores = form::Stores { usable: &stores.wire, known: &existing.stores };
        let (named, mut derived) = (std::mem::take(&mut self.named), std::mem::take(&mut self.derived));
        derived.append(&mut self.beside);
        let mut full = HashMap::new();
        let (mut slots, lost, no_room) = loop {
            let context = Surroundings { world, existing, targets, policies: &self.policies };
            let mut ceilings = Ceilings::new(&self.policies, &context);
            let fits = |claim: &&Claim<Matcher>| !full.contains_key(&(claim.by, claim.target));
            let (slots, lost) =
                resolve(named.iter().filter(fits), derived.iter().filter(fits), &self.policies, &mut ceilings);
            let no_room = room::without_room(&self.policies, form, stores, existing, &slots);
            let ceilings = ceilings_of(&lost);
            let before = full.len();
            for NoRoom { slot, limit } in no_room.iter().filter(|out| ceilings.contains(&out.slot)) {
                full.extend(slots[*slot].holders.iter().map(|holder| ((holder.by, holder.target), *limit)));
            }
            if full.len() == before {
                break (slots, lost, no_room);
            }
        };
        for Lost { by, target, winner, why } in lost {
            let winner = self.verdicts[self.policies[winner].verdict].key.clone();
            self.refuse(by, target, |target| match why {
                Why::Differs(field) => Reason::TargetConflicted { target, winner, field },
                Why::Under(slot) => Reason::Overridden { target, winner, ceiling: slots[slot].what.target() },
            });
        }
        for NoRoom { slot, limit } in no_room {
            full.extend(
                std::mem::take(&mut slots[slot].holders).into_iter().map(|lost| ((lost.by, lost.target), limit)),
            );
        }
        for ((by, target), limit) in full {
            self.refuse(by, target, |_| Reason::GatewayFull { limit });
        }
        slots
    }

    fn refuse(&mut self, policy: usize, target: usize, reason: impl FnOnce(api::TargetRef) -> Reason) {
        let verdict = &mut self.verdicts[self.policies[policy].verdict];
        if let Some((target, problem)) = verdict.targets.get_mut(target) {
            problem.get_or_insert_with(|| reason(target.clone()));
        }
    }

    /// The tables of the schedules that are followed, and by policy how balances were refreshed until now where that
    /// is edited. Says of each object when it is refreshed next.
    fn schedule(&mut self, slots: &[Slot<Matcher>], existing: &Existing, known: &Known<'_>) -> (Tables, Former) {
        let mut tables = Tables::default();
        let mut former = Former::new();
        for slot in slots {
            let Some(before) = existing.over(&slot.what).and_then(|policy| policy.refresh.as_ref()) else { continue };
            let edited = |by: &usize| self.policies[*by].settings.refresh.as_ref() != Some(before);
            for by in slot.holders.iter().map(|holder| holder.by).filter(edited) {
                if let Some(table) = tables.table(&before.schedule, known) {
                    former.entry(by).or_insert_with(|| Arc::new(table.refreshing(before, known.now)));
                }
            }
        }
        let deciding: BTreeSet<usize> =
            slots.iter().flat_map(|slot| slot.holders.iter().map(|holder| holder.by)).collect();
        for policy in deciding.into_iter().map(|by| &self.policies[by]) {
            let refresh = policy.settings.refresh.as_ref();
            let table = refresh.and_then(|refresh| tables.table(&refresh.schedule, known));
            self.verdicts[policy.verdict].next_refresh = table.and_then(|table| table.next(known.now));
        }
        (tables, former)
    }

    /// The balances of all objects that decide on anything. Each belongs to one object: the oldest that lists it.
    fn seed(
        &mut self,
        world: &World,
        stores: &Stores,
        slots: &[Slot<Matcher>],
        tables: &Tables,
        former: &Former,
    ) -> Vec<Seed> {
        let form = form::of(world.settings.flavor);
        let mut in_force = vec![false; self.policies.len()];
        for holder in slots.iter().flat_map(|slot| &slot.holders) {
            in_force[holder.by] = true;
        }
        let mut seeding = Vec::with_capacity(self.policies.len());
        let consumers = self.verdicts.iter().map(|verdict| verdict.object.consumers().len());
        let mut seeds = Vec::with_capacity(consumers.sum());
        for (by, policy) in self.policies.iter().enumerate().filter(|(by, policy)| in_force[*by] && !policy.kept) {
            let Some(Ok(store)) = policy.settings.store.as_deref().map(|store| stores.find(store)) else { continue };
            let verdict = &mut self.verdicts[policy.verdict];
            let object = verdict.owner.clone();
            let refreshing = policy
                .settings
                .refresh
                .as_ref()
                .and_then(|refresh| Some(Arc::new(tables.get(&refresh.schedule)?.refreshing(refresh, world.now))));
            let turn = refreshing.as_deref().filter(|_| !form.rolls()).and_then(Refreshing::turn);
            let begin = seeds.len();
            seeds.extend(verdict.object.consumers().iter().enumerate().map(|(consumer, listed)| Seed {
                store,
                balance: Balance::new(&policy.settings.key_prefix, listed.name.as_bytes()),
                grant: listed.quota.map_or(Grant::Unlimited, Grant::Tokens),
                object: object.clone(),
                refreshing: refreshing.clone(),
                former: former.get(&by).cloned(),
                turn,
                consumer,
            }));
            verdict.seeds = begin..seeds.len();
            seeding.push(by);
        }
        let lost = self.lost(&seeding, &seeds, stores);
        if lost.is_empty() { seeds } else { self.without(&seeding, seeds, &lost) }
    }

    /// The seeds whose balance an older object has, and the policy of that.
    fn lost(&self, seeding: &[usize], seeds: &[Seed], stores: &Stores) -> HashMap<usize, usize> {
        let mut owners: HashMap<(usize, &[u8]), usize> = HashMap::with_capacity(seeds.len());
        let mut lost = HashMap::new();
        for by in seeding {
            for seed in self.verdicts[self.policies[*by].verdict].seeds.clone() {
                let Seed { store, balance, .. } = &seeds[seed];
                let winner = *owners.entry((stores.databases[*store], balance.as_bytes())).or_insert(*by);
                if winner != *by {
                    lost.insert(seed, winner);
                }
            }
        }
        lost
    }

    fn without(&mut self, seeding: &[usize], seeds: Vec<Seed>, lost: &HashMap<usize, usize>) -> Vec<Seed> {
        let mut kept = Vec::with_capacity(seeds.len());
        let mut all = seeds.into_iter().enumerate();
        for by in seeding {
            let verdict = self.policies[*by].verdict;
            let begin = kept.len();
            let mut conflicts = Vec::new();
            for (at, seed) in all.by_ref().take(self.verdicts[verdict].seeds.len()) {
                match lost.get(&at) {
                    Some(winner) => conflicts.push((*winner, seed.consumer)),
                    None => kept.push(seed),
                }
            }
            self.verdicts[verdict].seeds = begin..kept.len();
            if let Some((winner, consumer)) = conflicts.first() {
                let winner = self.verdicts[self.policies[*winner].verdict].key.clone();
                let verdict = &mut self.verdicts[verdict];
                let consumer = verdict.object.consumers()[*consumer].name.clone();
                verdict.refused.push(Reason::ConsumerConflicted { consumer, winner, more: conflicts.len() - 1 });
            }
        }
        kept
    }
}

/// What ceilings ask about.
struct Surroundings<'a, 'b> {
    world: &'b World,
    existing: &'b Existing,
    targets: &'b Targets<'a>,
    policies: &'b [Policy],
}

impl<'a> Context<'a> for Surroundings<'a, '_> {
    fn hosts(&self, route: &str) -> Option<Vec<&'a str>> {
        self.targets.hosts(route)
    }

    fn is_in_force(&self, what: &Matcher, by: usize) -> bool {
        let policy = &self.policies[by];
        self.existing.is_under(what, &policy.name) || self.existing.holds(what, &policy.settings)
    }

    fn trusts(&self, namespace: &str) -> bool {
        self.world.settings.trusts(namespace)
    }

    fn is_gateways(&self, namespace: &str) -> bool {
        namespace == self.world.settings.gateway_namespace
    }
}

impl Verdict {
    /// It limits nothing any more: its rules are the first that go.
    fn leave(&mut self, world: &World, stores: &Stores) {
        self.refused.push(Reason::BeingDeleted);
        if let Object::Read(quota) = &self.object {
            let all = quota.spec.target_refs.iter().cloned();
            self.targets.extend(all.map(|target| (target, Some(Reason::BeingDeleted))));
            if validate(quota).is_ok() {
                (self.declared, self.withheld) = declared(&settings(world, quota, &self.key), stores);
            }
        }
    }
}

/// Where the balances of an object are, and why its store cannot be used.
fn declared(settings: &wire::Policy, stores: &Stores) -> (Option<Declared>, Option<Reason>) {
    let store = settings.store.as_deref().map(|store| stores.find(store));
    let found = store.as_ref().and_then(|store| store.as_ref().ok().copied());
    let declared = Declared { key_prefix: settings.key_prefix.clone(), store: found };
    (Some(declared), store.and_then(Result::err))
}

/// What the gateway holds an object to that cannot be understood.
struct Kept {
    settings: wire::Policy,
    named: Vec<Matcher>,
    derived: Vec<Matcher>,
}

/// Its own rules, and those that another object with equal settings stands for, on targets that were its own as well
/// when it could be understood.
fn kept(verdict: &Verdict, name: &str, existing: &Existing, targets: &Targets<'_>) -> Option<Kept> {
    let mut named = existing.matchers.get(name).cloned().unwrap_or_default();
    let own = existing.policies.get(name).filter(|_| !named.is_empty());
    let status = verdict.object.status().into_iter();
    let shared: Vec<_> = status
        .flat_map(|status| status.targets.iter().filter(|target| target.accepted))
        .map(|target| api::TargetRef { kind: target.kind, name: target.name.clone() })
        .filter_map(|target| targets.matched(&verdict.key.namespace, 0, &target).ok())
        .filter(|matched| !named.contains(&matched.named))
        .collect();
    let settings = own.or_else(|| shared.iter().find_map(|matched| existing.over(&matched.named)))?.clone();
    let mut derived = Vec::new();
    for matched in shared.into_iter().filter(|matched| existing.holds(&matched.named, &settings)) {
        named.push(matched.named);
        derived.extend(matched.derived.into_iter().chain(matched.beside));
    }
    Some(Kept { settings, named, derived })
}

/// Why requests are refused though the rule is there. It names nothing that users choose freely and no detail that
/// could change without meaning anything new: every change is pushed to all gateways.
fn unavailable(store: Option<&str>, stores: &Stores) -> Option<String> {
    let store = store?;
    if stores.wire.contains_key(store) {
        return None;
    }
    let reason = stores.find(store).err().map_or("StoreNotFound", |reason| reason.reason());
    Some(format!("{reason}: store {store}"))
}

fn settings(world: &World, quota: &AiQuota, key: &Key) -> wire::Policy {
    let spec = &quota.spec;
    let derived = || spec.target_refs.first().map(|target| prefix::derived(&key.namespace, target)).unwrap_or_default();
    let mut paths = match &spec.paths {
        Some(paths) => paths.clone(),
        None => form::of(world.settings.flavor).default_paths(),
    };
    paths.sort_unstable();
    wire::Policy {
        store: Some(spec.store_ref.as_ref().map_or(stores::DEFAULT, |store| &store.name).to_owned()),
        key_prefix: spec.key_prefix.clone().unwrap_or_else(derived),
        owner: owner_name(world, key),
        paths,
        admin: spec.admin.as_ref().map(|admin| wire::Admin {
            consumer: admin.consumer.clone(),
            path: admin.path.clone().unwrap_or_else(|| DEFAULT_ADMIN_PATH.to_owned()),
        }),
        default_quota: spec.default_quota,
        refresh: spec.refresh.as_ref().and_then(tables::refresh),
        unavailable: None,
    }
}

fn owner(world: &World, object: &Object) -> Owner {
    let metadata = object.metadata();
    Owner {
        name: owner_name(world, &Key::of(metadata)),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        term: world.term,
        refresh: manual::token(object).map(str::to_owned),
    }
}

fn owner_name(world: &World, key: &Key) -> String {
    format!("{}/{key}", world.cluster)
}
