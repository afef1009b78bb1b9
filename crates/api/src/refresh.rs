//! `spec.refresh` of an AIQuota: when balances are refreshed, and how. The comments with three slashes are what
//! `kubectl explain` shows.

use enforcement::values::MAX_AMOUNT;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const SCHEDULE_MAX_LENGTH: usize = 128;
pub const TIME_ZONE_MAX_LENGTH: usize = 64;

/// Short names of schedules and what they stand for.
pub const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// When balances are refreshed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [cap_with_carry_over()]))]
pub struct Refresh {
    /// When a period begins, as five fields of cron: minute (0-59), hour (0-23), day of the month (1-31), month (1-12
    /// or JAN-DEC), day of the week (0-7 or SUN-SAT, 0 and 7 are Sunday); each `*`, numbers, ranges `1-5`, steps
    /// `*/15`, and lists of these. Where both days are restricted, either is enough. Or `@hourly`, `@daily` (the same:
    /// `@midnight`), `@weekly` (Sunday), `@monthly`, `@yearly` (the same: `@annually`), each at its first minute.
    #[schemars(length(min = 1, max = SCHEDULE_MAX_LENGTH))]
    #[schemars(extend("x-kubernetes-validations" = [schedule()]))]
    pub schedule: String,

    /// The time zone in which the schedule is read, as `Europe/Berlin`. Absent: `UTC`. When clocks are set forward, a
    /// time that is skipped counts at the moment of the change; when they are set back, a time that comes twice counts
    /// the first time. A schedule of every hour of every day counts elapsed time instead and ignores such changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = TIME_ZONE_MAX_LENGTH))]
    #[schemars(extend("x-kubernetes-validations" = [time_zone()]))]
    pub time_zone: Option<String>,

    /// What the beginning of a period does to a balance. `Reset`: it becomes the quota, whatever was left or
    /// overspent. `Add`: the quota is added. `CarryOver`: the quota is added to what is left, overspending is
    /// forgiven, and the balance becomes at most `maxBalance`. Absent: `Reset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<RefreshMode>,

    /// What a balance is filled up to at most by `CarryOver`, in tokens, 0 to 9007199254740991. Required with
    /// `CarryOver`, and allowed with no other mode. A balance that is above it, as after a correction by hand, is
    /// lowered to it by the next period.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = MAX_AMOUNT))]
    pub max_balance: Option<i64>,
}

// No comments on the variants: they would turn the enum into alternatives, which a structural schema may not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RefreshMode {
    #[default]
    Reset,
    Add,
    CarryOver,
}

fn cap_with_carry_over() -> serde_json::Value {
    serde_json::json!({
        "rule": "has(self.maxBalance) == (has(self.mode) && self.mode == 'CarryOver')",
        "message": "is required with mode CarryOver and allowed with no other",
        "fieldPath": ".maxBalance",
    })
}

/// Everything but whether ranges ascend and whether there is such a day, which is left to the controller.
fn schedule() -> serde_json::Value {
    serde_json::json!({
        "rule": format!("self.matches('{}')", pattern()),
        "message": "must be five fields (minute, hour, day of the month, month, day of the week) as in `0 0 * * *`, or \
                    one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually",
    })
}

fn pattern() -> String {
    let item = |value: &str| format!("(([*]|({value})-({value}))(/[1-9][0-9]?)?|{value})");
    let field = |value: &str| format!("{0}(,{0})*", item(value));
    let months = "0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC|\
                  jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec";
    let weekdays = "0?[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT|sun|mon|tue|wed|thu|fri|sat";
    let fields = ["0?[0-9]|[1-5][0-9]", "0?[0-9]|1[0-9]|2[0-3]", "0?[1-9]|[12][0-9]|3[01]", months, weekdays];
    let nicknames = NICKNAMES.map(|(name, _)| name).join("|");
    format!("^({nicknames}|{})$", fields.map(field).join(" +"))
}

/// Zones as the database names them: neither an offset nor the machine's own zone, which the function would take too.
fn time_zone() -> serde_json::Value {
    serde_json::json!({
        "rule": "self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$') && self != 'Local' && \
                 timestamp('2024-01-01T00:00:00Z').getHours(self) >= 0",
        "message": "must be a time zone of the IANA database, as `Europe/Berlin`, in its exact spelling",
    })
}
