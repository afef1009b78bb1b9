//! May this request pass? A balance and what the request needs come in; a script call goes out, and its reply
//! becomes an admission or a refusal. What it holds is renewed as long as the request lives. Pure.

use super::{
    error::{Answer, ReplyError, shown},
    keys::Balance,
    period::Period,
    resp::Reply,
    script::Invocation,
};

/// Rolls the period, creates the balance from the default where that is allowed, and admits if enough is left.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    pub balance: &'a Balance,
    /// How many tokens must be left besides what is held; at least one is asked for.
    pub need: i64,
    /// Holds `need` for this request if it is admitted.
    pub hold: Option<Hold<'a>>,
    /// What a consumer that no object lists starts with; without it such a consumer is refused.
    pub default: Option<i64>,
    /// Who owns the balances that are made from the default, or were when there was one.
    pub owner: &'a str,
    /// Whether another policy decides on what was made from a default under this prefix: then only what is this
    /// owner's, or nobody's, follows this default and this schedule. Otherwise all follows that is of its cluster.
    pub yields: bool,
    pub period: Option<Period<'a>>,
}

/// Tokens reserved for a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold<'a> {
    /// Made by the module; never taken from a request.
    pub id: &'a [u8],
    /// Seconds after which it no longer counts if it was not charged.
    pub expires_in: u32,
}

/// Lets a hold last from now on as long as when it was made. One that is not there any more is not made again.
#[derive(Clone, Copy, Debug)]
pub struct Renew<'a> {
    pub balance: &'a Balance,
    pub hold: Hold<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    Admitted {
        left: Left,
        /// The ordinal of the period, to be given to the charge; absent where the ledger follows no schedule
        /// or not this one.
        period: Option<i64>,
    },
    /// Too little is left; `None`: the consumer has no balance and there is no default.
    Refused { available: Option<i64> },
    /// What is stored is not a balance; shown for a log.
    Malformed { value: String },
}

/// What an admitted request found, before its own hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    Unlimited,
    /// The balance without live holds.
    Tokens(i64),
}

impl Check<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        self.operation("check")
    }

    /// The same under a policy that only observes: what it noted is missing from what is available.
    #[must_use]
    pub fn observing(&self) -> Invocation {
        self.operation("observe")
    }

    fn operation(&self, name: &str) -> Invocation {
        let Self { balance, need, hold, default, owner, yields, period } = *self;
        Invocation::new(name, balance)
            .number(need.max(1))
            .text(hold.map_or(b"", |hold| hold.id))
            .optional(hold.map(|hold| hold.expires_in.into()))
            .optional(default)
            .text(owner.as_bytes())
            .number(yields.into())
            .period(period)
    }
}

impl Renew<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        let Self { balance, hold: Hold { id, expires_in } } = *self;
        Invocation::new("renew", balance).text(id).number(expires_in.into())
    }
}

impl CheckOutcome {
    pub fn of(reply: &Reply<'_>) -> Result<Self, ReplyError> {
        let answer = Answer::of(reply)?;
        match answer.status {
            b"unlimited" => Ok(Self::Admitted { left: Left::Unlimited, period: answer.optional(0)? }),
            b"admitted" => Ok(Self::Admitted { left: Left::Tokens(answer.number(0)?), period: answer.optional(1)? }),
            b"refused" => Ok(Self::Refused { available: answer.optional(0)? }),
            b"malformed" => Ok(Self::Malformed { value: shown(answer.text(0)?) }),
            _ => Err(ReplyError::Unexpected),
        }
    }

    /// What a period gives, where the reply says so.
    #[must_use]
    pub fn grant(reply: &Reply<'_>) -> Option<i64> {
        let answer = Answer::of(reply).ok()?;
        let at = match answer.status {
            b"admitted" => 2,
            b"refused" => 1,
            _ => return None,
        };
        answer.optional(at).ok().flatten()
    }
}
