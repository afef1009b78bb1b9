//! What became of the plan in, the status of each object out: one patch per object, and only where something
//! changed; an Event where a person should look. I/O: the API server.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::{AiQuota, AiQuotaStore, AiTokenRateLimit, Condition};
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use plan::{Answers, Loaded, Object, ObjectKind, Plan, Program, Seen, Told, Writes};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::events::{Events, Note};
use crate::metrics::{Became, Metrics, Refreshed, Tally, Written as Wrote};
use crate::seeder::Seeding;

/// Patches on the way at once.
const IN_FLIGHT: usize = 16;
/// How long after a failed patch it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How long the watch is given to show what another wrote in between.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What one round came to.
pub(crate) struct Reporting {
    /// When to come again without a change of the world.
    pub(crate) again: Option<Instant>,
    /// How many objects have which condition.
    pub(crate) tally: Tally,
}

/// The writer of statuses.
pub(crate) struct Reporter {
    client: Client,
    quotas: ApiResource,
    limits: ApiResource,
    stores: ApiResource,
    /// By uid, what was written while the watch showed an older version.
    written: HashMap<String, Written>,
    /// By uid: a status has no room for all that Events told of.
    told: HashMap<String, Told>,
    metrics: Arc<Metrics>,
}

struct Written {
    /// The version the watch showed then; while it shows that, `status` is what stands there, as `version`.
    shown: Option<String>,
    version: Option<String>,
    /// As JSON text, which takes a fifth of the memory that the value does: there may be ten thousand of these.
    status: String,
}

/// One object with its status as it should be.
struct Report<'a> {
    resource: &'a ApiResource,
    metadata: &'a ObjectMeta,
    /// The version it was made for: another one may say what is not known here, or be written by who knows better.
    version: Option<String>,
    before: Value,
    after: Value,
    /// What Events say of who is to be warned about, and of whom is told then.
    warned: Option<(Vec<String>, Told)>,
}

impl Reporter {
    pub(crate) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            quotas: ApiResource::erase::<AiQuota>(&()),
            limits: ApiResource::erase::<AiTokenRateLimit>(&()),
            stores: ApiResource::erase::<AiQuotaStore>(&()),
            written: HashMap::new(),
            told: HashMap::new(),
            metrics,
        }
    }

    /// Reports about every object of the plan.
    pub(crate) async fn run(
        &mut self,
        plan: &Plan,
        (seeding, loaded): (&Seeding, &Loaded),
        (program, writes): (&Program, &Writes),
        now: Timestamp,
        events: &Events,
    ) -> Reporting {
        let Self { client, quotas, limits, stores, written, told, metrics } = self;
        let (quotas, limits, known) = (&*quotas, &*limits, &*told);
        let Seeding { seeds, figures, overrides, notes, .. } = seeding;
        let tally = RefCell::new(Tally::default());
        let found = Answers { seeded: seeds, figures, overrides, notes, loaded: Some(loaded), away: &seeding.away };
        let quotas = plan.verdicts.iter().enumerate().filter_map(|(index, verdict)| {
            let status = plan::status(plan, index, found, program, writes, &seeding.deletions, now);
            let metadata = verdict.object.metadata();
            tally.borrow_mut().add(&verdict.object.kind(), &status.conditions);
            let resource = match verdict.object.kind() {
                ObjectKind::AiQuota => quotas,
                ObjectKind::AiTokenRateLimit => limits,
            };
            let report = if let Object::Limit(limit) = &verdict.object {
                let status = plan::limit_status(plan, index, found, status);
                Report::new(resource, metadata, limit.status.as_ref(), &status, written)?
            } else {
                Report::new(resource, metadata, verdict.object.status(), &status, written)?
            };
            let warned = plan::newly_exhausted(plan, index, found, known.get(&uid(metadata)));
            Some(Report { warned, ..report })
        });
        let answers = seeding.stores.iter().zip(&seeding.evicts);
        let stores = plan.stores.iter().zip(answers).enumerate().filter_map(|(index, (store, (answers, evicts)))| {
            let seen = answers.as_ref().map(|answers| Seen {
                answers: answers.as_ref().copied().map_err(String::as_str),
                evicts: evicts.as_deref(),
                gateways: loaded.gateways(index),
            });
            let status = plan::store_status(store, seen, now);
            tally.borrow_mut().add(&"AIQuotaStore", &status.conditions);
            Report::new(stores, &store.object.metadata, store.object.status.as_ref(), &status, written)
        });
        let client = &*client;
        // Each is made when it is sent, and gone when that is done.
        let patches = stores.chain(quotas).map(|report| async move {
            let version = report.send(client).await?;
            for condition in transitions(&conditions(&report.before), &conditions(&report.after)) {
                events.publish(&report.reference(), &note(condition)).await;
            }
            for message in report.warned.iter().flat_map(|(messages, _)| messages) {
                let note = Note { reason: NEARLY_EXHAUSTED, action: NEARLY_EXHAUSTED, message };
                events.publish(&report.reference(), &note).await;
            }
            Ok::<_, kube::Error>((report, version))
        });
        let mut again = None;
        let (mut new, mut newly_told) = (Vec::new(), Vec::new());
        let mut patches = stream::iter(patches).buffer_unordered(IN_FLIGHT);
        while let Some(patched) = patches.next().await {
            match patched {
                Ok((report, version)) => {
                    metrics.wrote(Wrote::Status, Became::Done);
                    if report.tells_of_a_refresh() {
                        metrics.refreshed(Refreshed::ByHand, 1);
                    }
                    if version != report.metadata.resource_version {
                        let shown = report.metadata.resource_version.clone();
                        new.push((uid(report.metadata), Written { shown, version, status: report.after.to_string() }));
                    }
                    newly_told.extend(report.warned.map(|(_, told)| (uid(report.metadata), told)));
                }
                // Deleted meanwhile: there is nothing to report to.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                // Changed meanwhile: the watch will show it, though a status alone wakes nobody.
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    metrics.wrote(Wrote::Status, Became::Overtaken);
                    again = Some(LOOK_AGAIN);
                }
                Err(error) => {
                    metrics.wrote(Wrote::Status, Became::Failed);
                    tracing::warn!(%error, "status not written");
                    again = again.or(Some(TRY_AGAIN));
                }
            }
        }
        drop(patches);
        let stores = plan.stores.iter().map(|store| &store.object.metadata);
        let shown: HashSet<(&str, Option<&str>)> = plan
            .verdicts
            .iter()
            .map(|verdict| verdict.object.metadata())
            .chain(stores)
            .map(|metadata| (metadata.uid.as_deref().unwrap_or_default(), metadata.resource_version.as_deref()))
            .collect();
        written.retain(|uid, written| shown.contains(&(uid.as_str(), written.shown.as_deref())));
        written.extend(new);
        let warns: HashSet<&str> = shown.iter().map(|(uid, _)| *uid).collect();
        told.retain(|uid, _| warns.contains(uid.as_str()));
        told.extend(newly_told);
        Reporting { again: again.map(|wait| Instant::now() + wait), tally: tally.into_inner() }
    }
}

impl<'a> Report<'a> {
    /// Nothing where the object has that status already.
    fn new<S: Serialize + PartialEq>(
        resource: &'a ApiResource,
        metadata: &'a ObjectMeta,
        before: Option<&S>,
        after: &S,
        written: &HashMap<String, Written>,
    ) -> Option<Self> {
        let own = written.get(&uid(metadata)).filter(|written| written.shown == metadata.resource_version);
        let (version, before, after) = match own {
            None if before == Some(after) => return None,
            None => (&metadata.resource_version, json(&before), json(after)),
            // Our own patch, which the watch does not show: its times were not known to who made `after`.
            Some(own) => {
                let (before, after) = (serde_json::from_str(&own.status).unwrap_or_default(), json(after));
                if without_times(&before) == without_times(&after) {
                    return None;
                }
                (&own.version, before, after)
            }
        };
        Some(Self { resource, metadata, version: version.clone(), before, after, warned: None })
    }
}

impl Report<'_> {
    /// The version of the object after it.
    async fn send(&self, client: &Client) -> Result<Option<String>, kube::Error> {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, self.resource);
        let parameters = PatchParams { field_manager: Some(api::MANAGER.to_owned()), ..PatchParams::default() };
        Ok(api.patch_status(name, &parameters, &Patch::Merge(self.patch())).await?.resource_version())
    }

    /// With the uid and the version, so that it hits neither another object of the same name nor what somebody wrote
    /// who knows better.
    fn patch(&self) -> Value {
        let mut status = match &self.after {
            Value::Object(status) => status.clone(),
            _ => Map::new(),
        };
        for gone in self.before.as_object().into_iter().flat_map(Map::keys) {
            status.entry(gone).or_insert(Value::Null);
        }
        json!({"metadata": {"uid": self.metadata.uid, "resourceVersion": self.version}, "status": status})
    }

    /// Whether all balances honoured a refresh by hand since the last one.
    fn tells_of_a_refresh(&self) -> bool {
        let refreshed = |status: &Value| status["refreshed"].as_str().map(str::to_owned);
        refreshed(&self.after).is_some_and(|token| refreshed(&self.before).as_ref() != Some(&token))
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(self.resource.api_version.clone()),
            kind: Some(self.resource.kind.clone()),
            name: self.metadata.name.clone(),
            namespace: self.metadata.namespace.clone(),
            uid: self.metadata.uid.clone(),
            ..ObjectReference::default()
        }
    }
}

/// The conditions that say that all is well when they are true; all others warn when they are.
const STATES: [&str; 6] = ["Accepted", "Programmed", "Seeded", "Loaded", "Connected", "Ready"];
const NEARLY_EXHAUSTED: &str = "NearlyExhausted";
/// Nothing to tell a person: what passes by itself, and what `Accepted` or the deletion has told.
fn is_told(reason: &str) -> bool {
    !plan::PASSING.contains(&reason) && !["NotAccepted", "BeingDeleted"].contains(&reason)
}

/// The conditions that an Event is made of: what went wrong and was not so before. Good news is in the status only:
/// at the start of ten thousand objects each Event would cost as much as the status itself.
fn transitions<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    let is_new = |condition: &&Condition| {
        let same = |before: &&Condition| before.type_ == condition.type_;
        !before.iter().find(same).is_some_and(|b| b.status == condition.status && b.reason == condition.reason)
    };
    let tells = |condition: &&Condition| match condition.type_.as_str() {
        // What keeps it from being ready is told by the others.
        "Ready" => false,
        // Told of each consumer and limit.
        NEARLY_EXHAUSTED => false,
        state if STATES.contains(&state) => condition.status != "True" && is_told(&condition.reason),
        _ => condition.status == "True" && is_told(&condition.reason),
    };
    let mut told: Vec<&Condition> = Vec::new();
    for condition in after.iter().filter(is_new).filter(tells) {
        // One cause is one Event, also where it keeps several states from being true.
        if !told.iter().any(|other| other.reason == condition.reason) {
            told.push(condition);
        }
    }
    told
}

/// A state is told by its reason, as is a warning, whose reason is its type unless it has several.
fn note(condition: &Condition) -> Note<'_> {
    let Condition { type_, reason, message, .. } = condition;
    Note { reason, action: type_, message }
}

fn conditions(status: &Value) -> Vec<Condition> {
    let conditions = status.get("conditions").cloned().unwrap_or_default();
    serde_json::from_value(conditions).unwrap_or_default()
}

fn without_times(status: &Value) -> Value {
    let mut status = status.clone();
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.remove("lastTransitionTime");
    }
    status
}

fn uid(metadata: &ObjectMeta) -> String {
    metadata.uid.clone().unwrap_or_default()
}

/// Statuses are plain data: they always have a JSON form.
fn json(status: &impl Serialize) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use api::{AiQuotaStatus, Summary};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: "m".into(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    fn told<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a str> {
        transitions(before, after).into_iter().map(|condition| note(condition).reason).collect()
    }

    #[test]
    fn a_warning_and_a_refusal_are_told_once() {
        let bad =
            [condition("Accepted", "False", "Invalid"), condition("NoAuthentication", "True", "NoAuthentication")];
        assert_eq!(told(&[], &bad), ["Invalid", "NoAuthentication"]);
        assert!(told(&bad, &bad).is_empty());
    }

    #[test]
    fn another_reason_is_told_again() {
        let before = [condition("Accepted", "False", "Invalid")];
        let after = [condition("Accepted", "False", "Conflicted")];
        assert_eq!(told(&before, &after), ["Conflicted"]);
    }

    #[test]
    fn one_cause_is_told_once() {
        let not = |type_, reason| condition(type_, "False", reason);
        let store = [
            condition("Accepted", "True", "Accepted"),
            not("Programmed", "SecretNotFound"),
            not("Seeded", "SecretNotFound"),
        ];
        assert_eq!(told(&[], &store), ["SecretNotFound"]);
        let target =
            [not("Accepted", "TargetNotFound"), not("Programmed", "NotAccepted"), not("Seeded", "NotAccepted")];
        assert_eq!(told(&[], &target), ["TargetNotFound"]);
    }

    #[test]
    fn a_deletion_is_told_when_a_store_is_in_its_way() {
        let deleting = |reason| [condition("Deleting", "True", reason)];
        assert!(told(&[], &deleting("Draining")).is_empty());
        assert!(told(&deleting("Draining"), &deleting("DeletingBalances")).is_empty());
        assert_eq!(told(&deleting("Draining"), &deleting("StoreUnreachable")), ["StoreUnreachable"]);
    }

    #[test]
    fn what_passes_by_itself_and_good_news_are_not_told() {
        let waiting = [condition("Programmed", "False", "WaitsForSeeds"), condition("Ready", "False", "WaitsForSeeds")];
        assert!(told(&[], &waiting).is_empty());
        assert!(told(&waiting, &[condition("Ready", "True", "Ready")]).is_empty());
    }

    fn status(generation: i64, summary: Option<Summary>, time: &str) -> AiQuotaStatus {
        let time = Time(time.parse().unwrap());
        AiQuotaStatus {
            observed_generation: Some(generation),
            conditions: vec![Condition { last_transition_time: time, ..condition("Ready", "True", "Ready") }],
            summary,
            ..AiQuotaStatus::default()
        }
    }

    const THEN: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-01T00:00:01Z";

    fn metadata() -> ObjectMeta {
        ObjectMeta { uid: Some("u".into()), resource_version: Some("1".into()), ..ObjectMeta::default() }
    }

    #[test]
    fn an_equal_status_is_not_reported() {
        let (resource, status) = (ApiResource::erase::<AiQuota>(&()), status(1, None, THEN));
        assert!(Report::new(&resource, &metadata(), Some(&status), &status, &HashMap::new()).is_none());
        assert!(Report::new(&resource, &metadata(), None, &status, &HashMap::new()).is_some());
    }

    #[test]
    fn a_patch_removes_what_is_no_longer_said_and_names_uid_and_version() {
        let (resource, metadata) = (ApiResource::erase::<AiQuota>(&()), metadata());
        let (before, after) = (status(1, Some(Summary::default()), THEN), status(2, None, THEN));
        let report = Report::new(&resource, &metadata, Some(&before), &after, &HashMap::new()).unwrap();
        let patch = report.patch();
        assert_eq!(patch.pointer("/metadata"), Some(&json!({"uid": "u", "resourceVersion": "1"})));
        assert_eq!(patch.pointer("/status/observedGeneration"), Some(&json!(2)));
        assert_eq!(patch.pointer("/status/summary"), Some(&Value::Null));
    }

    #[test]
    fn times_alone_are_no_difference_while_the_watch_lags_behind_our_patch() {
        let (resource, metadata) = (ApiResource::erase::<AiQuota>(&()), metadata());
        let (before, after) = (status(1, None, THEN), status(1, None, NOW));
        let shown = metadata.resource_version.clone();
        let own = Written { shown, version: Some("2".into()), status: json(&before).to_string() };
        let written = HashMap::from([("u".to_owned(), own)]);
        assert!(Report::new(&resource, &metadata, None, &after, &written).is_none());
        let report = Report::new(&resource, &metadata, None, &status(2, None, NOW), &written).unwrap();
        assert_eq!(report.version.as_deref(), Some("2"), "it replaces our own patch");
        let shown = ObjectMeta { resource_version: Some("2".into()), ..metadata };
        assert!(Report::new(&resource, &shown, None, &after, &written).is_some());
    }
}
