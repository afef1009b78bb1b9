//! A charge on its way to the store. In: the store's answer. Out: the call once more where that heals, or what
//! became of the charge. One whose answer never came is not repeated: it may have been booked. Pure.

use super::call::{Failure, Heard, Question};
use super::meter::Charge;
use crate::redis::{Balance, ChargeOutcome, Reply};

/// A charge whose answer is awaited.
#[derive(Debug, PartialEq, Eq)]
pub struct Booking {
    question: Question,
    native: bool,
    balance: Balance,
    pub(super) tokens: i64,
    /// The answer told no usage: the tokens are an estimate.
    pub(super) estimated: bool,
}

/// What became of a charge.
#[derive(Debug, PartialEq, Eq)]
pub enum Booked {
    /// Send it once more; it was not booked.
    Again(Charge),
    /// The store wants authentication: initialise it again, then send the charge once more.
    Reauthenticate(Charge),
    Done,
    /// It was not booked, or nobody knows; for the log.
    Unknown(String),
}

impl Booking {
    pub(super) const fn new(question: Question, native: bool, balance: Balance, tokens: i64, estimated: bool) -> Self {
        Self { question, native, balance, tokens, estimated }
    }

    /// Takes the store's answer, or the reason why there is none.
    #[must_use]
    pub fn answer(self, answer: Result<&[u8], Failure>) -> Booked {
        let Self { question, native, balance, tokens, estimated } = self;
        let lost = |error: &dyn std::fmt::Display| {
            let estimated = if estimated { "estimated " } else { "" };
            Booked::Unknown(format!("{tokens} {estimated}tokens may not have been booked against {balance}: {error}"))
        };
        let again = |question| Charge::new(Self::new(question, native, balance.clone(), tokens, estimated));
        let reply = match question.hear(answer) {
            Heard::Again(question) => return Booked::Again(again(question)),
            Heard::Unauthenticated(question) => return Booked::Reauthenticate(again(question)),
            Heard::Failure(failure) => return lost(&failure),
            Heard::Reply(reply) => reply,
        };
        if !native {
            return match reply {
                Reply::Error(text) => lost(&text.escape_ascii()),
                _ => Booked::Done,
            };
        }
        match ChargeOutcome::of(&reply) {
            Ok(ChargeOutcome::Booked { balance: _ } | ChargeOutcome::Forgiven) => Booked::Done,
            Ok(ChargeOutcome::Absent) => lost(&"the consumer has no balance any more"),
            Ok(ChargeOutcome::Malformed { value }) => lost(&format_args!("the balance is malformed: {value}")),
            Err(error) => lost(&error),
        }
    }

    pub(super) fn call(&self) -> super::Call {
        self.question.call()
    }
}
