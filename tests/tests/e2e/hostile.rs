//! Bytes nobody meant, through the built module in the gateway's VM: 10,000 generated configurations, replies of Redis
//! and bodies of models each. A callback that traps is a finding; a module with a planted trap shows that the hunt finds.

use anyhow::{Context, Result, bail, ensure};
use e2e::random::Random;
use serde_json::{Value, json};
use testbed::gateway::{Effect, Headers, Trapped, Vm, VmModule, Way};

const CASES: usize = 10_000;

/// So many cases share a VM, as in a gateway.
const CASES_PER_VM: usize = 500;

fn upstream() -> Value {
    json!({"admin_consumer": "admin", "redis": {"service_name": "redis.static", "password": "p", "database": 1}})
}

fn native() -> Value {
    json!({
        "aiquota": {
            "version": 1,
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 1000, "username": "u", "password": "p"}},
            "schedules": {"daily": {"first": 7, "at": [1000, 2000]}},
            "policies": {"p": {
                "store": "s", "keyPrefix": "k:", "owner": "uid/ns/p", "paths": ["/v1/chat/completions"],
                "admin": {"consumer": "admin", "path": "/quota"}, "defaultQuota": 1000,
                "refresh": {"schedule": "daily", "mode": "CarryOver", "maxBalance": 9}
            }}
        },
        "_rules_": [{"_match_route_": ["r"], "policy": "p"}, {"_match_domain_": ["*"], "policy": "p", "open": true}]
    })
}

const REPLIES: &[&[u8]] = &[
    b"$1\r\n5\r\n",
    b"$-1\r\n",
    b":5\r\n",
    b"+OK\r\n",
    b"-ERR x\r\n",
    b"-NOSCRIPT No matching script.\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n",
    b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n",
    b"*2\r\n$9\r\nunlimited\r\n$-1\r\n",
    b"*2\r\n$7\r\nrefused\r\n:0\r\n",
    b"*2\r\n$7\r\nbalance\r\n:150\r\n",
    b"*2\r\n$6\r\nbooked\r\n:5\r\n",
    b"*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n",
    b"*2147483647\r\n",
    b"$9223372036854775807\r\nx\r\n",
];

const BODIES: &[&[u8]] = &[
    br#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
    b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: {\"usage\":{\"total_tokens\":7}}\n\ndata: [DONE]\n\n",
    br#"[{"candidates":[{"content":{"parts":[{"text":"x"}]}}],"usageMetadata":{"totalTokenCount":9}}]"#,
    b"event: message_delta\r\ndata: {\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}\r\n\r\n",
    br#"{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}}"#,
];

const JSON_BITS: &[&[u8]] =
    &[b"null", b"-1", b"18446744073709551616", b"1e999", b"\"\"", b"[]", b"{}", b"[[[[", b"\"\\ud800\"", b"\xff"];

/// A seed with up to three wounds.
fn mutated(random: &mut Random, seeds: &[&[u8]]) -> Vec<u8> {
    let mut bytes = random.pick(seeds).to_vec();
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..at, random.pick(seeds).iter().copied())),
            2 => drop(bytes.splice(at..at, random.pick(JSON_BITS).iter().copied())),
            3 => drop(bytes.drain(at..(at + random.below(30)).min(bytes.len()))),
            4 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap_or_default(),
            _ => {
                let byte = random.pick(b"[{\"\\*$-:\r\n0");
                drop(bytes.splice(at..at, std::iter::repeat_n(byte, random.below(400))));
            }
        }
    }
    bytes
}

/// Generated cases through one module. Everything but a trap is in order.
struct Hunt<'a> {
    module: &'a VmModule,
    random: Random,
    vm: Option<(Vm, usize)>,
}

/// What the cases came to: a hunt in which nothing starts or passes hunts nothing.
#[derive(Debug, Default)]
struct Tally {
    started: usize,
    admitted: usize,
    answered: usize,
    charged: usize,
}

impl<'a> Hunt<'a> {
    fn new(module: &'a VmModule, seed: u64) -> Self {
        Self { module, random: Random(seed), vm: None }
    }

    fn configurations(&mut self, cases: usize) -> Result<Tally> {
        let seeds = [native().to_string(), upstream().to_string()];
        let seeds = seeds.each_ref().map(String::as_bytes);
        let mut tally = Tally::default();
        for case in 0..cases {
            let configuration = mutated(&mut self.random, &seeds);
            let shown = || format!("case {case}: {}", configuration.escape_ascii());
            match self.module.start(&configuration) {
                Ok(mut vm) => {
                    tally.started += 1;
                    let stream = vm.open(request("user", "/v1/chat/completions"), "r").traps().with_context(shown)?;
                    vm.request_headers(stream, true).traps().with_context(shown)?;
                    vm.close(stream).traps().with_context(shown)?;
                }
                Err(failure) if failure.trapped => bail!("{}: {}", shown(), failure.cause),
                Err(_) => {}
            }
        }
        Ok(tally)
    }

    fn replies(&mut self, cases: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        for case in 0..cases {
            let first = mutated(&mut self.random, REPLIES);
            let shown = || format!("case {case}, beginning with {}", first.escape_ascii());
            let admin = self.random.one_in(3);
            let (consumer, path) = if admin {
                ("admin", "/v1/chat/completions/quota?consumer=c")
            } else {
                ("user", "/v1/chat/completions")
            };
            self.exchange(consumer, path, Some(&first), BODIES[0], &mut tally).with_context(shown)?;
        }
        Ok(tally)
    }

    fn bodies(&mut self, cases: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        for case in 0..cases {
            let body = mutated(&mut self.random, BODIES);
            let shown = || format!("case {case}: {}", body.escape_ascii());
            self.exchange("user", "/v1/chat/completions", None, &body, &mut tally).with_context(shown)?;
        }
        Ok(tally)
    }

    /// One request. With a first reply, all that follow are generated; without, Redis behaves.
    fn exchange(
        &mut self,
        consumer: &str,
        path: &str,
        first: Option<&[u8]>,
        body: &[u8],
        tally: &mut Tally,
    ) -> Result<()> {
        let (mut vm, mut cases) = match self.vm.take() {
            Some((vm, cases)) if cases < CASES_PER_VM => (vm, cases),
            _ => {
                let configuration = if self.random.one_in(2) { native() } else { upstream() };
                let vm = self.module.start(configuration.to_string().as_bytes());
                (vm.map_err(|failure| anyhow::anyhow!("{failure:?}"))?, 0)
            }
        };
        cases += 1;
        let stream = vm.open(request(consumer, path), "r").traps()?;
        vm.request_headers(stream, false).traps()?;
        vm.body(stream, Way::Request, b"{\"model\":\"m\"}".to_vec(), true).traps()?;
        // An answer nobody waits for.
        vm.redis_reply(1 << 30, Some(first.unwrap_or(b"+OK\r\n"))).traps()?;
        let mut given = first.map(<[u8]>::to_vec);
        loop {
            let calls = vm.take_redis_calls();
            if calls.is_empty() {
                break;
            }
            for call in calls {
                let well = if call.query.windows(5).any(|word| word == b"check") { 7 } else { 0 };
                let reply = match (given.take(), first) {
                    (Some(reply), _) => reply,
                    (None, Some(_)) => mutated(&mut self.random, REPLIES),
                    (None, None) => REPLIES[well].to_vec(),
                };
                let lost = first.is_some() && self.random.one_in(20);
                vm.redis_reply(call.token, (!lost).then_some(&reply)).traps()?;
            }
        }
        let effects = vm.take_effects();
        let admitted = effects.iter().any(|(_, effect)| matches!(effect, Effect::Continue(_)));
        tally.answered += usize::from(effects.iter().any(|(_, effect)| matches!(effect, Effect::Reply(_))));
        tally.admitted += usize::from(admitted);
        if admitted || first.is_none() {
            self.respond(&mut vm, stream, body)?;
        }
        vm.close(stream).traps()?;
        for call in vm.take_redis_calls() {
            tally.charged += 1;
            let reply = if first.is_some() { mutated(&mut self.random, REPLIES) } else { REPLIES[2].to_vec() };
            vm.redis_reply(call.token, Some(&reply)).traps()?;
        }
        self.vm = Some((vm, cases));
        Ok(())
    }

    fn respond(&mut self, vm: &mut Vm, stream: u32, body: &[u8]) -> Result<()> {
        let mut headers = Headers::default();
        if !self.random.one_in(20) {
            headers.add(":status", self.random.pick(&["200", "200", "200", "200", "404", "", "99999", "x"]));
        }
        let kinds = ["application/json", "text/event-stream", "application/x-ndjson", "", ";=\u{ff}"];
        headers.add("content-type", self.random.pick(&kinds));
        if self.random.one_in(10) {
            headers.add("content-encoding", self.random.pick(&["gzip", "identity", ""]));
        }
        if !self.random.one_in(20) {
            vm.response_headers(stream, headers, false).traps()?;
        }
        let size = 1 + self.random.below(60);
        for chunk in body.chunks(size) {
            vm.body(stream, Way::Response, chunk.to_vec(), false).traps()?;
        }
        if !self.random.one_in(3) {
            vm.body(stream, Way::Response, Vec::new(), true).traps()?;
        }
        Ok(())
    }
}

trait Traps<T> {
    fn traps(self) -> Result<T>;
}

impl<T> Traps<T> for Result<T, Trapped> {
    fn traps(self) -> Result<T> {
        self.map_err(|Trapped(cause)| anyhow::anyhow!("the VM trapped: {cause}"))
    }
}

fn request(consumer: &str, path: &str) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in [(":path", path), (":authority", "host"), (":method", "POST"), ("x-mse-consumer", consumer)] {
        headers.add(name, value);
    }
    headers
}

fn built() -> Result<VmModule> {
    VmModule::load(&testbed::module("ai-quota")?)
}

#[test]
fn ten_thousand_configurations_trap_nothing() -> Result<()> {
    let tally = Hunt::new(&built()?, 1).configurations(CASES)?;
    ensure!(tally.started > CASES / 10, "the cases are not close enough to valid ones: {tally:?}");
    Ok(())
}

#[test]
fn ten_thousand_replies_of_redis_trap_nothing() -> Result<()> {
    let tally = Hunt::new(&built()?, 2).replies(CASES)?;
    ensure!(tally.admitted > CASES / 50 && tally.answered > CASES / 10, "{tally:?}");
    ensure!(tally.charged > CASES / 100, "{tally:?}");
    Ok(())
}

#[test]
fn ten_thousand_bodies_of_models_trap_nothing() -> Result<()> {
    let tally = Hunt::new(&built()?, 3).bodies(CASES)?;
    ensure!(tally.admitted > CASES / 3 && tally.charged > CASES / 10, "{tally:?}");
    Ok(())
}

#[test]
fn a_planted_trap_is_found_by_each_hunt() -> Result<()> {
    let planted = |callback| VmModule::new(&planted(callback));
    let found = |hunted: Result<Tally>, callback: &str| match hunted {
        Ok(tally) => bail!("the trap planted in {callback} was not found: {tally:?}"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains("case ") && text.contains("unreachable"), "{text}");
            Ok(())
        }
    };
    found(Hunt::new(&planted(Callback::Configure)?, 1).configurations(CASES), "proxy_on_configure")?;
    found(Hunt::new(&planted(Callback::RedisReply)?, 2).replies(CASES), "proxy_on_redis_call_response")?;
    found(Hunt::new(&planted(Callback::ResponseBody)?, 3).bodies(CASES), "proxy_on_response_body")
}

/// Where the trap is planted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Callback {
    Configure,
    RedisReply,
    ResponseBody,
}

/// A module that does nothing but trap where one callback is told a size whose last five bits are 7: one in 32.
fn planted(callback: Callback) -> Vec<u8> {
    let section = |id: u8, items: &[Vec<u8>]| {
        let mut content = vec![u8::try_from(items.len()).unwrap_or_default()];
        content.extend(items.concat());
        [vec![id, u8::try_from(content.len()).unwrap_or_default()], content].concat()
    };
    // Types of functions: so many i32, and an i32 back or nothing.
    let kind = |parameters: u8, returns: u8| {
        let mut kind = vec![0x60, parameters];
        kind.extend(std::iter::repeat_n(0x7f, parameters.into()));
        kind.push(returns);
        kind.extend(std::iter::repeat_n(0x7f, returns.into()));
        kind
    };
    let function = |code: &[u8]| [&[u8::try_from(code.len() + 2).unwrap_or_default(), 0], code, &[0x0b]].concat();
    // if (local & 31) == 7 { unreachable }
    let trap = |local: u8| [0x20, local, 0x41, 31, 0x71, 0x41, 7, 0x46, 0x04, 0x40, 0x00, 0x0b];
    let planted = |here: Callback, local: u8, rest: &[u8]| {
        let trap = if here == callback { trap(local).to_vec() } else { Vec::new() };
        function(&[trap, rest.to_vec()].concat())
    };
    let export = |name: &str, kind: u8, index: u8| {
        [&[u8::try_from(name.len()).unwrap_or_default()], name.as_bytes(), &[kind, index]].concat()
    };
    let exports = [
        export("memory", 2, 0),
        export("proxy_abi_version_0_2_100", 0, 0),
        export("proxy_on_memory_allocate", 0, 1),
        export("proxy_on_configure", 0, 2),
        export("proxy_on_response_body", 0, 3),
        export("proxy_on_redis_call_response", 0, 4),
    ];
    let exports = {
        // The only section longer than one byte can tell.
        let content = [vec![6], exports.concat()].concat();
        let length = content.len();
        let low = u8::try_from(length & 0x7f).unwrap_or_default() | 0x80;
        [vec![7, low, u8::try_from(length >> 7).unwrap_or_default()], content].concat()
    };
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[kind(0, 0), kind(1, 1), kind(2, 1), kind(3, 1), kind(4, 0)]),
        section(3, &[vec![0], vec![1], vec![2], vec![3], vec![4]]),
        section(5, &[vec![0, 1]]),
        exports,
        section(
            10,
            &[
                function(&[]),
                function(&[0x41, 0x80, 0x08]), // always the same place, which nobody reads
                planted(Callback::Configure, 1, &[0x41, 1]),
                planted(Callback::ResponseBody, 1, &[0x41, 0]),
                planted(Callback::RedisReply, 3, &[]),
            ],
        ),
    ]
    .concat()
}
