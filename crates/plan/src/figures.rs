//! What is shown of balances: what Redis said of them in; how many of an object's consumers have nothing left, and those
//! with the least, out. Pure.

use std::cmp::Ordering;

use api::{CONSUMERS_SHOWN, Consumer, ConsumerStatus};

use crate::{Flavor, Plan, Verdict, models::Listed};

/// What Redis said of one balance when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Nothing for a consumer that was always unlimited.
    pub balance: Option<i64>,
    /// Spent in this period, as the ledger counts it.
    pub used: i64,
}

/// Of one object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) consumers: Vec<ConsumerStatus>,
    /// Listed consumers with nothing left.
    pub(crate) exhausted: usize,
}

/// Nothing where nothing is known of any.
pub(crate) fn shown(plan: &Plan, verdict: &Verdict, figures: &[Option<Figures>]) -> Option<Shown> {
    let consumers: Vec<Listed<'_>> = verdict.object.listed().collect();
    let found = verdict.seeds.clone().filter_map(|seed| {
        let found = (*figures.get(seed)?)?;
        Some((*consumers.get(plan.seeds[seed].consumer)?, found))
    });
    let mut found: Vec<(Listed<'_>, Figures)> = found.collect();
    if found.is_empty() {
        return None;
    }
    let exhausted = found.iter().filter(|found| left(found).is_some_and(|(balance, _)| balance <= 0)).count();
    if found.len() > CONSUMERS_SHOWN {
        found.select_nth_unstable_by(CONSUMERS_SHOWN, least_left);
        found.truncate(CONSUMERS_SHOWN);
    }
    found.sort_unstable_by(least_left);
    let flavor = plan.gateway.settings.flavor;
    let consumers = found.iter().map(|one| {
        let (Listed { model, consumer }, Figures { balance: _, used }) = one;
        let Consumer { name, quota, unlimited: _ } = consumer;
        let balance = left(one).map(|(balance, _)| balance);
        let used = match (flavor, quota, balance) {
            // Upstream's module counts nothing but the balance down.
            (Flavor::Upstream, Some(quota), Some(balance)) => quota.saturating_sub(balance).max(0),
            _ => *used,
        };
        ConsumerStatus { name: name.clone(), model: model.map(str::to_owned), quota: *quota, balance, used }
    });
    Some(Shown { consumers: consumers.collect(), exhausted })
}

/// The balance and the quota of who is not unlimited.
fn left((listed, figures): &(Listed<'_>, Figures)) -> Option<(i64, i64)> {
    Some((figures.balance?, listed.consumer.quota?))
}

/// By the part of the quota that is left; who is unlimited comes last.
fn least_left(a: &(Listed<'_>, Figures), b: &(Listed<'_>, Figures)) -> Ordering {
    let parts = match (left(a), left(b)) {
        (Some((a, of_a)), Some((b, of_b))) => {
            let wide = |balance: i64, other: i64| i128::from(balance) * i128::from(other.max(1));
            wide(a, of_b).cmp(&wide(b, of_a))
        }
        (a, b) => a.is_none().cmp(&b.is_none()),
    };
    parts.then_with(|| a.0.consumer.name.cmp(&b.0.consumer.name)).then_with(|| a.0.model.cmp(&b.0.model))
}
