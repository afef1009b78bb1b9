//! What users should see in `kubectl describe` in, Events of events.k8s.io/v1 out. An Event that cannot be written
//! is logged and costs nothing else. I/O: the API server.
//!
//! kube's own recorder counts an Event of the same reason as the same one, whatever its note says: the paths of a
//! second foreign change would be lost. Here only the same note is, and what one reason may cost is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::allowance::{Allowances, Allowed};
use crate::metrics::{Became, Metrics, Written};

/// The API server takes notes up to 1 kB.
const LONGEST_NOTE: usize = 1_000;
/// Names of objects are at most 253 long; a dot and a time follow.
const LONGEST_NAME: usize = 230;
/// For how long the same Event is counted instead of told anew.
const SERIES: SignedDuration = SignedDuration::from_mins(6);
/// How many Events are remembered before those are forgotten that count no longer.
const SWEEP: usize = 256;

/// What the last Event of a reason says besides, for as long as no more are written.
const LAST: &str =
    " (for the next minute no more Events of this reason are written here: see the conditions of the objects)";

/// The publisher of Events.
pub(crate) struct Events {
    client: Client,
    past: Mutex<Past>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Past {
    told: HashMap<Told, Event>,
    allowances: Allowances,
}

/// What a person should look at.
pub(crate) struct Note<'a> {
    pub(crate) reason: &'a str,
    pub(crate) action: &'a str,
    pub(crate) message: &'a str,
}

/// What makes two Events the same: the object, reason, action and note.
type Told = (Option<String>, String, String, String);

impl Events {
    pub(crate) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self { client, past: Mutex::default(), metrics }
    }

    /// Unless too many of the same reason were told just now.
    pub(crate) async fn publish(&self, about: &ObjectReference, note: &Note<'_>) {
        let now = Timestamp::now();
        let told = (about.uid.clone(), note.reason.to_owned(), note.action.to_owned(), note.message.to_owned());
        let (known, allowed) = {
            let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
            let Past { told: all, allowances } = &mut *past;
            let lasts = |event: &Event| last_seen(event).is_some_and(|last| last + SERIES > now);
            // Not every time: an outage is told of many objects.
            if all.len().is_multiple_of(SWEEP) {
                all.retain(|_, event| lasts(event));
                allowances.sweep(Instant::now());
            }
            let namespace = about.namespace.as_deref().unwrap_or_default();
            let allowed = allowances.take(namespace, note.reason, Instant::now());
            (all.get(&told).filter(|event| lasts(event)).cloned(), allowed)
        };
        let message = match allowed {
            Allowed::Yes => cut(note.message, LONGEST_NOTE).to_owned(),
            Allowed::Last => [cut(note.message, LONGEST_NOTE - LAST.len()), LAST].concat(),
            Allowed::No => {
                self.metrics.wrote(Written::Event, Became::Withheld);
                tracing::debug!(reason = note.reason, name = about.name, "Event not written: too many of its reason");
                return;
            }
        };
        // What was written cannot be changed: the last word needs an Event of its own.
        let known = known.filter(|_| allowed == Allowed::Yes);
        match self.write(about, &Note { message: &message, ..*note }, known, now).await {
            Ok(event) => {
                self.metrics.wrote(Written::Event, Became::Done);
                self.past.lock().unwrap_or_else(PoisonError::into_inner).told.insert(told, event);
            }
            Err(error) => {
                self.metrics.wrote(Written::Event, Became::Failed);
                tracing::warn!(reason = note.reason, %error, "Event not written");
            }
        }
    }

    async fn write(
        &self,
        about: &ObjectReference,
        note: &Note<'_>,
        known: Option<Event>,
        now: Timestamp,
    ) -> Result<Event, kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), about.namespace.as_deref().unwrap_or("default"));
        if let Some(known) = known {
            let count = known.series.as_ref().map_or(2, |series| series.count.saturating_add(1));
            let series = EventSeries { count, last_observed_time: MicroTime(now) };
            let again = Patch::Merge(json!({"series": series}));
            match api.patch(&known.name_any(), &PatchParams::default(), &again).await {
                // The API server forgets Events after a while.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                written => return written,
            }
        }
        api.create(&PostParams::default(), &event(about, note, now)).await
    }
}

fn event(about: &ObjectReference, note: &Note<'_>, now: Timestamp) -> Event {
    let Note { reason, action, message } = *note;
    let name = cut(about.name.as_deref().unwrap_or(api::MANAGER), LONGEST_NAME);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason.to_owned()),
        action: Some(action.to_owned()),
        note: Some(message.to_owned()),
        event_time: Some(MicroTime(now)),
        regarding: Some(about.clone()),
        reporting_controller: Some(api::MANAGER.to_owned()),
        reporting_instance: Some(api::MANAGER.to_owned()),
        ..Event::default()
    }
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    series.or(event.event_time.as_ref().map(|time| time.0))
}

/// The longest beginning of `text` that has at most `bytes` bytes and ends with a character.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_with_the_longest_name_has_events_too() {
        let about = ObjectReference { name: Some("a".repeat(253)), ..ObjectReference::default() };
        let note = Note { reason: "Restored", action: "Write", message: "m" };
        let name = event(&about, &note, Timestamp::MAX).name_any();
        assert!(name.len() <= 253, "{}", name.len());
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("abc", 5), "abc");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("aéb", 2), "a");
    }
}
