//! `aiquota render`: files in, the WasmPlugins and balances that the controller would make of them out. No cluster and
//! no Redis is asked.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use enforcement::redis::Grant;
use k8s_openapi::jiff::Timestamp;
use plan::{Plan, Seed, Seeded};
use serde::Serialize;
use serde_json::Value;

use crate::check::conflicts;
use crate::files::{Contents, Files};
use crate::problem::{Level, Problem};
use crate::settings::Flags;
use crate::tell::{self, Style};
use crate::world::{self, Assembled, NO_CLUSTER, Where};

/// Show the WasmPlugins and balances that the controller would make of files, without a cluster
///
/// Besides our objects the files may have what they refer to: Ingresses, HTTPRoutes, Services, the McpBridge, auth
/// plugins, Secrets. What is not there is assumed to exist, and told on standard error. Passwords stay templates.
///
/// Exits with 0, with 1 where an object is refused (what the others come to is shown all the same), or with 2 when it was
/// called wrongly.
#[derive(Args, Debug)]
pub(crate) struct Render {
    #[command(flatten)]
    files: Files,

    /// What is written: WasmPlugins as YAML documents with the balances as a comment, all as JSON, or the balances as a
    /// table
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Yaml)]
    output: Output,

    /// The uid of the cluster's namespace kube-system, which is part of what the gateway is told:
    /// `kubectl get namespace kube-system -o jsonpath={.metadata.uid}`
    #[arg(long, value_name = "UID", default_value = NO_CLUSTER, value_parser = uid)]
    cluster_uid: String,

    /// The moment from which the times of refreshes are listed, as 2026-01-31T00:00:00Z; now unless given
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,

    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Yaml,
    Json,
    Table,
}

/// A balance as it would be put into Redis.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Balance {
    /// The AIQuotaStore whose Redis it is in.
    store: String,
    key: String,
    consumer: String,
    /// Tokens, or `unlimited`.
    grant: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_refresh: Option<String>,
    object: String,
}

#[derive(Serialize)]
struct Rendered {
    plugins: Vec<Value>,
    balances: Vec<Balance>,
}

impl Render {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let (settings, stands_in) = self.flags.into_looking()?;
        let Contents { documents, unreadable, plain: _, files: _ } = self.files.read()?;
        let around = Where { now: self.at.unwrap_or_else(Timestamp::now), cluster: self.cluster_uid };
        let no_cluster = around.cluster == NO_CLUSTER;
        let Assembled { world, places, assumed, mut problems } = world::assemble(&documents, settings, around);
        problems.extend(unreadable.iter().map(|(place, problem)| Problem::new(Level::Error, place, "Syntax", problem)));
        problems.extend(conflicts::found(&world, &places, &assumed));
        let style = Style::stderr();
        problems.iter().for_each(|problem| tell::note(&problem.tell(&style)));

        let plan = plan::build(&world);
        let seeded = vec![Seeded::Applied; plan.seeds.len()];
        let program = plan::program(&plan, &seeded);
        let mut plugins = Vec::new();
        for write in program.plugins {
            if let Some(why) = write.refused {
                anyhow::bail!("WasmPlugin {} would not be written: {why}", write.name);
            }
            plugins.extend(write.wanted.map(serde_json::to_value).transpose()?);
        }
        let mut balances: Vec<Balance> = balances(&plan);
        balances.sort_by(|a, b| (&a.store, &a.key).cmp(&(&b.store, &b.key)));
        if !plugins.is_empty() && stands_in {
            tell::note(&assume(&style, "no --module-url is given: the modules' urls are stand-ins"));
        }
        if !plugins.is_empty() && no_cluster {
            tell::note(&assume(&style, "no --cluster-uid is given: owners of balances begin with zeros"));
        }
        tell::print(&match self.output {
            Output::Yaml => yaml(&plugins, balances)?,
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&Rendered { plugins, balances })?),
            Output::Table => table(balances),
        })?;
        let failed = problems.iter().any(|problem| problem.level == Level::Error);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn assume(style: &Style, what: &str) -> String {
    format!("{}: {what}", style.poor("assumed"))
}

fn balances(plan: &Plan) -> Vec<Balance> {
    let all = plan.verdicts.iter().flat_map(|verdict| {
        let plan::Object::Read(quota) = &verdict.object else { return Vec::new() };
        let refresh = quota.spec.refresh.as_ref().map(|refresh| {
            let zone = refresh.time_zone.as_deref().unwrap_or("UTC");
            format!("{} {zone} {:?}", refresh.schedule, refresh.mode.unwrap_or_default())
        });
        let balance = |seed: &Seed| Balance {
            store: plan.stores[seed.store].object.metadata.name.clone().unwrap_or_default(),
            key: seed.balance.to_string(),
            consumer: verdict.object.listed_name(seed.consumer).unwrap_or_default(),
            grant: match seed.grant {
                Grant::Tokens(tokens) => tokens.into(),
                Grant::Unlimited => "unlimited".into(),
            },
            schedule: refresh.clone(),
            next_refresh: verdict.next_refresh.map(|next| next.to_string()),
            object: verdict.key.to_string(),
        };
        plan.seeds[verdict.seeds.clone()].iter().map(balance).collect()
    });
    all.collect()
}

/// The balances as a comment behind the documents: what is written can be piped into `kubectl diff -f -`.
fn yaml(plugins: &[Value], balances: Vec<Balance>) -> Result<String> {
    let mut text = String::new();
    for plugin in plugins {
        text.push_str(&format!("---\n{}\n", serde_yaml::to_string(plugin)?.trim_end()));
    }
    text.push_str(
        "---\n# The controller puts these balances into Redis where there are none, and adopts those that are there:\n",
    );
    text.extend(table(balances).lines().map(|line| format!("# {line}").trim_end().to_owned() + "\n"));
    Ok(text)
}

fn table(balances: Vec<Balance>) -> String {
    if balances.is_empty() {
        return "no balances\n".to_owned();
    }
    let rows = balances.into_iter().map(|balance| {
        let Balance { store, key, consumer, grant, schedule, next_refresh, object } = balance;
        let grant = grant.as_str().map_or_else(|| grant.to_string(), str::to_owned);
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![store, key, consumer, grant, or_none(schedule), or_none(next_refresh), object]
    });
    tell::table(&["STORE", "KEY", "CONSUMER", "GRANT", "REFRESH", "NEXT", "AIQUOTA"], &[3], rows.collect())
}

fn uid(text: &str) -> Result<String, &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain);
    if fits { Ok(text.to_owned()) } else { Err("a uid is 1 to 64 letters, digits and -") }
}
