//! Targets: what an object names in, what the gateway's rules have to match out, with every route that Higress
//! derives; or why the object may not or cannot have it. Pure.

use std::collections::HashMap;

use api::{TargetKind, TargetRef};
use k8s_openapi::api::networking::v1::Ingress;

use crate::{Key, Reason, World, gateway::Matcher};

const CANARY: [&str; 2] = ["nginx.ingress.kubernetes.io/canary", "higress.io/canary"];

/// The routes of the cluster by name, and the canaries by what they share.
pub(crate) struct Targets<'a> {
    world: &'a World,
    ingresses: HashMap<(&'a str, &'a str), &'a Ingress>,
    canaries: HashMap<Place<'a>, Vec<&'a str>>,
}

/// Where an Ingress has a route. Only a canary of the same namespace counts: an object speaks for its own
/// namespace, and a canary elsewhere can be a target of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place<'a> {
    namespace: &'a str,
    host: &'a str,
    path: &'a str,
}

/// What one target matches.
pub(crate) struct Matched {
    pub(crate) named: Matcher,
    /// The routes derived from it.
    pub(crate) derived: Vec<Matcher>,
    /// Other objects' routes that its requests may take, with those derived from them: whoever names one of those
    /// objects comes first.
    pub(crate) beside: Vec<Matcher>,
}

impl<'a> Targets<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        let mut targets =
            Self { world, ingresses: HashMap::with_capacity(world.ingresses.len()), canaries: HashMap::new() };
        for ingress in &world.ingresses {
            let (namespace, name) = names(ingress);
            targets.ingresses.insert((namespace, name), ingress);
            if is_canary(ingress) {
                for place in places(ingress) {
                    targets.canaries.entry(place).or_default().push(name);
                }
            }
        }
        targets
    }

    pub(crate) fn matched(&self, namespace: &str, index: usize, target: &TargetRef) -> Result<Matched, Reason> {
        self.permitted(namespace, target, || format!("spec.targetRefs[{index}]"))?;
        let matched = self.meant(namespace, target).filter(|_| self.exists(namespace, target));
        matched.ok_or_else(|| Reason::TargetNotFound { target: target.clone(), namespace: namespace.to_owned() })
    }

    /// Whether objects of this namespace may have such a target. `field`: where it is declared.
    pub(crate) fn permitted(
        &self,
        namespace: &str,
        target: &TargetRef,
        field: impl FnOnce() -> String,
    ) -> Result<(), Reason> {
        match target.kind {
            TargetKind::Ingress | TargetKind::HttpRoute => Ok(()),
            TargetKind::Service | TargetKind::Domain | TargetKind::Gateway => {
                if self.world.settings.trusts(namespace) {
                    return Ok(());
                }
                Err(Reason::target_not_trusted(field(), namespace))
            }
        }
    }

    /// What it would match, whether or not that exists; nothing for a name that nothing can have.
    pub(crate) fn meant(&self, namespace: &str, target: &TargetRef) -> Option<Matched> {
        let name = target.name.as_deref().unwrap_or_default();
        let named = match target.kind {
            TargetKind::Ingress => return Some(self.ingress(namespace, name)),
            TargetKind::HttpRoute => self.route(namespace, name),
            TargetKind::Service => {
                let (service, namespace) = service(namespace, name)?;
                Matcher::Service(format!("{service}.{namespace}.svc.cluster.local"))
            }
            TargetKind::Domain => Matcher::Domain(name.to_owned()),
            TargetKind::Gateway => Matcher::Gateway,
        };
        Some(Matched { named, derived: Vec::new(), beside: Vec::new() })
    }

    fn exists(&self, namespace: &str, target: &TargetRef) -> bool {
        let name = target.name.as_deref().unwrap_or_default();
        match target.kind {
            TargetKind::Ingress => self.ingresses.contains_key(&(namespace, name)),
            TargetKind::HttpRoute => self.world.http_routes.contains_key(&Key::new(namespace, name)),
            TargetKind::Service => service(namespace, name)
                .is_some_and(|(service, namespace)| self.world.services.contains_key(&Key::new(namespace, service))),
            TargetKind::Domain | TargetKind::Gateway => true,
        }
    }

    /// The hosts of the Ingress and the HTTPRoute of this name, `*` for one that is for all; nothing where neither
    /// exists.
    pub(crate) fn hosts(&self, route: &str) -> Option<Vec<&'a str>> {
        let (namespace, name) = route.split_once('/').unwrap_or((&self.world.settings.gateway_namespace, route));
        let http_route = self.world.http_routes.get(&Key::new(namespace, name));
        let ingress = self.ingresses.get(&(namespace, name));
        if http_route.is_none() && ingress.is_none() {
            return None;
        }
        let rules = ingress.and_then(|ingress| ingress.spec.as_ref()?.rules.as_ref()).into_iter().flatten();
        let mut hosts: Vec<&str> = rules.map(|rule| rule.host.as_deref().unwrap_or("*")).collect();
        hosts.extend(http_route.into_iter().flatten().map(String::as_str));
        // A default backend answers for every host.
        let default =
            ingress.is_some_and(|ingress| ingress.spec.as_ref().is_some_and(|spec| spec.default_backend.is_some()));
        if hosts.is_empty() || default {
            hosts.push("*");
        }
        Some(hosts)
    }

    /// A refusal by the gateway can be redirected to a fallback route: none may be left unmetered.
    fn ingress(&self, namespace: &str, name: &str) -> Matched {
        let mut beside = Vec::new();
        if let Some(route) = name
            .strip_suffix(".internal")
            .filter(|route| route.starts_with("ai-route-") && !route.ends_with(".fallback"))
        {
            beside.push(format!("{route}.fallback.internal"));
        }
        if let Some(ingress) = self.ingresses.get(&(namespace, name))
            && !self.canaries.is_empty()
            && !is_canary(ingress)
        {
            let mut canaries: Vec<&str> =
                places(ingress).filter_map(|place| self.canaries.get(&place)).flatten().copied().collect();
            canaries.sort_unstable();
            canaries.dedup();
            beside.extend(canaries.into_iter().map(str::to_owned));
        }
        let derived = |name: &str| ["-default", "-fallback"].map(|end| self.named(namespace, name, end));
        let with_derived = |name: &String| [self.route(namespace, name)].into_iter().chain(derived(name));
        Matched {
            named: self.route(namespace, name),
            derived: derived(name).to_vec(),
            beside: beside.iter().flat_map(with_derived).collect(),
        }
    }

    /// Whether this is what the target names, not a route derived from it.
    pub(crate) fn names(&self, namespace: &str, target: &TargetRef, what: &Matcher) -> bool {
        match what {
            Matcher::Route(_) => self.route(namespace, target.name.as_deref().unwrap_or_default()) == *what,
            Matcher::Service(_) | Matcher::Domain(_) | Matcher::Gateway => true,
        }
    }

    fn route(&self, namespace: &str, name: &str) -> Matcher {
        self.named(namespace, name, "")
    }

    /// As the gateway names routes: those of its own namespace without it.
    fn named(&self, namespace: &str, name: &str, suffix: &str) -> Matcher {
        Matcher::Route(if namespace == self.world.settings.gateway_namespace {
            [name, suffix].concat()
        } else {
            [namespace, "/", name, suffix].concat()
        })
    }
}

/// Its name and namespace: that of the object, unless it is named in full.
fn service<'n>(namespace: &'n str, name: &'n str) -> Option<(&'n str, &'n str)> {
    match name.strip_suffix(".svc.cluster.local") {
        Some(name) => name.split_once('.'),
        None => Some((name, namespace)),
    }
}

fn names(ingress: &Ingress) -> (&str, &str) {
    let metadata = &ingress.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn is_canary(ingress: &Ingress) -> bool {
    let annotations = ingress.metadata.annotations.as_ref();
    // Higress is written in Go, whose ParseBool takes these.
    let yes = |value: &String| ["1", "t", "T", "true", "TRUE", "True"].contains(&value.as_str());
    annotations.is_some_and(|all| CANARY.iter().any(|name| all.get(*name).is_some_and(yes)))
}

fn places(ingress: &Ingress) -> impl Iterator<Item = Place<'_>> {
    let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
    let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    rules.flat_map(move |rule| {
        let host = rule.host.as_deref().unwrap_or_default();
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        paths.map(move |path| Place { namespace, host, path: path.path.as_deref().unwrap_or("/") })
    })
}
