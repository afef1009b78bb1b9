//! When periods begin: a cron pattern and a time zone in, boundaries with their ordinals out. No clock and no files:
//! the time zones are compiled in. Pure.

use api::TIME_ZONE_MAX_LENGTH;
use enforcement::wire;
use jiff::{
    Span, Timestamp,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use crate::{
    cron::{Pattern, Problem},
    days::EPOCH,
    validate::Refused,
};

/// The zone of a schedule that names none.
pub(crate) const UTC: &str = "UTC";

/// What a table holds: enough behind for a Redis whose clock is late, and ahead for a time without controller.
const BEHIND: i64 = 2;
const AHEAD: i64 = 64;
const LONGEST: usize = 2 + 64;
/// A table with fewer boundaries ahead is extended.
pub(crate) const FEW: usize = 16;

/// A pattern in a time zone.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pattern: Pattern,
    zone: TimeZone,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a time zone of the IANA database, as `Europe/Berlin`, in its exact spelling")]
pub(crate) struct UnknownZone(pub(crate) Refused);

/// The zone of this name; names are told apart by their case, as the API server does it.
pub(crate) fn zone(name: &str) -> Result<TimeZone, UnknownZone> {
    match name.len() {
        0 => return Err(UnknownZone(Refused::Required)),
        1..=TIME_ZONE_MAX_LENGTH => {}
        _ => return Err(UnknownZone(Refused::TooLong)),
    }
    let zone = TimeZoneDatabase::bundled().get(name).ok();
    zone.filter(|zone| zone.iana_name() == Some(name)).ok_or(UnknownZone(Refused::Unknown))
}

/// A boundary: its ordinal, and the unix second in which its period begins.
type Boundary = (i64, i64);

impl Schedule {
    /// A zone that is not known counts as UTC: [`crate::validate`] refuses it.
    pub(crate) fn new(schedule: &str, zone_name: &str) -> Result<Self, Problem> {
        let pattern = Pattern::parse(schedule)?;
        let mut zone = zone(zone_name).unwrap_or(TimeZone::UTC);
        if pattern.is_hourly() {
            // It runs on elapsed time: no hour shall be given twice or left out.
            let epoch = zone.to_timestamp(EPOCH.at(0, 0, 0, 0)).unwrap_or_default();
            zone = TimeZone::fixed(zone.to_offset(epoch));
        }
        let name = format!("{} {zone_name}", pattern.text());
        Ok(Self { pattern, zone, name })
    }

    /// The schedule with this name, if it is one.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (pattern, zone_name) = name.rsplit_once(' ')?;
        zone(zone_name).ok()?;
        Self::new(pattern, zone_name).ok().filter(|schedule| schedule.name == name)
    }

    /// Pattern and zone: equal for schedules that are written alike.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A table as it is made for this moment.
    pub(crate) fn table(&self, now: Timestamp) -> wire::Schedule {
        let passed = self.passed(now);
        let first = passed.saturating_sub(BEHIND).max(0);
        let count = usize::try_from(passed - first + AHEAD).unwrap_or_default();
        wire::Schedule { first, at: self.boundaries(first).take(count).map(|(_, at)| at).collect() }
    }

    /// Whether this table is what this schedule says about its time. Looks at no more boundaries than it has.
    pub(crate) fn agrees(&self, table: &wire::Schedule) -> bool {
        (1..=LONGEST).contains(&table.at.len())
            && table.boundaries().is_some_and(|all| self.boundaries(table.first).take(all.len()).eq(all))
    }

    /// How many boundaries came from the epoch to this moment.
    fn passed(&self, now: Timestamp) -> i64 {
        let today = self.zone.to_datetime(now).date();
        // Around midnight clocks may be set to another day, and not every day comes.
        let [from, to] = [-2, 3].map(|days| today.saturating_add(Span::new().days(days)));
        let days = self.pattern.days();
        let came = days.since(from).take_while(|day| *day < to).map(|day| {
            let came =
                |(hour, minute): &(i8, i8)| self.instant(day, *hour, *minute).is_some_and(|at| at <= now.as_second());
            self.pattern.times().partition_point(came)
        });
        days.before(from) * self.times_a_day() + i64::try_from(came.sum::<usize>()).unwrap_or_default()
    }

    /// All boundaries from the one with this ordinal on, ascending.
    fn boundaries(&self, first: i64) -> impl Iterator<Item = Boundary> {
        let times = self.times_a_day();
        let day = self.pattern.days().nth(first.div_euclid(times));
        let earlier = usize::try_from(first.rem_euclid(times)).unwrap_or_default();
        let days = day.into_iter().flat_map(|day| self.pattern.days().since(day));
        let all = days.flat_map(|day| self.pattern.times().iter().map(move |(hour, minute)| (day, *hour, *minute)));
        (first..).zip(all.skip(earlier).map_while(|(day, hour, minute)| self.instant(day, hour, minute)))
    }

    fn times_a_day(&self) -> i64 {
        i64::try_from(self.pattern.times().len()).unwrap_or_default().max(1)
    }

    /// When the clock on the wall first shows this time, or passes it.
    fn instant(&self, day: Date, hour: i8, minute: i8) -> Option<i64> {
        let shown = self.zone.to_ambiguous_timestamp(day.at(hour, minute, 0, 0));
        let moment = match shown.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => shown.compatible().ok()?,
            AmbiguousOffset::Gap { after, .. } => {
                // As much too early as the clock is set forward: the change lies between this and the time itself.
                // Those that are skipped together keep their order before what comes after the change.
                let before = shown.earlier().ok()?;
                let mut changes = self.zone.following(before);
                changes.find(|change| change.offset() == after).map(|change| change.timestamp())?
            }
        };
        Some(moment.as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a table in which there are as many behind as can be.
    const AHEAD_FROM: usize = 2;

    fn schedule(pattern: &str, zone: &str) -> Schedule {
        Schedule::new(pattern, zone).unwrap()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The boundaries of a table that are ahead, in UTC.
    fn ahead(pattern: &str, zone: &str, now: &str, count: usize) -> Vec<String> {
        let table = schedule(pattern, zone).table(time(now));
        let shown = |at: &i64| Timestamp::from_second(*at).unwrap().to_string();
        table.at[AHEAD_FROM..].iter().take(count).map(shown).collect()
    }

    #[test]
    fn ordinals_are_counted_from_2020_on_and_must_never_change() {
        for (pattern, zone, first) in [
            ("@daily", "UTC", 2517 - 1),
            ("@daily", "Asia/Shanghai", 2517 - 1),
            ("@daily", "America/New_York", 2517 - 1),
            ("@daily", "America/Los_Angeles", 2517 - 2),
            ("@hourly", "UTC", 2517 * 24 + 5 - 1),
            ("@hourly", "Asia/Kolkata", 2517 * 24 + 11 - 1),
            ("*/15 9-17 * * MON-FRI", "UTC", 1798 * 36 - 2),
            ("@monthly", "Europe/Berlin", 6 * 12 + 10 - 1),
            ("@yearly", "UTC", 6 - 1),
            ("0 0 29 2 *", "UTC", 0),
        ] {
            let table = schedule(pattern, zone).table(time("2026-11-22T05:40:00Z"));
            assert_eq!((table.first, table.at.len()), (first, LONGEST), "{pattern} {zone}");
        }
    }

    #[test]
    fn a_time_that_clocks_skip_counts_at_their_change_and_one_that_comes_twice_the_first_time() {
        let berlin = |now| ahead("30 2 * * *", "Europe/Berlin", now, 3);
        assert_eq!(
            berlin("2026-03-28T00:00:00Z"),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            berlin("2026-10-24T00:00:00Z"),
            ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        // Midnight itself is skipped.
        assert_eq!(
            ahead("@daily", "Africa/Cairo", "2026-04-23T00:00:00Z", 2),
            ["2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"]
        );
    }

    #[test]
    fn what_is_skipped_together_comes_together_and_before_what_follows() {
        assert_eq!(
            ahead("0,30 1-3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 5),
            [
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:30:00Z"
            ]
        );
    }

    #[test]
    fn an_hour_is_an_hour_whatever_clocks_do() {
        for zone in ["Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"] {
            let schedule = schedule("@hourly", zone);
            let all: Vec<i64> = schedule.boundaries(2192 * 24).map(|(_, at)| at).take(2 * 366 * 24).collect();
            assert!(all.windows(2).all(|pair| pair[1] - pair[0] == 3600), "{zone}");
        }
        assert_eq!(ahead("@hourly", "Asia/Kolkata", "2026-11-22T05:40:00Z", 1), ["2026-11-22T06:30:00Z"]);
    }

    #[test]
    fn every_table_ascends_and_is_what_its_schedule_says() {
        let zones = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Pacific/Apia"];
        for pattern in ["@hourly", "*/30 1-3 * * *", "@daily", "@weekly", "0 0 31 * *", "@monthly", "0 2 * 3,10,11 SUN"]
        {
            for zone in zones {
                let schedule = schedule(pattern, zone);
                for now in
                    ["2026-03-08T06:59:59Z", "2026-03-29T01:00:00Z", "2026-10-25T00:30:00Z", "2026-11-01T06:00:00Z"]
                {
                    let now = time(now);
                    let table = schedule.table(now);
                    let at = |index: usize| table.at[index];
                    assert!(table.at.is_sorted(), "{pattern} {zone} {now}");
                    assert!(
                        at(AHEAD_FROM - 1) <= now.as_second() && now.as_second() < at(AHEAD_FROM),
                        "{pattern} {zone} {now}"
                    );
                    assert!(schedule.agrees(&table), "{pattern} {zone} {now}");
                }
            }
        }
    }

    #[test]
    fn a_table_that_was_changed_is_not_what_its_schedule_says() {
        let schedule = schedule("@daily", "Europe/Berlin");
        let table = schedule.table(time("2026-11-22T05:40:00Z"));
        let changed = |change: fn(&mut wire::Schedule)| {
            let mut table = table.clone();
            change(&mut table);
            schedule.agrees(&table)
        };
        assert!(changed(|_| {}));
        assert!(changed(|table| table.at.truncate(5)), "shorter, but right");
        assert!(!changed(|table| table.at[7] -= 3600));
        assert!(!changed(|table| table.at.swap(7, 8)));
        assert!(!changed(|table| table.at.clear()));
        assert!(!changed(|table| table.at.push(table.at[65] + 86_400)), "longer than ours are");
        for first in [0, -1, i64::MAX, i64::MIN] {
            let mut table = table.clone();
            table.first = first;
            assert!(!schedule.agrees(&table), "{first}");
        }
    }

    #[test]
    fn a_day_that_comes_once_in_four_years_has_a_whole_table() {
        let all = ahead("0 0 29 2 *", "UTC", "2026-11-22T05:40:00Z", LONGEST);
        assert_eq!((all[0].as_str(), all.len()), ("2028-02-29T00:00:00Z", LONGEST - AHEAD_FROM));
    }

    #[test]
    fn before_the_epoch_nothing_is_behind() {
        let table = schedule("@daily", "UTC").table(time("1970-01-01T00:00:00Z"));
        assert_eq!((table.first, table.at.len(), table.at[0]), (0, LONGEST - AHEAD_FROM, 1_577_836_800));
    }

    #[test]
    fn zones_are_known_by_their_exact_names() {
        for known in ["UTC", "Asia/Shanghai", "Asia/Calcutta", "Etc/GMT+8", "America/Argentina/Buenos_Aires", "EST5EDT"]
        {
            assert!(zone(known).is_ok(), "{known}");
        }
        for unknown in
            ["", "Local", "local", "utc", "europe/berlin", "Europe/Atlantis", "+08:00", "../etc/passwd", "CEST"]
        {
            assert!(zone(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn a_schedule_is_found_by_its_name_alone() {
        let daily = schedule("@daily", "Asia/Shanghai");
        assert_eq!(daily.name(), "0 0 * * * Asia/Shanghai");
        let named = Schedule::named(daily.name()).unwrap();
        let now = time("2026-11-22T05:40:00Z");
        assert_eq!(named.table(now), daily.table(now));
        for other in ["", "daily", "0 0 * * *", "0 0 * * * Atlantis", "@daily UTC", "0  0 * * * UTC"] {
            assert!(Schedule::named(other).is_none(), "{other}");
        }
    }
}
