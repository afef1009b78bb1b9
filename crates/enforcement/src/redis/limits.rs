//! The counters of token rate limits: their keys, as upstream's module spells them, the calls of `limits.lua`, and what
//! they answer. Names, numbers and replies come in; calls and states of counters go out. Pure.

use std::borrow::Cow;
use std::fmt;

use super::check::Hold;
use super::error::ReplyError;
use super::overrides::Overrides;
use super::resp::{Reply, decimal};
use super::script::{Invocation, Library};
use super::warned::{self, Warn};
use crate::identity;
use crate::values::MAX_AMOUNT;
use crate::wire::limit::{Dialect, Rate};

/// What `limits.lua` is, without its comments, and how Redis names it.
pub static LIMITS: Library = Library {
    source: include_str!(concat!(env!("OUT_DIR"), "/limits.lua")),
    sha1: include_str!(concat!(env!("OUT_DIR"), "/limits.sha1")),
};

const PREFIX: &str = "higress-token-ratelimit";

/// What counters of one rule are told from others by.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    pub dialect: Dialect,
    pub rule: &'a str,
    /// The declared model that they are for alone; only in our own form, which is `v2`.
    pub model: Option<&'a str>,
    /// The longest value that stands in keys as it is, and not digested; nothing in upstream's form, where all do.
    pub kept: Option<usize>,
    /// Those of requests that are only observed; only in our own form.
    pub observed: bool,
}

/// The key of a counter: an integer that expires with its window.
#[derive(Clone, PartialEq, Eq)]
pub struct Counter {
    key: Vec<u8>,
    /// How much of the key may be shown: the value after it may be a client's credential.
    shown: usize,
    /// How much of the key all values of one limit have in common.
    common: usize,
}

impl Counter {
    /// Counts all requests under a rule name.
    #[must_use]
    pub fn global(name: Name<'_>, rate: Rate) -> Self {
        Self::shown(format!("{PREFIX}:{name}:global_threshold:{}", rate.window_seconds))
    }

    /// Counts the requests with one value: `limiter` is upstream's name of what is looked at, `key` whose value.
    #[must_use]
    pub fn item(name: Name<'_>, limiter: &str, rate: Rate, key: &str, value: &[u8]) -> Self {
        let mut counter = Self::shown(format!("{PREFIX}:{name}:{limiter}:{}:{key}:", rate.window_seconds));
        counter.key.extend_from_slice(&name.spelled(value));
        // The names of consumers are no secrets.
        if key.eq_ignore_ascii_case(identity::HEADER) {
            counter.shown = counter.key.len();
        }
        counter
    }

    /// Counts the requests with one value that has a limit of its own, of whichever window.
    #[must_use]
    pub fn overridden(name: Name<'_>, by: (&str, &str), value: &[u8]) -> Self {
        let (source, key) = by;
        let name = Name { model: None, ..name };
        let mut counter = Self::shown(format!("{PREFIX}:{name}:override:{source}:{key}:"));
        counter.key.extend_from_slice(&name.spelled(value));
        if source == "consumer" || key.eq_ignore_ascii_case(identity::HEADER) {
            counter.shown = counter.key.len();
        }
        counter
    }

    /// No counter, but what is asked for in one's place.
    #[must_use]
    pub fn overrides(key: &Overrides) -> Self {
        let (key, length) = (key.as_bytes().to_vec(), key.as_bytes().len());
        Self { key, shown: length, common: length }
    }

    fn shown(key: String) -> Self {
        Self { shown: key.len(), common: key.len(), key: key.into_bytes() }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.key
    }

    /// What the keys of all values of its limit begin with.
    pub(super) fn common(&self) -> &[u8] {
        &self.key[..self.common]
    }
}

/// With braces all counters of a rule are in one hash slot, those of its models too. Neither rules nor models have blanks:
/// what stands between two is a model. No limiter of upstream's is called `observed`.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dialect, rule, model, kept: _, observed } = *self;
        match (dialect, model) {
            (Dialect::V1, _) => f.write_str(rule)?,
            (Dialect::V2, None) => write!(f, "{{{rule}}}")?,
            (Dialect::V2, Some(model)) => write!(f, "{{{rule}}} {model} ")?,
        }
        f.write_str(if observed { ":observed" } else { "" })
    }
}

impl Name<'_> {
    /// What stands in a key for a value: a long one would fill Redis, and is told from others by its SHA-1. So is one that
    /// could be mistaken for such.
    fn spelled<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        const DIGEST: &[u8] = b"sha1:";
        if self.kept.is_none_or(|kept| value.len() <= kept && !value.starts_with(DIGEST)) {
            return Cow::Borrowed(value);
        }
        let digest = sha1_smol::Sha1::from(value).digest().to_string();
        Cow::Owned([DIGEST, digest.as_bytes()].concat())
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counter({self})")
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, value) = self.key.split_at(self.shown);
        let hidden = if value.is_empty() { "" } else { "<hidden>" };
        write!(f, "{}{hidden}", shown.escape_ascii())
    }
}

/// A limit that a request is under, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub counter: Counter,
    pub asks: Asks,
}

/// What a key is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A counter, of which no more than this may be counted.
    Rate(Rate),
    /// The same, for values without a limit of their own.
    Unless(Rate),
    /// No counter: the overrides of a rule, and which [`super::overrides::field`] is looked up there. Those that give way to
    /// what is found come after.
    Overrides(String),
    /// The counter of a value that is found in the overrides before it, which have the rate.
    Override,
}

/// Where a counter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub tokens: i64,
    pub counted: i64,
    /// Seconds until its window ends.
    pub left: i64,
}

impl State {
    /// Whether a request is refused: exactly at the limit it still passes.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.counted > self.tokens
    }

    /// The same with so much more counted.
    #[must_use]
    pub const fn after(self, tokens: i64) -> Self {
        Self { counted: self.counted.saturating_add(tokens), ..self }
    }

    /// Whether it limits at all: what is not for the value that asks is answered as the largest number.
    #[must_use]
    pub const fn applies(&self) -> bool {
        self.tokens < MAX_AMOUNT
    }
}

/// Asks where the counters of a request stand. Changes nothing.
#[must_use]
pub fn check(limits: &[Limit]) -> Invocation {
    rates(Invocation::of(&LIMITS, keys(limits), "check"), limits)
}

/// The same, but fails where a charge would: a store that is full, or a replica, could not count what it admits.
#[must_use]
pub fn probe(limits: &[Limit]) -> Invocation {
    rates(Invocation::of(&LIMITS, keys(limits), "probe"), limits)
}

/// Counts what a request used, 1 to `MAX_AMOUNT` tokens. `warn`: when somebody is to be warned of a counter, see
/// [`warned()`].
#[must_use]
pub fn charge(limits: &[Limit], tokens: i64, warn: Option<Warn<'_>>) -> Invocation {
    let call = Invocation::of(&LIMITS, [keys(limits), noted(warn)].concat(), "charge");
    warning(rates(call.number(tokens.clamp(1, MAX_AMOUNT)), limits), limits, warn)
}

/// Holds so much in all of them, if it is left besides what is counted and held there; else in none.
#[must_use]
pub fn reserve(limits: &[Limit], need: i64, Hold { id, expires_in }: Hold<'_>) -> Invocation {
    let call = Invocation::of(&LIMITS, [keys(limits), holds(limits)].concat(), "reserve");
    rates(call.number(need.max(1)).text(id).number(expires_in.into()), limits)
}

/// Counts what a request used, 0 to `MAX_AMOUNT` tokens, and drops what was held for it.
#[must_use]
pub fn settle(limits: &[Limit], tokens: i64, hold: &[u8], warn: Option<Warn<'_>>) -> Invocation {
    let call = Invocation::of(&LIMITS, [keys(limits), holds(limits), noted(warn)].concat(), "settle");
    warning(rates(call.number(tokens.clamp(0, MAX_AMOUNT)).text(hold), limits), limits, warn)
}

/// Lets a hold last from now on as long as when it was made. One that is not there any more is not made again.
#[must_use]
pub fn renew(limits: &[Limit], Hold { id, expires_in }: Hold<'_>) -> Invocation {
    Invocation::of(&LIMITS, holds(limits), "renew").text(id).number(expires_in.into())
}

/// What is held of each counter, and how much by whom. No counter begins so, whatever value a client has sent.
fn holds(limits: &[Limit]) -> Vec<Vec<u8>> {
    let of = |limit: &Limit| {
        ["aiquota:holds:", "aiquota:amounts:"].map(|prefix| [prefix.as_bytes(), limit.counter.as_bytes()].concat())
    };
    limits.iter().flat_map(of).collect()
}

fn keys(limits: &[Limit]) -> Vec<Vec<u8>> {
    limits.iter().map(|limit| limit.counter.as_bytes().to_vec()).collect()
}

fn rates(call: Invocation, limits: &[Limit]) -> Invocation {
    limits.iter().fold(call, |call, Limit { asks, .. }| match asks {
        Asks::Rate(rate) => call.text(&decimal(rate.tokens)).number(rate.window_seconds.into()),
        Asks::Unless(rate) => call.text(&decimal(rate.tokens)).number(-i64::from(rate.window_seconds)),
        Asks::Overrides(field) => call.text(field.as_bytes()).text(b"overrides"),
        Asks::Override => call.text(b"").text(b"override"),
    })
}

fn noted(warn: Option<Warn<'_>>) -> Vec<Vec<u8>> {
    warn.and_then(|warn| warn.noted).map(warned::key).into_iter().collect()
}

fn warning(call: Invocation, limits: &[Limit], warn: Option<Warn<'_>>) -> Invocation {
    let Some(Warn { percent, noted }) = warn else { return call };
    let noted = noted.map_or(&[][..], |_| limits);
    let length = |Limit { counter, .. }: &Limit| i64::try_from(counter.common).unwrap_or(0);
    noted.iter().map(length).fold(call.number(percent.into()), Invocation::number)
}

/// How many counters a charge made reach the share of their limit at which somebody is to be warned.
#[must_use]
pub fn warned(reply: &Reply<'_>) -> i64 {
    let Reply::Array(all) = reply else { return 0 };
    all.iter().map(|one| i64::from(matches!(one, Reply::Array(numbers) if numbers.len() == 4))).sum()
}

/// Where each counter stands, in order; nothing for what is no counter. One counter may be answered without the list
/// around it, as upstream's first generation does.
///
/// # Errors
/// If the reply is an error, or no list of so many.
pub fn states(reply: &Reply<'_>, count: usize) -> Result<Vec<Option<State>>, ReplyError> {
    let all = match reply {
        Reply::Error(text) => return Err(ReplyError::from_text(text)),
        Reply::Array(all) => all,
        _ => return Err(ReplyError::Unexpected),
    };
    let nested = all.iter().any(|one| matches!(one, Reply::Array(_)));
    let states: Vec<_> = if nested { all.iter().map(state).collect() } else { vec![state(reply)] };
    let readable = nested || states.iter().all(Option::is_some);
    if states.len() == count && readable { Ok(states) } else { Err(ReplyError::Unexpected) }
}

fn state(reply: &Reply<'_>) -> Option<State> {
    let Reply::Array(numbers) = reply else { return None };
    let [tokens, counted, left, ..] = numbers.as_slice() else { return None };
    Some(State { tokens: tokens.integer()?, counted: counted.integer()?, left: left.integer()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::KEPT_MAX;

    const RATE: Rate = Rate { tokens: 5, window_seconds: 60 };

    #[test]
    fn keys_are_upstreams_byte_for_byte() {
        let name = |dialect, rule| Name { dialect, rule, model: None, kept: Some(KEPT_MAX), observed: false };
        let global = |dialect| Counter::global(name(dialect, "default_rule"), RATE).key;
        assert_eq!(global(Dialect::V1), b"higress-token-ratelimit:default_rule:global_threshold:60");
        assert_eq!(global(Dialect::V2), b"higress-token-ratelimit:{default_rule}:global_threshold:60");
        let day = Rate { tokens: 5, window_seconds: 86_400 };
        let item =
            |dialect, limiter, key, value: &[u8]| Counter::item(name(dialect, "r"), limiter, day, key, value).key;
        assert_eq!(
            item(Dialect::V1, "limit_by_per_header", "x-api-key", b"a:b\xff"),
            b"higress-token-ratelimit:r:limit_by_per_header:86400:x-api-key:a:b\xff"
        );
        assert_eq!(
            item(Dialect::V2, "limit_by_consumer", "x-mse-consumer", b"user1"),
            b"higress-token-ratelimit:{r}:limit_by_consumer:86400:x-mse-consumer:user1"
        );
        assert_eq!(
            item(Dialect::V2, "limit_by_per_ip", "from-remote-addr", b"10.0.0.1"),
            b"higress-token-ratelimit:{r}:limit_by_per_ip:86400:from-remote-addr:10.0.0.1"
        );
    }

    #[test]
    fn counters_of_a_model_are_in_the_slot_of_its_rule_and_no_rules_own() {
        let name =
            Name { dialect: Dialect::V2, rule: "r", model: Some("gpt-4*"), kept: Some(KEPT_MAX), observed: false };
        assert_eq!(Counter::global(name, RATE).key, b"higress-token-ratelimit:{r} gpt-4* :global_threshold:60");
        assert_eq!(
            Counter::item(name, "limit_by_consumer", RATE, "x-mse-consumer", b"user1").key,
            b"higress-token-ratelimit:{r} gpt-4* :limit_by_consumer:60:x-mse-consumer:user1"
        );
    }

    #[test]
    fn the_counter_of_an_overridden_value_is_in_the_rules_slot_and_shows_none_but_consumers() {
        let name = Name { dialect: Dialect::V2, rule: "r", model: Some("m"), kept: Some(KEPT_MAX), observed: false };
        let counter = |by, value| Counter::overridden(name, by, value).to_string();
        let prefix = "higress-token-ratelimit:{r}:override";
        assert_eq!(counter(("header", "k"), b"sk-1"), format!("{prefix}:header:k:<hidden>"));
        assert_eq!(counter(("consumer", ""), b"user1"), format!("{prefix}:consumer::user1"));
        let key = Counter::overridden(name, ("param", "k"), b"a:b").as_bytes().to_vec();
        assert_eq!(key, format!("{prefix}:param:k:a:b").into_bytes());
        let observed = Counter::overridden(Name { observed: true, ..name }, ("consumer", ""), b"user1");
        assert_eq!(observed.to_string(), "higress-token-ratelimit:{r}:observed:override:consumer::user1");
    }

    #[test]
    fn what_is_only_observed_is_counted_under_a_name_of_its_own_in_the_same_slot() {
        let name = |model| Name { dialect: Dialect::V2, rule: "r", model, kept: Some(KEPT_MAX), observed: true };
        assert_eq!(Counter::global(name(None), RATE).key, b"higress-token-ratelimit:{r}:observed:global_threshold:60");
        let item = Counter::item(name(Some("m*")), "limit_by_header", RATE, "k", b"v");
        assert_eq!(item.key, b"higress-token-ratelimit:{r} m* :observed:limit_by_header:60:k:v");
    }

    #[test]
    fn a_long_value_is_digested_in_our_form_and_no_value_is_taken_for_such() {
        let name = |kept| Name { dialect: Dialect::V2, rule: "r", model: None, kept, observed: false };
        let key = |kept, value: &[u8]| {
            let key = Counter::item(name(kept), "limit_by_header", RATE, "k", value).key;
            String::from_utf8(key)
                .unwrap()
                .strip_prefix("higress-token-ratelimit:{r}:limit_by_header:60:k:")
                .unwrap()
                .to_owned()
        };
        let (kept, long) = ("v".repeat(KEPT_MAX), "v".repeat(KEPT_MAX + 1));
        assert_eq!(key(Some(KEPT_MAX), kept.as_bytes()), kept);
        assert_eq!(key(None, long.as_bytes()), long, "upstream's keys stay");
        let digest = key(Some(KEPT_MAX), long.as_bytes());
        assert_eq!((digest.len(), &digest[..5]), (45, "sha1:"));
        assert_ne!(
            key(Some(KEPT_MAX), digest.as_bytes()),
            digest,
            "who sends a digest does not reach the counter of its value"
        );
        assert_ne!(key(Some(KEPT_MAX), [long.as_bytes(), b"v"].concat().as_slice()), digest);
        let own = Counter::overridden(name(Some(KEPT_MAX)), ("header", "k"), long.as_bytes());
        assert!(own.key.ends_with(digest.as_bytes()));
        assert_eq!(key(Some(0), b"sk-1"), "sha1:76ce15edd5a8548603b6fd281d185f323234758f", "where none is kept");
    }

    #[test]
    fn one_call_names_all_counters_and_their_rates() {
        let limit = |name: &str, tokens| Limit {
            counter: Counter::shown(name.to_owned()),
            asks: Asks::Rate(Rate { tokens, ..RATE }),
        };
        let limits = [limit("a", 1), limit("b", 2)];
        let words = |call: Invocation| -> Vec<String> {
            call.evalsha().words().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        assert_eq!(words(check(&limits)), ["EVALSHA", LIMITS.sha1, "2", "a", "b", "check", "1", "60", "2", "60"]);
        assert_eq!(words(probe(&limits))[5], "probe");
        assert_eq!(
            words(charge(&limits, i64::MAX, None)),
            ["EVALSHA", LIMITS.sha1, "2", "a", "b", "charge", "9007199254740991", "1", "60", "2", "60"]
        );
        assert_eq!(charge(&limits, 0, None).args()[1], b"1");
        let warn = |noted| Some(Warn { percent: 80, noted });
        assert_eq!(words(charge(&limits, 7, warn(None)))[5..], ["charge", "7", "1", "60", "2", "60", "80"]);
        let noting = words(charge(&limits, 7, warn(Some("r"))));
        assert_eq!(noting[2..6], ["3", "a", "b", "aiquota:warned:{r}"]);
        assert_eq!(noting[6..], ["charge", "7", "1", "60", "2", "60", "80", "1", "1"]);
        let hold = Hold { id: b"7-1", expires_in: 60 };
        let holds = ["aiquota:holds:a", "aiquota:amounts:a", "aiquota:holds:b", "aiquota:amounts:b"];
        let with = |args: &[&'static str]| [&["EVALSHA", LIMITS.sha1, "6", "a", "b"], &holds[..], args].concat();
        let reserved = with(&["reserve", "70", "7-1", "60", "1", "60", "2", "60"]);
        assert_eq!(words(reserve(&limits, 70, hold)), reserved);
        let settled = |warn| words(settle(&limits, 0, b"7-1", warn));
        assert_eq!(settled(None), with(&["settle", "0", "7-1", "1", "60", "2", "60"]));
        assert_eq!(settled(warn(None)), with(&["settle", "0", "7-1", "1", "60", "2", "60", "80"]));
        let noting = settled(warn(Some("r")));
        assert_eq!((noting[2].as_str(), noting[9].as_str()), ("7", "aiquota:warned:{r}"));
        assert_eq!(noting[10..], ["settle", "0", "7-1", "1", "60", "2", "60", "80", "1", "1"]);
        assert_eq!(words(renew(&limits, hold))[2..], [&["4"], &holds[..], &["renew", "7-1", "60"]].concat());
        let asks = |name: &str, asks| Limit { counter: Counter::shown(name.to_owned()), asks };
        let overridden = [
            asks("hash", Asks::Overrides("5f".to_owned())),
            asks("one", Asks::Override),
            asks("own", Asks::Unless(RATE)),
        ];
        let args = ["check", "5f", "overrides", "", "override", "5", "-60"];
        assert_eq!(words(check(&overridden))[3..], [&["hash", "one", "own"][..], &args[..]].concat());
        assert_eq!(check(&limits).eval().words().nth(1), Some(LIMITS.source.as_bytes()));
    }

    #[test]
    fn the_value_of_a_counter_is_not_shown_for_it_may_be_a_credential() {
        let counter = Counter::item(
            Name { dialect: Dialect::V2, rule: "r", model: None, kept: Some(KEPT_MAX), observed: false },
            "limit_by_per_header",
            RATE,
            "x-api-key",
            b"sk-1:2",
        );
        let shown =
            format!("higress-token-ratelimit:{{r}}:limit_by_per_header:{}:x-api-key:<hidden>", RATE.window_seconds);
        assert_eq!((counter.to_string(), format!("{counter:?}")), (shown.clone(), format!("Counter({shown})")));
        assert!(counter.as_bytes().ends_with(b":sk-1:2"));
    }

    #[test]
    fn both_shapes_of_replies_are_read() {
        let parse = |bytes: &str, count| states(&Reply::parse(bytes.as_bytes()).unwrap(), count);
        let state = |tokens, counted, left| Some(State { tokens, counted, left });
        assert_eq!(parse("*3\r\n:5\r\n:6\r\n:60\r\n", 1), Ok(vec![state(5, 6, 60)]));
        assert_eq!(parse("*3\r\n$1\r\n5\r\n$1\r\n6\r\n:60\r\n", 1), Ok(vec![state(5, 6, 60)]));
        assert_eq!(parse("*1\r\n*3\r\n:5\r\n:6\r\n:60\r\n", 1), Ok(vec![state(5, 6, 60)]));
        let two = "*2\r\n*3\r\n:5\r\n:6\r\n:60\r\n*3\r\n:1\r\n$1\r\nx\r\n:2\r\n";
        assert_eq!(parse(two, 2), Ok(vec![state(5, 6, 60), None]));
        assert_eq!(parse("*2\r\n*3\r\n:5\r\n:6\r\n:60\r\n*2\r\n:1\r\n:2\r\n", 2), Ok(vec![state(5, 6, 60), None]));
        for (bytes, count) in [
            (two, 1),
            (two, 3),
            ("*3\r\n:5\r\n:6\r\n:60\r\n", 2),
            ("*3\r\n:5\r\n$1\r\nx\r\n:60\r\n", 1),
            ("*2\r\n:5\r\n:6\r\n", 1),
            ("*0\r\n", 1),
            ("$-1\r\n", 1),
            (":5\r\n", 1),
        ] {
            assert_eq!(parse(bytes, count), Err(ReplyError::Unexpected), "{bytes:?}");
        }
        assert_eq!(parse("-NOSCRIPT x\r\n", 1), Err(ReplyError::NoScript));
        let crossed = "*3\r\n*4\r\n:5\r\n:4\r\n:60\r\n:1\r\n*3\r\n:9\r\n:4\r\n:60\r\n*4\r\n:4\r\n:4\r\n:1\r\n:1\r\n";
        assert_eq!(parse(crossed, 3), Ok(vec![state(5, 4, 60), state(9, 4, 60), state(4, 4, 1)]));
        assert_eq!([crossed, two, ":5\r\n"].map(|bytes| warned(&Reply::parse(bytes.as_bytes()).unwrap())), [2, 0, 0]);
    }

    #[test]
    fn exactly_at_the_limit_a_request_still_passes() {
        let over = |counted| State { tokens: 5, counted, left: 60 }.is_over();
        assert!(!over(0) && !over(5) && over(6));
    }
}
