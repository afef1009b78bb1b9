//! The world as the API server has it: watches in, one complete snapshot for the planner out, or none while anything
//! is missing. I/O: the API server.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::{AiQuota, AiQuotaStatus, AiQuotaStore, AiTokenRateLimit, HttpRoute, McpBridge, WasmPlugin};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, Resource, ResourceExt};
use plan::{Access, Database, Key, ObjectKind, Settings, Undecodable, World};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::coalesce::Changes;
use crate::guarded::Guarded;
use crate::health::Cache;
use crate::metrics::Metrics;
use crate::watch::{Unserved, Watch};

/// Everything that is watched.
pub(crate) struct Observer {
    settings: Settings,
    cluster: String,
    quotas: Watch<Guarded<AiQuota>>,
    limits: Watch<Guarded<AiTokenRateLimit>>,
    stores: Watch<Guarded<AiQuotaStore>>,
    plugins: Watch<Guarded<WasmPlugin>>,
    bridges: Watch<Guarded<McpBridge>>,
    ingresses: Watch<Ingress>,
    http_routes: Watch<Guarded<HttpRoute>>,
    services: Watch<Service>,
    secrets: Watch<Secret>,
    config_maps: Watch<ConfigMap>,
    /// What was said about objects that are left out.
    told: Told,
}

impl Observer {
    /// Begins to watch; the tasks go into `tasks` and never end; they tell what may change a plan.
    pub(crate) async fn start(
        client: &Client,
        settings: Settings,
        (changes, metrics): (&Changes, &Metrics),
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<Self, kube::Error> {
        let cluster = Api::<Namespace>::all(client.clone()).get("kube-system").await?.uid().unwrap_or_default();
        let Changes { any, plugins } = changes;
        let told = (any, metrics);
        let gateway = settings.gateway_namespace.as_str();
        // What the installation consists of is waited for; what other software may bring is empty without it.
        Ok(Self {
            cluster,
            quotas: watch(Api::all(client.clone()), Unserved::Waits, told, tasks),
            limits: watch(Api::all(client.clone()), Unserved::Waits, told, tasks),
            stores: watch(Api::all(client.clone()), Unserved::Waits, told, tasks),
            plugins: watch(Api::namespaced(client.clone(), gateway), Unserved::Waits, (plugins, metrics), tasks),
            bridges: watch(Api::namespaced(client.clone(), gateway), Unserved::Empty, told, tasks),
            ingresses: watch(Api::all(client.clone()), Unserved::Waits, told, tasks),
            http_routes: watch(Api::all(client.clone()), Unserved::Empty, told, tasks),
            services: watch(Api::all(client.clone()), Unserved::Waits, told, tasks),
            secrets: watch(Api::namespaced(client.clone(), gateway), Unserved::Waits, told, tasks),
            config_maps: watch(Api::namespaced(client.clone(), gateway), Unserved::Waits, told, tasks),
            settings,
            told: Told::default(),
        })
    }

    /// What is watched, for others to look at.
    pub(crate) fn caches(&self) -> Vec<Cache> {
        vec![
            self.quotas.cache(),
            self.limits.cache(),
            self.stores.cache(),
            self.plugins.cache(),
            self.bridges.cache(),
            self.ingresses.cache(),
            self.http_routes.cache(),
            self.services.cache(),
            self.secrets.cache(),
            self.config_maps.cache(),
        ]
    }

    /// Looks at what a term before ours may have seen already: a new term is obeyed with an older generation too.
    pub(crate) fn take_over(&self) {
        self.quotas.list_anew();
        self.limits.list_anew();
        self.secrets.list_anew();
        self.config_maps.list_anew();
    }

    /// What all watches hold; nothing before each of them is complete.
    /// `term`: the lease's. `last_written`: our WasmPlugins as they were last stored. `databases`: as Redis said.
    pub(crate) fn snapshot(
        &mut self,
        term: i64,
        last_written: Vec<Arc<WasmPlugin>>,
        databases: HashMap<Access, Database>,
    ) -> Option<World> {
        let (quotas, limits) = (self.quotas.objects()?, self.limits.objects()?);
        let (stores, plugins, bridges) = (self.stores.objects()?, self.plugins.objects()?, self.bridges.objects()?);
        self.told.tell(left_out(&stores).chain(left_out(&plugins)).chain(left_out(&bridges)));
        Some(World {
            settings: self.settings.clone(),
            now: Timestamp::now(),
            cluster: self.cluster.clone(),
            term,
            undecodable: undecodable(ObjectKind::AiQuota, &quotas)
                .chain(undecodable(ObjectKind::AiTokenRateLimit, &limits))
                .collect(),
            limits: readable(&limits),
            quotas: quotas.iter().filter_map(|quota| quota.readable()).collect(),
            undecodable_stores: self.names_of_unreadable(&stores),
            stores: readable(&stores),
            plugins: readable(&plugins),
            last_written,
            bridges: readable(&bridges),
            ingresses: self.ingresses.objects()?,
            http_routes: self.http_routes.objects()?.iter().map(|route| hosts(route)).collect(),
            services: self
                .services
                .objects()?
                .iter()
                .map(|service| (Key::of(service.meta()), ports(service)))
                .collect(),
            secrets: self.secrets.objects()?,
            config_maps: self.config_maps.objects()?,
            databases,
        })
    }

    fn names_of_unreadable(&self, stores: &[Arc<Guarded<AiQuotaStore>>]) -> HashSet<String> {
        let keys = stores.iter().filter_map(|store| store.unreadable()).map(|store| Key::of(&store.metadata));
        keys.filter(|key| key.namespace == self.settings.gateway_namespace).map(|key| key.name).collect()
    }
}

fn watch<K>(
    api: Api<K>,
    unserved: Unserved,
    (changes, metrics): (&Arc<Notify>, &Metrics),
    tasks: &mut JoinSet<&'static str>,
) -> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (watch, task) = Watch::new(api, unserved, (changes.clone(), metrics.watch(&K::kind(&()))));
    tasks.spawn(async move {
        task.await;
        std::any::type_name::<K>()
    });
    watch
}

fn readable<K: Resource<DynamicType = ()> + Clone>(objects: &[Arc<Guarded<K>>]) -> Vec<Arc<K>> {
    objects.iter().filter_map(|object| object.readable()).collect()
}

/// Kind and name, and why the object cannot be read.
type LeftOut = ((String, Key), String);

fn left_out<K: Resource<DynamicType = ()> + Clone>(objects: &[Arc<Guarded<K>>]) -> impl Iterator<Item = LeftOut> {
    let broken = objects.iter().filter_map(|object| object.unreadable());
    broken.map(|broken| ((K::kind(&()).into_owned(), Key::of(&broken.metadata)), broken.error.clone()))
}

/// Each is told once, not in every round: again when its error is another, or when it could be read in between.
#[derive(Default)]
struct Told(HashMap<(String, Key), String>);

impl Told {
    fn tell(&mut self, left_out: impl Iterator<Item = LeftOut>) {
        for ((kind, name), error) in self.news(left_out.collect()) {
            tracing::warn!(kind, %name, error, "this object cannot be read and is left out");
        }
    }

    fn news(&mut self, left_out: HashMap<(String, Key), String>) -> Vec<LeftOut> {
        let before = std::mem::replace(&mut self.0, left_out);
        let new = self.0.iter().filter(|(object, error)| before.get(object) != Some(error));
        new.map(|(object, error)| (object.clone(), error.clone())).collect()
    }
}

fn undecodable<K: Resource<DynamicType = ()> + Clone>(
    kind: ObjectKind,
    objects: &[Arc<Guarded<K>>],
) -> impl Iterator<Item = Arc<Undecodable>> {
    objects.iter().filter_map(|object| object.unreadable()).map(move |object| {
        let status = object.status.as_ref().and_then(|status| AiQuotaStatus::deserialize(status).ok());
        Arc::new(Undecodable { kind, metadata: object.metadata.clone(), error: object.error.clone(), status })
    })
}

/// One that cannot be read is there all the same, as if it were for every host.
fn hosts(route: &Guarded<HttpRoute>) -> (Key, Vec<String>) {
    let hosts = route.readable().map(|route| route.spec.hostnames.clone()).unwrap_or_default();
    (Key::of(route.meta()), hosts)
}

fn ports(service: &Service) -> Vec<u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| u16::try_from(port.port).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_cannot_be_read_is_told_once_until_that_changes() {
        let object = |error: &str| -> LeftOut {
            (("McpBridge".to_owned(), Key::new("higress-system", "default")), error.to_owned())
        };
        let mut told = Told::default();
        let mut news = |errors: &[&str]| told.news(errors.iter().map(|error| object(error)).collect());
        assert_eq!(news(&["no spec"]), [object("no spec")]);
        assert_eq!(news(&["no spec"]), []);
        assert_eq!(news(&["no registries"]), [object("no registries")]);
        assert_eq!(news(&[]), []);
        assert_eq!(news(&["no registries"]), [object("no registries")]);
    }
}
