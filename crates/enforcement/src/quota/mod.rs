//! What becomes of a request under a quota. In: the request, then the store's replies, then the response as it
//! passes. Out: effects as data: pass, refuse, ask the store, and at the end a charge. Steps consume themselves,
//! so that none can be taken twice. Pure.

mod admin;
mod booking;
mod call;
mod meter;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use admin::Admin;
pub use admin::AwaitBody;
pub use booking::{Booked, Booking};
pub use call::{Call, Failure};
use call::{Heard, Question, Words};
pub use meter::{Charge, Ending, Meter, Unbooked};

use crate::config::{Flavor, Policy, Target};
use crate::identity::{self, Unrecognised};
use crate::paths::{self, Mode, Operation};
use crate::redis::{self, Balance, CheckOutcome, Command, Reply};
use crate::response::Response;
use crate::values;

/// What of a request decides.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Every value of the identity header, in order.
    pub identity: &'a [&'a [u8]],
    /// `:path`.
    pub path: &'a [u8],
    /// Every value of the header `upgrade`.
    pub upgrade: &'a [&'a [u8]],
    /// Unix seconds.
    pub now: i64,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Pass,
    Refuse(Response),
    /// Hold the request until the store has answered.
    Ask(Ask),
    /// Hold the request and give its whole body.
    AwaitBody(AwaitBody),
}

/// A call to make, and who waits for its answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Ask {
    pub call: Call,
    pub pending: Pending,
}

/// A request that waits for the store.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    question: Question,
    purpose: Purpose,
}

#[derive(Debug, PartialEq, Eq)]
enum Purpose {
    Check { policy: Arc<Policy>, consumer: Vec<u8> },
    Admin { native: bool, admin: Admin },
}

/// What to do after an answer.
#[derive(Debug)]
pub enum Next {
    /// Ask once more.
    Ask(Ask),
    /// The store wants authentication: initialise it again, then ask once more.
    Reauthenticate(Ask),
    /// Let the request go on and meter its response.
    Admit(Box<Meter>),
    Refuse(Response),
}

/// Decides over a request that a rule or the default matches.
#[must_use]
pub fn begin(target: &Target, request: &Request<'_>) -> Step {
    let (path, query) = paths::split(request.path);
    let (policy, open) = match target {
        Target::Refuse { only: Some(paths), .. } if paths.mode(&path) == Mode::Other => return Step::Pass,
        Target::Refuse { reason, .. } => return Step::Refuse(Response::unenforceable(reason)),
        Target::Enforce { policy, open } => (policy, *open),
    };
    let mode = policy.paths.mode(&path);
    if open && mode == Mode::Other {
        return Step::Pass;
    }
    let consumer = match identity::consumer(request.identity.iter().copied()) {
        Ok(consumer) if policy.accepts(consumer) => consumer,
        Err(Unrecognised::Missing) => return Step::Refuse(Response::no_key()),
        Ok(_) | Err(Unrecognised::Unauthorized) => return Step::Refuse(Response::unauthorized_consumer()),
    };
    match mode {
        Mode::Other => Step::Pass,
        // Nothing of what passes in it could be counted.
        Mode::Metered if policy.flavor != Flavor::Upstream && request.wants_websocket() => {
            Step::Refuse(Response::websocket())
        }
        Mode::Metered => Step::Ask(check(policy, consumer, request.now)),
        Mode::Admin(_) if policy.admin.as_deref().map(str::as_bytes) != Some(consumer) => {
            Step::Refuse(Response::unauthorized_admin())
        }
        Mode::Admin(Operation::Query) => admin::query(policy, query, request.now),
        Mode::Admin(Operation::Refresh) => Step::AwaitBody(AwaitBody::refresh(policy)),
        Mode::Admin(Operation::Delta) => Step::AwaitBody(AwaitBody::delta(policy)),
    }
}

impl Request<'_> {
    fn wants_websocket(&self) -> bool {
        let mut protocols = self.upgrade.iter().flat_map(|value| value.split(|byte| *byte == b','));
        protocols.any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    }
}

fn check(policy: &Arc<Policy>, consumer: &[u8], now: i64) -> Ask {
    let balance = policy.balance(consumer);
    let words = match &policy.flavor {
        Flavor::Upstream => Words::Command(Command::get(balance.as_bytes())),
        Flavor::Native { owner, default_quota, refresh: _ } => Words::Script(
            redis::Check {
                balance: &balance,
                need: 1,
                hold: None,
                default: *default_quota,
                owner,
                period: policy.period(now),
            }
            .invocation(),
        ),
    };
    Ask::new(
        Question::new(Arc::clone(&policy.store), words),
        Purpose::Check { policy: Arc::clone(policy), consumer: consumer.to_vec() },
    )
}

impl Ask {
    fn new(question: Question, purpose: Purpose) -> Self {
        Self { call: question.call(), pending: Pending { question, purpose } }
    }
}

impl Pending {
    /// Whether the request is a metered one, not one of the admin API.
    #[must_use]
    pub const fn is_metered(&self) -> bool {
        matches!(self.purpose, Purpose::Check { .. })
    }

    /// Takes the store's answer, or the reason why there is none.
    #[must_use]
    pub fn answer(self, answer: Result<&[u8], Failure>) -> Next {
        let Self { question, purpose } = self;
        let reply = match question.hear(answer) {
            Heard::Again(question) => return Next::Ask(Ask::new(question, purpose)),
            Heard::Unauthenticated(question) => return Next::Reauthenticate(Ask::new(question, purpose)),
            Heard::Reply(reply) => Ok(reply),
            Heard::Failure(failure) => Err(failure),
        };
        match purpose {
            Purpose::Admin { native, admin } => Next::Refuse(admin.answer(native, reply)),
            Purpose::Check { policy, consumer } => match policy.flavor {
                Flavor::Upstream => upstream_check(policy, consumer, reply),
                Flavor::Native { .. } => native_check(policy, consumer, reply),
            },
        }
    }
}

fn upstream_check(policy: Arc<Policy>, consumer: Vec<u8>, reply: Result<Reply<'_>, Failure>) -> Next {
    match reply {
        Ok(Reply::Error(text)) => Next::Refuse(Response::no_quota().logged(text.escape_ascii())),
        Ok(reply) if upstream_integer(&reply) > 0 => Next::Admit(Box::new(Meter::new(policy, consumer, None))),
        Ok(_) => Next::Refuse(Response::no_quota()),
        Err(failure) => Next::Refuse(Response::no_quota().logged(failure)),
    }
}

fn native_check(policy: Arc<Policy>, consumer: Vec<u8>, reply: Result<Reply<'_>, Failure>) -> Next {
    let outcome = match reply.map(|reply| CheckOutcome::of(&reply)) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => return Next::Refuse(Response::store_unavailable().logged(error)),
        Err(failure) => return Next::Refuse(Response::store_unavailable().logged(failure)),
    };
    match outcome {
        CheckOutcome::Admitted { left: _, period } => Next::Admit(Box::new(Meter::new(policy, consumer, period))),
        CheckOutcome::Refused { available: _ } => Next::Refuse(Response::no_quota()),
        CheckOutcome::Malformed { value } => {
            let balance = policy.balance(&consumer);
            Next::Refuse(Response::no_quota().logged(format_args!("the balance {balance} is malformed: {value}")))
        }
    }
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

impl Policy {
    fn accepts(&self, consumer: &[u8]) -> bool {
        self.flavor == Flavor::Upstream || values::is_consumer(consumer)
    }

    fn balance(&self, consumer: &[u8]) -> Balance {
        Balance::new(&self.key_prefix, consumer)
    }

    fn period(&self, now: i64) -> Option<redis::Period<'_>> {
        match &self.flavor {
            Flavor::Native { refresh: Some((refresh, schedule)), .. } => redis::Period::around(refresh, schedule, now),
            Flavor::Native { refresh: None, .. } | Flavor::Upstream => None,
        }
    }
}
