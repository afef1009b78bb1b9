//! Where the objects come from: a fixed list, or watches on the API server, from which whole worlds are made.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, ResourceExt};
use kube_runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::config::World;

/// What the gateway reads its configuration from.
pub enum Source {
    /// The objects of a cluster, and the gateway's namespace.
    Cluster(Client, String),
    /// These objects, until they are replaced; the gateway's namespace is `higress-system`.
    Objects(Vec<Value>),
}

/// How long changes are gathered before a world is made of them.
const GATHER: Duration = Duration::from_millis(20);

/// Group, version and kind of what Higress reads.
const KINDS: [(&str, &str, &str); 5] = [
    ("extensions.higress.io", "v1alpha1", "WasmPlugin"),
    ("networking.higress.io", "v1", "McpBridge"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("", "v1", "Secret"),
    ("", "v1", "Service"),
];

pub(super) fn from_list(objects: Vec<Value>) -> World {
    let mut world = World::new();
    for object in objects {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        world.entry(kind).or_default().push(object);
    }
    world
}

/// Sends a world whenever an object changed, once every kind was listed or found not to be served.
pub(super) async fn watch(client: Client, worlds: UnboundedSender<World>) {
    let (changes, mut changed) = unbounded_channel();
    let mut watches = JoinSet::new();
    for (index, (group, version, kind)) in KINDS.into_iter().enumerate() {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let changes = changes.clone();
        watches.spawn(async move {
            let mut events = watcher::watcher(api, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                let failed = event.is_err();
                if changes.send((index, event.ok())).is_err() {
                    return;
                }
                if failed {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        });
    }
    let mut stores: [Store; KINDS.len()] = Default::default();
    while let Some((index, event)) = changed.recv().await {
        stores[index].apply(event);
        let gathered = tokio::time::sleep(GATHER);
        tokio::pin!(gathered);
        loop {
            tokio::select! {
                Some((index, event)) = changed.recv() => stores[index].apply(event),
                () = &mut gathered => break,
            }
        }
        if stores.iter().all(|store| store.listed) && stores.iter().any(|store| store.changed) {
            stores.iter_mut().for_each(|store| store.changed = false);
            let world = KINDS.iter().zip(&stores).map(|((_, _, kind), store)| ((*kind).to_owned(), store.objects()));
            if worlds.send(world.collect::<BTreeMap<_, _>>()).is_err() {
                return;
            }
        }
    }
}

/// The objects of one kind.
#[derive(Default)]
struct Store {
    objects: BTreeMap<(String, String), Value>,
    listing: HashMap<(String, String), Value>,
    listed: bool,
    changed: bool,
}

impl Store {
    /// `None` stands for a watch that failed: a kind that is not served has no objects.
    fn apply(&mut self, event: Option<Event<DynamicObject>>) {
        let entry = |object: DynamicObject| {
            let key = (object.namespace().unwrap_or_default(), object.name_any());
            (key, serde_json::to_value(&object).unwrap_or_default())
        };
        match event {
            None => {
                self.changed |= !self.listed;
                self.listed = true;
            }
            Some(Event::Init) => self.listing.clear(),
            Some(Event::InitApply(object)) => self.listing.extend([entry(object)]),
            Some(Event::InitDone) => {
                self.objects = self.listing.drain().collect();
                (self.listed, self.changed) = (true, true);
            }
            Some(Event::Apply(object)) => {
                let (key, object) = entry(object);
                self.objects.insert(key, object);
                self.changed = true;
            }
            Some(Event::Delete(object)) => {
                self.objects.remove(&entry(object).0);
                self.changed = true;
            }
        }
    }

    fn objects(&self) -> Vec<Value> {
        self.objects.values().cloned().collect()
    }
}
