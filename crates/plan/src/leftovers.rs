//! Balances that Redis knows of in, what becomes of each out: parked, released, deleted or left alone. Every store is
//! asked for what it has recorded, so that nothing is forgotten that was removed while nobody looked. Pure.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
};

use enforcement::redis::{self, Balance, Delete, Fence, Invocation, Park, Period, Release};

use crate::{Key, Life, Object, ObjectKind, Owner, Plan, Reason, Verdict, gateway::Part, models, plan::Declared};

/// What becomes of a recorded balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is as it should be, or only an object that cannot be read knows what it should be.
    Stays,
    /// Its object does not list the consumer any more.
    Park,
    /// Another object has it, by this seed: once that is applied, there is nothing to do but to forget whose it was.
    Taken { seed: usize },
    /// An object lists it in this other store, of which nobody knows yet whether it leads to the same database.
    Unclear { store: usize },
    /// Its object is gone, and did not want it to go along.
    Release,
    /// It goes with its object.
    Delete,
}

/// The plan, as far as it decides on what is recorded.
pub struct Leftovers<'p> {
    plan: &'p Plan,
    owners: HashMap<&'p str, &'p Verdict>,
    /// By the number of the database.
    seeds: OnceLock<HashMap<(usize, &'p [u8]), usize>>,
    /// For each store, the numbers of other databases that may be its own.
    possible: OnceLock<Vec<Vec<usize>>>,
    heirs: OnceLock<Heirs>,
}

/// For each prefix the stores of policies with a default; nothing for a store that cannot be found.
type Heirs = HashMap<String, Vec<Option<usize>>>;

/// An owner of recorded balances in one store.
pub struct Recorded<'a, 'p> {
    all: &'a Leftovers<'p>,
    store: usize,
    owner: &'a str,
    /// Nothing where the object is gone.
    verdict: Option<&'p Verdict>,
    listed: OnceCell<HashSet<(Option<&'p str>, &'p str)>>,
}

impl<'p> Leftovers<'p> {
    #[must_use]
    pub fn new(plan: &'p Plan) -> Self {
        let quotas = plan.verdicts.iter().filter(|verdict| verdict.object.kind() == ObjectKind::AiQuota);
        let owners = quotas.map(|verdict| (verdict.owner.name.as_str(), verdict)).collect();
        Self { plan, owners, seeds: OnceLock::new(), possible: OnceLock::new(), heirs: OnceLock::new() }
    }

    /// Nothing for the owner of another cluster.
    #[must_use]
    pub fn of<'a>(&'a self, store: usize, owner: &'a str) -> Option<Recorded<'a, 'p>> {
        owner.strip_prefix(self.plan.cluster.as_str())?.strip_prefix('/')?;
        let verdict = self.owners.get(owner).copied().filter(|verdict| verdict.life != Life::Gone);
        Some(Recorded { all: self, store, owner, verdict, listed: OnceCell::new() })
    }

    fn heirs(&self) -> &Heirs {
        self.heirs.get_or_init(|| self.plan.heirs())
    }

    /// Whether another object's default decides on a balance that requests made from the default of a leaving one.
    #[must_use]
    pub fn is_inherited(&self, departure: &Departure, store: usize, balance: &Balance) -> bool {
        let declared = self.plan.verdicts[departure.verdict].declared.as_ref();
        declared.is_some_and(|declared| self.inherits(store, declared, balance))
    }

    fn inherits(&self, store: usize, Declared { key_prefix, .. }: &Declared, balance: &Balance) -> bool {
        let prefix = match balance.under(key_prefix) {
            Some((Some(model), _)) => redis::of_model(key_prefix, model),
            Some((None, _)) | None => key_prefix.clone(),
        };
        self.plan.is_inherited(self.heirs(), store, &prefix)
    }

    /// Whether an owner of this cluster is an object that does not live any more.
    #[must_use]
    pub fn is_dead(&self, owner: &str) -> bool {
        self.of(0, owner).is_some_and(|recorded| recorded.verdict.is_none())
    }

    /// The store that an owner names; nothing where the object is gone, or its store cannot be used.
    #[must_use]
    pub fn store(&self, owner: &str) -> Option<usize> {
        self.owners.get(owner)?.declared.as_ref()?.store
    }

    /// Whether a listed consumer has this balance, here or, for all that is known, elsewhere under the same key.
    #[must_use]
    pub fn lists(&self, store: usize, balance: &Balance) -> bool {
        self.seed(store, balance).is_some() || self.unclear(store, balance).is_some()
    }

    /// The seed that makes a balance of a database.
    fn seed(&self, store: usize, balance: &Balance) -> Option<usize> {
        self.seed_in(self.plan.databases.number(store), balance)
    }

    /// A store other than this one that makes the balance, and may lead to the same database for all that is known.
    fn unclear(&self, store: usize, balance: &Balance) -> Option<usize> {
        let Plan { seeds, databases, .. } = self.plan;
        let possible = self.possible.get_or_init(|| {
            (0..self.plan.stores.len()).map(|store| databases.possible(store).into_iter().collect()).collect()
        });
        let made = possible[store].iter().filter_map(|number| self.seed_in(*number, balance));
        made.map(|seed| seeds[seed].store).find(|other| databases.same(store, *other).is_none())
    }

    fn seed_in(&self, database: usize, balance: &Balance) -> Option<usize> {
        let Plan { seeds, databases, .. } = self.plan;
        let all = self.seeds.get_or_init(|| {
            let place = |seed: &'p crate::Seed| (databases.number(seed.store), seed.balance.as_bytes());
            seeds.iter().enumerate().map(|(index, seed)| (place(seed), index)).collect()
        });
        all.get(&(database, balance.as_bytes())).copied()
    }
}

impl Recorded<'_, '_> {
    /// Equal as long as the same becomes of the owner's balances, but for what other objects take from it.
    #[must_use]
    pub fn stamp(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match self.verdict {
            None => 0.hash(&mut hasher),
            Some(verdict) => {
                (&verdict.owner.uid, verdict.owner.generation).hash(&mut hasher);
                matches!(verdict.life, Life::Leaves(leaving) if leaving.drained).hash(&mut hasher);
                (verdict.keeps_last_rule(), self.declares_here(verdict), self.inherited(verdict)).hash(&mut hasher);
                self.own_seeds(verdict).for_each(|seed| self.all.plan.seeds[seed].consumer.hash(&mut hasher));
            }
        }
        hasher.finish()
    }

    /// Whether what is recorded is what is wanted, so that nobody has to be asked about each.
    #[must_use]
    pub fn is_as_wanted(&self, recorded: &HashSet<Balance>) -> bool {
        let Some(verdict) = self.verdict else { return recorded.is_empty() };
        let mut count = 0;
        let all = self.own_seeds(verdict).all(|seed| {
            count += 1;
            recorded.contains(&self.all.plan.seeds[seed].balance)
        });
        all && count == recorded.len()
    }

    #[must_use]
    pub fn fate(&self, balance: &Balance) -> Fate {
        if let Some(seed) = self.all.seed(self.store, balance) {
            let own = self.verdict.is_some_and(|verdict| verdict.seeds.contains(&seed));
            return if own { Fate::Stays } else { Fate::Taken { seed } };
        }
        match self.without_seed(balance) {
            Fate::Stays => Fate::Stays,
            fate => self.all.unclear(self.store, balance).map_or(fate, |store| Fate::Unclear { store }),
        }
    }

    fn without_seed(&self, balance: &Balance) -> Fate {
        let Some(verdict) = self.verdict else { return Fate::Release };
        match verdict.life {
            // What it does not list may live on another object's default, as what requests made from its own.
            Life::Leaves(leaving) if leaving.drained => match self.is_inherited(verdict, balance) {
                true if !self.lists(verdict, balance) => Fate::Release,
                _ => Fate::Delete,
            },
            Life::Leaves(_) => Fate::Stays,
            Life::Stays | Life::Gone => match self.declares_here(verdict) {
                // Only who can be read can have let go of anything.
                _ if verdict.keeps_last_rule() => Fate::Stays,
                None => Fate::Stays,
                Some(true) if self.lists(verdict, balance) => Fate::Stays,
                Some(_) => Fate::Park,
            },
        }
    }

    /// The script call that makes it so; nothing where Redis need not be asked.
    #[must_use]
    pub fn invocation(&self, balance: &Balance, fate: Fate) -> Option<Invocation> {
        let (owner, term) = (self.owner, self.all.plan.term);
        let fence = self.verdict.map(|verdict| {
            let Owner { name: _, uid, generation, term, refresh: _ } = &*verdict.owner;
            Fence { term: *term, uid, generation: *generation }
        });
        match (fate, fence) {
            (Fate::Park, Some(fence)) => Some(Park { balance, owner, fence, period: self.period() }.invocation()),
            (Fate::Delete, Some(fence)) => Some(Delete { balance, owner, fence }.invocation()),
            (Fate::Release, _) => Some(Release { balance, owner, term }.invocation()),
            (Fate::Stays | Fate::Taken { .. } | Fate::Unclear { .. } | Fate::Park | Fate::Delete, _) => None,
        }
    }

    /// The period of what the object still lists: what is parked was in it until now.
    fn period(&self) -> Option<Period<'_>> {
        let first = self.verdict?.seeds.clone().next()?;
        self.all.plan.seeds[first].apply(false).period
    }

    /// Whether its store leads here; unknown while that cannot be used, or asked which database it is.
    fn declares_here(&self, verdict: &Verdict) -> Option<bool> {
        self.all.plan.databases.same(verdict.declared.as_ref()?.store?, self.store)
    }

    /// Whether another object's default decides on such balances as this one's made.
    fn is_inherited(&self, verdict: &Verdict, balance: &Balance) -> bool {
        let leaves = matches!(verdict.life, Life::Leaves(_));
        leaves && verdict.declared.as_ref().is_some_and(|declared| self.all.inherits(self.store, declared, balance))
    }

    /// The prefixes of those.
    fn inherited(&self, verdict: &Verdict) -> BTreeSet<&str> {
        let leaves = matches!(verdict.life, Life::Leaves(_));
        let Some(Declared { key_prefix, .. }) = verdict.declared.as_ref().filter(|_| leaves) else { return [].into() };
        let plan = self.all.plan;
        let heirs = self.all.heirs();
        let own = heirs.keys().filter(|prefix| redis::is_of(prefix, key_prefix));
        own.filter(|prefix| plan.is_inherited(heirs, self.store, prefix)).map(String::as_str).collect()
    }

    fn lists(&self, verdict: &Verdict, balance: &Balance) -> bool {
        let Some(declared) = &verdict.declared else { return false };
        let listed = self.listed.get_or_init(|| self.consumers());
        balance.under(&declared.key_prefix).is_some_and(|listing| listed.contains(&listing))
    }

    fn own_seeds(&self, verdict: &Verdict) -> impl Iterator<Item = usize> {
        let Plan { seeds, databases, .. } = self.all.plan;
        let here = databases.number(self.store);
        verdict.seeds.clone().filter(move |seed| databases.number(seeds[*seed].store) == here)
    }
}

impl<'p> Recorded<'_, 'p> {
    fn consumers(&self) -> HashSet<(Option<&'p str>, &'p str)> {
        let listed = self.verdict.into_iter().flat_map(|verdict| verdict.object.listed());
        listed.map(|listed| (listed.model, listed.consumer.name.as_str())).collect()
    }
}

/// An object whose balances are to be deleted now.
pub struct Departure {
    /// The index of its verdict.
    pub verdict: usize,
    pub owner: Arc<Owner>,
    /// The store and the prefix of balances that requests may have made from its defaults, of which some may be
    /// others' now: see [`Leftovers::is_inherited`].
    pub lazy: Option<(usize, String)>,
    /// The store it names, and why that cannot be used.
    pub withheld: Option<(String, Reason)>,
}

/// What became of the balances of objects that are deleted with them, by the index of the verdict; of an object that
/// stays, that what it lists no longer could not be parked.
pub type Deletions = HashMap<usize, Deletion>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    Working,
    /// A store is in the way that cannot be used now.
    Stuck {
        store: String,
        error: String,
    },
    Done,
}

impl Plan {
    /// The uid of the namespace kube-system: whose index of balances is meant.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The stores of the gateway's namespace that cannot be used, and why. Others never could.
    pub fn unusable_stores(&self) -> impl Iterator<Item = (Key, Reason)> {
        let gateway = &self.gateway.settings.gateway_namespace;
        let refused = self.stores.iter().filter_map(|store| {
            let name = Key::of(&store.object.metadata);
            Some((name, store.access.as_ref().err()?.clone()))
        });
        let unread = self.unread_stores.iter();
        let unread =
            unread.map(move |name| (Key::new(gateway, name), Reason::Undecodable(format!("AIQuotaStore {name}"))));
        refused.filter(move |(name, _)| name.namespace == *gateway).chain(unread)
    }

    /// The objects that are to go with their balances, and whose requests have had time to end.
    pub fn departures(&self) -> impl Iterator<Item = Departure> {
        let drained =
            |(_, verdict): &(usize, &Verdict)| matches!(verdict.life, Life::Leaves(leaving) if leaving.drained);
        // Also where the common balances are all inherited: those of a model may be nobody's, and the spec does not say
        // which models it had.
        let lazy = |verdict: &Verdict| {
            let Declared { store, key_prefix } = verdict.declared.as_ref()?;
            Some(((*store)?, key_prefix.clone()))
        };
        self.verdicts.iter().enumerate().filter(drained).map(move |(index, verdict)| Departure {
            verdict: index,
            owner: verdict.owner.clone(),
            lazy: lazy(verdict),
            withheld: verdict.withheld.clone().map(|reason| (store_name(verdict), reason)),
        })
    }

    /// Where a policy in force has a default, also that of an object that cannot be read: what others' defaults made
    /// there follows it.
    fn heirs(&self) -> Heirs {
        let Part { policies, slots, .. } = &self.quotas;
        let gateway = &self.gateway.settings.gateway_namespace;
        let stores = self.stores.iter().enumerate().filter(|(_, store)| store.access.is_ok());
        let stores: HashMap<String, usize> = stores
            .map(|(index, store)| (Key::of(&store.object.metadata), index))
            .filter(|(name, _)| name.namespace == *gateway)
            .map(|(name, index)| (name.name, index))
            .collect();
        let mut heirs = Heirs::new();
        let in_force: HashSet<usize> = slots.iter().flat_map(|slot| &slot.holders).map(|holder| holder.by).collect();
        for settings in in_force.into_iter().map(|by| &policies[by].settings) {
            let store = settings.store.as_ref().and_then(|store| stores.get(store)).copied();
            for (prefix, _) in models::places(settings).filter(|(_, default)| default.is_some()) {
                heirs.entry(prefix).or_default().push(store);
            }
        }
        heirs
    }

    /// Whether one of them is, or for all that is known may be, in the same place.
    fn is_inherited(&self, heirs: &Heirs, store: usize, key_prefix: &str) -> bool {
        let is_here =
            |other: &Option<usize>| other.is_none_or(|other| self.databases.same(store, other) != Some(false));
        heirs.get(key_prefix).is_some_and(|others| others.iter().any(is_here))
    }
}

fn store_name(verdict: &Verdict) -> String {
    let name = match &verdict.object {
        Object::Read(quota) => quota.spec.store_ref.as_ref().map(|store| store.name.as_str()),
        Object::Limit(_) | Object::Undecodable(_) => None,
    };
    name.unwrap_or(crate::stores::DEFAULT).to_owned()
}
