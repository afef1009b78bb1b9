//! The days on which a pattern has boundaries: sets of days of the month, months and days of the week in, their number
//! and the days themselves out. It reckons by months, so that a day which comes once in four years is found as fast as
//! one that comes every week. Pure.

use std::ops::Range;

use jiff::civil::{Date, date};

/// Days are counted from here on the clock on the wall, so that ordinals depend on the pattern alone and not on what
/// becomes known of a time zone. Ledgers in Redis hold ordinals: it must never change.
pub(crate) const EPOCH: Date = date(2020, 1, 1);
/// Nobody plans further: it bounds searches.
const END: Date = date(3000, 1, 1);
/// Within a leap year and the seven around it every day comes that ever comes.
const LEAP_YEARS: Range<i16> = 2020..2028;
/// The first bit of each of six weeks.
const WEEKS: u64 = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28 | 1 << 35;

/// A day that is in either of two sets matches, in the months of a third. Bit n stands for n.
#[derive(Clone, Debug)]
pub(crate) struct Days {
    pub(crate) of_month: u64,
    /// From Sunday on, which is 0.
    pub(crate) of_week: u64,
    pub(crate) months: u64,
}

impl Days {
    /// Whether such a day never comes.
    pub(crate) fn is_empty(&self) -> bool {
        LEAP_YEARS.map(|year| self.number_in(year, 1..13)).sum::<i64>() == 0
    }

    /// How many there are from the epoch to before this day.
    pub(crate) fn before(&self, day: Date) -> i64 {
        let day = day.clamp(EPOCH, END);
        let years: i64 = (EPOCH.year()..day.year()).map(|year| self.number_in(year, 1..13)).sum();
        let earlier = self.in_month(day.year(), day.month()) & ((1 << day.day()) - 1);
        years + self.number_in(day.year(), 1..day.month()) + i64::from(earlier.count_ones())
    }

    /// The one that so many precede.
    pub(crate) fn nth(&self, mut n: i64) -> Option<Date> {
        if n < 0 {
            return None;
        }
        let mut months = (EPOCH.year()..END.year()).flat_map(|year| (1..13).map(move |month| (year, month)));
        let (year, month) = months.find(|(year, month)| {
            let number = self.number_in(*year, *month..month + 1);
            n -= number;
            n < 0
        })?;
        self.since(Date::new(year, month, 1).ok()?)
            .nth(usize::try_from(n + self.number_in(year, month..month + 1)).ok()?)
    }

    /// This day and those after it that match, in order.
    pub(crate) fn since(&self, from: Date) -> impl Iterator<Item = Date> {
        let from = from.max(EPOCH);
        let months = (from.year()..END.year()).flat_map(|year| (1..13).map(move |month| (year, month)));
        let months = months.skip_while(move |month| *month < (from.year(), from.month()));
        let days = months.filter(|(_, month)| (self.months >> month) & 1 == 1).flat_map(|(year, month)| {
            let bits = self.in_month(year, month);
            (1..32).filter(move |day| (bits >> day) & 1 == 1).filter_map(move |day| Date::new(year, month, day).ok())
        });
        days.skip_while(move |day| *day < from)
    }

    fn number_in(&self, year: i16, months: Range<i8>) -> i64 {
        months.map(|month| i64::from(self.in_month(year, month).count_ones())).sum()
    }

    /// Bit n: whether day n of this month matches.
    fn in_month(&self, year: i16, month: i8) -> u64 {
        if (self.months >> month) & 1 == 0 {
            return 0;
        }
        let Ok(first) = Date::new(year, month, 1) else { return 0 };
        let of_week = ((self.of_week * WEEKS) >> first.weekday().to_sunday_zero_offset()) << 1;
        let there_are = (2 << first.days_in_month()) - 2;
        (self.of_month | of_week) & there_are
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cron::Pattern;

    /// As croner decides it, day by day.
    fn one_by_one(pattern: &str) -> Vec<Date> {
        let cron: croner::Cron = pattern.parse().unwrap();
        let matches = |day: &Date| cron.is_time_matching(&day.at(0, 0, 0, 0)).unwrap();
        EPOCH.series(jiff::Span::new().days(1)).take_while(|day| day.year() < 2062).filter(matches).collect()
    }

    #[test]
    fn days_are_those_that_are_found_one_by_one() {
        for pattern in [
            "0 0 * * *",
            "0 0 29 2 *",
            "0 0 31 * *",
            "0 0 30,31 4-7 *",
            "0 0 13 * FRI",
            "0 0 * * SAT-SUN",
            "0 0 * 3,10,11 SUN",
            "0 0 */10 * *",
            "0 0 29 2 */7",
            "0 0 1-7 */5 0",
            "0 0 */1 2 1",
            "0 0 1 1 *",
        ] {
            let days = Pattern::parse(pattern).unwrap().days().clone();
            let found = one_by_one(pattern);
            assert!(days.since(EPOCH).take(found.len()).eq(found.iter().copied()), "{pattern}");
            for (n, day) in found.iter().enumerate() {
                let (n, next) = (i64::try_from(n).unwrap(), day.tomorrow().unwrap());
                assert_eq!((days.before(*day), days.before(next), days.nth(n)), (n, n + 1, Some(*day)), "{pattern}");
                assert_eq!(days.since(*day).next(), Some(*day), "{pattern}");
            }
        }
    }

    #[test]
    fn nothing_is_before_the_epoch_and_nothing_after_the_end() {
        let daily = Pattern::parse("@daily").unwrap().days().clone();
        assert_eq!((daily.before(date(1970, 1, 1)), daily.nth(-1), daily.nth(i64::MAX)), (0, None, None));
        assert_eq!(daily.since(date(1970, 1, 1)).next(), Some(EPOCH));
        assert_eq!((daily.before(date(9999, 12, 31)), daily.nth(i64::MIN)), (daily.before(END), None));
        assert_eq!(daily.since(date(2999, 12, 31)).count(), 1);
    }
}
