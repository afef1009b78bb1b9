//! `cargo xtask demo`: starts the whole system, applies examples/quickstart with kubectl and plays scenario A.
//! Every answer and balance is compared with what must be; the exit code says whether all were so.

mod story;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use testbed::{
    ApiServer, Call, Controller, ControllerOptions, Gateway, GatewayOptions, ModelServer, Redis, RedisOptions, Source,
    eventually, eventually_within, get, kubectl, kubectl_with_input, post, workspace,
};

use story::Story;

const NAMESPACE: &str = "higress-system";
const CHAT: &str = "/v1/chat/completions";
const ADMIN: (&str, &str) = ("aliyun-admin", "admin-key");
const USER1: (&str, &str) = ("aliyun-user1", "user1-key");
const USER2: (&str, &str) = ("aliyun-user2", "user2-key");

#[derive(Parser)]
#[command(about = "Plays a day of token management on real components")]
struct Arguments {
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

/// All that runs. Ends when it is dropped.
struct System {
    api: ApiServer,
    redis: Redis,
    model: ModelServer,
    gateway: Gateway,
    controller: Controller,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        // Without the frames that anyhow would add to it.
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(Arguments { keep }: Arguments) -> Result<()> {
    // Ctrl-C at any moment ends what runs in order, and its temporary folders with it.
    let (system, failures) = tokio::select! {
        told = tell() => told?,
        interrupted = tokio::signal::ctrl_c() => { interrupted?; bail!("interrupted") }
    };
    if keep {
        system.print_how_to_reach_it();
        tokio::signal::ctrl_c().await?;
    }
    ensure!(failures == 0, "{failures} steps differ from what is expected");
    Ok(())
}

/// Starts everything and plays the story; returns what runs, and how many steps were not as expected.
async fn tell() -> Result<(System, usize)> {
    let mut story = Story::default();
    let system = System::start(&mut story).await?;
    system.declare(&mut story).await?;
    play(&system, &mut story).await?;
    Ok((system, story.closing_table()))
}

impl System {
    async fn start(story: &mut Story) -> Result<Self> {
        story.chapter("The components");
        let api = ApiServer::start().await?;
        api.install_crds().await?;
        api.namespace(NAMESPACE).await?;
        story.fact("Kubernetes API server", &format!("etcd behind it; KUBECONFIG={}", api.kubeconfig().display()));
        // The password that the quickstart's Secret holds.
        let password = Some("change-me".to_owned());
        let redis = Redis::start(RedisOptions { password, ..RedisOptions::default() }).await?;
        story.fact("Redis", &redis.addr());
        let model = ModelServer::start().await?;
        story.fact("model server", &model.url());
        let source = Source::Cluster(api.client(), NAMESPACE.to_owned());
        let gateway = Gateway::start(GatewayOptions { source, ..GatewayOptions::default() }).await?;
        story.fact("gateway", &format!("{}, two worker threads", gateway.url()));
        let controller = Controller::start(&api, ControllerOptions { elected: true, ..ControllerOptions::default() })?;
        story.fact("controller", "aiquota run");
        Ok(Self { api, redis, model, gateway, controller })
    }

    /// Applies the quickstart and waits until it is enforced.
    async fn declare(&self, story: &mut Story) -> Result<()> {
        story.chapter("What is declared: examples/quickstart");
        let text = example("gateway.yaml")?;
        let addresses = [("127.0.0.1:6379", self.redis.addr()), ("127.0.0.1:8080", self.model.addr().to_string())];
        let gateway = addresses.into_iter().try_fold(text, |text, (written, real)| {
            ensure!(text.contains(written), "gateway.yaml no longer names {written}");
            story.aside(&format!("in gateway.yaml, {written} stands for {real} today"));
            Ok(text.replace(written, &real))
        })?;
        story.command("kubectl apply -f examples/quickstart/gateway.yaml");
        story.printed(&kubectl_with_input(&self.api, &["apply", "-f", "-"], &gateway).await?);
        story.command("kubectl apply -f examples/quickstart/quota.yaml");
        let file = workspace().join("examples/quickstart/quota.yaml");
        story.printed(&kubectl(&self.api, &["apply".as_ref(), "-f".as_ref(), file.as_os_str()]).await?);

        let ready = ["wait", "--for=condition=Ready", "--timeout=1s", "-n", NAMESPACE, "aiquota/chat"];
        let is_ready = eventually("the AIQuota is ready", async || {
            self.controller.ensure_running()?;
            kubectl(&self.api, &ready).await
        });
        is_ready.await.with_context(|| format!("the controller says:\n{}", self.controller.log()))?;
        story.command("kubectl get aiquotastore,aiquota -n higress-system");
        let columns = ["get", "aiquotastore,aiquota", "-n", NAMESPACE];
        story.printed(&kubectl(&self.api, &columns).await?);
        eventually("the gateway has loaded the module", async || {
            let reply = self.admin_get().send().await?;
            ensure!(reply.status == 200, "it answers {} {}", reply.status, reply.text());
            Ok(())
        })
        .await
    }

    /// Applies the limit and waits until it is enforced.
    async fn declare_limit(&self, story: &mut Story) -> Result<()> {
        story.command("kubectl apply -f examples/quickstart/limit.yaml");
        let file = workspace().join("examples/quickstart/limit.yaml");
        story.printed(&kubectl(&self.api, &["apply".as_ref(), "-f".as_ref(), file.as_os_str()]).await?);
        let ready = ["wait", "--for=condition=Ready", "--timeout=1s", "-n", NAMESPACE, "aitokenratelimit/chat"];
        let is_ready = eventually("the AITokenRateLimit is ready", async || kubectl(&self.api, &ready).await);
        is_ready.await.with_context(|| format!("the controller says:\n{}", self.controller.log()))?;
        story.command("kubectl get aitokenratelimit -n higress-system");
        story.printed(&kubectl(&self.api, &["get", "aitokenratelimit", "-n", NAMESPACE]).await?);
        self.gateway.settled(|loaded| loaded.runs("aiquota-ai-token-ratelimit")).await
    }

    /// Waits until so many tokens of this API key are counted, which is a moment after an answer's last byte.
    async fn counted(&self, key: &str, tokens: &str) -> Result<()> {
        let counter = format!("higress-token-ratelimit:{{default_rule}}:limit_by_per_header:60:x-api-key:{key}");
        eventually("the answer is counted", async || {
            let counted = self.redis.get(&counter).await?;
            ensure!(counted.as_deref() == Some(tokens), "{counter}: {counted:?}");
            Ok(())
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.gateway.url())
    }

    fn admin_get(&self) -> Call {
        with_key(get(self.url(&format!("{CHAT}/quota?consumer={}", USER1.0))), ADMIN)
    }

    fn admin_post(&self, operation: &str, form: &str) -> Call {
        with_key(post(self.url(&format!("{CHAT}/quota/{operation}"))).form(form), ADMIN)
    }

    fn completion(&self, stream: bool) -> Call {
        let message = r#"{"role":"user","content":"Hello"}"#;
        let body = format!(r#"{{"model":"qwen-max","stream":{stream},"messages":[{message}]}}"#);
        let call = post(self.url(CHAT)).header("content-type", "application/json").body(body);
        call.header("x-higress-llm-model", "qwen-max")
    }

    async fn balance(&self, consumer: &str) -> Result<i64> {
        let value = self.redis.get(&format!("chat_quota:{consumer}")).await?;
        Ok(value.with_context(|| format!("{consumer} has no balance"))?.parse()?)
    }

    fn print_how_to_reach_it(&self) {
        println!("\nAll of it is still running. In another terminal:\n");
        println!("  export KUBECONFIG={}", self.api.kubeconfig().display());
        println!("  kubectl get aiquota -A -o wide");
        println!("  kubectl describe aiquota chat -n higress-system");
        println!("  curl -H 'x-api-key: admin-key' '{}{CHAT}/quota?consumer=aliyun-user2'", self.gateway.url());
        let body = r#"{"model":"qwen-max","messages":[{"role":"user","content":"Hello"}]}"#;
        println!("  curl -H 'x-api-key: user2-key' {}{CHAT} -d '{body}'", self.gateway.url());
        println!("  redis-cli -u {} GET chat_quota:aliyun-user2", self.redis.url());
        println!("  tail -f {}   # what the controller logs", self.controller.log_file().display());
        println!("\nCtrl-C ends it.");
    }
}

/// Scenario A, steps 1 to 6.
async fn play(system: &System, story: &mut Story) -> Result<()> {
    let balance = async |story: &mut Story, consumer: &str, expected: i64| {
        // A charge is booked when the answer has ended: a moment after its last byte.
        let reached = eventually_within(Duration::from_secs(10), "the balance is booked", async || {
            let found = system.balance(consumer).await?;
            ensure!(found == expected, "{found}");
            Ok(found)
        });
        let found = match reached.await {
            Ok(found) => Some(found),
            Err(_) => system.balance(consumer).await.ok(),
        };
        story.balance(consumer, expected, found);
    };

    story.chapter("1. The admin looks up a balance");
    let declared = r#"{"consumer":"aliyun-user1","quota":10000}"#;
    story.exchange("admin queries user1", ADMIN.0, system.admin_get(), 200, declared).await?;

    story.chapter("2. The admin sets it, and no resync undoes that");
    let call = system.admin_post("refresh", "consumer=aliyun-user1&quota=100");
    story.exchange("admin refreshes user1", ADMIN.0, call, 200, "refresh quota successful").await?;
    story.aside("the controller restarts, and aliyun-user3 joins: its balance shows that the controller has synced");
    // As Kubernetes ends a Pod: one that is killed keeps its Lease until that runs out.
    system.controller.terminate().await?;
    system.controller.restart()?;
    let quota = example("quota.yaml")?.replace(
        "    - {name: aliyun-user2, quota: 50000}",
        "    - {name: aliyun-user2, quota: 50000}\n    - {name: aliyun-user3, quota: 500}",
    );
    ensure!(quota.contains("aliyun-user3"), "quota.yaml no longer lists aliyun-user2 as it did");
    story.command("kubectl apply -f -   # quota.yaml with aliyun-user3");
    story.printed(&kubectl_with_input(&system.api, &["apply", "-f", "-"], &quota).await?);
    balance(story, "aliyun-user3", 500).await;
    balance(story, USER1.0, 100).await;

    story.chapter("3. The admin corrects it");
    let call = system.admin_post("delta", "consumer=aliyun-user1&value=100");
    story.exchange("admin gives 100", ADMIN.0, call, 200, "delta quota successful").await?;
    balance(story, USER1.0, 200).await;
    let call = system.admin_post("delta", "consumer=aliyun-user1&value=-50");
    story.exchange("admin takes 50", ADMIN.0, call, 200, "delta quota successful").await?;
    balance(story, USER1.0, 150).await;

    story.chapter("4. user1 asks the model, plain and streamed");
    let plain = with_key(system.completion(false), USER1);
    story.exchange("a plain completion", USER1.0, plain, 200, r#""total_tokens":30"#).await?;
    balance(story, USER1.0, 120).await;
    let streamed = with_key(system.completion(true), USER1);
    story.exchange("a streamed completion", USER1.0, streamed, 200, "data: [DONE]").await?;
    balance(story, USER1.0, 90).await;

    story.chapter("5. user1 asks until nothing is left");
    story.aside("a long answer: usage 30 in, 70 out");
    let long = with_key(system.completion(true), USER1).header("x-test-usage", "30,70");
    story.exchange("a long completion", USER1.0, long, 200, r#""total_tokens":100"#).await?;
    balance(story, USER1.0, -10).await;
    let refused = with_key(system.completion(false), USER1);
    story.exchange("nothing is left", USER1.0, refused, 403, "No quota left").await?;
    story.aside("and from now on, a limit of 5 tokens per minute and API key");
    system.declare_limit(story).await?;
    let first = with_key(system.completion(false), USER2);
    story.exchange("user2 goes over 5 tokens", USER2.0, first, 200, r#""total_tokens":30"#).await?;
    balance(story, USER2.0, 49_970).await;
    system.counted(USER2.1, "30").await?;
    let second = with_key(system.completion(false), USER2);
    let limited = story.exchange("user2 is too fast", USER2.0, second, 429, "Too many requests").await?;
    story.seconds(&limited, "X-TokenRateLimit-Reset", 60);
    balance(story, USER2.0, 49_970).await;

    story.chapter("6. Who may not, cannot");
    let call = with_key(get(system.url(&format!("{CHAT}/quota?consumer=aliyun-user1"))), USER1);
    story.exchange("user1 on the admin path", USER1.0, call, 403, "Unauthorized admin consumer").await?;
    let nobody = system.completion(false);
    story.exchange("without a key", "nobody", nobody, 401, "No Key Authentication information found").await?;
    story.aside("now with the header x-mse-consumer: aliyun-user2, which only auth plugins may write");
    let forged = with_key(system.completion(false), USER1).header("x-mse-consumer", "aliyun-user2");
    story.exchange("user1 says to be user2", USER1.0, forged, 403, "No quota left").await?;
    balance(story, USER2.0, 49_970).await;
    Ok(())
}

/// A request of one of the consumers.
fn with_key(call: Call, (_, key): (&str, &str)) -> Call {
    call.header("x-api-key", key)
}

fn example(name: &str) -> Result<String> {
    let path = workspace().join("examples/quickstart").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}
