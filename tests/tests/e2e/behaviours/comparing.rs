//! Generated sequences of operations on one balance, on real Redis and in the oracle: after each, what was answered
//! and everything that is stored must agree. What a controller writes may be repeated: the repetition changes nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use e2e::{random::Random, raw::Raw};
use enforcement::{
    redis::{
        Add, AdminOutcome, Apply, ApplyOutcome, Balance, Charge, ChargeOutcome, Check, CheckOutcome, Delete, Fence,
        Grant, Hold, LeaveOutcome, Left, Park, Period, Query, Release, Set,
    },
    wire::RefreshMode,
};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use testbed::{Redis, RedisOptions};

use super::oracle::{Account, KNOWN_TOKENS, Now, Place, Said, Writer};

const SEQUENCES: u64 = 300;
const STEPS: usize = 60;

const AMOUNTS: &[i64] = &[0, 1, 7, 40, 40, 100, 100, 100, 250, 1000, 9_007_199_254_740_990, 9_007_199_254_740_991];
const OWNERS: &[&str] = &["c/n/a", "c/n/b", "d/n/a"];
const UIDS: &[&str] = &["uid-1", "uid-2"];
const TOKENS: [Option<&str>; 8] = [None, None, None, Some("t-1"), Some("t-1"), Some("t-2"), Some("t-3"), Some("t-4")];
const SCHEDULES: [&str; 2] = ["daily", "weekly"];

struct Played {
    random: Random,
    raw: Raw,
    redis: MultiplexedConnection,
    key: Balance,
    account: Account,
    /// The current ordinal of each schedule.
    ordinals: [i64; 2],
    mode: RefreshMode,
    cap: i64,
    clock: i64,
    holds: u32,
    /// The ordinals that earlier checks told.
    admissions: Vec<Option<i64>>,
}

#[tokio::test]
async fn generated_sequences_leave_what_the_oracle_says() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let mut connection = redis.connect().await?;
    let (clock, _): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
    for seed in 0..SEQUENCES {
        let mut random = Random(seed);
        let mut played = Played {
            raw: Raw::connect(&redis.addr()).await?,
            redis: connection.clone(),
            key: Balance::new("q:", seed.to_string().as_bytes()),
            account: Account::default(),
            ordinals: [50, 9],
            mode: random.pick(&[RefreshMode::Reset, RefreshMode::Add, RefreshMode::CarryOver]),
            cap: random.pick(AMOUNTS),
            clock,
            holds: 0,
            admissions: vec![None],
            random,
        };
        let mut story = Vec::new();
        for _ in 0..STEPS {
            played.step(&mut story).await.with_context(|| format!("seed {seed}:\n{}", story.join("\n")))?;
        }
    }
    Ok(())
}

impl Played {
    async fn step(&mut self, story: &mut Vec<String>) -> Result<()> {
        if self.random.one_in(6) {
            let which = self.random.below(2);
            self.ordinals[which] += i64::try_from(1 + self.random.below(3))?;
        }
        // Mostly one schedule: sequences should also get far without an edit of it.
        let which = usize::from(self.random.one_in(8));
        let scheduled = !self.random.one_in(8);
        let ordinal = self.ordinals[which];
        let now = Now { schedule: SCHEDULES[which], ordinal: ordinal.into(), mode: self.mode, cap: self.cap.into() };
        let now = scheduled.then_some(now);
        let pairs =
            [(ordinal - 1, self.clock - 7200), (ordinal, self.clock - 3600), (ordinal + 1, self.clock + 86_400)];
        let period = Period { schedule: SCHEDULES[which], mode: self.mode, cap: self.cap, boundaries: &pairs };
        let (expected, said) = self.operate(now, scheduled.then_some(period), story).await?;
        anyhow::ensure!(said == expected, "Redis said {said:?}, expected {expected:?}");
        self.compare().await
    }

    async fn operate(
        &mut self,
        now: Option<Now>,
        period: Option<Period<'_>>,
        story: &mut Vec<String>,
    ) -> Result<(Option<Said>, Option<Said>)> {
        let Self { random, raw, key, account, .. } = self;
        let balance = &*key;
        let at = now.map(|now| (now.schedule, now.ordinal));
        Ok(match random.below(20) {
            0..=4 => {
                let need = random.pick(AMOUNTS).max(1);
                let (default, owner) = ((!random.one_in(3)).then(|| random.pick(&[100, 250])), random.pick(OWNERS));
                let yields = random.one_in(2);
                self.holds += 1;
                let hold = random.one_in(2).then_some(self.holds);
                story.push(format!("check {need} hold {hold:?} default {default:?} of {owner} yields {yields} {at:?}"));
                let id = self.holds.to_string();
                let call = Check {
                    balance,
                    need,
                    hold: hold.map(|_| Hold { id: id.as_bytes(), expires_in: 86_400 }),
                    default,
                    owner,
                    yields,
                    period,
                };
                let expected = account.check(need.into(), hold, default.map(Into::into), (owner, yields), now);
                let outcome = raw.call(&call.invocation(), CheckOutcome::of).await?;
                if let CheckOutcome::Admitted { period, .. } = outcome {
                    self.admissions.push(period);
                }
                (Some(expected), checked(&outcome))
            }
            5..=8 => {
                let tokens = random.pick(AMOUNTS);
                let hold = u32::try_from(random.below(self.holds as usize + 1))?;
                let admitted_in = random.pick(&self.admissions);
                story.push(format!("charge {tokens} hold {hold} admitted in {admitted_in:?} {at:?}"));
                let id = hold.to_string();
                let call = Charge { balance, tokens, hold: Some(id.as_bytes()), admitted_in, period };
                let expected = account.charge(tokens.into(), hold, admitted_in.map(Into::into), now);
                (Some(expected), charged(&raw.call(&call.invocation(), ChargeOutcome::of).await?))
            }
            9..=12 => {
                let (writer, fence) = writer(random, account);
                let grant = (!random.one_in(6)).then(|| random.pick(AMOUNTS));
                let (takeover, refresh) = (random.one_in(2), random.pick(&TOKENS));
                story.push(format!("apply {writer:?} {grant:?} takeover {takeover} refresh {refresh:?} {at:?}"));
                let grants = grant.map_or(Grant::Unlimited, Grant::Tokens);
                let call = Apply { balance, owner: writer.0, fence, grant: grants, takeover, refresh, period };
                let expected = account.apply(writer, grant.map(Into::into), takeover, refresh, now);
                let said = applied(raw.call(&call.invocation(), ApplyOutcome::of).await?);
                if random.one_in(3) {
                    let again = applied(raw.call(&call.invocation(), ApplyOutcome::of).await?);
                    let nothing = match &expected {
                        Said::Applied { tokens, used, .. } => {
                            Said::Applied { changed: false, tokens: *tokens, used: *used }
                        }
                        refused => refused.clone(),
                    };
                    anyhow::ensure!(again == Some(nothing), "repeated it said {again:?}");
                }
                (Some(expected), said)
            }
            13..=15 => {
                let (writer, fence) = writer(random, account);
                let (owner, term) = (writer.0, fence.term);
                // Most sequences should go on with what they have.
                let (call, expected) = match random.below(8) {
                    0 => (Delete { balance, owner, fence }.invocation(), account.delete(writer)),
                    1 | 2 => (Release { balance, owner, term }.invocation(), account.release(owner, term.into())),
                    _ => (Park { balance, owner, fence, period }.invocation(), account.park(writer, now)),
                };
                story.push(format!("{} {writer:?} {at:?}", call.args()[0].escape_ascii()));
                let said = left(raw.call(&call, LeaveOutcome::of).await?);
                if random.one_in(3) {
                    let again = left(raw.call(&call, LeaveOutcome::of).await?);
                    let nothing = match &expected {
                        Said::Left { .. } if account.book.is_none() => Said::Absent,
                        Said::Left { .. } => Said::Left { changed: false },
                        refused => refused.clone(),
                    };
                    anyhow::ensure!(again == Some(nothing), "repeated it said {again:?}");
                }
                (Some(expected), said)
            }
            16 | 17 => {
                let value = random.pick(AMOUNTS) * random.pick(&[-1, 1]) + i64::from(random.one_in(4));
                let (call, expected) = match random.below(3) {
                    0 => (Query { balance, period }.invocation(), account.query(now)),
                    1 => (Set { balance, value, period }.invocation(), account.set(value.into(), now)),
                    _ => (Add { balance, value, period }.invocation(), account.add(value.into(), now)),
                };
                story.push(format!("{} {value} {at:?}", call.args()[0].escape_ascii()));
                (Some(expected), administered(&raw.call(&call, AdminOutcome::of).await?))
            }
            _ => {
                if random.one_in(3) {
                    story.push("lose the key".into());
                    let () = self.redis.del(key.as_bytes()).await?;
                    account.tokens = None;
                }
                (None, None)
            }
        })
    }

    async fn compare(&mut self) -> Result<()> {
        type Stored = (Option<String>, BTreeMap<String, String>, BTreeMap<u32, i128>, Vec<u32>);
        let (tokens, mut ledger, amounts, ids): Stored = redis::pipe()
            .get(self.key.as_bytes())
            .hgetall(self.key.ledger())
            .hgetall(self.key.amounts())
            .zrange(self.key.holds(), 0, -1)
            .query_async(&mut self.redis)
            .await?;
        let expected = self.account.tokens.map(|tokens| tokens.to_string());
        anyhow::ensure!(tokens == expected, "the balance is {tokens:?}, expected {expected:?}");

        let held = ledger.remove("held").map_or(0, |held| held.parse().unwrap_or(-1));
        let earlier = ledger.remove("earlier").map_or(0, |earlier| earlier.split(' ').count());
        let mut expected = BTreeMap::new();
        let mut holds = BTreeMap::new();
        if let Some(book) = &self.account.book {
            let (term, uid, generation) = book.fence;
            let mut put = |field: &str, value: Option<String>| {
                expected.extend(value.map(|value| (field.to_owned(), value)));
            };
            put("layout", Some("1".into()));
            put("owner", book.owner.map(Into::into));
            put("term", Some(term.to_string()));
            put("uid", Some(uid.into()));
            put("generation", Some(generation.to_string()));
            put("grant", book.grant.map(|grant| grant.to_string()));
            put("unlimited", book.unlimited.then(|| "1".into()));
            put("schedule", book.follows.map(|(schedule, _)| schedule.into()));
            put("ordinal", book.follows.map(|(_, ordinal)| ordinal.to_string()));
            put("used", Some(book.used.to_string()));
            put("parked", book.aside.map(|aside| aside.to_string()));
            put("refreshed", book.tokens.first().map(|token| (*token).into()));
            put("lazy", (book.place == Place::OnDefault).then(|| "1".into()));
            holds.clone_from(&book.holds);
            let remembered = book.tokens.len().clamp(1, KNOWN_TOKENS) - 1;
            anyhow::ensure!(earlier == remembered, "{earlier} earlier tokens, expected {remembered}");
        }
        anyhow::ensure!(ledger == expected, "the ledger is {ledger:?}, expected {expected:?}");
        anyhow::ensure!(amounts == holds, "held are {amounts:?}, expected {holds:?}");
        anyhow::ensure!(held == holds.values().sum::<i128>(), "the total held is {held}");
        anyhow::ensure!(ids.len() == holds.len(), "expiries {ids:?}");
        Ok(())
    }
}

/// Somebody who writes, as the oracle and as the scripts know it; mostly not too late.
fn writer(random: &mut Random, account: &Account) -> (Writer, Fence<'static>) {
    let owner = random.pick(&[OWNERS[0], OWNERS[0], OWNERS[0], OWNERS[1]]);
    let uid = random.pick(&[UIDS[0], UIDS[0], UIDS[1]]);
    let (last, newest) = account.book.as_ref().map_or((1, 1), |book| (book.fence.0, book.fence.2));
    let near = |random: &mut Random, now| i64::try_from(now).unwrap_or(1) + random.pick(&[-1, 0, 0, 0, 1]);
    let (term, generation) = (near(random, last), near(random, newest));
    ((owner, term.into(), uid, generation.into()), Fence { term, uid, generation })
}

fn checked(outcome: &CheckOutcome) -> Option<Said> {
    match outcome {
        CheckOutcome::Admitted { left, period } => {
            let left = match left {
                Left::Unlimited => None,
                Left::Tokens(left) => Some((*left).into()),
            };
            Some(Said::Passed { left, period: period.map(Into::into) })
        }
        CheckOutcome::Refused { available } => Some(Said::Refused(available.map(Into::into))),
        CheckOutcome::Malformed { .. } => None,
    }
}

fn charged(outcome: &ChargeOutcome) -> Option<Said> {
    match outcome {
        ChargeOutcome::Booked { balance } => Some(Said::Booked(balance.map(Into::into))),
        ChargeOutcome::Forgiven => Some(Said::Forgiven),
        ChargeOutcome::Absent => Some(Said::Absent),
        ChargeOutcome::Malformed { .. } => None,
    }
}

fn applied(outcome: ApplyOutcome) -> Option<Said> {
    match outcome {
        ApplyOutcome::Applied { changed, balance, used } => {
            Some(Said::Applied { changed, tokens: balance.map(Into::into), used: used.into() })
        }
        ApplyOutcome::Conflict { owner, lazy } => Some(Said::Conflict { owner, lazy }),
        ApplyOutcome::Stale { term } => Some(Said::Stale { term: term.into() }),
        ApplyOutcome::Malformed { .. } => None,
    }
}

fn left(outcome: LeaveOutcome) -> Option<Said> {
    match outcome {
        LeaveOutcome::Done { changed } => Some(Said::Left { changed }),
        LeaveOutcome::Absent => Some(Said::Absent),
        LeaveOutcome::Foreign { owner } => Some(Said::Foreign { owner }),
        LeaveOutcome::Stale { term } => Some(Said::Stale { term: term.into() }),
        LeaveOutcome::Malformed { .. } => None,
    }
}

fn administered(outcome: &AdminOutcome) -> Option<Said> {
    match outcome {
        AdminOutcome::Balance(tokens) => Some(Said::Balance((*tokens).into())),
        AdminOutcome::OutOfRange => Some(Said::OutOfRange),
        AdminOutcome::Malformed { .. } => None,
    }
}
