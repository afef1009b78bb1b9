//! The other plugin's rules go, and ours come: first what somebody else's edit can hinder, the removal; then the
//! controller writes ours, whoever else has ended by then. So nothing is ever metered twice, and what is not metered
//! lies between the two writes. I/O: the API server.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use api::WasmPlugin;
use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::cluster::MANAGER;
use super::taking::{Known, Matched, Taken, covers};

/// How long the controller may take to write our rules, before the others are put back.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often is looked whether they are written: what is printed as the gap is longer than the gap by at most this and
/// How long the others are tried to be put back where the API server is away.
const LONGEST: Duration = Duration::from_secs(75);
/// what two requests to the API server take.
const AGAIN: Duration = Duration::from_millis(5);

/// What became of one kind of plugin.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Swapped {
    pub(super) plugin: &'static str,
    /// The WasmPlugins whose rules are gone.
    pub(super) removed: Vec<String>,
    pub(super) ours: &'static str,
    pub(super) gap: Gap,
}

/// For how long, at most, requests were not metered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Gap {
    pub(super) side: Side,
    /// From when the removal was sent until our rules were seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) milliseconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Side {
    Unmetered,
    /// Our rules were in force beside the others until these went.
    Twice,
}

/// Why it was not done, and what there is now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDone {
    /// The others are as they were.
    #[error("{0}. The rules are as they were; run it again")]
    AsBefore(String),
    /// Some of the others are gone.
    #[error(
        "{0}. The rules of {gone} are gone, and ours come where no other is left: until then requests may NOT be metered. \
         Run it again at once, or bring them back with `kubectl apply -f` of the backup", gone = .1.join(", ")
    )]
    Partly(String, Vec<String>),
    /// Ours came late, and the others were put back beside them.
    #[error("{0}. Both are in force, and requests are metered twice, until the others are removed: run it again")]
    Twice(String),
    #[error(
        "{ours} was not written within {patience} s. The rules of {others} are back, as they were; look at the controller's \
         log, and run it again", patience = PATIENCE.as_secs(), others = .others.join(", ")
    )]
    PutBack { ours: &'static str, others: Vec<String> },
    #[error(
        "{ours} was not written within {patience} s, and the rules of {others} cannot be put back: {why}. Requests are \
         NOT metered until the controller writes ours; `kubectl apply -f` of the backup brings the others back",
        patience = PATIENCE.as_secs(), others = .others.join(", ")
    )]
    Open { ours: &'static str, others: Vec<String>, why: String },
}

impl Swapped {
    pub(super) fn told(&self) -> String {
        let Self { plugin, removed, ours, gap } = self;
        let removed = removed.join(", ");
        match *gap {
            Gap { side: Side::Unmetered, milliseconds } => format!(
                "{plugin}: the rules of {removed} are gone, those of {ours} are written: at most {:.0} ms without any",
                milliseconds.unwrap_or_default().ceil()
            ),
            Gap { side: Side::Twice, .. } => format!(
                "{plugin}: the rules of {removed} are gone; those of {ours} were in force beside them, so that requests were \
                 metered twice until now"
            ),
        }
    }
}

/// All WasmPlugins of one kind at once: ours may have to wait for the last of them.
pub(super) async fn swap(plugins: &Api<WasmPlugin>, known: Known, taken: &[&Taken]) -> Result<Swapped, NotDone> {
    let ours = known.ours();
    let matches: BTreeSet<Matched> = taken.iter().flat_map(|taken| taken.matches.iter().cloned()).collect();
    let is_written = async || match plugins.get_opt(ours).await {
        Ok(found) => Ok(found.is_some_and(|found| covers(&found, &matches))),
        Err(error) => Err(error),
    };
    let beside = is_written().await.map_err(|error| NotDone::AsBefore(format!("{ours} cannot be read: {error}")))?;
    let sent = Instant::now();
    let removals = join_all(taken.iter().map(|taken| remove(plugins, taken, &taken.found.metadata))).await;
    let mut removed = Vec::new();
    let mut refused = Vec::new();
    for (taken, removal) in taken.iter().zip(removals) {
        let name = taken.found.name_any();
        match removal {
            Ok(()) => removed.push(name),
            // The answer may be what was lost, or somebody else was faster.
            Err(_) if is_gone(plugins, taken).await => removed.push(name),
            Err(error) if is_overtaken(&error) => {
                refused.push(format!("WasmPlugin {name} was changed by somebody else meanwhile"));
            }
            Err(error) => refused.push(format!("the rules of WasmPlugin {name} cannot be removed: {error}")),
        }
    }
    match (refused.is_empty(), removed.is_empty()) {
        (true, _) => {}
        (false, true) => return Err(NotDone::AsBefore(refused.join("; "))),
        (false, false) => return Err(NotDone::Partly(refused.join("; "), removed)),
    }
    if beside {
        let gap = Gap { side: Side::Twice, milliseconds: None };
        return Ok(Swapped { plugin: known.name(), removed, ours, gap });
    }
    loop {
        // An API server that is away is back, or the others are put back when it is.
        if is_written().await.unwrap_or(false) {
            let milliseconds = Some(sent.elapsed().as_secs_f64() * 1_000.0);
            let gap = Gap { side: Side::Unmetered, milliseconds };
            return Ok(Swapped { plugin: known.name(), removed, ours, gap });
        }
        if sent.elapsed() < PATIENCE {
            sleep(AGAIN).await;
            continue;
        }
        let mut others = Vec::new();
        let mut why = String::new();
        for taken in taken {
            if let Err(error) = put_back(plugins, taken).await {
                others.push(taken.found.name_any());
                why = format!("{error:#}");
            }
        }
        if !others.is_empty() {
            if sent.elapsed() < LONGEST && !is_written().await.unwrap_or(false) {
                sleep(AGAIN * 50).await;
                continue;
            }
            return Err(NotDone::Open { ours, others, why });
        }
        // Ours may have come in the very moment.
        if !is_written().await.unwrap_or(false) {
            return Err(NotDone::PutBack { ours, others: removed });
        }
        for taken in taken {
            let again = async {
                let there = plugins.get(&taken.found.name_any()).await?;
                remove(plugins, taken, &there.metadata).await
            };
            if let Err(error) = again.await {
                let why = format!("our rules were written late and the others put back beside them: {error}");
                return Err(NotDone::Twice(why));
            }
        }
    }
}

/// Only what was looked at: `there` has the version that is edited.
async fn remove(plugins: &Api<WasmPlugin>, taken: &Taken, there: &ObjectMeta) -> Result<(), kube::Error> {
    let name = taken.found.name_any();
    match &taken.left {
        None => {
            let (uid, resource_version) = (there.uid.clone(), there.resource_version.clone());
            let only_this = DeleteParams::default().preconditions(Preconditions { uid, resource_version });
            plugins.delete(&name, &only_this).await.map(drop)
        }
        Some(left) => {
            let mut left = left.clone();
            left.metadata.resource_version.clone_from(&there.resource_version);
            plugins.replace(&name, &parameters(), &left).await.map(drop)
        }
    }
}

async fn put_back(plugins: &Api<WasmPlugin>, taken: &Taken) -> Result<()> {
    let name = taken.found.name_any();
    match plugins.get_opt(&name).await.context("it cannot be read")? {
        None => plugins.create(&parameters(), &as_new(&taken.found)).await.context("it cannot be created").map(drop),
        Some(mut there) => {
            there.spec = taken.found.spec.clone();
            there.metadata.managed_fields = None;
            plugins.replace(&name, &parameters(), &there).await.context("it cannot be edited").map(drop)
        }
    }
}

/// As somebody would apply it.
pub(super) fn as_new(found: &WasmPlugin) -> WasmPlugin {
    let ObjectMeta { name, namespace, labels, annotations, finalizers, .. } = found.metadata.clone();
    let metadata = ObjectMeta { name, namespace, labels, annotations, finalizers, ..ObjectMeta::default() };
    WasmPlugin { metadata, spec: found.spec.clone() }
}

/// Whether nothing is left of what was to be removed; also where nobody can say so now: whoever waits for ours then puts
/// back what is missing.
async fn is_gone(plugins: &Api<WasmPlugin>, taken: &Taken) -> bool {
    match plugins.get_opt(&taken.found.name_any()).await {
        Ok(Some(there)) => taken.left.as_ref().is_some_and(|left| left.spec == there.spec),
        Ok(None) | Err(_) => true,
    }
}

fn is_overtaken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_not_found())
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}
