//! What is known of the balances of one store: what became of calls in, what is left to ask and what became of each
//! seed out. Kept by object, and for an object whose balances are all applied just that: there may be ten thousand
//! objects with a hundred thousand balances, and each is looked at in every round. No I/O.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use enforcement::redis::Grant;
use plan::{Figures, Owner, Plan, Seed, Seeded, Turn};
use tokio::time::Instant;

use super::calls::Done;

/// By the owner's name.
#[derive(Default)]
pub(super) struct Made(HashMap<String, Object>);

/// The balances of one object.
struct Object {
    owner: Arc<Owner>,
    /// Equal as long as the object has the same balances and grants.
    stamp: u64,
    /// Its seeds in the plan of this round.
    seeds: Range<usize>,
    state: State,
    /// One for each seed, as last looked at.
    figures: Box<[Option<Figures>]>,
}

enum State {
    /// All are applied, for this period where applying begins periods.
    Applied(Option<Turn>),
    /// One for each seed; nothing where there was no answer yet.
    Answers(Box<[Option<Answer>]>),
}

#[derive(Clone)]
struct Answer {
    seeded: Seeded,
    /// The period that it was applied for.
    turn: Option<Turn>,
    takeover: bool,
    at: Instant,
}

impl Made {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What was said about what this plan does not want so any more is forgotten.
    pub(super) fn begin(&mut self, plan: &Plan, store: usize) {
        for object in self.0.values_mut() {
            object.seeds = 0..0;
        }
        for seeds in objects(plan, store) {
            let first = &plan.seeds[seeds.start];
            if let Some(object) = self.0.get_mut(&first.object.name)
                && object.is_about(&plan.seeds[seeds.clone()])
            {
                object.seeds = seeds;
            }
        }
        self.0.retain(|_, object| !object.seeds.is_empty());
    }

    /// The seeds that Redis is to be asked for, because it was not or because asking again may help. What could not be
    /// made so is tried again after `patience`.
    pub(super) fn open(&self, plan: &Plan, store: usize, patience: Duration) -> Vec<usize> {
        let mut open = Vec::new();
        for seeds in objects(plan, store) {
            match self.0.get(&plan.seeds[seeds.start].object.name).map(|object| &object.state) {
                None => open.extend(seeds),
                Some(State::Applied(turn)) if *turn == plan.seeds[seeds.start].turn() => {}
                Some(State::Applied(_)) => open.extend(seeds),
                Some(State::Answers(answers)) => {
                    let knows = |seed: usize, answer: &Option<Answer>| {
                        answer.as_ref().is_some_and(|answer| answer.stands(plan, &plan.seeds[seed], patience))
                    };
                    open.extend(
                        seeds.zip(answers).filter(|(seed, answer)| !knows(*seed, answer)).map(|(seed, _)| seed),
                    );
                }
            }
        }
        open
    }

    /// Who has the balance of a seed instead, by the last answer.
    pub(super) fn conflict(&self, plan: &Plan, seed: usize) -> Option<&str> {
        let object = self.0.get(&plan.seeds[seed].object.name)?;
        match &object.answer(seed)?.seeded {
            Seeded::Conflict { owner } => Some(owner),
            _ => None,
        }
    }

    /// Takes note of answers, those of one object standing together, and says from whom balances were taken over.
    pub(super) fn record(&mut self, plan: &Plan, done: Vec<Done>, at: Instant) -> Vec<String> {
        let mut taken = Vec::new();
        let mut done = done.into_iter().peekable();
        while let Some((seed, ..)) = done.peek() {
            let owner = &plan.seeds[*seed].object;
            let seeds = of_one(plan, *seed);
            let object = self.0.entry(owner.name.clone()).or_insert_with(|| Object::new(plan, seeds.clone()));
            object.open(at);
            while let Some((seed, takeover, seeded, figures)) = done.next_if(|(seed, ..)| seeds.contains(seed)) {
                let answer = Answer { seeded, turn: plan.seeds[seed].turn(), takeover, at };
                if let Some(place) = object.figures.get_mut(seed - seeds.start) {
                    *place = figures;
                }
                let before = object.place(seed - seeds.start).and_then(|place| place.replace(answer));
                if let Some(Answer { seeded: Seeded::Conflict { owner }, .. }) = before.filter(|_| takeover) {
                    taken.push(owner);
                }
            }
            object.close();
        }
        taken
    }

    /// Those of an object's seeds that are applied.
    pub(super) fn applied(&self, plan: &Plan, seeds: Range<usize>) -> Vec<usize> {
        let first = plan.seeds[seeds.clone()].first();
        match first.and_then(|first| self.0.get(&first.object.name)).filter(|object| object.seeds == seeds) {
            None => Vec::new(),
            Some(Object { state: State::Applied(_), .. }) => seeds.collect(),
            Some(Object { state: State::Answers(answers), .. }) => {
                let applied = |answer: &Answer| answer.seeded == Seeded::Applied;
                let applied = seeds.zip(answers).filter(|(_, answer)| answer.as_ref().is_some_and(applied));
                applied.map(|(seed, _)| seed).collect()
            }
        }
    }

    /// Whether of something applied another thing is said than before.
    pub(super) fn is_news(&self, plan: &Plan, (seed, _, seeded, figures): &Done) -> bool {
        let object = self.0.get(&plan.seeds[*seed].object.name);
        let before = object.and_then(|object| object.figures.get(seed.checked_sub(object.seeds.start)?));
        *seeded != Seeded::Applied || before != Some(figures)
    }

    /// What became of the seeds of this store, and their figures, into their places; `otherwise` where nothing is known.
    pub(super) fn tell(
        &self,
        plan: &Plan,
        store: usize,
        otherwise: &Seeded,
        (into, figures): (&mut [Seeded], &mut [Option<Figures>]),
    ) {
        for seeds in objects(plan, store) {
            let object = self.0.get(&plan.seeds[seeds.start].object.name);
            if let Some(object) = object {
                figures[seeds.clone()].copy_from_slice(&object.figures);
            }
            match (object.map(|object| &object.state), &mut into[seeds]) {
                (None, places) => places.fill(otherwise.clone()),
                (Some(State::Applied(_)), places) => places.fill(Seeded::Applied),
                (Some(State::Answers(answers)), places) => {
                    for (place, answer) in places.iter_mut().zip(answers) {
                        *place = answer.as_ref().map_or(otherwise, |answer| &answer.seeded).clone();
                    }
                }
            }
        }
    }

    /// When those were asked for last that could not be made so.
    pub(super) fn unmade(&self) -> impl Iterator<Item = Instant> {
        let answers = self.0.values().filter_map(|object| match &object.state {
            State::Applied(_) => None,
            State::Answers(answers) => Some(answers.iter().flatten()),
        });
        answers.flatten().filter(|answer| answer.seeded != Seeded::Applied).map(|answer| answer.at)
    }
}

impl Object {
    fn new(plan: &Plan, seeds: Range<usize>) -> Self {
        let of = &plan.seeds[seeds.clone()];
        let state = State::Answers(vec![None; of.len()].into());
        let figures = vec![None; of.len()].into();
        Self { owner: of[0].object.clone(), stamp: stamp(of), seeds, state, figures }
    }

    /// Whether it says what would come of these seeds, which are those of one object.
    fn is_about(&self, seeds: &[Seed]) -> bool {
        let period = |turn: Option<Turn>| turn.map(|turn| turn.ordinal);
        let same_period = match &self.state {
            State::Applied(turn) => period(*turn) == period(seeds[0].turn()),
            State::Answers(answers) => {
                answers.iter().flatten().all(|answer| period(answer.turn) == period(seeds[0].turn()))
            }
        };
        self.owner == seeds[0].object && same_period && self.stamp == stamp(seeds)
    }

    fn answer(&self, seed: usize) -> Option<&Answer> {
        let State::Answers(answers) = &self.state else { return None };
        answers.get(seed.checked_sub(self.seeds.start)?)?.as_ref()
    }

    /// Makes a place for the answer of each seed.
    fn open(&mut self, at: Instant) {
        if let State::Applied(turn) = self.state {
            let applied = Answer { seeded: Seeded::Applied, turn, takeover: false, at };
            self.state = State::Answers(vec![Some(applied); self.seeds.len()].into());
        }
    }

    fn place(&mut self, at: usize) -> Option<&mut Option<Answer>> {
        match &mut self.state {
            State::Answers(answers) => answers.get_mut(at),
            State::Applied(_) => None,
        }
    }

    fn close(&mut self) {
        let State::Answers(answers) = &self.state else { return };
        let Some(Some(Answer { turn, .. })) = answers.first() else { return };
        let as_first = |answer: &Answer| answer.seeded == Seeded::Applied && answer.turn == *turn;
        if answers.iter().all(|answer| answer.as_ref().is_some_and(as_first)) {
            self.state = State::Applied(*turn);
        }
    }
}

impl Answer {
    /// Whether asking again can be left out.
    fn stands(&self, plan: &Plan, seed: &Seed, patience: Duration) -> bool {
        match &self.seeded {
            // A period that began by the controller's clock may not have come by Redis' yet.
            Seeded::Applied => self.turn == seed.turn(),
            Seeded::Conflict { owner } if !self.takeover && plan.may_take_over(owner) => false,
            _ => self.at.elapsed() < patience,
        }
    }
}

/// The seeds of a store, object by object. All of one object are in one store.
fn objects(plan: &Plan, store: usize) -> impl Iterator<Item = Range<usize>> {
    let all = plan.verdicts.iter().map(|verdict| verdict.seeds.clone());
    all.filter(move |seeds| plan.seeds[seeds.clone()].first().is_some_and(|seed| seed.store == store))
}

/// All seeds of the object that this one is of.
fn of_one(plan: &Plan, seed: usize) -> Range<usize> {
    let owner = &plan.seeds[seed].object;
    let same = |other: &&Seed| Arc::ptr_eq(&other.object, owner);
    let before = plan.seeds[..seed].iter().rev().take_while(same).count();
    seed - before..seed + plan.seeds[seed..].iter().take_while(same).count()
}

fn stamp(seeds: &[Seed]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for seed in seeds {
        seed.balance.hash(&mut hasher);
        let tokens = match seed.grant {
            Grant::Tokens(tokens) => Some(tokens),
            Grant::Unlimited => None,
        };
        tokens.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeSet, HashMap, HashSet};

    use plan::{FailStrategy, Flavor, Guard, GuardModule, Key, Module, Phase, PullPolicy, Settings, World};
    use serde_json::{Value, json};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Two objects with two consumers each, the first of which has this quota.
    pub(crate) fn plan(quota: i64) -> Plan {
        plan::build(&world(quota))
    }

    pub(in crate::seeder) fn world(quota: i64) -> World {
        let gateway = "higress-system";
        let object = |kind: &str, name: &str, spec: Value| {
            json!({
                "apiVersion": "v1", "kind": kind, "spec": spec,
                "metadata": {"name": name, "namespace": gateway, "uid": name, "generation": quota},
            })
        };
        let quotas = [("chat", quota), ("mail", 5)].map(|(name, quota)| {
            let mut object = object("AIQuota", name, json!({
                "targetRefs": [{"kind": "HTTPRoute", "name": "qwen"}],
                "keyPrefix": "q:",
                "consumers": [{"name": format!("{name}-1"), "quota": quota}, {"name": format!("{name}-2"), "quota": 5}],
            }));
            if name == "mail" {
                object["metadata"]["generation"] = 1.into();
            }
            Arc::new(serde_json::from_value(object).unwrap())
        });
        let url = "oci://example/ai-quota:1.0.0".to_owned();
        World {
            settings: Settings {
                gateway_namespace: gateway.to_owned(),
                trusted_namespaces: BTreeSet::new(),
                flavor: Flavor::Native,
                module: Module {
                    url: url.clone(),
                    sha256: None,
                    image_pull_policy: PullPolicy::IfNotPresent,
                    image_pull_secret: None,
                    fail_strategy: FailStrategy::Close,
                    phase: Phase::Unspecified,
                    priority: 750,
                },
                limit_module: None,
                limit_dialect: enforcement::wire::limit::Dialect::V2,
                guard: Guard::On,
                guard_module: GuardModule { url, sha256: None },
                auth_plugins: Vec::new(),
                namespace_share: 100,
                drain: Duration::from_secs(300),
            },
            now: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            cluster: "c".to_owned(),
            term: 1,
            quotas: quotas.into(),
            undecodable: Vec::new(),
            stores: vec![Arc::new(
                serde_json::from_value(object("AIQuotaStore", "default", json!({"service": {"name": "redis.static"}})))
                    .unwrap(),
            )],
            undecodable_stores: HashSet::new(),
            ingresses: Vec::new(),
            http_routes: HashMap::from([(Key::new(gateway, "qwen"), Vec::new())]),
            services: HashMap::new(),
            secrets: Vec::new(),
            config_maps: Vec::new(),
            plugins: Vec::new(),
            last_written: Vec::new(),
            limits: Vec::new(),
            databases: HashMap::new(),
            bridges: vec![Arc::new(
                serde_json::from_value(object(
                    "McpBridge",
                    "default",
                    json!({
                        "registries": [{"type": "static", "name": "redis", "domain": "10.0.0.7:6379", "port": 80}],
                    }),
                ))
                .unwrap(),
            )],
        }
    }

    fn told(made: &Made, plan: &Plan) -> Vec<Seeded> {
        let mut told = vec![Seeded::Pending; plan.seeds.len()];
        let mut figures = vec![None; plan.seeds.len()];
        made.tell(plan, 0, &Seeded::Pending, (&mut told, &mut figures));
        told
    }

    fn left(balance: i64) -> Option<Figures> {
        Some(Figures { balance: Some(balance), used: 0 })
    }

    fn applied(seeds: impl IntoIterator<Item = usize>) -> Vec<Done> {
        seeds.into_iter().map(|seed| (seed, false, Seeded::Applied, left(7))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_applied_is_not_asked_for_again_and_is_not_kept_one_by_one() {
        let (plan, mut made) = (plan(1), Made::default());
        made.begin(&plan, 0);
        assert_eq!(made.open(&plan, 0, PATIENCE), [0, 1, 2, 3]);
        made.record(&plan, applied(0..3), Instant::now());
        assert_eq!(made.open(&plan, 0, PATIENCE), [3]);
        assert_eq!(told(&made, &plan), [Seeded::Applied, Seeded::Applied, Seeded::Applied, Seeded::Pending]);
        made.record(&plan, applied(3..4), Instant::now());
        tokio::time::advance(PATIENCE * 2).await;
        made.begin(&plan, 0);
        assert_eq!(made.open(&plan, 0, PATIENCE), [0; 0]);
        assert!(made.0.values().all(|object| matches!(object.state, State::Applied(None))));
        assert_eq!(told(&made, &plan), [const { Seeded::Applied }; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_edited_object_is_asked_for_as_a_whole_and_no_other() {
        let mut made = Made::default();
        made.record(&plan(1), applied(0..4), Instant::now());
        let edited = plan(2);
        made.begin(&edited, 0);
        assert_eq!(made.open(&edited, 0, PATIENCE), [0, 1]);
        assert_eq!(told(&made, &edited), [Seeded::Pending, Seeded::Pending, Seeded::Applied, Seeded::Applied]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_is_forgotten() {
        let (plan, mut made) = (plan(1), Made::default());
        made.record(&plan, applied(0..4), Instant::now());
        made.begin(&plan, 1);
        assert!(made.0.is_empty(), "they are another store's now");
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_made_is_tried_again_after_a_while_and_what_may_be_taken_over_at_once() {
        let (plan, mut made) = (plan(1), Made::default());
        let conflict = |owner: &str| Seeded::Conflict { owner: owner.to_owned() };
        let answers = [Seeded::Malformed { found: "text".to_owned() }, conflict("other/a/b"), conflict("c/a/b")];
        let done = answers.into_iter().enumerate().map(|(seed, answer)| (seed, false, answer, None));
        let then = Instant::now();
        made.record(&plan, done.chain(applied(3..4)).collect(), then);
        assert_eq!(made.open(&plan, 0, PATIENCE), [2], "c is this cluster");
        assert_eq!(made.conflict(&plan, 2), Some("c/a/b"));
        assert_eq!(made.unmade().collect::<Vec<_>>(), [then; 3]);
        assert_eq!(made.record(&plan, vec![(2, true, Seeded::Applied, left(7))], Instant::now()), ["c/a/b"]);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(made.open(&plan, 0, PATIENCE), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_looked_at_again_is_news_if_it_was_spent_lost_or_broken() {
        let (plan, mut made) = (plan(1), Made::default());
        made.record(&plan, applied(0..3), Instant::now());
        made.begin(&plan, 0);
        assert_eq!(made.applied(&plan, 0..2), [0, 1]);
        assert_eq!(made.applied(&plan, 2..4), [2], "the other has no answer yet");
        assert!(applied(0..3).iter().all(|done| !made.is_news(&plan, done)));
        let spent = (0, false, Seeded::Applied, left(6));
        let broken = (1, false, Seeded::Malformed { found: "text".to_owned() }, None);
        assert!(made.is_news(&plan, &spent) && made.is_news(&plan, &broken));
        made.record(&plan, vec![spent.clone(), broken], Instant::now());
        assert!(!made.is_news(&plan, &spent));
        let (mut told, mut figures) = (vec![Seeded::Pending; 4], vec![None; 4]);
        made.tell(&plan, 0, &Seeded::Pending, (&mut told, &mut figures));
        assert_eq!(figures, [left(6), None, left(7), None]);
        assert!(matches!(told[1], Seeded::Malformed { .. }));
        assert_eq!(made.applied(&plan, 0..2), [0], "what is broken is asked for by the rounds");
    }
}
