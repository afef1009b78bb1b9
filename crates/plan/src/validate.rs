//! Whether a spec may be what it is: objects in, refusals by field out. It refuses what the CRD's schema refuses,
//! by the same constants; where the two differ, this one decides. Pure.

pub(crate) mod admission;
mod limit;
mod models;

use std::{collections::HashSet, fmt};

use api::{
    Admin, AiQuota, AiQuotaSpec, AiQuotaStore, AiQuotaStoreSpec, Auth, CONSUMERS_MAX, Consumer, Refresh, RefreshMode,
    TARGET_NAME_MAX_LENGTH, TARGETS_MAX, TargetKind, TargetRef,
};
use enforcement::values::{
    ADMIN_BASE_PATH, CONSUMER_MAX_LENGTH, DATABASE_MAX, DEFAULT_ADMIN_PATH, DEFAULT_PATHS, KEY_PREFIX_MAX_LENGTH,
    MAX_AMOUNT, PATH_MAX_LENGTH, PATHS_MAX, RESERVED_KEY_PREFIX, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, WARN_AT_MAX,
    WARN_AT_MIN, is_admin_path, is_amount, is_consumer, is_key_prefix, is_path,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{cron::Pattern, schedule};

pub(crate) use limit::seconds;
pub use limit::validate_limit;

/// One field that is refused, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As in `spec.consumers[3].name`.
    pub field: String,
    pub reason: Refused,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Required,
    TooLong,
    TooMany,
    /// Characters that may not stand there, or not in that place.
    Characters,
    OutOfRange,
    Duplicate,
    /// Given where it may not be, or together with what it excludes.
    Excluded,
    /// The name of something that there is not.
    Unknown,
    /// Not readable at all: of another type, or a field there is not.
    Unreadable,
    /// Valid, but the gateway's module has no means for it.
    Unsupported,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, reason: _, message } = self;
        write!(f, "{field}: {message}")
    }
}

/// # Errors
/// Every field that is refused, in the order of the spec.
pub fn validate(quota: &AiQuota) -> Result<(), Vec<Refusal>> {
    let AiQuotaSpec {
        target_refs,
        allow_narrower,
        store_ref,
        key_prefix,
        admin,
        consumers,
        default_quota,
        refresh,
        models,
        paths,
        admission,
        reservation,
        mode: _,
        on_store_failure: _,
        on_missing_usage: _,
        unlisted_paths: _,
        rate_limit_headers: _,
        errors: _,
        include_usage: _,
        warn_at,
        deletion_policy: _,
    } = &quota.spec;
    let mut check = Check::default();
    check.metadata(&quota.metadata);
    check.targets(target_refs);
    check.narrower(*allow_narrower, target_refs);
    if let Some(store) = store_ref {
        check.name("spec.storeRef.name", &store.name);
    }
    if let Some(prefix) = key_prefix {
        check.key_prefix(prefix);
    }
    if let Some(admin) = admin {
        check.admin(admin, paths.as_deref());
    }
    check.consumers("spec.consumers", consumers);
    if let Some(amount) = default_quota {
        check.amount("spec.defaultQuota", *amount);
    }
    if let Some(refresh) = refresh {
        check.refresh(refresh);
    }
    check.models(models);
    if let Some(paths) = paths {
        check.paths(paths);
    }
    check.warn_at(*warn_at);
    check.admission(*admission, *reservation);
    check.done()
}

/// # Errors
/// Every field that is refused, in the order of the spec.
pub fn validate_store(store: &AiQuotaStore) -> Result<(), Vec<Refusal>> {
    let AiQuotaStoreSpec { service, address, database, timeout, auth } = &store.spec;
    let mut check = Check::default();
    check.metadata(&store.metadata);
    if !(1..=TARGET_NAME_MAX_LENGTH).contains(&service.name.len()) {
        check.length("spec.service.name", service.name.len(), TARGET_NAME_MAX_LENGTH);
    } else if !wraps(&service.name, |byte| byte.is_ascii_alphanumeric(), |byte| matches!(byte, b'-' | b'.' | b'_')) {
        check.refuse("spec.service.name", Refused::Characters, "must be letters, digits, `-`, `.` and `_`");
    }
    if service.port == Some(0) {
        check.refuse("spec.service.port", Refused::OutOfRange, "must be 1 to 65535");
    }
    if let Some(address) = address
        && host_and_port(address).is_none()
    {
        check.refuse("spec.address", Refused::Characters, "must be redis://<host>:<port>, the port 1 to 65535");
    }
    if database.is_some_and(|database| database > DATABASE_MAX) {
        check.refuse("spec.database", Refused::OutOfRange, format!("must be 0 to {DATABASE_MAX}"));
    }
    if let Some(timeout) = timeout {
        match milliseconds(timeout) {
            None => {
                check.refuse("spec.timeout", Refused::Characters, "must be a number and ms or s, as in 500ms or 2s");
            }
            Some(TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX) => {}
            Some(_) => check.refuse("spec.timeout", Refused::OutOfRange, "must be 10ms to 60s"),
        }
    }
    if let Some(Auth { secret_name, username_key, password_key }) = auth {
        let plain =
            |text: &str| wraps(text, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit(), |byte| byte == b'-');
        check.text(
            "spec.auth.secretName",
            secret_name,
            TARGET_NAME_MAX_LENGTH,
            plain,
            "must be lower-case letters, digits and `-`, without a dot",
        );
        let key = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        for (field, text) in [("spec.auth.usernameKey", username_key), ("spec.auth.passwordKey", password_key)] {
            if let Some(text) = text {
                check.text(
                    field,
                    text,
                    TARGET_NAME_MAX_LENGTH,
                    key,
                    "must be letters, digits, `-` and `_`, without a dot",
                );
            }
        }
    }
    check.done()
}

/// The host and port of `redis://<host>:<port>`; an IPv6 address stands in brackets.
pub(crate) fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.strip_prefix("redis://")?.rsplit_once(':')?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = match inner {
        Some(ip) => !ip.is_empty() && ip.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')),
        None => {
            host.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        }
    };
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (plain && digits && address.len() <= 280).then_some((inner.unwrap_or(host), port))
}

/// The milliseconds of `500ms` or `2s`.
pub(crate) fn milliseconds(text: &str) -> Option<u32> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s')?, 1_000),
    };
    let written = (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (written && !digits.starts_with('0')).then(|| digits.parse::<u32>().ok()).flatten().map(|number| number * unit)
}

#[derive(Default)]
struct Check(Vec<Refusal>);

impl Check {
    fn done(self) -> Result<(), Vec<Refusal>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }

    fn refuse(&mut self, field: impl Into<String>, reason: Refused, message: impl Into<String>) {
        self.0.push(Refusal { field: field.into(), reason, message: message.into() });
    }

    fn length(&mut self, field: impl Into<String>, length: usize, max: usize) {
        if length == 0 {
            self.refuse(field, Refused::Required, "must not be empty");
        } else {
            self.refuse(field, Refused::TooLong, format!("has {length} characters, at most {max} may be"));
        }
    }

    fn text(&mut self, field: &str, text: &str, max: usize, allowed: impl Fn(&str) -> bool, message: &str) {
        if !(1..=max).contains(&text.len()) {
            self.length(field, text.len(), max);
        } else if !allowed(text) {
            self.refuse(field, Refused::Characters, message);
        }
    }

    fn metadata(&mut self, metadata: &ObjectMeta) {
        self.name("metadata.name", metadata.name.as_deref().unwrap_or_default());
        self.name("metadata.namespace", metadata.namespace.as_deref().unwrap_or_default());
    }

    fn name(&mut self, field: &str, name: &str) {
        self.text(
            field,
            name,
            TARGET_NAME_MAX_LENGTH,
            is_name,
            "must be lower-case letters, digits, `-` and `.`, as Kubernetes names are",
        );
    }

    fn targets(&mut self, targets: &[TargetRef]) {
        if targets.is_empty() {
            self.refuse("spec.targetRefs", Refused::Required, "must name at least one target");
        } else if targets.len() > TARGETS_MAX {
            self.refuse(
                "spec.targetRefs",
                Refused::TooMany,
                format!("has {} targets, at most {TARGETS_MAX} may be", targets.len()),
            );
        }
        let mut seen = HashSet::new();
        for (index, target) in targets.iter().enumerate() {
            let field = format!("spec.targetRefs[{index}].name");
            match (target.kind, target.name.as_deref()) {
                (TargetKind::Gateway, None) => {}
                (TargetKind::Gateway, Some(_)) => {
                    self.refuse(field, Refused::Excluded, "kind Gateway is the whole gateway and has no name");
                }
                (kind, None) => self.refuse(field, Refused::Required, format!("kind {kind} needs a name")),
                (TargetKind::Domain, Some(name)) => {
                    let domain = |name: &str| is_name(name.strip_prefix("*.").unwrap_or(name));
                    self.text(
                        &field,
                        name,
                        TARGET_NAME_MAX_LENGTH,
                        domain,
                        "must be a host name in lower case, which may begin with *.",
                    );
                }
                (_, Some(name)) => self.name(&field, name),
            }
            if !seen.insert(target) {
                self.refuse(
                    "spec.targetRefs",
                    Refused::Duplicate,
                    format!("targetRefs[{index}] is there already: list each target once"),
                );
            }
        }
    }

    fn narrower(&mut self, allow_narrower: Option<bool>, targets: &[TargetRef]) {
        if allow_narrower.is_some() && !targets.iter().any(|target| target.kind.is_wide()) {
            self.refuse(
                "spec.allowNarrower",
                Refused::Excluded,
                "only a target of kind Gateway or Domain has narrower ones: leave it out",
            );
        }
    }

    fn key_prefix(&mut self, prefix: &str) {
        const FIELD: &str = "spec.keyPrefix";
        if !(1..=KEY_PREFIX_MAX_LENGTH).contains(&prefix.len()) {
            self.length(FIELD, prefix.len(), KEY_PREFIX_MAX_LENGTH);
        } else if !is_key_prefix(prefix.as_bytes()) {
            self.refuse(FIELD, Refused::Characters, "must be visible ASCII characters without braces");
        } else if prefix.starts_with(RESERVED_KEY_PREFIX) || RESERVED_KEY_PREFIX.starts_with(prefix) {
            // With a consumer's name behind it, neither may reach the balances of others.
            self.refuse(
                FIELD,
                Refused::Excluded,
                format!(
                    "must neither begin with {RESERVED_KEY_PREFIX}, which is for prefixes that are not chosen, nor be \
                     a beginning of that"
                ),
            );
        }
    }

    fn admin(&mut self, admin: &Admin, paths: Option<&[String]>) {
        let Admin { consumer, path } = admin;
        self.consumer("spec.admin.consumer", consumer);
        let path = path.as_deref().unwrap_or(DEFAULT_ADMIN_PATH);
        let message = "must begin with `/` and be visible ASCII characters without braces, `?` and `#`";
        let before = self.0.len();
        self.text("spec.admin.path", path, PATH_MAX_LENGTH, |path| is_admin_path(path.as_bytes()), message);
        let metered = |suffix: &str| {
            ["", "/refresh", "/delta"].iter().any(|end| format!("{ADMIN_BASE_PATH}{path}{end}").ends_with(suffix))
        };
        let hidden = match paths {
            Some(paths) => paths.iter().any(|suffix| metered(suffix)),
            None => DEFAULT_PATHS.iter().any(|suffix| metered(suffix)),
        };
        if hidden && before == self.0.len() {
            self.refuse(
                "spec.admin",
                Refused::Excluded,
                "the admin API would be taken for a metered path: choose another admin.path or another suffix in paths",
            );
        }
    }

    fn consumers(&mut self, field: &str, consumers: &[Consumer]) {
        if consumers.len() > CONSUMERS_MAX {
            self.refuse(
                field,
                Refused::TooMany,
                format!("has {} consumers, at most {CONSUMERS_MAX} may be", consumers.len()),
            );
        }
        let mut seen = HashSet::with_capacity(consumers.len());
        for (index, consumer) in consumers.iter().enumerate() {
            let Consumer { name, quota, unlimited } = consumer;
            let at = |inner: &str| format!("{field}[{index}]{inner}");
            if !is_consumer(name.as_bytes()) {
                self.consumer(&at(".name"), name);
            }
            if !seen.insert(name) {
                self.refuse(at(""), Refused::Duplicate, "this name is there already: list each consumer once");
            }
            if let Some(amount) = quota
                && !is_amount(*amount)
            {
                self.amount(&at(".quota"), *amount);
            }
            if quota.is_some() == unlimited.unwrap_or(false) {
                self.refuse(at(""), Refused::Excluded, "exactly one of quota and unlimited: true must be given");
            }
        }
    }

    fn consumer(&mut self, field: &str, name: &str) {
        let message = "must be visible ASCII characters without blanks and braces";
        self.text(field, name, CONSUMER_MAX_LENGTH, |name| is_consumer(name.as_bytes()), message);
    }

    fn amount(&mut self, field: &str, amount: i64) {
        if !is_amount(amount) {
            self.refuse(field, Refused::OutOfRange, format!("must be 0 to {MAX_AMOUNT} tokens"));
        }
    }

    fn refresh(&mut self, refresh: &Refresh) {
        let Refresh { schedule, time_zone, mode, max_balance } = refresh;
        if let Err(problem) = Pattern::parse(schedule) {
            self.refuse("spec.refresh.schedule", problem.refused(), problem.to_string());
        }
        if let Some(Err(problem)) = time_zone.as_deref().map(schedule::zone) {
            self.refuse("spec.refresh.timeZone", problem.0, problem.to_string());
        }
        const CAP: &str = "spec.refresh.maxBalance";
        match (mode.unwrap_or_default(), max_balance) {
            (RefreshMode::CarryOver, None) => self.refuse(CAP, Refused::Required, "is required with mode CarryOver"),
            (RefreshMode::CarryOver, Some(cap)) => self.amount(CAP, *cap),
            (_, Some(_)) => self.refuse(CAP, Refused::Excluded, "is allowed with mode CarryOver only"),
            (_, None) => {}
        }
    }

    fn warn_at(&mut self, percent: Option<u8>) {
        if percent.is_some_and(|percent| !(WARN_AT_MIN..=WARN_AT_MAX).contains(&percent)) {
            self.refuse("spec.warnAt", Refused::OutOfRange, format!("must be {WARN_AT_MIN} to {WARN_AT_MAX}"));
        }
    }

    fn paths(&mut self, paths: &[String]) {
        if paths.is_empty() {
            self.refuse(
                "spec.paths",
                Refused::Required,
                "must have at least one suffix; leave it out for the usual ones",
            );
        } else if paths.len() > PATHS_MAX {
            self.refuse(
                "spec.paths",
                Refused::TooMany,
                format!("has {} suffixes, at most {PATHS_MAX} may be", paths.len()),
            );
        }
        let mut seen = HashSet::new();
        for (index, path) in paths.iter().enumerate() {
            let field = format!("spec.paths[{index}]");
            let message = "must begin with `/` or `:` and be visible ASCII characters without braces, `?` and `#`";
            self.text(&field, path, PATH_MAX_LENGTH, |path| is_path(path.as_bytes()), message);
            if !seen.insert(path) {
                self.refuse(field, Refused::Duplicate, "this suffix is there already: list each once");
            }
        }
    }
}

/// Whether it is a name as Kubernetes makes them; nothing else becomes part of a rule.
fn is_name(name: &str) -> bool {
    name.len() <= TARGET_NAME_MAX_LENGTH
        && wraps(name, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit(), |byte| matches!(byte, b'-' | b'.'))
}

/// Whether it begins and ends with an outer character and has only outer and inner ones.
fn wraps(text: &str, outer: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|byte| outer(*byte))
        && bytes.last().is_some_and(|byte| outer(*byte))
        && bytes.iter().all(|byte| outer(*byte) || inner(*byte))
}
