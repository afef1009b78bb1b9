//! Models as objects declare them in; what the modules are told of them, and whose balances they have, out. Pure.

use api::{Consumer, Model, Weights};
use enforcement::{models, redis, wire};

/// What the tokens of a model weigh: what is left out is as the next best.
pub(crate) fn weights(declared: Option<Weights>) -> models::Weights {
    let Weights { input, output, cached_input, reasoning } = declared.unwrap_or_default();
    let (input, output) = (input.unwrap_or(1), output.unwrap_or(1));
    models::Weights([input, output, cached_input.unwrap_or(input), reasoning.unwrap_or(output)])
}

/// Whatever the order in which they are listed.
pub(crate) fn declared(models: &[Model]) -> Vec<wire::Model> {
    let model = |model: &Model| wire::Model {
        name: model.name.clone(),
        weights: weights(model.weights),
        own: model.has_own().then_some(wire::Own { default_quota: model.default_quota, yields: false }),
    };
    let mut models: Vec<_> = models.iter().map(model).collect();
    models.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    models
}

/// Whether objects say different things about models; whom they yield to is not for them to say.
pub(crate) fn differ(a: &[wire::Model], b: &[wire::Model]) -> bool {
    let said = |model: &wire::Model| (model.weights, model.own.map(|own| own.default_quota));
    a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.name != b.name || said(a) != said(b))
}

/// Where balances are: the common ones, and those of each model that has its own; with the default they are made from.
pub(crate) fn places(policy: &wire::Policy) -> impl Iterator<Item = (String, Option<i64>)> {
    let own = policy.models.iter().filter_map(|model| Some((&model.name, model.own?)));
    let own = own.map(|(name, own)| (redis::of_model(&policy.key_prefix, name), own.default_quota));
    [(policy.key_prefix.clone(), policy.default_quota)].into_iter().chain(own)
}

/// Says of each place, in the order of [`places`], whether it yields.
pub(crate) fn yields(policy: &mut wire::Policy) -> impl Iterator<Item = &mut bool> {
    let own = policy.models.iter_mut().filter_map(|model| model.own.as_mut());
    [&mut policy.yields].into_iter().chain(own.map(|own| &mut own.yields))
}

/// A consumer as an object lists it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed<'a> {
    /// The model whose balance it is; nothing for the common one.
    pub(crate) model: Option<&'a str>,
    pub(crate) consumer: &'a Consumer,
}

impl Listed<'_> {
    pub(crate) fn balance(&self, key_prefix: &str) -> redis::Balance {
        let name = self.consumer.name.as_bytes();
        match self.model {
            None => redis::Balance::new(key_prefix, name),
            Some(model) => redis::Balance::new(&redis::of_model(key_prefix, model), name),
        }
    }

    /// As messages name it.
    pub(crate) fn name(&self) -> String {
        match self.model {
            None => self.consumer.name.clone(),
            Some(model) => format!("{} (model {model})", self.consumer.name),
        }
    }
}

/// All that a spec lists: for all models, then for each that has quotas of its own.
pub(crate) fn listed<'a>(consumers: &'a [Consumer], models: &'a [Model]) -> impl Iterator<Item = Listed<'a>> {
    let common = consumers.iter().map(|consumer| Listed { model: None, consumer });
    let own = models.iter().flat_map(|model| {
        let consumers = model.consumers.iter().flatten();
        consumers.map(|consumer| Listed { model: Some(&model.name), consumer })
    });
    common.chain(own)
}

/// The field that lists whom messages name so.
pub(crate) fn field(consumers: &[Consumer], models: &[Model], name: &str) -> Option<String> {
    let at = |consumers: &[Consumer], model: Option<&Model>| {
        let model = model.map(|model| model.name.as_str());
        let index = consumers.iter().position(|consumer| Listed { model, consumer }.name() == name)?;
        Some(format!("consumers[{index}]"))
    };
    let of_model = |(index, model): (usize, &Model)| {
        let listed = at(model.consumers.as_deref()?, Some(model))?;
        Some(format!("spec.models[{index}].{listed}"))
    };
    let common = at(consumers, None).map(|listed| format!("spec.{listed}"));
    common.or_else(|| models.iter().enumerate().find_map(of_model))
}
