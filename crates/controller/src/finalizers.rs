//! The finalizer of objects whose balances go with them: the plan in, patches that add or remove it out. No patch hits
//! another object of the same name or an edit that was not seen, and finalizers of others stay. I/O: the API server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::{AiQuota, FINALIZER};
use futures::stream::{self, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use plan::{Deletion, Deletions, Finalizer, Plan};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::metrics::{Became, Metrics, Written};

/// Patches on the way at once.
const IN_FLIGHT: usize = 16;
/// How long after a failed patch it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How long the watch is given to show what another wrote in between.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The writer of finalizers.
pub(crate) struct Finalizers {
    client: Client,
    quotas: ApiResource,
    /// By uid, the version that the watch showed when we patched it: it may show that for a while.
    patched: HashMap<String, Option<String>>,
    metrics: Arc<Metrics>,
}

/// What one round came to.
pub(crate) struct Finalizing {
    /// By seed of the plan, whether it must wait for its object's finalizer; nothing where none must.
    pub(crate) held: Vec<bool>,
    /// When to come again without a change of the world.
    pub(crate) again: Option<Instant>,
}

impl Finalizers {
    pub(crate) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self { client, quotas: ApiResource::erase::<AiQuota>(&()), patched: HashMap::new(), metrics }
    }

    /// Before balances are made: those that shall go with their object are not made before it waits for them.
    pub(crate) async fn prepare(&mut self, plan: &Plan) -> Finalizing {
        if !self.patched.is_empty() {
            let metadata = plan.verdicts.iter().map(|verdict| verdict.object.metadata());
            let shown: HashMap<String, Option<String>> =
                metadata.map(|metadata| (uid(metadata), version(metadata))).collect();
            self.patched.retain(|uid, version| shown.get(uid) == Some(version));
        }
        let wrong = plan.verdicts.iter().enumerate().filter(|(_, verdict)| verdict.finalizer != Finalizer::Right);
        let wrong: Vec<(usize, bool)> =
            wrong.map(|(index, verdict)| (index, verdict.finalizer == Finalizer::Add)).collect();
        let (failed, again) = self.patch(plan, wrong).await;
        let mut held = Vec::new();
        for (index, added) in failed {
            if added {
                held.resize(plan.seeds.len(), false);
                held[plan.verdicts[index].seeds.clone()].fill(true);
            }
        }
        Finalizing { held, again }
    }

    /// After balances were deleted: their objects may go.
    pub(crate) async fn let_go(&mut self, plan: &Plan, deletions: &Deletions) -> Option<Instant> {
        let done = deletions.iter().filter(|(_, deletion)| **deletion == Deletion::Done);
        self.patch(plan, done.map(|(index, _)| (*index, false)).collect()).await.1
    }

    /// Patches each verdict's object: whether the finalizer is added. What failed, and when to try again.
    async fn patch(&mut self, plan: &Plan, wrong: Vec<(usize, bool)>) -> (Vec<(usize, bool)>, Option<Instant>) {
        let Self { client, quotas, patched, metrics } = self;
        let (client, quotas) = (&*client, &*quotas);
        let open = wrong.into_iter().filter(|(index, _)| {
            let metadata = plan.verdicts[*index].object.metadata();
            patched.get(&uid(metadata)) != Some(&version(metadata))
        });
        let patches: Vec<_> = open
            .map(|(index, add)| async move {
                let metadata = plan.verdicts[index].object.metadata();
                (index, add, send(client, quotas, metadata, add).await)
            })
            .collect();
        let done: Vec<_> = stream::iter(patches).buffer_unordered(IN_FLIGHT).collect().await;
        let (mut failed, mut again) = (Vec::new(), None);
        for (index, add, result) in done {
            let verdict = &plan.verdicts[index];
            let metadata = verdict.object.metadata();
            match result {
                Ok(()) => {
                    metrics.wrote(Written::Finalizer, Became::Done);
                    tracing::info!(object = %verdict.key, added = add, "finalizer {FINALIZER} patched");
                    patched.insert(uid(metadata), version(metadata));
                    continue;
                }
                // Gone meanwhile: there is nothing to hold or to let go.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                // Changed meanwhile: the watch will show it, though a status alone wakes nobody.
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    metrics.wrote(Written::Finalizer, Became::Overtaken);
                    again = Some(Instant::now() + LOOK_AGAIN);
                }
                Err(error) => {
                    metrics.wrote(Written::Finalizer, Became::Failed);
                    tracing::warn!(object = %verdict.key, %error, "finalizer not written");
                    again = again.or(Some(Instant::now() + TRY_AGAIN));
                }
            }
            failed.push((index, add));
        }
        (failed, again)
    }
}

async fn send(client: &Client, quotas: &ApiResource, metadata: &ObjectMeta, add: bool) -> Result<(), kube::Error> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, quotas);
    let parameters = PatchParams { field_manager: Some(api::MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_metadata(name, &parameters, &Patch::Merge(patch(metadata, add))).await.map(drop)
}

fn patch(metadata: &ObjectMeta, add: bool) -> Value {
    let others = metadata.finalizers.iter().flatten().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER);
    let finalizers: Vec<&str> = others.chain(add.then_some(FINALIZER)).collect();
    json!({
        "metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
            "finalizers": finalizers,
        },
    })
}

fn uid(metadata: &ObjectMeta) -> String {
    metadata.uid.clone().unwrap_or_default()
}

fn version(metadata: &ObjectMeta) -> Option<String> {
    metadata.resource_version.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_the_object_it_saw_and_leaves_the_finalizers_of_others() {
        let metadata = ObjectMeta {
            uid: Some("u".into()),
            resource_version: Some("7".into()),
            finalizers: Some(vec!["example.com/kept".into(), FINALIZER.into()]),
            ..ObjectMeta::default()
        };
        let expected = |finalizers| json!({"metadata": {"uid": "u", "resourceVersion": "7", "finalizers": finalizers}});
        assert_eq!(patch(&metadata, false), expected(json!(["example.com/kept"])));
        assert_eq!(patch(&metadata, true), expected(json!(["example.com/kept", FINALIZER])));
    }
}
