//! Whether an object is there to stay: its metadata, its policy and what its status says of its deletion in; how far
//! that is, and what has to be done about its finalizer out. Pure.

use std::time::Duration;

use api::{ABANDON_BALANCES, DeletionPolicy, FINALIZER};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};

use crate::{Object, ObjectKind, status::DELETING};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Also while it is being deleted and somebody else's finalizer keeps it.
    Stays,
    /// It is being deleted and limits nothing any more; its balances are to go with it.
    Leaves(Leaving),
    /// It is being deleted, and its balances are not its own any more.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Since when none of its rules are in force, if that was seen and reported.
    pub since: Option<Timestamp>,
    /// When its balances may be deleted.
    pub until: Option<Timestamp>,
    /// Whether that is now.
    pub drained: bool,
}

/// What has to be done about our finalizer of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finalizer {
    Right,
    /// Before any balance is made.
    Add,
    Remove,
}

/// `drain`: how long after its last rule requests of an object may still be under way. `is_ruled`: whether the gateway
/// has a rule of it now.
pub(crate) fn life(object: &Object, is_ruled: bool, drain: Duration, now: Timestamp) -> Life {
    let metadata = object.metadata();
    let deletes = deletes(object);
    if metadata.deletion_timestamp.is_none() || object.kind() != ObjectKind::AiQuota {
        return Life::Stays;
    }
    match (deletes, is_marked(metadata)) {
        (true, true) => {}
        // Nothing but our finalizer keeps it, and that goes.
        (false, true) if metadata.finalizers.iter().flatten().all(|finalizer| finalizer == FINALIZER) => {
            return Life::Gone;
        }
        (true, false) => return Life::Gone,
        (false, _) => return Life::Stays,
    }
    let mut out =
        object.conditions().iter().filter(|condition| condition.type_ == DELETING && condition.status == "True");
    // Others may write it as well: its rules are not out that are there, nor were they before it was deleted, nor will
    // they be from some day to come on.
    let said = out.next().map(|condition| condition.last_transition_time.0);
    let deleted = metadata.deletion_timestamp.as_ref().map_or(now, |deleted| deleted.0);
    let since = said.filter(|since| !is_ruled && *since <= now).map(|since| since.max(deleted));
    let until = since.map(|since| since.saturating_add(drain).unwrap_or(Timestamp::MAX));
    let drained = until.is_some_and(|until| until <= now) && !is_abandoned(metadata);
    Life::Leaves(Leaving { since, until, drained })
}

pub(crate) fn finalizer(object: &Object) -> Finalizer {
    let metadata = object.metadata();
    if object.kind() != ObjectKind::AiQuota {
        return Finalizer::Right;
    }
    match (deletes(object), is_marked(metadata), metadata.deletion_timestamp.is_some()) {
        (true, false, false) => Finalizer::Add,
        (true, true, true) if is_abandoned(metadata) => Finalizer::Remove,
        (false, true, _) => Finalizer::Remove,
        _ => Finalizer::Right,
    }
}

/// Of an object that cannot be read the finalizer says it: only that policy brings it.
fn deletes(object: &Object) -> bool {
    match object {
        Object::Read(quota) => quota.spec.deletion_policy.unwrap_or_default() == DeletionPolicy::Delete,
        Object::Limit(_) => false,
        Object::Undecodable(unread) => is_marked(&unread.metadata),
    }
}

fn is_marked(metadata: &ObjectMeta) -> bool {
    metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn is_abandoned(metadata: &ObjectMeta) -> bool {
    metadata.annotations.iter().flatten().any(|(name, value)| name == ABANDON_BALANCES && value == "true")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn time_goes_by_only_while_no_rule_is_there_and_from_the_deletion_on() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let since = |is_ruled: bool, said: &str| {
            let object = json!({
                "metadata": {"name": "chat", "finalizers": [FINALIZER], "deletionTimestamp": "2026-11-22T11:00:00Z"},
                "spec": {"deletionPolicy": "Delete", "targetRefs": [{"kind": "Ingress", "name": "qwen"}]},
                "status": {"conditions": [{
                    "type": DELETING, "status": "True", "reason": "Draining", "message": "", "lastTransitionTime": said,
                }]},
            });
            let object = Object::Read(Arc::new(serde_json::from_value(object).unwrap()));
            match life(&object, is_ruled, Duration::from_secs(600), now) {
                Life::Leaves(leaving) => (leaving.since.map(|since| since.to_string()), leaving.drained),
                other => panic!("{other:?}"),
            }
        };
        let at = |time: &str| Some(time.to_owned());
        assert_eq!(since(false, "2026-11-22T11:30:00Z"), (at("2026-11-22T11:30:00Z"), true));
        assert_eq!(since(true, "2026-11-22T11:30:00Z"), (None, false), "its rules are still there");
        assert_eq!(
            since(false, "2020-01-01T00:00:00Z"),
            (at("2026-11-22T11:00:00Z"), true),
            "not before it was deleted"
        );
        assert_eq!(since(false, "2026-11-22T12:00:01Z"), (None, false), "from some day to come");
    }
}
