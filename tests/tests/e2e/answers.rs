//! The recorded answers of real APIs through the built module: cut at every byte, and with the client leaving behind
//! every event. What counts is the balance in real Redis. What it must be comes from the recordings, or, where a client
//! leaves early, from a few lines here that share nothing with the scanner.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::raw::Raw;
use futures::TryStreamExt as _;
use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use testbed::gateway::{Headers, Trapped, Vm, VmModule, Way};
use testbed::{After, Answer, Gateway, GatewayOptions, ModelServer, Redis, RedisOptions, Source, eventually, post};

/// More than all exchanges together that share a balance use.
const BALANCE: i64 = 1_000_000_000;

/// Not a multiple of four bytes, so that its estimate is rounded.
const REQUEST: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;

/// Exchanges under way at the same time.
const AT_ONCE: usize = 16;

#[derive(Deserialize)]
struct Recorded {
    name: String,
    path: String,
    status: u16,
    content_type: String,
    body: String,
    total: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavor {
    Native,
    Upstream,
}

const FLAVORS: [Flavor; 2] = [Flavor::Native, Flavor::Upstream];

fn recorded() -> Result<Vec<Recorded>> {
    let lines = include_str!("../../data/answers.jsonl").lines();
    let answers = lines.map(serde_json::from_str).collect::<Result<Vec<Recorded>, _>>()?;
    ensure!(answers.len() == 38);
    Ok(answers)
}

impl Recorded {
    /// What the whole answer costs.
    fn cost(&self, flavor: Flavor) -> i64 {
        flavor.cost(self.status, self.total, self.body.as_str(), &self.content_type)
    }

    /// The places behind each event, line of NDJSON or element of an array; before the first byte; and behind the last.
    fn events(&self) -> Vec<usize> {
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

// What must be charged. -----------------------------------------------------------------------------------------

impl Flavor {
    fn cost(self, status: u16, total: Option<u64>, sent: &str, content_type: &str) -> i64 {
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
fn documents(sent: &str, content_type: &str) -> Vec<Value> {
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
fn total(documents: &[Value]) -> Option<u64> {
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

#[test]
fn the_expectation_of_a_whole_answer_is_what_its_recording_states() -> Result<()> {
    for answer in recorded()? {
        let found = total(&documents(&answer.body, &answer.content_type));
        ensure!(found == answer.total.filter(|total| *total > 0), "{}: {found:?}", answer.name);
    }
    Ok(())
}

// The module's configuration. -----------------------------------------------------------------------------------

impl Flavor {
    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Upstream => "upstream",
        }
    }

    fn key(self, consumer: &str) -> String {
        format!("{}:{consumer}", self.name())
    }

    /// `defaultConfig`, and the `config` of the only rule.
    fn configuration(self, answers: &[Recorded]) -> (Value, Value) {
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

// Every byte: a VM, whose calls real Redis answers. -------------------------------------------------------------

/// The host of one VM.
struct Host {
    vm: Vm,
    flavor: Flavor,
    redis: Raw,
    connection: MultiplexedConnection,
}

fn trap(Trapped(cause): Trapped) -> anyhow::Error {
    anyhow::anyhow!("the VM trapped: {cause}")
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::default();
    pairs.iter().for_each(|(name, value)| headers.add(name, *value));
    headers
}

impl Host {
    async fn new(module: &VmModule, flavor: Flavor, answers: &[Recorded], redis: &Redis) -> Result<Self> {
        let (mut configuration, mut rule) = flavor.configuration(answers);
        rule["_match_route_"] = json!(["r"]);
        configuration["_rules_"] = json!([rule]);
        let vm = module.start(configuration.to_string().as_bytes());
        let vm = vm.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        Ok(Self { vm, flavor, redis: Raw::connect(&redis.addr()).await?, connection: redis.connect().await? })
    }

    /// One request of its own, answered in these chunks, until Redis has nothing more to do.
    async fn exchange(&mut self, answer: &Recorded, consumer: &str, chunks: &[&[u8]]) -> Result<()> {
        let request =
            [(":path", &*answer.path), (":authority", "host"), (":method", "POST"), ("x-mse-consumer", consumer)];
        let stream = self.vm.open(headers(&request), "r").map_err(trap)?;
        self.vm.request_headers(stream, false).map_err(trap)?;
        ensure!(self.forward().await? > 0, "nothing was asked: {:?}", self.vm.take_effects());
        self.vm.body(stream, Way::Request, REQUEST.into(), true).map_err(trap)?;
        let head = [(":status", &*answer.status.to_string()), ("content-type", &*answer.content_type)];
        self.vm.response_headers(stream, headers(&head), false).map_err(trap)?;
        for (index, chunk) in chunks.iter().enumerate() {
            let passed =
                self.vm.body(stream, Way::Response, chunk.to_vec(), index + 1 == chunks.len()).map_err(trap)?;
            ensure!(passed.1 == *chunk, "the answer is changed");
        }
        self.vm.close(stream).map_err(trap)?;
        self.forward().await?;
        self.vm.take_effects();
        Ok(())
    }

    /// Sends the module's calls to Redis as they are, and those that follow from the replies. How many there were.
    async fn forward(&mut self) -> Result<usize> {
        let mut sent = 0;
        loop {
            let calls = self.vm.take_redis_calls();
            if calls.is_empty() {
                return Ok(sent);
            }
            for call in calls {
                let reply = self.redis.forward(&call.query).await?;
                self.vm.redis_reply(call.token, Some(&reply)).map_err(trap)?;
                sent += 1;
            }
        }
    }

    /// Takes an answer apart in every way, one request each; the balance is read after each.
    async fn take_apart(&mut self, answer: &Recorded, consumer: &str) -> Result<usize> {
        let (body, cost, key) = (answer.body.as_bytes(), answer.cost(self.flavor), self.flavor.key(consumer));
        let mut left = BALANCE;
        redis::cmd("SET").arg(&key).arg(left).query_async::<()>(&mut self.connection).await?;
        let single: Vec<&[u8]> = body.chunks(1).chain([&[][..]]).collect();
        let halves = (0..=body.len()).map(|border| vec![&body[..border], &body[border..]]);
        let mut cases = 0;
        for chunks in [single].into_iter().chain(halves) {
            let shown =
                || format!("{:?}: {} chunks, the first of {} bytes", answer.name, chunks.len(), chunks[0].len());
            self.exchange(answer, consumer, &chunks).await.with_context(shown)?;
            left -= cost;
            let balance: i64 = redis::cmd("GET").arg(&key).query_async(&mut self.connection).await?;
            ensure!(balance == left, "{}: charged {} instead of {cost}", shown(), left + cost - balance);
            cases += 1;
        }
        Ok(cases)
    }
}

async fn every_byte(flavor: Flavor) -> Result<()> {
    let (answers, redis) = (recorded()?, Redis::start(RedisOptions::default()).await?);
    let module = VmModule::load(&testbed::module("ai-quota")?)?;
    let mut host = Host::new(&module, flavor, &answers, &redis).await?;
    let mut cases = 0;
    for (number, answer) in answers.iter().enumerate() {
        cases += host.take_apart(answer, &number.to_string()).await?;
    }
    let bytes: usize = answers.iter().map(|answer| answer.body.len()).sum();
    ensure!(cases == bytes + 2 * answers.len(), "{cases} cases");
    Ok(())
}

#[tokio::test]
async fn every_answer_costs_a_native_policy_the_same_with_a_border_at_every_byte() -> Result<()> {
    every_byte(Flavor::Native).await
}

#[tokio::test]
async fn every_answer_costs_upstream_configuration_the_same_with_a_border_at_every_byte() -> Result<()> {
    every_byte(Flavor::Upstream).await
}

// Over HTTP: model server, gateway, Redis. ----------------------------------------------------------------------

/// One exchange, by a consumer of its own.
struct Case {
    consumer: String,
    what: String,
    flavor: Flavor,
    path: String,
    answer: Answer,
    /// The client leaves as soon as it has so many bytes.
    leaves: Option<usize>,
    cost: i64,
}

fn object(kind: &str, name: &str, annotations: Value, spec: Value) -> Value {
    let metadata = json!({"namespace": "higress-system", "name": name, "annotations": annotations});
    json!({"kind": kind, "metadata": metadata, "spec": spec})
}

struct Bed {
    gateway: Gateway,
    model: ModelServer,
    redis: Redis,
}

impl Bed {
    async fn new(answers: &[Recorded]) -> Result<Self> {
        let (redis, model) = (Redis::start(RedisOptions::default()).await?, ModelServer::start().await?);
        let addresses = [("llm", model.addr().to_string()), ("redis", redis.addr())];
        let registries = addresses.map(|(name, to)| json!({"name": name, "type": "static", "domain": to, "port": 80}));
        let mut objects = vec![object("McpBridge", "default", json!({}), json!({"registries": registries}))];
        for flavor in FLAVORS {
            let (name, (default, rule)) = (flavor.name(), flavor.configuration(answers));
            let url = format!("file://{}", testbed::module("ai-quota")?.display());
            let rules = json!([{"ingress": [name], "config": rule}]);
            let spec = json!({"url": url, "failStrategy": "FAIL_CLOSE", "defaultConfig": default, "matchRules": rules});
            objects.push(object("WasmPlugin", name, json!({}), spec));
            let marks =
                json!({"higress.io/destination": "llm.static:80", "higress.io/exact-match-header-x-flavor": name});
            let backend =
                json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
            let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
            let spec = json!({"ingressClassName": "higress", "rules": [{"http": {"paths": [path]}}]});
            objects.push(object("Ingress", name, marks, spec));
        }
        let gateway =
            Gateway::start(GatewayOptions { source: Source::Objects(objects), ..GatewayOptions::default() }).await?;
        ensure!(FLAVORS.iter().all(|flavor| gateway.loaded().runs(flavor.name())), "{:#?}", gateway.loaded());
        Ok(Self { gateway, model, redis })
    }

    /// Plays all cases and compares every balance with what it must be.
    async fn play(&self, mut cases: Vec<Case>) -> Result<()> {
        for (number, case) in cases.iter_mut().enumerate() {
            case.consumer = number.to_string();
            self.model.script(&case.consumer, case.answer.clone());
        }
        let mut connection = self.redis.connect().await?;
        let keys: Vec<String> = cases.iter().map(|case| case.flavor.key(&case.consumer)).collect();
        let full: Vec<(&str, i64)> = keys.iter().map(|key| (key.as_str(), BALANCE)).collect();
        redis::cmd("MSET").arg(full).query_async::<()>(&mut connection).await?;

        let exchanges = futures::stream::iter(cases.iter().map(Ok));
        exchanges
            .try_for_each_concurrent(AT_ONCE, |case| async {
                self.exchange(case).await.with_context(|| case.what.clone())
            })
            .await?;
        self.settle(&cases).await?;

        let balances: Vec<i64> = redis::cmd("MGET").arg(&keys).query_async(&mut connection).await?;
        let wrong: Vec<String> = cases
            .iter()
            .zip(balances)
            .filter(|(case, balance)| BALANCE - balance != case.cost)
            .map(|(case, balance)| format!("{}: charged {} instead of {}", case.what, BALANCE - balance, case.cost))
            .collect();
        ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        ensure!(self.gateway.traps() == 0, "{:#?}", self.gateway.logs());
        Ok(())
    }

    async fn exchange(&self, case: &Case) -> Result<()> {
        let call = post(format!("{}{}", self.gateway.url(), case.path))
            .header("x-flavor", case.flavor.name())
            .header("x-mse-consumer", &case.consumer)
            .header("x-answer", &case.consumer)
            .body(REQUEST);
        let body = case.answer.chunks.concat();
        let Some(leaves) = case.leaves else {
            let reply = call.send().await?;
            ensure!(reply.status == case.answer.status && reply.body == body, "{} {}", reply.status, reply.text());
            return Ok(());
        };
        let mut reply = call.open().await?;
        ensure!(reply.status == case.answer.status, "{}", reply.status);
        let mut seen = 0;
        while seen < leaves {
            seen += reply.chunk().await?.context("the answer ended")?.len();
        }
        ensure!(seen == leaves, "{seen} bytes came");
        Ok(())
    }

    /// Returns when Redis has done all that the exchanges have caused.
    async fn settle(&self, cases: &[Case]) -> Result<()> {
        let ended = eventually("all exchanges have ended", async || {
            let ended = self.gateway.access_log();
            ensure!(ended.len() == cases.len(), "{} of {}", ended.len(), cases.len());
            Ok(ended)
        })
        .await?;
        let left = ended.iter().filter(|exchange| exchange.flags == "DC").count();
        ensure!(left == cases.iter().filter(|case| case.leaves.is_some()).count(), "{left} clients left");
        // What an exchange charges has left the module when it is logged, and the commands of a worker are done in
        // order: when another question was answered on each worker, all are done.
        for _ in 0..2 {
            let last = post(format!("{}/v1/chat/completions", self.gateway.url()));
            let reply = last.header("x-flavor", "upstream").header("x-mse-consumer", "nobody").send().await?;
            ensure!(reply.status == 403, "{} {}", reply.status, reply.text());
        }
        let asked = eventually("both questions are logged", async || {
            let ended = self.gateway.access_log().split_off(cases.len());
            ensure!(ended.len() == 2, "{ended:?}");
            Ok(ended)
        })
        .await?;
        ensure!(asked[0].worker != asked[1].worker, "{asked:?}");
        eventually("no answer is sent to nobody", async || {
            ensure!(self.model.in_flight() == 0, "{} are", self.model.in_flight());
            Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn every_answer_costs_the_same_over_http_however_it_is_cut() -> Result<()> {
    let answers = recorded()?;
    let mut cases = Vec::new();
    for (flavor, recorded) in FLAVORS.iter().flat_map(|flavor| answers.iter().map(|recorded| (*flavor, recorded))) {
        let whole = Bytes::from(recorded.body.clone());
        let mut add = |how: String, chunks: Vec<Bytes>| {
            let answer = Answer { status: recorded.status, ..Answer::ok(&recorded.content_type, chunks) };
            let what = format!("{flavor:?}, {:?}, {how}", recorded.name);
            let cost = recorded.cost(flavor);
            cases.push(Case {
                consumer: String::new(),
                what,
                flavor,
                path: recorded.path.clone(),
                answer,
                leaves: None,
                cost,
            });
        };
        add("whole".to_owned(), vec![whole.clone()]);
        add("byte by byte".to_owned(), whole.chunks(1).map(|byte| whole.slice_ref(byte)).collect());
        // Each byte has a border before it in one of the seven.
        for offset in 0..7.min(whole.len()) {
            let (head, tail) = whole.split_at(offset);
            let chunks = [head].into_iter().chain(tail.chunks(7)).map(|chunk| whole.slice_ref(chunk));
            add(format!("by seven from {offset}"), chunks.collect());
        }
    }
    Bed::new(&answers).await?.play(cases).await
}

#[tokio::test]
async fn a_client_that_leaves_behind_any_event_owes_the_last_usage_or_the_estimate() -> Result<()> {
    let answers = recorded()?;
    let mut cases = Vec::new();
    for (flavor, recorded) in FLAVORS.iter().flat_map(|flavor| answers.iter().map(|recorded| (*flavor, recorded))) {
        let events = recorded.events();
        for leaves in events.iter().copied() {
            let sent = &recorded.body[..leaves];
            let borders = events.windows(2).filter(|pair| pair[1] <= leaves);
            let chunks = borders.map(|pair| Bytes::from(recorded.body[pair[0]..pair[1]].to_owned()));
            let answer = Answer { status: recorded.status, ..Answer::ok(&recorded.content_type, chunks) };
            let seen = total(&documents(sent, &recorded.content_type));
            cases.push(Case {
                consumer: String::new(),
                what: format!("{flavor:?}, {:?}, left after {leaves} of {} bytes", recorded.name, recorded.body.len()),
                flavor,
                path: recorded.path.clone(),
                answer: answer.then(After::Stall),
                leaves: Some(leaves),
                cost: flavor.cost(recorded.status, seen, sent, &recorded.content_type),
            });
        }
    }
    Bed::new(&answers).await?.play(cases).await
}
