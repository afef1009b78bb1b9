//! examples/models on the whole system: what tokens weigh, quotas and limits of one model, and who says something else
//! about the model than the body.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::{Call, Gateway, get, post};

use crate::scenario_a::{CHAT, is};
use crate::stage::Stage;

const UNCLEAR: &str = "It is not clear which model the request is for.";

struct Bed {
    stage: Stage,
    gateway: Gateway,
}

impl Bed {
    async fn new() -> Result<Self> {
        let stage = Stage::set().await?;
        stage.start_controller()?;
        let gateway = stage.start_gateway().await?;
        for file in ["gateway.yaml", "quota.yaml", "../models/models.yaml"] {
            stage.apply_example(file).await?;
        }
        stage.ready("chat").await?;
        let limits = stage.limits().await?;
        stage.condition(&limits, "models", "Ready", "True").await?;
        stage.in_force(&gateway).await?;
        Ok(Self { stage, gateway })
    }

    /// A request of the first consumer for a model, whose answer says that it used so much.
    fn ask(&self, model: &str, usage: &str, stream: bool) -> Call {
        let message = json!({"role": "user", "content": "Hello"});
        self.send(&json!({"model": model, "stream": stream, "messages": [message]}).to_string())
            .header("x-test-usage", usage)
    }

    fn send(&self, body: &str) -> Call {
        let call = post(format!("{}{CHAT}", self.gateway.url())).body(body.to_owned());
        call.header("content-type", "application/json").header("x-api-key", "user1-key")
    }

    fn counted(&self, name: &str) -> Option<i64> {
        self.gateway.metrics().into_iter().find_map(|(found, value)| (found == name).then_some(value))
    }
}

#[tokio::test]
async fn tokens_weigh_what_their_model_says_and_a_model_has_its_own_quotas() -> Result<()> {
    let bed = Bed::new().await?;
    let user1 = "aliyun-user1";
    // 10 of input at 2, 20 of output at 6.
    is(bed.ask("qwen-max", "10,20", false), 200, "").await?;
    bed.stage.balance(user1, 9_860).await?;
    is(bed.ask("qwen-max", "10,20", true), 200, "").await?;
    bed.stage.balance(user1, 9_720).await?;
    // Undeclared.
    is(bed.ask("qwen-long", "10,20", false), 200, "").await?;
    bed.stage.balance(user1, 9_690).await?;

    is(bed.ask("qwen3-coder", "40,30", false), 200, "").await?;
    bed.stage.balance(" qwen3-* aliyun-user1", 30).await?;
    is(bed.ask("qwen3-vl", "20,10", true), 200, "").await?;
    bed.stage.balance(" qwen3-* aliyun-user1", 0).await?;
    is(bed.ask("qwen3-coder", "1,1", false), 403, "No quota left").await?;
    is(bed.ask("qwen-max", "0,10", false), 200, "").await?;
    bed.stage.balance(user1, 9_630).await?;
    let unlisted = post(format!("{}{CHAT}", bed.gateway.url())).json(&json!({"model": "qwen3-coder"}));
    is(unlisted.header("x-api-key", "user2-key"), 403, "No quota left").await?;

    let admin = |query: &str| {
        get(format!("{}{CHAT}/quota?consumer={user1}{query}", bed.gateway.url())).header("x-api-key", "admin-key")
    };
    is(admin(""), 200, r#""quota":9630"#).await?;
    is(admin("&model=qwen3-coder"), 200, r#""quota":0"#).await?;
    let metric = |model: &str, metric: &str| {
        bed.counted(&format!("aiquota.quota.policy.higress-system/chat.model.{model}.metric.{metric}"))
    };
    assert_eq!(metric("qwen-max", "tokens"), Some(140 + 140 + 60));
    assert_eq!(metric("qwen3-*", "tokens"), Some(100));
    assert_eq!(metric("qwen3-*", "refused"), Some(2));
    assert_eq!(metric("other", "tokens"), Some(30));
    assert_eq!(metric("qwen-long", "tokens"), None, "no name of a client's making");

    bed.stage
        .eventually("the status shows whose balance of which model it is", async || {
            let status = bed.stage.quotas().await?.get("chat").await?.data["status"].clone();
            let all = status["consumers"].as_array().context("no consumers")?;
            let of = |one: &&Value| one["model"] == "qwen3-*" && one["name"] == user1 && one["quota"] == 100;
            ensure!(all.len() == 3 && all.iter().filter(of).count() == 1, "{status}");
            Ok(())
        })
        .await?;
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}

#[tokio::test]
async fn a_limit_of_a_model_holds_for_that_model_alone_and_nobody_names_two() -> Result<()> {
    let bed = Bed::new().await?;
    is(bed.ask("qwen-turbo", "15,10", true), 200, "").await?;
    let key = "higress-token-ratelimit:{higress-system.models} qwen-turbo :global_threshold:3600";
    bed.stage.holds(key, Some("25")).await?;
    is(bed.ask("qwen-turbo", "1,1", false), 429, "Too many requests").await?;
    is(bed.ask("qwen-max", "1,1", false), 200, "").await?;
    bed.stage.balance("aliyun-user1", 10_000 - 25 - 8).await?;

    let before = bed.stage.model.received().len();
    let forged = bed.ask("qwen-max", "10,20", false).header("x-higress-llm-model", "qwen-long");
    is(forged, 403, UNCLEAR).await?;
    is(bed.send(r#"{"model":"qwen-long","messages":[],"model":"qwen-max"}"#), 403, UNCLEAR).await?;
    is(bed.send(r#"{"model":"qwen-long","messages":[NaN]}"#), 403, UNCLEAR).await?;
    assert_eq!(bed.stage.model.received().len(), before, "the model saw none of them");
    let routed = bed.ask("qwen-max", "10,20", false).header("x-higress-llm-model", "qwen-max");
    is(routed, 200, "").await?;
    bed.stage.balance("aliyun-user1", 10_000 - 25 - 8 - 140).await?;
    assert_eq!(bed.gateway.traps(), 0);
    Ok(())
}
