//! What a Lease object says, and what is to be done about it: the object as found in, the object as it should be
//! out. Pure; times are arguments.
//!
//! A Lease is not renewed by a clock that two machines share: who stands by measures on its own monotonic clock for
//! how long it has seen no renewal, and who holds it measures on its own for how long it may act.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// The term of a Lease that never changed hands. Whoever runs without a Lease has a lower one.
const FIRST_TERM: i64 = 2;
/// What somebody else's Lease may ask for; a longer span was written by hand.
const LONGEST: Duration = Duration::from_secs(300);

/// One process' knowledge of the Lease.
pub(crate) struct Tenure {
    identity: String,
    duration: Duration,
    /// The changes of holder that a Lease of this process counts at least: for it one that was reset or restored from
    /// a backup goes on from there.
    transitions: i32,
    /// The most that it found in a Lease, whoever held it.
    most: Option<i32>,
    seen: Option<Seen>,
}

/// Another holder's last sign of life.
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What to do about the Lease.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Write this: create it, or replace what was found.
    Claim(Box<Lease>),
    /// Somebody else holds it.
    StandBy { holder: String },
}

impl Tenure {
    pub(crate) fn new(identity: String, duration: Duration) -> Self {
        Self { identity, duration, transitions: 0, most: None, seen: None }
    }

    /// For how long a renewal lets its holder act, from when it was sent: shorter than others wait, so that what is on
    /// its way then arrives in time.
    pub(crate) fn may_act(&self) -> Duration {
        self.duration * 4 / 5
    }

    /// When a renewal is due, from when the last one was sent.
    pub(crate) fn renews_after(&self) -> Duration {
        self.duration / 3
    }

    /// How soon to look again after a failure, and while standing by.
    pub(crate) fn looks_again_after(&self) -> Duration {
        (self.duration / 15).min(Duration::from_secs(2))
    }

    /// What to do about what was found. `now` is when it was asked for; `wall` is only written for people to read.
    pub(crate) fn step(&mut self, found: Option<&Lease>, now: Instant, wall: Timestamp) -> Step {
        let Some(lease) = found else {
            // Deleted under its holder, who may act for some seconds yet: never with the term of whoever takes it now.
            let next = self.most.map(|most| most.saturating_add(1));
            self.transitions = self.transitions.max(next.unwrap_or_default());
            return self.claim(None, wall);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let counted = spec.lease_transitions.unwrap_or_default();
        self.most = self.most.max(Some(counted));
        self.transitions = self.transitions.max(counted);
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder == self.identity {
            return self.claim(found, wall);
        }
        let version = lease.metadata.resource_version.clone();
        let since = match &self.seen {
            Some(seen) if seen.version == version => seen.since,
            _ => now,
        };
        self.seen = Some(Seen { version, since });
        let promised = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        if holder.is_empty() || now.duration_since(since) >= Duration::from_secs(promised).min(LONGEST) {
            self.transitions = self.transitions.saturating_add(1);
            return self.claim(found, wall);
        }
        Step::StandBy { holder }
    }

    /// From now on the term is above this one; whether there is such a term.
    pub(crate) fn rise_above(&mut self, term: i64) -> bool {
        let wanted = i32::try_from(term.saturating_add(1).saturating_sub(FIRST_TERM));
        self.transitions = self.transitions.max(wanted.unwrap_or_default());
        i64::from(self.transitions) + FIRST_TERM > term
    }

    /// The term a stored Lease stands for.
    pub(crate) fn term(stored: &Lease) -> i64 {
        let transitions = stored.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
        i64::from(transitions) + FIRST_TERM
    }

    pub(crate) fn is_ours(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity)
    }

    /// The Lease without a holder. What it counts stays.
    pub(crate) fn released(mut lease: Lease) -> Lease {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.acquire_time = None;
        spec.renew_time = None;
        lease
    }

    fn claim(&self, found: Option<&Lease>, wall: Timestamp) -> Step {
        let mut lease = found.cloned().unwrap_or_default();
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.acquire_time = Some(MicroTime(wall));
        }
        *spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX)),
            lease_transitions: Some(self.transitions),
            renew_time: Some(MicroTime(wall)),
            ..std::mem::take(spec)
        };
        Step::Claim(Box::new(lease))
    }
}

/// The Lease's name: its metadata where it is new.
pub(crate) fn named(mut lease: Lease, name: &str) -> Lease {
    lease.metadata = ObjectMeta { name: Some(name.to_owned()), ..lease.metadata };
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn wall() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn tenure(identity: &str) -> Tenure {
        Tenure::new(identity.to_owned(), DURATION)
    }

    /// As the API server stores it.
    fn stored(step: Step, version: &str) -> Lease {
        let Step::Claim(mut lease) = step else { panic!("{step:?}") };
        lease.metadata.resource_version = Some(version.to_owned());
        *lease
    }

    /// A Lease that `a` took first.
    fn held_by_a(now: Instant) -> Lease {
        stored(tenure("a").step(None, now, wall()), "1")
    }

    #[test]
    fn the_first_holder_has_the_first_term_and_keeps_it_while_it_renews() {
        let (mut a, now) = (tenure("a"), Instant::now());
        let first = stored(a.step(None, now, wall()), "1");
        assert_eq!(Tenure::term(&first), 2);
        let second = stored(a.step(Some(&first), now + DURATION * 9, wall()), "2");
        assert_eq!(Tenure::term(&second), 2);
        assert!(a.is_ours(&second));
    }

    #[test]
    fn another_stands_by_for_the_whole_span_after_the_last_renewal_that_it_saw() {
        let (mut b, now) = (tenure("b"), Instant::now());
        let lease = held_by_a(now);
        let stands_by = Step::StandBy { holder: "a".into() };
        assert_eq!(b.step(Some(&lease), now, wall()), stands_by);
        let mut renewed = lease.clone();
        renewed.metadata.resource_version = Some("2".into());
        assert_eq!(b.step(Some(&renewed), now + DURATION / 2, wall()), stands_by);
        assert_eq!(b.step(Some(&renewed), now + DURATION, wall()), stands_by);
        let taken = stored(b.step(Some(&renewed), now + DURATION / 2 + DURATION, wall()), "3");
        assert!(b.is_ours(&taken));
        assert_eq!(Tenure::term(&taken), 3);
    }

    #[test]
    fn the_holder_stops_before_others_take_over_and_renews_before_it_stops() {
        let tenure = tenure("a");
        assert!(tenure.renews_after() + tenure.looks_again_after() * 2 < tenure.may_act());
        assert!(tenure.may_act() < DURATION);
    }

    #[test]
    fn a_released_lease_is_taken_at_once_and_counts_on() {
        let (mut b, now) = (tenure("b"), Instant::now());
        let lease = Tenure::released(held_by_a(now));
        let taken = stored(b.step(Some(&lease), now, wall()), "2");
        assert_eq!(Tenure::term(&taken), 3);
    }

    #[test]
    fn a_lease_that_was_deleted_or_reset_goes_on_for_who_knew_it() {
        let (mut b, now) = (tenure("b"), Instant::now());
        let mut lease = held_by_a(now);
        lease.spec.as_mut().unwrap().lease_transitions = Some(7);
        b.step(Some(&lease), now, wall());
        let anew = stored(b.step(None, now, wall()), "2");
        assert_eq!(Tenure::term(&anew), 10);
        let mut reset = anew.clone();
        reset.spec.as_mut().unwrap().lease_transitions = Some(0);
        assert_eq!(Tenure::term(&stored(b.step(Some(&reset), now, wall()), "3")), 10);
    }

    #[test]
    fn who_takes_a_lease_that_was_deleted_has_a_term_above_that_of_its_last_holder() {
        let (mut a, mut b, now) = (tenure("a"), tenure("b"), Instant::now());
        let lease = stored(a.step(None, now, wall()), "1");
        b.step(Some(&lease), now, wall());
        let deleted_and_taken = [b.step(None, now, wall()), b.step(None, now, wall())];
        for taken in deleted_and_taken {
            assert_eq!(Tenure::term(&stored(taken, "2")), Tenure::term(&lease) + 1, "once, however often it is tried");
        }
        a.step(Some(&lease), now, wall());
        let by_a = stored(a.step(None, now, wall()), "3");
        assert!(Tenure::term(&by_a) > Tenure::term(&lease), "others may have acted meanwhile");
    }

    #[test]
    fn a_term_rises_above_another_and_never_falls() {
        let (mut a, now) = (tenure("a"), Instant::now());
        for (term, possible, then) in [
            (2, true, 3),
            (9, true, 10),
            (4, true, 10),
            (i64::from(i32::MAX) + 1, true, i64::from(i32::MAX) + 2),
            (i64::from(i32::MAX) + 2, false, i64::from(i32::MAX) + 2),
            (i64::MAX, false, i64::from(i32::MAX) + 2),
        ] {
            assert_eq!(a.rise_above(term), possible, "{term}");
            assert_eq!(Tenure::term(&stored(a.step(None, now, wall()), "1")), then, "{term}");
        }
    }

    #[test]
    fn what_others_wrote_into_the_lease_stays() {
        let (mut a, now) = (tenure("a"), Instant::now());
        let mut lease = held_by_a(now);
        lease.metadata.labels = Some([("team".into(), "platform".into())].into());
        lease.spec.as_mut().unwrap().strategy = Some("OldestEmulationVersion".into());
        let renewed = stored(a.step(Some(&lease), now, wall()), "2");
        assert_eq!(renewed.metadata.labels, lease.metadata.labels);
        assert_eq!(renewed.spec.unwrap().strategy, lease.spec.unwrap().strategy);
    }

    #[test]
    fn a_span_that_somebody_wrote_by_hand_does_not_lock_everybody_out() {
        let (mut b, now) = (tenure("b"), Instant::now());
        for (seconds, wait) in [(Some(-5), Duration::ZERO), (None, Duration::ZERO), (Some(i32::MAX), LONGEST)] {
            let mut lease = held_by_a(now);
            lease.spec.as_mut().unwrap().lease_duration_seconds = seconds;
            lease.metadata.resource_version = Some(format!("{seconds:?}"));
            b.step(Some(&lease), now, wall());
            assert!(matches!(b.step(Some(&lease), now + wait, wall()), Step::Claim(_)), "{seconds:?}");
        }
    }
}
