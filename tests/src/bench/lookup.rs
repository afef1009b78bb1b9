//! What finding a request's rule costs, natively, by the number of rules. Nothing comes in, figures go out.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use enforcement::config::{Config, Policies, Policy, Target};
use enforcement::{limit, quota, rules::Subject};
use serde_json::{Value, json};

const MEASURED: Duration = Duration::from_millis(500);

/// Rules, and nanoseconds that one lookup takes on average over all their routes: among quotas, and among limits.
///
/// # Errors
/// When a configuration made here is not read.
pub fn run() -> Result<Vec<(usize, [f64; 2])>> {
    let figures = |rules| {
        let quotas = measure::<quota::config::Policy>(&balances(), rules)?;
        Ok((rules, [quotas, measure::<limit::config::Policy>(&counters(1, 1), rules)?]))
    };
    [1, 1_000, 10_000].into_iter().map(figures).collect()
}

/// The native configuration of so many routes, one rule each, all with this policy; the routes as names of AI routes.
#[must_use]
pub fn configuration(policy: &Value, routes: usize) -> String {
    let rules: Vec<_> =
        (0..routes).map(|n| json!({"_match_route_": [route(n)], "policy": "higress-system/chat"})).collect();
    json!({
        "aiquota": {
            "version": enforcement::wire::VERSION,
            "stores": {"default": {"service": "local-redis.static", "port": 80, "timeoutMs": 1000}},
            "policies": {"higress-system/chat": policy},
        },
        "_rules_": rules,
    })
    .to_string()
}

/// A policy of quotas.
#[must_use]
pub fn balances() -> Value {
    json!({
        "store": "default", "keyPrefix": "chat_quota:", "owner": "bench/higress-system/chat",
        "paths": ["/v1/chat/completions"],
    })
}

/// A policy of so many rules of limits, each with so many exact keys.
#[must_use]
pub fn counters(rules: usize, keys: usize) -> Value {
    let exact = |n: usize| json!({"match": {"exact": key(n)}, "tokens": 1_000_000, "windowSeconds": 60});
    let rule = |n: usize| json!({"by": {"header": header(n)}, "limits": (0..keys).map(exact).collect::<Vec<_>>()});
    json!({
        "store": "default", "ruleName": "higress-system.chat", "paths": ["/v1/chat/completions"],
        "rules": (0..rules).map(rule).collect::<Vec<_>>(),
    })
}

#[must_use]
pub fn header(n: usize) -> String {
    format!("x-tenant-{n}")
}

#[must_use]
pub fn key(n: usize) -> String {
    format!("tenant-{n:06}")
}

#[must_use]
pub fn route(n: usize) -> String {
    format!("ai-route-{n}.internal")
}

fn measure<P: Policy>(policy: &Value, rules: usize) -> Result<f64> {
    let config = Config::<P>::parse(configuration(policy, rules).as_bytes())?;
    let Config::Policies(policies) = config else { anyhow::bail!("a guard has no rules") };
    let routes: Vec<String> = (0..rules).map(route).collect();
    let find = |policies: &Policies<P>, route: &str| {
        let subject = Subject { route: route.as_bytes(), ..Subject::default() };
        matches!(policies.target(black_box(&subject)), Some(Target::Enforce { .. }))
    };
    anyhow::ensure!(routes.iter().all(|route| find(&policies, route)), "a route has no rule that is enforced");
    let (begun, mut done) = (Instant::now(), 0_u32);
    while begun.elapsed() < MEASURED {
        for route in routes.iter().cycle().take(1_000) {
            black_box(find(&policies, route));
        }
        done += 1_000;
    }
    let took = begun.elapsed().as_secs_f64();
    Ok(took * 1e9 / f64::from(done))
}
