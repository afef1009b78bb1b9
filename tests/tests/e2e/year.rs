//! A year in a minute: the real planner, the real Lua library on a real Redis, and only the clock replaced. Objects in
//! five zones are edited, controllers restart and are away, requests come at any moment; every balance is, to the
//! token, what an account kept by hand says.

use std::{collections::BTreeMap, env, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use api::AiQuota;
use book::{Book, Mode, Refresh};
use calendar::{PATTERNS, ZONES, boundaries, midnight};
use clock::Clocked;
use e2e::{random::Random, raw::Raw};
use enforcement::{
    redis::{
        Add, AdminOutcome, ApplyOutcome, Balance, Charge, ChargeOutcome, Check, CheckOutcome, Invocation, Left, Period,
        Query, Reply, ReplyError,
    },
    wire,
};
use k8s_openapi::jiff::Timestamp;
use plan::{AI_QUOTA, Seeded, World};
use testbed::{Redis, RedisOptions};

mod book;
mod calendar;
mod clock;
#[expect(dead_code, reason = "worlds of other tests")]
#[path = "../../../crates/plan/tests/large/mod.rs"]
mod world;

const BEGIN: i64 = midnight(2026, 9, 20);
const END: i64 = midnight(2027, 11, 15);
/// No controller runs in this month, across a clock change.
const AWAY: std::ops::Range<i64> = midnight(2027, 3, 10)..midnight(2027, 4, 10);
const OBJECTS: usize = 40;

/// What is declared now.
#[derive(Clone, Copy, Debug)]
struct Declared {
    grant: i64,
    refresh: Option<Refresh>,
    token: Option<u32>,
}

/// The configuration of the module.
#[derive(Default)]
struct Gateway {
    policies: BTreeMap<String, wire::Policy>,
    tables: BTreeMap<String, Vec<(i64, i64)>>,
}

/// A request in flight.
struct Flight {
    object: usize,
    tokens: i64,
    /// As Redis said it, and as the book did.
    admitted: (Option<i64>, Option<usize>),
}

struct Year {
    random: Random,
    now: i64,
    redis: Clocked,
    world: World,
    balances: Vec<Balance>,
    declared: Vec<Declared>,
    books: Vec<Book>,
    /// What the controller remembers to have applied: generation and token.
    applied: Vec<Option<(i64, Option<u32>)>>,
    /// What the gateway has, as written and as the books know it; how far its tables reach.
    gateway: Arc<Gateway>,
    programmed: Vec<Option<Refresh>>,
    reach: BTreeMap<usize, usize>,
    flights: Vec<Flight>,
    schedules: Vec<Vec<i64>>,
    counts: BTreeMap<&'static str, usize>,
}

#[tokio::test]
async fn a_year_of_refreshes_is_right_to_the_token() -> Result<()> {
    let seed = match env::var("AIQUOTA_SEED") {
        Ok(seed) => seed.parse().context("AIQUOTA_SEED is a number")?,
        Err(_) => 2026,
    };
    println!("AIQUOTA_SEED={seed}");
    let server = Redis::start(RedisOptions::default()).await?;
    let mut year = Year::new(seed, Raw::connect(&server.addr()).await?).await?;
    let played = year.play().await;
    println!("{:?}", year.counts);
    played.with_context(|| format!("with AIQUOTA_SEED={seed}, at {}", year.time()))?;
    for what in
        ["refused", "forgiven", "boundaries at once", "beyond the table", "edits", "crashes", "restarts", "lost"]
    {
        ensure!(year.counts.contains_key(what), "never played: {what}");
    }
    Ok(())
}

impl Year {
    async fn new(seed: u64, redis: Raw) -> Result<Self> {
        let schedules = (0..PATTERNS.len() * ZONES.len()).map(|schedule| {
            let (pattern, zone) = (schedule / ZONES.len(), schedule % ZONES.len());
            boundaries(pattern, &ZONES[zone], BEGIN - 86_400, END + 3 * 86_400)
        });
        let world = world::world(OBJECTS, 1, OBJECTS);
        let balances = world.quotas.iter().enumerate().map(|(index, quota)| {
            let prefix = format!("aiquota:team-0/Ingress/route-{index:04}:");
            Balance::new(&prefix, quota.spec.consumers[0].name.as_bytes())
        });
        Ok(Self {
            random: Random(seed),
            now: BEGIN,
            redis: Clocked::new(redis).await?,
            balances: balances.collect(),
            declared: vec![Declared { grant: 10_000, refresh: None, token: None }; OBJECTS],
            books: vec![Book::default(); OBJECTS],
            applied: vec![None; OBJECTS],
            gateway: Arc::default(),
            programmed: vec![None; OBJECTS],
            reach: BTreeMap::new(),
            flights: Vec::new(),
            schedules: schedules.collect(),
            counts: BTreeMap::new(),
            world,
        })
    }

    async fn play(&mut self) -> Result<()> {
        for object in 0..OBJECTS {
            // Every pattern in every zone is there at the beginning; edits mix them.
            let schedule = object % self.schedules.len();
            let mode = [Mode::Reset, Mode::Add, Mode::CarryOver(25_000)][object % 3];
            self.declared[object].refresh = Some(Refresh { schedule, mode });
            self.edited(object);
        }
        self.round(false).await?;
        while self.now < END {
            self.now += match self.random.below(8) {
                0 => 1,
                1..=5 => i64::try_from(self.random.below(4 * 3600))?,
                _ => i64::try_from(self.random.below(40 * 3600))?,
            };
            for _ in 0..6 {
                self.request().await?;
            }
            if !AWAY.contains(&self.now) && self.random.one_in(3) {
                self.control().await?;
            }
        }
        while !self.flights.is_empty() {
            self.land(0).await?;
        }
        for object in 0..OBJECTS {
            self.query(object).await?;
        }
        Ok(())
    }

    /// A controller does something.
    async fn control(&mut self) -> Result<()> {
        let mut crashes = false;
        match self.random.below(6) {
            0 => {
                self.count("restarts");
                self.forget();
            }
            // Somebody deletes the WasmPlugin while no controller runs, or while one does.
            1 if self.random.one_in(4) => {
                self.count("lost");
                self.world.plugins.retain(|plugin| plugin.metadata.name.as_deref() != Some(AI_QUOTA));
                if self.random.one_in(2) || self.world.last_written.is_empty() {
                    self.forget();
                    self.reach.clear();
                    // Nobody knows what was in force before an edit that is not written yet.
                    self.programmed.fill(None);
                }
            }
            2..=4 => {
                for _ in 0..=self.random.below(3) {
                    let object = self.random.below(OBJECTS);
                    self.edit(object).await?;
                }
                crashes = self.random.one_in(6);
            }
            _ => {}
        }
        self.round(crashes).await
    }

    fn forget(&mut self) {
        self.world.last_written.clear();
        self.applied.fill(None);
    }

    async fn edit(&mut self, object: usize) -> Result<()> {
        self.count("edits");
        // A charge knows its period by number, and those of two schedules say nothing to each other.
        while let Some(flight) = self.flights.iter().position(|flight| flight.object == object) {
            self.land(flight).await?;
        }
        let mode = match self.random.below(3) {
            0 => Mode::Reset,
            1 => Mode::Add,
            _ => Mode::CarryOver(self.random.pick(&[5_000, 15_000, 60_000])),
        };
        let schedules = self.schedules.len();
        let (pattern, zone) = (self.random.below(PATTERNS.len()), self.random.below(ZONES.len()));
        let grant = 1 + i64::try_from(self.random.below(20_000))?;
        let what = self.random.below(8);
        let next = u32::try_from(self.random.below(1_000_000))?;
        let declared = &mut self.declared[object];
        match (what, &mut declared.refresh) {
            (0, refresh) if refresh.is_some() => *refresh = None,
            (0 | 1, refresh) => *refresh = Some(Refresh { schedule: pattern * ZONES.len() + zone, mode }),
            (2, Some(refresh)) => refresh.schedule = refresh.schedule / ZONES.len() * ZONES.len() + zone,
            (3, Some(refresh)) => refresh.schedule = (pattern * ZONES.len() + refresh.schedule) % schedules,
            (4, Some(refresh)) => refresh.mode = mode,
            (5, _) => declared.token = Some(next),
            _ => declared.grant = grant,
        }
        self.edited(object);
        Ok(())
    }

    /// The API server stores what is declared.
    fn edited(&mut self, object: usize) {
        let Declared { grant, refresh, token } = self.declared[object];
        let quota: &mut AiQuota = Arc::make_mut(&mut self.world.quotas[object]);
        quota.spec.consumers[0].quota = Some(grant);
        let refresh = refresh.map(|Refresh { schedule, mode }| {
            let (mode, max_balance) = match mode {
                Mode::Reset => (api::RefreshMode::Reset, None),
                Mode::Add => (api::RefreshMode::Add, None),
                Mode::CarryOver(cap) => (api::RefreshMode::CarryOver, Some(cap)),
            };
            api::Refresh {
                schedule: PATTERNS[schedule / ZONES.len()].text.to_owned(),
                time_zone: Some(ZONES[schedule % ZONES.len()].name.to_owned()),
                mode: Some(mode),
                max_balance,
            }
        });
        if quota.spec.refresh != refresh {
            quota.spec.refresh = refresh;
        }
        quota.metadata.generation = quota.metadata.generation.map(|generation| generation + 1);
        if let Some(token) = token {
            quota.metadata.annotations.get_or_insert_default().insert(api::REFRESH.to_owned(), token.to_string());
        }
    }

    /// One turn of the controller's loop; `crashes`: it ends before it writes the WasmPlugin.
    async fn round(&mut self, crashes: bool) -> Result<()> {
        self.world.now = Timestamp::from_second(self.now)?;
        let plan = plan::build(&self.world);
        ensure!(plan.seeds.len() == OBJECTS, "{} seeds", plan.seeds.len());
        for object in 0..OBJECTS {
            let seed = plan.seeds.iter().find(|seed| seed.balance == self.balances[object]).context("no such seed")?;
            let declared = self.declared[object];
            let version = (seed.object.generation, declared.token);
            if self.applied[object] == Some(version) {
                continue;
            }
            if let Some(roll) = seed.roll() {
                self.call(&roll.invocation(), AdminOutcome::of).await?;
            }
            let outcome = self.call(&seed.apply(false).invocation(), ApplyOutcome::of).await?;
            let (before, passed) = (self.programmed[object], self.passed(self.programmed[object]));
            if before != declared.refresh {
                self.roll(object, before, passed);
            }
            let passed = self.passed(declared.refresh);
            self.roll(object, declared.refresh, passed);
            self.books[object].declare(declared.grant, declared.refresh, passed, declared.token);
            let Book { balance, used, .. } = self.books[object];
            match outcome {
                ApplyOutcome::Applied { changed: _, balance: found, used: counted } => {
                    ensure!(
                        (found, counted) == (Some(balance), used),
                        "object {object}: {found:?} {counted}, expected {balance} {used}: {declared:?}"
                    );
                }
                other => anyhow::bail!("object {object}: {other:?}"),
            }
            self.applied[object] = Some(version);
        }
        if crashes {
            self.count("crashes");
            self.forget();
            return Ok(());
        }
        let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
        for plugin in program.plugins.into_iter().filter(plan::PluginWrite::differs) {
            self.world.plugins.retain(|found| found.metadata.name.as_deref() != Some(plugin.name));
            // As the API server returns it: what was sent, as JSON.
            let stored: Arc<api::WasmPlugin> = Arc::new(serde_json::from_value(serde_json::to_value(&plugin.wanted)?)?);
            self.world.plugins.push(stored.clone());
            if plugin.name == AI_QUOTA {
                self.load(&stored)?;
                self.world.last_written = vec![stored];
            }
        }
        self.programmed = self.declared.iter().map(|declared| declared.refresh).collect();
        let used: Vec<usize> = self.programmed.iter().flatten().map(|refresh| refresh.schedule).collect();
        self.reach.retain(|schedule, _| used.contains(schedule));
        for schedule in used {
            // As docs/refresh.md says: 64 ahead, and again when fewer than 16 are.
            let passed = self.schedules[schedule].partition_point(|at| *at <= self.now);
            let reach = self.reach.entry(schedule).or_insert(passed + 64);
            if *reach < passed + 16 {
                *reach = passed + 64;
            }
        }
        Ok(())
    }

    fn load(&mut self, plugin: &api::WasmPlugin) -> Result<()> {
        let native = plugin.spec.default_config.as_ref().context("no configuration")?[wire::KEY].clone();
        let wire::Native { policies, schedules, .. } = serde_json::from_value::<wire::Native>(native)?;
        let tables = schedules.into_iter().map(|(name, schedule)| Some((name, schedule.boundaries()?)));
        let tables = tables.collect::<Option<_>>().context("a table that is none")?;
        self.gateway = Arc::new(Gateway { policies, tables });
        Ok(())
    }

    /// How many boundaries of a refresh's schedule have passed.
    fn passed(&self, refresh: Option<Refresh>) -> usize {
        refresh.map_or(0, |refresh| self.schedules[refresh.schedule].partition_point(|at| *at <= self.now))
    }

    fn roll(&mut self, object: usize, refresh: Option<Refresh>, passed: usize) {
        let schedule = refresh.map(|refresh| refresh.schedule);
        if self.books[object].period(schedule).is_some_and(|seen| seen + 1 < passed) {
            self.count("boundaries at once");
        }
        self.books[object].roll(refresh, passed);
    }

    /// What the gateway's table tells of the present, for a request of this object.
    fn roll_by_table(&mut self, object: usize) {
        let refresh = self.programmed[object];
        let passed = self.passed(refresh);
        let known =
            refresh.and_then(|refresh| self.reach.get(&refresh.schedule)).map_or(passed, |reach| passed.min(*reach));
        if known < passed {
            self.count("beyond the table");
        }
        self.roll(object, refresh, known);
    }

    /// Something happens at the gateway.
    async fn request(&mut self) -> Result<()> {
        let object = self.random.below(OBJECTS);
        match self.random.below(8) {
            0 if !self.flights.is_empty() => {
                let flight = self.random.below(self.flights.len());
                self.land(flight).await
            }
            1 => self.query(object).await,
            2 => self.add(object).await,
            _ => self.check(object).await,
        }
    }

    async fn check(&mut self, object: usize) -> Result<()> {
        self.roll_by_table(object);
        let gateway = Arc::clone(&self.gateway);
        let period = period(&gateway, object, self.now);
        let balance = self.balances[object].clone();
        let owner = &gateway.policies.get(&policy(object)).context("no such policy")?.owner;
        let check = Check { balance: &balance, need: 0, hold: None, default: None, owner, yields: false, period };
        let outcome = self.call(&check.invocation(), CheckOutcome::of).await?;
        let expected = self.books[object].balance;
        let admitted = match outcome {
            CheckOutcome::Admitted { left: Left::Tokens(found), period } if found == expected && found > 0 => period,
            CheckOutcome::Refused { available } if available == Some(expected) && expected <= 0 => {
                self.count("refused");
                return Ok(());
            }
            other => anyhow::bail!("object {object}: {other:?}, expected {expected}: {:?}", self.declared[object]),
        };
        let schedule = self.programmed[object].map(|refresh| refresh.schedule);
        let admitted = (admitted, self.books[object].period(schedule));
        ensure!(admitted.0.is_some() == admitted.1.is_some(), "object {object}: {admitted:?}");
        let tokens = 1 + i64::try_from(self.random.below(6_000))?;
        self.flights.push(Flight { object, tokens, admitted });
        // Some answers take so long that a boundary passes.
        if self.random.one_in(4) { Ok(()) } else { self.land(self.flights.len() - 1).await }
    }

    /// A request ends.
    async fn land(&mut self, flight: usize) -> Result<()> {
        let Flight { object, tokens, admitted: (ordinal, admitted) } = self.flights.swap_remove(flight);
        self.roll_by_table(object);
        let gateway = Arc::clone(&self.gateway);
        let period = period(&gateway, object, self.now);
        let balance = self.balances[object].clone();
        let charge = Charge { balance: &balance, tokens, hold: None, admitted_in: ordinal, period };
        let outcome = self.call(&charge.invocation(), ChargeOutcome::of).await?;
        let before = self.books[object].balance;
        self.books[object].charge(tokens, admitted, self.programmed[object]);
        let expected = self.books[object].balance;
        match outcome {
            ChargeOutcome::Booked { balance: Some(found) } if found == expected && before != expected => {}
            ChargeOutcome::Forgiven if before == expected => self.count("forgiven"),
            other => anyhow::bail!("object {object}: {other:?}, expected {expected} after {before}"),
        }
        Ok(())
    }

    async fn query(&mut self, object: usize) -> Result<()> {
        self.roll_by_table(object);
        let gateway = Arc::clone(&self.gateway);
        let balance = self.balances[object].clone();
        let query = Query { balance: &balance, period: period(&gateway, object, self.now) };
        let outcome = self.call(&query.invocation(), AdminOutcome::of).await?;
        let expected = self.books[object].balance;
        ensure!(outcome == AdminOutcome::Balance(expected), "object {object}: {outcome:?}, expected {expected}");
        Ok(())
    }

    async fn add(&mut self, object: usize) -> Result<()> {
        self.roll_by_table(object);
        let value = i64::try_from(self.random.below(4_000))? - 2_000;
        let gateway = Arc::clone(&self.gateway);
        let balance = self.balances[object].clone();
        let add = Add { balance: &balance, value, period: period(&gateway, object, self.now) };
        let outcome = self.call(&add.invocation(), AdminOutcome::of).await?;
        self.books[object].balance += value;
        let expected = self.books[object].balance;
        ensure!(outcome == AdminOutcome::Balance(expected), "object {object}: {outcome:?}, expected {expected}");
        Ok(())
    }

    async fn call<T>(&mut self, call: &Invocation, of: impl Fn(&Reply<'_>) -> Result<T, ReplyError>) -> Result<T> {
        self.redis.call(call, self.now, of).await
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn time(&self) -> String {
        Timestamp::from_second(self.now).map(|now| now.to_string()).unwrap_or_default()
    }
}

/// As the module tells it: the boundaries around now by the gateway's own table.
fn period(Gateway { policies, tables }: &Gateway, object: usize, now: i64) -> Option<Period<'_>> {
    let refresh = policies.get(&policy(object))?.refresh.as_ref()?;
    Period::around(refresh, tables.get(&refresh.schedule)?, now)
}

fn policy(object: usize) -> String {
    format!("team-0/quota-{object:05}")
}
