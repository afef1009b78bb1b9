//! `redis` of a rule as an AIQuotaStore: each endpoint once, and no password ever shown. Pure.

use enforcement::rules::lenient::{integer, text};
use enforcement::values::{DEFAULT_TIMEOUT_MS, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN};
use serde_json::{Map, Value, json};

use super::report::{Finding, Kind};
use super::rules::At;

/// The endpoints that rules name, in order.
#[derive(Default)]
pub(crate) struct Stores {
    found: Vec<Redis>,
}

#[derive(Clone, PartialEq, Eq)]
struct Redis {
    service: String,
    port: i64,
    database: i64,
    timeout_ms: u32,
    username: Credential,
    password: Credential,
}

#[derive(Clone, PartialEq, Eq)]
enum Credential {
    None,
    /// In the configuration itself.
    Literal(String),
    /// `${secret.<namespace>/<name>.<key>}`
    Secret {
        name: String,
        key: String,
    },
}

impl Stores {
    /// The number of the store of a rule; nothing where that has no equivalent.
    pub(crate) fn of(
        &mut self,
        config: &Map<String, Value>,
        gateway_namespace: &str,
        at: &At,
        findings: &mut Vec<Finding>,
    ) -> Option<usize> {
        let redis = config.get("redis")?;
        let mut credential = |field: &str| {
            let found = Credential::of(&text(redis.get(field)), gateway_namespace);
            if found.is_none() {
                let message = format!("a template that is no Secret's in namespace {gateway_namespace}");
                findings.push(at.finding(Kind::Lost, &format!("redis.{field}"), message));
            }
            found
        };
        let (username, password) = (credential("username")?, credential("password")?);
        let service = text(redis.get("service_name"));
        let port = match integer(redis.get("service_port")) {
            0 if service.ends_with(".static") => 80,
            0 => 6379,
            port => port,
        };
        let asked = match integer(redis.get("timeout")) {
            0 => i64::from(DEFAULT_TIMEOUT_MS),
            timeout => timeout,
        };
        let timeout_ms = u32::try_from(asked).unwrap_or(TIMEOUT_MS_MAX).clamp(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX);
        if i64::from(timeout_ms) != asked {
            let message = format!("a store waits 10 ms to 60 s: {timeout_ms} ms instead of {asked} ms");
            findings.push(at.finding(Kind::Differs, "redis.timeout", message));
        }
        match (&username, &password) {
            (Credential::None, _) | (Credential::Literal(_), Credential::Literal(_)) => {}
            (Credential::Secret { name: a, .. }, Credential::Secret { name: b, .. }) if a == b => {}
            _ => {
                let message = "user name and password of a store come from one Secret: put both into one";
                findings.push(at.finding(Kind::Lost, "redis.username", message));
                return None;
            }
        }
        let database = integer(redis.get("database"));
        let redis = Redis { service, port, database, timeout_ms, username, password };
        if let Some(index) = self.found.iter().position(|known| *known == redis) {
            return Some(index);
        }
        let differs = |known: &&Redis| known.service == redis.service && known.port == redis.port;
        if self.found.iter().any(|known| differs(&known)) {
            let message = "another rule has other options of the same service; plugins share one client per service, and \
                           only the first of two such stores is accepted: make them equal";
            findings.push(at.finding(Kind::Differs, "redis", message));
        }
        let index = self.found.len();
        let name = self.name(index);
        if matches!(redis.password, Credential::Literal(_)) {
            let user = if redis.username == Credential::None { "" } else { " --from-literal=username=<it>" };
            let message = format!(
                "the password stands in the WasmPlugin; the store takes it from a Secret: kubectl create secret generic \
                 {name}-redis -n {gateway_namespace}{user} --from-literal=password=<it>"
            );
            findings.push(at.finding(Kind::ToDo, "redis.password", message));
        }
        self.found.push(redis);
        Some(index)
    }

    /// `default` for the first, so that most objects need not name theirs.
    pub(crate) fn name(&self, index: usize) -> String {
        if index == 0 { "default".to_owned() } else { format!("redis-{}", index + 1) }
    }

    pub(crate) fn objects(&self, gateway_namespace: &str) -> Vec<Value> {
        let object = |(index, redis): (usize, &Redis)| {
            let Redis { service, port, database, timeout_ms, username, password } = redis;
            let name = self.name(index);
            let timeout =
                if timeout_ms % 1_000 == 0 { format!("{}s", timeout_ms / 1_000) } else { format!("{timeout_ms}ms") };
            let mut spec = json!({"service": {"name": service, "port": port}, "timeout": timeout});
            if *database != 0 {
                spec["database"] = json!(database);
            }
            let mut auth = match password {
                Credential::None => Value::Null,
                Credential::Literal(_) => json!({"secretName": format!("{name}-redis"), "passwordKey": "password"}),
                Credential::Secret { name, key } => json!({"secretName": name, "passwordKey": key}),
            };
            match username {
                Credential::None => {}
                Credential::Literal(_) => auth["usernameKey"] = json!("username"),
                Credential::Secret { key, .. } => auth["usernameKey"] = json!(key),
            }
            if !auth.is_null() {
                spec["auth"] = auth;
            }
            json!({
                "apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuotaStore",
                "metadata": {"name": name, "namespace": gateway_namespace}, "spec": spec,
            })
        };
        self.found.iter().enumerate().map(object).collect()
    }
}

impl Credential {
    fn of(text: &str, gateway_namespace: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::None);
        }
        if !text.contains("${") {
            return Some(Self::Literal(text.to_owned()));
        }
        let inner = text.strip_prefix("${secret.")?.strip_suffix('}')?;
        let (namespace, rest) = inner.split_once('/')?;
        let (name, key) = rest.split_once('.')?;
        (namespace == gateway_namespace).then(|| Self::Secret { name: name.to_owned(), key: key.to_owned() })
    }
}
