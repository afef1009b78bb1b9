//! What upstream's admin API asks of a balance. A balance and a value come in; a script call goes out, and its
//! reply becomes the balance or the reason why it was left alone. None creates a balance from the default. Pure.

use super::{
    error::{Answer, ReplyError, shown},
    keys::Balance,
    period::Period,
    resp::Reply,
    script::Invocation,
};

/// Reads a balance.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub balance: &'a Balance,
    pub period: Option<Period<'a>>,
}

/// Sets a balance, whatever it was.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    pub balance: &'a Balance,
    pub value: i64,
    pub period: Option<Period<'a>>,
}

/// Adds to a balance; an absent one counts as 0.
#[derive(Clone, Copy, Debug)]
pub struct Add<'a> {
    pub balance: &'a Balance,
    pub value: i64,
    pub period: Option<Period<'a>>,
}

/// The answer to each of the three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminOutcome {
    /// The balance after it; 0 when a query finds none.
    Balance(i64),
    /// The value or the sum is beyond ±[`crate::values::MAX_AMOUNT`]; nothing changed.
    OutOfRange,
    /// What is stored is not a balance; nothing changed.
    Malformed { value: String },
}

impl Query<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        Invocation::new("query", self.balance).period(self.period)
    }
}

impl Set<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        Invocation::new("set", self.balance).number(self.value).period(self.period)
    }
}

impl Add<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        Invocation::new("add", self.balance).number(self.value).period(self.period)
    }
}

impl AdminOutcome {
    pub fn of(reply: &Reply<'_>) -> Result<Self, ReplyError> {
        let answer = Answer::of(reply)?;
        match answer.status {
            b"balance" => Ok(Self::Balance(answer.number(0)?)),
            b"range" => Ok(Self::OutOfRange),
            b"malformed" => Ok(Self::Malformed { value: shown(answer.text(0)?) }),
            _ => Err(ReplyError::Unexpected),
        }
    }
}
