//! Random limits, spelled for each generation of upstream's module and read back by the module, hold random requests to
//! what they are held to natively.

use std::collections::BTreeMap;

use enforcement::{
    config::{Config, Policies},
    limit::{Limits, config::Policy},
    redis::Reply,
    rules::Subject,
    steps::{Kind as _, Request, Step},
    wire::limit::{By, Consumer, Ip, Limit as WireLimit, Rate as WireRate, Rejection},
};
use serde_json::{Value, json};

use super::*;

const PATH: &str = "/v1/chat/completions";
const VALUES: [&str; 6] = ["a", "b", "ab", "a.b", "aXb", "vip"];
const PATTERNS: [&str; 6] = ["^a", "b$", "^[ab]+$", r"^\Qa.b\E$", "a.b", "v|x"];
const NETWORKS: [&str; 5] = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "fd00::/8", "0.0.0.0/0"];
const ADDRESSES: [&str; 4] = ["10.1.2.3", "10.1.9.9", "192.0.2.1", "fd00::1"];
const WINDOWS: [u32; 4] = [1, 60, 3_600, 86_400];

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }

    fn of<T: Clone>(&mut self, some: &[T]) -> T {
        some[self.below(some.len())].clone()
    }

    fn rate(&mut self) -> WireRate {
        WireRate { tokens: 1 + self.below(1_000) as i64, window_seconds: self.of(&WINDOWS) }
    }

    fn matches(&mut self, by: &By) -> Match {
        match (by, self.below(5)) {
            (By::Ip(_), _) => Match::Cidr(self.of(&NETWORKS).to_owned()),
            (_, 0 | 1) => Match::Exact(self.of(&VALUES).to_owned()),
            (_, 2 | 3) => Match::Pattern(self.of(&PATTERNS).to_owned()),
            _ => Match::Any,
        }
    }

    /// By each thing at most once, and of each match and window one limit, as objects must have them.
    fn settings(&mut self) -> Settings {
        let mut by = [
            By::Header("x-team".to_owned()),
            By::Param("team".to_owned()),
            By::Cookie("team".to_owned()),
            By::Consumer(Consumer {}),
            By::Ip(Ip { from_header: None }),
            By::Ip(Ip { from_header: Some("x-real-ip".to_owned()) }),
        ]
        .to_vec();
        let global: Vec<_> = (0..self.below(3) / 2).map(|_| self.rate()).collect();
        let least = usize::from(global.is_empty());
        let rules = (0..least + self.below(3) / 2 * self.below(3)).map(|_| {
            let by = by.swap_remove(self.below(by.len()));
            let mut limits: Vec<WireLimit> = Vec::new();
            for _ in 0..1 + self.below(5) {
                let (matches, rate) = (self.matches(&by), self.rate());
                let is_there =
                    |known: &WireLimit| (&known.matches, known.window_seconds) == (&matches, rate.window_seconds);
                if !limits.iter().any(is_there) {
                    limits.push(WireLimit { matches, tokens: rate.tokens, window_seconds: rate.window_seconds });
                }
            }
            WireRule { by, limits, overridden: false }
        });
        Settings {
            store: Some("s".to_owned()),
            rule_name: "r".to_owned(),
            paths: vec![PATH.to_owned()],
            rules: rules.collect(),
            global,
            models: Vec::new(),
            rejection: Rejection::default(),
            reserve: None,
            ends: wire::Ends::default(),
            unavailable: None,
        }
    }

    /// Of the values that matches are about, of some others, and of none.
    fn request(&mut self) -> Asked {
        let mut path = PATH.to_owned();
        let mut headers = Vec::new();
        for name in ["x-team", "x-mse-consumer", "cookie", "x-real-ip", ":path"] {
            let value = self.of(&VALUES);
            let value = match (name, self.below(4)) {
                (_, 0) => continue,
                ("x-real-ip", _) => self.of(&ADDRESSES).to_owned(),
                ("cookie", _) => format!("x=1; team={value}"),
                (":path", _) => {
                    path = format!("{PATH}?team={value}");
                    continue;
                }
                (_, 1) => "other".to_owned(),
                _ => value.to_owned(),
            };
            headers.push((name, value));
        }
        headers.push((":path", path));
        Asked { headers, source: format!("{}:4711", self.of(&ADDRESSES[..3])) }
    }
}

struct Asked {
    headers: Vec<(&'static str, String)>,
    source: String,
}

impl Request for Asked {
    fn header(&self, name: &str) -> Vec<&[u8]> {
        let named = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_bytes()).collect()
    }

    fn source(&self) -> Option<Vec<u8>> {
        Some(self.source.clone().into_bytes())
    }

    fn now(&self) -> i64 {
        0
    }

    fn unique(&self) -> Vec<u8> {
        b"1".to_vec()
    }
}

fn stores() -> BTreeMap<String, wire::Store> {
    let store = json!({"service": "redis.static", "port": 80, "timeoutMs": 1_000});
    [("s".to_owned(), serde_json::from_value(store).unwrap())].into()
}

fn read_by_the_module(mut config: Value, aiquota: &Value) -> Policies<Policy> {
    config["_match_domain_"] = json!(["*"]);
    let config = json!({"aiquota": aiquota, "_rules_": [config]});
    match Config::parse(config.to_string().as_bytes()) {
        Ok(Config::Policies(policies)) => *policies,
        other => panic!("{config}: {other:?}"),
    }
}

fn natively(settings: &Settings) -> Policies<Policy> {
    let aiquota = json!({"version": wire::VERSION, "stores": stores(), "policies": {"p": settings}});
    read_by_the_module(json!({"policy": "p"}), &aiquota)
}

fn upstream(dialect: Dialect, settings: &Settings) -> Policies<Policy> {
    let stores = stores();
    let rule = configuration(dialect, settings, Stores { usable: &stores, known: &stores });
    read_by_the_module(value(&rule), &json!({"version": wire::VERSION, "dialect": dialect}))
}

/// The tokens of each limit that a request is under, and its window, whose value it counts and the value; sorted.
fn held_to(policies: &Policies<Policy>, asked: &Asked) -> Vec<(String, String)> {
    let target = policies.target(&Subject { authority: b"a.com", ..Subject::default() }).unwrap();
    let ask = match Limits::begin(target, asked) {
        Step::Pass => return Vec::new(),
        Step::Ask(ask) => ask,
        other => panic!("{other:?}"),
    };
    let Ok(Reply::Array(words)) = Reply::parse(&ask.call.command) else { panic!() };
    let word = |word: &Reply<'_>| match word {
        Reply::Bulk(text) => String::from_utf8(text.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    let words: Vec<String> = words.iter().map(word).collect();
    let count: usize = words[2].parse().unwrap();
    let (keys, rest) = words[3..].split_at(count);
    // higress-token-ratelimit:<rule>:<limiter>:<window>...; the limiter differs between values and patterns.
    let window = |key: &String| key.splitn(4, ':').nth(3).unwrap().to_owned();
    let mut held: Vec<_> = rest[1..].iter().step_by(2).cloned().zip(keys.iter().map(window)).collect();
    held.sort_unstable();
    held
}

#[test]
fn in_each_generation_requests_are_under_the_limits_that_they_are_under_natively() {
    let mut dice = Dice(0x5eed);
    for dialect in [Dialect::V1, Dialect::V2] {
        let (mut said, mut unsaid, mut held, mut would_differ) = (0, 0, 0, 0);
        while said < 400 {
            let settings = dice.settings();
            if !UpstreamLimits(dialect).can_say(&settings) {
                unsaid += 1;
                let is_readable = dialect == Dialect::V2 || settings.global.is_empty() || settings.rules.is_empty();
                let items = settings.rules.iter().map(|rule| items(dialect, rule).len()).sum::<usize>();
                if is_readable && items <= RULES_MAX {
                    let (native, upstream) = (natively(&settings), upstream(dialect, &settings));
                    let differs = |asked: &Asked| held_to(&native, asked) != held_to(&upstream, asked);
                    would_differ += usize::from((0..12).map(|_| dice.request()).any(|asked| differs(&asked)));
                }
                continue;
            }
            said += 1;
            let (native, upstream) = (natively(&settings), upstream(dialect, &settings));
            for _ in 0..12 {
                let asked = dice.request();
                let limits = held_to(&native, &asked);
                held += limits.len();
                assert_eq!(held_to(&upstream, &asked), limits, "{dialect:?} {:?} {settings:?}", asked.headers);
            }
        }
        // Neither is it all or nothing that can be said, nor is it refused for nothing.
        assert!(unsaid > 40 && held > 1_000 && would_differ > 20, "{dialect:?}: {unsaid} {held} {would_differ}");
    }
}
