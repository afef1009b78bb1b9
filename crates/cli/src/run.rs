//! `aiquota run`: flags and environment in, the controller's settings out; what would start and then do something
//! else than was meant is refused. No I/O.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgAction, Args};
use controller::{Election, Operations};
use plan::Settings;

use crate::settings::{Flags, one_of};

/// Run the controller: it turns AIQuota objects into WasmPlugins and Redis balances
#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    flags: Flags,

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

    /// Where /healthz (whether it goes on), /readyz (whether it knows all objects, leading or standing by) and /metrics
    /// are served, to GET and without secrets: an address and a port; [::] is every address, of IPv4 too
    #[arg(long, env = "AIQUOTA_LISTEN", value_name = "ADDRESS:PORT", default_value = "[::]:8080")]
    listen: SocketAddr,

    /// How many listed consumers have metrics of their own, by name, with what they were granted, spent and have left:
    /// the fullest first, and a metric tells how many are left out. 0: none, as names of consumers may not be for all
    /// who read metrics
    #[arg(long, env = "AIQUOTA_CONSUMER_METRICS", value_name = "NUMBER", default_value = "0")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=10_000))]
    consumer_metrics: u16,

    #[command(flatten)]
    pub(crate) log: crate::log::Log,
}

impl Run {
    /// Who may act.
    pub(crate) const fn election(&self) -> Election {
        if self.leader_election { Election::On { duration: self.lease_duration } } else { Election::Off }
    }

    /// How it is looked after.
    pub(crate) fn operations(&self) -> Operations {
        Operations { listen: self.listen, consumer_metrics: usize::from(self.consumer_metrics) }
    }

    /// What the controller is told.
    pub(crate) fn settings(self) -> Result<Settings> {
        self.flags.settings(self.drain)
    }
}

fn lease_duration(text: &str) -> Result<Duration, &'static str> {
    let fits = duration(text).ok().filter(|span| (3..=300).contains(&span.as_secs()));
    fits.ok_or("a lease lasts 3s to 300s, or 1m to 5m")
}

pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    let seconds = |digits: &str, unit: u64| digits.parse::<u16>().ok().map(|number| u64::from(number) * unit);
    let written = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(digits), _) => seconds(digits, 1),
        (_, Some(digits)) => seconds(digits, 60),
        (None, None) => None,
    };
    written.map(Duration::from_secs).ok_or("a time is a whole number of seconds or minutes, as 300s or 10m")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use enforcement::wire::limit::Dialect;
    use plan::{FailStrategy, Flavor, Guard, GuardModule, LimitModule, Module, Phase, PullPolicy};

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
        assert_eq!(settings.limit_dialect, Dialect::V2);
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
            "--limit-dialect=v1",
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
                limit_dialect: Dialect::V1,
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
    fn a_module_that_may_be_another_tomorrow_is_taken_on_the_administrators_word() {
        for url in ["oci://registry.example/ai-quota:latest", "oci://registry.example/ai-quota"] {
            let settings = settings(&[&format!("--module-url={url}"), "--allow-unpinned-modules"]).unwrap();
            assert_eq!(settings.module.url, url);
        }
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
            (
                &[MODULE, "--limit-module-url=oci://registry.example/limits:latest"],
                "--limit-module-url",
                "name a version",
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
            (&[MODULE, "--limit-dialect=v3"], "--limit-dialect", "v1, v2"),
            (&[MODULE, "--limit-dialect=v1"], "--limit-dialect=v1", "--flavor=upstream"),
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
            (&[MODULE, "--listen=8080"], "--listen", "socket address"),
            (&[MODULE, "--consumer-metrics=10001"], "--consumer-metrics", "0..=10000"),
            (&[], "--module-url", "required"),
        ] {
            let error = settings(flags).unwrap_err();
            assert!(error.contains(flag) && error.contains(remedy), "{flags:?}: {error}");
        }
    }
}
