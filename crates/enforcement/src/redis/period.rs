//! The period a balance is in, as a script is told it: a schedule's name, what a boundary does, and the few
//! boundaries around now. The policy's refresh, the table and a clock come in; Redis' own clock decides. Pure.

use super::resp::decimal;
use crate::{
    values::MAX_AMOUNT,
    wire::{Refresh, RefreshMode, Schedule},
};

/// What a script needs to know to roll a balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period<'a> {
    /// The schedule's name; a ledger with another one is not rolled by this.
    pub schedule: &'a str,
    pub mode: RefreshMode,
    /// What [`RefreshMode::CarryOver`] fills up to.
    pub cap: i64,
    /// Consecutive boundaries, ascending: `(ordinal, unix seconds)`; not empty.
    pub boundaries: &'a [(i64, i64)],
}

/// So many boundaries on each side of the caller's clock: Redis' clock may be off by more than a short period.
const EACH_SIDE: usize = 2;

impl<'a> Period<'a> {
    /// The boundaries around `now` (unix seconds) of a policy's schedule; nothing for an empty table.
    #[must_use]
    pub fn around(refresh: &'a Refresh, schedule: &'a Schedule, now: i64) -> Option<Self> {
        let table = schedule.boundaries.as_slice();
        let passed = table.partition_point(|(_, at)| *at <= now);
        let boundaries = &table[passed.saturating_sub(EACH_SIDE)..table.len().min(passed + EACH_SIDE)];
        let cap = refresh.max_balance.unwrap_or(MAX_AMOUNT);
        (!boundaries.is_empty()).then_some(Self { schedule: &refresh.schedule, mode: refresh.mode, cap, boundaries })
    }

    pub(super) fn push(&self, args: &mut Vec<Vec<u8>>) {
        let mode = match self.mode {
            RefreshMode::Reset => "reset",
            RefreshMode::Add => "add",
            RefreshMode::CarryOver => "carryover",
        };
        args.extend([self.schedule.into(), mode.into(), decimal(self.cap)]);
        args.extend(self.boundaries.iter().flat_map(|(ordinal, at)| [decimal(*ordinal), decimal(*at)]));
    }
}
