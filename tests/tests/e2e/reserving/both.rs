//! Both kinds hold tokens on one route, as objects declare it: whom one of them refuses, the other holds nothing for.

use anyhow::{Result, bail, ensure};
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use testbed::{Gateway, eventually};

use crate::scenario_a::{completion, is};
use crate::stage::{NAMESPACE, Stage, quota};

const BALANCE: &str = "chat_quota:aliyun-user1";
const COUNTER: &str = "higress-token-ratelimit:{burst}:limit_by_per_consumer:3600:x-mse-consumer:aliyun-user1";
/// Of each request: more than half of what a kind has that is to refuse, less than what one has that is not.
const RESERVES: i64 = 60;

struct Bed {
    stage: Stage,
    gateway: Gateway,
}

/// What is held: how many holds and how many tokens, by the quota and by the limit.
type Held = [(usize, i64); 2];

impl Bed {
    /// A route under both kinds, with so many tokens for its consumer.
    async fn new(granted: i64, limit: i64) -> Result<Self> {
        let stage = Stage::set().await?;
        stage.start_controller()?;
        let gateway = stage.start_gateway().await?;
        stage.apply_example("gateway.yaml").await?;
        stage.apply_example("quota.yaml").await?;
        let with = |object: Value| {
            let mut object = object;
            object["spec"]["admission"] = json!("Reserve");
            object["spec"]["reservation"] = json!({"defaultMaxTokens": RESERVES});
            object
        };
        let consumers = json!({"consumers": [{"name": "aliyun-user1", "quota": granted}]});
        stage.api.apply(&with(quota("chat", &consumers))).await?;
        let limits = json!([{"match": {"any": true}, "tokens": limit, "window": "1h"}]);
        let burst = json!({
            "apiVersion": "quota.higress.io/v1alpha1", "kind": "AITokenRateLimit",
            "metadata": {"name": "burst", "namespace": NAMESPACE},
            "spec": {
                "targetRefs": [{"kind": "Ingress", "name": "qwen"}], "ruleName": "burst",
                "rules": [{"by": {"consumer": {}}, "limits": limits}],
            },
        });
        stage.api.apply(&with(burst)).await?;
        stage.ready("chat").await?;
        stage.condition(&stage.limits().await?, "burst", "Ready", "True").await?;
        stage.in_force(&gateway).await?;
        stage.balance("aliyun-user1", granted).await?;
        Ok(Self { stage, gateway })
    }

    async fn held(&self) -> Result<Held> {
        let mut redis = self.stage.redis.connect().await?;
        let sum: Option<i64> = redis.hget(format!("{{{BALANCE}}}:ledger"), "held").await?;
        let amounts: Option<i64> = redis.hget(format!("aiquota:amounts:{COUNTER}"), "").await?;
        let of_quota = (redis.zcard(format!("{{{BALANCE}}}:holds")).await?, sum.unwrap_or_default());
        let of_limit = (redis.zcard(format!("aiquota:holds:{COUNTER}")).await?, amounts.unwrap_or_default());
        Ok([of_quota, of_limit])
    }

    async fn holds(&self, expected: Held) -> Result<()> {
        eventually("what is held is this", async || {
            let held = self.held().await?;
            ensure!(held == expected, "{held:?}, expected {expected:?}");
            Ok(())
        })
        .await
    }

    /// While one request is in flight, for which both kinds hold, others are refused so, and hold nothing. What the first
    /// one cost is charged by both, and in the end nothing is held.
    async fn refuses(&self, granted: i64, status: u16, body: &str) -> Result<()> {
        let ask = || completion(&self.gateway, "user1-key", false).header("x-test-usage", "7,3");
        let thinking = self.stage.model.gate("both");
        let asked = async { Ok(ask().header("x-test-gate", "both").send().await?.status) };
        let refused = async {
            let refused = async {
                eventually("one is in flight", async || {
                    ensure!(thinking.waiting() == 1, "{:?}", self.held().await?);
                    Ok(())
                })
                .await?;
                let [of_quota, of_limit] = self.held().await?;
                ensure!(of_quota == of_limit && of_quota.0 == 1, "{of_quota:?}, {of_limit:?}");
                ensure!((RESERVES..2 * RESERVES).contains(&of_quota.1), "{of_quota:?}");
                // One on each worker at least.
                for _ in 0..4 {
                    is(ask(), status, body).await?;
                }
                self.holds([of_quota, of_limit]).await?;
                self.stage.balance("aliyun-user1", granted).await
            };
            let refused = refused.await;
            thinking.open();
            refused
        };
        let (asked, refused): (Result<u16>, Result<()>) = futures::join!(asked, refused);
        refused?;
        let asked = asked?;
        if asked != 200 {
            bail!("the first is answered {asked}");
        }
        self.holds([(0, 0), (0, 0)]).await?;
        self.stage.balance("aliyun-user1", granted - 10).await?;
        let counted = self.stage.redis.get(COUNTER).await?;
        ensure!(counted.as_deref() == Some("10"), "{counted:?}");
        ensure!(self.gateway.traps() == 0, "{:#?}", self.gateway.logs());
        Ok(())
    }
}

#[tokio::test]
async fn who_is_refused_by_the_limit_leaves_no_hold_of_the_quota() -> Result<()> {
    Bed::new(1_000, 100).await?.refuses(1_000, 429, "Too many requests").await
}

#[tokio::test]
async fn who_is_refused_by_the_quota_leaves_no_hold_of_the_limit() -> Result<()> {
    Bed::new(100, 1_000).await?.refuses(100, 403, "No quota left").await
}
