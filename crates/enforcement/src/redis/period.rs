//! The period a balance is in, as a script is told it: a schedule's name, what a boundary does, and the few
//! boundaries around now. The policy's refresh, the table and a clock come in; Redis' own clock decides. Pure.

use super::resp::decimal;
use crate::{
    values::MAX_AMOUNT,
    wire::{Refresh, RefreshMode},
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
    /// The boundaries around `now` (unix seconds) of the table of a policy's schedule; nothing for an empty table.
    #[must_use]
    pub fn around(refresh: &'a Refresh, table: &'a [(i64, i64)], now: i64) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refresh() -> Refresh {
        Refresh { schedule: "daily".into(), mode: RefreshMode::CarryOver, max_balance: Some(500) }
    }

    #[test]
    fn the_two_boundaries_on_each_side_of_now_are_picked() {
        let boundaries: Vec<_> = (10..20).map(|ordinal| (ordinal, ordinal * 100)).collect();
        let refresh = refresh();
        for (now, picked) in [
            (0, &[(10, 1000), (11, 1100)][..]),
            (999, &[(10, 1000), (11, 1100)]),
            (1000, &[(10, 1000), (11, 1100), (12, 1200)]),
            (1499, &[(13, 1300), (14, 1400), (15, 1500), (16, 1600)]),
            (1500, &[(14, 1400), (15, 1500), (16, 1600), (17, 1700)]),
            (1900, &[(18, 1800), (19, 1900)]),
            (i64::MAX, &[(18, 1800), (19, 1900)]),
        ] {
            let period = Period::around(&refresh, &boundaries, now);
            assert_eq!(period.map(|period| period.boundaries), Some(picked), "at {now}");
        }
        assert_eq!(Period::around(&refresh, &[], 0), None);
    }

    #[test]
    fn a_script_is_told_schedule_mode_cap_and_pairs() {
        let mut args = Vec::new();
        Period::around(&refresh(), &[(-1, 1000), (0, 2000)], 1500).unwrap().push(&mut args);
        assert_eq!(args, ["daily", "carryover", "500", "-1", "1000", "0", "2000"].map(|arg| arg.as_bytes().to_vec()));
    }
}
