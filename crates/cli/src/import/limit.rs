//! A rule of ai-token-ratelimit as the spec of an AITokenRateLimit without its targets: items by the same thing become
//! one rule, in which the first match decides. What that changes is told. Pure.

use enforcement::limit::pattern::Pattern;
use enforcement::rules::lenient::{integer, list, text};
use enforcement::wire::limit::Dialect;
use serde_json::{Map, Value, json};

use super::report::{Finding, Kind};
use super::rules::At;

const WINDOWS: [(&str, &str); 4] =
    [("token_per_second", "1s"), ("token_per_minute", "1m"), ("token_per_hour", "1h"), ("token_per_day", "1d")];

/// Where a value is taken from; of several limiters upstream takes the first of this list.
const LIMITERS: [(&str, &str, bool); 8] = [
    ("limit_by_per_consumer", "consumer", true),
    ("limit_by_consumer", "consumer", false),
    ("limit_by_per_cookie", "cookie", true),
    ("limit_by_per_param", "param", true),
    ("limit_by_per_header", "header", true),
    ("limit_by_cookie", "cookie", false),
    ("limit_by_param", "param", false),
    ("limit_by_header", "header", false),
];

#[derive(Clone)]
struct Limit {
    matches: Value,
    tokens: i64,
    window: &'static str,
}

/// The items by one thing.
struct ByOne {
    by: Value,
    /// Whether keys are patterns, by item.
    items: Vec<(bool, Vec<Limit>)>,
}

/// Nothing where it has no equivalent.
pub(crate) fn spec(
    config: &Map<String, Value>,
    dialect: Dialect,
    at: &At,
    findings: &mut Vec<Finding>,
) -> Option<Value> {
    let mut spec = json!({});
    let name = text(config.get("rule_name"));
    let may_be = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}' | b'.');
    if (1..=128).contains(&name.len()) && name.bytes().all(may_be) {
        spec["ruleName"] = json!(name);
    } else {
        let message = format!(
            "{name:?} cannot be chosen as ruleName (1 to 128 visible ASCII characters without braces and dots): \
                               counters get another name, and begin anew"
        );
        findings.push(at.finding(Kind::Differs, "rule_name", message));
    }
    if let Some(threshold) = config.get("global_threshold") {
        let (tokens, window) = rate(threshold)?;
        spec["global"] = json!([{"tokens": tokens, "window": window}]);
    }
    let items = list(config.get("rule_items"));
    let mut all: Vec<ByOne> = Vec::new();
    for item in items {
        let (by, patterns) = by(item)?;
        let limits: Option<Vec<Limit>> =
            list(item.get("limit_keys")).iter().map(|key| limit(key, &by, patterns)).collect();
        let limits = limits?;
        match all.iter_mut().find(|known| known.by == by) {
            Some(known) => known.items.push((patterns, limits)),
            None => all.push(ByOne { by, items: vec![(patterns, limits)] }),
        }
    }
    if dialect == Dialect::V1 && items.len() > 1 {
        let message = "of several items that match, the module's first generation enforces the first only; all of them will be \
                       enforced: stricter where a request is under more than one";
        findings.push(at.finding(Kind::Differs, "rule_items", message));
    }
    let mut rules = Vec::new();
    for one in all {
        let by = one.by.clone();
        let merged = match dialect {
            Dialect::V1 => Ok(one_after_another(one)),
            Dialect::V2 => together(one),
        };
        let Merged { limits, renames, halves } = match merged {
            Ok(merged) => merged,
            Err(why) => {
                findings.push(at.finding(Kind::Lost, "rule_items", format!("several items by {by}: {why}")));
                return None;
            }
        };
        if renames {
            let message = "items for keys and for patterns of the same thing become one rule: the counters of those keys get \
                           another name, and begin anew";
            findings.push(at.finding(Kind::Differs, "rule_items", message));
        }
        if halves {
            let message = "two items count at one counter, which the module charges twice; it will be charged once, against \
                           the smaller limit";
            findings.push(at.finding(Kind::Differs, "rule_items", message));
        }
        let limit = |Limit { matches, tokens, window }| json!({"match": matches, "tokens": tokens, "window": window});
        rules.push(json!({"by": by, "limits": limits.into_iter().map(limit).collect::<Vec<_>>()}));
    }
    if !rules.is_empty() {
        spec["rules"] = rules.into();
    }
    let mut rejection = Map::new();
    if let Some(code) = config.get("rejected_code") {
        rejection.insert("code".to_owned(), integer(Some(code)).into());
    }
    if let Some(message) = config.get("rejected_msg") {
        rejection.insert("message".to_owned(), text(Some(message)).into());
    }
    if !rejection.is_empty() {
        spec["rejection"] = rejection.into();
    }
    Some(spec)
}

fn by(item: &Value) -> Option<(Value, bool)> {
    let named = |key: &str| Some(text(item.get(key))).filter(|name| !name.is_empty());
    if let Some(place) = named("limit_by_per_ip") {
        return Some(match place.strip_prefix("from-header-") {
            Some(header) => (json!({"ip": {"fromHeader": header}}), false),
            None => (json!({"ip": {}}), false),
        });
    }
    LIMITERS.iter().find_map(|(key, field, patterns)| {
        let value = match *field {
            "consumer" => item.get(key).map(|_| json!({}))?,
            _ => json!(named(key)?),
        };
        Some((json!({*field: value}), *patterns))
    })
}

fn limit(key: &Value, by: &Value, patterns: bool) -> Option<Limit> {
    let (tokens, window) = rate(key)?;
    let key = text(key.get("key"));
    let matches = match key.strip_prefix("regexp:") {
        _ if by.get("ip").is_some() => json!({"cidr": key}),
        _ if !patterns => json!({"exact": key}),
        _ if key == "*" => json!({"any": true}),
        pattern => json!({"pattern": pattern?}),
    };
    Some(Limit { matches, tokens, window })
}

fn rate(holder: &Value) -> Option<(i64, &'static str)> {
    let (key, window) = WINDOWS.iter().find(|(key, _)| holder.get(key).is_some())?;
    Some((integer(holder.get(key)).min(enforcement::values::MAX_AMOUNT), window))
}

/// A rule's limits.
struct Merged {
    limits: Vec<Limit>,
    /// Whether counters get other names.
    renames: bool,
    /// Whether what was charged twice is charged once.
    halves: bool,
}

fn is_exact(limit: &Limit) -> bool {
    limit.matches.get("exact").is_some()
}

/// Keys and patterns in one rule: natively its counters have one name for both.
fn renames(limits: &[Limit]) -> bool {
    limits.iter().any(is_exact) && !limits.iter().all(is_exact)
}

/// Items of which the first that matches decides, and in it the first match: one list.
fn one_after_another(ByOne { by: _, items }: ByOne) -> Merged {
    let limits = first_of_each(items.into_iter().flat_map(|(_, limits)| limits).collect());
    Merged { renames: renames(&limits), limits, halves: false }
}

/// Items that decide together, each by its own first match, as one list of which the first match decides.
fn together(ByOne { by: _, items }: ByOne) -> Result<Merged, &'static str> {
    let items: Vec<Vec<Limit>> = items.into_iter().map(|(_, limits)| first_of_each(limits)).collect();
    let matches = |limits: &[Limit]| limits.iter().map(|limit| limit.matches.clone()).collect::<Vec<_>>();
    let first = matches(&items[0]);
    if items.iter().all(|limits| matches(limits) == first) {
        let all = (0..first.len()).flat_map(|place| items.iter().map(move |limits| limits[place].clone())).collect();
        let (limits, halves) = each_window_once(all);
        return Ok(Merged { limits, renames: false, halves });
    }
    if items.iter().filter(|limits| !limits.iter().all(is_exact)).count() > 1 {
        return Err("which of their patterns a value is under together cannot be said in one list");
    }
    // Each key has what it has in all items, before anything else is looked at.
    let keys = first_of_each(items.iter().flatten().filter(|limit| is_exact(limit)).cloned().collect());
    let mut all = Vec::new();
    for key in keys {
        let value = key.matches["exact"].as_str().unwrap_or_default();
        for limits in &items {
            let found = limits.iter().find(|limit| covers(&limit.matches, value));
            all.extend(found.map(|limit| Limit { matches: key.matches.clone(), ..limit.clone() }));
        }
    }
    all.extend(items.iter().flatten().filter(|limit| !is_exact(limit)).cloned());
    let (limits, _) = each_window_once(all);
    Ok(Merged { renames: renames(&limits), limits, halves: false })
}

/// A match that is there already is never reached.
fn first_of_each(limits: Vec<Limit>) -> Vec<Limit> {
    let mut kept: Vec<Limit> = Vec::with_capacity(limits.len());
    for limit in limits {
        if !kept.iter().any(|known| known.matches == limit.matches) {
            kept.push(limit);
        }
    }
    kept
}

/// Of two limits of one match and window only the smaller is ever reached. Whether there were any.
fn each_window_once(limits: Vec<Limit>) -> (Vec<Limit>, bool) {
    let count = limits.len();
    let mut kept: Vec<Limit> = Vec::with_capacity(count);
    for limit in limits {
        match kept.iter_mut().find(|known| known.matches == limit.matches && known.window == limit.window) {
            Some(known) => known.tokens = known.tokens.min(limit.tokens),
            None => kept.push(limit),
        }
    }
    let fewer = kept.len() < count;
    (kept, fewer)
}

fn covers(matches: &Value, value: &str) -> bool {
    if let Some(exact) = matches.get("exact").and_then(Value::as_str) {
        return exact == value;
    }
    match matches.get("pattern").and_then(Value::as_str) {
        Some(pattern) => Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(value.as_bytes())),
        None => matches.get("any").is_some(),
    }
}
