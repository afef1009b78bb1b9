//! What an object says about models: refusals by field out. Pure.

use std::collections::HashSet;

use api::{LimitedModel, Model, Weights};
use enforcement::{
    models::is_declarable,
    values::{MODEL_MAX_LENGTH, MODELS_MAX, WEIGHT_MAX},
};

use super::{Check, Refused};

impl Check {
    pub(super) fn models(&mut self, models: &[Model]) {
        self.names(models.iter().map(|model| model.name.as_str()));
        for (index, Model { name: _, weights, consumers, default_quota }) in models.iter().enumerate() {
            let field = format!("spec.models[{index}]");
            self.weights(&field, *weights);
            if let Some(consumers) = consumers {
                self.consumers(&format!("{field}.consumers"), consumers);
            }
            if let Some(amount) = default_quota {
                self.amount(&format!("{field}.defaultQuota"), *amount);
            }
        }
    }

    pub(super) fn limited_models(&mut self, models: &[LimitedModel]) {
        self.names(models.iter().map(|model| model.name.as_str()));
        for (index, LimitedModel { name: _, weights, global, rules }) in models.iter().enumerate() {
            let field = format!("spec.models[{index}]");
            self.weights(&field, *weights);
            self.global(&format!("{field}.global"), global);
            let field = format!("{field}.rules");
            self.rules(&field, rules);
            if rules.iter().any(|rule| !rule.overrides_from.is_empty()) {
                let message = "overridesFrom is for rules of all models together: put it in spec.rules";
                self.refuse(field, Refused::Excluded, message);
            }
        }
    }

    fn names<'a>(&mut self, names: impl ExactSizeIterator<Item = &'a str>) {
        if names.len() > MODELS_MAX {
            let message = format!("has {} models, at most {MODELS_MAX} may be", names.len());
            self.refuse("spec.models", Refused::TooMany, message);
        }
        let mut seen = HashSet::new();
        for (index, name) in names.enumerate() {
            let field = format!("spec.models[{index}]");
            let message =
                "must be visible ASCII characters without braces, `*` at the end only, and without models/ before it";
            self.text(&format!("{field}.name"), name, MODEL_MAX_LENGTH, is_declarable, message);
            if !seen.insert(name) {
                self.refuse(field, Refused::Duplicate, "this name is there already: list each model once");
            }
        }
    }

    fn weights(&mut self, field: &str, weights: Option<Weights>) {
        let Weights { input, output, cached_input, reasoning } = weights.unwrap_or_default();
        let all = [("input", input), ("output", output), ("cachedInput", cached_input), ("reasoning", reasoning)];
        for (name, weight) in all {
            if weight.is_some_and(|weight| weight > WEIGHT_MAX) {
                let message = format!("must be 0 to {WEIGHT_MAX}");
                self.refuse(format!("{field}.weights.{name}"), Refused::OutOfRange, message);
            }
        }
    }
}
