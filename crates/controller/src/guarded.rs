//! An object from the API server in, the typed object or what is left of an unreadable one out: one bad object must
//! not stop the watch of its kind. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object, or why it is none.
#[derive(Clone, Debug)]
pub(crate) enum Guarded<K> {
    Readable(Arc<K>),
    Unreadable(Arc<Unreadable>),
}

/// What can be said about an object that its type does not fit.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    pub(crate) metadata: ObjectMeta,
    pub(crate) error: String,
    pub(crate) status: Option<Value>,
}

impl<K> Guarded<K> {
    pub(crate) fn readable(&self) -> Option<Arc<K>> {
        match self {
            Self::Readable(object) => Some(object.clone()),
            Self::Unreadable(_) => None,
        }
    }

    pub(crate) fn unreadable(&self) -> Option<&Unreadable> {
        match self {
            Self::Readable(_) => None,
            Self::Unreadable(object) => Some(object),
        }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        // The planner's reader names the field but wants the object whole: only for those that fail.
        match K::deserialize(&object).or_else(|_| plan::decode(object.clone())) {
            Ok(object) => Ok(Self::Readable(Arc::new(object))),
            Err(error) => {
                let error = error.to_string();
                let metadata = object.get_mut("metadata").map(Value::take).unwrap_or_default();
                let metadata = ObjectMeta::deserialize(metadata).map_err(D::Error::custom)?;
                let status = object.get_mut("status").map(Value::take);
                Ok(Self::Unreadable(Arc::new(Unreadable { metadata, error, status })))
            }
        }
    }
}

impl<K: Resource<DynamicType = ()> + Clone> Resource for Guarded<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Readable(object) => object.meta(),
            Self::Unreadable(object) => &object.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Readable(object) => Arc::make_mut(object).meta_mut(),
            Self::Unreadable(object) => &mut Arc::make_mut(object).metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use api::AiQuota;
    use serde_json::json;

    use super::*;

    fn object(spec: &Value) -> Guarded<AiQuota> {
        serde_json::from_value(json!({
            "apiVersion": "quota.higress.io/v1alpha1",
            "kind": "AIQuota",
            "metadata": {"name": "chat", "namespace": "team", "uid": "u"},
            "spec": spec,
            "status": {"observedGeneration": 7},
        }))
        .unwrap()
    }

    #[test]
    fn a_readable_object_is_shared_not_copied() {
        let chat = object(&json!({"targetRefs": [{"kind": "Ingress", "name": "qwen"}]}));
        assert!(Arc::ptr_eq(&chat.readable().unwrap(), &chat.clone().readable().unwrap()));
        assert!(chat.unreadable().is_none());
    }

    #[test]
    fn an_unreadable_object_keeps_its_name_its_status_and_the_reason() {
        let chat = object(&json!({"targetRefs": [{"kind": "Ingress", "name": "qwen"}], "fromTheFuture": 1}));
        assert!(chat.readable().is_none());
        assert_eq!(chat.meta().name.as_deref(), Some("chat"));
        let unreadable = chat.unreadable().unwrap();
        assert!(unreadable.error.contains("fromTheFuture"), "{}", unreadable.error);
        assert_eq!(unreadable.status, Some(json!({"observedGeneration": 7})));
    }

    #[test]
    fn an_object_without_spec_is_unreadable_however_it_comes() {
        use kube::core::WatchEvent;

        let object = json!({"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
            "metadata": {"name": "aiquota-guard", "namespace": "higress-system", "uid": "u"}});
        let alone: Guarded<api::WasmPlugin> = serde_json::from_str(&object.to_string()).unwrap();
        assert!(alone.readable().is_none());
        let event = json!({"type": "MODIFIED", "object": object}).to_string();
        let WatchEvent::Modified(watched) =
            serde_json::from_str::<WatchEvent<Guarded<api::WasmPlugin>>>(&event).unwrap()
        else {
            panic!("{event}")
        };
        assert!(watched.readable().is_none());
    }
}
