//! What is shown of balances: what Redis said of them in; how many of an object's consumers have nothing left, and those
//! with the least, out. Pure.

use std::{cmp::Ordering, collections::HashMap};

use api::{CONSUMERS_SHOWN, Consumer, ConsumerStatus};
use enforcement::values::reaches;

use crate::{Flavor, Plan, Verdict, Warning, models::Listed};

/// Consumers named in one message.
const NAMED: usize = 5;

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
    let warn_at = verdict.object.warn_at();
    let consumers = found.iter().map(|one| {
        let (Listed { model, consumer }, Figures { balance: _, used }) = one;
        let Consumer { name, quota, unlimited: _ } = consumer;
        let balance = left(one).map(|(balance, _)| balance);
        let used = match (flavor, quota, balance) {
            // Upstream's module counts nothing but the balance down.
            (Flavor::Upstream, Some(quota), Some(balance)) => quota.saturating_sub(balance).max(0),
            _ => *used,
        };
        let nearly_exhausted =
            quota.zip(warn_at).is_some_and(|(quota, percent)| quota > 0 && reaches(used, quota, percent));
        let model = model.map(str::to_owned);
        ConsumerStatus { name: name.clone(), model, quota: *quota, balance, used, nearly_exhausted }
    });
    Some(Shown { consumers: consumers.collect(), exhausted })
}

/// The consumers that are to be warned about, of those that are shown: the message of the condition, if there is one.
pub(crate) fn nearly_exhausted(consumers: &[ConsumerStatus], percent: Option<u8>) -> Option<Warning> {
    let warned: Vec<&ConsumerStatus> = consumers.iter().filter(|consumer| consumer.nearly_exhausted).collect();
    let named: Vec<String> = warned.iter().take(NAMED).map(|consumer| spent(consumer)).collect();
    let more = match warned.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let consumers = format!("{}{more}", named.join(", "));
    percent.filter(|_| !warned.is_empty()).map(|percent| Warning::NearlyExhausted { percent, consumers })
}

/// Consumers that are to be warned about now and were not before, or not in this period: what an Event says of each.
/// `before` and `after`: as [`api::AiQuotaStatus`] has them.
#[must_use]
pub fn newly_exhausted(before: &[ConsumerStatus], after: &[ConsumerStatus]) -> Vec<String> {
    // What was used falls with a new period only.
    let told = |now: &ConsumerStatus, before: &ConsumerStatus| before.nearly_exhausted && before.used <= now.used;
    let key = |one: &ConsumerStatus| (one.name.clone(), one.model.clone());
    let known: HashMap<_, &ConsumerStatus> = before.iter().map(|before| (key(before), before)).collect();
    let warned = after.iter().filter(|consumer| consumer.nearly_exhausted);
    let new = warned.filter(|now| !known.get(&key(now)).is_some_and(|before| told(now, before)));
    let say = |ConsumerStatus { name, model, quota, used, .. }: &ConsumerStatus| {
        let (model, quota) = (of_model(model.as_deref()), quota.unwrap_or_default());
        format!("consumer {name} has used {used} of its {quota} tokens{model} of this period")
    };
    new.map(say).collect()
}

fn spent(ConsumerStatus { name, model, quota, used, .. }: &ConsumerStatus) -> String {
    format!("{name} ({used} of {} tokens{})", quota.unwrap_or_default(), of_model(model.as_deref()))
}

fn of_model(model: Option<&str>) -> String {
    model.map(|model| format!(" for model {model}")).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(name: &str, used: i64, nearly_exhausted: bool) -> ConsumerStatus {
        let (name, model) = (name.to_owned(), (name == "c").then(|| "m*".to_owned()));
        ConsumerStatus { name, model, quota: Some(100), balance: Some(100 - used), used, nearly_exhausted }
    }

    #[test]
    fn each_consumer_is_told_of_when_it_gets_there_and_again_in_another_period() {
        let before = [consumer("a", 79, false), consumer("b", 85, true), consumer("c", 90, true)];
        let after =
            [consumer("a", 80, true), consumer("b", 99, true), consumer("c", 81, true), consumer("d", 79, false)];
        let told = newly_exhausted(&before, &after);
        assert_eq!(
            told,
            [
                "consumer a has used 80 of its 100 tokens of this period",
                "consumer c has used 81 of its 100 tokens for model m* of this period"
            ]
        );
        assert!(newly_exhausted(&after, &after).is_empty(), "as after a restart");
    }

    #[test]
    fn the_condition_names_a_few_and_counts_the_rest() {
        let consumers: Vec<ConsumerStatus> = (0..7).map(|n| consumer(&format!("c{n}"), 80 + n, n > 0)).collect();
        let said = nearly_exhausted(&consumers, Some(80)).map(|warning| warning.to_string()).unwrap();
        assert!(
            said.starts_with("80 percent of their quota in this period (warnAt) or more used c1 (81 of 100"),
            "{said}"
        );
        assert!(said.ends_with("c5 (85 of 100 tokens) and 1 more"), "{said}");
        assert_eq!(nearly_exhausted(&consumers[..1], Some(80)), None);
    }
}
