//! An admitted request. In: the length of its body and the response as it passes. Out: at the end one charge, or
//! the reason why there is none. Pure.

use super::booking::Booking;
use super::{Call, Kind, Question};
use crate::unasked::Unasked;
use crate::usage::{Scanner, Usage};
use crate::values::MAX_AMOUNT;

/// How many bytes of text are estimated as one token.
const BYTES_PER_TOKEN: u64 = 4;

/// The most tokens a request's body is estimated at: prompts may carry images and files.
const MAX_ESTIMATED_INPUT: u64 = 4096;

/// Watches the response of an admitted request.
#[derive(Debug)]
pub struct Meter<K: Kind> {
    admission: K::Admission,
    request_bytes: u64,
    answer: Answer,
    headers: Vec<(&'static str, String)>,
    /// The stream's usage was asked for, and not by the client.
    asked: bool,
    unasked: Option<Unasked>,
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
pub enum Ending<K: Kind> {
    Charge(Charge<K>),
    Nothing(Unbooked),
}

/// A charge to send; nobody waits for it but the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Charge<K: Kind> {
    pub call: Call,
    pub booking: Booking<K>,
}

/// Why nothing is booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbooked {
    #[error("the answer's status was {0}")]
    Unsuccessful(u16),
    /// None, or one that costs nothing.
    #[error("no usage was seen that costs anything")]
    NoUsage,
    #[error("the gateway redirected the request")]
    Redirected,
}

impl<K: Kind> Meter<K> {
    pub(super) const fn new(admission: K::Admission) -> Self {
        Self { admission, request_bytes: 0, answer: Answer::Unseen, headers: Vec::new(), asked: false, unasked: None }
    }

    /// Whether something is held for it, which must be renewed.
    #[must_use]
    pub fn holds(&self) -> bool {
        K::holds(&self.admission)
    }

    /// What lets its hold last longer.
    #[must_use]
    pub fn renewal(&self) -> Option<Charge<K>> {
        K::renew(&self.admission).map(Charge::of_nothing)
    }

    /// Adds headers to the response.
    pub(super) fn announce(&mut self, headers: Vec<(&'static str, String)>) {
        self.headers = headers;
    }

    /// Headers for the response, once, in the place of those that it has.
    pub fn take_headers(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.headers)
    }

    /// The client is not to see the usage that its stream ends with.
    pub(super) const fn hide_usage(&mut self) {
        self.asked = true;
    }

    /// Whether the response's body is changed, maybe.
    #[must_use]
    pub const fn changes_body(&self) -> bool {
        self.unasked.is_some()
    }

    /// What the client gets in place of this piece of the response's body, which is its last, or not; nothing where it gets
    /// the piece as it is.
    pub fn in_place_of(&mut self, piece: &[u8], end: bool) -> Option<Vec<u8>> {
        self.unasked.as_mut()?.feed(piece, end)
    }

    /// A piece of the request's body passed.
    pub fn request_body(&mut self, length: u64) {
        self.request_bytes = self.request_bytes.saturating_add(length);
    }

    /// The response begins.
    pub fn response_headers(&mut self, status: Option<u16>, content_type: Option<&[u8]>, encoding: Option<&[u8]>) {
        let plain = |encoding: &[u8]| encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity");
        self.answer = match status {
            Some(status) if !(200..300).contains(&status) => Answer::Unsuccessful(status),
            _ if !encoding.is_none_or(|encoding| plain(encoding.trim_ascii())) => Answer::Encoded,
            _ => {
                self.unasked = Unasked::of(content_type).filter(|_| self.asked);
                Answer::Watched(Box::new(Scanner::new(content_type)))
            }
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
    pub fn end(self, now: i64) -> Ending<K> {
        let Self { admission, request_bytes, answer, .. } = self;
        let (tokens, estimated) = match cost(answer, request_bytes, K::estimates(&admission)) {
            Ok((usage, estimated)) => match K::weights(&admission).charge(&usage) {
                0 => (0, false),
                tokens => (tokens, estimated),
            },
            Err(_) if K::holds(&admission) => (0, false),
            Err(unbooked) => return Ending::Nothing(unbooked),
        };
        if tokens == 0 && !K::holds(&admission) {
            return Ending::Nothing(Unbooked::NoUsage);
        }
        let tokens = i64::try_from(tokens).unwrap_or(MAX_AMOUNT).min(MAX_AMOUNT);
        let (question, ticket) = K::charge(admission, tokens, now);
        Ending::Charge(Charge::new(Booking::new(question, ticket, tokens, estimated)))
    }
}

/// What an answer has used, and whether that is an estimate.
fn cost(answer: Answer, request_bytes: u64, estimates: bool) -> Result<(Usage, bool), Unbooked> {
    let (usage, provisional, generated) = match answer {
        Answer::Unsuccessful(status) => return Err(Unbooked::Unsuccessful(status)),
        Answer::Redirected => return Err(Unbooked::Redirected),
        Answer::Unseen | Answer::Encoded => (None, false, 0),
        Answer::Watched(mut scanner) => {
            scanner.finish();
            (scanner.usage(), scanner.is_provisional(), scanner.generated_bytes())
        }
    };
    match usage {
        Some(usage) if estimates && provisional => Ok(at_least(usage, generated)),
        Some(usage) => Ok((usage, false)),
        None if estimates => Ok((estimate(generated, request_bytes), true)),
        None => Err(Unbooked::NoUsage),
    }
}

impl<K: Kind> Charge<K> {
    pub(super) fn new(booking: Booking<K>) -> Self {
        Self { call: booking.call(), booking }
    }

    /// What changes a hold and books nothing.
    pub(super) fn of_nothing((question, ticket): (Question, K::Ticket)) -> Self {
        Self::new(Booking::new(question, ticket, 0, false))
    }
}

/// What an answer without usage is taken to have cost.
fn estimate(generated: u64, request: u64) -> Usage {
    let input = request.div_ceil(BYTES_PER_TOKEN).min(MAX_ESTIMATED_INPUT);
    of_parts(input, generated.div_ceil(BYTES_PER_TOKEN))
}

/// What a stream has cost that ended before it counted its output: else who leaves in front of the last event would
/// have the text for nothing. And whether that is an estimate.
fn at_least(usage: Usage, generated: u64) -> (Usage, bool) {
    let seen = of_parts(usage.input.unwrap_or(0), generated.div_ceil(BYTES_PER_TOKEN));
    if seen.total > usage.total { (Usage { cached_input: usage.cached_input, ..seen }, true) } else { (usage, false) }
}

const fn of_parts(input: u64, output: u64) -> Usage {
    let total = input.saturating_add(output);
    Usage { input: Some(input), output: Some(output), total, cached_input: None, reasoning: None }
}
