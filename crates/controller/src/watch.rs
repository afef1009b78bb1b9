//! One kind's objects, kept current: a watch of the API server in, a store to read and a call for a new plan out.
//! I/O: the API server.

use std::any::Any;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Resource};
use kube_runtime::WatchStreamExt;
use kube_runtime::reflector::{Lookup, ObjectRef, Store, store};
use kube_runtime::utils::Backoff;
use kube_runtime::watcher::{self, DefaultBackoff, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use crate::health::Cache;
use crate::metrics::WatchMeter;

/// What it means when the API server does not serve a kind at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// There are no such objects, as with HTTPRoute where no Gateway API is installed. Of a kind that was served
    /// before, that is believed only when it is said twice: an API server that starts does not know its kinds at once.
    Empty,
    /// The installation is not complete: nothing is planned, and what was known before stays.
    Waits,
}

/// What is known of a kind's being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Unknown,
    Served,
    /// It was served before, and then the API server did not know it once.
    Doubted,
    Gone,
}

impl Presence {
    /// The API server does not know the kind. What follows from that, and how long until it is looked for again.
    fn unserved(&mut self, unserved: Unserved) -> (Missing, Duration) {
        const SOON: Duration = Duration::from_secs(5);
        const LATER: Duration = Duration::from_secs(60);
        match (unserved, *self) {
            (Unserved::Waits, _) => (Missing::Kept, SOON),
            (Unserved::Empty, Self::Served) => {
                *self = Self::Doubted;
                (Missing::Kept, SOON)
            }
            (Unserved::Empty, Self::Unknown | Self::Doubted) => {
                *self = Self::Gone;
                (Missing::Emptied, LATER)
            }
            (Unserved::Empty, Self::Gone) => (Missing::StillEmpty, LATER),
        }
    }
}

/// What becomes of the objects of a kind that is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// What was known stays.
    Kept,
    Emptied,
    StillEmpty,
}

/// The longest between two attempts to watch.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The objects of one kind.
pub(crate) struct Watch<K: 'static + Lookup>
where
    K::DynamicType: Eq + Hash,
{
    store: Store<K>,
    /// How often a new list was asked for, and which of them is complete.
    asked: watch::Sender<u64>,
    complete: Arc<AtomicU64>,
    /// Whether any list was complete.
    synced: Arc<AtomicBool>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// The objects' side to read from, and the task that keeps them current; the task never ends.
    pub(crate) fn new(
        api: Api<K>,
        unserved: Unserved,
        (changes, meter): (Arc<Notify>, WatchMeter),
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (reader, writer) = store();
        let watch = Self {
            store: reader.clone(),
            asked: watch::Sender::new(0),
            complete: Arc::default(),
            synced: Arc::default(),
        };
        let lists = Lists {
            asked: watch.asked.subscribe(),
            complete: watch.complete.clone(),
            synced: watch.synced.clone(),
            meter,
        };
        (watch, follow(api, unserved, reader, writer, changes, lists))
    }

    /// Whether its objects are known, for others to look at.
    pub(crate) fn cache(&self) -> Cache {
        Cache { kind: K::kind(&()).into_owned(), synced: self.synced.clone() }
    }

    /// Lists the objects anew: a watch may lag behind what the API server has, a list does not.
    pub(crate) fn list_anew(&self) {
        self.asked.send_modify(|asked| *asked += 1);
    }

    /// All objects, ordered by namespace and name, so that equal worlds are equal; nothing before the list that was
    /// last asked for is complete.
    pub(crate) fn objects(&self) -> Option<Vec<Arc<K>>> {
        if !is_ready(&self.store) || self.complete.load(Ordering::Acquire) < *self.asked.borrow() {
            return None;
        }
        let mut objects = self.store.state();
        objects.sort_by(|a, b| (&a.meta().namespace, &a.meta().name).cmp(&(&b.meta().namespace, &b.meta().name)));
        Some(objects)
    }
}

/// The task's side of the lists that are asked for.
struct Lists {
    asked: watch::Receiver<u64>,
    complete: Arc<AtomicU64>,
    synced: Arc<AtomicBool>,
    meter: WatchMeter,
}

impl Lists {
    /// The objects of the kind are known.
    fn are_complete(&self) {
        self.synced.store(true, Ordering::Release);
        self.meter.complete();
    }
}

async fn follow<K>(
    api: Api<K>,
    unserved: Unserved,
    reader: Store<K>,
    mut writer: kube_runtime::reflector::store::Writer<K>,
    changes: Arc<Notify>,
    mut lists: Lists,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let kind = K::kind(&());
    let mut presence = Presence::Unknown;
    'list: loop {
        let mut look_again = LONGEST_WAIT;
        let asked = *lists.asked.borrow_and_update();
        let mut events = watcher(api.clone(), watcher::Config::default()).backoff(Impatient::default()).boxed();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                Ok(()) = lists.asked.changed() => continue 'list,
            };
            let Some(event) = event else { break };
            match event {
                Ok(event) => {
                    // Emptied, it would still take the room that it had.
                    let event = event.modify(|object| object.meta_mut().managed_fields = None);
                    let tells = says_something_new(&reader, &event);
                    writer.apply_watcher_event(&event);
                    if matches!(event, Event::InitDone) {
                        presence = Presence::Served;
                        lists.complete.store(asked, Ordering::Release);
                        lists.are_complete();
                    }
                    if tells {
                        changes.notify_one();
                    }
                }
                Err(error) if is_unserved(&error) => {
                    let missing;
                    (missing, look_again) = presence.unserved(unserved);
                    match missing {
                        Missing::Kept if unserved == Unserved::Waits => {
                            tracing::error!(%kind, "the API server does not serve this kind: install its CustomResourceDefinition");
                        }
                        Missing::Kept => {
                            tracing::warn!(%kind, "the API server does not serve this kind any more: asked again before that is believed");
                        }
                        Missing::Emptied => {
                            tracing::info!(%kind, "the API server does not serve this kind: taken as empty");
                            writer.apply_watcher_event(&Event::Init);
                            writer.apply_watcher_event(&Event::InitDone);
                            lists.are_complete();
                            changes.notify_one();
                        }
                        Missing::StillEmpty => {}
                    }
                    break;
                }
                Err(error) => {
                    lists.meter.failed();
                    tracing::warn!(%kind, %error, "watching failed, trying again");
                }
            }
        }
        tokio::time::sleep(look_again).await;
    }
}

/// The library's waits, which grow to half a minute and more, but not so long. An API server that was away for long is
/// back for a while before a watch notices, and then it may not know any more where that watch stood, which counts as
/// another failure: an edit would be seen after a minute.
#[derive(Default)]
struct Impatient(DefaultBackoff);

impl Iterator for Impatient {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|wait| wait.min(LONGEST_WAIT))
    }
}

impl Backoff for Impatient {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Whether a list was complete once.
fn is_ready<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>) -> bool {
    store.wait_until_ready().now_or_never().is_some_and(|ready| ready.is_ok())
}

/// An API server answers for a kind it does not know with a bare 404, without the reason that `is_not_found` needs.
fn is_unserved(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Whether an event can change a plan. Status patches, ours above all, do not.
fn says_something_new<K>(known: &Store<K>, event: &Event<K>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    match event {
        Event::Init | Event::InitApply(_) => false,
        Event::InitDone | Event::Delete(_) => true,
        Event::Apply(object) => match known.get(&ObjectRef::from_obj(object)) {
            Some(before) => !same_but_for_status(before.meta(), object.meta()) && !same_data(&*before, object),
            None => true,
        },
    }
}

/// ConfigMaps are locks, too: their annotations change every few seconds, and mean nothing here.
fn same_data<K: Resource<DynamicType = ()> + 'static>(before: &K, after: &K) -> bool {
    let data = |object: &K| (object as &dyn Any).downcast_ref::<ConfigMap>().map(|map| map.data.clone());
    data(before).is_some() && before.meta().uid == after.meta().uid && data(before) == data(after)
}

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Kinds without a generation (Secret, Service) always count as changed.
fn same_but_for_status(before: &Meta, after: &Meta) -> bool {
    after.generation.is_some()
        && before.generation == after.generation
        && before.uid == after.uid
        && before.labels == after.labels
        && before.annotations == after.annotations
        && before.finalizers == after.finalizers
        && before.deletion_timestamp == after.deletion_timestamp
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta { generation: Some(3), uid: Some("u".into()), resource_version: Some("1".into()), ..Meta::default() }
    }

    #[test]
    fn however_long_the_api_server_is_away_it_is_asked_every_few_seconds() {
        let waits: Vec<Duration> = Impatient::default().take(20).collect();
        assert!(waits[0] < LONGEST_WAIT, "{waits:?}");
        assert_eq!(waits[19], LONGEST_WAIT, "{waits:?}");
    }

    #[test]
    fn a_kind_that_was_served_is_gone_when_the_api_server_says_so_twice() {
        let mut presence = Presence::Served;
        let soon = Duration::from_secs(5);
        assert_eq!(presence.unserved(Unserved::Empty), (Missing::Kept, soon), "an API server that starts");
        assert_eq!(presence.unserved(Unserved::Empty).0, Missing::Emptied);
        assert_eq!(presence.unserved(Unserved::Empty).0, Missing::StillEmpty);
        assert_eq!(Presence::Unknown.unserved(Unserved::Empty).0, Missing::Emptied, "nothing is known of it");
        for mut presence in [Presence::Unknown, Presence::Served, Presence::Served] {
            assert_eq!(presence.unserved(Unserved::Waits), (Missing::Kept, soon));
        }
    }

    #[test]
    fn a_status_patch_is_no_change() {
        let after = Meta { resource_version: Some("2".into()), ..meta() };
        assert!(same_but_for_status(&meta(), &after));
    }

    #[test]
    fn spec_labels_annotations_deletion_and_recreation_are_changes() {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        for after in [
            Meta { generation: Some(4), ..meta() },
            Meta { uid: Some("v".into()), ..meta() },
            Meta { labels: Some([("a".into(), "b".into())].into()), ..meta() },
            Meta { annotations: Some([("a".into(), "b".into())].into()), ..meta() },
            Meta { deletion_timestamp: Some(now), ..meta() },
        ] {
            assert!(!same_but_for_status(&meta(), &after), "{after:?}");
        }
    }

    #[test]
    fn a_config_map_that_is_renewed_as_a_lock_says_nothing_new() {
        let map = |value: &str, version: &str| ConfigMap {
            metadata: Meta { generation: None, resource_version: Some(version.into()), ..meta() },
            data: Some([("k".into(), value.into())].into()),
            ..ConfigMap::default()
        };
        assert!(same_data(&map("a", "1"), &map("a", "2")));
        assert!(!same_data(&map("a", "1"), &map("b", "2")));
        let other = ConfigMap { metadata: Meta { uid: Some("other".into()), ..meta() }, ..map("a", "1") };
        assert!(!same_data(&map("a", "1"), &other));
        let secret = k8s_openapi::api::core::v1::Secret::default();
        assert!(!same_data(&secret, &secret), "of other kinds it is not asked");
    }

    #[test]
    fn an_object_without_generation_always_counts_as_changed() {
        let plain = Meta { generation: None, ..meta() };
        assert!(!same_but_for_status(&plain, &plain));
    }
}
