//! `aiquota import`: WasmPlugins of ai-quota and ai-token-ratelimit written by hand in, our objects as YAML and a report
//! out, or the objects in force in their place. I/O: reads files, the cluster and Redis where that is asked for; writes to
//! the cluster only with --take-over, and never to Redis.

mod absent;
mod balances;
mod limit;
mod objects;
mod quota;
mod report;
mod rules;
mod store;
mod take_over;
mod together;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use api::{CONSUMERS_MAX, HttpRoute, WasmPlugin};
use clap::{Args, ValueEnum};
use enforcement::wire::limit::Dialect;
use kube::{Api, Client};
use plan::Key;
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use serde_json::{Value, json};

use crate::files::{Contents, Files, Optional};
use crate::settings::CalledWrongly;
use crate::tell::{self, Style, count};
use balances::Place;
use objects::{Imported, Options, Quota, import, is_imported};
use report::{Finding, Kind};
use rules::{Around, Source};

/// Turn WasmPlugins of ai-quota and ai-token-ratelimit that were written by hand into AIQuota, AITokenRateLimit and
/// AIQuotaStore objects
///
/// The objects are written to standard output as YAML, and what is otherwise or has no equivalent to standard error.
/// Nothing is changed anywhere, unless --take-over puts the objects in force in the place of the WasmPlugins.
/// docs/migration.md has what to do with the objects.
///
/// Exits with 0, with 1 where something has no equivalent (all else is written), was not taken over, or no such WasmPlugin
/// is in the files, or with 2 when it was called wrongly.
#[derive(Args, Debug)]
pub(crate) struct Import {
    #[command(flatten)]
    files: Optional,

    /// Read the WasmPlugins of the gateway's namespace from the cluster of KUBECONFIG
    #[arg(long, conflicts_with = "paths")]
    from_cluster: bool,

    /// The gateway's namespace
    #[arg(long, env = "AIQUOTA_GATEWAY_NAMESPACE", value_name = "NAMESPACE", default_value = "higress-system")]
    #[arg(value_parser = crate::settings::namespace)]
    gateway_namespace: String,

    /// A namespace that is trusted with names in Redis, as for `aiquota run`
    #[arg(long = "trusted-namespace", env = "AIQUOTA_TRUSTED_NAMESPACES", value_name = "NAMESPACE")]
    #[arg(value_delimiter = ',', value_parser = crate::settings::namespace)]
    trusted_namespaces: Vec<String>,

    /// The generation of ai-token-ratelimit that runs: v1 until July 2026 (the guides' 1.0.0), v2 since
    #[arg(long, value_name = "GENERATION", value_enum, default_value_t = Generation::V2)]
    dialect: Generation,

    /// List the consumers that have a balance in this Redis, as redis://10.0.0.7:6379/0; with several stores
    /// <store>=<url>, repeatable. It is only read. Password and user name come from AIQUOTA_REDIS_PASSWORD and
    /// AIQUOTA_REDIS_USERNAME, or from --redis-password-file
    #[arg(long, value_name = "[STORE=]URL")]
    consumers_from_redis: Vec<String>,

    /// A file with the password of Redis
    #[arg(long, value_name = "FILE", requires = "consumers_from_redis")]
    redis_password_file: Option<PathBuf>,

    /// How the objects and the report are written: objects as YAML and the report for people, or both as one JSON
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Yaml)]
    output: Output,

    #[command(flatten)]
    take_over: take_over::Flags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Generation {
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Yaml,
    Json,
}

/// What was read of the balances under one prefix, and where.
struct Listed {
    store: String,
    prefix: String,
    /// Longer prefixes, whose keys are not this one's.
    others: Vec<String>,
    redis: MultiplexedConnection,
    found: Vec<(String, i64)>,
}

#[derive(Serialize)]
struct Written<'a> {
    objects: Vec<&'a Value>,
    report: &'a [Finding],
}

impl Import {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        runtime.block_on(self.imported())
    }

    async fn imported(self) -> Result<ExitCode> {
        let (sources, http_routes) = match self.files.given() {
            Some(files) => from_files(&files, &self.gateway_namespace)?,
            None => {
                ensure_called(self.from_cluster, || "say where: --filename <PATH>, or --from-cluster".to_owned())?;
                from_cluster(&self.gateway_namespace).await?
            }
        };
        if sources.is_empty() {
            tell::note("no WasmPlugin there is ai-quota or ai-token-ratelimit, by name, pluginName or image");
        }
        let options = Options {
            around: Around { gateway_namespace: self.gateway_namespace.clone(), http_routes },
            trusted_namespaces: self.trusted_namespaces.iter().cloned().collect(),
            dialect: match self.dialect {
                Generation::V1 => Dialect::V1,
                Generation::V2 => Dialect::V2,
            },
            limits_may_ignore: limits_may_ignore(),
        };
        if self.take_over.asks() {
            return take_over::run(&self, sources, &options).await;
        }
        let mut imported = import(&sources, &options);
        self.list(&mut imported).await?;
        self.write(&imported)
    }

    /// The consumers of Redis, if that is asked for.
    async fn list(&self, imported: &mut Imported) -> Result<Vec<Listed>> {
        if !self.consumers_from_redis.is_empty() {
            return self.list_consumers(imported).await;
        }
        if !imported.quotas.is_empty() {
            let message = "no consumers are listed: they live in Redis only, stay admitted with what they have, and are never \
                           refreshed; --consumers-from-redis lists them";
            imported.findings.push(Finding::general(Kind::ToDo, message));
        }
        Ok(Vec::new())
    }

    /// Each balance belongs to one object: the first that has its prefix and store.
    async fn list_consumers(&self, imported: &mut Imported) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        let places = self.places(imported)?;
        let prefixes: Vec<(String, String)> =
            imported.quotas.iter().map(|quota| (quota.store.clone(), quota.key_prefix.clone())).collect();
        let mut seen = HashSet::new();
        for (index, (store, prefix)) in prefixes.iter().enumerate() {
            if !seen.insert((store, prefix)) {
                continue;
            }
            let Some(place) = places.get(store) else {
                let message = format!(
                    "no consumers under {prefix} are listed: where the Redis of store {store} is is not said; \
                     --consumers-from-redis={store}=<url>"
                );
                imported.findings.push(Finding::general(Kind::ToDo, message));
                continue;
            };
            let mut redis = place.open().await?;
            let others: Vec<&str> =
                prefixes.iter().filter(|(other, _)| other == store).map(|(_, other)| other.as_str()).collect();
            let found = balances::list(&mut redis, prefix, &others).await?;
            let Quota { object, .. } = &mut imported.quotas[index];
            let mut say = |kind, message: String| imported.findings.push(Finding::general(kind, message));
            let blocked = found.consumers.iter().filter(|(_, balance)| *balance <= 0).count();
            if blocked > 0 {
                let message = format!(
                    "{} under {prefix} with nothing left: listed with a quota of 1, which leaves the balance as it is (0 would \
                     block them, whatever somebody gives them meanwhile)",
                    count(blocked, "consumer")
                );
                say(Kind::ToDo, message);
            }
            if found.others > 0 {
                let message = format!(
                    "{} under {prefix} whose name is no consumer's, or whose value is no balance: not listed",
                    count(found.others, "key")
                );
                say(Kind::Lost, message);
            }
            if found.consumers.len() > CONSUMERS_MAX {
                let more = found.consumers.len() - CONSUMERS_MAX;
                let message = format!(
                    "{} under {prefix}: an AIQuota lists {CONSUMERS_MAX}; {more} more stay unlisted",
                    count(found.consumers.len(), "consumer")
                );
                say(Kind::Lost, message);
            }
            let listed = found.consumers.iter().take(CONSUMERS_MAX);
            let listed: Vec<Value> =
                listed.map(|(name, balance)| json!({"name": name, "quota": balances::grant(*balance)})).collect();
            if !listed.is_empty() {
                object["spec"]["consumers"] = listed.into();
                say(
                    Kind::ToDo,
                    format!("quotas under {prefix} are what is left now: write what each shall have from now on"),
                );
            }
            let others = others.into_iter().map(str::to_owned).collect();
            let (store, prefix) = (store.clone(), prefix.clone());
            all.push(Listed { store, prefix, others, redis, found: found.consumers });
        }
        Ok(all)
    }

    /// Where each store's Redis is.
    fn places(&self, imported: &Imported) -> Result<HashMap<String, Place>> {
        let names: HashSet<&str> = imported.quotas.iter().map(|quota| quota.store.as_str()).collect();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let password = match &self.redis_password_file {
            None => variable("AIQUOTA_REDIS_PASSWORD"),
            Some(file) => {
                let text =
                    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        };
        let username = variable("AIQUOTA_REDIS_USERNAME");
        let mut places = HashMap::new();
        for asked in &self.consumers_from_redis {
            // Before anything else is said of it, and nothing repeats it.
            ensure_called(!asked.contains('@'), || {
                "--consumers-from-redis: a password is no argument, everybody who lists processes would see it: put it into \
                 AIQUOTA_REDIS_PASSWORD or a --redis-password-file"
                    .to_owned()
            })?;
            let (store, url) = match asked.split_once("=redis://") {
                Some((store, rest)) => (store.to_owned(), format!("redis://{rest}")),
                None => {
                    ensure_called(names.len() <= 1, || {
                        "--consumers-from-redis: there are several stores; say which, as in default=redis://10.0.0.7:6379/0"
                            .to_owned()
                    })?;
                    (names.iter().next().copied().unwrap_or("default").to_owned(), asked.clone())
                }
            };
            ensure_called(url.starts_with("redis://"), || {
                "--consumers-from-redis: a URL begins with redis://".to_owned()
            })?;
            ensure_called(names.is_empty() || names.contains(store.as_str()), || {
                let mut names: Vec<&str> = names.iter().copied().collect();
                names.sort_unstable();
                format!("--consumers-from-redis: there is no store {store}; there is {}", names.join(", "))
            })?;
            places.insert(store, Place { url, username: username.clone(), password: password.clone() });
        }
        Ok(places)
    }

    fn write(&self, imported: &Imported) -> Result<ExitCode> {
        let Imported { stores, quotas, limits, findings } = imported;
        let objects: Vec<&Value> =
            stores.iter().chain(quotas.iter().map(|quota| &quota.object)).chain(limits).collect();
        match self.output {
            Output::Json => {
                let written = Written { objects, report: findings };
                tell::print(&format!("{}\n", serde_json::to_string_pretty(&written)?))?;
            }
            Output::Yaml => {
                let mut text = String::new();
                for object in objects {
                    text.push_str(&format!("---\n{}\n", serde_yaml::to_string(object)?.trim_end()));
                }
                tell::print(&text)?;
                let style = Style::stderr();
                let mut told: Vec<&Finding> = findings.iter().collect();
                told.sort_by_key(|finding| finding.kind);
                told.iter().for_each(|finding| tell::note(&finding.tell(&style)));
                tell::note(&format!(
                    "{}, {}, {}",
                    count(stores.len(), "AIQuotaStore"),
                    count(quotas.len(), "AIQuota"),
                    count(limits.len(), "AITokenRateLimit")
                ));
            }
        }
        let lost = findings.iter().any(|finding| finding.kind == Kind::Lost);
        Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn ensure_called(fits: bool, why: impl FnOnce() -> String) -> Result<()> {
    if fits { Ok(()) } else { Err(CalledWrongly(why()).into()) }
}

/// Whether AITokenRateLimit says what an answer without usage costs.
fn limits_may_ignore() -> bool {
    let crds = api::crds().unwrap_or_default();
    let is = |crd: &&Value| crd.pointer("/spec/names/kind").and_then(Value::as_str) == Some("AITokenRateLimit");
    let schema = crds.iter().find(is).and_then(|crd| crd.pointer("/spec/versions/0/schema/openAPIV3Schema"));
    schema.is_some_and(|schema| schema.pointer("/properties/spec/properties/onMissingUsage").is_some())
}

fn from_files(files: &Files, gateway_namespace: &str) -> Result<(Vec<Source>, HashSet<Key>)> {
    let Contents { documents, unreadable, plain, files: _ } = files.read()?;
    if let Some((place, problem)) = unreadable.first() {
        anyhow::bail!("{}:{} cannot be read: {problem}", place.file, place.line);
    }
    let there = absent::there(&documents, &plain);
    let (mut sources, mut http_routes) = (Vec::new(), HashSet::new());
    for document in documents {
        match (document.group(), document.kind.as_str()) {
            ("gateway.networking.k8s.io", "HTTPRoute") => drop(http_routes.insert(document.key.clone())),
            ("extensions.higress.io", "WasmPlugin") => {
                let place = document.place("spec");
                let mut plugin: WasmPlugin = plan::decode(document.value.clone()).map_err(|refusal| {
                    anyhow::anyhow!(
                        "{}:{}: this WasmPlugin cannot be read: {}: {}",
                        place.file,
                        place.line,
                        refusal.field,
                        crate::problem::unreadable("WasmPlugin", &refusal)
                    )
                })?;
                if is_imported(&plugin) {
                    // Only there the gateway looks at them.
                    plugin.metadata.namespace = Some(gateway_namespace.to_owned());
                    sources.push(Source { plugin, document: Some(document) });
                }
            }
            _ => {}
        }
    }
    anyhow::ensure!(!sources.is_empty(), "{there}");
    Ok((sources, http_routes))
}

async fn from_cluster(gateway_namespace: &str) -> Result<(Vec<Source>, HashSet<Key>)> {
    let client = Client::try_default().await.context("no cluster: set KUBECONFIG")?;
    let plugins: Api<WasmPlugin> = Api::namespaced(client.clone(), gateway_namespace);
    let asking = || format!("WasmPlugins of namespace {gateway_namespace} cannot be listed");
    let plugins = plugins.list(&Default::default()).await.with_context(asking)?.items;
    let mut plugins: Vec<WasmPlugin> = plugins.into_iter().filter(is_imported).collect();
    plugins.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    // A cluster may be without them.
    let routes = match Api::<HttpRoute>::all(client).list(&Default::default()).await {
        Ok(routes) => routes.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error).context("HTTPRoutes cannot be listed"),
    };
    let routes = routes.iter().map(|route| Key::of(&route.metadata)).collect();
    Ok((plugins.into_iter().map(|plugin| Source { plugin, document: None }).collect(), routes))
}
