//! From objects to what the workers run: specs with their modules loaded, routes, clusters. Parts that did not change
//! stay the same, so that workers keep their VMs. Reads module files.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::auth::KeyAuth;
use super::engine::{Prepared, Runtime};
use super::plugins::{self, PluginSpec};
use super::route::{Clusters, Routes};

/// Objects of the kinds the gateway reads, by kind.
pub(super) type World = BTreeMap<String, Vec<Value>>;

/// What is in force.
pub(super) struct Snapshot {
    pub(super) generation: u64,
    pub(super) plugins: Vec<Arc<Loaded>>,
    pub(super) routes: Arc<Routes>,
    pub(super) clusters: Clusters,
    pub(super) problems: Vec<String>,
    /// The resource versions of the objects it was made of.
    pub(super) versions: Versions,
}

/// Resource versions by kind, namespace and name.
pub type Versions = BTreeMap<(String, String, String), String>;

/// A plugin with the code it runs.
pub(super) struct Loaded {
    pub(super) spec: PluginSpec,
    /// Why not, when it cannot run.
    pub(super) code: Result<Code, String>,
}

pub(super) enum Code {
    Module(Arc<Prepared>),
    KeyAuth(KeyAuth),
}

/// Makes snapshots; remembers modules by URL, as a gateway that pulled them does.
pub(super) struct Loader {
    runtime: Arc<Runtime>,
    gateway_namespace: String,
    module_dir: Option<PathBuf>,
    only_route_clusters: bool,
    pulled: HashMap<(String, String), Arc<Prepared>>,
    last: Vec<Arc<Loaded>>,
    generation: u64,
}

impl Loader {
    pub(super) fn new(
        runtime: Arc<Runtime>,
        gateway_namespace: String,
        module_dir: Option<PathBuf>,
        only_route_clusters: bool,
    ) -> Self {
        let (pulled, last) = (HashMap::new(), Vec::new());
        Self { runtime, gateway_namespace, module_dir, only_route_clusters, pulled, last, generation: 0 }
    }

    /// Blocks while modules are compiled.
    pub(super) fn build(&mut self, world: &World) -> Snapshot {
        let kind = |name: &str| world.get(name).map_or(&[][..], Vec::as_slice);
        let (specs, problems) = plugins::read(kind("WasmPlugin"), kind("Secret"), &self.gateway_namespace);
        let old = std::mem::take(&mut self.last);
        // A module that could not be loaded is tried again, the rest of what did not change stays.
        let kept = |spec: &PluginSpec| old.iter().find(|old| old.spec == *spec && old.code.is_ok()).cloned();
        let plugins: Vec<Arc<Loaded>> =
            specs.into_iter().map(|spec| kept(&spec).unwrap_or_else(|| Arc::new(self.load(spec)))).collect();
        self.last.clone_from(&plugins);
        self.generation += 1;
        let routes = Routes::new(kind("Ingress"), &self.gateway_namespace);
        let mut clusters = Clusters::new(kind("McpBridge"), kind("Service"));
        if self.only_route_clusters {
            clusters.0.retain(|name, _| routes.uses(name));
        }
        let (routes, versions) = (Arc::new(routes), versions(world));
        Snapshot { generation: self.generation, plugins, routes, clusters, problems, versions }
    }

    fn load(&mut self, spec: PluginSpec) -> Loaded {
        let code = match spec.is_key_auth() {
            true => KeyAuth::new(&spec.config).map(Code::KeyAuth),
            false => self.pull(&spec.url, &spec.sha256).map(Code::Module),
        };
        Loaded { spec, code: code.map_err(|error| format!("{error:#}")) }
    }

    fn pull(&mut self, url: &str, sha256: &str) -> Result<Arc<Prepared>> {
        let key = (url.to_owned(), sha256.to_owned());
        if let Some(pulled) = self.pulled.get(&key) {
            return Ok(Arc::clone(pulled));
        }
        let path = match (url.strip_prefix("file://"), url.strip_prefix("oci://"), &self.module_dir) {
            (Some(path), _, _) => PathBuf::from(path),
            (None, Some(image), Some(folder)) => {
                let image = image.rsplit('/').next().unwrap_or_default();
                let name = image.split([':', '@']).next().unwrap_or_default();
                folder.join(name).with_extension("wasm")
            }
            _ => bail!("cannot load {url}: the test bed reads file:// and, from its module folder, oci://"),
        };
        let wasm = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if !sha256.is_empty() {
            let digest = ring::digest::digest(&ring::digest::SHA256, &wasm);
            let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            ensure!(hex == sha256.to_ascii_lowercase(), "the sha256 of {url} is {hex}");
        }
        let prepared = self.runtime.prepare(&wasm)?;
        self.pulled.insert(key, Arc::clone(&prepared));
        Ok(prepared)
    }
}

fn versions(world: &World) -> Versions {
    let versions = world.iter().flat_map(|(kind, objects)| {
        objects.iter().map(move |object| {
            let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            ((kind.clone(), of("namespace"), of("name")), of("resourceVersion"))
        })
    });
    versions.collect()
}

impl PluginSpec {
    fn is_key_auth(&self) -> bool {
        [&self.url, &self.name].iter().any(|text| text.contains("key-auth") || text.contains("key_auth"))
    }
}
