//! Who decides where several objects want the same, or one wants a part of what another has: claims in, oldest
//! object first, and for each thing claimed those that share it out. The same rule for every kind of settings. Pure.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::Hash,
};

/// Settings that may stand on one target together if they do not differ.
pub(crate) trait Settings {
    /// The first field in which they differ.
    fn difference(&self, other: &Self) -> Option<&'static str>;

    /// The namespace of their object.
    fn namespace(&self) -> &str;

    /// Whether objects of other namespaces may have a part of what these have.
    fn narrower(&self) -> Narrower;
}

/// What an object says about parts of its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Narrower {
    Allowed,
    Refused,
    /// The object cannot be read: what others have of it stays theirs, and nothing is added.
    AsItIs,
}

/// What lies in what.
pub(crate) trait Ceilings<K> {
    /// Things are decided in ascending order of this: nothing holds what has a lower or the same one.
    fn narrowness(&self, what: &K) -> usize;

    /// Whether it could hold others.
    fn is_wide(&self, what: &K) -> bool;

    /// Takes note that an object decides on a thing, which has this slot.
    fn decided(&mut self, slot: usize, what: &K, by: usize);

    /// The slot that holds this and whose object does not let this one have it.
    fn over(&self, what: &K, by: usize) -> Option<usize>;
}

/// One object wants one thing.
#[derive(Clone, Debug)]
pub(crate) struct Claim<K> {
    pub(crate) what: K,
    /// The index of the object's settings; the lower the older.
    pub(crate) by: usize,
    /// The index of the target in the object's spec.
    pub(crate) target: usize,
}

/// One thing, and who shares it: all with equal settings, the oldest first; nobody where all who wanted it lost.
pub(crate) struct Slot<K> {
    pub(crate) what: K,
    pub(crate) holders: Vec<Holder>,
    /// Those who wanted it too, the oldest first.
    pub(crate) losers: Vec<Loser>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) by: usize,
    pub(crate) target: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loser {
    pub(crate) by: usize,
    /// The slot of the ceiling that took it; otherwise the holders did, whose settings are others.
    pub(crate) ceiling: Option<usize>,
}

/// A claim that an older object's settings, or a ceiling, stand against.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) by: usize,
    pub(crate) target: usize,
    pub(crate) winner: usize,
    pub(crate) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The settings differ in this field.
    Differs(&'static str),
    /// What has this slot is a ceiling.
    Under(usize),
}

impl<K> Slot<K> {
    const fn empty(what: K) -> Self {
        Self { what, holders: Vec::new(), losers: Vec::new() }
    }
}

/// `named` is what the objects name themselves, the oldest first, `derived` what follows from it (a fallback route, a
/// canary), in the order in which it is given away. What an object names is not taken by what another derives; who loses a target gets nothing
/// that derives from it, and what is derived is lost quietly: the target itself still stands. What somebody may not
/// have for a ceiling counts for nothing else: it takes nothing from others and is no ceiling itself.
pub(crate) fn resolve<'a, K: Eq + Hash + Clone + 'a>(
    named: impl Iterator<Item = &'a Claim<K>>,
    derived: impl Iterator<Item = &'a Claim<K>>,
    settings: &[impl Settings],
    ceilings: &mut impl Ceilings<K>,
) -> (Vec<Slot<K>>, Vec<Lost>) {
    let mut named: Vec<_> = named.collect();
    named.sort_by_key(|claim| ceilings.narrowness(&claim.what));
    let mut slots = Slots { all: Vec::new(), index: HashMap::with_capacity(named.len()) };
    let mut lost = Vec::new();
    let mut losers = HashMap::new();
    for claim in named {
        let loss = match ceilings.over(&claim.what, claim.by) {
            Some(ceiling) => Some(slots.under(claim, ceiling)),
            None => slots.claim(claim, settings, ceilings),
        };
        if let Some((winner, why)) = loss {
            let Claim { by, target, .. } = *claim;
            losers.insert((by, target), why);
            lost.push(Lost { by, target, winner, why });
        }
    }
    let mut of_losers = Vec::new();
    for claim in derived {
        match losers.get(&(claim.by, claim.target)) {
            Some(why) => of_losers.push((claim, *why)),
            // What derives from a target that is free may itself lie under a ceiling: a route of its name, with other hosts.
            None => match ceilings.over(&claim.what, claim.by) {
                Some(ceiling) => drop(slots.under(claim, ceiling)),
                None => drop(slots.claim(claim, settings, ceilings)),
            },
        }
    }
    for (claim, why) in of_losers {
        match why {
            Why::Under(ceiling) => drop(slots.under(claim, ceiling)),
            Why::Differs(_) => {
                if let Some(slot) = slots.index.get(&claim.what) {
                    slots.all[*slot].losers.push(Loser { by: claim.by, ceiling: None });
                }
            }
        }
    }
    (slots.all, lost)
}

struct Slots<'a, K> {
    all: Vec<Slot<K>>,
    index: HashMap<&'a K, usize>,
}

impl<'a, K: Eq + Hash + Clone> Slots<'a, K> {
    fn at(&mut self, what: &'a K) -> usize {
        match self.index.entry(what) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                self.all.push(Slot::empty(what.clone()));
                *entry.insert(self.all.len() - 1)
            }
        }
    }

    /// The winner, and why, if that is not who claims.
    fn claim(
        &mut self,
        claim: &'a Claim<K>,
        settings: &[impl Settings],
        ceilings: &mut impl Ceilings<K>,
    ) -> Option<(usize, Why)> {
        let Claim { what, by, target } = claim;
        let (by, target) = (*by, *target);
        let at = self.at(what);
        let slot = &mut self.all[at];
        let Some(winner) = slot.holders.first().map(|holder| holder.by) else {
            slot.holders.push(Holder { by, target });
            ceilings.decided(at, what, by);
            return None;
        };
        let (one, other) = (&settings[by], &settings[winner]);
        let about_parts = || {
            let differ = ceilings.is_wide(what) && differ(one.narrower(), other.narrower());
            differ.then_some("allowNarrower")
        };
        match one.difference(other).or_else(about_parts) {
            None => {
                slot.holders.push(Holder { by, target });
                None
            }
            Some(field) => {
                slot.losers.push(Loser { by, ceiling: None });
                Some((winner, Why::Differs(field)))
            }
        }
    }

    fn under(&mut self, claim: &'a Claim<K>, ceiling: usize) -> (usize, Why) {
        let at = self.at(&claim.what);
        self.all[at].losers.push(Loser { by: claim.by, ceiling: Some(ceiling) });
        (self.all[ceiling].holders[0].by, Why::Under(ceiling))
    }
}

/// What cannot be read differs in nothing that is known.
fn differ(one: Narrower, other: Narrower) -> bool {
    one != other && one != Narrower::AsItIs && other != Narrower::AsItIs
}

/// The things that a ceiling keeps from somebody.
pub(crate) fn ceilings_of(lost: &[Lost]) -> HashSet<usize> {
    let under = |lost: &Lost| match lost.why {
        Why::Under(slot) => Some(slot),
        Why::Differs(_) => None,
    };
    lost.iter().filter_map(under).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number, a namespace, and what it allows.
    #[derive(Clone, Copy)]
    struct Object(u8, &'static str, Narrower);

    impl Settings for Object {
        fn difference(&self, other: &Self) -> Option<&'static str> {
            (self.0 != other.0).then_some("number")
        }

        fn namespace(&self) -> &str {
            self.1
        }

        fn narrower(&self) -> Narrower {
            self.2
        }
    }

    /// What ends in an asterisk holds what begins as it does.
    struct Beginnings<'a>(&'a [Object], Vec<(usize, &'static str, usize)>);

    impl Ceilings<&'static str> for Beginnings<'_> {
        fn narrowness(&self, what: &&'static str) -> usize {
            what.trim_end_matches('*').len()
        }

        fn is_wide(&self, what: &&'static str) -> bool {
            what.ends_with('*')
        }

        fn decided(&mut self, slot: usize, what: &&'static str, by: usize) {
            if let Some(begin) = what.strip_suffix('*') {
                self.1.push((slot, begin, by));
            }
        }

        fn over(&self, what: &&'static str, by: usize) -> Option<usize> {
            let holds = |(_, begin, owner): &&(usize, &str, usize)| {
                what.starts_with(begin)
                    && what.trim_end_matches('*').len() > begin.len()
                    && self.0[*owner].1 != self.0[by].1
                    && self.0[*owner].2 == Narrower::Refused
            };
            self.1.iter().find(holds).map(|(slot, ..)| *slot)
        }
    }

    fn objects<const N: usize>(numbers: [u8; N]) -> [Object; N] {
        numbers.map(|number| Object(number, "one", Narrower::Refused))
    }

    fn claim(what: &'static str, by: usize) -> Claim<&'static str> {
        Claim { what, by, target: 0 }
    }

    fn resolved(
        named: &[Claim<&'static str>],
        derived: &[Claim<&'static str>],
        objects: &[Object],
    ) -> (Vec<Slot<&'static str>>, Vec<Lost>) {
        resolve(named.iter(), derived.iter(), objects, &mut Beginnings(objects, Vec::new()))
    }

    fn holders(slots: &[Slot<&'static str>]) -> Vec<(&'static str, Vec<usize>)> {
        slots.iter().map(|slot| (slot.what, slot.holders.iter().map(|holder| holder.by).collect())).collect()
    }

    /// Who lost it, and to the ceiling of which slot.
    type Losers = (&'static str, Vec<(usize, Option<usize>)>);

    fn losers(slots: &[Slot<&'static str>]) -> Vec<Losers> {
        let of = |slot: &Slot<_>| slot.losers.iter().map(|loser| (loser.by, loser.ceiling)).collect();
        slots.iter().map(|slot| (slot.what, of(slot))).collect()
    }

    #[test]
    fn equal_settings_share_and_others_lose_to_the_oldest_with_the_field_named() {
        let (slots, lost) = resolved(&[claim("a", 0), claim("a", 1), claim("a", 2)], &[], &objects([1, 2, 1]));
        assert_eq!(holders(&slots), [("a", vec![0, 2])]);
        assert_eq!(lost, [Lost { by: 1, target: 0, winner: 0, why: Why::Differs("number") }]);
    }

    #[test]
    fn who_loses_a_target_gets_nothing_that_derives_from_it() {
        let derived = [claim("a-fallback", 1), claim("b-fallback", 2)];
        let (slots, _) = resolved(&[claim("a", 0), claim("a", 1), claim("b", 2)], &derived, &objects([1, 2, 2]));
        assert_eq!(holders(&slots), [("a", vec![0]), ("b", vec![2]), ("b-fallback", vec![2])]);
        assert_eq!(losers(&slots), [("a", vec![(1, None)]), ("b", vec![]), ("b-fallback", vec![])]);
    }

    #[test]
    fn who_lost_is_remembered_also_where_it_only_derives() {
        let derived = [claim("a-fallback", 0), claim("a-fallback", 1), claim("b", 2)];
        let (slots, _) = resolved(&[claim("a", 0), claim("a", 1), claim("b", 0)], &derived, &objects([1, 2, 2]));
        let expected = [("a", vec![(1, None)]), ("b", vec![(2, None)]), ("a-fallback", vec![(1, None)])];
        assert_eq!(losers(&slots), expected);
    }

    #[test]
    fn what_is_named_is_not_taken_by_what_is_derived_though_that_is_older() {
        let (slots, lost) = resolved(&[claim("a", 0), claim("b", 1)], &[claim("b", 0)], &objects([1, 2]));
        assert_eq!(holders(&slots), [("a", vec![0]), ("b", vec![1])]);
        assert!(lost.is_empty(), "the older one's own target stands");
    }

    #[test]
    fn a_younger_ceiling_takes_what_lies_in_it_from_other_namespaces_with_all_that_derives_from_it() {
        let objects = [Object(1, "team", Narrower::Refused), Object(2, "one", Narrower::Refused)];
        let named = [claim("ab", 0), claim("a*", 1)];
        let (slots, lost) = resolved(&named, &[claim("c", 0)], &objects);
        assert_eq!(holders(&slots), [("a*", vec![1]), ("ab", vec![]), ("c", vec![])]);
        assert_eq!(losers(&slots), [("a*", vec![]), ("ab", vec![(0, Some(0))]), ("c", vec![(0, Some(0))])]);
        assert_eq!(lost, [Lost { by: 0, target: 0, winner: 1, why: Why::Under(0) }]);
        assert_eq!(ceilings_of(&lost), HashSet::from([0]));
    }

    #[test]
    fn what_a_ceiling_took_takes_nothing_and_is_no_ceiling() {
        let named = [claim("ab*", 0), claim("abc", 1), claim("a*", 2), claim("ab*", 3)];
        let objects = [
            Object(1, "two", Narrower::Refused),
            Object(2, "one", Narrower::Refused),
            Object(3, "one", Narrower::Refused),
            Object(4, "one", Narrower::Refused),
        ];
        let (slots, lost) = resolved(&named, &[], &objects);
        assert_eq!(holders(&slots), [("a*", vec![2]), ("ab*", vec![3]), ("abc", vec![1])]);
        assert_eq!(lost.iter().map(|lost| lost.by).collect::<Vec<_>>(), [0], "the oldest");
    }

    #[test]
    fn two_that_differ_in_what_they_allow_do_not_share_a_ceiling_but_share_all_else() {
        let objects = [Object(1, "one", Narrower::Allowed), Object(1, "one", Narrower::Refused)];
        let (slots, lost) = resolved(&[claim("a*", 0), claim("a*", 1), claim("b", 0), claim("b", 1)], &[], &objects);
        assert_eq!(holders(&slots), [("a*", vec![0]), ("b", vec![0, 1])]);
        assert_eq!(lost, [Lost { by: 1, target: 0, winner: 0, why: Why::Differs("allowNarrower") }]);
        let unread = [objects[0], Object(1, "one", Narrower::AsItIs)];
        assert_eq!(resolved(&[claim("a*", 0), claim("a*", 1)], &[], &unread).1, []);
    }
}
