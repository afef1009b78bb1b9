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
    /// A newer controller or generation was here; nothing changed.
    Stale,
    /// What is stored is not a balance; nothing changed.
    Malformed { value: String },
}

impl Apply<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        let Self { balance, owner, fence: Fence { term, uid, generation }, grant, takeover, period } = *self;
        let call = Invocation::new("apply", balance)
            .text(owner.as_bytes())
            .number(term)
            .text(uid.as_bytes())
            .number(generation);
        match grant {
            Grant::Tokens(tokens) => call.number(tokens),
            Grant::Unlimited => call.text(b"unlimited"),
        }
        .number(takeover.into())
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
            b"stale" => Ok(Self::Stale),
            b"malformed" => Ok(Self::Malformed { value: shown(answer.text(0)?) }),
            _ => Err(ReplyError::Unexpected),
        }
    }
}
