//! Stores. In: upstream's `redis` block, or what stands under `aiquota.stores`. Out: what the host is told of each,
//! equal ones once. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Invalid, read};
use crate::rules::lenient::{integer, text};
use crate::values::{self, DEFAULT_TIMEOUT_MS};
use crate::wire;

/// One Redis endpoint, as the host is told of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Store {
    /// The cluster's bare name, for calls.
    pub cluster: String,
    /// The name with the client's options, for the initialisation.
    pub with_options: String,
    pub username: String,
    pub password: String,
    pub timeout_ms: u32,
}

/// Stores as they are found, each kept once.
#[derive(Debug, Default)]
pub struct Stores {
    known: BTreeSet<Arc<Store>>,
    list: Vec<Arc<Store>>,
}

/// The stores under `aiquota`, by name, and those that were used of them.
#[derive(Debug)]
pub struct NamedStores<'a> {
    pub(super) declared: &'a BTreeMap<String, Result<Store, Invalid>>,
    pub(super) used: &'a mut Stores,
}

impl Stores {
    /// The store of the keys of a rule in upstream's form.
    pub(crate) fn upstream(&mut self, keys: &Map<String, Value>) -> Result<Arc<Store>, Invalid> {
        match keys.get("redis") {
            None => Err(Invalid::new("redis", "is missing")),
            Some(redis) => Ok(self.intern(Store::upstream(redis).map_err(|invalid| invalid.under("redis"))?)),
        }
    }

    pub(super) fn into_list(self) -> Vec<Arc<Store>> {
        self.list
    }

    fn intern(&mut self, store: Store) -> Arc<Store> {
        if let Some(known) = self.known.get(&store) {
            return Arc::clone(known);
        }
        let store = Arc::new(store);
        self.known.insert(Arc::clone(&store));
        self.list.push(Arc::clone(&store));
        store
    }
}

impl NamedStores<'_> {
    /// The store that the field `store` of a policy names.
    pub(crate) fn named(self, name: Option<&str>) -> Result<Arc<Store>, Invalid> {
        match name.map(|name| self.declared.get(name)) {
            None => Err(Invalid::new("store", "is missing")),
            Some(None) => Err(Invalid::new("store", "names a store that is not there")),
            Some(Some(Err(invalid))) => Err(invalid.clone()),
            Some(Some(Ok(store))) => Ok(self.used.intern(store.clone())),
        }
    }
}

impl Store {
    /// A port that Higress calls `port`, on a service it calls `service`.
    fn new(service: &str, port: u16, database: u32, timeout_ms: u32, user: (String, String)) -> Self {
        let cluster = format!("outbound|{port}||{service}");
        let database = if database == 0 { String::new() } else { format!("db={database}&") };
        let options = "buffer_flush_timeout=3&max_buffer_size_before_flush=1024";
        let with_options = format!("{cluster}?{database}{options}");
        let (username, password) = user;
        Self { cluster, with_options, username, password, timeout_ms }
    }

    fn upstream(redis: &Value) -> Result<Self, Invalid> {
        let service = text(redis.get("service_name"));
        if service.is_empty() {
            return Err(Invalid::new("service_name", "is missing"));
        }
        let port = match integer(redis.get("service_port")) {
            0 if service.ends_with(".static") => 80,
            0 => 6379,
            port => u16::try_from(port).map_err(|_| Invalid::new("service_port", "is not a port"))?,
        };
        let timeout = match integer(redis.get("timeout")) {
            0 => DEFAULT_TIMEOUT_MS,
            timeout => u32::try_from(timeout).map_err(|_| Invalid::new("timeout", "is out of range"))?,
        };
        let database =
            u32::try_from(integer(redis.get("database"))).map_err(|_| Invalid::new("database", "is out of range"))?;
        let user = (text(redis.get("username")), text(redis.get("password")));
        Ok(Self::new(&service, port, database, timeout, user))
    }

    pub(super) fn native(value: Value) -> Result<Self, Invalid> {
        let wire::Store { service, port, database, timeout_ms, username, password } = read(value)?;
        if service.is_empty() {
            return Err(Invalid::new("service", "is empty"));
        }
        if port == 0 {
            return Err(Invalid::new("port", "is not a port"));
        }
        if !(values::TIMEOUT_MS_MIN..=values::TIMEOUT_MS_MAX).contains(&timeout_ms) {
            return Err(Invalid::new("timeoutMs", "is out of range"));
        }
        let user = (username.unwrap_or_default(), password.unwrap_or_default());
        Ok(Self::new(&service, port, database, timeout_ms, user))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster: _, with_options, username, password: _, timeout_ms } = self;
        write!(f, "Store({with_options}, user {username:?}, {timeout_ms} ms)")
    }
}
