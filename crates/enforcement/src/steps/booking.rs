//! A charge on its way to the store. In: the store's answer. Out: the call once more where that heals, or what
//! became of the charge. One whose answer never came is not repeated: it may have been booked. Pure.

use super::meter::Charge;
use super::question::{Failure, Heard, Question};
use super::{Call, Kind};

/// A charge whose answer is awaited.
#[derive(Debug, PartialEq, Eq)]
pub struct Booking<K: Kind> {
    question: Question,
    ticket: K::Ticket,
    pub(crate) tokens: i64,
    /// The answer told no usage: the tokens are an estimate.
    pub(crate) estimated: bool,
}

/// What became of a charge.
#[derive(Debug, PartialEq, Eq)]
pub enum Booked<K: Kind> {
    /// Send it once more; it was not booked.
    Again(Charge<K>),
    /// The store wants authentication: initialise it again, then send the charge once more.
    Reauthenticate(Charge<K>),
    Done {
        tokens: i64,
        /// The answer told no usage.
        estimated: bool,
        /// How often it made what is used reach the share at which somebody is to be warned.
        warned: i64,
    },
    /// It was not booked, or nobody knows; for the log.
    Unknown(String),
}

impl<K: Kind> Booking<K> {
    pub(super) const fn new(question: Question, ticket: K::Ticket, tokens: i64, estimated: bool) -> Self {
        Self { question, ticket, tokens, estimated }
    }

    /// Takes the store's answer, or the reason why there is none.
    #[must_use]
    pub fn answer(self, answer: Result<&[u8], Failure>) -> Booked<K> {
        let Self { question, ticket, tokens, estimated } = self;
        let again = |question, ticket| Charge::new(Self { question, ticket, tokens, estimated });
        let booked = match question.hear(answer) {
            Heard::Again(question) => return Booked::Again(again(question, ticket)),
            Heard::Unauthenticated(question) => return Booked::Reauthenticate(again(question, ticket)),
            Heard::Failure(failure) => Err(failure.to_string()),
            Heard::Reply(reply) => K::booked(&ticket, &reply),
        };
        match booked {
            // What was held is dropped, or no longer counts after a while.
            Err(_) if tokens == 0 => Booked::Done { tokens, estimated, warned: 0 },
            Ok(warned) => Booked::Done { tokens, estimated, warned },
            Err(why) => {
                let estimated = if estimated { "estimated " } else { "" };
                Booked::Unknown(format!("{tokens} {estimated}tokens may not have been booked against {ticket}: {why}"))
            }
        }
    }

    pub(super) fn call(&self) -> Call {
        self.question.call()
    }
}
