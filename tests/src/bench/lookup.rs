//! What finding a request's rule costs, natively, by the number of rules. Nothing comes in, figures go out.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use enforcement::config::{Config, Policies};
use enforcement::quota::config::Policy;
use enforcement::rules::Subject;
use serde_json::json;

const MEASURED: Duration = Duration::from_millis(500);

/// Rules, and nanoseconds that one lookup takes on average over all their routes.
///
/// # Errors
/// When a configuration made here is not read.
pub fn run() -> Result<Vec<(usize, f64)>> {
    [1, 1_000, 10_000].into_iter().map(|rules| Ok((rules, measure(rules)?))).collect()
}

/// The native configuration of so many routes, one rule each, the routes as names of AI routes.
#[must_use]
pub fn configuration(rules: usize) -> String {
    let rules: Vec<_> =
        (0..rules).map(|n| json!({"_match_route_": [route(n)], "policy": "higress-system/chat"})).collect();
    json!({
        "aiquota": {
            "version": enforcement::wire::VERSION,
            "stores": {"default": {"service": "local-redis.static", "port": 80, "timeoutMs": 1000}},
            "policies": {"higress-system/chat": {
                "store": "default", "keyPrefix": "chat_quota:", "owner": "bench/higress-system/chat",
                "paths": ["/v1/chat/completions"],
            }},
        },
        "_rules_": rules,
    })
    .to_string()
}

#[must_use]
pub fn route(n: usize) -> String {
    format!("ai-route-{n}.internal")
}

fn measure(rules: usize) -> Result<f64> {
    let config = Config::parse(configuration(rules).as_bytes())?;
    let Config::Policies(quota) = config else { anyhow::bail!("a guard has no rules") };
    let routes: Vec<String> = (0..rules).map(route).collect();
    let find = |quota: &Policies<Policy>, route: &str| {
        let subject = Subject { route: route.as_bytes(), ..Subject::default() };
        quota.target(black_box(&subject)).is_some()
    };
    anyhow::ensure!(routes.iter().all(|route| find(&quota, route)), "a route has no rule");
    let (begun, mut done) = (Instant::now(), 0_u32);
    while begun.elapsed() < MEASURED {
        for route in routes.iter().cycle().take(1_000) {
            black_box(find(&quota, route));
        }
        done += 1_000;
    }
    let took = begun.elapsed().as_secs_f64();
    Ok(took * 1e9 / f64::from(done))
}
