//! What a take-over takes: WasmPlugins in; our objects, and each WasmPlugin as it is afterwards, out, or why nothing is
//! taken. Pure.

use std::collections::{BTreeSet, HashSet};

use api::{MatchRule, WasmPlugin};
use enforcement::wire::limit::Dialect;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plan::Key;

use super::super::objects::{Imported, Options, import};
use super::super::report::{Finding, Kind};
use super::super::rules::Source;

/// What is done, if nothing is against it.
pub(super) struct Taking {
    pub(super) imported: Imported,
    pub(super) plugins: Vec<Taken>,
}

/// A WasmPlugin of which rules are taken.
pub(super) struct Taken {
    pub(super) known: Known,
    pub(super) found: WasmPlugin,
    /// What is left of it; nothing: no rule that is in force, so that it goes.
    pub(super) left: Option<WasmPlugin>,
    /// What ours has to match instead.
    pub(super) matches: BTreeSet<Matched>,
}

/// The field of a rule, and a name in it.
pub(super) type Matched = (&'static str, String);

/// The plugins that can be taken over, in the order in which that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Quota,
    Limit,
}

/// Why nothing is taken.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) findings: Vec<Finding>,
    pub(super) why: Vec<String>,
}

impl Known {
    pub(super) const ALL: [Self; 2] = [Self::Quota, Self::Limit];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Quota => "ai-quota",
            Self::Limit => "ai-token-ratelimit",
        }
    }

    /// Our WasmPlugin in its place.
    pub(super) const fn ours(self) -> &'static str {
        match self {
            Self::Quota => plan::AI_QUOTA,
            Self::Limit => plan::AI_TOKEN_RATELIMIT,
        }
    }

    /// Of one that is imported: what is ai-quota by any of its names is imported as that.
    fn of(plugin: &WasmPlugin) -> Self {
        if plan::is_plugin(plugin, Self::Quota.name()) { Self::Quota } else { Self::Limit }
    }
}

/// A part of a WasmPlugin.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Rule(usize),
    Default,
}

/// `accepts`: what has no equivalent stays where it is, and what means something else is taken.
pub(super) fn take(sources: Vec<Source>, options: &Options, accepts: bool) -> Result<Taking, Refused> {
    let mut refused = Refused::default();
    for source in &sources {
        let name = Key::of(&source.plugin.metadata);
        if let Some(manager) = manager(&source.plugin.metadata) {
            refused.why.push(format!(
                "WasmPlugin {name} belongs to {manager}, which would bring its rules back: take them out there, and apply \
                 the objects of `aiquota import` as docs/migration.md has it step by step"
            ));
        }
    }
    let mut imported = import(&sources, options);
    refused.findings = imported.findings.iter().filter(|finding| is_against(finding)).cloned().collect();
    refused.why.extend(begins_anew(&imported, &sources, options).filter(|_| !accepts));
    if accepts {
        refused.findings.retain(|finding| finding.kind == Kind::Lost && finding.plugin.is_empty());
    }
    if !refused.findings.is_empty() && !accepts {
        refused.why.push(
            "with --accept-differences what has no equivalent stays in its WasmPlugin, and what differs is taken as is told \
             above"
                .to_owned(),
        );
    }
    if !(refused.findings.is_empty() && refused.why.is_empty()) {
        return Err(refused);
    }
    // What leaves no room for a rule may be told of another: each is looked at anew without those before.
    let mut lost: HashSet<(String, Part)> = HashSet::new();
    let mut told = Vec::new();
    loop {
        let more: Vec<Finding> =
            imported.findings.iter().filter(|finding| finding.kind == Kind::Lost).cloned().collect();
        if more.is_empty() {
            break;
        }
        let before = lost.len();
        lost.extend(more.iter().filter_map(|finding| Some((finding.plugin.clone(), part(&finding.field)?))));
        if lost.len() == before {
            return Err(Refused { findings: more, why: Vec::new() });
        }
        told.extend(more);
        let without = sources.iter().map(|source| Source { plugin: without(&source.plugin, &lost), document: None });
        imported = import(&without.collect::<Vec<_>>(), options);
    }
    imported.findings.extend(told);
    let gateway = &options.around.gateway_namespace;
    let split: Vec<Split> = sources.into_iter().map(|source| Split::of(source.plugin, &lost, gateway)).collect();
    for known in Known::ALL {
        refused.why.extend(meets(&split.iter().filter(|split| split.known == known).collect::<Vec<_>>()));
    }
    if !refused.why.is_empty() {
        return Err(refused);
    }
    let plugins = split.into_iter().filter(|split| !split.taken.is_empty()).map(Split::taken).collect();
    Ok(Taking { imported, plugins })
}

/// What is told of a rule counts, and that something is lost; what is so for every import does not.
fn is_against(finding: &Finding) -> bool {
    finding.kind == Kind::Lost || (finding.kind == Kind::Differs && !finding.plugin.is_empty())
}

/// What is told in general, and is none the less a difference to somebody.
fn begins_anew(imported: &Imported, sources: &[Source], options: &Options) -> impl Iterator<Item = String> {
    let anew = !imported.limits.is_empty() && options.dialect == Dialect::V1;
    let anew = anew.then(|| {
        "counters of the first generation of ai-token-ratelimit begin anew: --accept-differences goes on".to_owned()
    });
    let several = Known::ALL.into_iter().filter_map(|known| {
        let count = sources.iter().filter(|source| Known::of(&source.plugin) == known).count();
        let name = known.name();
        (count > 1).then(|| {
            format!(
                "{count} WasmPlugins are {name}, and each of them charges; one will be left: --accept-differences goes on"
            )
        })
    });
    several.chain(anew).collect::<Vec<_>>().into_iter()
}

/// Who writes it, other than people.
fn manager(metadata: &ObjectMeta) -> Option<String> {
    const LABELS: [(&str, &str); 4] = [
        ("argocd.argoproj.io/instance", "Argo CD"),
        ("kustomize.toolkit.fluxcd.io/name", "Flux"),
        ("helm.toolkit.fluxcd.io/name", "Flux"),
        ("app.kubernetes.io/managed-by", "what made it"),
    ];
    const ANNOTATIONS: [(&str, &str); 2] =
        [("argocd.argoproj.io/tracking-id", "Argo CD"), ("meta.helm.sh/release-name", "Helm")];
    if let Some(owner) = metadata.owner_references.iter().flatten().next() {
        return Some(format!("{} {}", owner.kind, owner.name));
    }
    let (labels, annotations) = (metadata.labels.as_ref(), metadata.annotations.as_ref());
    let annotated = ANNOTATIONS.iter().find(|(key, _)| annotations.is_some_and(|all| all.contains_key(*key)));
    let found =
        annotated.or_else(|| LABELS.iter().find(|(key, _)| labels.is_some_and(|all| all.contains_key(*key))))?;
    let value = labels.and_then(|all| all.get("app.kubernetes.io/managed-by"));
    Some(value.filter(|_| found.1 == "what made it").cloned().unwrap_or_else(|| found.1.to_owned()))
}

/// `spec.matchRules[3].config.redis` is of rule 3.
fn part(field: &str) -> Option<Part> {
    if field.starts_with("spec.defaultConfig") {
        return Some(Part::Default);
    }
    let (index, _) = field.strip_prefix("spec.matchRules[")?.split_once(']')?;
    index.parse().ok().map(Part::Rule)
}

fn without(plugin: &WasmPlugin, lost: &HashSet<(String, Part)>) -> WasmPlugin {
    let (mut plugin, name) = (plugin.clone(), Key::of(&plugin.metadata).to_string());
    let is_lost = |part| lost.contains(&(name.clone(), part));
    for (index, rule) in plugin.spec.match_rules.iter_mut().flatten().enumerate() {
        if is_lost(Part::Rule(index)) {
            rule.config_disable = Some(true);
        }
    }
    if is_lost(Part::Default) {
        plugin.spec.default_config_disable = Some(true);
    }
    plugin
}

/// A WasmPlugin, and what of it is taken.
struct Split {
    known: Known,
    found: WasmPlugin,
    taken: HashSet<Part>,
    /// What is in force and stays.
    stays: Vec<Part>,
    matches: BTreeSet<Matched>,
    gateway: String,
}

impl Split {
    fn of(found: WasmPlugin, lost: &HashSet<(String, Part)>, gateway: &str) -> Self {
        let name = Key::of(&found.metadata).to_string();
        let rules = found.spec.match_rules.iter().flatten().enumerate();
        let mut in_force: Vec<Part> =
            rules.filter(|(_, rule)| rule.config_disable != Some(true)).map(|(index, _)| Part::Rule(index)).collect();
        let default = found.spec.default_config.as_ref().and_then(|config| config.as_object());
        let has_default = default.is_some_and(|config| !config.is_empty());
        if has_default && found.spec.default_config_disable != Some(true) {
            in_force.push(Part::Default);
        }
        let (stays, taken): (Vec<Part>, Vec<Part>) =
            in_force.into_iter().partition(|part| lost.contains(&(name.clone(), *part)));
        let mut split = Self {
            known: Known::of(&found),
            found,
            taken: taken.into_iter().collect(),
            stays,
            matches: BTreeSet::new(),
            gateway: gateway.to_owned(),
        };
        split.matches = split.taken.iter().flat_map(|part| split.matched(*part)).collect();
        split
    }

    fn rule(&self, index: usize) -> Option<&MatchRule> {
        self.found.spec.match_rules.as_ref()?.get(index)
    }

    /// What a part is over, as our rules name it.
    fn matched(&self, part: Part) -> Vec<Matched> {
        let Part::Rule(index) = part else { return vec![("domain", "*".to_owned())] };
        let Some(rule) = self.rule(index) else { return Vec::new() };
        let own = format!("{}/", self.gateway);
        let route = |name: &str| ("ingress", name.strip_prefix(&own).unwrap_or(name).to_owned());
        let routes: Vec<Matched> = names(rule.ingress.as_ref()).map(route).collect();
        if !routes.is_empty() {
            return routes;
        }
        let domains: Vec<Matched> =
            names(rule.domain.as_ref()).map(|name| ("domain", name.to_ascii_lowercase())).collect();
        if !domains.is_empty() {
            return domains;
        }
        names(rule.service.as_ref()).map(|name| ("service", name.to_owned())).collect()
    }

    fn taken(self) -> Taken {
        let Self { known, found, taken, stays, matches, gateway: _ } = self;
        let left = (!stays.is_empty()).then(|| {
            let mut left = found.clone();
            let rules = left.spec.match_rules.take().into_iter().flatten().enumerate();
            let rules = rules.filter(|(index, _)| !taken.contains(&Part::Rule(*index))).map(|(_, rule)| rule);
            left.spec.match_rules = Some(rules.collect());
            left.metadata.managed_fields = None;
            left
        });
        Taken { known, found, left, matches }
    }
}

fn names(of: Option<&Vec<String>>) -> impl Iterator<Item = &str> {
    of.into_iter().flatten().map(String::as_str).filter(|name| !name.is_empty())
}

/// Where a rule that stays could charge for what ours is over, ours would wait for it for ever, and who takes the others
/// away would leave requests without any.
fn meets(plugins: &[&Split]) -> Vec<String> {
    let taken: BTreeSet<&Matched> = plugins.iter().flat_map(|split| &split.matches).collect();
    let wide = taken.iter().any(|(field, _)| *field == "domain");
    let mut why = Vec::new();
    for split in plugins.iter().filter(|_| !taken.is_empty()) {
        for part in &split.stays {
            let over = split.matched(*part);
            let mut rest = over.iter().filter(|matched| taken.contains(matched)).map(|(_, name)| name.as_str());
            let narrow = match part {
                Part::Default => false,
                Part::Rule(index) => split.rule(*index).is_some_and(|rule| {
                    rule.rest.is_empty() && !over.is_empty() && names(rule.domain.as_ref()).next().is_none()
                }),
            };
            let problem = match rest.next() {
                Some(name) => format!("it is over {name} too, which is taken over"),
                None if !narrow => "it may be over what is taken over".to_owned(),
                None if wide => "whole hosts or the gateway are taken over, of which it may be a part".to_owned(),
                None => continue,
            };
            let field = match part {
                Part::Rule(index) => format!("spec.matchRules[{index}]"),
                Part::Default => "spec.defaultConfig".to_owned(),
            };
            let name = Key::of(&split.found.metadata);
            why.push(format!("WasmPlugin {name}: {field} has no equivalent and stays, and {problem}: write it otherwise, or switch it off first"));
        }
    }
    why
}

/// Whether our WasmPlugin has a rule over all of it.
pub(super) fn covers(ours: &WasmPlugin, matches: &BTreeSet<Matched>) -> bool {
    let rules = || ours.spec.match_rules.iter().flatten().filter(|rule| rule.config_disable != Some(true));
    matches.iter().all(|(field, name)| {
        rules().any(|rule| {
            let named = match *field {
                "ingress" => &rule.ingress,
                "service" => &rule.service,
                _ => &rule.domain,
            };
            named.iter().flatten().any(|found| found == name)
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::rules::Around;
    use super::*;

    fn options() -> Options {
        Options {
            around: Around { gateway_namespace: "higress-system".to_owned(), http_routes: HashSet::new() },
            trusted_namespaces: HashSet::new(),
            dialect: Dialect::V2,
            limits_may_ignore: true,
        }
    }

    fn source(spec: &Value) -> Source {
        let object = json!({"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin",
            "metadata": {"name": "ai-quota", "namespace": "higress-system"}, "spec": spec});
        Source { plugin: plan::decode(object).expect("a WasmPlugin"), document: None }
    }

    fn config() -> Value {
        json!({"admin_consumer": "admin", "redis": {"service_name": "redis.static"}})
    }

    fn with_rules(rules: &[Value]) -> Source {
        let of = |matches: &Value| {
            let mut rule = matches.clone();
            rule["config"] = config();
            rule
        };
        source(&json!({"matchRules": rules.iter().map(of).collect::<Vec<_>>()}))
    }

    fn taken(source: Source, accepts: bool) -> Taken {
        let taking = take(vec![source], &options(), accepts).map_err(|refused| refused.why).expect("it is taken");
        taking.plugins.into_iter().next().expect("a plugin")
    }

    fn refused(source: Source, accepts: bool) -> String {
        let refused = take(vec![source], &options(), accepts).err().expect("it is refused");
        let findings = refused.findings.into_iter().map(|finding| finding.message);
        refused.why.into_iter().chain(findings).collect::<Vec<_>>().join("; ")
    }

    /// Routes that go to one service at once have no equivalent.
    fn lost(route: &str) -> Value {
        json!({"ingress": [route], "service": ["x.dns"]})
    }

    #[test]
    fn a_plugin_without_another_rule_goes_and_ours_has_to_match_what_it_did() {
        let taken = taken(
            with_rules(&[json!({"ingress": ["higress-system/a", "team/b"]}), json!({"domain": ["C.example"]})]),
            true,
        );
        assert!(taken.left.is_none());
        let wanted = [("domain", "c.example"), ("ingress", "a"), ("ingress", "team/b")];
        assert!(taken.matches.into_iter().eq(wanted.map(|(field, name)| (field, name.to_owned()))));
    }

    #[test]
    fn a_default_configuration_is_the_whole_gateway() {
        let taken = taken(source(&json!({"defaultConfig": config()})), true);
        assert!(taken.left.is_none() && taken.matches.contains(&("domain", "*".to_owned())));
    }

    #[test]
    fn what_has_no_equivalent_stays_with_what_was_switched_off() {
        let off = json!({"ingress": ["off"], "configDisable": true});
        let source = with_rules(&[off, json!({"ingress": ["a"]}), lost("b")]);
        let rules = source.plugin.spec.match_rules.clone().expect("rules");
        assert!(refused(with_rules(&[json!({"ingress": ["a"]}), lost("b")]), false).contains("--accept-differences"));
        let left = taken(source, true).left.expect("it stays");
        assert_eq!(left.spec.match_rules, Some(vec![rules[0].clone(), rules[2].clone()]));
    }

    #[test]
    fn what_stays_must_not_be_over_what_is_taken() {
        for (stays, taken, why) in [
            (lost("a"), json!({"ingress": ["a"]}), "over a too"),
            (json!({"domain": ["a*"]}), json!({"ingress": ["a"]}), "it may be over what is taken over"),
            (json!({"_match_route_prefix_": ["a"]}), json!({"ingress": ["a"]}), "it may be over what is taken over"),
            (lost("b"), json!({"domain": ["a.example"]}), "whole hosts or the gateway are taken over"),
        ] {
            let refused = refused(with_rules(&[stays, taken]), true);
            assert!(
                refused.contains("spec.matchRules[0] has no equivalent and stays") && refused.contains(why),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_somebody_else_brings_back_is_not_taken() {
        for (metadata, who) in [
            (json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}}), "Helm"),
            (json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "llm"}}), "Flux"),
            (json!({"annotations": {"argocd.argoproj.io/tracking-id": "llm:x"}}), "Argo CD"),
            (json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Gate", "name": "g", "uid": "1"}]}), "Gate g"),
        ] {
            let mut source = with_rules(&[json!({"ingress": ["a"]})]);
            let metadata: ObjectMeta = serde_json::from_value(metadata).expect("metadata");
            let ObjectMeta { labels, annotations, owner_references, .. } = metadata;
            source.plugin.metadata = ObjectMeta { labels, annotations, owner_references, ..source.plugin.metadata };
            let refused = refused(source, true);
            assert!(refused.contains(&format!("belongs to {who}, which would bring its rules back")), "{refused}");
        }
    }

    #[test]
    fn what_means_something_else_is_taken_only_when_that_is_accepted() {
        let wide = || with_rules(&[json!({"domain": ["*.example"]})]);
        assert!(refused(wide(), false).contains("who asks without identity is let through"));
        assert!(taken(wide(), true).left.is_none());
    }

    #[test]
    fn ours_covers_what_it_names_in_rules_that_are_on() {
        let matches = BTreeSet::from([("ingress", "a".to_owned()), ("domain", "*".to_owned())]);
        let ours = |rules: &[Value]| with_rules(rules).plugin;
        let both = [json!({"ingress": ["b", "a"]}), json!({"domain": ["*"]})];
        assert!(covers(&ours(&both), &matches));
        assert!(!covers(&ours(&both[..1]), &matches));
        let off = [json!({"ingress": ["a"], "configDisable": true}), json!({"domain": ["*"]})];
        assert!(!covers(&ours(&off), &matches));
    }
}
