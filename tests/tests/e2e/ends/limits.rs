//! The same for token rate limits.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use testbed::{Call, Gateway, Reply, eventually, eventually_within, get};

use super::{ask, counted, counts, one_charge_is_unknown, usage_is_asked_for_and_hidden};
use crate::scenario_a::{completion, is};
use crate::stage::{IMPATIENT, NAMESPACE, PATIENT, Stage, condition};

const METRICS: &str = "aiquota.limit.policy.higress-system/burst.metric.";
const COUNTER: &str = "higress-token-ratelimit:{burst}:limit_by_per_consumer:3600:x-mse-consumer:aliyun-user1";
const OBSERVED: &str =
    "higress-token-ratelimit:{burst}:observed:limit_by_per_consumer:3600:x-mse-consumer:aliyun-user1";

struct Bed {
    stage: Stage,
    gateway: Gateway,
}

impl Bed {
    async fn new() -> Result<Self> {
        Self::with_a_store(PATIENT).await
    }

    /// The store may take so long: [`IMPATIENT`] where it is stopped.
    async fn with_a_store(timeout: &str) -> Result<Self> {
        let stage = Stage::set().await?;
        stage.start_controller()?;
        let gateway = stage.start_gateway().await?;
        stage.apply_example("gateway.yaml").await?;
        stage
            .apply_example_with("quota.yaml", |text| {
                let store = text.split("---").find(|object| object.contains("kind: AIQuotaStore"));
                store.unwrap_or_default().replace(PATIENT, timeout)
            })
            .await?;
        let bed = Self { stage, gateway };
        bed.declare(&json!({})).await?;
        Ok(bed)
    }

    /// 50 tokens an hour for each consumer, with these fields; the gateway runs it then.
    async fn declare(&self, fields: &Value) -> Result<()> {
        let mut limit = json!({
            "apiVersion": "quota.higress.io/v1alpha1", "kind": "AITokenRateLimit",
            "metadata": {"name": "burst", "namespace": NAMESPACE},
            "spec": {
                "targetRefs": [{"kind": "Ingress", "name": "qwen"}],
                "ruleName": "burst",
                "rules": [{"by": {"consumer": {}}, "limits": [{"match": {"any": true}, "tokens": 50, "window": "1h"}]}],
            },
        });
        for (field, value) in fields.as_object().into_iter().flatten() {
            limit["spec"][field] = value.clone();
        }
        self.stage.api.apply(&limit).await?;
        let limits = self.stage.limits().await?;
        self.stage.condition(&limits, "burst", "Ready", "True").await?;
        self.stage.in_force(&self.gateway).await
    }

    fn ask(&self, tokens: i64) -> Call {
        ask(&self.gateway, tokens)
    }

    async fn models(&self) -> Result<Reply> {
        get(format!("{}/v1/models", self.gateway.url())).header("x-api-key", "user1-key").send().await
    }

    fn counted(&self) -> BTreeMap<String, i64> {
        counted(&self.gateway, METRICS)
    }

    async fn counts(&self, metric: &str, expected: i64) -> Result<()> {
        counts(&self.gateway, METRICS, metric, expected).await
    }

    async fn configure_redis(&self, words: &[&str]) -> Result<()> {
        let mut redis = self.stage.redis.connect().await?;
        Ok(redis::cmd(words[0]).arg(&words[1..]).query_async(&mut redis).await?)
    }
}

#[tokio::test]
async fn a_store_that_cannot_count_refuses_where_that_is_declared() -> Result<()> {
    let bed = Bed::with_a_store(IMPATIENT).await?;
    is(bed.ask(10), 200, "").await?;
    bed.stage.holds(COUNTER, Some("10")).await?;
    // Full: it can be read.
    bed.configure_redis(&["CONFIG", "SET", "maxmemory", "1"]).await?;
    is(bed.ask(10), 200, "").await?;

    bed.declare(&json!({"onStoreFailure": "Refuse"})).await?;
    let refused = bed.ask(10).send().await?;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.text(), "Request denied by ai token ratelimit check. Limit store unavailable.");
    bed.configure_redis(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    is(bed.ask(10), 200, "").await?;
    bed.stage.holds(COUNTER, Some("20")).await?;

    bed.configure_redis(&["REPLICAOF", "127.0.0.1", "1"]).await?;
    is(bed.ask(10), 503, "Limit store unavailable.").await?;
    bed.configure_redis(&["REPLICAOF", "NO", "ONE"]).await?;

    bed.stage.redis.pause()?;
    let refused = is(bed.ask(10), 503, "Limit store unavailable.").await;
    bed.stage.redis.resume()?;
    refused?;
    is(bed.ask(10), 200, "").await?;
    bed.stage.holds(COUNTER, Some("30")).await?;
    let log = eventually("all are logged", async || {
        let log = bed.gateway.access_log();
        ensure!(log.len() == 7, "{log:#?}");
        Ok(log)
    })
    .await?;
    assert_eq!(log.iter().filter(|exchange| exchange.details == "ai-token-ratelimit.error").count(), 3, "{log:#?}");
    assert_eq!((bed.counted()["refused"], bed.counted()["store_failures"]), (3, 3));
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn a_charge_that_the_store_does_not_answer_is_counted_once_as_unknown() -> Result<()> {
    let bed = Bed::with_a_store(IMPATIENT).await?;
    one_charge_is_unknown(&bed.stage, &bed.gateway, METRICS).await?;
    bed.stage.holds(COUNTER, Some("30")).await
}

#[tokio::test]
async fn what_is_observed_is_counted_apart_refuses_nothing_and_does_not_count_when_enforcing_begins() -> Result<()> {
    let bed = Bed::new().await?;
    is(bed.ask(20), 200, "").await?;
    bed.stage.holds(COUNTER, Some("20")).await?;

    bed.declare(&json!({"mode": "Observe", "unlistedPaths": "Refuse"})).await?;
    is(bed.ask(60), 200, "").await?;
    bed.stage.holds(OBSERVED, Some("60")).await?;
    is(bed.ask(10), 200, "").await?;
    ensure!(bed.models().await?.status != 403, "it only observes");
    bed.stage.holds(COUNTER, Some("20")).await?;
    let counted = bed.counted();
    assert_eq!((counted["would_refuse"], counted["refused"], counted["admitted"]), (2, 0, 3));

    bed.declare(&json!({"unlistedPaths": "Refuse"})).await?;
    is(bed.ask(40), 200, "").await?;
    bed.stage.holds(COUNTER, Some("60")).await?;
    is(bed.ask(10), 429, "Too many requests").await?;
    let other = bed.models().await?;
    assert_eq!(
        (other.status, &*other.text()),
        (403, "Request denied by ai token ratelimit check. This path is not listed.")
    );
    bed.stage.holds(OBSERVED, Some("60")).await?;
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn clients_are_told_of_their_limits_refused_in_the_shape_that_is_declared_and_free_without_usage() -> Result<()> {
    let bed = Bed::new().await?;
    let plain = bed.ask(10).send().await?;
    ensure!(plain.header("x-ratelimit-remaining-tokens").is_none(), "nothing is added unless it is declared");
    bed.stage.holds(COUNTER, Some("10")).await?;

    let fields = json!({"rateLimitHeaders": true, "errors": "OpenAI", "onMissingUsage": "Ignore"});
    bed.declare(&fields).await?;
    let told = completion(&bed.gateway, "user1-key", true).header("x-test-usage", "none").send().await?;
    assert_eq!((told.status, told.header("x-ratelimit-remaining-tokens")), (200, Some("40")));
    assert_eq!(told.header("x-ratelimit-limit-tokens"), Some("50"));
    let reset = told.header("x-ratelimit-reset-tokens").context("no reset")?;
    // The last ten minutes of the hour: what was counted before is not older.
    ensure!(reset == "1h0m0s" || (reset.starts_with('5') && reset.contains('m')), "{reset}");
    ensure!(told.header("retry-after").is_none(), "it is not refused");
    is(bed.ask(50), 200, "").await?;
    bed.stage.holds(COUNTER, Some("60")).await?;

    let refused = bed.ask(1).send().await?;
    assert_eq!((refused.status, refused.header("content-type")), (429, Some("application/json")));
    assert_eq!(refused.json()?["error"]["code"], "rate_limit_exceeded");
    assert_eq!(refused.header("x-ratelimit-remaining-tokens"), Some("0"));
    let seconds: i64 = refused.header("retry-after").context("no retry-after")?.parse()?;
    ensure!((3_000..=3_600).contains(&seconds), "{seconds}");
    ensure!(refused.header("x-tokenratelimit-reset").is_some(), "upstream's header stays");
    assert_eq!(bed.counted()["estimated"], 0);
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn the_answer_with_which_a_limit_is_nearly_reached_is_counted_once_per_window() -> Result<()> {
    let bed = Bed::new().await?;
    let limits = json!([{"match": {"any": true}, "tokens": 500, "window": "1h"}]);
    let declare = async |fields: Value| {
        let mut all = json!({"warnAt": 80, "rules": [{"by": {"consumer": {}}, "limits": limits}]});
        all.as_object_mut().context("no object")?.extend(fields.as_object().cloned().unwrap_or_default());
        bed.declare(&all).await
    };
    let mut spent = 0;
    // How many were counted of those that were warned of, when so much more is spent.
    let mut warned = async |tokens: i64, expected: i64| {
        is(bed.ask(tokens), 200, "").await?;
        spent += tokens;
        bed.counts("tokens", spent).await?;
        // It is counted behind the tokens.
        bed.counts("warned", expected).await
    };
    declare(json!({"mode": "Observe"})).await?;
    warned(400, 1).await?;
    bed.stage.holds(OBSERVED, Some("400")).await?;
    declare(json!({})).await?;
    // One token is missing at first.
    for (tokens, expected) in [(399, 1), (1, 2), (1, 2)] {
        warned(tokens, expected).await?;
    }
    // As when its window has ended.
    bed.stage.redis.set(COUNTER, 0).await?;
    declare(json!({"admission": "Reserve", "reservation": {"defaultMaxTokens": 2}})).await?;
    // What is held does not count.
    for (tokens, expected) in [(399, 2), (1, 3), (1, 3)] {
        warned(tokens, expected).await?;
    }
    bed.stage.holds(COUNTER, Some("401")).await?;
    assert_eq!(bed.counted()["warned"], 3);
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn streams_count_what_they_used_and_who_did_not_ask_for_it_sees_nothing_of_it() -> Result<()> {
    let bed = Bed::new().await?;
    let fields = json!({"includeUsage": true, "onMissingUsage": "Ignore", "unlistedPaths": "Refuse"});
    bed.declare(&fields).await?;
    eventually("the gateway has the rule", async || {
        let reply = bed.models().await?;
        ensure!(reply.status == 403, "{}", reply.status);
        Ok(())
    })
    .await?;
    usage_is_asked_for_and_hidden(&bed.gateway, &bed.stage.model).await?;
    bed.stage.holds(COUNTER, Some("44")).await?;
    assert_eq!((bed.counted()["estimated"], bed.gateway.traps()), (0, 0));
    Ok(())
}

/// As the gateway notes it; and as it stands when its window has passed.
const NOTED: &str = "aiquota:warned:{burst}";
const FIELD: &str = "80:50:higress-token-ratelimit:{burst}:limit_by_per_consumer:3600:x-mse-consumer:";
/// More than two looks, which are a minute apart.
const LOOKS: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_limit_that_is_nearly_reached_is_told_of_once_also_after_a_restart_until_its_window_has_passed() -> Result<()>
{
    let bed = Bed::new().await?;
    bed.declare(&json!({"warnAt": 80, "mode": "Observe"})).await?;
    is(bed.ask(45), 200, "").await?;
    bed.counts("warned", 1).await?;
    bed.declare(&json!({"warnAt": 80})).await?;
    is(bed.ask(39), 200, "").await?;
    bed.stage.holds(COUNTER, Some("39")).await?;
    let mut redis = bed.stage.redis.connect().await?;
    assert_eq!(redis.exists::<_, i64>(NOTED).await?, 0, "what is observed is told to nobody, and one token is missing");
    is(bed.ask(1), 200, "").await?;
    bed.counts("warned", 2).await?;
    let noted: BTreeMap<String, String> = redis.hgetall(NOTED).await?;
    assert_eq!(noted.keys().collect::<Vec<_>>(), [FIELD]);

    let limits = bed.stage.limits().await?;
    let shown = eventually_within(LOOKS, "the object says so", async || {
        let status = limits.get("burst").await?.data["status"].clone();
        ensure!(status["nearlyExhausted"][0]["by"] == "consumer", "{status}");
        Ok(status)
    })
    .await?;
    let since = shown["nearlyExhausted"][0]["since"].as_str().context("since when?")?;
    let limit = json!({"by": "consumer", "tokens": 50, "window": "1h", "since": since, "counters": 1});
    assert_eq!(shown["nearlyExhausted"], json!([limit]));
    let burst = limits.get("burst").await?;
    let said = condition(&burst, "NearlyExhausted").context("no condition")?;
    let words = format!(
        "80 percent of the tokens of a window (warnAt) or more were counted under 50 tokens in 1h by consumer \
         (for 1 value since {since})"
    );
    ensure!(said["status"] == "True" && said["message"] == words, "{said}");
    let told = [&*format!("80 percent or more of 50 tokens in 1h by consumer were counted, for 1 value since {since}")];
    bed.stage.tells("NearlyExhausted", &told).await?;

    bed.stage.controller().context("no controller")?.restart()?;
    bed.stage.rounds(1).await?;
    let is_shown = async || {
        let burst = limits.get("burst").await?;
        ensure!(condition(&burst, "NearlyExhausted").is_some(), "{}", burst.data["status"]);
        Ok(())
    };
    is_shown().await?;
    // Another value is news, but not this.
    is(completion(&bed.gateway, "user2-key", false).header("x-test-usage", "45,0"), 200, "").await?;
    eventually_within(LOOKS, "two values are counted", async || {
        let status = limits.get("burst").await?.data["status"].clone();
        ensure!(status["nearlyExhausted"][0]["counters"] == 2, "{status}");
        Ok(())
    })
    .await?;
    is_shown().await?;
    // Events are written behind the status, and in front of the next. By now nobody's name was told.
    bed.declare(&json!({"warnAt": 80, "rateLimitHeaders": true})).await?;
    assert_eq!(bed.stage.events("NearlyExhausted").await?, told);
    let all = serde_json::to_string(&limits.get("burst").await?.data["status"])?;
    ensure!(!all.contains("aliyun-user"), "{all}");

    let _: () = redis.hset(NOTED, FIELD, "1000/2000/2000/2").await?;
    eventually_within(LOOKS, "its window has passed", async || {
        let burst = limits.get("burst").await?;
        let gone =
            condition(&burst, "NearlyExhausted").is_none() && burst.data["status"].get("nearlyExhausted").is_none();
        ensure!(gone, "{}", burst.data["status"]);
        Ok(())
    })
    .await?;
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}
