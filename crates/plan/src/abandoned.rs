//! Targets that an object limited before it was edited to name others, which are not there: an object and its last
//! status in, the targets that nobody may have meant to free out. Pure.

use std::collections::BTreeSet;

use api::{TargetRef, TargetStatus};

use crate::{Reason, Verdict, reason::Target};

/// What stands between the reason of a target that is not there and those that were there.
const MARK: &str = "; not limited by this object any more: ";

/// What is added to the reason of the first target that does not exist. It is read back from the status as long as that
/// target is not there: the rules themselves are gone by then.
pub(crate) fn abandoned(verdict: &Verdict) -> Option<(&TargetRef, String)> {
    let is_missing = |problem: &Option<Reason>| matches!(problem, Some(Reason::TargetNotFound { .. }));
    let (missing, _) = verdict.targets.iter().find(|(_, problem)| is_missing(problem))?;
    let (targets, conditions) = (verdict.object.targets(), verdict.object.conditions());
    let named = |target: &TargetRef| verdict.targets.iter().any(|(now, _)| now == target);
    let of = |status: &TargetStatus| TargetRef { kind: status.kind, name: status.name.clone() };
    let programmed = conditions.iter().any(|one| one.type_ == "Programmed" && one.status == "True");
    let lost = targets.iter().filter(|target| target.accepted && programmed).map(of);
    let lost = lost.filter(|target| !named(target)).map(|target| Target(&target).to_string());
    let said = targets.iter().filter(|target| !target.accepted && named(&of(target)));
    let said = said.filter_map(|target| Some(target.message.split_once(MARK)?.1)).flat_map(|names| names.split(", "));
    let said = said.filter(|name| !verdict.targets.iter().any(|(now, _)| Target(now).to_string() == *name));
    let all: BTreeSet<String> = said.map(str::to_owned).chain(lost).collect();
    let all: Vec<String> = all.into_iter().collect();
    (!all.is_empty()).then(|| (missing, format!("{MARK}{}", all.join(", "))))
}
