//! Where a request goes: routes made of Ingress objects as Higress makes them, with the names it derives, and the
//! clusters that McpBridge and Service objects name. Pure.
//!
//! What no object of Higress says in the test bed: the answers after which an AI route is redirected to its twin
//! `ai-route-X.fallback.internal` stand in the twin's annotation `testbed.aiquota/fallback-on` (`4xx`, `5xx` or both);
//! a Service leads to its `externalName`, or to loopback, on its `targetPort`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::abi::Headers;

/// In whose presence, as a header, Higress matches the route derived for failed answers.
pub(super) const DERIVED_ROUTE_HEADER: &str = "x-envoy-route-name";

/// By whom a redirected request was refused.
pub(super) const FALLBACK_HEADER: &str = "x-higress-fallback-from";

/// Addresses by cluster name, `outbound|<port>||<host>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Clusters(pub(super) BTreeMap<String, Vec<String>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) cluster: String,
    host: String,
    path: PathMatch,
    headers: Vec<(String, String)>,
    /// Classes of answers (4, 5) after which the request is redirected with [`FALLBACK_HEADER`].
    pub(super) fallback_on: Vec<u16>,
    /// Upstream answers after which the request is redirected to the route `<name>-fallback`.
    pub(super) errors: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathMatch {
    Exact(String),
    Prefix(String),
}

/// All routes, most specific first.
#[derive(Debug, Default)]
pub(super) struct Routes(Vec<Arc<Route>>);

impl Routes {
    pub(super) fn new(ingresses: &[Value], gateway_namespace: &str) -> Self {
        let mut routes: Vec<Route> =
            ingresses.iter().filter(|i| is_ours(i)).flat_map(|i| derive(i, gateway_namespace)).collect();
        let on: Vec<(String, Vec<u16>)> = ingresses
            .iter()
            .filter_map(|twin| {
                let name = route_name(twin, gateway_namespace);
                let classes = annotation(twin, "testbed.aiquota/fallback-on")?;
                Some((main_of(&name)?, classes.split(',').filter_map(class).collect()))
            })
            .collect();
        for route in &mut routes {
            if let Some((_, classes)) = on.iter().find(|(main, _)| *main == route.name) {
                route.fallback_on.clone_from(classes);
            }
        }
        routes.sort_by_key(|route| {
            let host = match route.host.as_str() {
                "*" => usize::MAX,
                wildcard if wildcard.starts_with("*.") => 1000 - wildcard.len().min(999),
                _ => 0,
            };
            let (kind, path) = match &route.path {
                PathMatch::Exact(path) => (0, path.len()),
                PathMatch::Prefix(path) => (1, path.len()),
            };
            let last = route.name.ends_with("-default") && route.headers.is_empty() && path == 1;
            (host, last, kind, usize::MAX - path, usize::MAX - route.headers.len(), route.name.clone())
        });
        Self(routes.into_iter().map(Arc::new).collect())
    }

    /// The first route that matches, of the most specific host that matches.
    pub(super) fn find(&self, request: &Headers) -> Option<Arc<Route>> {
        let authority = request.text(":authority").to_ascii_lowercase();
        let host = without_port(&authority);
        let path = request.text(":path");
        let path = path.split('?').next().unwrap_or_default();
        let known = self.0.iter().find(|route| route.matches_host(host))?.host.clone();
        self.0
            .iter()
            .filter(|route| route.host == known)
            .find(|route| route.matches_path(path) && route.matches_headers(request))
            .cloned()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|route| route.name.clone()).collect()
    }

    pub(super) fn uses(&self, cluster: &str) -> bool {
        self.0.iter().any(|route| route.cluster == cluster)
    }
}

impl Route {
    fn matches_host(&self, host: &str) -> bool {
        match self.host.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix),
            None => host == self.host,
        }
    }

    fn matches_path(&self, path: &str) -> bool {
        match &self.path {
            PathMatch::Exact(exact) => path == exact,
            PathMatch::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    fn matches_headers(&self, request: &Headers) -> bool {
        self.headers.iter().all(|(name, value)| request.get(name) == Some(value.as_bytes()))
    }
}

/// `*` in every host but the client's.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn is_ours(ingress: &Value) -> bool {
    matches!(ingress["spec"]["ingressClassName"].as_str(), None | Some("higress"))
}

fn route_name(ingress: &Value, gateway_namespace: &str) -> String {
    let name = ingress["metadata"]["name"].as_str().unwrap_or_default();
    match ingress["metadata"]["namespace"].as_str().unwrap_or("default") {
        namespace if namespace == gateway_namespace => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// `ai-route-X.internal` for `ai-route-X.fallback.internal`.
fn main_of(twin: &str) -> Option<String> {
    twin.strip_suffix(".fallback.internal").map(|main| format!("{main}.internal"))
}

fn annotation<'a>(ingress: &'a Value, name: &str) -> Option<&'a str> {
    ingress["metadata"]["annotations"][name].as_str()
}

/// An annotation under either of the prefixes Higress reads.
fn setting<'a>(ingress: &'a Value, name: &str) -> Option<&'a str> {
    ["higress.io", "nginx.ingress.kubernetes.io"]
        .iter()
        .find_map(|prefix| annotation(ingress, &format!("{prefix}/{name}")))
}

fn class(text: &str) -> Option<u16> {
    text.trim().strip_suffix("xx")?.parse().ok()
}

/// The routes of one Ingress: one for each host and path, `<name>-default`, `<name>-fallback`.
fn derive(ingress: &Value, gateway_namespace: &str) -> Vec<Route> {
    let name = route_name(ingress, gateway_namespace);
    let namespace = ingress["metadata"]["namespace"].as_str().unwrap_or("default");
    let headers = header_matches(ingress, &name);
    let default_backend = setting(ingress, "default-backend").map(|service| {
        let service = if service.contains('/') { service.to_owned() } else { format!("{namespace}/{service}") };
        let (namespace, service) = service.split_once('/').unwrap_or_default();
        let (service, port) = service.split_once(':').unwrap_or((service, "80"));
        cluster_name(&format!("{service}.{namespace}.svc.cluster.local"), port)
    });
    let errors: Vec<u16> = setting(ingress, "custom-http-errors")
        .filter(|_| default_backend.is_some())
        .map(|codes| codes.split(',').filter_map(|code| code.trim().parse().ok()).collect())
        .unwrap_or_default();

    let mut routes = Vec::new();
    for rule in list(&ingress["spec"]["rules"]) {
        let host = rule["host"].as_str().filter(|host| !host.is_empty()).unwrap_or("*").to_ascii_lowercase();
        for path in list(&rule["http"]["paths"]) {
            let text = path["path"].as_str().unwrap_or("/").to_owned();
            let matched = match path["pathType"].as_str() {
                Some("Exact") => PathMatch::Exact(text),
                _ => PathMatch::Prefix(text),
            };
            let cluster = destination(ingress).or_else(|| backend(&path["backend"], namespace));
            let Some(cluster) = cluster else { continue };
            let main = Route {
                name: name.clone(),
                cluster,
                host: host.clone(),
                path: matched.clone(),
                headers: headers.clone(),
                fallback_on: Vec::new(),
                errors: errors.clone(),
            };
            if let Some(cluster) = default_backend.clone().filter(|_| !errors.is_empty()) {
                let name = format!("{name}-fallback");
                let headers = [vec![(DERIVED_ROUTE_HEADER.to_owned(), name.clone())], headers.clone()].concat();
                routes.push(Route { name, cluster, headers, errors: Vec::new(), ..main.clone() });
            }
            routes.push(main);
        }
    }
    if let Some(cluster) = backend(&ingress["spec"]["defaultBackend"], namespace) {
        routes.push(Route {
            name: format!("{name}-default"),
            cluster,
            host: "*".to_owned(),
            path: PathMatch::Prefix("/".to_owned()),
            headers: Vec::new(),
            fallback_on: Vec::new(),
            errors: Vec::new(),
        });
    }
    routes
}

fn header_matches(ingress: &Value, name: &str) -> Vec<(String, String)> {
    let annotations = ingress["metadata"]["annotations"].as_object();
    let mut matches: Vec<(String, String)> = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            let header = key.strip_prefix("higress.io/exact-match-header-")?;
            Some((header.to_ascii_lowercase(), value.as_str()?.to_owned()))
        })
        .collect();
    if let Some(main) = main_of(name).filter(|_| !matches.iter().any(|(header, _)| header == FALLBACK_HEADER)) {
        matches.push((FALLBACK_HEADER.to_owned(), main));
    }
    if setting(ingress, "canary") == Some("true")
        && let Some(header) = setting(ingress, "canary-by-header")
    {
        let value = setting(ingress, "canary-by-header-value").unwrap_or("always");
        matches.push((header.to_ascii_lowercase(), value.to_owned()));
    }
    matches
}

/// The first destination of the annotation: `[<weight>% ]<host>:<port>`, one per line.
fn destination(ingress: &Value) -> Option<String> {
    let first = annotation(ingress, "higress.io/destination")?.lines().next()?.trim();
    let first = first.split_whitespace().next_back()?;
    let (host, port) = first.rsplit_once(':').unwrap_or((first, "80"));
    Some(cluster_name(host, port))
}

fn backend(backend: &Value, namespace: &str) -> Option<String> {
    let service = &backend["service"];
    let port = service["port"]["number"].as_u64().unwrap_or(80);
    let host = format!("{}.{namespace}.svc.cluster.local", service["name"].as_str()?);
    Some(cluster_name(&host, &port.to_string()))
}

pub(super) fn cluster_name(host: &str, port: &str) -> String {
    format!("outbound|{port}||{host}")
}

impl Clusters {
    pub(super) fn new(bridges: &[Value], services: &[Value]) -> Self {
        let mut clusters = BTreeMap::new();
        for registry in bridges.iter().flat_map(|bridge| list(&bridge["spec"]["registries"])) {
            let (Some(kind), Some(name)) = (registry["type"].as_str(), registry["name"].as_str()) else { continue };
            let port = registry["port"].as_u64().unwrap_or(80);
            let domains = registry["domain"].as_str().unwrap_or_default().split(',').map(str::trim);
            let addresses: Vec<String> = match kind {
                "static" => domains.map(str::to_owned).collect(),
                "dns" => domains.map(|host| format!("{host}:{port}")).collect(),
                _ => continue,
            };
            clusters.insert(cluster_name(&format!("{name}.{kind}"), &port.to_string()), addresses);
        }
        for service in services {
            let (metadata, spec) = (&service["metadata"], &service["spec"]);
            let namespace = metadata["namespace"].as_str().unwrap_or("default");
            let Some(name) = metadata["name"].as_str() else { continue };
            let address = spec["externalName"].as_str().unwrap_or("127.0.0.1");
            for port in list(&spec["ports"]) {
                let Some(number) = port["port"].as_u64() else { continue };
                let target = port["targetPort"].as_u64().unwrap_or(number);
                let cluster = cluster_name(&format!("{name}.{namespace}.svc.cluster.local"), &number.to_string());
                clusters.insert(cluster, vec![format!("{address}:{target}")]);
            }
        }
        Self(clusters)
    }
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ingress(namespace: &str, name: &str, annotations: &Value, path: &str) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name, "annotations": annotations},
            "spec": {"rules": [{"http": {"paths": [{"path": path, "pathType": "Prefix"}]}}]}})
    }

    fn request(path: &str, headers: &[(&str, &str)]) -> Headers {
        let mut request = Headers::default();
        request.add(":authority", "gateway:80");
        request.add(":path", path);
        for (name, value) in headers {
            request.add(name, *value);
        }
        request
    }

    #[test]
    fn a_route_outside_the_gateways_namespace_carries_its_namespace() {
        let to = json!({"higress.io/destination": "100% llm.static:80\n"});
        let routes = [ingress("higress-system", "a", &to, "/a"), ingress("team", "b", &to, "/b")];
        let routes = Routes::new(&routes, "higress-system");
        let found = |path| routes.find(&request(path, &[])).map(|route| (route.name.clone(), route.cluster.clone()));
        assert_eq!(found("/a/x?y"), Some(("a".into(), "outbound|80||llm.static".into())));
        assert_eq!(found("/b"), Some(("team/b".into(), "outbound|80||llm.static".into())));
        assert_eq!(found("/bc"), None);
    }

    #[test]
    fn a_fallback_twin_is_found_only_with_the_header_of_its_main_route() {
        let to = |extra: &Value| {
            let mut to = json!({"higress.io/destination": "llm.static:80"});
            to.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            to
        };
        let routes = [
            ingress("higress-system", "ai-route-x.internal", &to(&json!({})), "/"),
            ingress(
                "higress-system",
                "ai-route-x.fallback.internal",
                &to(&json!({"testbed.aiquota/fallback-on": "4xx"})),
                "/",
            ),
        ];
        let routes = Routes::new(&routes, "higress-system");
        let main = routes.find(&request("/v1", &[])).unwrap();
        assert_eq!((main.name.as_str(), main.fallback_on.as_slice()), ("ai-route-x.internal", [4].as_slice()));
        let twin = routes.find(&request("/v1", &[(FALLBACK_HEADER, "ai-route-x.internal")])).unwrap();
        assert_eq!((twin.name.as_str(), twin.fallback_on.len()), ("ai-route-x.fallback.internal", 0));
    }

    #[test]
    fn a_registry_and_a_service_give_their_clusters() {
        let bridge = json!({"spec": {"registries": [
            {"type": "static", "name": "r", "domain": "10.0.0.1:6379,10.0.0.2:6379", "port": 80},
            {"type": "dns", "name": "r", "domain": "redis.example", "port": 6379}]}});
        let service = json!({"metadata": {"namespace": "n", "name": "s"},
            "spec": {"externalName": "127.0.0.1", "ports": [{"port": 6379, "targetPort": 4000}]}});
        let clusters = Clusters::new(&[bridge], &[service]).0;
        assert_eq!(clusters["outbound|80||r.static"], ["10.0.0.1:6379", "10.0.0.2:6379"]);
        assert_eq!(clusters["outbound|6379||r.dns"], ["redis.example:6379"]);
        assert_eq!(clusters["outbound|6379||s.n.svc.cluster.local"], ["127.0.0.1:4000"]);
    }
}
