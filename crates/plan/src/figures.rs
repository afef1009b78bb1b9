//! What is shown of balances: what Redis said of them in; how many of an object's consumers have nothing left, and those
//! with the least, out. Pure.

use std::cmp::Ordering;

use api::{CONSUMERS_SHOWN, Consumer, ConsumerStatus};
use enforcement::values::reaches;

use crate::{
    Flavor, Plan, Verdict, Warning,
    models::Listed,
    nearly::{self, Near, Told},
};

/// What Redis said of one balance when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Nothing for a consumer that was always unlimited.
    pub balance: Option<i64>,
    /// Spent in this period, as the ledger counts it.
    pub used: i64,
}

/// What is known of one listed consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spending<'p> {
    pub consumer: &'p str,
    /// Nothing for all of a consumer's tokens.
    pub model: Option<&'p str>,
    /// Nothing for an unlimited one.
    pub quota: Option<i64>,
    /// What is left of that.
    pub balance: Option<i64>,
    pub used: i64,
}

impl Spending<'_> {
    /// The fuller of two comes first, who is unlimited last.
    #[must_use]
    pub fn fuller(&self, other: &Self) -> Ordering {
        let parts = parts(self.balance.zip(self.quota), other.balance.zip(other.quota));
        parts.then_with(|| (self.consumer, self.model).cmp(&(other.consumer, other.model)))
    }
}

/// What is known of an object's listed consumers.
#[must_use]
pub fn spendings<'p>(plan: &Plan, verdict: &'p Verdict, figures: &[Option<Figures>]) -> Vec<Spending<'p>> {
    let spending = |one: &(Listed<'p>, Figures)| Spending {
        consumer: &one.0.consumer.name,
        model: one.0.model,
        quota: one.0.consumer.quota,
        balance: left(one).map(|(balance, _)| balance),
        used: used(plan.gateway.settings.flavor, one),
    };
    found(plan, verdict, figures).iter().map(spending).collect()
}

/// Of one object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) consumers: Vec<ConsumerStatus>,
    /// All that are to be warned about, whether they are shown or not.
    pub(crate) warned: Vec<ConsumerStatus>,
    /// Listed consumers with nothing left.
    pub(crate) exhausted: usize,
}

/// Nothing where nothing is known of any.
pub(crate) fn shown(plan: &Plan, verdict: &Verdict, figures: &[Option<Figures>]) -> Option<Shown> {
    let mut found = found(plan, verdict, figures);
    if found.is_empty() {
        return None;
    }
    let exhausted = found.iter().filter(|found| left(found).is_some_and(|(balance, _)| balance <= 0)).count();
    let status = |one: &_| status(plan.gateway.settings.flavor, verdict.object.warn_at(), one);
    let is_warned = |one: &&_| is_warned(plan.gateway.settings.flavor, verdict.object.warn_at(), one);
    let mut warned: Vec<_> = found.iter().filter(is_warned).copied().collect();
    warned.sort_unstable_by(least_left);
    if found.len() > CONSUMERS_SHOWN {
        found.select_nth_unstable_by(CONSUMERS_SHOWN, least_left);
        found.truncate(CONSUMERS_SHOWN);
    }
    found.sort_unstable_by(least_left);
    let (consumers, warned) = (found.iter().map(status).collect(), warned.iter().map(status).collect());
    Some(Shown { consumers, warned, exhausted })
}

/// What is known of an object's listed consumers.
fn found<'p>(plan: &Plan, verdict: &'p Verdict, figures: &[Option<Figures>]) -> Vec<(Listed<'p>, Figures)> {
    let consumers: Vec<Listed<'_>> = verdict.object.listed().collect();
    let found = verdict.seeds.clone().filter_map(|seed| {
        let found = (*figures.get(seed)?)?;
        Some((*consumers.get(plan.seeds[seed].consumer)?, found))
    });
    found.collect()
}

fn used(flavor: Flavor, one: &(Listed<'_>, Figures)) -> i64 {
    match (flavor, left(one)) {
        // Upstream's module counts nothing but the balance down.
        (Flavor::Upstream, Some((balance, quota))) => quota.saturating_sub(balance).max(0),
        _ => one.1.used,
    }
}

fn is_warned(flavor: Flavor, warn_at: Option<u8>, one: &(Listed<'_>, Figures)) -> bool {
    let quota = one.0.consumer.quota.filter(|quota| *quota > 0);
    quota.zip(warn_at).is_some_and(|(quota, percent)| reaches(used(flavor, one), quota, percent))
}

fn status(flavor: Flavor, warn_at: Option<u8>, one: &(Listed<'_>, Figures)) -> ConsumerStatus {
    let (Listed { model, consumer }, _) = one;
    let Consumer { name, quota, unlimited: _ } = consumer;
    ConsumerStatus {
        name: name.clone(),
        model: model.map(str::to_owned),
        quota: *quota,
        balance: left(one).map(|(balance, _)| balance),
        used: used(flavor, one),
        nearly_exhausted: is_warned(flavor, warn_at, one),
    }
}

/// The condition, if there is one.
pub(crate) fn nearly_exhausted(warned: &[ConsumerStatus], percent: Option<u8>) -> Option<Warning> {
    nearly::condition(percent, "their quota in this period (warnAt) or more used", warned.iter().map(spent))
}

/// What Events are to say of consumers, as [`nearly::newly`]. `told`: nothing where only the status knows, as after a
/// restart: of consumers that it has no room for nobody knows, so that they count as told.
pub(crate) fn newly_exhausted(
    plan: &Plan,
    verdict: &Verdict,
    figures: &[Option<Figures>],
    told: Option<&Told>,
) -> (Vec<String>, Told) {
    let now = found(plan, verdict, figures).into_iter();
    let now = now.map(|one| status(plan.gateway.settings.flavor, verdict.object.warn_at(), &one));
    let shown = verdict.object.status().map_or(&[][..], |status| &status.consumers);
    newly(now, told, (shown, verdict.object.listed()))
}

/// `shown`: as [`api::AiQuotaStatus`] has them.
fn newly<'a>(
    now: impl Iterator<Item = ConsumerStatus>,
    told: Option<&Told>,
    (shown, listed): (&[ConsumerStatus], impl Iterator<Item = Listed<'a>>),
) -> (Vec<String>, Told) {
    let whom = |one: &ConsumerStatus| (one.name.clone(), one.model.clone());
    let before = told.cloned().unwrap_or_else(|| {
        let listed = listed.filter(|_| shown.len() >= CONSUMERS_SHOWN);
        let listed = listed.map(|one| (one.consumer.name.clone(), one.model.map(str::to_owned)));
        let mut before: Told = listed.map(|whom| (whom, i64::MIN)).collect();
        for one in shown {
            match one.nearly_exhausted {
                true => before.insert(whom(one), one.used),
                false => before.remove(&whom(one)),
            };
        }
        before
    });
    // What was used falls with a new period only.
    let near = |one: &ConsumerStatus| {
        let ConsumerStatus { name, model, quota, used, .. } = one;
        let (model, quota) = (of_model(model.as_deref()), quota.unwrap_or_default());
        let message = format!("consumer {name} has used {used} of its {quota} tokens{model} of this period");
        one.nearly_exhausted.then_some(Near { mark: *used, message })
    };
    nearly::newly(before, now.map(|one| (whom(&one), near(&one))))
}

fn spent(ConsumerStatus { name, model, quota, used, .. }: &ConsumerStatus) -> String {
    format!("{name} ({used} of {} tokens{})", quota.unwrap_or_default(), of_model(model.as_deref()))
}

pub(crate) fn of_model(model: Option<&str>) -> String {
    model.map(|model| format!(" for model {model}")).unwrap_or_default()
}

/// The balance and the quota of who is not unlimited.
fn left((listed, figures): &(Listed<'_>, Figures)) -> Option<(i64, i64)> {
    Some((figures.balance?, listed.consumer.quota?))
}

/// By the part of the quota that is left; who is unlimited comes last.
fn least_left(a: &(Listed<'_>, Figures), b: &(Listed<'_>, Figures)) -> Ordering {
    let parts = parts(left(a), left(b));
    parts.then_with(|| a.0.consumer.name.cmp(&b.0.consumer.name)).then_with(|| a.0.model.cmp(&b.0.model))
}

/// Of two balances with their quotas, the one of which the smaller part is left comes first; none comes last.
fn parts(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Ordering {
    match (a, b) {
        (Some((a, of_a)), Some((b, of_b))) => {
            let wide = |balance: i64, other: i64| i128::from(balance) * i128::from(other.max(1));
            wide(a, of_b).cmp(&wide(b, of_a))
        }
        (a, b) => a.is_none().cmp(&b.is_none()),
    }
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
        let (new, told) = newly(after.iter().cloned(), None, (&before, [].into_iter()));
        assert_eq!(
            new,
            [
                "consumer a has used 80 of its 100 tokens of this period",
                "consumer c has used 81 of its 100 tokens for model m* of this period"
            ]
        );
        assert!(newly(after.iter().cloned(), Some(&told), (&before, [].into_iter())).0.is_empty());
        assert!(newly(after.iter().cloned(), None, (&after, [].into_iter())).0.is_empty(), "as after a restart");
    }

    #[test]
    fn each_of_many_is_told_of_once_also_those_that_a_status_has_no_room_for() {
        let all = |used: i64| (0..=CONSUMERS_SHOWN).map(move |n| consumer(&format!("c{n}"), used, used >= 80));
        let names: Vec<Consumer> =
            all(0).map(|ConsumerStatus { name, quota, .. }| Consumer { name, quota, unlimited: None }).collect();
        let others: Vec<_> = all(80).skip(1).collect();
        let tell = |now: Vec<ConsumerStatus>, told: Option<&Told>, shown: &[ConsumerStatus]| {
            let (new, told) =
                newly(now.into_iter(), told, (shown, names.iter().map(|consumer| Listed { model: None, consumer })));
            (new.len(), told)
        };
        let (new, told) = tell(all(10).collect(), None, &[]);
        assert_eq!(new, 0);
        let (new, told) = tell(all(80).collect(), Some(&told), &others);
        assert_eq!(new, CONSUMERS_SHOWN + 1);
        let (new, told) = tell(all(85).skip(1).collect(), Some(&told), &others);
        assert_eq!(new, 0);
        assert_eq!(tell(all(85).collect(), Some(&told), &others).0, 0, "who comes back is not told of again");
        assert_eq!(tell(all(80).collect(), Some(&told), &others).0, CONSUMERS_SHOWN, "but in another period");
        let (new, told) = tell(Vec::new(), None, &others);
        assert_eq!(new, 0, "a controller that starts");
        let (new, told) = tell(all(85).collect(), Some(&told), &others);
        assert_eq!(new, 0, "does not know of whom was told, as long as they stay there");
        let (_, told) = tell(all(10).collect(), Some(&told), &others);
        assert_eq!(tell(all(90).collect(), Some(&told), &others).0, CONSUMERS_SHOWN + 1);
    }

    #[test]
    fn the_condition_names_a_few_and_counts_the_rest() {
        let consumers: Vec<ConsumerStatus> = (1..7).map(|n| consumer(&format!("c{n}"), 80 + n, true)).collect();
        let said = nearly_exhausted(&consumers, Some(80)).map(|warning| warning.to_string()).unwrap();
        assert!(
            said.starts_with("80 percent of their quota in this period (warnAt) or more used c1 (81 of 100"),
            "{said}"
        );
        assert!(said.ends_with("c5 (85 of 100 tokens) and 1 more"), "{said}");
        assert_eq!(nearly_exhausted(&[], Some(80)), None);
    }
}
