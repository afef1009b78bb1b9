//! Which of two objects is the older: it wins. Pure.

use std::cmp::Ordering;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The older is the lesser; of equally old ones the first by namespace and name, so that the order never changes by
/// itself. What has not been created yet (as in a rendered file) is the youngest.
pub(crate) fn by_age(a: &ObjectMeta, b: &ObjectMeta) -> Ordering {
    let created = |metadata: &ObjectMeta| metadata.creation_timestamp.is_none();
    created(a)
        .cmp(&created(b))
        .then_with(|| a.creation_timestamp.cmp(&b.creation_timestamp))
        .then_with(|| a.namespace.cmp(&b.namespace))
        .then_with(|| a.name.cmp(&b.name))
}
