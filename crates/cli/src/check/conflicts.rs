//! What the planner says about valid objects together: the world in; conflicts, what is not permitted, what cannot be
//! enforced and what is warned of out. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::{AiTokenRateLimit, TargetKind};
use plan::{Key, ObjectKind, Reason, Refusal, Verdict, World};

use crate::files::Document;
use crate::problem::{Level, Named, Problem, refused, remedy, warned};

/// All that `plan::build` finds; `assumed` are targets of which nothing is known.
pub(crate) fn found(
    world: &World,
    places: &HashMap<Named, Document>,
    assumed: &HashSet<(TargetKind, Key)>,
) -> Vec<Problem> {
    let plan = plan::build(world);
    let mut found = Found { places, world, problems: Vec::new() };
    let authenticated = !world.plugins.is_empty();
    let mut unauthenticated = None;
    for verdict in &plan.verdicts {
        let named = Named::new(&verdict.object.kind().to_string(), &verdict.key);
        found.verdict(&named, verdict, assumed);
        for warning in &verdict.warnings {
            if matches!(warning, plan::Warning::NoAuthentication { .. }) && !authenticated {
                unauthenticated.get_or_insert(named.clone());
                continue;
            }
            let message = warning.to_string();
            let (field, message) = match message.split_once(": ") {
                Some((field, rest)) if field.starts_with("spec.") => (field, rest),
                _ => (warned(warning), message.as_str()),
            };
            found.tell(Level::Warning, &named, field, warning.condition(), message.to_owned(), "");
        }
    }
    if let Some(named) = unauthenticated {
        let message =
            "no auth plugin such as key-auth is in these files: only the cluster knows who tells consumers apart";
        const REMEDY: &str = "add its WasmPlugin with another -f, or see the condition NoAuthentication in the cluster";
        found.tell(Level::Warning, &named, "spec.targetRefs", "NotInFiles", message.to_owned(), REMEDY);
    }
    for store in &plan.stores {
        let named = Named::new("AIQuotaStore", &Key::of(&store.object.metadata));
        if let Err(reason) = &store.access {
            found.tell(Level::Error, &named, store_field(reason), reason.reason(), reason.to_string(), remedy(reason));
        }
        for warning in &store.warnings {
            found.tell(Level::Warning, &named, "spec", warning.condition(), warning.to_string(), "");
        }
    }
    found.problems
}

struct Found<'a> {
    places: &'a HashMap<Named, Document>,
    world: &'a World,
    problems: Vec<Problem>,
}

/// Lines of overrides that are told for one object.
const LINES_MAX: usize = 20;

impl Found<'_> {
    fn verdict(&mut self, named: &Named, verdict: &Verdict, assumed: &HashSet<(TargetKind, Key)>) {
        for reason in &verdict.refused {
            match reason {
                Reason::NotSupportedByPlugin(refusals) | Reason::Invalid(refusals) => {
                    refusals.iter().for_each(|refusal| self.refusal(named, refusal));
                }
                Reason::OverridesInvalid(_) => self.overrides(named, verdict),
                _ => self.reason(Level::Error, named, &field(verdict, reason), reason),
            }
        }
        for (index, (target, reason)) in verdict.targets.iter().enumerate() {
            let Some(reason) = reason else { continue };
            if verdict.refused.contains(reason) {
                continue;
            }
            let name = target.name.as_deref().unwrap_or_default();
            let unknown = assumed.contains(&(target.kind, Key::new(&named.namespace, name)));
            let field = format!("spec.targetRefs[{index}]");
            // Whether a route lies in a domain is for its hosts to say.
            let level = match reason {
                Reason::Overridden { ceiling, .. } if unknown && ceiling.kind == TargetKind::Domain => Level::Warning,
                _ => Level::Error,
            };
            self.reason(level, named, &field, reason);
        }
        for (index, reason) in &verdict.waits {
            self.reason(Level::Warning, named, &format!("spec.targetRefs[{index}]"), reason);
        }
    }

    /// Every line that cannot be read, where the reason has the first.
    fn overrides(&mut self, named: &Named, verdict: &Verdict) {
        let is = |limit: &&Arc<AiTokenRateLimit>| Key::of(&limit.metadata) == verdict.key;
        let Some(limit) = self.world.limits.iter().find(is) else { return };
        let all = plan::overrides_problems(self.world, limit);
        for (at, problem) in all.iter().take(LINES_MAX).enumerate() {
            let field = problem.field();
            let text = problem.to_string();
            let mut message = text.strip_prefix(&format!("{field}: ")).unwrap_or(&text).to_owned();
            if at + 1 == LINES_MAX && all.len() > LINES_MAX {
                message.push_str(&format!(" (and {} more)", all.len() - LINES_MAX));
            }
            self.tell(Level::Error, named, &field, "OverridesInvalid", message, "");
        }
    }

    fn refusal(&mut self, named: &Named, refusal: &Refusal) {
        let (reason, remedy) = refused(refusal);
        self.tell(Level::Error, named, &refusal.field, reason, refusal.message.clone(), remedy);
    }

    /// With the place of the other object, where there is one: who is older is for the cluster to say.
    fn reason(&mut self, level: Level, named: &Named, field: &str, reason: &Reason) {
        let other = match reason {
            Reason::TargetConflicted { kind, winner, .. } | Reason::Overridden { kind, winner, .. } => {
                Some((*kind, winner))
            }
            Reason::ConsumerConflicted { winner, .. } => Some((ObjectKind::AiQuota, winner)),
            _ => None,
        };
        let other = other.and_then(|(kind, winner)| self.places.get(&Named::new(&kind.to_string(), winner)));
        let mut message = reason.to_string();
        if let Some(other) = other {
            let place = other.place("metadata.name");
            message = format!("{} ({}:{})", message.replace(" the older ", " "), place.file, place.line);
        }
        if let Some(rest) = message.strip_prefix(&format!("{field}: ")) {
            message = rest.to_owned();
        }
        self.tell(level, named, field, reason.reason(), message, remedy(reason));
    }

    fn tell(&mut self, level: Level, named: &Named, field: &str, reason: &str, message: String, remedy: &str) {
        // What stands in for something has no place, and is told of already.
        let Some(document) = self.places.get(named) else { return };
        let problem = Problem::new(level, &document.place(field), reason, message);
        self.problems.push(problem.of(named.clone()).at(field).with(remedy));
    }
}

/// The field that a reason is about, which is no target's.
fn field(verdict: &Verdict, reason: &Reason) -> String {
    match reason {
        Reason::NotTrusted { field, .. } => field.clone(),
        Reason::ConsumerConflicted { consumer, .. } => {
            verdict.object.listed_field(consumer).unwrap_or_else(|| "spec".to_owned())
        }
        Reason::OverridesConflicted { rule, .. } | Reason::OverridesElsewhere { rule, .. } => {
            format!("spec.rules[{rule}].overridesFrom")
        }
        _ => "spec".to_owned(),
    }
}

/// The field of a store that a reason is about.
fn store_field(reason: &Reason) -> &'static str {
    match reason {
        Reason::NotInGatewayNamespace(_) => "metadata.namespace",
        Reason::ServiceNotFound { .. } => "spec.service.name",
        Reason::PortNotFound { .. } => "spec.service.port",
        Reason::SecretNotFound { .. } | Reason::SecretInvalid { .. } => "spec.auth",
        Reason::StoreConflicted { .. } => "spec.service",
        _ => "spec",
    }
}
