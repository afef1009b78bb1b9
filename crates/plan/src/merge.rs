//! Who decides where several objects want the same: claims in, oldest object first, and for each thing claimed
//! those that share it out. The same rule for every kind of settings. Pure.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::Hash,
};

/// Settings that may stand on one target together if they do not differ.
pub(crate) trait Settings {
    /// The first field in which they differ.
    fn difference(&self, other: &Self) -> Option<&'static str>;
}

/// One object wants one thing.
pub(crate) struct Claim<K> {
    pub(crate) what: K,
    /// The index of the object's settings; the lower the older.
    pub(crate) by: usize,
    /// The index of the target in the object's spec.
    pub(crate) target: usize,
}

/// One thing, and who shares it: all with equal settings, the oldest first.
pub(crate) struct Slot<K> {
    pub(crate) what: K,
    pub(crate) holders: Vec<Holder>,
    /// Those with other settings who wanted it too, the oldest first.
    pub(crate) losers: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) by: usize,
    pub(crate) target: usize,
}

/// A claim that an older object's settings stand against.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) by: usize,
    pub(crate) target: usize,
    pub(crate) winner: usize,
    pub(crate) field: &'static str,
}

/// `named` is what the objects name themselves, `derived` what follows from it (a fallback route, a canary). Both
/// come oldest first. What an object names is not taken by what another derives; who loses a target gets nothing
/// that derives from it, and what is derived is lost quietly: the target itself still stands.
pub(crate) fn resolve<K: Eq + Hash + Clone>(
    named: Vec<Claim<K>>,
    derived: Vec<Claim<K>>,
    settings: &[impl Settings],
) -> (Vec<Slot<K>>, Vec<Lost>) {
    let mut slots: Vec<Slot<K>> = Vec::new();
    let mut index: HashMap<K, usize> = HashMap::with_capacity(named.len() + derived.len());
    let mut lost = Vec::new();
    let mut losers = HashSet::new();
    let mut claim = |claim: Claim<K>| -> Option<Lost> {
        let Claim { what, by, target } = claim;
        match index.entry(what) {
            Entry::Vacant(entry) => {
                slots.push(Slot {
                    what: entry.key().clone(),
                    holders: vec![Holder { by, target }],
                    losers: Vec::new(),
                });
                entry.insert(slots.len() - 1);
                None
            }
            Entry::Occupied(entry) => {
                let slot = &mut slots[*entry.get()];
                let winner = slot.holders[0].by;
                match settings[by].difference(&settings[winner]) {
                    None => {
                        slot.holders.push(Holder { by, target });
                        None
                    }
                    Some(field) => {
                        slot.losers.push(by);
                        Some(Lost { by, target, winner, field })
                    }
                }
            }
        }
    };
    for wanted in named {
        if let Some(loss) = claim(wanted) {
            losers.insert((loss.by, loss.target));
            lost.push(loss);
        }
    }
    let (of_losers, derived): (Vec<_>, Vec<_>) =
        derived.into_iter().partition(|wanted| losers.contains(&(wanted.by, wanted.target)));
    for wanted in derived {
        claim(wanted);
    }
    for Claim { what, by, target: _ } in of_losers {
        if let Some(slot) = index.get(&what) {
            slots[*slot].losers.push(by);
        }
    }
    (slots, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Settings for u8 {
        fn difference(&self, other: &Self) -> Option<&'static str> {
            (self != other).then_some("number")
        }
    }

    fn claim(what: &'static str, by: usize) -> Claim<&'static str> {
        Claim { what, by, target: 0 }
    }

    fn holders(slots: &[Slot<&'static str>]) -> Vec<(&'static str, Vec<usize>)> {
        slots.iter().map(|slot| (slot.what, slot.holders.iter().map(|holder| holder.by).collect())).collect()
    }

    #[test]
    fn equal_settings_share_and_others_lose_to_the_oldest_with_the_field_named() {
        let (slots, lost) = resolve(vec![claim("a", 0), claim("a", 1), claim("a", 2)], vec![], &[1_u8, 2, 1]);
        assert_eq!(holders(&slots), [("a", vec![0, 2])]);
        assert_eq!(lost, [Lost { by: 1, target: 0, winner: 0, field: "number" }]);
    }

    #[test]
    fn who_loses_a_target_gets_nothing_that_derives_from_it() {
        let derived = vec![claim("a-fallback", 1), claim("b-fallback", 2)];
        let (slots, _) = resolve(vec![claim("a", 0), claim("a", 1), claim("b", 2)], derived, &[1_u8, 2, 2]);
        assert_eq!(holders(&slots), [("a", vec![0]), ("b", vec![2]), ("b-fallback", vec![2])]);
        assert_eq!(slots.iter().map(|slot| slot.losers.as_slice()).collect::<Vec<_>>(), [&[1][..], &[], &[]]);
    }

    #[test]
    fn who_lost_is_remembered_also_where_it_only_derives() {
        let derived = vec![claim("a-fallback", 0), claim("a-fallback", 1), claim("b", 2)];
        let (slots, _) = resolve(vec![claim("a", 0), claim("a", 1), claim("b", 0)], derived, &[1_u8, 2, 2]);
        let losers = slots.iter().map(|slot| (slot.what, slot.losers.as_slice())).collect::<Vec<_>>();
        assert_eq!(losers, [("a", &[1][..]), ("b", &[2]), ("a-fallback", &[1])]);
    }

    #[test]
    fn what_is_named_is_not_taken_by_what_is_derived_though_that_is_older() {
        let (slots, lost) = resolve(vec![claim("a", 0), claim("b", 1)], vec![claim("b", 0)], &[1_u8, 2]);
        assert_eq!(holders(&slots), [("a", vec![0]), ("b", vec![1])]);
        assert!(lost.is_empty(), "the older one's own target stands");
    }
}
