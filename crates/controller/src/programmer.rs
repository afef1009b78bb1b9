//! WasmPlugins as they should be in, writes to the API server out: only where the meaning differs, and at most one
//! per object and interval, because each makes every gateway rebuild the plugin. I/O: the API server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::WasmPlugin;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use plan::{PluginWrite, Program, Write, Writes};
use tokio::time::Instant;

use crate::drift;
use crate::events::{Events, Note};
use crate::guarded::Guarded;
use crate::metrics::{Became, Metrics, Written};

/// The least time between two writes of one object.
const INTERVAL: Duration = Duration::from_secs(2);

/// What one round came to.
pub(crate) struct Programming {
    pub(crate) writes: Writes,
    /// When to come again without a change of the world.
    pub(crate) again: Option<Instant>,
}

/// The writer of our WasmPlugins.
pub(crate) struct Programmer {
    api: Api<WasmPlugin>,
    /// The same objects, readable or not.
    guarded: Api<Guarded<WasmPlugin>>,
    last: HashMap<&'static str, Last>,
    /// What stood there when it was last as it should be: written by us, or found so.
    standing: HashMap<&'static str, Standing>,
    metrics: Arc<Metrics>,
}

/// The last write of one object.
struct Last {
    at: Instant,
    replaced: Replaced,
    /// Why it failed.
    error: Option<String>,
}

/// What the watch shows for as long as it does not show the write.
enum Replaced {
    /// The write created the object.
    Absence,
    Version(Option<String>),
    /// The write failed: the watch shows what there is.
    Nothing,
}

struct Standing {
    wanted: WasmPlugin,
    /// As the API server took it: defaults and pruning of the CRD applied.
    stored: Arc<WasmPlugin>,
}

/// What a round does about one object.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    WaitUntil(Instant),
    Create,
    Replace,
    Delete,
}

impl Programmer {
    pub(crate) fn new(client: Client, gateway_namespace: &str, metrics: Arc<Metrics>) -> Self {
        let guarded = Api::namespaced(client.clone(), gateway_namespace);
        Self {
            api: Api::namespaced(client, gateway_namespace),
            guarded,
            last: HashMap::new(),
            standing: HashMap::new(),
            metrics,
        }
    }

    /// Makes the gateway's WasmPlugins as the program says.
    pub(crate) async fn run(&mut self, program: &Program, events: &Events) -> Programming {
        let mut outcome = Programming { writes: Writes::new(), again: None };
        for plugin in &program.plugins {
            let (write, again) = self.one(plugin, events).await;
            outcome.writes.insert(plugin.name, write);
            outcome.again = outcome.again.into_iter().chain(again).min();
        }
        outcome
    }

    /// As the API server stored it.
    pub(crate) fn last_written(&self, name: &str) -> Option<Arc<WasmPlugin>> {
        self.standing.get(name).map(|standing| standing.stored.clone())
    }

    async fn one(&mut self, plugin: &PluginWrite, events: &Events) -> (Write, Option<Instant>) {
        if let Some(error) = &plugin.refused {
            tracing::error!(name = plugin.name, error, "WasmPlugin not written");
            return (Write::Failed { error: error.clone() }, None);
        }
        let now = Instant::now();
        self.remember(plugin);
        let step = step(plugin, self.last.get(plugin.name), self.standing.get(plugin.name), now);
        let mut readable = true;
        let result = match (&step, &plugin.wanted) {
            (Step::Nothing, _) => return (Write::Done, None),
            (Step::WaitUntil(then), _) => return (waiting(self.last.get(plugin.name)), Some(*then)),
            (Step::Create, Some(wanted)) => self.create(plugin.name, wanted).await.map(|(stored, new)| {
                readable = new;
                Some(stored)
            }),
            (Step::Replace, Some(wanted)) => self.api.replace(plugin.name, &parameters(), wanted).await.map(Some),
            (Step::Create | Step::Replace, None) | (Step::Delete, _) => {
                let (uid, resource_version) =
                    plugin.found.as_ref().map(|found| (found.uid(), found.resource_version())).unwrap_or_default();
                let only_this = DeleteParams::default().preconditions(Preconditions { uid, resource_version });
                self.api.delete(plugin.name, &only_this).await.map(|_| None)
            }
        };
        match result {
            Ok(stored) => {
                tracing::info!(name = plugin.name, "WasmPlugin written");
                self.metrics.wrote(Written::WasmPlugin, Became::Done);
                let before = self.standing.remove(plugin.name);
                if let (Some(before), Some(stored)) = (before, &stored) {
                    report_foreign_change(plugin, readable, (&before, stored), (events, &self.metrics)).await;
                }
                if let (Some(stored), Some(wanted)) = (stored, &plugin.wanted) {
                    let standing = Standing { wanted: wanted.clone(), stored: Arc::new(stored) };
                    self.standing.insert(plugin.name, standing);
                }
                let replaced = match &plugin.found {
                    None => Replaced::Absence,
                    Some(found) => Replaced::Version(found.resource_version()),
                };
                self.last.insert(plugin.name, Last { at: now, replaced, error: None });
                // The watch may not show it before the interval is over; then it is looked at again.
                (Write::Done, Some(now + INTERVAL))
            }
            Err(error) => {
                let overtaken = is_overtaken(&step, &error);
                let error = error.to_string();
                self.metrics.wrote(Written::WasmPlugin, if overtaken { Became::Overtaken } else { Became::Failed });
                tracing::warn!(name = plugin.name, %error, overtaken, "WasmPlugin not written");
                let error = (!overtaken).then_some(error);
                let last = Last { at: now, replaced: Replaced::Nothing, error };
                let write = waiting(Some(&last));
                self.last.insert(plugin.name, last);
                (write, Some(now + INTERVAL))
            }
        }
    }

    /// What another process made as it should be is known as well: what then differs is somebody else's change.
    fn remember(&mut self, plugin: &PluginWrite) {
        let (Some(found), Some(wanted)) = (&plugin.found, &plugin.wanted) else { return };
        let version = |stored: &WasmPlugin| stored.resource_version();
        let known = self.standing.get(plugin.name).is_some_and(|known| version(&known.stored) == version(found));
        if !known && !plugin.differs() {
            let standing = Standing { wanted: wanted.clone(), stored: found.clone() };
            self.standing.insert(plugin.name, standing);
        }
    }

    /// And whether there was none. Where there is one though the watch does not show it, the watch lags, and the next
    /// attempt is made on what it then shows; or what stands there cannot be read and was left out.
    async fn create(&self, name: &str, wanted: &WasmPlugin) -> Result<(WasmPlugin, bool), kube::Error> {
        let exists = match self.api.create(&parameters(), wanted).await {
            Err(error @ kube::Error::Api(_)) if is_overtaken(&Step::Create, &error) => error,
            other => return other.map(|created| (created, true)),
        };
        match self.guarded.get(name).await? {
            Guarded::Readable(_) => Err(exists),
            Guarded::Unreadable(found) => {
                let wanted = over(found.metadata.clone(), wanted);
                Ok((self.api.replace(name, &parameters(), &wanted).await?, false))
            }
        }
    }
}

/// In the place of something that is there: all of its metadata stays, but for our labels and annotations.
fn over(mut found: ObjectMeta, wanted: &WasmPlugin) -> WasmPlugin {
    found.managed_fields = None;
    found.labels.get_or_insert_default().extend(wanted.labels().clone());
    found.annotations.get_or_insert_default().extend(wanted.annotations().clone());
    WasmPlugin { metadata: found, spec: wanted.spec.clone() }
}

/// While the next attempt is not due, a failure remains one: statuses that went back and forth would be written and
/// told with every attempt.
fn waiting(last: Option<&Last>) -> Write {
    let error = last.and_then(|last| last.error.clone());
    error.map_or(Write::Waiting, |error| Write::Failed { error })
}

/// Whether somebody was faster: the watch will show what there is now, and the next attempt is made on that.
fn is_overtaken(step: &Step, error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    match step {
        Step::Replace | Step::Delete => status.is_conflict() || status.is_not_found(),
        _ => status.is_conflict() || status.is_already_exists(),
    }
}

fn step(plugin: &PluginWrite, last: Option<&Last>, standing: Option<&Standing>, now: Instant) -> Step {
    let free = last.map(|last| last.at + INTERVAL).filter(|free| now < *free);
    if let (Some(last), Some(free)) = (last, free)
        && last.replaced.is(plugin)
    {
        // The watch does not show our write yet.
        let same = match (standing, &plugin.wanted) {
            (Some(standing), Some(wanted)) => is_same_wish(&standing.wanted, wanted),
            (standing, wanted) => standing.is_none() && wanted.is_none(),
        };
        return if same { Step::Nothing } else { Step::WaitUntil(free) };
    }
    let wanted_step = match (&plugin.found, &plugin.wanted) {
        _ if !plugin.differs() => return Step::Nothing,
        (Some(found), Some(wanted)) if is_as_stored(found, wanted, standing) => return Step::Nothing,
        (Some(_), Some(_)) => Step::Replace,
        (None, Some(_)) => Step::Create,
        (_, None) => Step::Delete,
    };
    free.map_or(wanted_step, Step::WaitUntil)
}

/// Whether what was found is what the API server made of the same wish before.
fn is_as_stored(found: &WasmPlugin, wanted: &WasmPlugin, standing: Option<&Standing>) -> bool {
    standing.is_some_and(|standing| {
        standing.wanted.spec == wanted.spec
            && standing.stored.spec == found.spec
            && wanted.labels() == found.labels()
            && wanted.annotations().get(plan::POLICIES) == found.annotations().get(plan::POLICIES)
    })
}

/// Whether two wishes are one, but for what is not ours: metadata that others wrote is taken over from what was found.
fn is_same_wish(one: &WasmPlugin, other: &WasmPlugin) -> bool {
    one.spec == other.spec && one.annotations().get(plan::POLICIES) == other.annotations().get(plan::POLICIES)
}

impl Replaced {
    /// Whether the watch still shows what was replaced.
    fn is(&self, plugin: &PluginWrite) -> bool {
        match (self, &plugin.found) {
            (Self::Absence, None) => true,
            (Self::Version(version), Some(found)) => *version == found.resource_version(),
            (Self::Absence | Self::Version(_) | Self::Nothing, _) => false,
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(api::MANAGER.to_owned()), ..PostParams::default() }
}

/// The write succeeded on the version that was found: what differed from our last write was somebody else's.
async fn report_foreign_change(
    plugin: &PluginWrite,
    readable: bool,
    (before, stored): (&Standing, &WasmPlugin),
    (events, metrics): (&Events, &Metrics),
) {
    let (reason, message) = match &plugin.found {
        None if !readable => {
            ("Restored", "was made unreadable by somebody else at spec and is as it should be again".to_owned())
        }
        None => ("Recreated", "was deleted by somebody else and is made anew".to_owned()),
        Some(found) if found.spec != before.stored.spec => {
            let spec = |plugin: &WasmPlugin| serde_json::to_value(&plugin.spec).unwrap_or_default();
            let paths = drift::paths(&spec(&before.stored), &spec(found)).join(", ");
            ("Restored", format!("was changed by somebody else at {paths} and is as it should be again"))
        }
        Some(_) => return,
    };
    tracing::warn!(name = plugin.name, reason, message);
    metrics.mended(plugin.name);
    events.publish(&stored.object_ref(&()), &Note { reason, action: "Write", message: &message }).await;
}

#[cfg(test)]
mod tests {
    use api::WasmPluginSpec;
    use serde_json::json;

    use super::*;

    fn plugin(version: Option<&str>, priority: i64) -> WasmPlugin {
        let mut plugin =
            WasmPlugin::new("aiquota-guard", WasmPluginSpec { priority: Some(priority), ..WasmPluginSpec::default() });
        plugin.metadata.resource_version = version.map(str::to_owned);
        plugin
    }

    fn write(found: Option<WasmPlugin>, wanted: Option<WasmPlugin>) -> PluginWrite {
        PluginWrite { name: "aiquota-guard", found: found.map(Arc::new), wanted, refused: None }
    }

    fn last(at: Instant, replaced: Replaced) -> Last {
        Last { at, replaced, error: None }
    }

    fn standing(wanted: i64, stored: WasmPlugin) -> Standing {
        Standing { wanted: plugin(None, wanted), stored: Arc::new(stored) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_as_wanted_is_not_written() {
        let now = Instant::now();
        assert_eq!(
            step(&write(Some(plugin(Some("1"), 5)), Some(plugin(Some("1"), 5))), None, None, now),
            Step::Nothing
        );
        assert_eq!(step(&write(None, None), None, None, now), Step::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_difference_is_written_at_once() {
        let now = Instant::now();
        assert_eq!(step(&write(None, Some(plugin(None, 5))), None, None, now), Step::Create);
        assert_eq!(
            step(&write(Some(plugin(Some("1"), 4)), Some(plugin(Some("1"), 5))), None, None, now),
            Step::Replace
        );
        assert_eq!(step(&write(Some(plugin(Some("1"), 4)), None), None, None, now), Step::Delete);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_within_the_interval_waits_for_its_end() {
        let at = Instant::now();
        let last = last(at, Replaced::Version(Some("1".into())));
        let standing = standing(5, plugin(Some("2"), 5));
        let next = write(Some(plugin(Some("2"), 5)), Some(plugin(Some("2"), 6)));
        assert_eq!(step(&next, Some(&last), Some(&standing), at + INTERVAL / 2), Step::WaitUntil(at + INTERVAL));
        assert_eq!(step(&next, Some(&last), Some(&standing), at + INTERVAL), Step::Replace);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_lags_behind_our_write_causes_no_second_one() {
        let at = Instant::now();
        let standing = standing(5, plugin(Some("2"), 5));
        let replaced = last(at, Replaced::Version(Some("1".into())));
        let stale = write(Some(plugin(Some("1"), 4)), Some(plugin(Some("1"), 5)));
        assert_eq!(step(&stale, Some(&replaced), Some(&standing), at + INTERVAL / 2), Step::Nothing);
        let created = last(at, Replaced::Absence);
        assert_eq!(
            step(&write(None, Some(plugin(None, 5))), Some(&created), Some(&standing), at + INTERVAL / 2),
            Step::Nothing
        );
        assert_eq!(
            step(&write(None, Some(plugin(None, 5))), Some(&created), Some(&standing), at + INTERVAL),
            Step::Create
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_edit_that_only_the_annotation_says_is_written_though_the_watch_lags() {
        let at = Instant::now();
        let standing = standing(5, plugin(Some("2"), 5));
        let replaced = last(at, Replaced::Version(Some("1".into())));
        let mut wanted = plugin(Some("1"), 5);
        wanted.annotations_mut().insert("example.com/theirs".into(), "kept".into());
        let step = |wanted: &WasmPlugin| {
            let stale = write(Some(plugin(Some("1"), 4)), Some(wanted.clone()));
            step(&stale, Some(&replaced), Some(&standing), at + INTERVAL / 2)
        };
        assert_eq!(step(&wanted), Step::Nothing, "not ours");
        wanted.annotations_mut().insert(plan::POLICIES.into(), "{}".into());
        assert_eq!(step(&wanted), Step::WaitUntil(at + INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn defaults_that_the_api_server_adds_are_not_fought() {
        let at = Instant::now();
        let mut stored = plugin(Some("2"), 5);
        stored.spec.rest.insert("defaulted".into(), json!(true));
        let last = last(at, Replaced::Version(Some("1".into())));
        let standing = standing(5, stored.clone());
        let found = write(Some(stored.clone()), Some(plugin(Some("2"), 5)));
        assert_eq!(step(&found, Some(&last), Some(&standing), at + INTERVAL * 2), Step::Nothing);
        stored.spec.rest.insert("defaulted".into(), json!(false));
        assert_eq!(
            step(&write(Some(stored), Some(plugin(Some("2"), 5))), Some(&last), Some(&standing), at + INTERVAL * 2),
            Step::Replace
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_remains_one_until_the_next_attempt() {
        let mut last = last(Instant::now(), Replaced::Nothing);
        assert_eq!((waiting(None), waiting(Some(&last))), (Write::Waiting, Write::Waiting));
        last.error = Some("no".into());
        assert_eq!(waiting(Some(&last)), Write::Failed { error: "no".into() });
    }

    #[test]
    fn an_edit_in_between_is_waited_for_and_no_failure() {
        let answer = |code: u16, reason: &str| {
            let status = kube::core::Status { code, reason: reason.to_owned(), ..kube::core::Status::default() };
            kube::Error::Api(Box::new(status))
        };
        for (step, error, overtaken) in [
            (Step::Replace, answer(409, "Conflict"), true),
            (Step::Create, answer(409, "AlreadyExists"), true),
            (Step::Delete, answer(409, "Conflict"), true),
            (Step::Delete, answer(404, "NotFound"), true),
            (Step::Create, answer(404, "NotFound"), false),
            (Step::Replace, answer(403, "Forbidden"), false),
        ] {
            assert_eq!(is_overtaken(&step, &error), overtaken, "{step:?}: {error}");
        }
    }

    #[test]
    fn all_metadata_of_what_the_watch_did_not_show_stays() {
        let mut found = plugin(Some("7"), 1).metadata;
        found.finalizers = Some(vec!["example.com/kept".into()]);
        found.labels = Some([("app".into(), "kept".into())].into());
        let mut wanted = plugin(None, 5);
        wanted.labels_mut().insert("ours".into(), "yes".into());
        let made = over(found, &wanted);
        assert_eq!((made.spec.priority, made.resource_version().as_deref()), (Some(5), Some("7")));
        assert_eq!(made.finalizers(), ["example.com/kept"]);
        assert_eq!(made.labels().len(), 2);
    }
}
