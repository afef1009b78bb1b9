//! WasmPlugins written by hand, rule by rule: which are ours to import, what each rule is over as our targets, and what of
//! that has no equivalent. Pure.

use std::collections::HashSet;

use api::{MatchRule, WasmPlugin};
use enforcement::config::{Config, ConfigError, Policy, Target};
use enforcement::rules::Subject;
use enforcement::wire::KEY;
use plan::Key;
use serde_json::{Map, Value, json};

use super::report::{Finding, Kind};
use crate::files::Document;

/// A WasmPlugin, and where it came from.
pub(crate) struct Source {
    pub(crate) plugin: WasmPlugin,
    /// Nothing: the cluster.
    pub(crate) document: Option<Document>,
}

/// A configuration and what it is over.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) config: Map<String, Value>,
    /// By namespace of our objects.
    pub(crate) targets: Vec<(String, Wanted)>,
    pub(crate) at: At,
}

/// A target of ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Wanted {
    pub(crate) kind: &'static str,
    pub(crate) name: Option<String>,
}

/// Where a rule stands.
#[derive(Clone, Debug)]
pub(crate) struct At {
    plugin: String,
    document: Option<Document>,
    /// Of its configuration.
    pub(crate) field: String,
}

/// What is known besides the plugins.
pub(crate) struct Around {
    pub(crate) gateway_namespace: String,
    pub(crate) http_routes: HashSet<Key>,
}

impl At {
    pub(crate) fn finding(&self, kind: Kind, field: &str, message: impl Into<String>) -> Finding {
        let field = if field.is_empty() { self.field.clone() } else { format!("{}.{field}", self.field) };
        let place = self.document.as_ref().map(|document| document.place(&field));
        let plugin = self.plugin.clone();
        Finding { kind, plugin, place: Finding::at(place.as_ref()), field, message: message.into() }
    }
}

/// All rules of one plugin, in order, the default configuration last. `P` is what its module reads.
pub(crate) fn rules<P: Policy>(
    source: &Source,
    around: &Around,
    native: Option<&Value>,
    findings: &mut Vec<Finding>,
) -> Vec<Rule> {
    let spec = &source.plugin.spec;
    let plugin = Key::of(&source.plugin.metadata).to_string();
    let at = |field: String| At { plugin: plugin.clone(), document: source.document.clone(), field };
    let mut found: Vec<Rule> = Vec::new();
    for (index, rule) in spec.match_rules.iter().flatten().enumerate() {
        let here = at(format!("spec.matchRules[{index}]"));
        if rule.config_disable == Some(true) {
            continue;
        }
        let config = rule.config.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
        let at = at(format!("spec.matchRules[{index}].config"));
        if !enforced::<P>(&config, native, &at, findings) {
            continue;
        }
        let mut targets = targets(rule, around, &here, findings);
        let mut seen = HashSet::new();
        targets.retain(|target| seen.insert(target.clone()));
        first_wins(&mut targets, &found, &config, &here, findings);
        found.push(Rule { config, targets, at });
    }
    if spec.rest.contains_key("pluginConfig") {
        let message = "only defaultConfig and matchRules are imported: write it as these";
        findings.push(at("spec.pluginConfig".to_owned()).finding(Kind::Lost, "", message));
    }
    let mut default = spec.default_config.as_ref().and_then(Value::as_object).cloned();
    if default.as_mut().is_some_and(|config| config.remove("_rules_").is_some()) {
        let message = "rules of the module's own form: write them as spec.matchRules";
        findings.push(at("spec.defaultConfig".to_owned()).finding(Kind::Lost, "_rules_", message));
    }
    if let Some(config) = default.filter(|config| !config.is_empty() && spec.default_config_disable != Some(true)) {
        let here = at("spec.defaultConfig".to_owned());
        if enforced::<P>(&config, native, &here, findings) {
            let gateway = (around.gateway_namespace.clone(), Wanted { kind: "Gateway", name: None });
            found.push(Rule { config, targets: vec![gateway], at: here });
        }
    }
    found
}

/// What the gateway is told of the whole plugin, where aiquota's own is told something else. `flag` and `value` are
/// those of its priority.
pub(crate) fn settings(source: &Source, flag: &str, value: &str, usual: i64, findings: &mut Vec<Finding>) {
    let spec = &source.plugin.spec;
    let plugin = Key::of(&source.plugin.metadata).to_string();
    let mut say = |field: &str, message: String| {
        let at = At { plugin: plugin.clone(), document: source.document.clone(), field: field.to_owned() };
        findings.push(at.finding(Kind::Differs, "", message));
    };
    // Of a file, whose plugins are taken for the gateway's.
    let written = source.document.as_ref().map(|document| &document.key.namespace);
    if let Some(namespace) = written.filter(|namespace| source.plugin.metadata.namespace.as_ref() != Some(namespace)) {
        let message =
            format!("it is in {namespace}, where this gateway does not look: imported as if it were where it does");
        say("metadata.namespace", message);
    }
    let kept = |flag: &str, value: &str, given: &str, usual: &str| {
        format!("{given}, and aiquota's own has {usual}: kept by {flag}={given} of `aiquota run`, {value} of the chart")
    };
    if let Some(phase) = spec.phase.as_deref().filter(|phase| !["", "UNSPECIFIED_PHASE"].contains(phase)) {
        say("spec.phase", kept("--phase", "modules.phase", phase, "UNSPECIFIED_PHASE"));
    }
    if let Some(priority) = spec.priority.filter(|priority| *priority != usual) {
        say("spec.priority", kept(flag, value, &priority.to_string(), &usual.to_string()));
    }
    if let Some(strategy) = spec.fail_strategy.as_deref().filter(|strategy| !["", "FAIL_CLOSE"].contains(strategy)) {
        say("spec.failStrategy", kept("--fail-strategy", "modules.failStrategy", strategy, "FAIL_CLOSE"));
    }
    if spec.rest.contains_key("selector") {
        say("spec.selector", "aiquota's own is for all of the gateway: without the selector".to_owned());
    }
}

/// What the module itself would say of a configuration: one that it cannot enforce means nothing that could be kept.
fn enforced<P: Policy>(
    config: &Map<String, Value>,
    native: Option<&Value>,
    at: &At,
    findings: &mut Vec<Finding>,
) -> bool {
    let mut rule = config.clone();
    rule.insert("_match_domain_".to_owned(), json!(["*"]));
    let mut whole = json!({"_rules_": [rule]});
    if let Some(native) = native {
        whole[KEY] = native.clone();
    }
    let problem = match Config::<P>::parse(whole.to_string().as_bytes()) {
        Ok(Config::Policies(policies)) => match policies.target(&Subject::default()) {
            Some(Target::Refuse { reason, .. }) => reason.clone(),
            _ => return true,
        },
        Ok(Config::Guard) => "it is aiquota's own".to_owned(),
        Err(ConfigError::Nothing(invalid)) => invalid.to_string(),
        Err(error) => error.to_string(),
    };
    // The only rule there is here.
    let (_, field) = problem.split_once("_rules_[0].").unwrap_or_default();
    let field = field.split([' ', ':']).next().unwrap_or_default().trim_end_matches(['.', ',']);
    let problem = problem.replace("_rules_[0].", "");
    findings.push(at.finding(Kind::Lost, field, format!("the module itself cannot enforce it: {problem}")));
    false
}

/// What a rule is over. Of several kinds only one decides, as the gateway has it.
fn targets(rule: &MatchRule, around: &Around, at: &At, findings: &mut Vec<Finding>) -> Vec<(String, Wanted)> {
    let MatchRule { ingress, domain, service, config: _, config_disable: _, rest } = rule;
    let some = |names: &Option<Vec<String>>| names.iter().flatten().any(|name| !name.is_empty());
    let mut lost = |field: &str, message: String| findings.push(at.finding(Kind::Lost, field, message));
    let gateway = &around.gateway_namespace;
    let mut found = Vec::new();
    if some(ingress) {
        if some(service) {
            let message = "a rule for requests that take one of these routes and go to one of these services at once; \
                           name the route alone, or the service alone";
            lost("service", message.to_owned());
            return found;
        }
        for name in ingress.iter().flatten().filter(|name| !name.is_empty()) {
            let (namespace, name) = name.split_once('/').unwrap_or((gateway, name));
            let is_http_route = around.http_routes.contains(&Key::new(namespace, name));
            let kind = if is_http_route { "HTTPRoute" } else { "Ingress" };
            found.push((namespace.to_owned(), Wanted { kind, name: Some(name.to_owned()) }));
        }
    } else if some(domain) {
        for name in domain.iter().flatten() {
            let wanted = match name.as_str() {
                "*" => Wanted { kind: "Gateway", name: None },
                name if name.ends_with('*') || (name.starts_with('*') && !name.starts_with("*.")) => {
                    lost("domain", format!("{name}: a Domain is a host, or *. and a host"));
                    continue;
                }
                name => Wanted { kind: "Domain", name: Some(name.to_ascii_lowercase()) },
            };
            found.push((gateway.clone(), wanted));
        }
    } else if some(service) {
        for name in service.iter().flatten().filter(|name| !name.is_empty()) {
            match (name.split_once(':'), name.ends_with(".svc.cluster.local")) {
                (None, true) => {
                    found.push((gateway.clone(), Wanted { kind: "Service", name: Some(name.clone()) }));
                }
                (Some(_), _) => lost("service", format!("{name}: a Service is a target with all of its ports")),
                (None, false) => {
                    let message =
                        format!("{name}: only Services of Kubernetes are targets; name the routes that lead there");
                    lost("service", message);
                }
            }
        }
    } else if let Some(other) = rest.keys().next() {
        lost("", format!("it is matched by {other}; name each Ingress or HTTPRoute"));
    } else {
        lost("", "it matches nothing".to_owned());
    }
    found
}

/// Of several rules the first counts; ours go by how specific they are.
fn first_wins(
    targets: &mut Vec<(String, Wanted)>,
    before: &[Rule],
    config: &Map<String, Value>,
    at: &At,
    findings: &mut Vec<Finding>,
) {
    targets.retain(|target| {
        let taken = before.iter().find(|rule| rule.targets.contains(target));
        if let Some(rule) = taken.filter(|rule| rule.config != *config) {
            let (namespace, wanted) = target;
            let message = format!("{} is under {} already, which comes first", wanted.shown(namespace), rule.at.field);
            findings.push(at.finding(Kind::Lost, "", message));
        }
        taken.is_none()
    });
    let narrowest = targets.iter().map(|(_, wanted)| wanted.rank()).min();
    let wider = |rule: &&Rule| {
        rule.config != *config
            && rule.targets.iter().any(|(_, wanted)| Some(wanted.rank()) > narrowest && narrowest.is_some())
    };
    if let Some(rule) = before.iter().find(wider) {
        let message = format!(
            "{} comes first and is wider: what is under both is under that one in the WasmPlugin, and under this one as \
             AIQuota or AITokenRateLimit, of which the most specific decides",
            rule.at.field
        );
        findings.push(at.finding(Kind::Differs, "", message));
    }
}

impl Wanted {
    /// The least is the most specific.
    fn rank(&self) -> u8 {
        match (self.kind, self.name.as_deref()) {
            ("Ingress" | "HTTPRoute", _) => 0,
            ("Service", _) => 1,
            ("Domain", Some(name)) if name.starts_with('*') => 3,
            ("Domain", _) => 2,
            _ => 4,
        }
    }

    pub(crate) const fn is_wide(&self) -> bool {
        matches!(self.kind.as_bytes(), b"Domain" | b"Gateway")
    }

    pub(crate) fn value(&self) -> Value {
        match &self.name {
            Some(name) => json!({"kind": self.kind, "name": name}),
            None => json!({"kind": self.kind}),
        }
    }

    pub(crate) fn shown(&self, namespace: &str) -> String {
        match &self.name {
            Some(name) if self.rank() == 0 => format!("{} {namespace}/{name}", self.kind),
            Some(name) => format!("{} {name}", self.kind),
            None => "the whole gateway".to_owned(),
        }
    }
}
