//! The steps of a request under limits against scripted replies of Redis: which limits it is under in both generations
//! and in our form, what a reply decides, what is charged, and that nothing hostile makes a step panic.

mod deciding;
mod ends;
mod hostile;
mod long;
mod matching;
mod models;
mod reserving;

use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Policies};
use crate::rules::Subject;
use crate::steps::Unbooked;

type Ask = crate::steps::Ask<Limits>;
type Booked = crate::steps::Booked<Limits>;
type Ending = crate::steps::Ending<Limits>;
type Meter = crate::steps::Meter<Limits>;
type Next = crate::steps::Next<Limits>;
type Step = crate::steps::Step<Limits>;

const NOW: i64 = 1_500;
const PATH: &str = "/v1/chat/completions";

/// A request with these headers, from this address.
#[derive(Clone, Debug)]
struct Asked {
    headers: Vec<(String, Vec<u8>)>,
    source: Option<&'static str>,
}

impl Asked {
    fn to(path: &str, headers: &[(&str, &str)]) -> Self {
        let all = [(":path", path)].into_iter().chain(headers.iter().copied());
        let headers = all.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect();
        Self { headers, source: Some("10.0.0.1:4711") }
    }

    fn with(headers: &[(&str, &str)]) -> Self {
        Self::to(PATH, headers)
    }
}

impl Request for Asked {
    fn header(&self, name: &str) -> Vec<&[u8]> {
        let named = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice()).collect()
    }

    fn source(&self) -> Option<Vec<u8>> {
        self.source.map(|source| source.as_bytes().to_vec())
    }

    fn now(&self) -> i64 {
        NOW
    }

    fn unique(&self) -> Vec<u8> {
        b"7-1".to_vec()
    }
}

/// Upstream's form: these keys besides the store and the name `r`.
fn upstream(keys: Value) -> Value {
    let mut config = json!({"rule_name": "r", "redis": {"service_name": "redis.static"}});
    let Value::Object(keys) = keys else { panic!() };
    config.as_object_mut().unwrap().extend(keys);
    config
}

/// The same, read as the first generation reads it.
fn v1(keys: Value) -> Value {
    let mut config = upstream(keys);
    config["aiquota"] = json!({"version": 1, "dialect": "v1"});
    config
}

/// Our form: these fields of the policy besides the store and the name `r`.
fn native(fields: Value) -> Value {
    let mut policy = json!({"store": "s", "ruleName": "r", "paths": [PATH]});
    let Value::Object(fields) = fields else { panic!() };
    policy.as_object_mut().unwrap().extend(fields);
    json!({
        "aiquota": {
            "version": 1,
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 1000}},
            "policies": {"p": policy}
        },
        "_rules_": [{"_match_domain_": ["*"], "policy": "p"}]
    })
}

fn policies(config: &Value) -> Policies<Policy> {
    match Config::parse(config.to_string().as_bytes()) {
        Ok(Config::Policies(policies)) => *policies,
        other => panic!("{other:?}"),
    }
}

fn start(config: &Value, asked: &Asked) -> Step {
    Limits::begin(policies(config).target(&Subject::default()).unwrap(), asked)
}

fn ask(config: &Value, asked: &Asked) -> Ask {
    match start(config, asked) {
        Step::Ask(ask) => ask,
        other => panic!("{other:?}"),
    }
}

/// The words of an encoded command.
fn words(command: &[u8]) -> Vec<String> {
    let Ok(Reply::Array(words)) = Reply::parse(command) else { panic!("{}", command.escape_ascii()) };
    let text = |word: &Reply<'_>| match word {
        Reply::Bulk(word) => String::from_utf8_lossy(word).into_owned(),
        other => panic!("{other:?}"),
    };
    words.iter().map(text).collect()
}

/// The counters that are asked for, without what all keys begin with, and their tokens; nothing: it passes.
fn counters(config: &Value, asked: &Asked) -> Vec<(String, String)> {
    let ask = match start(config, asked) {
        Step::Pass => return Vec::new(),
        Step::Ask(ask) => ask,
        other => panic!("{other:?}"),
    };
    let words = words(&ask.call.command);
    assert_eq!(words[..2], ["EVALSHA", limits::LIMITS.sha1]);
    let count: usize = words[2].parse().unwrap();
    let (keys, rest) = words[3..].split_at(count);
    assert_eq!((rest[0].as_str(), rest.len()), ("check", 1 + 2 * count));
    let key = |key: &String| key.strip_prefix("higress-token-ratelimit:").unwrap().to_owned();
    keys.iter().map(key).zip(rest[1..].iter().step_by(2).cloned()).collect()
}

fn admitted(next: Next) -> (Meter, Option<String>) {
    match next {
        Next::Admit(admitted) => (*admitted.meter, admitted.log),
        other => panic!("{other:?}"),
    }
}
