//! Limits that are nearly reached: what the gateway noted in Redis in; what the status, the condition and Events say of it
//! out. Nobody's value is in any of it: what is noted has none. Pure.

use std::collections::HashMap;

use api::NearLimit;
use enforcement::{
    limit::declared::Declared,
    redis::warned::Noted,
    wire::limit::{By, Rate},
};
use k8s_openapi::jiff::Timestamp;

use crate::{
    Verdict, Warning,
    figures::of_model,
    nearly::{self, Near, Told, Whom},
};

/// How many of them a status has.
const SHOWN: usize = 100;

/// The limits of one object that the gateway may note.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The index of its store in [`crate::Plan::stores`], whose `access` is there.
    pub store: usize,
    /// Under which they are noted.
    pub rule_name: String,
    pub(crate) limits: Vec<WatchedLimit>,
}

/// What was noted under a rule name, by the names that limits have there.
pub type Notes = HashMap<Vec<u8>, Noted>;

#[derive(Clone, Debug)]
pub(crate) struct WatchedLimit {
    field: Vec<u8>,
    by: String,
    model: Option<String>,
    rate: Option<Rate>,
}

impl WatchedLimit {
    pub(crate) fn of(Declared { field, by, model, rate }: Declared<'_>) -> Self {
        let by = by.map_or_else(|| ALL.to_owned(), source);
        Self { field, by, model: model.map(str::to_owned), rate }
    }
}

/// In the place of whose values are counted.
const ALL: &str = "all requests";

fn source(by: &By) -> String {
    let (source, name) = by.source();
    format!("{source} {name}").trim_end().to_owned()
}

/// What is known of an object's limits; where Redis has not said anything yet, what was shown before.
pub(crate) fn near(verdict: &Verdict, notes: Option<&Notes>) -> Vec<NearLimit> {
    let Some(watched) = &verdict.watched else { return Vec::new() };
    notes.map_or_else(|| verdict.object.near_limits().to_vec(), |notes| noted(&watched.limits, notes))
}

fn noted(limits: &[WatchedLimit], notes: &Notes) -> Vec<NearLimit> {
    let mut near: Vec<NearLimit> = Vec::new();
    for WatchedLimit { field, by, model, rate } in limits {
        let Some(Noted { since, counters }) = notes.get(field) else { continue };
        let (by, model) = (by.clone(), model.clone());
        let (tokens, window) = (rate.map(|rate| rate.tokens), rate.map(|rate| window(rate.window_seconds)));
        let since = Timestamp::from_second(*since).unwrap_or_default().to_string();
        let new = NearLimit { by, model, tokens, window, since, counters: *counters };
        // What a status does not tell apart is one: equal limits of exact values and of patterns.
        let named = |limit: &NearLimit| {
            (&limit.by, &limit.model, limit.tokens, &limit.window) == (&new.by, &new.model, new.tokens, &new.window)
        };
        match near.iter_mut().find(|known| named(known)) {
            Some(known) => {
                known.counters = known.counters.saturating_add(new.counters);
                known.since = new.since.max(std::mem::take(&mut known.since));
            }
            None => near.push(new),
        }
    }
    near
}

/// As a status has room for them.
pub(crate) fn shown(mut near: Vec<NearLimit>) -> Vec<NearLimit> {
    near.truncate(SHOWN);
    near
}

/// The condition, if there is one.
pub(crate) fn nearly_exhausted(near: &[NearLimit], percent: Option<u8>) -> Option<Warning> {
    let named = |limit: &NearLimit| format!("{} ({})", limit_text(limit), counted(limit));
    nearly::condition(percent, "the tokens of a window (warnAt) or more were counted under", near.iter().map(named))
}

/// What Events are to say of limits, as [`nearly::newly`]. `told`: nothing where only the status knows, as after a restart;
/// where that has no more room, all that are there count as told.
pub(crate) fn newly_exhausted(verdict: &Verdict, notes: Option<&Notes>, told: Option<&Told>) -> (Vec<String>, Told) {
    let percent = verdict.object.warn_at().unwrap_or_default();
    newly(percent, &near(verdict, notes), verdict.object.near_limits(), told)
}

/// `before`: as the status has them.
fn newly(percent: u8, now: &[NearLimit], before: &[NearLimit], told: Option<&Told>) -> (Vec<String>, Told) {
    let full = before.len() >= SHOWN;
    let shown = || before.iter().chain(now.iter().filter(|_| full)).map(|limit| (whom(limit), mark(limit))).collect();
    let before: Told = told.cloned().unwrap_or_else(shown);
    let message = |limit: &NearLimit| {
        format!("{percent} percent or more of {} were counted, {}", limit_text(limit), counted(limit))
    };
    let near = |limit: &NearLimit| Near { mark: mark(limit), message: message(limit) };
    let (messages, mut told) = nearly::newly(before, now.iter().map(|limit| (whom(limit), Some(near(limit)))));
    // What is over begins anew with another time.
    let there: Vec<Whom> = now.iter().map(whom).collect();
    told.retain(|whom, _| there.contains(whom));
    (messages, told)
}

fn whom(limit: &NearLimit) -> Whom {
    let NearLimit { by, model, tokens, window, .. } = limit;
    (format!("{by} {}/{}", tokens.unwrap_or_default(), window.as_deref().unwrap_or_default()), model.clone())
}

/// It falls when another period begins.
fn mark(limit: &NearLimit) -> i64 {
    limit.since.parse().map_or(0, |since: Timestamp| -since.as_second())
}

fn limit_text(NearLimit { by, model, tokens, window, .. }: &NearLimit) -> String {
    let of_model = of_model(model.as_deref());
    match (tokens, window) {
        (Some(tokens), Some(window)) if by == ALL => format!("{tokens} tokens in {window} for {ALL}{of_model}"),
        (Some(tokens), Some(window)) => format!("{tokens} tokens in {window} by {by}{of_model}"),
        _ => format!("a limit of overridesFrom by {by}{of_model}"),
    }
}

fn counted(NearLimit { by, since, counters, .. }: &NearLimit) -> String {
    match counters {
        _ if by == ALL => format!("since {since}"),
        1 => format!("for 1 value since {since}"),
        many => format!("for {many} values since {since}"),
    }
}

/// As a spec writes it.
fn window(seconds: u32) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, letter) = unit.unwrap_or((1, 's'));
    format!("{}{letter}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Vec<WatchedLimit> {
        let limit = |field: &str, by: &str, model: Option<&str>, rate: Option<(i64, u32)>| WatchedLimit {
            field: field.as_bytes().to_vec(),
            by: by.to_owned(),
            model: model.map(str::to_owned),
            rate: rate.map(|(tokens, window_seconds)| Rate { tokens, window_seconds }),
        };
        vec![
            limit("a", ALL, None, Some((100, 60))),
            limit("b", "header x-api-key", Some("m*"), Some((5, 90))),
            limit("c", "header x-api-key", None, None),
            limit("d", "consumer", None, Some((7, 86_400))),
            limit("e", "consumer", None, Some((7, 86_400))),
        ]
    }

    fn notes(all: &[(&str, i64, i64)]) -> Notes {
        let note = |(field, since, counters): &(&str, i64, i64)| {
            (field.as_bytes().to_vec(), Noted { since: *since, counters: *counters })
        };
        all.iter().map(note).collect()
    }

    fn near(all: &[(&str, i64, i64)]) -> Vec<NearLimit> {
        noted(&limits(), &notes(all))
    }

    #[test]
    fn a_limit_is_named_with_its_values_counted_and_what_is_not_declared_is_left_out() {
        let all = near(&[("a", 0, 1), ("b", 0, 1), ("c", 0, 3), ("d", 0, 2), ("e", 60, 5), ("x", 0, 1)]);
        let since = "since 1970-01-01T00:00:00Z";
        let said = nearly_exhausted(&all, Some(80)).map(|warning| warning.to_string()).unwrap();
        assert_eq!(
            said,
            format!(
                "80 percent of the tokens of a window (warnAt) or more were counted under \
                 100 tokens in 1m for all requests ({since}), \
                 5 tokens in 90s by header x-api-key for model m* (for 1 value {since}), \
                 a limit of overridesFrom by header x-api-key (for 3 values {since}), \
                 7 tokens in 1d by consumer (for 7 values since 1970-01-01T00:01:00Z)"
            )
        );
        assert_eq!(nearly_exhausted(&[], Some(80)), None);
    }

    #[test]
    fn each_limit_is_told_of_once_per_period_also_after_a_restart() {
        let first = near(&[("a", 100, 1), ("d", 100, 1)]);
        let (messages, told) = newly(80, &first, &[], None);
        assert_eq!(
            messages,
            [
                "80 percent or more of 100 tokens in 1m for all requests were counted, since 1970-01-01T00:01:40Z",
                "80 percent or more of 7 tokens in 1d by consumer were counted, for 1 value since 1970-01-01T00:01:40Z",
            ]
        );
        let more = near(&[("a", 100, 1), ("d", 100, 9)]);
        assert!(newly(80, &more, &first, Some(&told)).0.is_empty(), "more values");
        assert!(newly(80, &more, &first, None).0.is_empty(), "as after a restart");
        let next = near(&[("a", 160, 1), ("d", 100, 9)]);
        assert_eq!(newly(80, &next, &more, Some(&told)).0.len(), 1, "another window");
        assert_eq!(newly(80, &next, &more, None).0.len(), 1, "which began while no controller ran");
        let (_, told) = newly(80, &[], &next, Some(&told));
        assert!(told.is_empty(), "what is over is forgotten");
    }

    #[test]
    fn where_a_status_has_no_room_for_all_a_restart_tells_nothing_again() {
        let limit = |n: usize| NearLimit { tokens: i64::try_from(n).ok(), ..near(&[("a", 100, 1)]).remove(0) };
        let all: Vec<NearLimit> = (0..=SHOWN).map(limit).collect();
        let before = shown(all.clone());
        assert_eq!(before.len(), SHOWN);
        assert!(newly(80, &all, &before, None).0.is_empty());
        assert_eq!(newly(80, &all, &before[1..], None).0.len(), 2);
    }
}
