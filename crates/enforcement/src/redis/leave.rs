//! Ends what an object declared for a consumer: parks the balance of one that is not listed any more, releases or
//! deletes that of an object that is gone. Owner and fence come in; a script call goes out, and its reply says what
//! became of it. Repeating each changes nothing. Pure.

use super::{
    apply::Fence,
    error::{Answer, ReplyError, shown},
    keys::Balance,
    period::Period,
    resp::Reply,
    script::Invocation,
};

/// Moves the balance into the ledger and deletes its key, so that the consumer is refused, or lives on a default, and
/// gets back what it had when it is listed again. Holds stay, and requests in flight are charged to what is parked.
/// A consumer that is parked already or lives on a default is left as it is.
#[derive(Clone, Copy, Debug)]
pub struct Park<'a> {
    pub balance: &'a Balance,
    /// As in [`super::Apply`].
    pub owner: &'a str,
    pub fence: Fence<'a>,
    pub period: Option<Period<'a>>,
}

/// Takes the owner out of the ledger and leaves everything else: the balance is obeyed as before, and whoever lists
/// the consumer takes it over. For objects that do not exist any more.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    pub balance: &'a Balance,
    pub owner: &'a str,
    /// As in [`Fence`].
    pub term: i64,
}

/// Deletes the balance, whatever it is, and all that is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Delete<'a> {
    pub balance: &'a Balance,
    pub owner: &'a str,
    pub fence: Fence<'a>,
}

/// The answer to each of the three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaveOutcome {
    Done {
        /// Whether Redis was written to.
        changed: bool,
    },
    /// Nothing is known about the balance, if there is one: it was deleted, or no controller ever applied it.
    Absent,
    /// Another object owns the balance, or, with an empty text, none does any more; nothing changed.
    Foreign { owner: String },
    /// A newer controller, whose term this is, or a newer generation was here; nothing changed.
    Stale { term: i64 },
    /// What is stored is not a ledger or, where it is to be parked, not a balance; nothing changed.
    Malformed { value: String },
}

impl Park<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        let Self { balance, owner, fence, period } = *self;
        Invocation::new("park", balance).fenced(owner, fence).period(period)
    }
}

impl Release<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        let Self { balance, owner, term } = *self;
        Invocation::new("release", balance).text(owner.as_bytes()).number(term)
    }
}

impl Delete<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        let Self { balance, owner, fence } = *self;
        Invocation::new("delete", balance).fenced(owner, fence)
    }
}

impl LeaveOutcome {
    pub fn of(reply: &Reply<'_>) -> Result<Self, ReplyError> {
        let answer = Answer::of(reply)?;
        match answer.status {
            b"parked" | b"released" | b"deleted" => Ok(Self::Done { changed: answer.flag(0)? }),
            b"absent" => Ok(Self::Absent),
            b"foreign" => Ok(Self::Foreign { owner: String::from_utf8_lossy(answer.text(0)?).into_owned() }),
            b"stale" => Ok(Self::Stale { term: answer.number(0)? }),
            b"malformed" => Ok(Self::Malformed { value: shown(answer.text(0)?) }),
            _ => Err(ReplyError::Unexpected),
        }
    }
}
