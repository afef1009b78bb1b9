//! Cron patterns as users may write them: five fields, or a short name. Text in, a pattern or what is wrong with it
//! out. The grammar is stricter than croner's, which evaluates it, so that it can be the CRD's too. Pure.

use api::{NICKNAMES, SCHEDULE_MAX_LENGTH};
use croner::{
    CronComponent,
    parser::{CronParser, Seconds, Year},
};

use crate::{days::Days, validate::Refused};

#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// Five fields with one blank between them, names in capitals.
    text: String,
    days: Days,
    /// Times of each matching day, in order.
    times: Vec<(i8, i8)>,
    hourly: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("must not be empty")]
    Empty,
    #[error("has {0} characters, at most {SCHEDULE_MAX_LENGTH} may be")]
    TooLong(usize),
    #[error(
        "has {0} fields, must have five: minute, hour, day of the month, month, day of the week; or be a name such as @daily"
    )]
    Fields(usize),
    #[error(
        "the {field} `{text}` cannot be read: it must be `*`, numbers, ranges as 1-5, steps as */15, or a list of these"
    )]
    Unreadable { field: &'static str, text: String },
    #[error("the {field} `{text}` must be {min} to {max}")]
    OutOfRange { field: &'static str, text: String, min: u8, max: u8 },
    #[error("the {field} `{text}` ends before it begins")]
    Descending { field: &'static str, text: String },
    #[error("there is no such day in any year")]
    Never,
}

struct Field {
    name: &'static str,
    min: u8,
    max: u8,
    /// Of `min` and what follows.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, names: &[] },
    Field { name: "hour", min: 0, max: 23, names: &[] },
    Field { name: "day of the month", min: 1, max: 31, names: &[] },
    Field {
        name: "month",
        min: 1,
        max: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Field { name: "day of the week", min: 0, max: 7, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] },
];

impl Problem {
    pub(crate) const fn refused(&self) -> Refused {
        match self {
            Self::Empty => Refused::Required,
            Self::TooLong(_) => Refused::TooLong,
            Self::Fields(_) | Self::Unreadable { .. } => Refused::Characters,
            Self::OutOfRange { .. } | Self::Descending { .. } | Self::Never => Refused::OutOfRange,
        }
    }
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        match text.len() {
            0 => return Err(Problem::Empty),
            1..=SCHEDULE_MAX_LENGTH => {}
            length => return Err(Problem::TooLong(length)),
        }
        let text = NICKNAMES.iter().find(|(name, _)| *name == text).map_or(text, |(_, fields)| fields);
        // Only blanks separate fields, and only between them.
        let fields: Vec<&str> = text.split(' ').collect();
        let inner = fields.first().is_some_and(|field| !field.is_empty())
            && fields.last().is_some_and(|field| !field.is_empty());
        let fields: Vec<&str> = fields.into_iter().filter(|field| !field.is_empty()).collect();
        if fields.len() != FIELDS.len() || !inner {
            return Err(Problem::Fields(fields.len()));
        }
        for (field, text) in FIELDS.iter().zip(&fields) {
            text.split(',').try_for_each(|item| field.item(item))?;
        }
        let text = fields.join(" ").to_ascii_uppercase();
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let unreadable = |_| Problem::Unreadable { field: "schedule", text: text.clone() };
        let cron = parser.parse(&text).map_err(unreadable)?;
        let pattern = &cron.pattern;
        let hours = pattern.hours.values();
        let times =
            hours.iter().flat_map(|hour| pattern.minutes.values().into_iter().map(move |minute| (*hour, minute)));
        let times = times.filter_map(|(hour, minute)| Some((i8::try_from(hour).ok()?, i8::try_from(minute).ok()?)));
        let times: Vec<(i8, i8)> = times.collect();
        let [of_month, months, of_week] =
            [&pattern.days, &pattern.months, &pattern.days_of_week].map(CronComponent::values);
        let hourly = [(&hours, 24), (&of_month, 31), (&months, 12), (&of_week, 7)];
        let hourly = hourly.into_iter().all(|(values, all)| values.len() >= all);
        let bits = |values: &[u16]| values.iter().fold(0u64, |bits, value| bits | 1 << value);
        let days = Days {
            // Where only one of them is restricted, the other adds no day.
            of_month: if pattern.is_dom_wildcard() && !pattern.is_dow_wildcard() { 0 } else { bits(&of_month) },
            of_week: if pattern.is_dow_wildcard() { 0 } else { bits(&of_week) },
            months: bits(&months),
        };
        if days.is_empty() { Err(Problem::Never) } else { Ok(Self { text, days, times, hourly }) }
    }

    /// Equal for patterns that are written alike.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Hour and minute of the boundaries of each day that matches, in order.
    pub(crate) fn times(&self) -> &[(i8, i8)] {
        &self.times
    }

    /// The days that match.
    pub(crate) const fn days(&self) -> &Days {
        &self.days
    }

    /// Whether there are boundaries in every hour of every day.
    pub(crate) const fn is_hourly(&self) -> bool {
        self.hourly
    }
}

impl Field {
    fn item(&self, text: &str) -> Result<(), Problem> {
        let unreadable = || Problem::Unreadable { field: self.name, text: text.to_owned() };
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        let is_step = |step: &str| !step.starts_with('0') && number(step).is_some();
        if !step.is_none_or(is_step) {
            return Err(unreadable());
        }
        match range.split_once('-') {
            None if range == "*" => Ok(()),
            None if step.is_some() => Err(unreadable()),
            None => self.value(range, text).map(drop),
            Some((from, to)) => {
                // A week that ends on Sunday is written so.
                let to = if self.max == 7 && to.eq_ignore_ascii_case("SUN") { "7" } else { to };
                if self.value(from, text)? > self.value(to, text)? {
                    return Err(Problem::Descending { field: self.name, text: text.to_owned() });
                }
                Ok(())
            }
        }
    }

    fn value(&self, value: &str, text: &str) -> Result<u8, Problem> {
        let named = |name: &str| value == name || value == name.to_ascii_lowercase();
        if let Some(at) = self.names.iter().position(|name| named(name)) {
            return Ok(self.min + u8::try_from(at).unwrap_or_default());
        }
        let number = number(value);
        let Some(number) = number else { return Err(Problem::Unreadable { field: self.name, text: text.to_owned() }) };
        if (self.min..=self.max).contains(&number) {
            Ok(number)
        } else {
            Err(Problem::OutOfRange { field: self.name, text: text.to_owned(), min: self.min, max: self.max })
        }
    }
}

/// One or two digits.
fn number(text: &str) -> Option<u8> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn patterns_that_are_written_alike_have_one_text() {
        for (written, text) in [
            ("@daily", "0 0 * * *"),
            ("0  0 *   * *", "0 0 * * *"),
            ("*/15 9-17 1,15 jan-mar MON-fri", "*/15 9-17 1,15 JAN-MAR MON-FRI"),
        ] {
            assert_eq!(Pattern::parse(written).map(|pattern| pattern.text), Ok(text.to_owned()), "{written}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_field() {
        for (written, message) in [
            ("", "must not be empty"),
            ("0 0 * *", "has 4 fields"),
            ("0 0 0 * * *", "has 6 fields"),
            ("0 0 * * * 2027", "has 6 fields"),
            (" 0 0 * * *", "has 5 fields"),
            ("@fortnightly", "has 1 fields"),
            ("@Daily", "has 1 fields"),
            ("60 0 * * *", "the minute `60` must be 0 to 59"),
            ("0 24 * * *", "the hour `24` must be 0 to 23"),
            ("0 0 0 * *", "the day of the month `0` must be 1 to 31"),
            ("0 0 * 13 *", "the month `13` must be 1 to 12"),
            ("0 0 * * 8", "the day of the week `8` must be 0 to 7"),
            ("0 5-3 * * *", "the hour `5-3` ends before it begins"),
            ("0 0 * * FRI-MON", "the day of the week `FRI-MON` ends before it begins"),
            ("MON 0 * * *", "the minute `MON` cannot be read"),
            ("0 0 * * Mon", "the day of the week `Mon` cannot be read"),
            ("0 0 L * *", "the day of the month `L` cannot be read"),
            ("0 0 ? * *", "the day of the month `?` cannot be read"),
            ("0 0 * * 1#2", "the day of the week `1#2` cannot be read"),
            ("0 0 1,,2 * *", "the day of the month `` cannot be read"),
            ("0 5/2 * * *", "the hour `5/2` cannot be read"),
            ("*/0 * * * *", "the minute `*/0` cannot be read"),
            ("000 0 * * *", "the minute `000` cannot be read"),
            ("-1 0 * * *", "the minute `-1` cannot be read"),
            ("0 0 31 2,4,6,9,11 *", "there is no such day in any year"),
        ] {
            let problem = Pattern::parse(written).expect_err(written).to_string();
            assert!(problem.contains(message), "{written}: {problem}");
        }
    }

    #[test]
    fn a_day_that_comes_once_in_four_years_is_one() {
        let leap = Pattern::parse("0 0 29 2 *").unwrap();
        assert_eq!(leap.days.since(date(2026, 11, 22)).next(), Some(date(2028, 2, 29)));
    }

    #[test]
    fn either_day_is_enough_where_both_are_restricted() {
        let days = |pattern: &str, from, count| {
            let days = Pattern::parse(pattern).unwrap().days;
            days.since(from).take(count).collect::<Vec<_>>()
        };
        // A thirteenth, and two Fridays.
        assert_eq!(
            days("0 0 13 * FRI", date(2027, 1, 9), 3),
            [date(2027, 1, 13), date(2027, 1, 15), date(2027, 1, 22)]
        );
        assert_eq!(days("0 0 * * SAT-SUN", date(2026, 11, 9), 2), [date(2026, 11, 14), date(2026, 11, 15)]);
    }

    #[test]
    fn only_what_is_hourly_every_day_runs_on_elapsed_time() {
        for hourly in ["@hourly", "*/5 * * * *", "0 */1 * * *", "0 0-23 1-31 * *"] {
            assert!(Pattern::parse(hourly).unwrap().is_hourly(), "{hourly}");
        }
        for other in ["0 */2 * * *", "0 * * * 1-5", "0 * 1 * *", "0 * * 1 *", "@daily"] {
            assert!(!Pattern::parse(other).unwrap().is_hourly(), "{other}");
        }
    }
}
