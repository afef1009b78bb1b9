//! An admitted request. In: the length of its body and the response as it passes. Out: at the end one charge, or
//! the reason why there is none. Pure.

use std::sync::Arc;

use super::Call;
use super::booking::Booking;
use super::call::{Question, Words};
use crate::config::{Flavor, Policy};
use crate::redis::{self, Command};
use crate::usage::Scanner;
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
        let (usage, generated) = match answer {
            Answer::Unsuccessful(status) => return Ending::Nothing(Unbooked::Unsuccessful(status)),
            Answer::Unseen | Answer::Encoded => (None, 0),
            Answer::Watched(mut scanner) => {
                scanner.finish();
                (scanner.usage(), scanner.generated_bytes())
            }
        };
        let (tokens, estimated) = match usage {
            Some(usage) => (usage.total, false),
            None if policy.flavor == Flavor::Upstream => return Ending::Nothing(Unbooked::NoUsage),
            None => (estimate(generated, request_bytes), true),
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
        let native = policy.flavor != Flavor::Upstream;
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
