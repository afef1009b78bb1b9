//! One VM with the built module, and real Redis behind it: every command goes there as the module wrote it.

use anyhow::{Context as _, Result, ensure};
use e2e::raw::Raw;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use testbed::Redis;
use testbed::gateway::{Headers, Trapped, Vm, VmModule, Way};

use super::BALANCE;
use super::recorded::{Flavor, REQUEST, Recorded};

/// The host of one VM.
pub(super) struct Host {
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
    pub(super) async fn new(module: &VmModule, flavor: Flavor, answers: &[Recorded], redis: &Redis) -> Result<Self> {
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
    pub(super) async fn take_apart(&mut self, answer: &Recorded, consumer: &str) -> Result<usize> {
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
