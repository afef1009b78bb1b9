//! An admitted request. In: the length of its body and the response as it passes. Out: at the end one charge, or
//! the reason why there is none. Pure.

use std::sync::Arc;

use super::Call;
use super::booking::Booking;
use super::call::{Question, Words};
use crate::config::{Flavor, Policy};
use crate::redis::{self, Command};
use crate::usage::{Scanner, Usage};
use crate::values::MAX_AMOUNT;

/// How many bytes of text are estimated as one token.
const BYTES_PER_TOKEN: u64 = 4;

/// The most tokens a request's body is estimated at: prompts may carry images and files.
const MAX_ESTIMATED_INPUT: u64 = 4096;

/// Watches the response of an admitted request.
#[derive(Debug)]
pub struct Meter {
    policy: Arc<Policy>,
    consumer: Vec<u8>,
    /// The ordinal of the period in which the request was admitted.
    admitted_in: Option<i64>,
    request_bytes: u64,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    /// No header was seen yet: what begins without one counts as successful.
    Unseen,
    Watched(Box<Scanner>),
    /// Its bytes cannot be read.
    Encoded,
    Unsuccessful(u16),
    /// It was another's: the request began anew.
    Redirected,
}

/// What an admitted request ends in.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    Charge(Charge),
    Nothing(Unbooked),
}

/// A charge to send; nobody waits for it but the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Charge {
    pub call: Call,
    pub booking: Booking,
}

/// Why nothing is booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbooked {
    #[error("the answer's status was {0}")]
    Unsuccessful(u16),
    #[error("no usage was seen")]
    NoUsage,
    #[error("the gateway redirected the request")]
    Redirected,
}

impl Meter {
    pub(super) const fn new(policy: Arc<Policy>, consumer: Vec<u8>, admitted_in: Option<i64>) -> Self {
        Self { policy, consumer, admitted_in, request_bytes: 0, answer: Answer::Unseen }
    }

    /// A piece of the request's body passed.
    pub fn request_body(&mut self, length: usize) {
        self.request_bytes = self.request_bytes.saturating_add(length as u64);
    }

    /// The response begins.
    pub fn response_headers(&mut self, status: Option<u16>, content_type: Option<&[u8]>, encoding: Option<&[u8]>) {
        let plain = |encoding: &[u8]| encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity");
        self.answer = match status {
            Some(status) if !(200..300).contains(&status) => Answer::Unsuccessful(status),
            _ if !encoding.is_none_or(|encoding| plain(encoding.trim_ascii())) => Answer::Encoded,
            _ => Answer::Watched(Box::new(Scanner::new(content_type))),
        };
    }

    /// Whether nothing of a response was seen.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        matches!(self.answer, Answer::Unseen)
    }

    /// The gateway began the request anew, as another stream, which is admitted and charged by itself.
    pub fn redirected(&mut self) {
        self.answer = Answer::Redirected;
    }

    /// A piece of the response's body passed.
    pub fn response_body(&mut self, chunk: &[u8]) {
        if matches!(self.answer, Answer::Unseen) {
            self.answer = Answer::Watched(Box::new(Scanner::new(None)));
        }
        if let Answer::Watched(scanner) = &mut self.answer {
            scanner.feed(chunk);
        }
    }

    /// The response ended, or the client left; `now` in unix seconds.
    #[must_use]
    pub fn end(self, now: i64) -> Ending {
        let Self { policy, consumer, admitted_in, request_bytes, answer } = self;
        let (usage, provisional, generated) = match answer {
            Answer::Unsuccessful(status) => return Ending::Nothing(Unbooked::Unsuccessful(status)),
            Answer::Redirected => return Ending::Nothing(Unbooked::Redirected),
            Answer::Unseen | Answer::Encoded => (None, false, 0),
            Answer::Watched(mut scanner) => {
                scanner.finish();
                (scanner.usage(), scanner.is_provisional(), scanner.generated_bytes())
            }
        };
        let native = policy.flavor != Flavor::Upstream;
        let (tokens, estimated) = match usage {
            Some(usage) if native && provisional => at_least(&usage, generated),
            Some(usage) => (usage.total, false),
            None if native => (estimate(generated, request_bytes), true),
            None => return Ending::Nothing(Unbooked::NoUsage),
        };
        if tokens == 0 {
            return Ending::Nothing(Unbooked::NoUsage);
        }
        let tokens = i64::try_from(tokens).unwrap_or(MAX_AMOUNT).min(MAX_AMOUNT);
        let balance = policy.balance(&consumer);
        let words = match &policy.flavor {
            Flavor::Upstream => Words::Command(Command::decr_by(balance.as_bytes(), tokens)),
            Flavor::Native { .. } => Words::Script(
                redis::Charge { balance: &balance, tokens, hold: None, admitted_in, period: policy.period(now) }
                    .invocation(),
            ),
        };
        let question = Question::new(Arc::clone(&policy.store), words);
        Ending::Charge(Charge::new(Booking::new(question, native, balance, tokens, estimated)))
    }
}

impl Charge {
    pub(super) fn new(booking: Booking) -> Self {
        Self { call: booking.call(), booking }
    }
}

/// What an answer without usage is taken to have cost.
fn estimate(generated: u64, request: u64) -> u64 {
    let input = request.div_ceil(BYTES_PER_TOKEN).min(MAX_ESTIMATED_INPUT);
    generated.div_ceil(BYTES_PER_TOKEN).saturating_add(input)
}

/// What a stream has cost that ended before it counted its output: else who leaves in front of the last event would
/// have the text for nothing. And whether that is an estimate.
fn at_least(usage: &Usage, generated: u64) -> (u64, bool) {
    let seen = usage.input.unwrap_or(0).saturating_add(generated.div_ceil(BYTES_PER_TOKEN));
    (usage.total.max(seen), seen > usage.total)
}
