//! The recorded answers, the two ways the module is configured, and what each answer must cost: stated by the recording,
//! or found by a few lines that share nothing with the scanner. No I/O.

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Not a multiple of four bytes, so that its estimate is rounded.
pub(super) const REQUEST: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;

#[derive(Deserialize)]
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) body: String,
    pub(super) total: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    Native,
    Upstream,
}

pub(super) const FLAVORS: [Flavor; 2] = [Flavor::Native, Flavor::Upstream];

pub(super) fn recorded() -> Result<Vec<Recorded>> {
    let lines = include_str!("../../../data/answers.jsonl").lines();
    let answers = lines.map(serde_json::from_str).collect::<Result<Vec<Recorded>, _>>()?;
    ensure!(answers.len() == 38);
    Ok(answers)
}

impl Recorded {
    /// What the whole answer costs.
    pub(super) fn cost(&self, flavor: Flavor) -> i64 {
        flavor.cost(self.status, self.total, self.body.as_str(), &self.content_type)
    }

    /// The places behind each event, line of NDJSON or element of an array; before the first byte; and behind the last.
    pub(super) fn events(&self) -> Vec<usize> {
        let ends: &[&str] = match self.content_type.as_str() {
            "text/event-stream" => &["\n\n", "\r\n\r\n", "\r\r"],
            "application/x-ndjson" => &["\n"],
            _ => &[",\r\n"],
        };
        let behind = (1..self.body.len())
            .filter(|at| ends.iter().any(|end| self.body.as_bytes()[..*at].ends_with(end.as_bytes())));
        let mut places: Vec<usize> = [0].into_iter().chain(behind).chain([self.body.len()]).collect();
        places.dedup();
        places
    }
}

impl Flavor {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Upstream => "upstream",
        }
    }

    pub(super) fn key(self, consumer: &str) -> String {
        format!("{}:{consumer}", self.name())
    }

    /// `defaultConfig`, and the `config` of the only rule.
    pub(super) fn configuration(self, answers: &[Recorded]) -> (Value, Value) {
        let mut paths: Vec<&str> = answers.iter().filter_map(|answer| answer.path.split('?').next()).collect();
        paths.sort_unstable();
        paths.dedup();
        match self {
            Self::Native => {
                let store = json!({"service": "redis.static", "port": 80, "timeoutMs": 30_000});
                let policy =
                    json!({"store": "s", "keyPrefix": self.key(""), "owner": "cluster/ns/chat", "paths": paths});
                let native = json!({"version": 1, "stores": {"s": store}, "policies": {"p": policy}});
                (json!({"aiquota": native}), json!({"policy": "p"}))
            }
            Self::Upstream => {
                let redis = json!({"service_name": "redis.static", "timeout": 30_000});
                let rule = json!({"admin_consumer": "admin", "redis_key_prefix": self.key(""), "redis": redis,
                    "enable_path_suffixes": paths});
                (json!({}), rule)
            }
        }
    }
}

impl Flavor {
    pub(super) fn cost(self, status: u16, total: Option<u64>, sent: &str, content_type: &str) -> i64 {
        let tokens = match (status, total, self) {
            (200, Some(total), _) => total,
            (200, None, Self::Native) => {
                let text: usize = documents(sent, content_type).iter().map(text).sum();
                (text.div_ceil(4) + REQUEST.len().div_ceil(4)) as u64
            }
            _ => 0,
        };
        i64::try_from(tokens).unwrap_or(i64::MAX)
    }
}

/// The JSON of each event, line or element that was sent in full.
pub(super) fn documents(sent: &str, content_type: &str) -> Vec<Value> {
    let sent = sent.replace("\r\n", "\n").replace('\r', "\n");
    let texts: Vec<String> = match content_type {
        "text/event-stream" => {
            let data = |event: &str| event.lines().filter_map(|line| line.strip_prefix("data:")).collect();
            sent.split("\n\n").map(data).collect()
        }
        _ => sent.lines().map(|line| line.trim_matches(|c| "[],".contains(c)).to_owned()).collect(),
    };
    texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
}

/// The last usage, with Anthropic's input from the first event.
pub(super) fn total(documents: &[Value]) -> Option<u64> {
    const PARTS: [&str; 8] = [
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "prompt_eval_count",
        "eval_count",
    ];
    let mut usage = Map::new();
    for document in documents {
        for place in ["", "/usage", "/usageMetadata", "/choices/0/usage", "/response/usage", "/message/usage"] {
            usage.extend(document.pointer(place).and_then(Value::as_object).cloned().unwrap_or_default());
        }
    }
    let count = |name: &str| usage.get(name).and_then(Value::as_u64);
    let own = count("total_tokens").or(count("totalTokenCount"));
    own.or(Some(PARTS.iter().filter_map(|name| count(name)).sum())).filter(|total| *total > 0)
}

/// Bytes of generated text.
fn text(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(text).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match (name.as_str(), value) {
                ("content" | "reasoning_content" | "text" | "arguments" | "delta", Value::String(said)) => said.len(),
                // Says again what the deltas said.
                ("response", _) => 0,
                _ => text(value),
            })
            .sum(),
        _ => 0,
    }
}
