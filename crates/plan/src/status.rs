//! What is reported about each object: verdict, seeds and writes in, the whole status out, which equals the one
//! before unless something changed. Pure.

use std::collections::BTreeMap;

use api::{
    ABANDON_BALANCES, AiQuotaStatus, AiQuotaStoreStatus, AiTokenRateLimitStatus, GatewayStatus, OnStoreFailure,
    Summary, TargetRef, TargetStatus,
};
use k8s_openapi::jiff::Timestamp;

use crate::{
    AI_QUOTA, AI_TOKEN_RATELIMIT, Access, Deletion, Deletions, Figures, Flavor, GUARD, Leaving, Life, Loaded, Object,
    ObjectKind, Plan, Program, Reason, Seeded, StorePlan, StoreWarning, Verdict, Warning,
    abandoned::abandoned,
    conditions::{Conditions, State, cut},
    figures::{self, Shown, nearly_exhausted, shown},
    gateway::Part,
    manual, near_limits,
    near_limits::Notes,
    nearly::Told,
};

/// What became of each WasmPlugin of a [`Program`], by its name.
pub type Writes = BTreeMap<&'static str, Write>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is as wanted, by this write or an earlier one.
    Done,
    /// It has not been tried yet.
    Waiting,
    Failed {
        error: String,
    },
}

/// What Redis said of the balances, as [`Plan::seeds`]; nothing where nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers<'a> {
    pub seeded: &'a [Seeded],
    pub figures: &'a [Option<Figures>],
    /// As [`Plan::overrides`].
    pub overrides: &'a [Seeded],
    /// As [`Plan::verdicts`].
    pub notes: &'a [Option<Notes>],
    /// What the gateways say of themselves.
    pub loaded: Option<&'a Loaded>,
    /// As [`Plan::stores`]: which have not answered for a while.
    pub away: &'a [bool],
}

/// The condition that says how far a deletion is: false while rules of the object are in force, true since then.
pub(crate) const DELETING: &str = "Deleting";

/// The condition that says whether the gateways run the module that was declared, and what it was told.
const LOADED: &str = "Loaded";

/// The status of the object of `plan.verdicts[verdict]`.
#[must_use]
pub fn status(
    plan: &Plan,
    verdict: usize,
    answers: Answers<'_>,
    program: &Program,
    writes: &Writes,
    deletions: &Deletions,
    now: Timestamp,
) -> AiQuotaStatus {
    let deletion = deletions.get(&verdict);
    let kind = plan.verdicts[verdict].object.kind();
    let notes = answers.notes.get(verdict).and_then(Option::as_ref);
    let (rules, stands, keeps) = (&program.rules[verdict], program.stands[verdict], program.keeps[verdict]);
    let verdict = &plan.verdicts[verdict];
    let before = verdict.object.status();
    let seeds = Seeds::of(verdict, answers.seeded);
    let Shown { consumers, warned, exhausted } = figures(plan, verdict, answers.figures);

    let abandoned = abandoned(verdict);
    let accepted = accepted(verdict, abandoned.as_ref());
    let lost = |state| match state {
        State::Not(reason, _) if keeps && rejected(verdict) => State::Not(
            reason,
            "no target is accepted, but the rule stays until that of the object that has its target is ready"
                .to_owned(),
        ),
        other => other,
    };
    let refused = match (plan.gateway.settings.flavor, kind) {
        (Flavor::Native, _) => "answered with 503",
        (Flavor::Upstream, ObjectKind::AiQuota) => "refused with 403",
        (Flavor::Upstream, ObjectKind::AiTokenRateLimit) => "not limited",
    };
    let programmed = lost(programmed(verdict, rules, write(kind, stands, writes), refused));
    let balances = lost(match kind {
        ObjectKind::AiQuota => balances(plan, verdict, &seeds, refused),
        ObjectKind::AiTokenRateLimit => overrides(plan, verdict, answers.overrides),
    });
    let ready = match (&accepted, &programmed, &balances) {
        (State::Is, State::Is, State::Is) => State::Is,
        // A rule that waits for its balances is explained by what keeps those.
        (State::Is, State::Not(reason, _), State::Not(..)) if *reason == Reason::WaitsForSeeds.reason() => {
            balances.clone()
        }
        (State::Is, State::Is, other) | (State::Is, other, _) | (other, _, _) => other.clone(),
    };
    let mut conditions = Conditions::new(Some(verdict.object.conditions()), verdict.object.metadata().generation, now);
    // What was not written cannot be loaded.
    let loaded = match &programmed {
        State::Is => answers.loaded.map_or(Some(Err(())), |loaded| loaded.state(kind)),
        State::Not(reason, _) if *reason == Reason::WaitsForWrite.reason() => Some(Err(())),
        State::Not(..) | State::Unknown(..) => None,
    };
    let not_loaded: Option<&str> = match &loaded {
        Some(Ok(State::Not(reason, _) | State::Unknown(reason, _))) => Some(*reason),
        Some(Ok(State::Is)) | None => None,
        // What is kept is a warning still.
        Some(Err(())) => {
            let kept = verdict.object.conditions().iter().find(|before| before.type_ == LOADED);
            kept.filter(|kept| kept.status != "True").map(|kept| kept.reason.as_str())
        }
    };
    // Who is seeded says that himself.
    let told = matches!(&balances, State::Not("StoreUnreachable", _));
    let in_force = matches!(programmed, State::Is) && !told;
    let store_unreachable = in_force.then(|| store_unreachable(plan, &verdict.object, answers.away)).flatten();
    conditions.state("Accepted", accepted);
    match &programmed {
        State::Is => conditions.push("Programmed", "True", "Programmed", cut(plan.gateway.settings.image(kind))),
        programmed => conditions.state("Programmed", programmed.clone()),
    }
    if kind == ObjectKind::AiQuota || !verdict.overrides.is_empty() {
        conditions.state("Seeded", balances);
    }
    let not_parked = match (verdict.life, deletion) {
        (Life::Stays, Some(Deletion::Stuck { store, error })) => {
            Some(Warning::NotParked { store: store.clone(), problem: error.clone() })
        }
        _ => None,
    };
    let percent = verdict.object.warn_at();
    let nearly_exhausted = match kind {
        ObjectKind::AiQuota => nearly_exhausted(&warned, percent),
        ObjectKind::AiTokenRateLimit => near_limits::nearly_exhausted(&near_limits::near(verdict, notes), percent),
    };
    let warnings = || verdict.warnings.iter().chain(&not_parked).chain(&nearly_exhausted).chain(&store_unreachable);
    match loaded {
        Some(Ok(state)) => conditions.state(LOADED, state),
        Some(Err(())) => conditions.keep(LOADED),
        None => {}
    }
    let mut names: Vec<&str> = warnings().map(Warning::condition).collect();
    names.extend(not_loaded);
    conditions.ready(ready, &names);
    if let Life::Leaves(Leaving { since: None, .. }) = verdict.life {
        // Whoever wrote this, it counts from now.
        conditions.begin(DELETING);
    }
    for warning in warnings() {
        conditions.warn(warning.condition(), warning);
    }
    if let Some((status, reason, message)) = deleting(plan, verdict, writes, deletion) {
        conditions.push(DELETING, status, reason, cut(message));
    }
    let reported = |(target, problem): &(api::TargetRef, Option<Reason>)| TargetStatus {
        kind: target.kind,
        name: target.name.clone(),
        accepted: problem.is_none(),
        reason: problem.as_ref().map_or("Accepted", Reason::reason).to_owned(),
        message: problem.as_ref().map(|reason| cut(said(target, reason, abandoned.as_ref()))).unwrap_or_default(),
    };
    AiQuotaStatus {
        observed_generation: verdict.object.metadata().generation,
        conditions: conditions.made,
        // Whose last rule stays keeps what it stands on: the planner reads it back.
        targets: verdict.targets.iter().map(reported).collect(),
        next_refresh: verdict.next_refresh.map(|next| next.to_string()),
        refreshed: refreshed(verdict, &seeds).map(str::to_owned),
        summary: match &verdict.object {
            object @ Object::Read(_) => Some(Summary {
                consumers: count(object.listed().count()),
                seeded: count(seeds.applied),
                exhausted: count(exhausted),
            }),
            Object::Limit(_) => None,
            Object::Undecodable(_) => before.and_then(|status| status.summary.clone()),
        },
        consumers,
    }
}

/// What there is to say of the limits of `plan.verdicts[verdict]`, whose counters the controller does not make.
#[must_use]
pub fn limit_status(
    plan: &Plan,
    verdict: usize,
    answers: Answers<'_>,
    status: AiQuotaStatus,
) -> AiTokenRateLimitStatus {
    let notes = answers.notes.get(verdict).and_then(Option::as_ref);
    let nearly_exhausted = near_limits::shown(near_limits::near(&plan.verdicts[verdict], notes));
    let AiQuotaStatus {
        observed_generation,
        conditions,
        targets,
        summary: _,
        next_refresh: _,
        refreshed: _,
        consumers: _,
    } = status;
    AiTokenRateLimitStatus { observed_generation, conditions, targets, nearly_exhausted }
}

/// What Events are to say of who is to be warned about now and was not before, or not in this period; and of whom is told
/// then, which is `told` in the next round. Nothing where there is nothing to look at.
#[must_use]
pub fn newly_exhausted(
    plan: &Plan,
    verdict: usize,
    answers: Answers<'_>,
    told: Option<&Told>,
) -> Option<(Vec<String>, Told)> {
    let notes = answers.notes.get(verdict).and_then(Option::as_ref);
    let verdict = &plan.verdicts[verdict];
    verdict.object.warn_at()?;
    Some(match verdict.object.kind() {
        ObjectKind::AiQuota => figures::newly_exhausted(plan, verdict, answers.figures, told),
        ObjectKind::AiTokenRateLimit => near_limits::newly_exhausted(verdict, notes, told),
    })
}

/// What is shown of the balances; where Redis has not said anything yet, and where the last rule stays, what was shown
/// before.
fn figures(plan: &Plan, verdict: &Verdict, figures: &[Option<Figures>]) -> Shown {
    let before = || {
        let status = verdict.object.status().filter(|_| !verdict.seeds.is_empty() || verdict.keeps_last_rule())?;
        let exhausted = status.summary.as_ref().map_or(0, |summary| summary.exhausted);
        let consumers = status.consumers.clone();
        let warned = consumers.iter().filter(|consumer| consumer.nearly_exhausted).cloned().collect();
        Some(Shown { consumers, warned, exhausted: usize::try_from(exhausted).unwrap_or_default() })
    };
    shown(plan, verdict, figures).or_else(before).unwrap_or_default()
}

/// The refresh by hand that all listed consumers had.
fn refreshed<'a>(verdict: &'a Verdict, seeds: &Seeds<'_>) -> Option<&'a str> {
    if verdict.object.kind() != ObjectKind::AiQuota {
        return None;
    }
    let token = manual::annotated(verdict.object.metadata())?;
    let all = seeds.applied == verdict.object.listed().count() && !rejected(verdict);
    token.ok().filter(|_| all).or_else(|| manual::refreshed(&verdict.object))
}

/// What the controller saw of a store's Redis.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Whether it answers, or why not.
    pub answers: Result<(), &'a str>,
    /// Its maxmemory-policy, where that is another than noeviction; what was last known while it does not answer.
    pub evicts: Option<&'a str>,
    /// Which gateways run our modules; nothing where it could not be asked.
    pub gateways: Option<&'a [GatewayStatus]>,
}

/// `seen`: what the controller last saw of its Redis, if it has tried.
#[must_use]
pub fn store_status(store: &StorePlan, seen: Option<Seen<'_>>, now: Timestamp) -> AiQuotaStoreStatus {
    let known = seen.as_ref().and_then(|seen| seen.gateways).map(<[_]>::to_vec);
    let metadata = &store.object.metadata;
    let before = store.object.status.as_ref().map(|status| status.conditions.as_slice());
    let mut conditions = Conditions::new(before, metadata.generation, now);
    let state = match (&store.access, seen.as_ref().map(|seen| seen.answers)) {
        (Err(reason), _) => State::not(reason),
        (Ok(_), Some(Ok(()))) => State::Is,
        (Ok(_), None) => State::Unknown("Connecting", "no answer yet".to_owned()),
        (Ok(access), Some(Err(error))) => {
            State::Not("StoreUnreachable", cut(format!("{}: {error}", whereabouts(store, access))))
        }
    };
    conditions.state("Connected", state.clone());
    let evicts = seen.filter(|_| store.access.is_ok()).and_then(|seen| seen.evicts).map(str::to_owned);
    let evicts = evicts.map(|policy| StoreWarning::MayEvict { policy });
    let warnings = || store.warnings.iter().chain(&evicts);
    conditions.ready(state, &warnings().map(StoreWarning::condition).collect::<Vec<_>>());
    for warning in warnings() {
        conditions.warn(warning.condition(), warning);
    }
    let before = || store.object.status.as_ref().map(|status| status.gateways.clone());
    let gateways = known.or_else(before).unwrap_or_default();
    AiQuotaStoreStatus { observed_generation: metadata.generation, conditions: conditions.made, gateways }
}

/// Where a store is, as the gateway knows it and as the controller does.
fn whereabouts(store: &StorePlan, Access { host, port, .. }: &Access) -> String {
    let spec = &store.object.spec;
    format!("{}:{} at {host}:{port}", spec.service.name, spec.port())
}

/// Rules are in force that ask a store of which nothing is heard for a while. The gateway may have another way to it.
/// Nothing in the words changes while that lasts: every object of the store has them in its status.
fn store_unreachable(plan: &Plan, object: &Object, away: &[bool]) -> Option<Warning> {
    let (name, on_store_failure) = object.store()?;
    let is_its = |store: &StorePlan| store.object.metadata.name.as_deref() == Some(name);
    let mut gone = plan.stores.iter().zip(away).filter(|(store, away)| **away && is_its(store));
    let at = gone.find_map(|(store, _)| Some(whereabouts(store, store.access.as_ref().ok()?)))?;
    let then = match (plan.gateway.settings.flavor, object.kind(), on_store_failure) {
        (Flavor::Native, _, OnStoreFailure::Refuse) => "are answered with 503 (onStoreFailure: Refuse)",
        (Flavor::Native, ObjectKind::AiQuota, OnStoreFailure::Admit) => {
            "pass unchecked (onStoreFailure: Admit), and what they use is not booked"
        }
        (Flavor::Native, ObjectKind::AiTokenRateLimit, OnStoreFailure::Admit) => {
            "pass without limit (onStoreFailure: Admit)"
        }
        (Flavor::Upstream, ObjectKind::AiQuota, _) => "are refused with 403",
        (Flavor::Upstream, ObjectKind::AiTokenRateLimit, _) => "pass without limit",
    };
    Some(Warning::StoreUnreachable { store: name.to_owned(), at, then })
}

/// `abandoned`: see [`abandoned()`].
fn accepted(verdict: &Verdict, abandoned: Option<&(&TargetRef, String)>) -> State {
    let targets = verdict.targets.iter().filter_map(|(target, problem)| Some((problem.as_ref()?, Some(target))));
    let reasons = verdict.refused.iter().map(|reason| (reason, None)).chain(targets);
    let (mut first, mut messages) = (None, Vec::new());
    for (reason, target) in reasons {
        first.get_or_insert(reason.reason());
        let message = target.map_or_else(|| reason.to_string(), |target| said(target, reason, abandoned));
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    first.map_or(State::Is, |first| State::Not(first, cut(messages.join("; "))))
}

/// Why a target is not accepted.
fn said(target: &TargetRef, reason: &Reason, abandoned: Option<&(&TargetRef, String)>) -> String {
    let more = abandoned.filter(|(missing, _)| *missing == target).map(|(_, more)| more.as_str());
    format!("{reason}{}", more.unwrap_or_default())
}

/// What became of what the gateway has to be told for one object: its own rules, and the guard, without which they
/// trust anybody.
fn write(kind: ObjectKind, stands: bool, writes: &Writes) -> &Write {
    let of = |plugin| writes.get(plugin).unwrap_or(&Write::Waiting);
    let ours = match kind {
        ObjectKind::AiQuota => AI_QUOTA,
        ObjectKind::AiTokenRateLimit => AI_TOKEN_RATELIMIT,
    };
    match of(ours) {
        Write::Waiting | Write::Failed { .. } if !stands => of(ours),
        _ => of(GUARD),
    }
}

/// `refused`: what becomes of requests where the store cannot be used.
fn programmed(verdict: &Verdict, rules: &[bool], write: &Write, refused: &str) -> State {
    if let Some(state) = not_taken(verdict, refused) {
        return state;
    }
    let complete = verdict.targets.iter().zip(rules).all(|((_, problem), rule)| problem.is_some() || *rule);
    match (&verdict.withheld, write) {
        (Some(reason), _) if complete => State::Not(
            reason.reason(),
            cut(format!("requests are {refused}, because the store cannot be used: {reason}")),
        ),
        (Some(reason), _) => State::Not(
            reason.reason(),
            cut(format!("this object does not limit every target yet, because the store cannot be used: {reason}")),
        ),
        (None, _) if !complete => {
            State::not(verdict.waits.first().map_or(&Reason::WaitsForSeeds, |(_, reason)| reason))
        }
        (None, Write::Done) => State::Is,
        (None, Write::Waiting) => State::not(&Reason::WaitsForWrite),
        (None, Write::Failed { error }) => State::not(&Reason::WriteFailed(error.clone())),
    }
}

/// What became of the limits of single values.
fn overrides(plan: &Plan, verdict: &Verdict, answers: &[Seeded]) -> State {
    let became = verdict.overrides.clone().map(|set| (set, answers.get(set).unwrap_or(&Seeded::Pending)));
    let not_yet = || became.clone().find(|(_, seeded)| **seeded != Seeded::Applied);
    let Some((set, seeded)) = not_yet() else { return State::Is };
    match seeded {
        Seeded::Conflict { owner } => State::not(&Reason::OverridesOwned { owner: owner.clone() }),
        Seeded::Unreachable { error } => {
            let store = crate::Key::of(&plan.stores[plan.overrides[set].store].object.metadata).name;
            State::not(&Reason::StoreUnreachable { store, error: error.clone() })
        }
        Seeded::Stale { .. } => State::not(&Reason::Superseded),
        _ => State::not(&Reason::SeedingOverrides),
    }
}

fn balances(plan: &Plan, verdict: &Verdict, seeds: &Seeds, refused: &str) -> State {
    if let Some(state) = not_taken(verdict, refused) {
        return state;
    }
    if let Some(reason) = &verdict.withheld {
        return State::not(reason);
    }
    let name = |seed: usize| verdict.object.listed_name(plan.seeds[seed].consumer).unwrap_or_default();
    // The worst first: what a person has to act on, then what time heals.
    let problem =
        [&seeds.malformed, &seeds.unreadable, &seeds.conflict, &seeds.unreachable, &seeds.stale, &seeds.pending]
            .into_iter()
            .find_map(|(count, first)| first.map(|first| (*count, first.0, first.1)));
    let Some((count, seed, became)) = problem else { return State::Is };
    let more = count - 1;
    match became {
        Seeded::Malformed { found } => {
            let key = String::from_utf8_lossy(plan.seeds[seed].balance.as_bytes()).into_owned();
            State::not(&Reason::MalformedBalance { consumer: name(seed), key, found: found.clone(), more })
        }
        Seeded::Unreadable { problem } => {
            State::not(&Reason::UnreadableBalance { consumer: name(seed), problem: problem.clone(), more })
        }
        Seeded::Conflict { owner } => {
            State::not(&Reason::BalanceOwned { consumer: name(seed), owner: owner.clone(), more })
        }
        Seeded::Unreachable { error } => {
            let store = crate::Key::of(&plan.stores[plan.seeds[seed].store].object.metadata).name;
            State::not(&Reason::StoreUnreachable { store, error: error.clone() })
        }
        Seeded::Stale { .. } => State::not(&Reason::Superseded),
        Seeded::Pending | Seeded::Applied => {
            State::not(&Reason::Seeding { done: seeds.applied, all: verdict.seeds.len() })
        }
    }
}

/// Whether nothing of the object is in force by its own spec.
fn rejected(verdict: &Verdict) -> bool {
    verdict.targets.iter().all(|(_, problem)| problem.is_some())
}

/// What there is to say of an object that is not taken at its word, or not at all.
fn not_taken(verdict: &Verdict, refused: &str) -> Option<State> {
    if rejected(verdict) {
        let message = "no target is accepted, so this object limits nothing".to_owned();
        return Some(State::Not("NotAccepted", message));
    }
    let reason = verdict.refused.first().filter(|_| verdict.keeps_last_rule())?;
    Some(match &verdict.withheld {
        Some(reason) => State::Not(reason.reason(), cut(format!("requests are {refused}: {reason}"))),
        None => State::Unknown(reason.reason(), "what was in force before stays".to_owned()),
    })
}

/// How far the deletion of an object is whose balances go with it. Its time counts from when its rules were out.
fn deleting(
    plan: &Plan,
    verdict: &Verdict,
    writes: &Writes,
    deletion: Option<&Deletion>,
) -> Option<(&'static str, &'static str, String)> {
    let Life::Leaves(Leaving { since: _, until: _, drained }) = verdict.life else { return None };
    // What was last written is newer than what a watch that lags shows. Its own status is no witness.
    let name = verdict.key.to_string();
    let Part { found, existing, .. } = &plan.quotas;
    let out = writes.get(AI_QUOTA) == Some(&Write::Done) || !found.enforces(&name) || !existing.enforces(&name);
    let drain = plan.gateway.settings.drain.as_secs();
    Some(match deletion {
        _ if !out => ("False", "WaitsForWrite", "its rules are still in the gateway's WasmPlugin".to_owned()),
        _ if !drained => (
            "True",
            "Draining",
            format!(
                "its rules are out; its balances are deleted {drain} s after that, when requests under way have ended"
            ),
        ),
        Some(Deletion::Done) => return None,
        Some(Deletion::Stuck { store, error }) => (
            "True",
            "StoreUnreachable",
            format!(
                "its balances in store {store} cannot be deleted: {error}; it is tried again until they can be; to let \
                 the object go and leave them there, annotate it with {ABANDON_BALANCES}=true"
            ),
        ),
        _ => ("True", "DeletingBalances", "its balances are being deleted".to_owned()),
    })
}

/// How many seeds became what, and the first of each.
#[derive(Default)]
struct Seeds<'a> {
    applied: usize,
    malformed: Became<'a>,
    unreadable: Became<'a>,
    conflict: Became<'a>,
    unreachable: Became<'a>,
    stale: Became<'a>,
    pending: Became<'a>,
}

type Became<'a> = (usize, Option<(usize, &'a Seeded)>);

impl<'a> Seeds<'a> {
    fn of(verdict: &Verdict, seeded: &'a [Seeded]) -> Self {
        let mut seeds = Self::default();
        for seed in verdict.seeds.clone() {
            let became = seeded.get(seed).unwrap_or(&Seeded::Pending);
            let count = match became {
                Seeded::Applied => {
                    seeds.applied += 1;
                    continue;
                }
                Seeded::Malformed { .. } => &mut seeds.malformed,
                Seeded::Unreadable { .. } => &mut seeds.unreadable,
                Seeded::Conflict { .. } => &mut seeds.conflict,
                Seeded::Unreachable { .. } => &mut seeds.unreachable,
                Seeded::Stale { .. } => &mut seeds.stale,
                Seeded::Pending => &mut seeds.pending,
            };
            count.0 += 1;
            count.1.get_or_insert((seed, became));
        }
        seeds
    }
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}
