//! Bytes nobody meant, through each built module in the gateway's VM: 10,000 generated configurations, replies of Redis,
//! bodies of models and requests each. A callback that traps is a finding; a module with a planted trap shows that the
//! hunt finds.

mod grounds;
mod planted;

use anyhow::{Context, Result, bail, ensure};
use e2e::random::Random;
use grounds::{Ground, LIMITS, QUOTA, REQUESTS};
use planted::{Callback, planted};
use testbed::gateway::{Effect, Headers, Trapped, Vm, VmModule, Way};

const CASES: usize = 10_000;

/// So many cases share a VM, as in a gateway.
const CASES_PER_VM: usize = 500;

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
    ground: Ground,
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
    fn new(ground: Ground, module: &'a VmModule, seed: u64) -> Self {
        Self { ground, module, random: Random(seed), vm: None }
    }

    fn configurations(&mut self, cases: usize) -> Result<Tally> {
        let seeds = [(self.ground.native)().to_string(), (self.ground.upstream)().to_string()];
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
            let first = mutated(&mut self.random, self.ground.replies);
            let shown = || format!("case {case}, beginning with {}", first.escape_ascii());
            let admin = self.random.one_in(3);
            let (consumer, path) = if admin {
                ("admin", "/v1/chat/completions/quota?consumer=c")
            } else {
                ("user", "/v1/chat/completions")
            };
            self.exchange(request(consumer, path), Some(&first), BODIES[0], &mut tally).with_context(shown)?;
        }
        Ok(tally)
    }

    fn bodies(&mut self, cases: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        for case in 0..cases {
            let body = mutated(&mut self.random, BODIES);
            let shown = || format!("case {case}: {}", body.escape_ascii());
            let request = request("user", "/v1/chat/completions");
            self.exchange(request, None, &body, &mut tally).with_context(shown)?;
        }
        Ok(tally)
    }

    fn requests(&mut self, cases: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        let names = [":path", "x-mse-consumer", "cookie", "x-real-ip"];
        for case in 0..cases {
            let mut headers = request("user", "/v1/chat/completions");
            for (name, seeds) in names.into_iter().zip(REQUESTS).filter(|_| case % 5 > 0) {
                for _ in 0..self.random.below(3) {
                    let value = mutated(&mut self.random, seeds);
                    headers.0.insert(0, (name.to_owned(), value));
                }
            }
            let shown = || format!("case {case}: {:?}", headers.0);
            self.exchange(headers.clone(), None, BODIES[0], &mut tally).with_context(shown)?;
        }
        Ok(tally)
    }

    /// One request. With a first reply, all that follow are generated; without, Redis behaves.
    fn exchange(&mut self, request: Headers, first: Option<&[u8]>, body: &[u8], tally: &mut Tally) -> Result<()> {
        let (mut vm, mut cases) = match self.vm.take() {
            Some((vm, cases)) if cases < CASES_PER_VM => (vm, cases),
            _ => {
                let form = if self.random.one_in(2) { self.ground.native } else { self.ground.upstream };
                let configuration = form();
                let vm = self.module.start(configuration.to_string().as_bytes());
                (vm.map_err(|failure| anyhow::anyhow!("{failure:?}"))?, 0)
            }
        };
        cases += 1;
        let stream = vm.open(request, "r").traps()?;
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
                let script = call.query.windows(5).any(|word| word == b"check");
                let well = if script { self.ground.admits } else { self.ground.replies[0] };
                let reply = match (given.take(), first) {
                    (Some(reply), _) => reply,
                    (None, Some(_)) => mutated(&mut self.random, self.ground.replies),
                    (None, None) => well.to_vec(),
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
            let replies = self.ground.replies;
            let reply = if first.is_some() { mutated(&mut self.random, replies) } else { replies[2].to_vec() };
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

fn built(ground: Ground) -> Result<VmModule> {
    VmModule::load(&testbed::module(ground.module)?)
}

#[test]
fn ten_thousand_configurations_trap_nothing() -> Result<()> {
    for ground in [QUOTA, LIMITS] {
        let tally = Hunt::new(ground, &built(ground)?, 1).configurations(CASES)?;
        ensure!(tally.started > CASES / 10, "the cases are not close enough to valid ones: {tally:?}");
    }
    Ok(())
}

#[test]
fn ten_thousand_replies_of_redis_trap_nothing() -> Result<()> {
    let tally = Hunt::new(QUOTA, &built(QUOTA)?, 2).replies(CASES)?;
    ensure!(tally.admitted > CASES / 50 && tally.answered > CASES / 10, "{tally:?}");
    ensure!(tally.charged > CASES / 100, "{tally:?}");
    let tally = Hunt::new(LIMITS, &built(LIMITS)?, 2).replies(CASES)?;
    ensure!(tally.admitted > CASES / 10 && tally.answered > CASES / 50, "{tally:?}");
    ensure!(tally.charged > CASES / 100, "{tally:?}");
    Ok(())
}

#[test]
fn ten_thousand_bodies_of_models_trap_nothing() -> Result<()> {
    for ground in [QUOTA, LIMITS] {
        let tally = Hunt::new(ground, &built(ground)?, 3).bodies(CASES)?;
        ensure!(tally.admitted > CASES / 3 && tally.charged > CASES / 10, "{tally:?}");
    }
    Ok(())
}

#[test]
fn ten_thousand_requests_trap_nothing() -> Result<()> {
    for ground in [QUOTA, LIMITS] {
        let tally = Hunt::new(ground, &built(ground)?, 4).requests(CASES)?;
        ensure!(tally.admitted > CASES / 10 && tally.charged > CASES / 10, "{}: {tally:?}", ground.module);
    }
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
    found(Hunt::new(QUOTA, &planted(Callback::Configure)?, 1).configurations(CASES), "proxy_on_configure")?;
    found(Hunt::new(QUOTA, &planted(Callback::RedisReply)?, 2).replies(CASES), "proxy_on_redis_call_response")?;
    found(Hunt::new(QUOTA, &planted(Callback::ResponseBody)?, 3).bodies(CASES), "proxy_on_response_body")
}
