//! When periods begin: a cron pattern and a time zone in, boundaries with their ordinals out. No clock and no files:
//! the time zones are compiled in. Pure.

use api::TIME_ZONE_MAX_LENGTH;
use enforcement::wire;
use jiff::{
    Timestamp,
    civil::{Date, date},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use crate::{
    cron::{Pattern, Problem},
    validate::Refused,
};

/// Boundaries are counted from here, on the clock on the wall, so that their ordinals depend on the pattern alone and
/// not on what becomes known of a time zone. Ledgers in Redis hold ordinals: it must never change.
const EPOCH: Date = date(2020, 1, 1);
/// Nobody plans further: it bounds searches.
const END: Date = date(3000, 1, 1);

/// What a table holds: enough behind for a Redis whose clock is late, and ahead for a time without controller.
const BEHIND: usize = 2;
const AHEAD: usize = 64;
const LONGEST: usize = BEHIND + AHEAD;
/// A table with fewer boundaries ahead is extended.
const FEW: usize = 16;

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
        let now = now.as_second();
        let mut table = Vec::with_capacity(BEHIND + AHEAD);
        let mut ahead = 0;
        for (ordinal, at) in self.boundaries(self.day_before(now)) {
            table.push((ordinal, at));
            ahead += usize::from(at > now);
            if ahead == AHEAD {
                break;
            }
        }
        let passed = table.partition_point(|(_, at)| *at <= now);
        let table = &table[passed.saturating_sub(BEHIND)..];
        wire::Schedule {
            first: table.first().map_or(0, |(ordinal, _)| *ordinal),
            at: table.iter().map(|(_, at)| *at).collect(),
        }
    }

    /// Whether this table is what this schedule says about its time.
    pub(crate) fn agrees(&self, table: &wire::Schedule) -> bool {
        let (Some(begin), 1..=LONGEST) = (table.at.first(), table.at.len()) else { return false };
        // So many can precede it at most in the days that are looked at.
        let some = 4 * self.pattern.times().len() + BEHIND + AHEAD;
        let around = self.boundaries(self.day_before(*begin)).take(some);
        let around = around.skip_while(|(ordinal, _)| *ordinal < table.first).take(table.at.len());
        table.boundaries().is_some_and(|table| around.eq(table))
    }

    /// A day with at least [`BEHIND`] boundaries that are not after this second since then.
    fn day_before(&self, second: i64) -> Date {
        let moment = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        // A boundary that clocks skip comes later than its day says.
        let mut day = self.zone.to_datetime(moment).date();
        let mut passed = 0;
        while passed < BEHIND && day > EPOCH {
            passed += self.of(day).filter(|at| *at <= second).count();
            day = day.yesterday().unwrap_or(EPOCH);
        }
        day.clamp(EPOCH, END)
    }

    /// All boundaries from this day on, ascending.
    fn boundaries(&self, from: Date) -> impl Iterator<Item = Boundary> {
        let times = i64::try_from(self.pattern.times().len()).unwrap_or(i64::MAX);
        let before = days(EPOCH, from).filter(|day| self.pattern.matches(*day)).count();
        let first = i64::try_from(before).unwrap_or(i64::MAX).saturating_mul(times);
        (first..).zip(days(from, END).flat_map(|day| self.of(day)))
    }

    /// The seconds of the boundaries of one day.
    fn of(&self, day: Date) -> impl Iterator<Item = i64> {
        let times = if self.pattern.matches(day) { self.pattern.times() } else { &[] };
        times.iter().filter_map(move |(hour, minute)| self.instant(day, *hour, *minute))
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

/// From the first to before the second.
fn days(from: Date, to: Date) -> impl Iterator<Item = Date> {
    std::iter::successors(Some(from), |day| day.tomorrow().ok()).take_while(move |day| *day < to)
}
