//! The limits that a policy declares, as `limits.lua` notes that one was nearly reached. In: what the module is told. Out:
//! each limit with the name it has there. Only the controller asks. Pure.

use super::rule::Source;
use crate::redis::limits::{Counter, Name};
use crate::redis::warned;
use crate::wire::limit::{By, Dialect, Match, Policy, Rate, Rule};

/// A limit, without whose.
#[derive(Debug, PartialEq, Eq)]
pub struct Declared<'a> {
    /// Under which it is noted; it has no value of a client.
    pub field: Vec<u8>,
    /// Nothing for one of all requests together.
    pub by: Option<&'a By>,
    pub model: Option<&'a str>,
    /// Nothing for those that single values have instead, which have each their own.
    pub rate: Option<Rate>,
}

/// What may be noted of a policy; nothing unless it warns, and enforces.
#[must_use]
pub fn declared(policy: &Policy) -> Vec<Declared<'_>> {
    let Some(percent) = policy.ends.warn_at.filter(|_| !policy.ends.observes()) else { return Vec::new() };
    let of_models = policy.models.iter().map(|model| (Some(model.name.as_str()), &model.global, &model.rules));
    let mut all = Vec::new();
    for (model, global, rules) in [(None, &policy.global, &policy.rules)].into_iter().chain(of_models) {
        let name = Name { dialect: Dialect::V2, rule: &policy.rule_name, model, kept: None, observed: false };
        let mut add = |by, rate: Option<Rate>, counter: &Counter| {
            let field = warned::field(percent, rate.map(|rate| rate.tokens), counter);
            all.push(Declared { field, by, model, rate });
        };
        global.iter().for_each(|rate| add(None, Some(*rate), &Counter::global(name, *rate)));
        for Rule { by, limits, overridden } in rules {
            let source = Source::from(by.clone());
            let only_exact = !limits.iter().any(|limit| matches!(limit.matches, Match::Pattern(_) | Match::Any));
            for limit in limits {
                let rate = Rate { tokens: limit.tokens, window_seconds: limit.window_seconds };
                let counter = Counter::item(name, source.limiter(only_exact), rate, &source.key(), b"");
                add(Some(by), Some(rate), &counter);
            }
            if *overridden {
                add(Some(by), None, &Counter::overridden(name, by.source(), b""));
            }
        }
    }
    all
}
