//! The tables of boundaries that the modules are given: schedules in use and what is known of them in, one table for
//! each out, the same one until few boundaries are ahead. Pure.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use enforcement::{redis::Period, wire};
use jiff::Timestamp;

use crate::schedule::{FEW, Schedule, UTC};

/// By the schedule's name.
#[derive(Default)]
pub(crate) struct Tables(BTreeMap<String, Table>);

pub(crate) struct Table {
    pub(crate) written: wire::Schedule,
    boundaries: Arc<[(i64, i64)]>,
    /// The table there was, where it is right but shorter.
    extends: Option<wire::Schedule>,
}

/// What a table is made from.
pub(crate) struct Known<'a> {
    pub(crate) now: Timestamp,
    /// What this process wrote.
    pub(crate) own: Option<&'a BTreeMap<String, wire::Schedule>>,
    /// What stands in the WasmPlugin, whoever wrote it.
    pub(crate) found: &'a BTreeMap<String, wire::Schedule>,
}

/// How a policy's balances refresh, with the boundaries around a moment.
#[derive(Clone, Debug)]
pub(crate) struct Refreshing {
    refresh: wire::Refresh,
    boundaries: Arc<[(i64, i64)]>,
    now: i64,
}

/// Seconds that a Redis' clock may be behind the controller's: a period that the controller begins is begun once more
/// that much later, because Redis decides by its own clock whether it has come.
const LAG: i64 = 10;

/// A period that whoever applies a balance begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub ordinal: i64,
    /// When every Redis' clock has come to it; nothing once that has passed.
    pub settles: Option<Timestamp>,
}

/// A refresh as policies have it. Nothing for a schedule that cannot be read, which is refused.
pub(crate) fn refresh(declared: &api::Refresh) -> Option<wire::Refresh> {
    let api::Refresh { schedule, time_zone, mode, max_balance } = declared;
    let schedule = Schedule::new(schedule, time_zone.as_deref().unwrap_or(UTC)).ok()?;
    let mode = match mode.unwrap_or_default() {
        api::RefreshMode::Reset => wire::RefreshMode::Reset,
        api::RefreshMode::Add => wire::RefreshMode::Add,
        api::RefreshMode::CarryOver => wire::RefreshMode::CarryOver,
    };
    Some(wire::Refresh { schedule: schedule.name().to_owned(), mode, max_balance: *max_balance })
}

impl Tables {
    /// The table of this schedule, which is made if it is not there.
    pub(crate) fn table(&mut self, name: &str, known: &Known<'_>) -> Option<&Table> {
        match self.0.entry(name.to_owned()) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(entry) => Some(entry.insert(known.table(name)?)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Table> {
        self.0.get(name)
    }

    /// When the first of them is to be extended.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.values().filter_map(Table::short).min()
    }
}

impl Known<'_> {
    /// What this process wrote stays while it lasts; what it only found there must be right as well.
    fn table(&self, name: &str) -> Option<Table> {
        let lasts = |table: &&wire::Schedule| table.boundaries().is_some_and(|all| lasts(&all, self.now));
        let Some(schedule) = Schedule::named(name) else {
            // Of a rule that is kept for an object that cannot be understood: its table is kept as well.
            return self.own.and_then(|own| own.get(name)).or_else(|| self.found.get(name)).and_then(Table::new);
        };
        let own = self.own.and_then(|own| own.get(name));
        if let Some(own) = own.filter(lasts) {
            return Table::new(own);
        }
        let found = own.or_else(|| self.found.get(name).filter(|found| schedule.agrees(found)));
        if let Some(found) = found.filter(lasts) {
            return Table::new(found);
        }
        Some(Table { extends: found.cloned(), ..Table::new(&schedule.table(self.now))? })
    }
}

/// Whether the present is in a table and enough of the future.
fn lasts(boundaries: &[(i64, i64)], now: Timestamp) -> bool {
    let passed = boundaries.partition_point(|(_, at)| *at <= now.as_second());
    passed > 0 && boundaries.len() - passed >= FEW
}

impl Table {
    fn new(written: &wire::Schedule) -> Option<Self> {
        Some(Self { boundaries: written.boundaries()?.into(), written: written.clone(), extends: None })
    }

    /// Whether this is the table, or was it until now.
    pub(crate) fn stands(&self, found: Option<&wire::Schedule>) -> bool {
        found.is_some_and(|found| *found == self.written || self.extends.as_ref() == Some(found))
    }

    /// From when on few of its boundaries are ahead.
    fn short(&self) -> Option<Timestamp> {
        let last = self.boundaries.len().checked_sub(FEW)?;
        self.boundaries.get(last).and_then(|(_, at)| Timestamp::from_second(*at).ok())
    }

    /// The first boundary that is ahead.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let passed = self.boundaries.partition_point(|(_, at)| *at <= now.as_second());
        self.boundaries.get(passed).and_then(|(_, at)| Timestamp::from_second(*at).ok())
    }

    pub(crate) fn refreshing(&self, refresh: &wire::Refresh, now: Timestamp) -> Refreshing {
        Refreshing { refresh: refresh.clone(), boundaries: self.boundaries.clone(), now: now.as_second() }
    }
}

impl Refreshing {
    pub(crate) fn period(&self) -> Option<Period<'_>> {
        Period::around(&self.refresh, &self.boundaries, self.now)
    }

    /// The period that it is in.
    pub(crate) fn turn(&self) -> Option<Turn> {
        let passed = self.boundaries.partition_point(|(_, at)| *at <= self.now);
        let (ordinal, at) = *self.boundaries.get(passed.checked_sub(1)?)?;
        let settles = Timestamp::from_second(at.saturating_add(LAG)).ok();
        Some(Turn { ordinal, settles: settles.filter(|settles| self.now < settles.as_second()) })
    }
}
