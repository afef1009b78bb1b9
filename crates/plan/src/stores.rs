//! The stores: AIQuotaStore objects, McpBridges, Services and Secrets in; how the controller reaches each and what
//! the gateway is told out, or why it cannot be used. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use api::{AiQuotaStore, AiQuotaStoreSpec, Auth};
use enforcement::{values::DEFAULT_TIMEOUT_MS, wire};
use k8s_openapi::api::core::v1::Secret;

use crate::{
    Access, Key, Reason, StorePlan, World,
    age::by_age,
    validate::{host_and_port, milliseconds, validate_store},
};

pub(crate) const DEFAULT: &str = "default";
const DEFAULT_PASSWORD_KEY: &str = "password";

pub(crate) struct Stores {
    pub(crate) plans: Vec<StorePlan>,
    /// For each of the plans, one number per Redis database, equal where it is the same; without meaning for those
    /// that cannot be used.
    pub(crate) databases: Vec<usize>,
    /// As the gateway is told; those that can be used.
    pub(crate) wire: BTreeMap<String, wire::Store>,
    by_name: HashMap<String, usize>,
    undecodable: HashSet<String>,
}

impl Stores {
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
        databases: Vec::new(),
        wire: BTreeMap::new(),
        by_name: HashMap::new(),
        undecodable: world.undecodable_stores.clone(),
    };
    let mut services: HashMap<(&str, u16), &AiQuotaStore> = HashMap::new();
    let mut databases = HashMap::new();
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
        // One Redis may have several names at the gateway: what counts is where it is.
        let next = databases.len();
        let place = resolved.as_ref().ok().map(|(access, _)| (access.host.clone(), access.port, access.database));
        stores.databases.push(*databases.entry(place).or_insert(next));
        if namespace == world.settings.gateway_namespace {
            stores.by_name.insert(name.clone(), stores.plans.len());
        }
        let access = resolved.map(|(access, wire)| {
            stores.wire.insert(name, wire);
            access
        });
        stores.plans.push(StorePlan { object: object.clone(), access });
    }
    for name in &world.undecodable_stores {
        if let Some(store) = kept.get(name) {
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

fn reach(world: &World, spec: &AiQuotaStoreSpec) -> Result<(Access, wire::Store), Reason> {
    let AiQuotaStoreSpec { service, address, database, timeout, auth } = spec;
    let found = endpoint(world, &service.name, spec.port(), address.is_some())?;
    let (host, port) = match address.as_deref().and_then(host_and_port) {
        Some((host, port)) => (host.to_owned(), port),
        None => found,
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
    Ok((access, wire))
}

/// Where a name of the gateway leads. Names of other registries are taken as they are when an address is given.
fn endpoint(world: &World, service: &str, port: u16, has_address: bool) -> Result<(String, u16), Reason> {
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
            Ok((service.to_owned(), port))
        } else {
            Err(wrong_port(format!("Service {namespace}/{name} has {}", listed(ports.iter()))))
        };
    }
    let Some((name, kind)) = service.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "static" | "dns")) else {
        return if has_address {
            Ok((String::new(), port))
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
    found.ok_or_else(|| missing(format!("{kind} registry {name} has no address ({})", registry.domain)))
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
    let secret = world
        .secrets
        .iter()
        .find(|secret| secret.metadata.name.as_deref() == Some(secret_name))
        .ok_or_else(|| Reason::SecretNotFound { namespace: namespace.clone(), name: secret_name.clone() })?;
    let credential = |key: &str| {
        let value = value(secret, key).map_err(|problem| Reason::SecretInvalid {
            namespace: namespace.clone(),
            name: secret_name.clone(),
            problem,
        })?;
        let template = format!("${{secret.{namespace}/{secret_name}.{key}}}");
        Ok(Credential { value: Some(value), template: Some(template) })
    };
    Ok(Credentials {
        username: username_key.as_deref().map(credential).transpose()?.unwrap_or_default(),
        password: credential(password_key.as_deref().unwrap_or(DEFAULT_PASSWORD_KEY))?,
    })
}

/// A value that survives being pasted into JSON unescaped, and a template in it would be expanded once more.
fn value(secret: &Secret, key: &str) -> Result<String, String> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| format!("it has no key {key}"))?;
    let text = std::str::from_utf8(&bytes.0).map_err(|_| format!("the value of {key} is not UTF-8"))?;
    if text.is_empty() {
        return Err(format!("the value of {key} is empty"));
    }
    if text.ends_with(['\n', '\r']) {
        return Err(format!("the value of {key} ends in a line break, which would break the gateway's configuration"));
    }
    if text.chars().any(|char| matches!(char, '"' | '\\') || char.is_control()) || text.contains("${") {
        return Err(format!(
            "the value of {key} has a quote, backslash, control character or ${{, which would break the gateway's configuration"
        ));
    }
    Ok(text.to_owned())
}
