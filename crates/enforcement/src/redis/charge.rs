//! Books what an admitted request used. A balance and tokens come in; a script call goes out, and its reply says
//! whether and against what they were booked. Not to be repeated when its answer never came. Pure.

use super::{
    error::{Answer, ReplyError, shown},
    keys::Balance,
    period::Period,
    resp::Reply,
    script::Invocation,
};
use crate::values;

/// Drops the request's hold and takes the tokens from the balance. Creates no key.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    pub balance: &'a Balance,
    pub tokens: i64,
    /// The id of the hold of [`super::Check`], if it made one.
    pub hold: Option<&'a [u8]>,
    /// The period that the check named: what a Reset since then forgave is not booked.
    pub admitted_in: Option<i64>,
    pub period: Option<Period<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChargeOutcome {
    /// The balance after it; `None`: there is none (unlimited, or parked), the ledger counted it.
    Booked { balance: Option<i64> },
    /// The period of the admission ended with a Reset: nothing was booked.
    Forgiven,
    /// The consumer has neither balance nor ledger any more: nothing was booked.
    Absent,
    /// What is stored is not a balance; nothing was taken from it.
    Malformed { value: String },
}

impl Charge<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        self.operation("charge")
    }

    /// The same under a policy that only observes: the tokens are noted, and missing from no balance.
    #[must_use]
    pub fn observing(&self) -> Invocation {
        self.operation("note")
    }

    fn operation(&self, name: &str) -> Invocation {
        let Self { balance, tokens, hold, admitted_in, period } = *self;
        Invocation::new(name, balance)
            .number(tokens.clamp(0, values::MAX_AMOUNT))
            .text(hold.unwrap_or_default())
            .optional(admitted_in)
            .period(period)
    }
}

impl ChargeOutcome {
    pub fn of(reply: &Reply<'_>) -> Result<Self, ReplyError> {
        let answer = Answer::of(reply)?;
        match answer.status {
            b"booked" => Ok(Self::Booked { balance: answer.optional(0)? }),
            b"forgiven" => Ok(Self::Forgiven),
            b"absent" => Ok(Self::Absent),
            b"malformed" => Ok(Self::Malformed { value: shown(answer.text(0)?) }),
            _ => Err(ReplyError::Unexpected),
        }
    }

    /// Whether it was by this charge that what was used of the period's grant reached so many hundredths of it; under a
    /// policy that only observes: what would be used.
    #[must_use]
    pub fn reaches(reply: &Reply<'_>, tokens: i64, percent: u8) -> bool {
        let booked = Answer::of(reply).ok().filter(|answer| answer.status == b"booked");
        let Some((used, grant)) = booked.and_then(|answer| Some((answer.number(1).ok()?, answer.number(2).ok()?)))
        else {
            return false;
        };
        values::reaches(used, grant, percent) && !values::reaches(used - tokens, grant, percent)
    }
}
