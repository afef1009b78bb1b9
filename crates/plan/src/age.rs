//! Which of two objects is the older: it wins. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// Sorts the oldest first; equally old ones by namespace and name, so that the order never changes by itself.
/// What has not been created yet (as in a rendered file) is the youngest.
pub(crate) fn age(metadata: &ObjectMeta) -> (bool, Option<Time>, String, String) {
    let created = metadata.creation_timestamp.clone();
    (
        created.is_none(),
        created,
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}
