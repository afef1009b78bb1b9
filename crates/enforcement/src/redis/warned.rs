//! Which limits were nearly reached lately: where `limits.lua` notes it, under which names, and the calls that read it.
//! Rule names and declared limits come in; keys, commands and what was noted go out. Pure.

use super::error::ReplyError;
use super::limits::Counter;
use super::resp::{Command, Reply};

/// When somebody is to be warned of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warn<'a> {
    /// At how many hundredths of its limit.
    pub percent: u8,
    /// The rule name under which it is noted, once per limit and window and without the counter's value; nothing where
    /// nobody is to be told.
    pub noted: Option<&'a str>,
}

/// What was noted of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The unix second at which the first counter came there.
    pub since: i64,
    /// How many did since then.
    pub counters: i64,
}

/// The hash of a rule name, in the hash slot of its counters.
#[must_use]
pub fn key(rule: &str) -> Vec<u8> {
    ["aiquota:warned:{", rule, "}"].concat().into_bytes()
}

/// The field of one limit: that of any of its counters. `tokens`: none for limits of single values, which have each
/// their own.
#[must_use]
pub fn field(percent: u8, tokens: Option<i64>, counter: &Counter) -> Vec<u8> {
    let tokens = tokens.map(|tokens| tokens.to_string()).unwrap_or_default();
    [format!("{percent}:{tokens}:").as_bytes(), counter.common()].concat()
}

/// What is to be asked before any hash is read, so that what is over by Redis' own clock is left out.
#[must_use]
pub fn time() -> Command {
    Command::new(vec![b"TIME".to_vec()])
}

/// All that was noted under a rule name; read with [`noted`].
#[must_use]
pub fn list(rule: &str) -> Command {
    Command::new(vec![b"HGETALL".to_vec(), key(rule)])
}

/// The unix second of the reply to [`time`].
///
/// # Errors
/// If the reply is an error, or no time.
pub fn now(reply: &Reply<'_>) -> Result<i64, ReplyError> {
    match reply {
        Reply::Array(parts) => parts.first().and_then(Reply::integer).ok_or(ReplyError::Unexpected),
        Reply::Error(text) => Err(ReplyError::from_text(text)),
        _ => Err(ReplyError::Unexpected),
    }
}

/// What is not over, by field. What is no such note is left out.
///
/// # Errors
/// If the reply is an error, or no list.
pub fn noted(reply: &Reply<'_>, now: i64) -> Result<Vec<(Vec<u8>, Noted)>, ReplyError> {
    let words = match reply {
        Reply::Error(text) => return Err(ReplyError::from_text(text)),
        Reply::Array(words) => words,
        _ => return Err(ReplyError::Unexpected),
    };
    let note = |pair: &[Reply<'_>]| match pair {
        [Reply::Bulk(field), Reply::Bulk(text)] => Some((field.to_vec(), read(text, now)?)),
        _ => None,
    };
    Ok(words.chunks(2).filter_map(note).collect())
}

fn read(text: &[u8], now: i64) -> Option<Noted> {
    let mut numbers = std::str::from_utf8(text).ok()?.split('/').map(|number| number.parse::<i64>().ok());
    let mut next = || numbers.next().flatten();
    let (since, _, last, counters) = (next()?, next()?, next()?, next()?);
    (last > now).then_some(Noted { since, counters })
}

#[cfg(test)]
mod tests {
    use super::super::limits::Name;
    use super::*;
    use crate::wire::limit::{Dialect, Rate};

    #[test]
    fn keys_and_fields_are_pinned_and_no_field_has_a_value() {
        assert_eq!(key("team.chat"), b"aiquota:warned:{team.chat}");
        let name = Name { dialect: Dialect::V2, rule: "r", model: Some("m"), kept: Some(9), observed: false };
        let rate = Rate { tokens: 5, window_seconds: 60 };
        let prefix = "higress-token-ratelimit:{r} m ";
        let whole = field(80, Some(5), &Counter::global(name, rate));
        assert_eq!(whole, format!("80:5:{prefix}:global_threshold:60").into_bytes());
        for value in ["sk-1", "", "longer than it may be"] {
            let item = Counter::item(name, "limit_by_header", rate, "x-api-key", value.as_bytes());
            let expected = format!("100:5:{prefix}:limit_by_header:60:x-api-key:");
            assert_eq!(field(100, Some(5), &item), expected.into_bytes());
            let consumer = Counter::item(name, "limit_by_consumer", rate, "x-mse-consumer", value.as_bytes());
            let expected = format!("80:5:{prefix}:limit_by_consumer:60:x-mse-consumer:");
            assert_eq!(field(80, Some(5), &consumer), expected.into_bytes(), "the name of a consumer neither");
            let own = Counter::overridden(name, ("header", "x-api-key"), value.as_bytes());
            let expected = "80::higress-token-ratelimit:{r}:override:header:x-api-key:";
            assert_eq!(field(80, None, &own), expected.as_bytes());
        }
    }

    #[test]
    fn what_is_over_or_no_note_is_left_out() {
        let of = |notes: &[(&str, &str)], now| {
            let words = notes.iter().flat_map(|(field, text)| [field, text]);
            let words = words.map(|word| Reply::Bulk(word.as_bytes())).collect();
            noted(&Reply::Array(words), now).unwrap().into_iter().map(|(_, noted)| noted).collect::<Vec<_>>()
        };
        let notes = [("a", "100/160/200/3"), ("b", "x"), ("c", "100/160/200"), ("d", ""), ("e", "100/160/-/3")];
        assert_eq!(of(&notes, 199), [Noted { since: 100, counters: 3 }]);
        assert_eq!(of(&notes, 200), []);
        assert_eq!(noted(&Reply::Error(b"NOPERM x"), 0), Err(ReplyError::from_text(b"NOPERM x")));
        assert_eq!(noted(&Reply::Nil, 0), Err(ReplyError::Unexpected));
        assert_eq!(now(&Reply::Array(vec![Reply::Bulk(b"1763812800"), Reply::Bulk(b"5")])), Ok(1_763_812_800));
        assert_eq!(now(&Reply::Array(vec![])), Err(ReplyError::Unexpected));
    }
}
