//! When boundaries are, worked out by hand: five zones with their clock changes written down, days counted by
//! arithmetic. It shares nothing with the planner, which asks a cron library and a database of zones.

/// Unix seconds of midnight UTC of a day.
pub(super) const fn midnight(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that a leap day ends one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    (days - 719_468) * 86_400
}

/// A zone: its name, its minutes ahead of UTC in January 2026 and on New Year's Day 2020, and its changes since then.
pub(super) struct Zone {
    pub(super) name: &'static str,
    january: i64,
    in_2020: i64,
    /// When, in UTC, and the minutes ahead from then on.
    changes: &'static [(i64, i64)],
}

pub(super) const ZONES: [Zone; 5] = [
    Zone {
        name: "Europe/Berlin",
        january: 60,
        in_2020: 60,
        changes: &[
            (midnight(2026, 3, 29) + 3600, 120),
            (midnight(2026, 10, 25) + 3600, 60),
            (midnight(2027, 3, 28) + 3600, 120),
            (midnight(2027, 10, 31) + 3600, 60),
        ],
    },
    Zone {
        name: "America/New_York",
        january: -300,
        in_2020: -300,
        changes: &[
            (midnight(2026, 3, 8) + 7 * 3600, -240),
            (midnight(2026, 11, 1) + 6 * 3600, -300),
            (midnight(2027, 3, 14) + 7 * 3600, -240),
            (midnight(2027, 11, 7) + 6 * 3600, -300),
        ],
    },
    // Half an hour, in the south.
    Zone {
        name: "Australia/Lord_Howe",
        january: 660,
        in_2020: 660,
        changes: &[
            (midnight(2026, 4, 4) + 15 * 3600, 630),
            (midnight(2026, 10, 3) + 15 * 3600 + 1800, 660),
            (midnight(2027, 4, 3) + 15 * 3600, 630),
            (midnight(2027, 10, 2) + 15 * 3600 + 1800, 660),
        ],
    },
    Zone { name: "Asia/Kolkata", january: 330, in_2020: 330, changes: &[] },
    // Had summers until 2021.
    Zone { name: "Pacific/Apia", january: 780, in_2020: 840, changes: &[] },
];

impl Zone {
    /// The first second in which clocks there show this time or a later one. Both are counted from 1970 on.
    fn shows(&self, local: i64) -> i64 {
        let mut begin = i64::MIN / 2;
        let mut ahead = self.january;
        for (change, next) in self.changes.iter().copied().chain([(i64::MAX / 2, 0)]) {
            // Within this stretch it is now or never; one that is skipped is passed when the next stretch begins.
            let second = (local - ahead * 60).max(begin);
            if second < change {
                return second;
            }
            (begin, ahead) = (change, next);
        }
        unreachable!("the last stretch does not end")
    }
}

/// Which minutes of which days; days are civil, counted from 1970 on.
pub(super) struct Pattern {
    pub(super) text: &'static str,
    day: fn(i64) -> bool,
    minutes: &'static [i64],
}

/// 0 is Sunday.
const fn weekday(day: i64) -> i64 {
    (day + 4).rem_euclid(7)
}

fn is_first_of_month(day: i64) -> bool {
    (2026..=2028).any(|year| (1..=12).any(|month| midnight(year, month, 1) == day * 86_400))
}

pub(super) const HOURLY: usize = 0;

pub(super) const PATTERNS: [Pattern; 8] = [
    Pattern { text: "@hourly", day: |_| true, minutes: &[] },
    Pattern { text: "@daily", day: |_| true, minutes: &[0] },
    // Skipped, or shown twice, where clocks change at two or three.
    Pattern { text: "30 2 * * *", day: |_| true, minutes: &[150] },
    Pattern { text: "15,45 1-2 * * *", day: |_| true, minutes: &[75, 105, 135, 165] },
    Pattern { text: "0 */6 * * MON-FRI", day: |day| !matches!(weekday(day), 0 | 6), minutes: &[0, 360, 720, 1080] },
    Pattern { text: "0 9 * * 1", day: |day| weekday(day) == 1, minutes: &[540] },
    Pattern { text: "@weekly", day: |day| weekday(day) == 0, minutes: &[0] },
    Pattern { text: "@monthly", day: is_first_of_month, minutes: &[0] },
];

/// All boundaries from the first second to the last, ascending.
pub(super) fn boundaries(pattern: usize, zone: &Zone, from: i64, to: i64) -> Vec<i64> {
    let mut found = Vec::new();
    if pattern == HOURLY {
        // Elapsed hours, at the minutes that the zone had at the beginning of 2020.
        let first = from + (-zone.in_2020 * 60 - from).rem_euclid(3600);
        found.extend((first..=to).step_by(3600));
    } else {
        let Pattern { text: _, day: matches, minutes } = &PATTERNS[pattern];
        for day in (from / 86_400 - 2..=to / 86_400 + 2).filter(|day| matches(*day)) {
            found.extend(minutes.iter().map(|minute| zone.shows(day * 86_400 + minute * 60)));
        }
        found.retain(|at| (from..=to).contains(at));
    }
    assert!(found.is_sorted());
    found
}

#[test]
fn the_calendar_knows_some_days() {
    assert_eq!(midnight(1970, 1, 1), 0);
    assert_eq!(midnight(2026, 11, 22), 1_795_305_600);
    assert_eq!(weekday(midnight(2026, 11, 22) / 86_400), 0);
    let berlin = |local| ZONES[0].shows(local);
    assert_eq!(berlin(midnight(2026, 7, 1)), midnight(2026, 7, 1) - 7200);
    assert_eq!(berlin(midnight(2027, 3, 28) + 9000), midnight(2027, 3, 28) + 3600, "skipped");
    assert_eq!(berlin(midnight(2026, 10, 25) + 9000), midnight(2026, 10, 25) + 1800, "twice");
}
