//! `aiquota import --take-over`: WasmPlugins of the cluster in; our objects in force in their place, a backup of what went
//! and a report of what that cost out. What is against it is found before anything is changed. I/O: the API server, Redis
//! to read, and the backup.

mod cluster;
mod stores;
mod swap;
mod taking;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use futures::future::try_join_all;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, Config, ResourceExt};
use serde::Serialize;

use super::report::{Finding, Kind};
use super::rules::Source;
use super::{Import, Listed, Options, Output, balances};
use crate::problem::Named;
use crate::tell::{self, Style, count};
use cluster::{Cluster, Ours, Wanted};
use swap::{NotDone, Swapped, as_new, swap};
use taking::{Known, Refused, Taken, Taking, take};

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// Put the objects in force in the cluster in the place of the WasmPlugins: they are created, and when the controller
    /// has adopted the balances and only the other rules are in their way, these are removed and ours written together.
    /// For how long there was no rule is printed. Nothing is changed unless every rule has an equivalent
    #[arg(long, requires = "from_cluster")]
    take_over: bool,

    /// With --take-over: show what would be done, and change nothing
    #[arg(long, requires = "take_over")]
    dry_run: bool,

    /// With --take-over: leave rules without equivalent where they are, and take those that will mean something else
    #[arg(long, requires = "take_over")]
    accept_differences: bool,

    /// With --take-over: where the WasmPlugins are kept as they were, passwords in them too; `kubectl apply -f` of it
    /// brings them back. It must not be there yet. Unless given: aiquota-taken-over-<time>.yaml
    #[arg(long, value_name = "FILE", requires = "take_over")]
    backup: Option<PathBuf>,

    /// With --take-over: how long gateways are given to load aiquota's module before the other rules go, as 10s or 2m.
    /// Unless given: 10s
    #[arg(long, value_name = "TIME", requires = "take_over", value_parser = crate::run::duration)]
    load_time: Option<Duration>,
}

impl Flags {
    pub(super) const fn asks(&self) -> bool {
        self.take_over
    }
}

/// What there is at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    #[default]
    Refused,
    NothingToDo,
    DryRun,
    /// Our objects are there, and not all of the others' rules are gone.
    Unfinished,
    TakenOver,
}

/// Everything that is told.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    state: State,
    problems: Vec<String>,
    report: Vec<Finding>,
    objects: Vec<Made>,
    /// The WasmPlugins that go, and those of which rules stay.
    plugins: Vec<Goes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<PathBuf>,
    taken: Vec<Swapped>,
    balances: Vec<Balance>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    #[serde(flatten)]
    object: Named,
    /// Whether it was there before, and stays as it is.
    there: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Goes {
    name: String,
    deleted: bool,
}

/// A consumer's balance before and after: what lies between was spent meanwhile, or given by somebody.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Balance {
    store: String,
    key: String,
    before: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<i64>,
}

/// Told as it happens, or all at once to programs.
struct Teller {
    as_it_happens: bool,
    outcome: Outcome,
}

impl Teller {
    fn say(&self, text: &str) -> Result<()> {
        if self.as_it_happens { tell::print(&format!("{text}\n")) } else { Ok(()) }
    }

    fn findings(&self) {
        if self.as_it_happens {
            let mut told: Vec<&Finding> = self.outcome.report.iter().collect();
            told.sort_by_key(|finding| finding.kind);
            told.iter().for_each(|finding| tell::note(&finding.tell(&Style::stderr())));
        }
    }

    fn end(mut self, state: State) -> Result<ExitCode> {
        self.outcome.state = state;
        if self.as_it_happens {
            let error = Style::stderr().bad("error");
            self.outcome.problems.iter().for_each(|problem| tell::note(&format!("{error}: {problem}")));
        } else {
            tell::print(&format!("{}\n", serde_json::to_string_pretty(&self.outcome)?))?;
        }
        let well = matches!(state, State::TakenOver | State::DryRun | State::NothingToDo);
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// How long the API server may say nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// The steps, in order. `list` reads the consumers of Redis into what is imported.
pub(super) async fn run(import: &Import, sources: Vec<Source>, options: &Options) -> Result<ExitCode> {
    let flags = &import.take_over;
    let as_it_happens = matches!(import.output, Output::Yaml);
    let mut teller = Teller { as_it_happens, outcome: Outcome::default() };
    if sources.is_empty() {
        teller.say("no WasmPlugin there is ai-quota or ai-token-ratelimit: nothing is to be taken over")?;
        return teller.end(State::NothingToDo);
    }
    let Taking { mut imported, plugins } = match take(sources, options, flags.accept_differences) {
        Ok(taking) => taking,
        Err(Refused { findings, why }) => {
            (teller.outcome.report, teller.outcome.problems) = (findings, why);
            teller.findings();
            teller.outcome.problems.push("nothing was changed".to_owned());
            return teller.end(State::Refused);
        }
    };
    let mut config = Config::infer().await.context("no cluster: set KUBECONFIG")?;
    // An API server that says nothing must not keep the others from being put back.
    config.read_timeout = Some(SILENCE);
    let client = Client::try_from(config).context("the cluster of KUBECONFIG cannot be used")?;
    let cluster = Cluster { client, gateway: import.gateway_namespace.clone() };
    let listed = import.list(&mut imported).await?;
    let mut problems = stores::fit(&mut imported, &cluster.stores().await?).err().unwrap_or_default();
    teller.outcome.report = std::mem::take(&mut imported.findings);
    let values = imported.stores.into_iter().chain(imported.quotas.into_iter().map(|quota| quota.object));
    let (ours, more) = cluster.examine(values.chain(imported.limits).collect()).await?;
    problems.extend(more);
    for ours in ours.iter().filter(|ours| ours.named.kind == "AIQuotaStore") {
        problems.extend(cluster.lacks_secret(ours).await);
    }
    if let Some(backup) = flags.backup.as_ref().filter(|backup| backup.exists()) {
        problems.push(format!("--backup={}: there is such a file already; name another", backup.display()));
    }
    teller.findings();
    teller.outcome.balances = listed.iter().flat_map(before).collect();
    if !problems.is_empty() {
        problems.push("nothing was changed".to_owned());
        teller.outcome.problems = problems;
        return teller.end(State::Refused);
    }
    plan(&mut teller, &ours, &plugins)?;
    if flags.dry_run {
        return teller.end(State::DryRun);
    }
    match take_over(&mut teller, flags, &cluster, &ours, &plugins).await {
        Ok(()) => {}
        Err(error) => {
            teller.outcome.problems.push(format!("{error:#}"));
            let made: Vec<&Ours> = ours.iter().filter(|ours| !ours.there).collect();
            // Behind that, ours may be all that is left.
            let as_before = error.downcast_ref().is_none_or(|done| matches!(done, NotDone::AsBefore(_)));
            if !made.is_empty() && teller.outcome.taken.is_empty() && as_before {
                let named = made.iter().map(|ours| shown(&ours.named)).collect::<Vec<_>>().join(", ");
                teller.outcome.problems.push(format!(
                    "{named}: made by this, and no harm; deleting them brings back what was, running it again goes on"
                ));
            }
            return teller.end(State::Unfinished);
        }
    }
    if let Err(error) = compare(&mut teller, listed).await {
        // All else is done, and has to be told.
        teller.outcome.problems.push(format!("the balances were not compared: {error:#}"));
    }
    teller.end(State::TakenOver)
}

fn shown(Named { kind, namespace, name }: &Named) -> String {
    format!("{kind} {namespace}/{name}")
}

/// What will be done, before it is.
fn plan(teller: &mut Teller, ours: &[Ours], plugins: &[Taken]) -> Result<()> {
    for ours in ours {
        let what = if ours.there { "stays as it is" } else { "is to be created" };
        teller.say(&format!("{} {what}", shown(&ours.named)))?;
        let Ours { value: _, named, there } = ours;
        teller.outcome.objects.push(Made { object: named.clone(), there: *there });
    }
    for taken in plugins {
        let name = taken.found.name_any();
        let what = match &taken.left {
            None => "is to go".to_owned(),
            Some(left) => {
                let all = left.spec.match_rules.iter().flatten();
                let left = all.filter(|rule| rule.config_disable != Some(true)).count();
                format!("is to keep {}", count(left, "rule"))
            }
        };
        let over: Vec<&str> = taken.matches.iter().map(|(_, name)| name.as_str()).collect();
        teller.say(&format!("WasmPlugin {name} {what}; {} is taken over", over.join(", ")))?;
        teller.outcome.plugins.push(Goes { name, deleted: taken.left.is_none() });
    }
    Ok(())
}

async fn take_over(
    teller: &mut Teller,
    flags: &Flags,
    cluster: &Cluster,
    ours: &[Ours],
    plugins: &[Taken],
) -> Result<()> {
    for ours in ours.iter().filter(|ours| !ours.there) {
        cluster.create(ours).await?;
    }
    let objects: Vec<&Ours> = ours.iter().filter(|ours| ours.named.kind != "AIQuotaStore").collect();
    cluster.wait(&objects, Wanted::Waiting).await.context("the controller does not come to what is needed")?;
    teller.say("the objects are accepted, and balances adopted as they are; gateways load the module")?;
    let kinds: Vec<Known> =
        Known::ALL.into_iter().filter(|known| plugins.iter().any(|taken| taken.known == *known)).collect();
    let load_time = flags.load_time.unwrap_or(Duration::from_secs(10));
    try_join_all(kinds.iter().map(|known| cluster.settle(*known, load_time))).await?;
    cluster.is_led().await?;
    cluster.wait(&objects, Wanted::Waiting).await.context("the controller says otherwise now")?;

    let backup = flags.backup.clone().unwrap_or_else(|| {
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        PathBuf::from(format!("aiquota-taken-over-{now}.yaml"))
    });
    keep(&backup, plugins)?;
    teller.say(&format!("what goes is kept in {}", backup.display()))?;
    teller.outcome.backup = Some(backup);
    for known in kinds {
        let taken: Vec<&Taken> = plugins.iter().filter(|taken| taken.known == known).collect();
        let swapped = swap(&cluster.plugins(), known, &taken).await?;
        teller.say(&swapped.told())?;
        teller.outcome.taken.push(swapped);
    }
    cluster.wait(&objects, Wanted::Ready).await.context("all rules are written, but the controller says")
}

/// As they were, for `kubectl apply`; for their owner only, because they may have passwords.
fn keep(backup: &Path, plugins: &[Taken]) -> Result<()> {
    let unwritable = || format!("the backup {} cannot be written: nothing was removed", backup.display());
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(backup).with_context(unwritable)?;
    for taken in plugins {
        let text = serde_yaml::to_string(&as_new(&taken.found))?;
        file.write_all(format!("---\n{}\n", text.trim_end()).as_bytes()).with_context(unwritable)?;
    }
    file.sync_all().with_context(unwritable)
}

fn before(listed: &Listed) -> impl Iterator<Item = Balance> {
    listed.found.iter().map(|(name, balance)| Balance {
        store: listed.store.clone(),
        key: format!("{}{name}", listed.prefix),
        before: *balance,
        after: None,
    })
}

/// Each balance as it is now beside what it was.
async fn compare(teller: &mut Teller, listed: Vec<Listed>) -> Result<()> {
    for Listed { store, prefix, others, mut redis, found: _ } in listed {
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let found = balances::list(&mut redis, &prefix, &others).await?;
        for (name, balance) in found.consumers {
            let key = format!("{prefix}{name}");
            let same = |known: &&mut Balance| known.store == store && known.key == key;
            if let Some(known) = teller.outcome.balances.iter_mut().find(same) {
                known.after = Some(balance);
            }
        }
    }
    if teller.outcome.balances.is_empty() {
        return teller.say("balances were not compared: --consumers-from-redis reads them");
    }
    let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let row = |balance: &Balance| {
        let Balance { store: _, key, before, after } = balance;
        let spent = after.map(|after| before.saturating_sub(after));
        vec![key.clone(), before.to_string(), number(*after), number(spent)]
    };
    let rows = teller.outcome.balances.iter().map(row).collect();
    teller.say(tell::table(&["BALANCE", "BEFORE", "AFTER", "SPENT MEANWHILE"], &[1, 2, 3], rows).trim_end())?;
    let lost = teller.outcome.balances.iter().filter(|balance| balance.after.is_none()).count();
    if lost > 0 {
        let message =
            format!("{} were there before and are not now: somebody deleted the keys", count(lost, "balance"));
        teller.outcome.report.push(Finding::general(Kind::ToDo, message.clone()));
        teller.say(&message)?;
    }
    Ok(())
}
