//! The world in, the plan out, in steps: stores, then each object by itself (valid, permitted, targets there), then
//! all together (who decides on what, whose balance it is, what fits), then the warnings. Pure.

mod decide;
mod examine;
mod heirs;
mod kept;
mod overrides;
mod seed;
mod watched;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::WasmPlugin;

use crate::{
    AI_QUOTA, GUARD, Key, Life, Object, Owner, Plan, Reason, Verdict, World,
    age::by_age,
    auth::AuthPlugins,
    existing::Existing,
    foreign::Twins,
    form::{self, Form},
    gateway::{Gateway, Matcher, Part, Policy},
    kind::{Kind, Limit, Quota},
    life, loaded, manual,
    merge::{Claim, Slot},
    stores::{self, Stores},
    tables::{Known, Refreshing},
    targets::Targets,
    warn::Beside,
};

/// Everything as it should be, for a world that is known completely.
#[must_use]
pub fn build(world: &World) -> Plan {
    let (quotas, limits) = (Before::<Quota>::of(world), Before::<Limit>::of(world));
    let mut known_stores = limits.existing.stores.clone();
    known_stores.extend(quotas.existing.stores.clone());
    let stores = stores::resolve(world, &known_stores);
    let targets = Targets::new(world);
    let (auth, around) = (AuthPlugins::new(world), Around { world, stores: &stores, targets: &targets });

    let (quotas, mut draft) = quotas.decide(&around);
    let Before { existing, found, .. } = &quotas.before;
    let own = world.last_written(AI_QUOTA).map(|_| &existing.schedules);
    let known = Known { now: world.now, own, found: &found.schedules };
    let (tables, former) = draft.schedule(&quotas.slots, existing, &known);
    let seeds = draft.seed(world, &stores, &quotas.slots, &tables, &former);
    let (mut quotas, mut verdicts) = draft.look(quotas, &around, &auth);
    heirs::decide(&mut quotas, &stores);

    let (limits, mut draft) = limits.decide(&around);
    draft.watch(&stores);
    let (overrides, wanted_overrides) = draft.overrides(world, &stores, (&limits.slots, &limits.before.existing));
    let (mut limits, of_limits) = draft.look(limits, &around, &auth);
    for policy in &mut limits.policies {
        policy.verdict += verdicts.len();
    }

    let settles = seeds.iter().filter_map(|seed| seed.turn?.settles);
    let refreshes = verdicts.iter().filter_map(|verdict| verdict.next_refresh);
    let departures = verdicts.iter().filter_map(|verdict| match verdict.life {
        Life::Leaves(leaving) => leaving.until.filter(|until| *until > world.now),
        Life::Stays | Life::Gone => None,
    });
    // Where it is not known yet which database a store is, its objects may list what others seem to have alone.
    let elsewhere = |store: usize| !stores.databases.possible(store).is_empty();
    let unclear = |verdict: &Verdict| {
        let declared = verdict.declared.as_ref().filter(|_| verdict.life == Life::Stays);
        declared.is_some_and(|declared| declared.store.is_none_or(elsewhere))
    };
    let unread = verdicts.iter().filter(|verdict| verdict.keeps_balances() || unclear(verdict));
    let unread = unread.map(|verdict| verdict.owner.name.clone()).collect();
    let next = refreshes.chain(tables.next()).chain(departures).chain(settles).min();
    verdicts.extend(of_limits);
    Plan {
        next,
        unread,
        seeds,
        overrides,
        wanted_overrides,
        verdicts,
        gateway: Gateway {
            settings: world.settings.clone(),
            whose: loaded::whose(&world.cluster, &world.settings.gateway_namespace),
            guard_priority: auth.guard_priority(),
            templates: stores.templates(),
            stores: stores.wire,
            tables,
            guard: plugin(world, GUARD),
        },
        quotas,
        limits,
        stores: stores.plans,
        cluster: world.cluster.clone(),
        term: world.term,
        unread_stores: world.undecodable_stores.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        databases: stores.databases,
    }
}

fn plugin(world: &World, name: &str) -> Option<Arc<WasmPlugin>> {
    world.plugins.iter().find(|found| found.metadata.name.as_deref() == Some(name)).cloned()
}

/// One kind's WasmPlugin as found, and as it was in force last.
struct Before<K: Kind> {
    form: &'static dyn Form<K>,
    plugin: Option<Arc<WasmPlugin>>,
    found: Existing<K>,
    existing: Existing<K>,
}

/// A kind while its objects are looked at: all but what other plugins make wait.
struct Deciding<K: Kind> {
    before: Before<K>,
    slots: Vec<Slot<Matcher>>,
}

impl<K: Kind> Before<K> {
    fn of(world: &World) -> Self {
        let (form, plugin) = (K::form(world), plugin(world, K::OURS));
        let changed =
            world.last_written(K::OURS).filter(|last| plugin.as_ref().is_none_or(|now| !form::same(now, last)));
        let existing = Existing::of(changed.or(plugin.as_deref()), form);
        Self { form, found: Existing::of(plugin.as_deref(), form), existing, plugin }
    }

    /// Each object by itself, then all together.
    fn decide(self, around: &Around<'_, '_>) -> (Deciding<K>, Draft<K>) {
        let before = Self { existing: self.existing.with_names_of(&around.stores.wire), ..self };
        let Around { world, stores, targets } = *around;
        let surroundings = Surroundings { world, form: before.form, existing: &before.existing, stores, targets };
        let mut held = Held::new();
        let (draft, slots) = loop {
            let mut draft = Draft::new(world, &before.found);
            draft.examine(&surroundings, &held);
            match draft.decide(&surroundings) {
                Ok(slots) => break (draft, slots),
                Err(more) => held.extend(more),
            }
        };
        (Deciding { before, slots }, draft)
    }
}

impl<K: Kind> Draft<K> {
    /// What stands beside: the warnings, and what waits.
    fn look(self, decided: Deciding<K>, around: &Around<'_, '_>, auth: &AuthPlugins<'_>) -> (Part<K>, Vec<Verdict>) {
        let Self { mut verdicts, policies, .. } = self;
        let Deciding { before: Before { form, plugin, found, existing }, slots } = decided;
        let twins = Twins::new(around.world, K::PLUGIN);
        let beside = Beside { world: around.world, targets: around.targets, auth, twins: &twins, existing: &existing };
        let waiting = beside.look(&policies, &slots, &mut verdicts);
        (Part { form, policies, slots, waiting, plugin, found, existing }, verdicts)
    }
}

/// What all kinds stand in.
#[derive(Clone, Copy)]
struct Around<'a, 'w> {
    world: &'w World,
    stores: &'a Stores,
    targets: &'a Targets<'w>,
}

/// What an object stands in.
struct Surroundings<'a, 'w, K: Kind> {
    world: &'w World,
    form: &'static dyn Form<K>,
    existing: &'a Existing<K>,
    stores: &'a Stores,
    targets: &'a Targets<'w>,
}

/// By verdict, why an object's edit is not taken though nothing is wrong with it.
type Held = HashMap<usize, Reason>;

/// By policy.
type Former = HashMap<usize, Arc<Refreshing>>;

struct Draft<K: Kind> {
    verdicts: Vec<Verdict>,
    /// Oldest first.
    policies: Vec<Policy<K>>,
    named: Vec<Claim<Matcher>>,
    derived: Vec<Claim<Matcher>>,
    beside: Vec<Claim<Matcher>>,
}

impl<K: Kind> Draft<K> {
    fn new(world: &World, found: &Existing<K>) -> Self {
        let mut objects = K::objects(world);
        objects.sort_by(|a, b| by_age(a.metadata(), b.metadata()));
        let verdicts = objects.into_iter().map(|object| Verdict {
            key: Key::of(object.metadata()),
            owner: Arc::new(owner(world, &object)),
            life: life::life(
                &object,
                found.enforces(&Key::of(object.metadata()).to_string()),
                world.settings.drain,
                world.now,
            ),
            finalizer: life::finalizer(&object),
            declared: None,
            object,
            targets: Vec::new(),
            refused: Vec::new(),
            withheld: None,
            waits: Vec::new(),
            seeds: 0..0,
            overrides: 0..0,
            watched: None,
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

pub(crate) fn owner_name(world: &World, key: &Key) -> String {
    format!("{}/{key}", world.cluster)
}
