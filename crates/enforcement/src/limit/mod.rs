//! What becomes of a request under token rate limits: the counters of all limits it is under are asked for at once
//! before it passes, and charged at once when its response has told what it used. In: the request, then the store's
//! replies. Out: steps, see [`crate::steps`]. Pure.

mod answers;
pub mod config;
pub mod declared;
mod network;
pub mod pattern;
mod rule;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use config::{Flavor, Policy};
use rule::{Overridden, TooLong};

use crate::announce::Announcement;
use crate::config::Target;
use crate::identity;
use crate::models::Weights;
use crate::paths::{self, Mode};
use crate::prompt::Prompt;
use crate::redis::Reply;
use crate::redis::limits::{self, Asks, Counter, Limit, Name, State};
use crate::redis::overrides;
use crate::redis::warned::Warn;
use crate::response::Response;
use crate::steps::{Ask, Body, Failure, Held, Kind, NO_ROOM, Next, Question, Request, Step, Words, wants_websocket};
use crate::values;
use crate::wire::limit::Dialect;
use crate::wire::{OnMissingUsage, OnStoreFailure};

/// Tokens in a window, per value of something in the request or for all requests together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {}

/// Where the counters of a request are asked for: what it is under.
#[derive(Debug)]
pub struct Check {
    policy: Arc<Policy>,
    limits: Vec<Limit>,
    /// The declared model that it is for.
    model: Option<usize>,
    /// Who is refused, for the metric.
    consumer: Option<Vec<u8>>,
    held: Option<Held>,
}

/// A request that is held until its body has come.
#[derive(Debug)]
pub struct AwaitBody(Arc<Policy>);

/// An admitted request.
#[derive(Debug)]
pub struct Admission {
    policy: Arc<Policy>,
    limits: Vec<Limit>,
    model: Option<usize>,
    /// What is held for it until its charge.
    held: Option<Held>,
}

/// A charge on its way: its counters.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(Vec<Counter>);

impl Kind for Limits {
    const ENFORCES: &'static str = "token rate limits";
    const KIND: &'static str = "limit";

    type Policy = Policy;
    type AwaitForm = Infallible;
    type AwaitBody = AwaitBody;
    type Purpose = Check;
    type Admission = Admission;
    type Ticket = Ticket;

    fn begin(target: &Target<Policy>, request: &dyn Request) -> Step<Self> {
        let path = paths::split(request.path()).0;
        let policy = match target {
            Target::Refuse { only: Some(paths), .. } if paths.mode(&path) == Mode::Other => return Step::Pass,
            Target::Refuse { reason, .. } => return Step::Refuse(answers::unenforceable(reason)),
            Target::Enforce { policy, open: _ } => policy,
        };
        if let Flavor::Native { paths } = &policy.flavor {
            match paths.mode(&path) {
                Mode::Other => return Step::Pass,
                Mode::Unlisted => return Step::refuse(&policy.ends, answers::unlisted_path()),
                Mode::Metered | Mode::Admin(_) => {}
            }
        }
        let identity = request.header(identity::HEADER);
        if policy.looks_at_consumers() && identity.iter().any(|value| Some(value) != identity.first()) {
            return Step::refuse(&policy.ends, answers::unauthorized_consumer());
        }
        if !policy.wants_body() && !policy.ends.ask_for_usage(request) {
            return check(policy, request, None);
        }
        if policy.models.is_empty() && policy.limits(request, None).is_ok_and(|limits| limits.is_empty()) {
            return Step::Pass;
        }
        // It has no body.
        if wants_websocket(request) {
            return Step::refuse(&policy.ends, answers::websocket());
        }
        Step::AwaitBody(AwaitBody(Arc::clone(policy)))
    }

    fn form(awaiting: Infallible, _: &[u8], _: i64) -> Step<Self> {
        match awaiting {}
    }

    fn body(AwaitBody(policy): AwaitBody, body: Body, request: &dyn Request) -> Step<Self> {
        match body {
            Body::Read(prompt) => check(&policy, request, Some(&prompt)),
            Body::TooLong => Step::refuse(&policy.ends, answers::too_long()),
            Body::NoRoom => Step::refuse(&policy.ends, answers::unenforceable(NO_ROOM)),
        }
    }

    fn is_metered(_: &Check) -> bool {
        true
    }

    fn model(check: &Check) -> Option<&str> {
        check.policy.models.name(check.model)
    }

    fn decide(check: Check, reply: Result<Reply<'_>, Failure>) -> Next<Self> {
        let Check { policy, limits, model, consumer, held } = check;
        let need = held.as_ref().map_or(0, |held| held.tokens);
        let admission = Admission { policy, limits, model, held };
        let Policy { ends, rejection, .. } = &*Arc::clone(&admission.policy);
        let states = match reply.map(|reply| limits::states(&reply, admission.limits.len())) {
            Err(failure) => return undecided(admission, &failure),
            Ok(Err(error)) => return undecided(admission, &error),
            Ok(Ok(states)) => states,
        };
        // As it is with what it needs.
        let states: Vec<_> = states.into_iter().map(|state| state.map(|state| state.after(need))).collect();
        if let Some(over) = states.iter().flatten().find(|state| state.is_over()) {
            let told = if ends.rate_limit_headers { announcement(&states, State::is_over) } else { None };
            return Next::deny(ends, admission, answers::rejected(rejection, *over, consumer)).telling(told);
        }
        match states.iter().zip(&admission.limits).find(|(state, _)| state.is_none()) {
            None => {
                let told = if ends.rate_limit_headers { announcement(&states, |_| true) } else { None };
                Next::admit(admission).telling(told)
            }
            Some((_, limit)) => {
                let why = format!("what is stored at {} is no counter", limit.counter);
                undecided(admission, &why)
            }
        }
    }

    fn estimates(admission: &Admission) -> bool {
        let Policy { flavor, ends, .. } = &*admission.policy;
        matches!(flavor, Flavor::Native { .. }) && ends.on_missing_usage == OnMissingUsage::Estimate
    }

    fn weights(admission: &Admission) -> Weights {
        admission.policy.models.weights(admission.model)
    }

    fn holds(admission: &Admission) -> bool {
        admission.held.is_some()
    }

    fn renew(Admission { policy, limits, model: _, held }: &Admission) -> Option<(Question, Ticket)> {
        let words = Words::Script(limits::renew(limits, held.as_ref()?.hold()));
        Some((Question::new(Arc::clone(&policy.store), words), Ticket::of(limits)))
    }

    fn release(check: &Check, _: i64) -> Option<(Question, Ticket)> {
        let words = Words::Script(limits::settle(&check.limits, 0, &check.held.as_ref()?.id, None));
        Some((Question::new(Arc::clone(&check.policy.store), words), Ticket::of(&check.limits)))
    }

    fn charge(Admission { policy, limits, model: _, held }: Admission, tokens: i64, _: i64) -> (Question, Ticket) {
        let words = match held {
            Some(Held { id, tokens: _ }) => limits::settle(&limits, tokens, &id, policy.warns()),
            None => limits::charge(&limits, tokens, policy.warns()),
        };
        (Question::new(Arc::clone(&policy.store), Words::Script(words)), Ticket::of(&limits))
    }

    fn booked(Ticket(counters): &Ticket, reply: &Reply<'_>) -> Result<i64, String> {
        let states = limits::states(reply, counters.len()).map_err(|error| error.to_string())?;
        match states.iter().zip(counters).find(|(state, _)| state.is_none()) {
            None => Ok(limits::warned(reply)),
            Some((_, counter)) => Err(format!("what is stored at {counter} is no counter")),
        }
    }

    fn unenforceable(reason: &str) -> Response {
        answers::unenforceable(reason)
    }
}

/// Asks for the counters of all that a request is under, and holds what its body says that it may cost.
fn check(policy: &Arc<Policy>, request: &dyn Request, body: Option<&Prompt>) -> Step<Limits> {
    let model = match policy.models.of(request, body) {
        Ok(model) => model,
        Err(unclear) => return Step::refuse(&policy.ends, answers::unclear_model(unclear)),
    };
    let limits = match policy.limits(request, model) {
        Ok(limits) => limits,
        Err(TooLong) => return Step::refuse(&policy.ends, answers::value_too_long()),
    };
    if limits.is_empty() {
        return Step::Pass;
    }
    // Nothing of what passes in it could be counted.
    if matches!(policy.flavor, Flavor::Native { .. }) && wants_websocket(request) {
        return Step::refuse(&policy.ends, answers::websocket());
    }
    let held = policy.reserve.zip(body);
    let held = held.map(|(otherwise, body)| Held::of(body, otherwise, policy.models.weights(model), request));
    let check = match (&held, policy.ends.on_store_failure) {
        (Some(held), _) => limits::reserve(&limits, held.tokens, held.hold()),
        (None, Some(OnStoreFailure::Refuse)) => limits::probe(&limits),
        (None, Some(OnStoreFailure::Admit) | None) => limits::check(&limits),
    };
    let question = Question::new(Arc::clone(&policy.store), Words::Script(check));
    // It becomes part of a metric's name, which the gateway keeps.
    let consumer = request.header(identity::HEADER).first().copied();
    let consumer = consumer.filter(|consumer| values::is_consumer(consumer)).map(<[u8]>::to_vec);
    let ask = Ask::new(question, Check { policy: Arc::clone(policy), limits, model, consumer, held });
    Step::Ask(ask.after(body, policy.ends.ask_for_usage(request)))
}

/// The store has not said where the counters stand: that refuses nobody, unless it is to. It may hold what was asked, so
/// that the charge drops it.
fn undecided(admission: Admission, why: &dyn fmt::Display) -> Next<Limits> {
    let ends = admission.policy.ends;
    Next::undecided(&ends, OnStoreFailure::Admit, admission, answers::store_unavailable(), why)
}

/// What the client is told: of the limits that are meant the one with the fewest tokens left, and of several such the one
/// that ends last. All that a request is over are left when that one is.
fn announcement(states: &[Option<State>], meant: impl Fn(&State) -> bool) -> Option<Announcement> {
    let remaining = |state: &State| state.tokens.saturating_sub(state.counted).max(0);
    let meant = states.iter().flatten().filter(|state| state.applies() && meant(state));
    let tightest = meant.min_by_key(|state| (remaining(state), std::cmp::Reverse(state.left)))?;
    Some(Announcement { limit: Some(tightest.tokens), remaining: remaining(tightest), reset: Some(tightest.left) })
}

impl Ticket {
    fn of(limits: &[Limit]) -> Self {
        Self(limits.iter().map(|limit| limit.counter.clone()).collect())
    }
}

impl Policy {
    /// Whether the bodies of metered requests are awaited.
    const fn wants_body(&self) -> bool {
        self.reserve.is_some() || !self.models.is_empty()
    }

    /// What a request is under, global limits first; those for its model last.
    fn limits(&self, request: &dyn Request, model: Option<usize>) -> Result<Vec<Limit>, TooLong> {
        let name = |model| Name {
            dialect: self.dialect(),
            rule: &self.rule_name,
            model,
            kept: matches!(self.flavor, Flavor::Native { .. }).then_some(values::KEPT_MAX),
            observed: self.ends.observes(),
        };
        let only_first = self.flavor == Flavor::Upstream(Dialect::V1);
        let mut limits = Vec::new();
        self.limits.collect(request, name(None), only_first, &mut limits)?;
        if let Some(model) = self.models.get(model) {
            model.held_to.collect(request, name(Some(&model.name)), only_first, &mut limits)?;
        }
        Ok(if matches!(self.flavor, Flavor::Native { .. }) { each_once(limits) } else { limits })
    }

    /// What is only observed is told to nobody.
    fn warns(&self) -> Option<Warn<'_>> {
        let noted = (!self.ends.observes()).then_some(self.rule_name.as_str());
        Some(Warn { percent: self.ends.warn_at?, noted })
    }

    fn looks_at_consumers(&self) -> bool {
        self.limits.looks_at_consumers() || self.models.iter().any(|model| model.held_to.looks_at_consumers())
    }
}

impl config::Limits {
    /// Those that a request is under.
    fn collect(
        &self,
        request: &dyn Request,
        name: Name<'_>,
        only_first: bool,
        into: &mut Vec<Limit>,
    ) -> Result<(), TooLong> {
        into.extend(
            self.global.iter().map(|rate| Limit { counter: Counter::global(name, *rate), asks: Asks::Rate(*rate) }),
        );
        for rule in &self.rules {
            let Some(hit) = rule.hit(request)? else { continue };
            let (limiter, key) = (rule.limiter(), rule.source.key());
            // Who has the limits of single values kept apart has their credentials kept from Redis.
            let name =
                if rule.overrides.is_some() && rule.source.is_secret() { Name { kept: Some(0), ..name } } else { name };
            if let Some(Overridden { key, source: (source, of) }) = &rule.overrides {
                let asks = Asks::Overrides(overrides::field(name.rule, &hit.value));
                into.push(Limit { counter: Counter::overrides(key), asks });
                let counter = Counter::overridden(name, (source, of), &hit.value);
                into.push(Limit { counter, asks: Asks::Override });
            }
            let asks = if rule.overrides.is_some() { Asks::Unless } else { Asks::Rate };
            into.extend(hit.rates.iter().map(|rate| {
                let counter = Counter::item(name, limiter, *rate, &key, &hit.value);
                Limit { counter, asks: asks(*rate) }
            }));
            if only_first {
                break;
            }
        }
        Ok(())
    }

    fn looks_at_consumers(&self) -> bool {
        self.rules.iter().any(|rule| rule.source.is_identity())
    }
}

/// Two limits on one counter are one, the smaller: else it would be charged twice.
fn each_once(limits: Vec<Limit>) -> Vec<Limit> {
    let mut once: Vec<Limit> = Vec::with_capacity(limits.len());
    for limit in limits {
        match once.iter_mut().find(|known| known.counter == limit.counter) {
            Some(Limit { asks: Asks::Rate(known) | Asks::Unless(known), .. }) => match limit.asks {
                Asks::Rate(rate) | Asks::Unless(rate) => *known = (*known).min(rate),
                Asks::Overrides(_) | Asks::Override => {}
            },
            Some(_) => {}
            None => once.push(limit),
        }
    }
    once
}

impl PartialEq for AwaitBody {
    fn eq(&self, Self(other): &Self) -> bool {
        Arc::ptr_eq(&self.0, other)
    }
}

impl Eq for AwaitBody {}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        let Self { policy, limits, model, consumer, held } = self;
        Arc::ptr_eq(policy, &other.policy)
            && (limits, model, consumer, held) == (&other.limits, &other.model, &other.consumer, &other.held)
    }
}

impl Eq for Check {}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, counter) in self.0.iter().enumerate() {
            write!(f, "{}{counter}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
