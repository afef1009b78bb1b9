//! What becomes of a request under a quota: the balance is asked for before it passes, and charged when its response
//! has told what it used. In: the request, then the store's replies. Out: steps, see [`crate::steps`]. Pure.

mod admin;
mod answers;
pub mod config;
mod reserve;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use admin::Admin;
pub use admin::AwaitForm;
use config::{Flavor, Own, Policy};
pub use reserve::AwaitBody;

use crate::announce::Announcement;
use crate::config::Target;
use crate::identity::{self, Unrecognised};
use crate::models::Weights;
use crate::paths::{self, Mode, Operation};
use crate::prompt::Prompt;
use crate::redis::{self, Balance, ChargeOutcome, CheckOutcome, Command, Left, Reply};
use crate::response::Response;
use crate::steps::{Ask, Body, Failure, Held, Kind, Next, Question, Request, Step, Words, wants_websocket};
use crate::values;
use crate::wire::{self, OnMissingUsage, OnStoreFailure};

/// Token balances per consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotas {}

/// Why the store is asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Purpose(Why);

#[derive(Debug, PartialEq, Eq)]
enum Why {
    /// `now`: when it was asked, in unix seconds.
    Check {
        who: Who,
        now: i64,
        held: Option<Held>,
    },
    Admin {
        native: bool,
        admin: Admin,
    },
}

/// Whose request it is, and for which declared model.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Who {
    policy: Arc<Policy>,
    consumer: Vec<u8>,
    model: Option<usize>,
}

/// An admitted request.
#[derive(Debug, PartialEq, Eq)]
pub struct Admission {
    who: Who,
    /// The ordinal of the period in which it was admitted.
    period: Option<i64>,
    /// What is held for it until its charge.
    held: Option<Held>,
}

/// A charge on its way.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    native: bool,
    /// Nothing is taken from the balance.
    observes: bool,
    /// The tokens, and the hundredths of the grant at which somebody is to be warned.
    warns: Option<(i64, u8)>,
    balance: Balance,
}

impl Kind for Quotas {
    const ENFORCES: &'static str = "quotas";
    const KIND: &'static str = "quota";

    type Policy = Policy;
    type AwaitForm = AwaitForm;
    type AwaitBody = AwaitBody;
    type Purpose = Purpose;
    type Admission = Admission;
    type Ticket = Ticket;

    fn begin(target: &Target<Policy>, request: &dyn Request) -> Step<Self> {
        begin(target, request)
    }

    fn form(awaiting: AwaitForm, form: &[u8], now: i64) -> Step<Self> {
        awaiting.form(form, now)
    }

    fn body(awaiting: AwaitBody, body: Body, request: &dyn Request) -> Step<Self> {
        awaiting.body(body, request)
    }

    fn is_metered(Purpose(why): &Purpose) -> bool {
        matches!(why, Why::Check { .. })
    }

    fn model(Purpose(why): &Purpose) -> Option<&str> {
        match why {
            Why::Check { who, .. } => who.policy.models.name(who.model),
            Why::Admin { .. } => None,
        }
    }

    fn decide(Purpose(why): Purpose, reply: Result<Reply<'_>, Failure>) -> Next<Self> {
        match why {
            Why::Admin { native, admin } => Next::Refuse(admin.answer(native, reply)),
            Why::Check { who, now, held } => match who.policy.flavor {
                Flavor::Upstream => upstream_check(who, reply),
                Flavor::Native { .. } => native_check(Admission { who, period: None, held }, now, reply),
            },
        }
    }

    fn estimates(admission: &Admission) -> bool {
        let Policy { flavor, ends, .. } = &*admission.who.policy;
        *flavor != Flavor::Upstream && ends.on_missing_usage == OnMissingUsage::Estimate
    }

    fn weights(admission: &Admission) -> Weights {
        admission.who.policy.models.weights(admission.who.model)
    }

    fn holds(admission: &Admission) -> bool {
        admission.held.is_some()
    }

    fn renew(admission: &Admission) -> Option<(Question, Ticket)> {
        let Admission { who, period: _, held } = admission;
        let balance = who.balance();
        let words = Words::Script(redis::Renew { balance: &balance, hold: held.as_ref()?.hold() }.invocation());
        Some((
            Question::new(Arc::clone(&who.policy.store), words),
            Ticket { native: true, observes: false, warns: None, balance },
        ))
    }

    fn release(Purpose(why): &Purpose, now: i64) -> Option<(Question, Ticket)> {
        match why {
            Why::Check { who, held: Some(held), now: _ } => Some(charge(who, Some(held), 0, None, now)),
            Why::Check { held: None, .. } | Why::Admin { .. } => None,
        }
    }

    fn charge(admission: Admission, tokens: i64, now: i64) -> (Question, Ticket) {
        let Admission { who, period, held } = admission;
        charge(&who, held.as_ref(), tokens, period, now)
    }

    fn booked(ticket: &Ticket, reply: &Reply<'_>) -> Result<i64, String> {
        match (ticket.native, reply) {
            (false, Reply::Error(text)) => Err(text.escape_ascii().to_string()),
            (false, _) => Ok(0),
            (true, reply) => match ChargeOutcome::of(reply) {
                Ok(ChargeOutcome::Booked { balance: _ }) => {
                    let reached = |(tokens, percent)| ChargeOutcome::reaches(reply, tokens, percent);
                    Ok(i64::from(ticket.warns.is_some_and(reached)))
                }
                Ok(ChargeOutcome::Forgiven) => Ok(0),
                // Who has no balance is only observed too.
                Ok(ChargeOutcome::Absent) if ticket.observes => Ok(0),
                Ok(ChargeOutcome::Absent) => Err("the consumer has no balance any more".into()),
                Ok(ChargeOutcome::Malformed { value }) => Err(format!("the balance is malformed: {value}")),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    fn unenforceable(reason: &str) -> Response {
        answers::unenforceable(reason)
    }
}

fn charge(who: &Who, held: Option<&Held>, tokens: i64, admitted_in: Option<i64>, now: i64) -> (Question, Ticket) {
    let (balance, policy) = (who.balance(), &who.policy);
    let (native, words) = match &policy.flavor {
        Flavor::Upstream => (false, Words::Command(Command::decr_by(balance.as_bytes(), tokens))),
        Flavor::Native { .. } => {
            let (hold, period) = (held.map(|held| &*held.id), policy.period(now));
            let charge = redis::Charge { balance: &balance, tokens, hold, admitted_in, period };
            let script = if policy.ends.observes() { charge.observing() } else { charge.invocation() };
            (true, Words::Script(script))
        }
    };
    let warns = policy.ends.warn_at.map(|percent| (tokens, percent));
    let ticket = Ticket { native, observes: policy.ends.observes(), warns, balance };
    (Question::new(Arc::clone(&policy.store), words), ticket)
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.balance.fmt(f)
    }
}

fn begin(target: &Target<Policy>, request: &dyn Request) -> Step<Quotas> {
    let (path, query) = paths::split(request.path());
    let (policy, open) = match target {
        Target::Refuse { only: Some(paths), .. } if paths.mode(&path) == Mode::Other => return Step::Pass,
        Target::Refuse { reason, .. } => return Step::Refuse(answers::unenforceable(reason)),
        Target::Enforce { policy, open } => (policy, *open),
    };
    let mode = policy.paths.mode(&path);
    let step = decide(policy, open, (mode, query), request);
    // The admin API changes balances, whatever becomes of requests.
    if matches!(mode, Mode::Admin(_)) { step } else { as_said(policy, step) }
}

/// Who only observes refuses nothing, and a refusal has the shape that the policy says.
fn as_said(policy: &Policy, step: Step<Quotas>) -> Step<Quotas> {
    match step {
        Step::Refuse(response) => Step::refuse(&policy.ends, response),
        step => step,
    }
}

fn decide(policy: &Arc<Policy>, open: bool, (mode, query): (Mode, &[u8]), request: &dyn Request) -> Step<Quotas> {
    match mode {
        Mode::Other if open => return Step::Pass,
        Mode::Unlisted => return Step::Refuse(answers::unlisted_path()),
        Mode::Metered | Mode::Admin(_) | Mode::Other => {}
    }
    let consumer = match identity::consumer(request.header(identity::HEADER)) {
        Ok(consumer) if policy.accepts(consumer) => consumer,
        Err(Unrecognised::Missing) => return Step::Refuse(answers::no_key()),
        Ok(_) | Err(Unrecognised::Unauthorized) => return Step::Refuse(answers::unauthorized_consumer()),
    };
    match mode {
        Mode::Other | Mode::Unlisted => Step::Pass,
        // Nothing of what passes in it could be counted.
        Mode::Metered if policy.flavor != Flavor::Upstream && wants_websocket(request) => {
            Step::Refuse(answers::websocket())
        }
        Mode::Metered if policy.wants_body() || policy.ends.ask_for_usage(request) => {
            Step::AwaitBody(AwaitBody::new(policy, consumer))
        }
        Mode::Metered => check(policy, consumer, request, None),
        Mode::Admin(_) if policy.admin.as_deref().map(str::as_bytes) != Some(consumer) => {
            Step::Refuse(answers::unauthorized_admin())
        }
        Mode::Admin(Operation::Query) => admin::query(policy, query, request.now()),
        Mode::Admin(Operation::Refresh) => Step::AwaitForm(AwaitForm::refresh(policy)),
        Mode::Admin(Operation::Delta) => Step::AwaitForm(AwaitForm::delta(policy)),
    }
}

/// Asks for the balance that a request draws on, and holds what its body says that it may cost.
fn check(policy: &Arc<Policy>, consumer: &[u8], request: &dyn Request, body: Option<&Prompt>) -> Step<Quotas> {
    let model = match policy.models.of(request, body) {
        Ok(model) => model,
        Err(unclear) => return Step::Refuse(answers::unclear_model(unclear)),
    };
    let held = policy.reserve.zip(body);
    let held = held.map(|(otherwise, body)| Held::of(body, otherwise, policy.models.weights(model), request));
    let now = request.now();
    let who = Who { policy: Arc::clone(policy), consumer: consumer.to_vec(), model };
    let balance = who.balance();
    let words = match &policy.flavor {
        Flavor::Upstream => Words::Command(Command::get(balance.as_bytes())),
        Flavor::Native { owner, default_quota, yields, refresh: _ } => {
            let common = wire::Own { default_quota: *default_quota, yields: *yields };
            let wire::Own { default_quota, yields } = policy.own(model).map_or(common, |own| own.said);
            let check = redis::Check {
                balance: &balance,
                need: held.as_ref().map_or(1, |held| held.tokens),
                hold: held.as_ref().map(Held::hold),
                default: default_quota,
                owner,
                yields,
                period: policy.period(now),
            };
            Words::Script(if policy.ends.observes() { check.observing() } else { check.invocation() })
        }
    };
    let ask = Ask::new(Question::new(Arc::clone(&policy.store), words), Purpose(Why::Check { who, now, held }));
    Step::Ask(ask.after(body, policy.ends.ask_for_usage(request)))
}

fn upstream_check(who: Who, reply: Result<Reply<'_>, Failure>) -> Next<Quotas> {
    match reply {
        Ok(Reply::Error(text)) => Next::Refuse(answers::no_quota().logged(text.escape_ascii())),
        Ok(reply) if upstream_integer(&reply) > 0 => Next::admit(Admission { who, period: None, held: None }),
        Ok(_) => Next::Refuse(answers::no_quota()),
        Err(failure) => Next::Refuse(answers::no_quota().logged(failure)),
    }
}

fn native_check(admission: Admission, now: i64, reply: Result<Reply<'_>, Failure>) -> Next<Quotas> {
    let tells = admission.who.policy.ends.rate_limit_headers;
    let told = reply.as_ref().ok().filter(|_| tells).and_then(|reply| announcement(&admission, now, reply));
    checked(admission, reply).telling(told)
}

/// What the client is told; nothing where nothing limits it.
fn announcement(admission: &Admission, now: i64, reply: &Reply<'_>) -> Option<Announcement> {
    let held = admission.held.as_ref().map_or(0, |held| held.tokens);
    let remaining = match CheckOutcome::of(reply).ok()? {
        CheckOutcome::Admitted { left: Left::Tokens(left), period: _ } => left - held,
        CheckOutcome::Refused { available } => available.unwrap_or(0),
        CheckOutcome::Admitted { left: Left::Unlimited, .. } | CheckOutcome::Malformed { .. } => return None,
    };
    Some(Announcement { limit: CheckOutcome::grant(reply), remaining, reset: admission.who.policy.seconds_left(now) })
}

fn checked(admission: Admission, reply: Result<Reply<'_>, Failure>) -> Next<Quotas> {
    let outcome = match reply.map(|reply| CheckOutcome::of(&reply)) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => return unchecked(admission, &error),
        Err(failure) => return unchecked(admission, &failure),
    };
    match outcome {
        // Nothing is held for who has no limit.
        CheckOutcome::Admitted { left: Left::Unlimited, period } => {
            Next::admit(Admission { period, held: None, ..admission })
        }
        CheckOutcome::Admitted { left: Left::Tokens(_), period } => Next::admit(Admission { period, ..admission }),
        CheckOutcome::Refused { available: _ } => denied(admission, answers::no_quota()),
        CheckOutcome::Malformed { value } => {
            let balance = admission.who.balance();
            let why = format_args!("the balance {balance} is malformed: {value}");
            denied(admission, answers::no_quota().logged(why))
        }
    }
}

/// The balance does not allow it.
fn denied(admission: Admission, response: Response) -> Next<Quotas> {
    let ends = admission.who.policy.ends;
    Next::deny(&ends, Admission { held: None, ..admission }, response)
}

/// The store has not said whether the request may pass. Which period it would have named is not known either: the
/// charge counts in the one that it comes in. It may hold what was asked, so that the charge drops it.
fn unchecked(admission: Admission, why: &dyn fmt::Display) -> Next<Quotas> {
    let ends = admission.who.policy.ends;
    Next::undecided(&ends, OnStoreFailure::Refuse, admission, answers::store_unavailable(), why)
}

/// A reply as upstream's client turns it into an integer: what is none is 0, what is too large is the largest.
fn upstream_integer(reply: &Reply<'_>) -> i64 {
    let text = match reply {
        Reply::Integer(value) => return *value,
        Reply::Bulk(text) | Reply::Simple(text) => text,
        Reply::Nil | Reply::Error(_) | Reply::Array(_) => return 0,
    };
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, *digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let saturated = if negative { i64::MIN } else { i64::MAX };
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(saturated)
}

impl Who {
    fn balance(&self) -> Balance {
        self.policy.balance(&self.consumer, self.model)
    }
}

impl Policy {
    /// The model's own balances, if it has any.
    fn own(&self, model: Option<usize>) -> Option<&Own> {
        self.models.get(model)?.held_to.as_ref()
    }

    /// Whether the bodies of metered requests are awaited.
    const fn wants_body(&self) -> bool {
        self.reserve.is_some() || !self.models.is_empty()
    }

    fn accepts(&self, consumer: &[u8]) -> bool {
        self.flavor == Flavor::Upstream || values::is_consumer(consumer)
    }

    fn balance(&self, consumer: &[u8], model: Option<usize>) -> Balance {
        Balance::new(self.own(model).map_or(&self.key_prefix, |own| &own.key_prefix), consumer)
    }

    /// How long the period that is now still lasts.
    fn seconds_left(&self, now: i64) -> Option<i64> {
        let Flavor::Native { refresh: Some((_, table)), .. } = &self.flavor else { return None };
        let (_, next) = table.get(table.partition_point(|(_, at)| *at <= now))?;
        Some(next - now)
    }

    fn period(&self, now: i64) -> Option<redis::Period<'_>> {
        match &self.flavor {
            Flavor::Native { refresh: Some((refresh, schedule)), .. } => redis::Period::around(refresh, schedule, now),
            Flavor::Native { refresh: None, .. } | Flavor::Upstream => None,
        }
    }
}
