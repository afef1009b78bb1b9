//! An object says how the requests under it end: each choice through controller and gateway, with what is booked and
//! counted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use testbed::{Call, Gateway, ModelServer, eventually, eventually_within, get, post};

use crate::scenario_a::{completion, is};
use crate::stage::{IMPATIENT, PATIENT, Stage, condition, quota};

mod limits;

const METRICS: &str = "aiquota.quota.policy.higress-system/chat.metric.";

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
        stage.apply_example_with("quota.yaml", |text| text.replace(PATIENT, timeout)).await?;
        let bed = Self { stage, gateway };
        bed.declare(&json!({})).await?;
        Ok(bed)
    }

    /// The AIQuota of the quickstart, 100 tokens for its first consumer, with these fields; the gateway runs it then.
    async fn declare(&self, fields: &Value) -> Result<()> {
        let mut fields = fields.clone();
        fields["consumers"] = json!([{"name": "aliyun-user1", "quota": 100}]);
        self.stage.api.apply(&quota("chat", &fields)).await?;
        self.stage.ready("chat").await?;
        self.stage.in_force(&self.gateway).await
    }

    fn ask(&self, tokens: i64) -> Call {
        ask(&self.gateway, tokens)
    }

    /// Asks until it is answered so: the gateway has the rule that was declared last.
    async fn answers(&self, call: impl Fn() -> Call, status: u16, body: &str) -> Result<()> {
        eventually("the gateway has the rule", async || is(call(), status, body).await).await
    }

    /// What the gateway counted under the policy since it was started.
    fn counted(&self) -> BTreeMap<String, i64> {
        counted(&self.gateway, METRICS)
    }

    async fn counts(&self, metric: &str, expected: i64) -> Result<()> {
        counts(&self.gateway, METRICS, metric, expected).await
    }
}

/// A completion whose answer says that it used so many tokens.
fn ask(gateway: &Gateway, tokens: i64) -> Call {
    completion(gateway, "user1-key", false).header("x-test-usage", format!("{tokens},0"))
}

/// What the gateway counted, by what stands behind this in the metrics' names.
fn counted(gateway: &Gateway, prefix: &str) -> BTreeMap<String, i64> {
    let metrics = gateway.metrics().into_iter();
    metrics.filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value))).collect()
}

async fn counts(gateway: &Gateway, prefix: &str, metric: &str, expected: i64) -> Result<()> {
    eventually(&format!("{metric} is {expected}"), async || {
        let counted = counted(gateway, prefix);
        ensure!(counted.get(metric) == Some(&expected), "{counted:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_request_without_the_stores_answer_is_refused_or_charged_at_its_end_as_declared() -> Result<()> {
    let bed = Bed::with_a_store(IMPATIENT).await?;
    is(bed.ask(10), 200, "").await?;
    bed.stage.balance("aliyun-user1", 90).await?;
    bed.counts("tokens", 10).await?;

    bed.stage.redis.pause()?;
    let refused = is(bed.ask(10), 503, "Quota store unavailable.").await;
    bed.stage.redis.resume()?;
    refused?;
    bed.counts("store_failures", 1).await?;
    bed.counts("refused", 1).await?;

    bed.declare(&json!({"onStoreFailure": "Admit"})).await?;
    let thinking = bed.stage.model.gate("ends");
    let before = bed.stage.model.received().len();
    let done = eventually("a request passes without the store", async || {
        thinking.close();
        bed.stage.redis.pause()?;
        let asked = bed.ask(25).header("x-test-gate", "ends").send();
        let mut asked = std::pin::pin!(asked);
        let reply = tokio::select! {
            reply = &mut asked => Some(reply),
            () = thinking.reached_by(1) => None,
        };
        // The model thinks, or the request was refused: the store is back either way.
        bed.stage.redis.resume()?;
        thinking.open();
        if let Some(reply) = reply {
            bail!("the rule before is still in force: {}", reply?.status);
        }
        Ok(asked.await?.status)
    })
    .await?;
    assert_eq!(done, 200);
    assert_eq!(bed.stage.model.received().len() - before, 1);
    bed.stage.balance("aliyun-user1", 65).await?;
    assert_eq!(bed.counted()["admitted"], 2);
    assert_eq!(bed.counted()["unknown_charges"], 0);
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}

/// An answer of 10 tokens ends while the store is stopped that admitted its request: nobody knows then whether they were
/// charged, and that is counted once. The store goes on in the end, also after a failure.
async fn one_charge_is_unknown(stage: &Stage, gateway: &Gateway, prefix: &str) -> Result<()> {
    let thinking = stage.model.gate("unknown");
    let asked = async { Ok(ask(gateway, 10).header("x-test-gate", "unknown").send().await?.status) };
    let ends = async {
        let counted = async {
            eventually("it is admitted", async || {
                ensure!(thinking.waiting() == 1, "{:?}", counted(gateway, prefix));
                Ok(())
            })
            .await?;
            ensure!(counted(gateway, prefix).get("unknown_charges") == Some(&0));
            stage.redis.pause()?;
            thinking.open();
            counts(gateway, prefix, "unknown_charges", 1).await
        };
        let counted = counted.await;
        thinking.open();
        stage.redis.resume()?;
        counted
    };
    let (status, ended): (Result<u16>, Result<()>) = futures::join!(asked, ends);
    ended?;
    assert_eq!(status?, 200);
    // Another is charged behind it on each worker: what the store answered late changes nothing.
    let tokens = counted(gateway, prefix)["tokens"];
    for _ in 0..2 {
        is(ask(gateway, 10), 200, "").await?;
    }
    counts(gateway, prefix, "tokens", tokens + 20).await?;
    assert_eq!(counted(gateway, prefix)["unknown_charges"], 1);
    assert_eq!(gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn a_charge_that_the_store_does_not_answer_is_counted_once_as_unknown() -> Result<()> {
    let bed = Bed::with_a_store(IMPATIENT).await?;
    one_charge_is_unknown(&bed.stage, &bed.gateway, METRICS).await?;
    bed.stage.balance("aliyun-user1", 70).await
}

#[tokio::test]
async fn what_is_observed_is_counted_refuses_nothing_and_is_forgotten_when_enforcing_begins() -> Result<()> {
    let bed = Bed::new().await?;
    bed.declare(&json!({"mode": "Observe", "unlistedPaths": "Refuse"})).await?;
    // Paths that are not listed tell when the rule is there: they pass before without being counted so.
    let models = || get(format!("{}/v1/models", bed.gateway.url())).header("x-api-key", "user1-key");
    eventually("it observes", async || {
        let _ = models().send().await?;
        ensure!(bed.counted().get("would_refuse").is_some_and(|count| *count > 0), "{:?}", bed.counted());
        Ok(())
    })
    .await?;
    let would_refuse = bed.counted()["would_refuse"];
    is(bed.ask(150), 200, "").await?;
    bed.counts("tokens", 150).await?;
    is(bed.ask(10), 200, "").await?;
    bed.counts("tokens", 160).await?;
    bed.counts("would_refuse", would_refuse + 1).await?;
    bed.stage.balance("aliyun-user1", 100).await?;
    assert_eq!(bed.counted()["refused"], 0);

    bed.declare(&json!({"unlistedPaths": "Refuse"})).await?;
    bed.answers(models, 403, "Request denied by ai quota check. This path is not listed.").await?;
    is(bed.ask(60), 200, "").await?;
    bed.stage.balance("aliyun-user1", 40).await?;
    is(bed.ask(60), 200, "").await?;
    bed.stage.balance("aliyun-user1", -20).await?;
    is(bed.ask(60), 403, "No quota left").await?;

    bed.declare(&json!({})).await?;
    eventually("other paths pass again", async || {
        let reply = models().send().await?;
        ensure!(reply.status != 403, "{}", reply.text());
        Ok(())
    })
    .await?;
    ensure!(bed.counted()["unmetered"] > 0, "{:?}", bed.counted());
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn an_answer_without_usage_is_estimated_or_free_as_declared() -> Result<()> {
    let bed = Bed::new().await?;
    let ask = || completion(&bed.gateway, "user1-key", true).header("x-test-usage", "none");
    is(ask(), 200, "data: [DONE]").await?;
    bed.counts("estimated", 1).await?;
    let spent = eventually("something was estimated", async || {
        let spent = bed.counted()["tokens"];
        ensure!(spent > 0, "{:?}", bed.counted());
        Ok(spent)
    })
    .await?;
    bed.stage.balance("aliyun-user1", 100 - spent).await?;
    bed.declare(&json!({"onMissingUsage": "Ignore", "unlistedPaths": "Refuse"})).await?;
    let models = || get(format!("{}/v1/models", bed.gateway.url())).header("x-api-key", "user1-key");
    bed.answers(models, 403, "This path is not listed.").await?;
    is(ask(), 200, "data: [DONE]").await?;
    is(bed.ask(1), 200, "").await?;
    bed.stage.balance("aliyun-user1", 100 - spent - 1).await?;
    assert_eq!(bed.counted()["estimated"], 1);
    Ok(())
}

/// Asks for a stream that costs 11 tokens, which the model tells to who asks for its usage.
fn streamed(url: &str, path: &str, fields: &Value) -> Call {
    let mut body = json!({"model": "qwen-max", "stream": true, "messages": [{"role": "user", "content": "Hello"}]});
    for (field, value) in fields.as_object().into_iter().flatten() {
        body[field] = value.clone();
    }
    let call = post(format!("{url}{path}")).json(&body).header("x-api-key", "user1-key");
    call.header("x-higress-llm-model", "qwen-max").header("x-test-usage-asked", "7,4")
}

/// Four streams on a route that asks for usage, of 44 tokens: who did not ask gets what the model answers who does not
/// ask, and the model was asked.
async fn usage_is_asked_for_and_hidden(gateway: &Gateway, model: &ModelServer) -> Result<()> {
    const CHAT: &str = "/v1/chat/completions";
    let url = gateway.url();
    let plain = json!({"stream_options": {"other": 1}});
    let alone = streamed(&model.url(), CHAT, &plain).send().await?;
    ensure!(!alone.text().contains("total_tokens"), "the model tells it unasked: {}", alone.text());
    for border in ["1", "50", "100000"] {
        model.take_received();
        let reply = streamed(&url, CHAT, &plain).header("x-test-border", border).send().await?;
        assert_eq!((reply.status, reply.text()), (200, alone.text()), "in pieces of {border} bytes");
        let [received] = &model.take_received()[..] else { bail!("not once") };
        let body: Value = serde_json::from_slice(&received.body)?;
        assert_eq!(body["stream_options"], json!({"other": 1, "include_usage": true}));
        assert_eq!(body["messages"][0]["content"], "Hello");
    }
    let asks = json!({"stream_options": {"include_usage": true}});
    let reply = streamed(&url, CHAT, &asks).send().await?;
    assert_eq!(reply.text(), streamed(&model.url(), CHAT, &asks).send().await?.text());
    ensure!(reply.text().contains("\"total_tokens\":11"), "a client that asks is answered: {}", reply.text());

    let fails = |url: &str| streamed(url, CHAT, &plain).header("x-test-status", "400");
    assert_eq!(fails(&url).send().await?.text(), fails(&model.url()).send().await?.text());
    model.take_received();
    streamed(&url, "/v1/messages", &plain).header("x-test-status", "500").send().await?;
    let body: Value = serde_json::from_slice(&model.take_received()[0].body)?;
    assert_eq!(body["stream_options"], plain["stream_options"], "another API");
    Ok(())
}

#[tokio::test]
async fn streams_are_charged_what_they_used_and_who_did_not_ask_for_it_sees_nothing_of_it() -> Result<()> {
    let bed = Bed::new().await?;
    let fields = json!({"includeUsage": true, "onMissingUsage": "Ignore", "unlistedPaths": "Refuse"});
    bed.declare(&fields).await?;
    let models = || get(format!("{}/v1/models", bed.gateway.url())).header("x-api-key", "user1-key");
    bed.answers(models, 403, "This path is not listed.").await?;
    usage_is_asked_for_and_hidden(&bed.gateway, &bed.stage.model).await?;
    bed.stage.balance("aliyun-user1", 100 - 44).await?;
    assert_eq!((bed.counted()["estimated"], bed.gateway.traps()), (0, 0));
    Ok(())
}

#[tokio::test]
async fn clients_are_told_what_is_left_and_refused_in_the_shape_that_is_declared() -> Result<()> {
    let bed = Bed::new().await?;
    let plain = bed.ask(10).send().await?;
    ensure!(plain.header("x-ratelimit-remaining-tokens").is_none(), "nothing is added unless it is declared");
    bed.stage.balance("aliyun-user1", 90).await?;
    let refresh = json!({"schedule": "0 0 29 2 *", "mode": "Reset"});
    let fields = json!({"rateLimitHeaders": true, "errors": "OpenAI", "unlistedPaths": "Refuse", "refresh": refresh});
    bed.declare(&fields).await?;
    let models = || get(format!("{}/v1/models", bed.gateway.url())).header("x-api-key", "user1-key");
    bed.answers(models, 404, r#""code":"unknown_url""#).await?;
    let told = bed.ask(10).send().await?;
    assert_eq!((told.status, told.header("x-ratelimit-remaining-tokens")), (200, Some("90")));
    assert_eq!(told.header("x-ratelimit-limit-tokens"), Some("100"));
    let reset = told.header("x-ratelimit-reset-tokens").context("no reset")?;
    ensure!(reset.contains('h') && reset.ends_with('s'), "{reset}");
    ensure!(told.header("retry-after").is_none(), "it is not refused");

    bed.stage.balance("aliyun-user1", 80).await?;
    is(bed.ask(100), 200, "").await?;
    bed.stage.balance("aliyun-user1", -20).await?;
    let refused = bed.ask(1).send().await?;
    assert_eq!((refused.status, refused.header("content-type")), (429, Some("application/json")));
    assert_eq!(refused.json()?["error"]["code"], "insufficient_quota");
    assert_eq!(refused.header("x-ratelimit-remaining-tokens"), Some("0"));
    let seconds: i64 = refused.header("retry-after").context("no retry-after")?.parse()?;
    ensure!((1..=4 * 366 * 86_400).contains(&seconds), "{seconds}");
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}

/// More than two polls of balances, which are a minute apart.
const POLLS: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_consumer_that_comes_near_its_end_is_counted_and_told_of_once_also_after_a_restart() -> Result<()> {
    let bed = Bed::new().await?;
    bed.declare(&json!({"warnAt": 80, "mode": "Observe"})).await?;
    is(bed.ask(90), 200, "").await?;
    bed.counts("warned", 1).await?;
    bed.declare(&json!({"warnAt": 80})).await?;
    is(bed.ask(79), 200, "").await?;
    bed.counts("tokens", 90 + 79).await?;
    assert_eq!(bed.counted()["warned"], 1, "one token is missing");
    is(bed.ask(1), 200, "").await?;
    bed.counts("warned", 2).await?;
    bed.counts("tokens", 90 + 80).await?;

    let quotas = bed.stage.quotas().await?;
    let words = "80 percent of their quota in this period (warnAt) or more used aliyun-user1 (80 of 100 tokens)";
    eventually_within(POLLS, "the object says so", async || {
        let chat = quotas.get("chat").await?;
        let found = condition(&chat, "NearlyExhausted").with_context(|| chat.data["status"].to_string())?;
        ensure!(found["status"] == "True" && found["message"] == words, "{found}");
        Ok(())
    })
    .await?;
    let told = ["consumer aliyun-user1 has used 80 of its 100 tokens of this period"];
    bed.stage.tells("NearlyExhausted", &told).await?;
    bed.stage.controller().context("no controller")?.restart()?;
    bed.stage.rounds(1).await?;
    // What is spent meanwhile is news, but not this.
    is(bed.ask(5), 200, "").await?;
    eventually_within(POLLS, "more is used", async || {
        let status = quotas.get("chat").await?.data["status"].clone();
        ensure!(status["consumers"][0]["used"] == 85 && status["consumers"][0]["nearlyExhausted"] == true, "{status}");
        Ok(())
    })
    .await?;
    // Events are written behind the status, and in front of the next.
    bed.declare(&json!({"warnAt": 80, "rateLimitHeaders": true})).await?;
    assert_eq!(bed.stage.events("NearlyExhausted").await?, told);
    assert_eq!((bed.counted()["warned"], bed.gateway.traps()), (2, 0));
    Ok(())
}
