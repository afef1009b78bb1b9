//! Limits in our own form (`crate::wire::limit`). In: what was written. Out: the policy, or the field that cannot be
//! used. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Flavor, Limits, Policy, is_rate};
use crate::config::{Compiled, Invalid, NamedStores};
use crate::limit::rule::{Overridden, Rule, Source};
use crate::models::{self, Model, Models};
use crate::paths::Paths;
use crate::redis::overrides::Overrides;
use crate::values::{
    self, MODELS_MAX, PATTERNS_SIZE_MAX, REJECTION_CODE_MAX, REJECTION_CODE_MIN, RULES_MAX, SAME_MATCH_MAX, TRIED_MAX,
};
use crate::wire::limit::{self as wire, Limit, Match, Rate};
use crate::wire::{LimitedModel, UnlistedPaths};

pub(super) fn policy(wire: wire::Policy, stores: NamedStores<'_>) -> Result<Compiled<Policy>, Invalid> {
    let wire::Policy { store, rule_name, paths, global, rules, models, rejection, reserve, ends, unavailable } = wire;
    if !values::is_rule_name(rule_name.as_bytes()) {
        return Err(Invalid::new("ruleName", "is not a rule name"));
    }
    if paths.is_empty() || !paths.iter().all(|path| values::is_path(path.as_bytes())) {
        return Err(Invalid::new("paths", "are not path suffixes"));
    }
    if !(REJECTION_CODE_MIN..=REJECTION_CODE_MAX).contains(&rejection.code) {
        return Err(Invalid::new("rejection.code", "is out of range"));
    }
    let nothing = |model: &LimitedModel| model.global.is_empty() && model.rules.is_empty();
    if global.is_empty() && rules.is_empty() && models.iter().all(nothing) {
        return Err(Invalid::new("rules", "are missing, and so is global"));
    }
    if !ends.warn_at.is_none_or(|percent| (values::WARN_AT_MIN..=values::WARN_AT_MAX).contains(&percent)) {
        return Err(Invalid::new("ends.warnAt", "is out of range"));
    }
    let reserve = crate::config::reserve(reserve, &ends)?;
    let limits = limits(Some(&rule_name), global, rules)?;
    let models = limited(models)?;
    let of_models = models.iter().flat_map(|model| &model.held_to.rules);
    if limits.rules.iter().chain(of_models).map(Rule::size).sum::<usize>() > PATTERNS_SIZE_MAX {
        return Err(Invalid::new("rules", "have patterns that are too large together"));
    }
    let paths = Paths::new(paths, None).tolerant().closed(ends.unlisted_paths == UnlistedPaths::Refuse);
    if let Some(reason) = unavailable {
        // Who only observes refuses nothing for that either.
        let paths = if ends.observes() { Paths::none() } else { paths };
        return Ok(Compiled::Unavailable { reason, paths });
    }
    let store = stores.named(store.as_deref())?;
    let flavor = Flavor::Native { paths };
    Ok(Compiled::Policy(Arc::new(Policy { store, rule_name, flavor, limits, models, rejection, reserve, ends })))
}

fn limited(models: Vec<LimitedModel>) -> Result<Models<Limits>, Invalid> {
    if models.len() > MODELS_MAX {
        return Err(Invalid::new("models", "are too many"));
    }
    let model = |(index, LimitedModel { name, weights, global, rules }): (usize, _)| {
        if !models::is_declarable(&name) || !weights.are_valid() {
            return Err(Invalid::new(format!("models[{index}]"), "is no model, or weighs too much"));
        }
        let held_to = limits(None, global, rules).map_err(|invalid| invalid.under(&format!("models[{index}]")))?;
        Ok(Model { name, weights, held_to })
    };
    Ok(Models::new((0..).zip(models).map(model).collect::<Result<_, _>>()?))
}

/// `rule_name`: nothing for those of a model, whose values have no limits of their own.
fn limits(rule_name: Option<&str>, global: Vec<Rate>, rules: Vec<wire::Rule>) -> Result<Limits, Invalid> {
    if global.len() > RULES_MAX || !global.iter().copied().all(is_rate) {
        return Err(Invalid::new("global", "is too long or out of range"));
    }
    if rules.len() > RULES_MAX {
        return Err(Invalid::new("rules", "are too many"));
    }
    let rules = (0..)
        .zip(rules)
        .map(|(index, written): (usize, _)| {
            rule(rule_name, written).map_err(|invalid| invalid.under(&format!("rules[{index}]")))
        })
        .collect::<Result<_, _>>()?;
    Ok(Limits { global, rules })
}

fn rule(rule_name: Option<&str>, wire::Rule { by, limits, overridden }: wire::Rule) -> Result<Rule, Invalid> {
    if overridden && rule_name.is_none() {
        return Err(Invalid::new("overridden", "is not for limits of a model"));
    }
    let overrides = rule_name.filter(|_| overridden).map(|rule_name| {
        let (source, name) = by.source();
        Overridden { key: Overrides::new(rule_name, &by), source: (source, name.into()) }
    });
    let source = Source::from(by);
    if source.name().is_some_and(str::is_empty) {
        return Err(Invalid::new("by", "names nothing"));
    }
    let mut rule = Rule::new(source);
    let mut places: BTreeMap<Match, usize> = BTreeMap::new();
    for (index, Limit { matches, tokens, window_seconds }) in (0_usize..).zip(limits) {
        let rate = Rate { tokens, window_seconds };
        if !is_rate(rate) {
            return Err(Invalid::new(format!("limits[{index}]"), "is out of range"));
        }
        if let Some(place) = places.get(&matches) {
            rule.add_rate(*place, rate);
            continue;
        }
        let place = rule
            .add(&matches, rate)
            .map_err(|unusable| Invalid::new(format!("limits[{index}].match"), unusable.problem()))?;
        places.insert(matches, place);
    }
    if rule.has_more_of_a_match_than(SAME_MATCH_MAX) {
        return Err(Invalid::new("limits", "are too many of one match"));
    }
    rule.tries = TRIED_MAX;
    rule.overrides = overrides;
    if rule.is_empty() && !overridden { Err(Invalid::new("limits", "are missing")) } else { Ok(rule) }
}
