//! The world as found: a snapshot of what the watches hold, all of it or nothing. Data only.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use api::{AiQuota, AiQuotaStatus, AiQuotaStore, AiTokenRateLimit, McpBridge, WasmPlugin};
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Secret},
        networking::v1::Ingress,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};

use crate::{Access, Settings};

pub struct World {
    pub settings: Settings,
    /// When it was found so.
    pub now: Timestamp,
    /// The uid of the namespace kube-system: it tells clusters on one Redis apart.
    pub cluster: String,
    /// The lease's term; 1 without a lease.
    pub term: i64,
    pub quotas: Vec<Arc<AiQuota>>,
    /// Objects of both kinds that could not be read: they keep their last rule.
    pub undecodable: Vec<Arc<Undecodable>>,
    pub limits: Vec<Arc<AiTokenRateLimit>>,
    pub stores: Vec<Arc<AiQuotaStore>>,
    /// The names of AIQuotaStore objects of the gateway's namespace that could not be read: what the gateway knows of
    /// them stays.
    pub undecodable_stores: HashSet<String>,
    pub ingresses: Vec<Arc<Ingress>>,
    /// The HTTPRoutes and their hosts, none where a Gateway's listeners say them.
    pub http_routes: HashMap<Key, Vec<String>>,
    /// The Services and their ports.
    pub services: HashMap<Key, Vec<u16>>,
    /// The secrets of the gateway's namespace.
    pub secrets: Vec<Arc<Secret>>,
    /// The ConfigMaps of the gateway's namespace.
    pub config_maps: Vec<Arc<ConfigMap>>,
    /// All WasmPlugins of the gateway's namespace, ours among them.
    pub plugins: Vec<Arc<WasmPlugin>>,
    /// Our WasmPlugins as they were last written and stored, if they were: what is in force by them outlives somebody's
    /// deletion or change of those among the plugins.
    pub last_written: Vec<Arc<WasmPlugin>>,
    /// The McpBridges of the gateway's namespace.
    pub bridges: Vec<Arc<McpBridge>>,
    /// Which Redis database is reached in which way, as far as Redis was asked.
    pub databases: HashMap<Access, Database>,
}

/// A Redis database as it says itself which one it is: several names may lead to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Equal wherever it is the same.
    pub id: String,
    /// Whether there is a connection to it: otherwise it is what was last found there.
    pub is_there: bool,
}

impl World {
    /// One of our WasmPlugins as it was last written.
    pub(crate) fn last_written(&self, name: &str) -> Option<&WasmPlugin> {
        self.last_written.iter().map(AsRef::as_ref).find(|written| written.metadata.name.as_deref() == Some(name))
    }
}

/// A namespaced object by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

/// The kinds of objects that limit traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    AiQuota,
    AiTokenRateLimit,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AiQuota => "AIQuota",
            Self::AiTokenRateLimit => "AITokenRateLimit",
        })
    }
}

/// An object that the controller cannot read, for example one written for a newer version of it.
#[derive(Clone, Debug)]
pub struct Undecodable {
    pub kind: ObjectKind,
    pub metadata: ObjectMeta,
    /// What the reader said.
    pub error: String,
    /// Its last status, where that could be read; that of limits says less.
    pub status: Option<AiQuotaStatus>,
}

impl Key {
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object with this metadata; what is missing is empty.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}
