//! Makes a balance what an object declares. Owner, fence, grant and schedule come in; a script call goes out, and
//! its reply says what became of it. Repeating it changes nothing. Pure.

use super::{
    error::{Answer, ReplyError, shown},
    keys::Balance,
    period::Period,
    resp::Reply,
    script::Invocation,
};

/// One consumer of one object, as its balance should be.
#[derive(Clone, Copy, Debug)]
pub struct Apply<'a> {
    pub balance: &'a Balance,
    /// `<uid of namespace kube-system>/<namespace>/<name>` of the object.
    pub owner: &'a str,
    pub fence: Fence<'a>,
    pub grant: Grant,
    /// Takes the balance from another owner, which the caller knows to be gone or to have let go of it.
    pub takeover: bool,
    /// The token of a manual refresh: refreshes the balance as by one boundary, once for each token, if this object
    /// listed the consumer before. A balance that is new to the object or was parked only keeps the token in mind. The
    /// last five tokens are known: one that comes again, as from a watch that lags, changes nothing.
    pub refresh: Option<&'a str>,
    pub period: Option<Period<'a>>,
}

/// What orders the writes of controllers: the term first, the generation only under the same uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence<'a> {
    /// The lease's term; 1 without a lease.
    pub term: i64,
    pub uid: &'a str,
    pub generation: i64,
}

/// What a period gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    Tokens(i64),
    Unlimited,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyOutcome {
    Applied {
        /// Whether Redis was written to.
        changed: bool,
        /// `None`: a consumer that was unlimited from the beginning has none.
        balance: Option<i64>,
        /// Tokens spent in this period.
        used: i64,
    },
    /// Another object owns the balance; nothing changed.
    Conflict {
        owner: String,
        /// No object lists the consumer: the balance was made from a default by a request of the owner's policy.
        lazy: bool,
    },
    /// A newer controller, whose term this is, or a newer generation was here; nothing changed.
    Stale { term: i64 },
    /// What is stored is not a balance; nothing changed.
    Malformed { value: String },
}

impl Apply<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        let Self { balance, owner, fence, grant, takeover, refresh, period } = *self;
        let call = Invocation::new("apply", balance).fenced(owner, fence);
        match grant {
            Grant::Tokens(tokens) => call.number(tokens),
            Grant::Unlimited => call.text(b"unlimited"),
        }
        .number(takeover.into())
        .text(refresh.unwrap_or_default().as_bytes())
        .period(period)
    }
}

impl ApplyOutcome {
    pub fn of(reply: &Reply<'_>) -> Result<Self, ReplyError> {
        let answer = Answer::of(reply)?;
        match answer.status {
            b"applied" => {
                Ok(Self::Applied { changed: answer.flag(0)?, balance: answer.optional(1)?, used: answer.number(2)? })
            }
            b"conflict" => Ok(Self::Conflict {
                owner: String::from_utf8_lossy(answer.text(0)?).into_owned(),
                lazy: answer.flag(1)?,
            }),
            b"stale" => Ok(Self::Stale { term: answer.number(0)? }),
            b"malformed" => Ok(Self::Malformed { value: shown(answer.text(0)?) }),
            _ => Err(ReplyError::Unexpected),
        }
    }
}
