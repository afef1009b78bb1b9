//! `aiquota run`: flags and environment in, the controller's settings out; what would start and then do something
//! else than was meant is refused. No I/O.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args};
use controller::Election;
use plan::{FailStrategy, Flavor, Guard, GuardModule, LimitModule, Module, Phase, PullPolicy, Settings};

use crate::module_url::{ModuleUrl, is_sha256};

/// Run the controller: it turns AIQuota objects into WasmPlugins and Redis balances
#[derive(Args, Debug)]
pub(crate) struct Run {
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
    /// or digest
    #[arg(long, env = "AIQUOTA_MODULE_URL", value_name = "URL")]
    module_url: ModuleUrl,

    /// The SHA-256 of the module, which the gateway compares after loading it
    #[arg(long, env = "AIQUOTA_MODULE_SHA256", value_name = "HEX", value_parser = sha256)]
    module_sha256: Option<String>,

    /// Where the gateway loads the module for token rate limits of that flavor from: oci://, http(s):// or file://, with a
    /// version or digest; without it AITokenRateLimits are not accepted, and what is programmed stays as it is
    #[arg(long, env = "AIQUOTA_LIMIT_MODULE_URL", value_name = "URL")]
    limit_module_url: Option<ModuleUrl>,

    /// The SHA-256 of that module, which the gateway compares after loading it
    #[arg(long, env = "AIQUOTA_LIMIT_MODULE_SHA256", value_name = "HEX", value_parser = sha256)]
    #[arg(requires = "limit_module_url")]
    limit_module_sha256: Option<String>,

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

    /// The SHA-256 of the guard's module; only with --guard-module-url
    #[arg(long, env = "AIQUOTA_GUARD_MODULE_SHA256", value_name = "HEX", value_parser = sha256)]
    #[arg(requires = "guard_module_url")]
    guard_module_sha256: Option<String>,

    /// A WasmPlugin that authenticates consumers, besides those known by name; repeatable, in the environment
    /// separated by commas
    #[arg(long = "auth-plugin", env = "AIQUOTA_AUTH_PLUGINS", value_name = "NAME")]
    #[arg(value_delimiter = ',', value_parser = object_name)]
    auth_plugins: Vec<String>,

    /// Whether several controllers may run, of which the holder of the Lease `aiquota` in the gateway's namespace acts
    /// and the others stand by; off only where there is never a second one
    #[arg(long, env = "AIQUOTA_LEADER_ELECTION", value_name = "ON|OFF", default_value = "on")]
    #[arg(action = ArgAction::Set, value_parser = one_of(&[("on", true), ("off", false)]))]
    leader_election: bool,

    /// After how long another controller takes over from one that died, in seconds (15s) or minutes (2m), 3s to 5m; a
    /// controller that cannot renew the Lease for four fifths of it ends itself
    #[arg(long, env = "AIQUOTA_LEASE_DURATION", value_name = "TIME", default_value = "15s", value_parser = lease_duration)]
    lease_duration: Duration,

    /// How long requests may still be under way after the last rule of a deleted AIQuota is gone: with deletionPolicy
    /// Delete its balances are deleted after that, in seconds (300s) or minutes (10m); no shorter than the longest stream takes
    #[arg(long, env = "AIQUOTA_DRAIN", value_name = "TIME", default_value = "5m", value_parser = duration)]
    drain: Duration,

    #[command(flatten)]
    pub(crate) log: crate::log::Log,
}

impl Run {
    /// Who may act.
    pub(crate) const fn election(&self) -> Election {
        if self.leader_election { Election::On { duration: self.lease_duration } } else { Election::Off }
    }

    /// What the controller is told.
    pub(crate) fn settings(self) -> Result<Settings> {
        pinned("module", &self.module_url, self.module_sha256.as_ref())?;
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
                GuardModule { url: self.module_url.to_string(), sha256: self.module_sha256.clone() }
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
        Ok(Settings {
            gateway_namespace: self.gateway_namespace,
            trusted_namespaces: self.trusted_namespaces.into_iter().collect(),
            flavor: self.flavor,
            module: Module {
                url: self.module_url.to_string(),
                sha256: self.module_sha256,
                image_pull_policy: self.image_pull_policy,
                image_pull_secret: self.image_pull_secret,
                fail_strategy: self.fail_strategy,
                phase: self.phase,
                priority: self.priority,
            },
            limit_module,
            guard: self.guard,
            guard_module,
            auth_plugins: self.auth_plugins,
            namespace_share: self.namespace_share,
            drain: self.drain,
        })
    }
}

/// What the gateway loads today must be what it loads tomorrow.
fn pinned(flag: &str, url: &ModuleUrl, sha256: Option<&String>) -> Result<()> {
    ensure!(
        url.is_pinned() || sha256.is_some(),
        "--{flag}-url: {url} names no version, and the gateway may run another module tomorrow: name a version, as in \
         oci://registry/ai-quota:1.0.0, a digest @sha256:..., or give --{flag}-sha256"
    );
    Ok(())
}

/// Exactly one of some words, which the help text lists.
fn one_of<T: Copy + Send + Sync + 'static>(words: &'static [(&'static str, T)]) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.iter().map(|(word, _)| *word)).try_map(move |text| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or("is none of the words above")
    })
}

fn namespace(text: &str) -> Result<String, &'static str> {
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

fn lease_duration(text: &str) -> Result<Duration, &'static str> {
    let fits = duration(text).ok().filter(|span| (3..=300).contains(&span.as_secs()));
    fits.ok_or("a lease lasts 3s to 300s, or 1m to 5m")
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let seconds = |digits: &str, unit: u64| digits.parse::<u16>().ok().map(|number| u64::from(number) * unit);
    let written = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(digits), _) => seconds(digits, 1),
        (_, Some(digits)) => seconds(digits, 60),
        (None, None) => None,
    };
    written.map(Duration::from_secs).ok_or("a time is a whole number of seconds or minutes, as 300s or 10m")
}

fn sha256(text: &str) -> Result<String, &'static str> {
    if is_sha256(text) { Ok(text.to_ascii_lowercase()) } else { Err("a SHA-256 is 64 hexadecimal digits") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: Run,
    }

    const MODULE: &str = "--module-url=oci://registry.example/ai-quota:1.0.0";

    fn settings(flags: &[&str]) -> Result<Settings, String> {
        let command = Command::try_parse_from(["aiquota"].iter().chain(flags)).map_err(|error| error.to_string())?;
        command.run.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn the_module_url_is_all_that_must_be_given() {
        let settings = settings(&[MODULE]).unwrap();
        assert_eq!(settings.gateway_namespace, "higress-system");
        assert_eq!((settings.flavor, settings.guard), (Flavor::Native, Guard::On));
        assert_eq!(settings.guard_module.url, settings.module.url);
        assert_eq!(settings.drain, Duration::from_secs(300));
        assert_eq!(settings.module.url, "oci://registry.example/ai-quota:1.0.0");
        assert_eq!((settings.module.phase, settings.module.priority), (Phase::Unspecified, 750));
        assert_eq!(settings.module.fail_strategy, FailStrategy::Close);
        assert_eq!(settings.module.image_pull_policy, PullPolicy::IfNotPresent);
    }

    #[test]
    fn every_flag_reaches_the_settings() {
        let sha256 = "AB".repeat(32);
        let settings = settings(&[
            "--module-url=file:///modules/ai-quota.wasm",
            &format!("--module-sha256={sha256}"),
            "--gateway-namespace=gateway",
            "--trusted-namespace=a",
            "--trusted-namespace=b",
            "--image-pull-policy=Always",
            "--image-pull-secret=pull.secret",
            "--fail-strategy=FAIL_OPEN",
            "--phase=AUTHZ",
            "--priority=7",
            "--guard=off",
            "--flavor=upstream",
            "--guard-module-url=oci://registry.example/guard:2.0.0",
            &format!("--guard-module-sha256={sha256}"),
            "--auth-plugin=sso",
            "--drain=90s",
            "--namespace-share=20",
            "--limit-module-url=oci://registry.example/limits:2.0.0",
            &format!("--limit-module-sha256={sha256}"),
            "--limit-priority=8",
        ])
        .unwrap();
        assert_eq!(
            settings,
            Settings {
                gateway_namespace: "gateway".into(),
                trusted_namespaces: ["a".into(), "b".into()].into(),
                flavor: Flavor::Upstream,
                module: Module {
                    url: "file:///modules/ai-quota.wasm".into(),
                    sha256: Some(sha256.to_lowercase()),
                    image_pull_policy: PullPolicy::Always,
                    image_pull_secret: Some("pull.secret".into()),
                    fail_strategy: FailStrategy::Open,
                    phase: Phase::Authz,
                    priority: 7,
                },
                limit_module: Some(LimitModule {
                    url: "oci://registry.example/limits:2.0.0".into(),
                    sha256: Some(sha256.to_lowercase()),
                    phase: Phase::Authz,
                    priority: 8,
                }),
                guard: Guard::Off,
                guard_module: GuardModule {
                    url: "oci://registry.example/guard:2.0.0".into(),
                    sha256: Some(sha256.to_lowercase()),
                },
                auth_plugins: vec!["sso".into()],
                namespace_share: 20,
                drain: Duration::from_secs(90),
            }
        );
    }

    #[test]
    fn one_of_several_controllers_acts_unless_the_administrator_says_that_there_is_one() {
        let election = |flags: &[&str]| {
            let flags = ["aiquota", MODULE].iter().chain(flags);
            Command::try_parse_from(flags).map(|command| command.run.election()).unwrap()
        };
        let on = |seconds| Election::On { duration: Duration::from_secs(seconds) };
        assert_eq!(election(&[]), on(15));
        assert_eq!(election(&["--lease-duration=3s"]), on(3));
        assert_eq!(election(&["--lease-duration=5m"]), on(300));
        assert_eq!(election(&["--leader-election=off", "--lease-duration=5s"]), Election::Off);
    }

    #[test]
    fn upstreams_module_needs_ours_for_the_guard_or_no_guard() {
        let with_guard =
            settings(&[MODULE, "--flavor=upstream", "--guard-module-url=oci://registry.example/guard:2.0.0"]).unwrap();
        assert_eq!(with_guard.guard_module.url, "oci://registry.example/guard:2.0.0");
        assert_eq!(with_guard.module.url, "oci://registry.example/ai-quota:1.0.0");
        assert_eq!(settings(&[MODULE, "--flavor=upstream", "--guard=off"]).unwrap().guard, Guard::Off);
    }

    #[test]
    fn what_is_refused_names_the_flag_and_the_remedy() {
        for (flags, flag, remedy) in [
            (&["--module-url=oci://registry.example/ai-quota:latest"][..], "--module-url", "name a version"),
            (&["--module-url=oci://registry.example/ai-quota"], "--module-url", "--module-sha256"),
            (&["--module-url=registry.example/ai-quota:1.0.0"], "--module-url", "oci://"),
            (&[MODULE, "--module-sha256=abc"], "--module-sha256", "64 hexadecimal"),
            (&[MODULE, "--gateway-namespace=A"], "--gateway-namespace", "a-z"),
            (&[MODULE, "--trusted-namespace=${x}"], "--trusted-namespace", "a-z"),
            (
                &[MODULE, "--limit-module-url=oci://registry.example/limits"],
                "--limit-module-url",
                "--limit-module-sha256",
            ),
            (&[MODULE, "--limit-priority=1001"], "--limit-priority", "1..=1000"),
            (&[MODULE, "--guard=maybe"], "--guard", "off"),
            (&[MODULE, "--drain=5"], "--drain", "300s or 10m"),
            (&[MODULE, "--namespace-share=0"], "--namespace-share", "1..=100"),
            (&[MODULE, "--priority=0"], "--priority", "1..=1000"),
            (&[MODULE, "--leader-election=maybe"], "--leader-election", "off"),
            (&[MODULE, "--lease-duration=2s"], "--lease-duration", "3s to 300s"),
            (&[MODULE, "--lease-duration=6m"], "--lease-duration", "1m to 5m"),
            (&[MODULE, "--lease-duration=15"], "--lease-duration", "3s to 300s"),
            (&[MODULE, "--flavor=sidestream"], "--flavor", "upstream"),
            (&[MODULE, "--flavor=upstream"], "--guard-module-url", "--guard=off"),
            (
                &[MODULE, "--guard-module-url=oci://registry.example/guard"],
                "--guard-module-url",
                "--guard-module-sha256",
            ),
            (
                &[MODULE, &format!("--guard-module-sha256={}", "a".repeat(64))],
                "--guard-module-sha256",
                "--guard-module-url",
            ),
            (&[], "--module-url", "required"),
        ] {
            let error = settings(flags).unwrap_err();
            assert!(error.contains(flag) && error.contains(remedy), "{flags:?}: {error}");
        }
    }
}
