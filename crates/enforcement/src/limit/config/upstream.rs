//! Upstream's own configuration of ai-token-ratelimit, of both generations. In: the keys of a rule or of the default.
//! Out: a policy. Pure.

use serde_json::{Map, Value};

use super::{Flavor, Limits, Policy};
use crate::config::{Invalid, Stores};
use crate::limit::rule::{Rule, Source};
use crate::models::Models;
use crate::rules::lenient::{integer, list, text};
use crate::values::{DEFAULT_REJECTION_CODE, DEFAULT_REJECTION_MESSAGE, MAX_AMOUNT, REJECTION_CODE_MAX, RULES_MAX};
use crate::wire::Ends;
use crate::wire::limit::{Dialect, Match, Rate, Rejection};

/// Keys of a rate and the seconds of its window.
const WINDOWS: [(&str, u32); 4] =
    [("token_per_second", 1), ("token_per_minute", 60), ("token_per_hour", 3_600), ("token_per_day", 86_400)];

/// The lowest code that an answer may have; upstream sends any.
const CODE_MIN: i64 = 200;

pub(super) fn policy(keys: &Map<String, Value>, dialect: Dialect, stores: &mut Stores) -> Result<Policy, Invalid> {
    let Some(rule_name) = keys.get("rule_name") else { return Err(Invalid::new("rule_name", "is missing")) };
    let global = match keys.get("global_threshold") {
        None => Vec::new(),
        Some(threshold) => vec![rate(threshold).map_err(|invalid| invalid.under("global_threshold"))?],
    };
    let rules = match keys.get("rule_items") {
        None if global.is_empty() => {
            return Err(Invalid::new("rule_items", "is missing, and so is global_threshold"));
        }
        None => Vec::new(),
        Some(_) if dialect == Dialect::V1 && !global.is_empty() => {
            return Err(Invalid::new("rule_items", "stands beside global_threshold, which v1 cannot"));
        }
        some => rules(list(some), dialect)?,
    };
    let rejection = Rejection { code: code(keys.get("rejected_code"))?, message: message(keys.get("rejected_msg")) };
    Ok(Policy {
        store: stores.upstream(keys)?,
        rule_name: text(Some(rule_name)),
        flavor: Flavor::Upstream(dialect),
        limits: Limits { global, rules },
        models: Models::none(),
        rejection,
        reserve: None,
        ends: Ends::default(),
    })
}

fn code(code: Option<&Value>) -> Result<u16, Invalid> {
    let Some(code) = code else { return Ok(DEFAULT_REJECTION_CODE) };
    let code = Some(integer(Some(code))).filter(|code| (CODE_MIN..=REJECTION_CODE_MAX.into()).contains(code));
    code.and_then(|code| u16::try_from(code).ok()).ok_or_else(|| Invalid::new("rejected_code", "is not a status"))
}

fn message(message: Option<&Value>) -> String {
    message.map_or_else(|| DEFAULT_REJECTION_MESSAGE.into(), |message| text(Some(message)))
}

fn rules(items: &[Value], dialect: Dialect) -> Result<Vec<Rule>, Invalid> {
    match items.len() {
        0 => Err(Invalid::new("rule_items", "is empty")),
        more if more > RULES_MAX && dialect == Dialect::V2 => Err(Invalid::new("rule_items", "has more than 10 items")),
        _ => (0_usize..)
            .zip(items)
            .map(|(index, item)| rule(item).map_err(|invalid| invalid.under(&format!("rule_items[{index}]"))))
            .collect(),
    }
}

/// What a rule's keys are matched as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    Exact,
    Patterns,
    Networks,
}

fn rule(item: &Value) -> Result<Rule, Invalid> {
    let (source, keys) = source(item)?;
    let mut rule = Rule::new(source);
    let Some(limit_keys) = item.get("limit_keys") else { return Err(Invalid::new("limit_keys", "is missing")) };
    for (index, limit) in (0_usize..).zip(list(Some(limit_keys))) {
        let field = format!("limit_keys[{index}]");
        let key = text(limit.get("key"));
        let matches = match keys {
            _ if key.is_empty() => return Err(Invalid::new(format!("{field}.key"), "is missing")),
            Keys::Exact => Match::Exact(key),
            Keys::Networks => Match::Cidr(key),
            Keys::Patterns if key == "*" => Match::Any,
            Keys::Patterns => match key.strip_prefix("regexp:") {
                Some(pattern) => Match::Pattern(pattern.into()),
                None => return Err(Invalid::new(format!("{field}.key"), "is neither * nor begins with regexp:")),
            },
        };
        let rate = rate(limit).map_err(|invalid| invalid.under(&field))?;
        rule.add(&matches, rate).map_err(|unusable| Invalid::new(format!("{field}.key"), unusable.problem()))?;
    }
    if rule.is_empty() { Err(Invalid::new("limit_keys", "is empty")) } else { Ok(rule) }
}

/// Makes a source of a name.
type Named = fn(String) -> Source;

/// Whose value; of several limiters upstream takes the last of this list.
fn source(item: &Value) -> Result<(Source, Keys), Invalid> {
    let named = |key: &str| Some(text(item.get(key))).filter(|name| !name.is_empty());
    if let Some(place) = named("limit_by_per_ip") {
        return match place.strip_prefix("from-header-") {
            Some(header) if !header.is_empty() => Ok((Source::AddressIn(header.into()), Keys::Networks)),
            None if place == "from-remote-addr" => Ok((Source::Connection, Keys::Networks)),
            _ => Err(Invalid::new("limit_by_per_ip", "is neither from-remote-addr nor from-header-<name>")),
        };
    }
    if item.get("limit_by_per_consumer").is_some() {
        return Ok((Source::Consumer, Keys::Patterns));
    }
    if item.get("limit_by_consumer").is_some() {
        return Ok((Source::Consumer, Keys::Exact));
    }
    let kinds: [(&str, Named, Keys); 6] = [
        ("limit_by_per_cookie", Source::Cookie, Keys::Patterns),
        ("limit_by_per_param", Source::Param, Keys::Patterns),
        ("limit_by_per_header", Source::Header, Keys::Patterns),
        ("limit_by_cookie", Source::Cookie, Keys::Exact),
        ("limit_by_param", Source::Param, Keys::Exact),
        ("limit_by_header", Source::Header, Keys::Exact),
    ];
    let found = kinds.into_iter().find_map(|(key, source, keys)| Some((source(named(key)?), keys)));
    found.ok_or_else(|| Invalid::new("limit_by_header", "is missing, and so is every other limiter"))
}

fn rate(holder: &Value) -> Result<Rate, Invalid> {
    let mut rates = WINDOWS.iter().filter_map(|(key, window)| Some((key, *window, holder.get(key)?)));
    let Some((key, window_seconds, tokens)) = rates.next() else {
        return Err(Invalid::new("token_per_minute", "is missing, and so is every other rate"));
    };
    // Which of two upstream takes is left to chance.
    if rates.next().is_some() {
        return Err(Invalid::new(*key, "is not the only rate"));
    }
    match integer(Some(tokens)) {
        // What is more cannot be counted, and is as good as no limit.
        tokens if tokens > 0 => Ok(Rate { tokens: tokens.min(MAX_AMOUNT), window_seconds }),
        _ => Err(Invalid::new(*key, "is not a positive integer")),
    }
}
