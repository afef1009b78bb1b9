//! The world in, the plan out, in steps: stores, then each object by itself (valid, permitted, targets there), then
//! all together (who decides on what, whose balance it is, what fits), then the warnings. Pure.

mod decide;
mod examine;
mod kept;
mod seed;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    AI_QUOTA, GUARD, Key, Life, Object, Owner, Plan, Verdict, World,
    age::by_age,
    auth::AuthPlugins,
    existing::Existing,
    foreign::Twins,
    form::{self, Form},
    gateway::{Gateway, Matcher, Policy},
    life, manual,
    merge::Claim,
    stores::{self, Stores},
    tables::{Known, Refreshing},
    targets::Targets,
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

    let mut draft = Draft::new(world, &found);
    let surroundings = Surroundings { world, form, existing: &existing, stores: &stores, targets: &targets };
    draft.examine(&surroundings);
    let slots = draft.decide(&surroundings);
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
    let unread = verdicts.iter().filter(|verdict| verdict.keeps_balances());
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
        unread_stores: world.undecodable_stores.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        databases: stores.databases,
    }
}

/// What an object stands in.
#[derive(Clone, Copy)]
struct Surroundings<'a, 'w> {
    world: &'w World,
    form: &'static dyn Form,
    existing: &'a Existing,
    stores: &'a Stores,
    targets: &'a Targets<'w>,
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
    fn new(world: &World, found: &Existing) -> Self {
        let read = world.quotas.iter().cloned().map(Object::Read);
        let mut objects: Vec<Object> = read.chain(world.undecodable.iter().cloned().map(Object::Undecodable)).collect();
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

fn owner_name(world: &World, key: &Key) -> String {
    format!("{}/{key}", world.cluster)
}
