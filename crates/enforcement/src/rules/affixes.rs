//! A set of byte strings, each with a rule's index, asked for the lowest index among those a text begins with.
//! One binary search and a walk up the chain of shorter prefixes: flat in the number of rules. Pure.

/// Prefixes in order; each knows the longest other prefix it begins with.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    prefix: Box<[u8]>,
    /// The entry of the longest shorter prefix of this one.
    parent: Option<usize>,
    /// The lowest rule among this prefix and its parents.
    lowest: u32,
}

impl Prefixes {
    pub(super) fn new(mut prefixes: Vec<(Vec<u8>, u32)>) -> Self {
        prefixes.sort_unstable();
        prefixes.dedup_by(|later, kept| later.0 == kept.0); // equal prefixes: the lowest rule came first
        let mut entries: Vec<Entry> = Vec::with_capacity(prefixes.len());
        for (prefix, rule) in prefixes {
            let parent = longest(&entries, entries.len().checked_sub(1), &prefix);
            let lowest = parent.and_then(|index| entries.get(index)).map_or(rule, |parent| parent.lowest.min(rule));
            entries.push(Entry { prefix: prefix.into(), parent, lowest });
        }
        Self { entries }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The lowest rule whose prefix `text` begins with.
    pub(super) fn lowest(&self, text: &[u8]) -> Option<u32> {
        // Every prefix of the text sorts before it, and what sorts between the two begins with that prefix too:
        // so all of them are on the parent chain of the last entry that is not greater than the text.
        let after = self.entries.partition_point(|entry| &*entry.prefix <= text);
        longest(&self.entries, after.checked_sub(1), text)
            .and_then(|index| self.entries.get(index))
            .map(|entry| entry.lowest)
    }
}

/// The first entry on the parent chain from `start` that `text` begins with.
fn longest(entries: &[Entry], start: Option<usize>, text: &[u8]) -> Option<usize> {
    let mut candidate = start;
    while let Some(index) = candidate {
        let entry = entries.get(index)?;
        if text.starts_with(&entry.prefix) {
            return Some(index);
        }
        candidate = entry.parent;
    }
    None
}

/// The same for endings.
#[derive(Debug, Default)]
pub(super) struct Suffixes(Prefixes);

impl Suffixes {
    pub(super) fn new(suffixes: Vec<(Vec<u8>, u32)>) -> Self {
        Self(Prefixes::new(suffixes.into_iter().map(|(suffix, rule)| (reversed(&suffix), rule)).collect()))
    }

    /// The lowest rule whose suffix `text` ends with.
    pub(super) fn lowest(&self, text: &[u8]) -> Option<u32> {
        if self.0.is_empty() { None } else { self.0.lowest(&reversed(text)) }
    }
}

fn reversed(text: &[u8]) -> Vec<u8> {
    text.iter().rev().copied().collect()
}
