//! What a take-over asks and does about our objects: whether the API server takes them, what the controller says about
//! them, and whether it is there at all. I/O: the API server.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::{AiQuota, AiQuotaStore, AiTokenRateLimit, Condition, WasmPlugin};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::taking::Known;
use crate::problem::Named;

/// Who writes our objects, and edits what they replace.
pub(super) const MANAGER: &str = "aiquota-import";
/// How long the controller may take for anything that it does at once.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(250);
/// The controller writes one WasmPlugin at most every 2 s: what was not written for longer is written at once.
const CALM: Duration = Duration::from_millis(2_500);

pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) gateway: String,
}

/// One of our objects, and whether it was there before.
pub(super) struct Ours {
    pub(super) value: Value,
    pub(super) named: Named,
    pub(super) there: bool,
}

/// What the controller says of an object.
#[derive(PartialEq, Eq)]
enum Said {
    /// Only another plugin's rule is in its way.
    Waits,
    /// It is in force.
    Ready,
    /// Not yet what is waited for: what there is.
    Else(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Wanted {
    Waiting,
    Ready,
}

impl Cluster {
    fn objects(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let resource = match kind {
            "AIQuota" => ApiResource::erase::<AiQuota>(&()),
            "AITokenRateLimit" => ApiResource::erase::<AiTokenRateLimit>(&()),
            _ => ApiResource::erase::<AiQuotaStore>(&()),
        };
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    pub(super) fn plugins(&self) -> Api<WasmPlugin> {
        Api::namespaced(self.client.clone(), &self.gateway)
    }

    pub(super) async fn stores(&self) -> Result<Vec<AiQuotaStore>> {
        let stores: Api<AiQuotaStore> = Api::namespaced(self.client.clone(), &self.gateway);
        Ok(stores.list(&Default::default()).await.context("AIQuotaStores cannot be listed")?.items)
    }

    /// Each object, and what the API server would say to those that are not there; an object of the same name that is
    /// about something else is a problem.
    pub(super) async fn examine(&self, values: Vec<Value>) -> Result<(Vec<Ours>, Vec<String>)> {
        let (mut all, mut problems) = (Vec::new(), Vec::new());
        for value in values {
            let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
            let objects = self.objects(&kind, &namespace);
            let there =
                objects.get_opt(&name).await.with_context(|| format!("{kind} {namespace}/{name} cannot be read"))?;
            match &there {
                Some(there) => {
                    if let Some(field) = differs(&there.data["spec"], &value["spec"]) {
                        problems.push(format!(
                            "{kind} {namespace}/{name} is there already, and has another spec.{field} than what is taken \
                             over: rename or delete it"
                        ));
                    }
                }
                None => {
                    let would = PatchParams::apply(MANAGER).dry_run();
                    match objects.patch(&name, &would, &Patch::Apply(&value)).await {
                        Ok(_) => {}
                        Err(kube::Error::Api(status)) => {
                            problems.push(format!("{kind} {namespace}/{name}: {}", status.message));
                        }
                        Err(error) => return Err(error).context("our objects cannot be tried"),
                    }
                }
            }
            all.push(Ours { value, named: Named { kind, namespace, name }, there: there.is_some() });
        }
        Ok((all, problems))
    }

    /// The Secret that a new store needs; who may not read it learns from the controller.
    pub(super) async fn lacks_secret(&self, ours: &Ours) -> Option<String> {
        let name = ours.value.pointer("/spec/auth/secretName").and_then(Value::as_str).filter(|_| !ours.there)?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.gateway);
        let found = secrets.get_metadata_opt(name).await;
        matches!(found, Ok(None)).then(|| {
            format!(
                "Secret {}/{name} is not there: it has the password of Redis; see what is to do above",
                self.gateway
            )
        })
    }

    pub(super) async fn create(&self, ours: &Ours) -> Result<()> {
        let Ours { value, named: Named { kind, namespace, name }, there: _ } = ours;
        let parameters = PatchParams::apply(MANAGER);
        let written = self.objects(kind, namespace).patch(name, &parameters, &Patch::Apply(value)).await;
        written.map(drop).with_context(|| format!("{kind} {namespace}/{name} is not written"))
    }

    /// Waits until the controller says so of all.
    ///
    /// # Errors
    /// In vain: what it says instead.
    pub(super) async fn wait(&self, all: &[&Ours], wanted: Wanted) -> Result<()> {
        let mut until = Instant::now() + PATIENCE;
        for ours in all {
            let Named { kind, namespace, name } = &ours.named;
            let objects = self.objects(kind, namespace);
            loop {
                let asked = Instant::now();
                let object = answered(async || objects.get(name).await).await;
                // Nobody could say anything meanwhile.
                until += asked.elapsed();
                let object = object.with_context(|| format!("{kind} {namespace}/{name}"))?;
                let found = match (said(&object, kind), wanted) {
                    (Said::Ready, _) | (Said::Waits, Wanted::Waiting) => break,
                    (Said::Waits, Wanted::Ready) => "it waits for another plugin's rule".to_owned(),
                    (Said::Else(found), _) => found,
                };
                if Instant::now() >= until {
                    bail!("{kind} {namespace}/{name}: {found}");
                }
                sleep(AGAIN).await;
            }
        }
        Ok(())
    }

    /// Waits until the Lease is renewed: who holds it is there. Without an election there is none, and nothing to see.
    pub(super) async fn is_led(&self) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.gateway);
        let mut begun = Instant::now();
        let mut first = None;
        loop {
            let asked = Instant::now();
            let lease = answered(async || leases.get_opt("aiquota").await).await;
            // Nobody could renew it meanwhile.
            begun += asked.elapsed();
            let Some(lease) = lease.context("the Lease aiquota cannot be read")? else {
                return Ok(());
            };
            let spec = lease.spec.unwrap_or_default();
            // Who holds a long one renews it seldom.
            let lasts = Duration::from_secs(spec.lease_duration_seconds.unwrap_or_default().unsigned_abs().into());
            let renewed = (spec.holder_identity.filter(|holder| !holder.is_empty()), spec.renew_time);
            match &first {
                Some(before) if *before != renewed && renewed.0.is_some() => return Ok(()),
                None => first = Some(renewed),
                Some(_) => {}
            }
            if begun.elapsed() >= PATIENCE.max(lasts) {
                bail!(
                    "nobody renews the Lease {}/aiquota: no controller runs. If it runs without --leader-election, delete \
                     the Lease",
                    self.gateway
                );
            }
            sleep(AGAIN).await;
        }
    }

    /// Waits until gateways had time to load a WasmPlugin that is new, and until the next write of it is made at once.
    pub(super) async fn settle(&self, known: Known, load_time: Duration) -> Result<()> {
        let plugins = self.plugins();
        let begun = Instant::now();
        let (mut version, mut since) = (None, begun);
        loop {
            let ours = answered(async || plugins.get_opt(known.ours()).await).await;
            let ours = ours.context("our WasmPlugin cannot be read")?;
            let found = ours.as_ref().and_then(ResourceExt::resource_version);
            if version != found {
                (version, since) = (found, Instant::now());
            }
            let needs = if ours.is_some() { CALM.max(load_time) } else { Duration::ZERO };
            if since.elapsed() >= needs {
                return Ok(());
            }
            sleep(AGAIN).await;
        }
    }
}

/// Whether the API server itself means it: not one that begins or is overrun, nor what stands in front of it.
fn is_said(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code < 500 && status.code != 429)
}

/// What the API server answers; where it does not, it is asked again for [`PATIENCE`].
async fn answered<T>(ask: impl AsyncFn() -> kube::Result<T>) -> kube::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(error) if !is_said(&error) && Instant::now() < until => sleep(AGAIN).await,
            answer => return answer,
        }
    }
}

fn said(object: &DynamicObject, kind: &str) -> Said {
    let conditions: Vec<Condition> =
        serde_json::from_value(object.data["status"]["conditions"].clone()).unwrap_or_default();
    let now = |kind: &str| {
        let found = conditions.iter().find(|condition| condition.type_ == kind);
        found.filter(|condition| condition.observed_generation == object.metadata.generation)
    };
    let is = |kind: &str| now(kind).is_some_and(|condition| condition.status == "True");
    if is("Ready") {
        return Said::Ready;
    }
    let seeded = match kind {
        "AIQuota" => is("Seeded"),
        _ => now("Seeded").is_none_or(|seeded| seeded.status == "True"),
    };
    let waits = now("Programmed").is_some_and(|programmed| programmed.reason == "ForeignRule");
    if is("Accepted") && seeded && waits {
        return Said::Waits;
    }
    let not = ["Accepted", "Connected", "Seeded", "Programmed", "Ready"].iter().filter_map(|kind| now(kind));
    let not = not.filter(|condition| condition.status != "True").map(|condition| {
        let Condition { type_, status, reason, message, .. } = condition;
        format!("{type_}={status} {reason} {message}").trim_end().to_owned()
    });
    let not = not.collect::<Vec<_>>().join("; ");
    Said::Else(if not.is_empty() { "the controller says nothing of it: does it run?".to_owned() } else { not })
}

/// The first field in which an object that is there would meter or refuse otherwise than what is taken over. Consumers are
/// not compared: their quotas may have been edited since.
fn differs(there: &Value, wanted: &Value) -> Option<&'static str> {
    let usual = json!({"name": "default"});
    let said = |spec: &Value, field: &str| match (field, &spec[field]) {
        ("storeRef", Value::Null) => usual.clone(),
        (_, said) => said.clone(),
    };
    let fields =
        ["targetRefs", "keyPrefix", "ruleName", "storeRef", "mode", "paths", "global", "rules", "defaultQuota"];
    fields.into_iter().find(|field| said(there, field) != said(wanted, field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(conditions: &[(&str, &str, &str)]) -> DynamicObject {
        let conditions = conditions.iter().map(|(kind, status, reason)| {
            json!({"type": kind, "status": status, "reason": reason, "message": "why", "observedGeneration": 1,
                "lastTransitionTime": "2026-11-22T00:00:00Z"})
        });
        let object = json!({"apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuota",
            "metadata": {"name": "a", "generation": 1}, "status": {"conditions": conditions.collect::<Vec<_>>()}});
        serde_json::from_value(object).expect("an object")
    }

    const WAITS: [(&str, &str, &str); 4] = [
        ("Accepted", "True", "Accepted"),
        ("Seeded", "True", "Seeded"),
        ("Programmed", "False", "ForeignRule"),
        ("Ready", "False", "ForeignRule"),
    ];

    #[test]
    fn only_another_plugins_rule_may_be_in_the_way() {
        assert!(said(&quota(&WAITS), "AIQuota") == Said::Waits);
        for (at, reason) in [(0, "Conflicted"), (1, "Seeding"), (2, "GatewayFull")] {
            let mut conditions = WAITS;
            conditions[at] = (WAITS[at].0, "False", reason);
            let Said::Else(found) = said(&quota(&conditions), "AIQuota") else { panic!("{reason} is in the way") };
            assert!(found.contains(&format!("{}=False {reason} why", WAITS[at].0)), "{found}");
        }
    }

    #[test]
    fn what_was_said_of_an_older_generation_says_nothing() {
        let mut edited = quota(&WAITS);
        edited.metadata.generation = Some(2);
        let Said::Else(found) = said(&edited, "AIQuota") else { panic!("it was edited") };
        assert!(found.contains("does it run?"), "{found}");
    }

    #[test]
    fn an_object_that_is_there_has_to_meter_and_refuse_as_what_is_taken_over() {
        let wanted =
            json!({"keyPrefix": "q:", "consumers": [{"name": "a", "quota": 1}], "storeRef": {"name": "default"}});
        let with = |field: &str, value: Value| {
            let mut there = wanted.clone();
            there[field] = value;
            differs(&there, &wanted)
        };
        assert_eq!(with("consumers", json!([])), None);
        assert_eq!(with("storeRef", Value::Null), None, "the store of this name is used where none is named");
        assert_eq!(with("storeRef", json!({"name": "other"})), Some("storeRef"));
        assert_eq!(with("mode", json!("Observe")), Some("mode"));
        assert_eq!(with("keyPrefix", json!("r:")), Some("keyPrefix"));
    }
}
