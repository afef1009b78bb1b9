//! The gateway: an HTTP server around wasmtime that plays Higress' Envoy for the modules under test. Comes in:
//! WasmPlugin, McpBridge, Ingress, Service and Secret objects, HTTP requests. Goes out: requests to model servers and
//! Redis, answers, and what tests look at: module log, access log with response code details, metrics, traps.
//!
//! Two worker threads, each with one VM per plugin and one Redis connection per cluster, as in Envoy. Not played:
//! `proxy_http_call`, shared queues, trailers, TLS, HTTP/2, weights of destinations.

mod abi;
mod auth;
mod board;
mod chain;
mod config;
mod engine;
mod exchange;
mod harness;
mod hold;
mod host;
mod imports;
mod plugin;
mod plugins;
mod redis;
mod resp;
mod route;
mod server;
mod source;
mod upstream;
mod vm;
mod wasi;
mod worker;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use abi::{BodyAction, HeaderAction, Headers, Way};
pub use board::{Exchange, LogLine};
pub use config::Versions;
pub use harness::{RedisCall, RedisInit, StartFailure, Trapped, Vm, VmModule};
pub use host::{Effect, LocalReply};
pub use plugins::Phase;
pub(crate) use resp::first_reply;
pub use source::Source;

use board::Board;
use config::{Loader, Snapshot, World};
use engine::Runtime;
use server::{Applied, Shared, Threads, WORKERS};

/// How long [`Gateway::settled`] waits: far more than any configuration needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a gateway is started with.
pub struct GatewayOptions {
    pub source: Source,
    /// Where `oci://…/<name>:<version>` finds `<name>.wasm`.
    pub module_dir: Option<PathBuf>,
    pub listen: SocketAddr,
    /// How long one callback of a module may run before its VM is trapped.
    pub callback_deadline: Duration,
    pub redis_connect_timeout: Duration,
    /// Module log lines below this level are not kept (2: info).
    pub log_level: u32,
    /// Only clusters that a route leads to exist, as with Higress' `global.onlyPushRouteCluster`.
    pub only_route_clusters: bool,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            source: Source::Objects(Vec::new()),
            module_dir: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            callback_deadline: Duration::from_secs(5),
            redis_connect_timeout: Duration::from_secs(5),
            log_level: 2,
            only_route_clusters: false,
        }
    }
}

/// What both workers run.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub generation: u64,
    /// In the order of the chain.
    pub plugins: Vec<LoadedPlugin>,
    pub routes: Vec<String>,
    /// Objects that were rejected or served without their templates, with the reason.
    pub problems: Vec<String>,
    /// Of all the objects it was made of.
    pub versions: Versions,
}

#[derive(Clone, Debug)]
pub struct LoadedPlugin {
    pub name: String,
    pub phase: Phase,
    pub priority: i64,
    /// As the module reads it: flattened, templates expanded.
    pub config: Value,
    /// Why it does not run, if it does not.
    pub failure: Option<String>,
    /// How many VMs were started for it so far, on both workers.
    pub vms: u64,
}

impl Loaded {
    /// A plugin by name.
    pub fn plugin(&self, name: &str) -> Option<&LoadedPlugin> {
        self.plugins.iter().find(|plugin| plugin.name == name)
    }

    /// Whether a plugin is there and runs.
    pub fn runs(&self, name: &str) -> bool {
        self.plugin(name).is_some_and(|plugin| plugin.failure.is_none())
    }
}

/// A running gateway; dropping it stops its threads.
pub struct Gateway {
    // Dropped first: the tasks that feed the threads.
    tasks: JoinSet<()>,
    threads: Option<Threads>,
    addr: SocketAddr,
    board: Arc<Board>,
    worlds: UnboundedSender<World>,
    applied: watch::Receiver<[Applied; WORKERS]>,
    history: Arc<Mutex<BTreeMap<u64, Arc<Snapshot>>>>,
    // Last: the compiler's clock runs while VMs do.
    _runtime: Arc<Runtime>,
}

impl Gateway {
    /// Starts the threads. With objects, returns when both workers run them; with a cluster, wait with
    /// [`Gateway::settled`]. Needs a Tokio runtime that lives as long as the gateway.
    ///
    /// # Errors
    /// When the address is taken, or the compiler cannot be set up.
    pub async fn start(options: GatewayOptions) -> Result<Self> {
        let runtime = Runtime::shared()?;
        let board = Arc::new(Board::new(options.log_level));
        let (namespace, client, objects) = match options.source {
            Source::Cluster(client, namespace) => (namespace, Some(client), None),
            Source::Objects(objects) => ("higress-system".to_owned(), None, Some(objects)),
        };
        let only = options.only_route_clusters;
        let mut loader = Loader::new(Arc::clone(&runtime), namespace, options.module_dir, only);
        let first = Arc::new(loader.build(&World::new()));
        let history = Arc::new(Mutex::new(BTreeMap::from([(first.generation, Arc::clone(&first))])));
        let (snapshots, follow) = watch::channel(first);
        let (report, applied) = watch::channel(Default::default());
        let shared = Shared {
            board: Arc::clone(&board),
            snapshots: follow,
            applied: Arc::new(report),
            redis_connect_timeout: options.redis_connect_timeout,
            deadline: options.callback_deadline,
        };
        let listener = TcpListener::bind(options.listen).with_context(|| format!("cannot use {}", options.listen))?;
        let addr = listener.local_addr()?;
        let threads = Threads::start(listener, &shared)?;
        let (worlds, incoming) = unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(build(loader, incoming, snapshots, Arc::clone(&history)));
        if let Some(client) = client {
            tasks.spawn(source::watch(client, worlds.clone()));
        }
        let threads = Some(threads);
        let gateway = Self { tasks, threads, addr, board, worlds, applied, history, _runtime: runtime };
        gateway.settled(|loaded| loaded.generation > 0).await?;
        if let Some(objects) = objects {
            gateway.set_objects(objects).await?;
        }
        Ok(gateway)
    }

    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Replaces all objects; returns when both workers run them.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn set_objects(&self, objects: Vec<Value>) -> Result<()> {
        let before = self.loaded().generation;
        let _ = self.worlds.send(source::from_list(objects));
        self.settled(|loaded| loaded.generation > before).await
    }

    /// Waits until what both workers run meets the condition.
    ///
    /// # Errors
    /// When it does not in a minute; the error shows what is loaded.
    pub async fn settled(&self, condition: impl Fn(&Loaded) -> bool) -> Result<()> {
        let mut applied = self.applied.clone();
        let waiting = async {
            while !condition(&self.loaded()) {
                if applied.changed().await.is_err() {
                    bail!("the workers have ended");
                }
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(settled) => settled,
            Err(_) => bail!("the gateway does not come to run what was waited for: {:#?}", self.loaded()),
        }
    }

    /// What both workers run now.
    pub fn loaded(&self) -> Loaded {
        let applied = self.applied.borrow().clone();
        let generation = applied.iter().map(|applied| applied.generation).min().unwrap_or_default();
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(snapshot) = history.get(&generation) else { return Loaded::default() };
        let failure = |index: usize| {
            let mut workers = applied.iter().filter(|applied| applied.generation == generation);
            workers.find_map(|applied| applied.failures.get(index).cloned().flatten())
        };
        let plugins = snapshot.plugins.iter().enumerate().map(|(index, plugin)| LoadedPlugin {
            name: plugin.spec.name.clone(),
            phase: plugin.spec.phase,
            priority: plugin.spec.priority,
            config: plugin.spec.config.clone(),
            failure: failure(index),
            vms: self.board.builds(&plugin.spec.name),
        });
        Loaded {
            generation,
            plugins: plugins.collect(),
            routes: snapshot.routes.names(),
            problems: snapshot.problems.clone(),
            versions: snapshot.versions.clone(),
        }
    }

    /// What a plugin was told in one of the last configurations; nothing where it was not there.
    pub fn config_in(&self, generation: u64, plugin: &str) -> Option<Value> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let plugins = &history.get(&generation)?.plugins;
        plugins.iter().find(|loaded| loaded.spec.name == plugin).map(|loaded| loaded.spec.config.clone())
    }

    /// What modules wrote, and what the gateway says about them.
    pub fn logs(&self) -> Vec<LogLine> {
        self.board.logs()
    }

    /// Ended runs of the chain, in the order of their ends.
    pub fn access_log(&self) -> Vec<Exchange> {
        self.board.exchanges()
    }

    /// How many callbacks trapped; each cost its VM.
    pub fn traps(&self) -> u64 {
        self.board.traps()
    }

    /// Metrics of all modules by name, summed over the workers.
    pub fn metrics(&self) -> BTreeMap<String, i64> {
        self.board.metrics()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.threads = None;
    }
}

/// Makes snapshots of worlds, off the runtime's threads: a module may take long to compile.
async fn build(
    mut loader: Loader,
    mut worlds: UnboundedReceiver<World>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    history: Arc<Mutex<BTreeMap<u64, Arc<Snapshot>>>>,
) {
    while let Some(mut world) = worlds.recv().await {
        while let Ok(newer) = worlds.try_recv() {
            world = newer;
        }
        let built = tokio::task::spawn_blocking(move || {
            let snapshot = loader.build(&world);
            (loader, snapshot)
        });
        let Ok((back, snapshot)) = built.await else { return };
        loader = back;
        let snapshot = Arc::new(snapshot);
        {
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            history.insert(snapshot.generation, Arc::clone(&snapshot));
            // Both workers are at most a few behind.
            while history.len() > 64 {
                history.pop_first();
            }
        }
        let _ = snapshots.send(snapshot);
    }
}
