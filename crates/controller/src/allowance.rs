//! How many Events may be written: one cause can hit ten thousand objects at once, and each would cost the API server
//! as much as its status. A reason and a namespace in, whether one more is told out. Pure; times are arguments.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// So many at once, then one more each time `refill` has passed.
#[derive(Clone, Copy)]
struct Rate {
    at_once: u32,
    refill: Duration,
}

/// Of one reason, about objects of one namespace.
const IN_NAMESPACE: Rate = Rate { at_once: 10, refill: Duration::from_secs(60) };
/// Of one reason in all: another reason is told meanwhile.
const IN_ALL: Rate = Rate { at_once: 100, refill: Duration::from_secs(6) };

/// What was used up so far.
#[derive(Default)]
pub(crate) struct Allowances {
    /// By reason.
    all: HashMap<String, Bucket>,
    /// By namespace and reason.
    namespaces: HashMap<(String, String), Bucket>,
}

/// Whether an Event may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    Yes,
    /// For now this is the last one of its reason.
    Last,
    No,
}

struct Bucket {
    left: u32,
    refilled: Instant,
}

impl Allowances {
    pub(crate) fn take(&mut self, namespace: &str, reason: &str, now: Instant) -> Allowed {
        let all = self.all.entry(reason.to_owned()).or_insert_with(|| Bucket::full(IN_ALL, now));
        let here = (namespace.to_owned(), reason.to_owned());
        let here = self.namespaces.entry(here).or_insert_with(|| Bucket::full(IN_NAMESPACE, now));
        match all.left(IN_ALL, now).min(here.left(IN_NAMESPACE, now)) {
            0 => Allowed::No,
            left => {
                all.left -= 1;
                here.left -= 1;
                if left == 1 { Allowed::Last } else { Allowed::Yes }
            }
        }
    }

    /// Forgets what is as if nothing had been told.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.namespaces.retain(|_, bucket| bucket.left(IN_NAMESPACE, now) < IN_NAMESPACE.at_once);
    }
}

impl Bucket {
    const fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.at_once, refilled: now }
    }

    fn left(&mut self, rate: Rate, now: Instant) -> u32 {
        let passed = now.duration_since(self.refilled).as_nanos() / rate.refill.as_nanos();
        match u32::try_from(passed) {
            Ok(more) if self.left.saturating_add(more) < rate.at_once => {
                self.left += more;
                self.refilled += rate.refill * more;
            }
            _ => *self = Self::full(rate, now),
        }
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(allowances: &mut Allowances, namespace: &str, reason: &str, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| allowances.take(namespace, reason, now) != Allowed::No).count()
    }

    #[test]
    fn one_cause_in_one_namespace_is_told_of_a_few_objects_and_the_last_of_them_is_known() {
        let (mut allowances, now) = (Allowances::default(), Instant::now());
        let taken: Vec<Allowed> = (0..12).map(|_| allowances.take("team", "StoreUnreachable", now)).collect();
        assert_eq!(taken[..9], [Allowed::Yes; 9]);
        assert_eq!(taken[9..], [Allowed::Last, Allowed::No, Allowed::No]);
    }

    #[test]
    fn one_cause_that_hits_every_namespace_is_told_of_a_bounded_number_and_another_reason_beside_it() {
        let (mut allowances, now) = (Allowances::default(), Instant::now());
        let all: usize =
            (0..1_000).map(|n| told(&mut allowances, &format!("team-{n}"), "StoreUnreachable", 10, now)).sum();
        assert_eq!(all, 100);
        assert_eq!(told(&mut allowances, "team-999", "TargetNotFound", 1, now), 1);
    }

    #[test]
    fn what_was_used_up_comes_back_with_time_and_not_above_what_there_was() {
        let (mut allowances, now) = (Allowances::default(), Instant::now());
        assert_eq!(told(&mut allowances, "team", "Invalid", 20, now), 10);
        let later = now + IN_NAMESPACE.refill * 5 / 2;
        assert_eq!(told(&mut allowances, "team", "Invalid", 20, later), 2);
        let half = later + IN_NAMESPACE.refill / 2;
        assert_eq!(told(&mut allowances, "team", "Invalid", 20, half), 1, "what had passed before counts");
        assert_eq!(told(&mut allowances, "team", "Invalid", 20, now + Duration::from_secs(86_400)), 10);
    }

    #[test]
    fn who_was_told_nothing_for_long_is_forgotten() {
        let (mut allowances, now) = (Allowances::default(), Instant::now());
        told(&mut allowances, "team", "Invalid", 10, now);
        allowances.sweep(now);
        assert_eq!(told(&mut allowances, "team", "Invalid", 1, now), 0, "it is remembered while it matters");
        allowances.sweep(now + Duration::from_secs(86_400));
        assert!(allowances.namespaces.is_empty());
    }
}
