//! What the controller plans with, as flags and variables of every command that plans; what would do something else
//! than was meant is refused. No I/O.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use enforcement::wire::limit::Dialect;
use plan::{FailStrategy, Flavor, Guard, GuardModule, LimitModule, Module, Phase, PullPolicy, Settings};

use crate::module_url::{ModuleUrl, Names, is_sha256};

#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// The gateway's namespace, where its WasmPlugins, McpBridge, secrets and stores are
    #[arg(long, env = "AIQUOTA_GATEWAY_NAMESPACE", value_name = "NAMESPACE", default_value = "higress-system")]
    #[arg(value_parser = namespace)]
    gateway_namespace: String,

    /// A namespace whose objects may target Gateways, Domains and Services and choose key prefixes, as those of the
    /// gateway's namespace always may; repeatable, in the environment separated by commas
    #[arg(long = "trusted-namespace", env = "AIQUOTA_TRUSTED_NAMESPACES", value_name = "NAMESPACE")]
    #[arg(value_delimiter = ',', value_parser = namespace)]
    trusted_namespaces: Vec<String>,

    /// What objects of one namespace that is not trusted may take together of a generated WasmPlugin, which has room for
    /// 1 MiB of rules, in percent: no namespace can take the room of all others
    #[arg(long, env = "AIQUOTA_NAMESPACE_SHARE", value_name = "PERCENT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    namespace_share: u8,

    /// Whose ai-quota module the gateway runs: native is this project's, upstream the one that comes with Higress
    #[arg(long, env = "AIQUOTA_FLAVOR", value_name = "FLAVOR", default_value = "native")]
    #[arg(value_parser = one_of(&[("native", Flavor::Native), ("upstream", Flavor::Upstream)]))]
    flavor: Flavor,

    /// Where the gateway loads the ai-quota module of that flavor from: oci://, http(s):// or file://, with a version
    /// or digest; `aiquota run` must be told
    #[arg(long, env = "AIQUOTA_MODULE_URL", value_name = "URL")]
    module_url: Option<ModuleUrl>,

    /// The SHA-256 of the module, or of the manifest of its image with oci://, which the gateway compares after loading it
    #[arg(long, env = "AIQUOTA_MODULE_SHA256", value_name = "HEX", value_parser = sha256)]
    module_sha256: Option<String>,

    /// Where the gateway loads the module for token rate limits of that flavor from: oci://, http(s):// or file://, with a
    /// version or digest; without it AITokenRateLimits are not accepted, and what is programmed stays as it is
    #[arg(long, env = "AIQUOTA_LIMIT_MODULE_URL", value_name = "URL")]
    limit_module_url: Option<ModuleUrl>,

    /// The SHA-256 of that module, or of the manifest of its image, which the gateway compares after loading it
    #[arg(long, env = "AIQUOTA_LIMIT_MODULE_SHA256", value_name = "HEX", value_parser = sha256)]
    #[arg(requires = "limit_module_url")]
    limit_module_sha256: Option<String>,

    /// Which generation of Higress' module for token rate limits the gateway runs, with --flavor=upstream: v1 is what its
    /// guides call 1.0.0 and every build until July 2026, v2 every build since; each reads what is written for the other
    /// as something else
    #[arg(long, env = "AIQUOTA_LIMIT_DIALECT", value_name = "DIALECT", default_value = "v2")]
    #[arg(value_parser = one_of(&[("v1", Dialect::V1), ("v2", Dialect::V2)]))]
    limit_dialect: Dialect,

    /// Let urls of modules name no version and no digest, or `latest`: the gateway may run another module tomorrow
    #[arg(long, env = "AIQUOTA_ALLOW_UNPINNED_MODULES")]
    allow_unpinned_modules: bool,

    /// When the gateway pulls the module's image
    #[arg(long, env = "AIQUOTA_IMAGE_PULL_POLICY", value_name = "POLICY", default_value = "IfNotPresent")]
    #[arg(value_parser = one_of(&[("IfNotPresent", PullPolicy::IfNotPresent), ("Always", PullPolicy::Always)]))]
    image_pull_policy: PullPolicy,

    /// The Secret in the gateway's namespace with which the gateway pulls the module's image
    #[arg(long, env = "AIQUOTA_IMAGE_PULL_SECRET", value_name = "SECRET", value_parser = object_name)]
    image_pull_secret: Option<String>,

    /// What the gateway does with requests when the module cannot be loaded
    #[arg(long, env = "AIQUOTA_FAIL_STRATEGY", value_name = "STRATEGY", default_value = "FAIL_CLOSE")]
    #[arg(value_parser = one_of(&[("FAIL_CLOSE", FailStrategy::Close), ("FAIL_OPEN", FailStrategy::Open)]))]
    fail_strategy: FailStrategy,

    /// The phase of the WasmPlugins that enforce quotas and token rate limits
    #[arg(long, env = "AIQUOTA_PHASE", value_name = "PHASE", default_value = "UNSPECIFIED_PHASE")]
    #[arg(value_parser = one_of(&[
        ("AUTHN", Phase::Authn),
        ("AUTHZ", Phase::Authz),
        ("STATS", Phase::Stats),
        ("UNSPECIFIED_PHASE", Phase::Unspecified),
    ]))]
    phase: Phase,

    /// The priority of the ai-quota WasmPlugin in its phase: the highest runs first
    #[arg(long, env = "AIQUOTA_PRIORITY", value_name = "NUMBER", default_value_t = 750)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=1000))]
    priority: i32,

    /// The priority of the ai-token-ratelimit WasmPlugin in its phase
    #[arg(long, env = "AIQUOTA_LIMIT_PRIORITY", value_name = "NUMBER", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit_priority: i32,

    /// Whether the identity header of clients is removed at the door; off only where nothing reaches the gateway
    /// that could forge it
    #[arg(long, env = "AIQUOTA_GUARD", value_name = "ON|OFF", default_value = "on")]
    #[arg(value_parser = one_of(&[("on", Guard::On), ("off", Guard::Off)]))]
    guard: Guard,

    /// Where the gateway loads the guard from, which is this project's ai-quota module whatever the flavor; with
    /// --flavor=native that of --module-url unless given
    #[arg(long, env = "AIQUOTA_GUARD_MODULE_URL", value_name = "URL")]
    guard_module_url: Option<ModuleUrl>,

    /// The SHA-256 of the guard's module, or of the manifest of its image; only with --guard-module-url
    #[arg(long, env = "AIQUOTA_GUARD_MODULE_SHA256", value_name = "HEX", value_parser = sha256)]
    #[arg(requires = "guard_module_url")]
    guard_module_sha256: Option<String>,

    /// A WasmPlugin that authenticates consumers, besides those known by name; repeatable, in the environment
    /// separated by commas
    #[arg(long = "auth-plugin", env = "AIQUOTA_AUTH_PLUGINS", value_name = "NAME")]
    #[arg(value_delimiter = ',', value_parser = object_name)]
    auth_plugins: Vec<String>,
}

/// Flags that contradict each other, or cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CalledWrongly(pub(crate) String);

/// Where the modules would be if nobody says so: a registry that cannot be.
const STAND_IN: &str = "oci://registry.invalid/aiquota";

impl Flags {
    /// What the controller would be told, for who only wants to see what it would do: where no module is named at all,
    /// something stands in for them. Whether that is so.
    pub(crate) fn into_looking(mut self) -> Result<(Settings, bool)> {
        let stands_in = self.module_url.is_none() && self.limit_module_url.is_none();
        let named = |module: &str| format!("{STAND_IN}/{module}:{}", env!("CARGO_PKG_VERSION")).parse().ok();
        if self.module_url.is_none() {
            self.module_url = named("ai-quota");
        }
        if stands_in {
            self.limit_module_url = named("ai-token-ratelimit");
        }
        if self.flavor == Flavor::Upstream && self.guard_module_url.is_none() {
            self.guard_module_url = named("ai-quota");
        }
        let settings = self.settings(Duration::from_secs(300)).map_err(|error| CalledWrongly(error.to_string()))?;
        Ok((settings, stands_in))
    }

    /// What the controller is told, in full.
    pub(crate) fn settings(self, drain: Duration) -> Result<Settings> {
        let Some(module_url) = self.module_url else {
            bail!("--module-url <URL> is required: say where the gateway loads the ai-quota module from")
        };
        let pinned = |flag: &str, url: &ModuleUrl, sha256: Option<&String>| {
            if self.allow_unpinned_modules { Ok(()) } else { pinned(flag, url, sha256) }
        };
        pinned("module", &module_url, self.module_sha256.as_ref())?;
        let guard_module = match self.guard_module_url {
            Some(url) => {
                pinned("guard-module", &url, self.guard_module_sha256.as_ref())?;
                GuardModule { url: url.to_string(), sha256: self.guard_module_sha256 }
            }
            None => {
                ensure!(
                    self.flavor == Flavor::Native || self.guard == Guard::Off,
                    "--guard-module-url: with --flavor=upstream the guard needs this project's ai-quota module beside \
                     upstream's: say where it is, or switch the guard off with --guard=off"
                );
                GuardModule { url: module_url.to_string(), sha256: self.module_sha256.clone() }
            }
        };
        let limit_module = match self.limit_module_url {
            Some(url) => {
                pinned("limit-module", &url, self.limit_module_sha256.as_ref())?;
                let (phase, priority) = (self.phase, self.limit_priority);
                Some(LimitModule { url: url.to_string(), sha256: self.limit_module_sha256, phase, priority })
            }
            None => None,
        };
        ensure!(
            self.limit_dialect == Dialect::V2 || self.flavor == Flavor::Upstream,
            "--limit-dialect=v1: with --flavor=native this project's module enforces token rate limits, and it has one \
             generation only: leave it out, or choose --flavor=upstream"
        );
        Ok(Settings {
            gateway_namespace: self.gateway_namespace,
            trusted_namespaces: self.trusted_namespaces.into_iter().collect(),
            flavor: self.flavor,
            module: Module {
                url: module_url.to_string(),
                sha256: self.module_sha256,
                image_pull_policy: self.image_pull_policy,
                image_pull_secret: self.image_pull_secret,
                fail_strategy: self.fail_strategy,
                phase: self.phase,
                priority: self.priority,
            },
            limit_module,
            limit_dialect: self.limit_dialect,
            guard: self.guard,
            guard_module,
            auth_plugins: self.auth_plugins,
            namespace_share: self.namespace_share,
            drain,
        })
    }
}

/// What the gateway loads today must be what it loads tomorrow.
fn pinned(flag: &str, url: &ModuleUrl, sha256: Option<&String>) -> Result<()> {
    ensure!(
        url.names() != Names::Latest,
        "--{flag}-url: {url}: `latest` names another module tomorrow: name a version, as in \
         oci://registry/ai-quota:1.0.0, or a digest @sha256:..., or set --allow-unpinned-modules"
    );
    ensure!(
        url.names() == Names::One || sha256.is_some(),
        "--{flag}-url: {url} names no version, and the gateway may run another module tomorrow: name a version, as in \
         oci://registry/ai-quota:1.0.0, a digest @sha256:..., or give --{flag}-sha256, or set --allow-unpinned-modules"
    );
    Ok(())
}

/// Exactly one of some words, which the help text lists.
pub(crate) fn one_of<T: Copy + Send + Sync + 'static>(
    words: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.iter().map(|(word, _)| *word)).try_map(move |text| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or("is none of the words above")
    })
}

pub(crate) fn namespace(text: &str) -> Result<String, &'static str> {
    let label = |text: &str| text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let fits = (1..=63).contains(&text.len()) && label(text) && !text.starts_with('-') && !text.ends_with('-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a namespace is 1 to 63 of a-z, 0-9 and -, and begins and ends with a letter or digit")
    }
}

fn object_name(text: &str) -> Result<String, &'static str> {
    let fits = text.len() <= 253 && text.split('.').all(|part| namespace(part).is_ok());
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a name is 1 to 253 of a-z, 0-9, - and ., and each part begins and ends with a letter or digit")
    }
}

fn sha256(text: &str) -> Result<String, &'static str> {
    if is_sha256(text) { Ok(text.to_ascii_lowercase()) } else { Err("a SHA-256 is 64 hexadecimal digits") }
}
