//! What the administrator says on the command line. Data only.

use std::{collections::BTreeSet, time::Duration};

use enforcement::wire::limit::Dialect;

use crate::ObjectKind;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// WasmPlugins, McpBridges, stores and secrets are here.
    pub gateway_namespace: String,
    /// Namespaces that may target Gateways, Domains and Services and choose key prefixes, besides the gateway's.
    pub trusted_namespaces: BTreeSet<String>,
    /// Whose module enforces quotas.
    pub flavor: Flavor,
    pub module: Module,
    /// Where token rate limits are enforced; nothing where they are not: what is programmed stays as it is.
    pub limit_module: Option<LimitModule>,
    /// Of which generation upstream's module for token rate limits is. Ours has the second's rules, whatever is said.
    pub limit_dialect: Dialect,
    pub guard: Guard,
    /// Where the guard is loaded from: always a module of ours.
    pub guard_module: GuardModule,
    /// WasmPlugins that authenticate consumers, besides those known by name.
    pub auth_plugins: Vec<String>,
    /// What one namespace that is not trusted may take of a WasmPlugin, in percent.
    pub namespace_share: u8,
    /// How long after their last rule requests may still be under way: balances are not deleted before.
    pub drain: Duration,
}

/// Whose ai-quota module enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Ours.
    Native,
    /// The one that comes with Higress.
    Upstream,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardModule {
    pub url: String,
    pub sha256: Option<String>,
}

/// How the gateway loads the ai-quota module, and where in its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub url: String,
    pub sha256: Option<String>,
    pub image_pull_policy: PullPolicy,
    pub image_pull_secret: Option<String>,
    pub fail_strategy: FailStrategy,
    pub phase: Phase,
    pub priority: i32,
}

/// How the gateway loads the ai-token-ratelimit module, and where in its chain; all else is as for ai-quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitModule {
    pub url: String,
    pub sha256: Option<String>,
    pub phase: Phase,
    pub priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    IfNotPresent,
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailStrategy {
    Open,
    Close,
}

/// In the order in which the gateway runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Authn,
    Authz,
    Stats,
    Unspecified,
}

/// Whether the identity header of clients is removed at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    On,
    Off,
}

impl Settings {
    /// Whether objects of this namespace may choose a key prefix and reach beyond their own routes.
    #[must_use]
    pub fn trusts(&self, namespace: &str) -> bool {
        namespace == self.gateway_namespace || self.trusted_namespaces.contains(namespace)
    }

    /// The module that enforces objects of this kind, as the gateways are told to load it: for everybody's eyes.
    pub(crate) fn image(&self, kind: ObjectKind) -> String {
        let image = |url: &str, sha256: &Option<String>| match sha256 {
            Some(sha256) => format!("module {}, sha256 {sha256}", public(url)),
            None => format!("module {}", public(url)),
        };
        match (kind, &self.limit_module) {
            (ObjectKind::AiQuota, _) => image(&self.module.url, &self.module.sha256),
            (ObjectKind::AiTokenRateLimit, Some(module)) => image(&module.url, &module.sha256),
            (ObjectKind::AiTokenRateLimit, None) => String::new(),
        }
    }
}

/// A url without what may let somebody in: user, password, query.
fn public(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}://{host}{path}")
}

impl PullPolicy {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
        }
    }
}

impl FailStrategy {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "FAIL_OPEN",
            Self::Close => "FAIL_CLOSE",
        }
    }
}

impl Phase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authn => "AUTHN",
            Self::Authz => "AUTHZ",
            Self::Stats => "STATS",
            Self::Unspecified => "UNSPECIFIED_PHASE",
        }
    }

    /// The phase of a WasmPlugin: none and unknown ones run last.
    pub(crate) fn of(text: Option<&str>) -> Self {
        match text {
            Some("AUTHN") => Self::Authn,
            Some("AUTHZ") => Self::Authz,
            Some("STATS") => Self::Stats,
            _ => Self::Unspecified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_may_read_of_a_url_lets_nobody_in() {
        for (url, shown) in [
            ("oci://registry.example/ai-quota:1.0.0", "oci://registry.example/ai-quota:1.0.0"),
            ("oci://registry.example/ai-quota@sha256:ab", "oci://registry.example/ai-quota@sha256:ab"),
            ("https://user:token@files.example/1.0.0.wasm?signature=s", "https://files.example/1.0.0.wasm"),
            ("http://us@er:p@files.example", "http://files.example"),
            ("file:///opt/ai-quota.wasm#p", "file:///opt/ai-quota.wasm"),
        ] {
            assert_eq!(public(url), shown);
        }
    }
}
