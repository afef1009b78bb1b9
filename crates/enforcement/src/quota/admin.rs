//! The admin API: asks for a balance, sets it, adds to it. In: a query or a form. Out: a question to the store and
//! the answer to the admin, the same for both forms of configuration. Pure.

use std::sync::Arc;

use super::config::{Flavor, Policy};
use super::{Purpose, Quotas, Why, answers, upstream_integer};
use crate::paths;
use crate::redis::{Add, AdminOutcome, Command, Query, Reply, ReplyError, Set};
use crate::response::Response;
use crate::steps::{Ask, Count, Failure, Question, Step, Words};
use crate::values;

/// An operation whose answer is awaited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admin {
    Query { consumer: Vec<u8> },
    Refresh,
    Delta,
}

/// An operation that comes in a form, which must be read whole.
#[derive(Debug, PartialEq, Eq)]
pub struct AwaitForm {
    policy: Arc<Policy>,
    operation: Admin,
}

pub(super) fn query(policy: &Arc<Policy>, query: &[u8], now: i64) -> Step<Quotas> {
    let Some(consumer) = consumer(policy, query) else { return Step::Refuse(answers::no_consumer()) };
    let Ok(model) = model(policy, query) else { return Step::Refuse(answers::no_model()) };
    let balance = policy.balance(&consumer, model);
    let words = match &policy.flavor {
        Flavor::Upstream => Words::Command(Command::get(balance.as_bytes())),
        Flavor::Native { .. } => Words::Script(Query { balance: &balance, period: policy.period(now) }.invocation()),
    };
    ask(policy, words, Admin::Query { consumer })
}

impl AwaitForm {
    pub(super) fn refresh(policy: &Arc<Policy>) -> Self {
        Self { policy: Arc::clone(policy), operation: Admin::Refresh }
    }

    pub(super) fn delta(policy: &Arc<Policy>) -> Self {
        Self { policy: Arc::clone(policy), operation: Admin::Delta }
    }

    /// Takes the whole body; `now` in unix seconds.
    pub(super) fn form(self, form: &[u8], now: i64) -> Step<Quotas> {
        let Self { policy, operation } = self;
        let (field, bad): (_, fn() -> _) = match operation {
            Admin::Delta => ("value", answers::bad_delta),
            Admin::Refresh | Admin::Query { .. } => ("quota", answers::bad_refresh),
        };
        let (Some(consumer), Some(value)) = (consumer(&policy, form), integer(form, field)) else {
            return Step::Refuse(bad());
        };
        let Ok(model) = model(&policy, form) else { return Step::Refuse(answers::no_model()) };
        let balance = policy.balance(&consumer, model);
        let words = match (&policy.flavor, &operation) {
            (Flavor::Upstream, Admin::Delta) if value < 0 => {
                Words::Command(Command::decr_by(balance.as_bytes(), value.wrapping_neg()))
            }
            (Flavor::Upstream, Admin::Delta) => Words::Command(Command::incr_by(balance.as_bytes(), value)),
            (Flavor::Upstream, _) => Words::Command(Command::set(balance.as_bytes(), value)),
            // Lua's numbers cannot hold more.
            (Flavor::Native { .. }, _) if value.unsigned_abs() > values::MAX_AMOUNT.unsigned_abs() => {
                return Step::Refuse(bad());
            }
            (Flavor::Native { .. }, Admin::Delta) => {
                Words::Script(Add { balance: &balance, value, period: policy.period(now) }.invocation())
            }
            (Flavor::Native { .. }, _) => {
                Words::Script(Set { balance: &balance, value, period: policy.period(now) }.invocation())
            }
        };
        ask(&policy, words, operation)
    }
}

impl Admin {
    /// The answer to the admin.
    pub(super) fn answer(self, native: bool, reply: Result<Reply<'_>, Failure>) -> Response {
        let balance = match reply {
            Err(failure) => return answers::redis_error(failure.upstream_text()).logged(failure),
            Ok(Reply::Error(text)) => {
                return answers::redis_error(&String::from_utf8_lossy(text)).logged(text.escape_ascii());
            }
            Ok(reply) if native => match AdminOutcome::of(&reply) {
                Ok(AdminOutcome::Balance(balance)) => balance,
                // What Redis itself says of these when upstream asks.
                Ok(AdminOutcome::OutOfRange) => {
                    return answers::redis_error("ERR increment or decrement would overflow")
                        .counting(&[Count::Refused]);
                }
                Ok(AdminOutcome::Malformed { value }) => {
                    return answers::redis_error("ERR value is not an integer or out of range")
                        .counting(&[Count::Refused])
                        .logged(format_args!("a balance is malformed: {value}"));
                }
                Err(error) => return unreadable(&error),
            },
            Ok(reply) => upstream_integer(&reply),
        };
        match self {
            Self::Query { consumer } => answers::quota(&consumer, balance),
            Self::Refresh => answers::refreshed(),
            Self::Delta => answers::changed(),
        }
    }
}

fn unreadable(error: &ReplyError) -> Response {
    answers::redis_error(&error.to_string()).logged(error)
}

fn ask(policy: &Arc<Policy>, words: Words, admin: Admin) -> Step<Quotas> {
    let native = policy.flavor != Flavor::Upstream;
    Step::Ask(Ask::new(Question::new(Arc::clone(&policy.store), words), Purpose(Why::Admin { native, admin })))
}

/// The consumer that a query or form names, if it may have a balance.
fn consumer(policy: &Policy, form: &[u8]) -> Option<Vec<u8>> {
    let consumer = paths::field(form, "consumer")?;
    (!consumer.is_empty() && policy.accepts(&consumer)).then(|| consumer.into_owned())
}

/// The model named has no balances of its own.
struct NoModel;

/// The declared model whose requests' balance is meant; nothing for the common one, which nobody means who names another.
fn model(policy: &Policy, form: &[u8]) -> Result<Option<usize>, NoModel> {
    match paths::field(form, "model") {
        Some(name) if policy.flavor != Flavor::Upstream && !name.is_empty() => {
            let found = policy.models.find(Some(&name));
            if policy.own(found).is_some() { Ok(found) } else { Err(NoModel) }
        }
        _ => Ok(None),
    }
}

/// A field as Go's `strconv.Atoi` reads it.
fn integer(form: &[u8], name: &str) -> Option<i64> {
    std::str::from_utf8(&paths::field(form, name)?).ok()?.parse().ok()
}
