//! The stores: AIQuotaStore objects, McpBridges, Services and Secrets in; how the controller reaches each and what
//! the gateway is told out, or why it cannot be used. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use api::{AiQuotaStore, AiQuotaStoreSpec, Auth};
use enforcement::{values::DEFAULT_TIMEOUT_MS, wire};

use crate::{
    Access, Key, Reason, StorePlan, World,
    age::by_age,
    shared, templates,
    validate::{host_and_port, milliseconds, validate_store},
};

pub(crate) const DEFAULT: &str = "default";
const DEFAULT_PASSWORD_KEY: &str = "password";

pub(crate) struct Stores {
    pub(crate) plans: Vec<StorePlan>,
    pub(crate) databases: Databases,
    /// As the gateway is told; those that can be used.
    pub(crate) wire: BTreeMap<String, wire::Store>,
    by_name: HashMap<String, usize>,
    undecodable: HashSet<String>,
}

/// The stores, by their index in [`Stores::plans`], as Redis databases: one may have several names.
#[derive(Default)]
pub(crate) struct Databases {
    /// One number per database. Without meaning for stores that cannot be used.
    numbers: Vec<usize>,
    /// Whether Redis said so, and is there.
    known: Vec<bool>,
}

impl Databases {
    fn of(stores: &[StorePlan]) -> Self {
        // Where it is said otherwise, one address is one database.
        let place = |store: &StorePlan| {
            let access = store.access.as_ref().ok()?;
            Some((access.host.clone(), access.port, access.database))
        };
        let mut ids = HashMap::new();
        let mut places = HashMap::new();
        for (index, store) in stores.iter().enumerate() {
            if let Some(database) = &store.database {
                let number = *ids.entry(&database.id).or_insert(index);
                places.entry(place(store)).or_insert(number);
            }
        }
        let number = |(index, store): (usize, &StorePlan)| match &store.database {
            Some(database) => ids[&database.id],
            None => *places.entry(place(store)).or_insert(index),
        };
        Self {
            numbers: stores.iter().enumerate().map(number).collect(),
            known: stores.iter().map(|store| store.database.as_ref().is_some_and(|found| found.is_there)).collect(),
        }
    }

    /// The number of a store's database, equal for stores that are taken for one.
    pub(crate) fn number(&self, store: usize) -> usize {
        self.numbers[store]
    }

    /// Whether two stores are one database; nothing where that is to be asked first.
    pub(crate) fn same(&self, one: usize, other: usize) -> Option<bool> {
        match self.numbers[one] == self.numbers[other] {
            true => Some(true),
            false => (self.known[one] && self.known[other]).then_some(false),
        }
    }

    /// The numbers of databases that may be a store's, though they are not taken for it.
    pub(crate) fn possible(&self, store: usize) -> BTreeSet<usize> {
        let others = 0..self.numbers.len();
        others.filter(|other| self.same(store, *other).is_none()).map(|other| self.numbers[other]).collect()
    }
}

impl Stores {
    /// The templates that the gateway can replace, of all that it is told.
    pub(crate) fn templates(&self) -> HashSet<String> {
        self.wire.values().flat_map(|store| store.username.iter().chain(&store.password)).cloned().collect()
    }

    /// A store by the name that objects use.
    pub(crate) fn find(&self, name: &str) -> Result<usize, Reason> {
        let index = *self.by_name.get(name).ok_or_else(|| match self.undecodable.contains(name) {
            true => Reason::Undecodable(format!("AIQuotaStore {name}")),
            false => Reason::StoreNotFound(name.to_owned()),
        })?;
        self.plans[index].access.as_ref().map(|_| index).map_err(Clone::clone)
    }
}

/// `kept` are the stores the gateway has now: one whose object cannot be read stays as it is there.
pub(crate) fn resolve(world: &World, kept: &BTreeMap<String, wire::Store>) -> Stores {
    let mut objects: Vec<_> = world.stores.iter().collect();
    objects.sort_by(|a, b| by_age(&a.metadata, &b.metadata));

    let mut stores = Stores {
        plans: Vec::new(),
        databases: Databases::default(),
        wire: BTreeMap::new(),
        by_name: HashMap::new(),
        undecodable: world.undecodable_stores.clone(),
    };
    let mut services: HashMap<(&str, u16), &AiQuotaStore> = HashMap::new();
    for object in objects {
        let resolved = permitted(world, object).and_then(|()| {
            let spec = &object.spec;
            let winner = *services.entry((&spec.service.name, spec.port())).or_insert(object);
            match difference(&winner.spec, spec) {
                Some(field) => Err(Reason::StoreConflicted {
                    service: format!("{}:{}", spec.service.name, spec.port()),
                    winner: Key::of(&winner.metadata).name,
                    field,
                }),
                None => reach(world, spec),
            }
        });
        let Key { namespace, name } = Key::of(&object.metadata);
        if namespace == world.settings.gateway_namespace {
            stores.by_name.insert(name.clone(), stores.plans.len());
        }
        let mut warnings = Vec::new();
        let access = resolved.map(|Reach { access, wire, addresses }| {
            warnings = shared::warnings(world, &object.spec, &access, &wire, addresses);
            stores.wire.insert(name, wire);
            access
        });
        let database = access.as_ref().ok().and_then(|access| world.databases.get(access)).cloned();
        stores.plans.push(StorePlan { object: object.clone(), access, database, warnings });
    }
    stores.databases = Databases::of(&stores.plans);
    for name in &world.undecodable_stores {
        // One template that cannot be replaced would leave all of the gateway's as they are.
        let can_be_written = |store: &&wire::Store| {
            let mut templates = store.username.iter().chain(&store.password);
            templates.all(|template| templates::resolve(world, template).is_some())
        };
        if let Some(store) = kept.get(name).filter(can_be_written) {
            stores.wire.insert(name.clone(), store.clone());
        }
    }
    stores
}

fn permitted(world: &World, object: &AiQuotaStore) -> Result<(), Reason> {
    if object.metadata.namespace.as_deref() != Some(&world.settings.gateway_namespace) {
        return Err(Reason::NotInGatewayNamespace(world.settings.gateway_namespace.clone()));
    }
    validate_store(object).map_err(Reason::Invalid)
}

/// The gateway's client of a service is shared by all plugins: the options that were set last would be everybody's.
fn difference(a: &AiQuotaStoreSpec, b: &AiQuotaStoreSpec) -> Option<&'static str> {
    let AiQuotaStoreSpec { service: _, address, database, timeout, auth } = a;
    let span = |timeout: &Option<String>| timeout.as_deref().map_or(Some(DEFAULT_TIMEOUT_MS), milliseconds);
    [
        ("address", *address != b.address),
        ("database", database.unwrap_or(0) != b.database.unwrap_or(0)),
        ("timeout", span(timeout) != span(&b.timeout)),
        ("auth", *auth != b.auth),
    ]
    .into_iter()
    .find_map(|(field, differs)| differs.then_some(field))
}

/// What is known of a store that can be used.
struct Reach {
    access: Access,
    wire: wire::Store,
    /// How many addresses the gateway has for its service, as far as that is listed.
    addresses: usize,
}

fn reach(world: &World, spec: &AiQuotaStoreSpec) -> Result<Reach, Reason> {
    let AiQuotaStoreSpec { service, address, database, timeout, auth } = spec;
    let found = endpoint(world, &service.name, spec.port(), address.is_some())?;
    let (host, port) = match address.as_deref().and_then(host_and_port) {
        Some((host, port)) => (host.to_owned(), port),
        None => (found.host, found.port),
    };
    let credentials = auth.as_ref().map(|auth| credentials(world, auth)).transpose()?.unwrap_or_default();
    let timeout_ms = timeout.as_deref().and_then(milliseconds).unwrap_or(DEFAULT_TIMEOUT_MS);
    let database = database.unwrap_or(0);
    let access = Access {
        host,
        port,
        database,
        username: credentials.username.value,
        password: credentials.password.value,
        timeout: Duration::from_millis(timeout_ms.into()),
    };
    let wire = wire::Store {
        service: service.name.clone(),
        port: spec.port(),
        database,
        timeout_ms,
        username: credentials.username.template,
        password: credentials.password.template,
    };
    Ok(Reach { access, wire, addresses: found.addresses })
}

struct Endpoint {
    host: String,
    port: u16,
    addresses: usize,
}

/// Where a name of the gateway leads. Names of other registries are taken as they are when an address is given.
fn endpoint(world: &World, service: &str, port: u16, has_address: bool) -> Result<Endpoint, Reason> {
    let one = |host: String, port| Endpoint { host, port, addresses: 1 };
    let missing = |detail: String| Reason::ServiceNotFound { service: service.to_owned(), detail };
    let wrong_port = |detail: String| Reason::PortNotFound { service: service.to_owned(), port, detail };
    if let Some((name, namespace)) =
        service.strip_suffix(".svc.cluster.local").and_then(|service| service.split_once('.'))
    {
        let ports = world
            .services
            .get(&Key::new(namespace, name))
            .ok_or_else(|| missing(format!("there is no Service {namespace}/{name}")))?;
        return if ports.contains(&port) {
            Ok(one(service.to_owned(), port))
        } else {
            Err(wrong_port(format!("Service {namespace}/{name} has {}", listed(ports.iter()))))
        };
    }
    let Some((name, kind)) = service.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "static" | "dns")) else {
        return if has_address {
            Ok(one(String::new(), port))
        } else {
            Err(missing(
                "only <registry>.static, <registry>.dns and <service>.<namespace>.svc.cluster.local can be \
                 looked up; give spec.address for others"
                    .to_owned(),
            ))
        };
    };
    let of_kind = || world.bridges.iter().flat_map(|bridge| &bridge.spec.registries).filter(|found| found.kind == kind);
    let registry = of_kind().find(|registry| registry.name == name).ok_or_else(|| {
        let namespace = &world.settings.gateway_namespace;
        missing(format!(
            "the McpBridges in {namespace} have no {kind} registry {name}; they have {}",
            listed(of_kind().map(|registry| &registry.name))
        ))
    })?;
    if registry.port != u32::from(port) {
        return Err(wrong_port(format!("{kind} registry {name} has port {}", registry.port)));
    }
    let first = registry.domain.split(',').next().unwrap_or_default().trim();
    let found = match kind {
        "static" => first.rsplit_once(':').and_then(|(host, port)| {
            Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.parse().ok()?))
        }),
        _ => (!first.is_empty()).then(|| (first.to_owned(), port)),
    };
    let addresses = registry.domain.split(',').filter(|address| !address.trim().is_empty()).count();
    found
        .map(|(host, port)| Endpoint { host, port, addresses })
        .ok_or_else(|| missing(format!("{kind} registry {name} has no address ({})", registry.domain)))
}

fn listed(items: impl Iterator<Item = impl ToString>) -> String {
    const SHOWN: usize = 8;
    let items: Vec<String> = items.take(SHOWN).map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

#[derive(Default)]
struct Credentials {
    username: Credential,
    password: Credential,
}

#[derive(Default)]
struct Credential {
    /// For the controller.
    value: Option<String>,
    /// For the WasmPlugin: the gateway puts the value in its place.
    template: Option<String>,
}

fn credentials(world: &World, auth: &Auth) -> Result<Credentials, Reason> {
    let Auth { secret_name, username_key, password_key } = auth;
    let namespace = &world.settings.gateway_namespace;
    let credential = |key: &str| {
        let value = templates::secret(world, secret_name, key)?;
        Ok(Credential { value: Some(value), template: Some(templates::of(namespace, secret_name, key)) })
    };
    Ok(Credentials {
        username: username_key.as_deref().map(credential).transpose()?.unwrap_or_default(),
        password: credential(password_key.as_deref().unwrap_or(DEFAULT_PASSWORD_KEY))?,
    })
}
