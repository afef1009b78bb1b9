//! Limits of single values: Secrets and ConfigMaps in, each value's hash with its limit out, or the lines that cannot be
//! read. Values are not kept, and no message has one. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    str,
};

use api::{AiTokenRateLimit, By, OverridesFrom, OverridesKind, Rule};
use enforcement::{
    redis::overrides,
    values::{MAX_AMOUNT, is_consumer},
    wire::limit::Rate,
};
use sha1_smol::Sha1;

use crate::{Key, World, kind::rule_name, validate::seconds};

/// Values of one rule. All of them are written to Redis at once.
const VALUES_MAX: usize = 10_000;
/// Bytes of one value.
const VALUE_MAX_LENGTH: usize = 4_096;

/// Hashes and limits, in order.
pub(crate) type Entries = Vec<(String, String)>;

/// Why the overrides of a rule cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverridesProblem {
    /// The index of the rule in the spec.
    rule: usize,
    kind: OverridesKind,
    namespace: String,
    name: String,
    /// The key of the data and the number of the line, from 1.
    line: Option<(String, usize)>,
    problem: &'static str,
}

impl OverridesProblem {
    /// The field that names the Secret or ConfigMap.
    #[must_use]
    pub fn field(&self) -> String {
        format!("spec.rules[{}].overridesFrom", self.rule)
    }
}

impl fmt::Display for OverridesProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule: _, kind, namespace, name, line, problem } = self;
        let kind = match kind {
            OverridesKind::Secret => "Secret",
            OverridesKind::ConfigMap => "ConfigMap",
        };
        let field = self.field();
        write!(f, "{field}: {kind} {namespace}/{name}")?;
        if let Some((key, line)) = line {
            write!(f, ", key {key}, line {line}:")?;
        }
        write!(f, " {problem}")
    }
}

/// What the rule's Secrets and ConfigMaps say, which are in the gateway's namespace, or the first that cannot be read.
pub(crate) fn read(world: &World, at: usize, rule: &Rule, rule_name: &str) -> Result<Entries, OverridesProblem> {
    let mut entries = HashMap::new();
    each(world, at, rule, rule_name, &mut entries, Err)?;
    Ok(entries.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
}

/// All of an object that cannot be read, where `read` tells the first.
#[must_use]
pub fn overrides_problems(world: &World, limit: &AiTokenRateLimit) -> Vec<OverridesProblem> {
    let (mut found, name) = (Vec::new(), rule_name(limit, &Key::of(&limit.metadata)));
    for (at, rule) in limit.spec.rules.iter().enumerate() {
        let told = each(world, at, rule, &name, &mut HashMap::new(), |problem| {
            found.push(problem);
            Ok(())
        });
        found.extend(told.err());
    }
    found
}

/// `tell` decides whether reading goes on after a problem.
fn each(
    world: &World,
    at: usize,
    rule: &Rule,
    rule_name: &str,
    entries: &mut HashMap<String, String>,
    mut tell: impl FnMut(OverridesProblem) -> Result<(), OverridesProblem>,
) -> Result<(), OverridesProblem> {
    let namespace = &world.settings.gateway_namespace;
    for OverridesFrom { kind, name } in &rule.overrides_from {
        let problem = |line, problem| OverridesProblem {
            rule: at,
            kind: *kind,
            namespace: namespace.clone(),
            name: name.clone(),
            line,
            problem,
        };
        let Some(data) = data(world, *kind, name) else {
            tell(problem(None, "does not exist"))?;
            continue;
        };
        for (key, text) in data {
            let at = |line| Some((key.to_owned(), line));
            let Ok(text) = str::from_utf8(text) else {
                tell(problem(at(1), "is no UTF-8 text"))?;
                continue;
            };
            for (number, line) in (1..).zip(text.lines()) {
                let (value, rate) = match said(line, &rule.by) {
                    Ok(Some(said)) => said,
                    Ok(None) => continue,
                    Err(why) => {
                        tell(problem(at(number), why))?;
                        continue;
                    }
                };
                let field = overrides::field(rule_name, value.as_bytes());
                if entries.insert(field, overrides::limit(rate)).is_some() {
                    tell(problem(at(number), "names a value that has a limit already"))?;
                }
                if entries.len() > VALUES_MAX {
                    return Err(problem(at(number), "is more than the 10000 values that one rule may have"));
                }
            }
        }
    }
    Ok(())
}

/// Equal where the same is said.
pub(crate) fn digest(entries: &Entries) -> String {
    let mut digest = Sha1::new();
    for part in entries.iter().flat_map(|(hash, limit)| [hash, limit]) {
        digest.update(part.as_bytes());
        digest.update(b"\n");
    }
    digest.digest().to_string()
}

fn data<'a>(world: &'a World, kind: OverridesKind, name: &str) -> Option<BTreeMap<&'a str, &'a [u8]>> {
    Some(match kind {
        OverridesKind::Secret => {
            let found = world.secrets.iter().find(|secret| secret.metadata.name.as_deref() == Some(name))?;
            found.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect()
        }
        OverridesKind::ConfigMap => {
            let found = world.config_maps.iter().find(|map| map.metadata.name.as_deref() == Some(name))?;
            found.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes())).collect()
        }
    })
}

/// A line's value as the module finds it in requests, and its limit; nothing for an empty line and a comment.
fn said(line: &str, by: &By) -> Result<Option<(String, Rate)>, &'static str> {
    const FORM: &str = "must be `value: tokens/window`, for example `sk-12345: 100000/1m`";
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    // The value may have colons of its own.
    let (value, limit) = line.rsplit_once(':').ok_or(FORM)?;
    let (tokens, window) = limit.split_once('/').ok_or(FORM)?;
    let (value, tokens, window) = (value.trim_end(), tokens.trim(), window.trim());
    if value.is_empty() || tokens.is_empty() || !tokens.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FORM);
    }
    let tokens = tokens.parse().ok().filter(|tokens| (1..=MAX_AMOUNT).contains(tokens));
    let tokens = tokens.ok_or("has another number than 1 to 9007199254740991 tokens")?;
    let window_seconds = seconds(window).ok_or("has another window than 1s to 31d, a number and s, m, h or d")?;
    if value.len() > VALUE_MAX_LENGTH || value.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("has a value of more than 4096 bytes, or with control characters");
    }
    let value = if by.ip.is_some() {
        let address = value.parse::<IpAddr>().map_err(|_| "has another value than an address")?;
        address.to_canonical().to_string()
    } else if by.consumer.is_some() && !is_consumer(value.as_bytes()) {
        return Err("has another value than the name of a consumer");
    } else {
        value.to_owned()
    };
    Ok(Some((value, Rate { tokens, window_seconds })))
}

#[cfg(test)]
mod tests {
    use api::{ByConsumer, ByIp};

    use super::*;

    fn header() -> By {
        By { header: Some("x-api-key".to_owned()), ..By::default() }
    }

    #[test]
    fn a_line_is_a_value_and_its_limit() {
        let read = |line, by: &By| said(line, by).unwrap().map(|(value, rate)| (value, overrides::limit(rate)));
        let some = |value: &str, limit: &str| Some((value.to_owned(), limit.to_owned()));
        assert_eq!(read("sk-1: 100/1m", &header()), some("sk-1", "100/60"));
        assert_eq!(read("  a:b c :  7 / 2h\r", &header()), some("a:b c", "7/7200"));
        assert_eq!(read("sk#1:9007199254740991/31d", &header()), some("sk#1", "9007199254740991/2678400"));
        for nothing in ["", "   ", "# sk-1: 100/1m", "  #"] {
            assert_eq!(read(nothing, &header()), None, "{nothing:?}");
        }
        let ip = By { ip: Some(ByIp::default()), ..By::default() };
        assert_eq!(read("2001:DB8::1: 5/1s", &ip), some("2001:db8::1", "5/1"));
        assert_eq!(read("::ffff:10.0.0.1: 5/1s", &ip), some("10.0.0.1", "5/1"));
        let consumer = By { consumer: Some(ByConsumer {}), ..By::default() };
        assert_eq!(read("user1: 5/1s", &consumer), some("user1", "5/1"));
        for (line, by) in [("10.0.0.0/8: 5/1s", &ip), ("user one: 5/1s", &consumer)] {
            assert!(said(line, by).is_err(), "{line}");
        }
        let long = format!("{}: 5/1s", "v".repeat(4_097));
        for line in [
            "sk-1",
            "sk-1:",
            "sk-1: 100",
            ": 100/1m",
            "sk-1 100/1m",
            "sk-1: /1m",
            "sk-1: 0/1m",
            "sk-1: -1/1m",
            "sk-1: +1/1m",
            "sk-1: 9007199254740992/1m",
            "sk-1: 1/0s",
            "sk-1: 1/32d",
            "sk-1: 1/1w",
            "sk-1: 1/60",
            "sk\t-1\u{7}: 1/1m",
            &long,
        ] {
            let why = said(line, &header()).unwrap_err();
            assert!(!why.contains("sk-1:") || why.starts_with("must be `value"), "{line}: {why}");
        }
    }
}
