//! What has come to `warnAt`, the same for consumers and for limits: who was there when it was last looked at in; the
//! condition that names some, and what Events tell of those that were not told of yet, out. Pure.

use std::collections::HashMap;

use crate::Warning;

/// Named in one message.
const NAMED: usize = 5;

/// Name and model.
pub(crate) type Whom = (String, Option<String>);

/// Of whom an Event told, each with a mark that only falls when another period begins.
pub type Told = HashMap<Whom, i64>;

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Near {
    pub(crate) mark: i64,
    /// What an Event says.
    pub(crate) message: String,
}

/// The message of the condition, if there is one. `named`: how each is named there.
pub(crate) fn condition(
    percent: Option<u8>,
    of: &'static str,
    named: impl ExactSizeIterator<Item = String>,
) -> Option<Warning> {
    let percent = percent.filter(|_| named.len() > 0)?;
    let more = match named.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<String> = named.take(NAMED).collect();
    Some(Warning::NearlyExhausted { percent, of, named: format!("{}{more}", named.join(", ")) })
}

/// What Events are to say of those that are there now and were not before, or not in this period; and of whom is told
/// then. `before`: of whom is told already, or was there; `now`: all that were looked at.
pub(crate) fn newly(before: Told, now: impl Iterator<Item = (Whom, Option<Near>)>) -> (Vec<String>, Told) {
    let (mut told, mut new) = (before, Vec::new());
    for (whom, near) in now {
        let Some(Near { mark, message }) = near else {
            told.remove(&whom);
            continue;
        };
        if told.insert(whom, mark).is_none_or(|before| before > mark) {
            new.push(message);
        }
    }
    (new, told)
}
