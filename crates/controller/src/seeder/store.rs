//! One store: what it should hold in, calls to its Redis, and what became of each balance out. Remembers what it
//! applied, so that unchanged objects cost Redis nothing. I/O: Redis.

use std::ops::Range;
use std::time::Duration;

use plan::{Access, Database, Figures, Plan, Seeded, Words};
use tokio::time::{Instant, timeout};

use super::calls::{Calls, call_all};
use super::index::Index;
use super::made::Made;
use crate::connection::{Connection, Failure, LONGEST_WAIT, address};
use crate::metrics::StoreMeter;

/// A Redis that is only started again is back sooner.
const AWAY: Duration = Duration::from_secs(10);
/// How often a store is asked whether it still answers, and still has what was recorded in it.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How often a balance is tried again that could not be made as declared, though its store answers.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// How long modules are given to speak after Redis was away; they try it every 10 s.
const SPEAK_AGAIN: Duration = Duration::from_secs(30);
const SHORTEST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// One store, for as long as it is reached in the same way.
pub(super) struct Store {
    pub(super) access: Access,
    link: Link,
    /// Failures since the store last did what it was asked.
    failures: u32,
    /// Since when it cannot be used.
    down: Option<Instant>,
    run_id: Option<String>,
    /// Its maxmemory-policy as last seen, where that lets keys go.
    pub(super) evicts: Option<String>,
    /// What modules said of themselves, and when that was read.
    words: Option<(Words, Instant)>,
    /// From when on they tell who is there: modules were cut off from Redis as well, and speak again first.
    speak: Instant,
    made: Made,
    /// The database's own text, as last asked for.
    database: Option<String>,
    /// Whether the last round left something for the next one.
    unfinished: bool,
    meter: StoreMeter,
}

enum Link {
    Up {
        connection: Connection,
        checked: Instant,
    },
    /// The connection broke, as it may have done while it was idle: another is tried before anything is said.
    Broken,
    Down {
        error: Option<Failure>,
        retry: Instant,
    },
}

impl Store {
    pub(super) fn new(access: Access, meter: StoreMeter) -> Self {
        Self {
            access,
            link: Link::Down { error: None, retry: Instant::now() },
            failures: 0,
            down: None,
            run_id: None,
            evicts: None,
            words: None,
            speak: Instant::now(),
            made: Made::default(),
            database: None,
            unfinished: false,
            meter,
        }
    }

    /// What became of the store's seeds, and their figures as last looked at, into their places among all.
    pub(super) fn tell(&self, plan: &Plan, store: usize, into: (&mut [Seeded], &mut [Option<Figures>])) {
        let error = self.answers().err().map(|error| format!("{}: {error}", address(&self.access)));
        let otherwise = error.map_or(Seeded::Pending, |error| Seeded::Unreachable { error });
        self.made.tell(plan, store, &otherwise, into);
    }

    /// Makes its balances so, as far as it answers: those of the plan's seeds that have this store. `held`: by seed,
    /// whether it is to wait; nothing where none is.
    pub(super) async fn make(
        &mut self,
        index: &mut Index,
        plan: &Plan,
        (store, held): (usize, &[bool]),
        deadline: Instant,
    ) {
        self.unfinished = false;
        // What was applied stays applied while the store is away; what no object wants any more is forgotten.
        self.made.begin(plan, store);
        let mut open = self.made.open(plan, store, TRY_AGAIN);
        open.retain(|seed| !held.get(*seed).copied().unwrap_or_default());
        if let Err(error) = self.try_to_make(index, plan, &open, deadline).await {
            self.lost(error);
        }
    }

    /// Records what is not applied yet, then applies it.
    async fn try_to_make(
        &mut self,
        index: &mut Index,
        plan: &Plan,
        open: &[usize],
        deadline: Instant,
    ) -> Result<(), Failure> {
        let Link::Up { connection, .. } = &self.link else { return Ok(()) };
        // What Redis has recorded, before anything is changed there.
        index.load(connection, plan.cluster(), deadline).await?;
        self.unfinished |= !index.is_known();
        if open.is_empty() || !index.is_known() {
            return Ok(());
        }
        let wanted = open.iter().map(|&seed| &plan.seeds[seed]);
        let wanted = wanted.map(|seed| (seed.object.name.as_str(), &seed.balance));
        index.record(connection, plan.cluster(), wanted, deadline).await?;
        let recorded = |&seed: &usize| {
            let seed = &plan.seeds[seed];
            index.has(&seed.object.name, &seed.balance)
        };
        let recorded: Vec<usize> = open.iter().copied().filter(recorded).collect();
        self.unfinished |= recorded.len() < open.len();
        self.apply(index, plan, &recorded, deadline).await
    }

    /// The connection to its database, if there is one.
    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.link {
            Link::Up { connection, .. } => Some(connection),
            Link::Broken | Link::Down { .. } => None,
        }
    }

    /// The database that it leads to, as it said itself when it was last asked.
    pub(super) fn database(&self) -> Option<Database> {
        Some(Database { id: self.database.clone()?, is_there: self.connection().is_some() })
    }

    /// What modules said there of themselves, and how long ago that was read; nothing where it cannot be.
    pub(super) fn words(&self) -> Option<(Words, Duration)> {
        let speak = self.connection().is_some() && self.speak <= Instant::now();
        let (words, read) = self.words.as_ref().filter(|_| speak)?;
        Some((words.clone(), read.elapsed()))
    }

    /// The run of its Redis, where that is told.
    pub(super) fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// It cannot be used as it is declared now.
    pub(super) fn rest(&mut self) {
        self.link = Link::Down { error: None, retry: Instant::now() };
        self.down = None;
    }

    /// Connects where that is due, and asks now and then, or at once, which database it is. Whether Redis lost what was
    /// written, or may have.
    pub(super) async fn reach(&mut self, whose: &str, at_once: bool) -> bool {
        let lost = timeout(LONGEST_WAIT, self.try_to_reach(whose, at_once)).await;
        lost.unwrap_or_else(|_| {
            self.is_down(Failure::late());
            false
        })
    }

    async fn try_to_reach(&mut self, whose: &str, at_once: bool) -> bool {
        let now = Instant::now();
        match &mut self.link {
            Link::Up { connection, checked } if at_once || now.duration_since(*checked) >= CHECK_EVERY => {
                match connection.database().await {
                    Ok(database) => {
                        connection.look_at_memory().await;
                        self.evicts = connection.evicts().map(str::to_owned);
                        self.words = words(connection, whose).await;
                        *checked = now;
                        self.failures = 0;
                        let before = self.database.replace(database);
                        before != self.database && self.forget()
                    }
                    // A connection that died while it was idle says nothing about the store.
                    Err(_) => self.connect(whose).await,
                }
            }
            Link::Broken => self.connect(whose).await,
            Link::Down { retry, .. } if *retry <= now => self.connect(whose).await,
            Link::Up { .. } | Link::Down { .. } => false,
        }
    }

    async fn connect(&mut self, whose: &str) -> bool {
        let (connection, database) = match self.open().await {
            Ok(opened) => opened,
            Err(error) => {
                self.is_down(error);
                return false;
            }
        };
        let run_id = connection.run_id().map(str::to_owned);
        // Where the run is not told, every connection may be to a Redis that lost what was written.
        let same = self.database.as_ref() == Some(&database) && run_id.is_some() && self.run_id == run_id;
        let is_first = self.database.is_none();
        (self.run_id, self.database) = (run_id, Some(database));
        self.evicts = connection.evicts().map(str::to_owned);
        self.words = words(&connection, whose).await;
        self.speak = Instant::now() + if is_first { Duration::ZERO } else { SPEAK_AGAIN };
        tracing::debug!(address = address(&self.access), "connected to Redis");
        self.link = Link::Up { connection, checked: Instant::now() };
        self.down = None;
        !is_first && !same && self.forget()
    }

    async fn open(&self) -> Result<(Connection, String), Failure> {
        let connection = Connection::open(&self.access, self.meter.clone()).await?;
        let database = connection.database().await?;
        Ok((connection, database))
    }

    /// Redis lost what it knew, or may have: everything is looked at again.
    fn forget(&mut self) -> bool {
        let address = address(&self.access);
        tracing::info!(address, "Redis was or may have been emptied or restarted: balances are looked at again");
        self.made.clear();
        true
    }

    /// A call failed.
    pub(super) fn lost(&mut self, error: Failure) {
        // Once: where every connection breaks, the next is tried after a pause.
        if error.is_of_the_connection() && self.failures == 0 {
            tracing::debug!(address = address(&self.access), %error, "the connection to Redis broke");
            self.failures = 1;
            self.link = Link::Broken;
        } else {
            self.is_down(error);
        }
    }

    fn is_down(&mut self, error: Failure) {
        let wait = LONGEST_BACKOFF.min(SHORTEST_BACKOFF * 2u32.saturating_pow(self.failures.min(10)));
        self.failures = self.failures.saturating_add(1);
        self.down.get_or_insert_with(Instant::now);
        self.meter.failed();
        tracing::warn!(address = address(&self.access), %error, "Redis cannot be used, next attempt in {wait:?}");
        self.link = Link::Down { error: Some(error), retry: Instant::now() + wait };
    }

    /// Begins no call after `deadline`: what is left then is for the next round.
    async fn apply(
        &mut self,
        recorded: &mut Index,
        plan: &Plan,
        open: &[usize],
        deadline: Instant,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let Link::Up { connection, .. } = &self.link else { return Ok(()) };
        let takeover = |seed| self.made.conflict(plan, seed).is_some_and(|owner| plan.may_take_over(owner));
        let calls = open.iter().map(|&index| (index, takeover(index)));
        let Calls { mut done, mut failure, mut complete } =
            call_all(connection, &self.access, plan, calls, deadline).await;
        if failure.is_none() {
            // Owners that turn out to be gone: the planner knows who lives.
            let dead: Vec<usize> = done
                .iter()
                .filter(|(_, takeover, seeded, _)| match seeded {
                    Seeded::Conflict { owner } => !takeover && plan.may_take_over(owner),
                    _ => false,
                })
                .map(|(index, ..)| *index)
                .collect();
            let dead = dead.into_iter().map(|index| (index, true));
            let taken = call_all(connection, &self.access, plan, dead, deadline).await;
            done.extend(taken.done);
            failure = taken.failure;
            complete &= taken.complete;
        }
        self.unfinished |= !complete;
        for owner in self.made.record(plan, done, now) {
            // From whom it was taken has it recorded still.
            recorded.look_again(&owner);
        }
        if failure.is_none() {
            self.failures = 0;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Makes again what it made of these objects' seeds: where all is as it should be, that tells only what is left.
    /// Whether something is otherwise than it was told.
    pub(super) async fn look(&mut self, plan: &Plan, objects: &[Range<usize>], deadline: Instant) -> bool {
        let Link::Up { connection, .. } = &self.link else { return false };
        let made: Vec<usize> = objects.iter().cloned().flat_map(|seeds| self.made.applied(plan, seeds)).collect();
        let calls = made.into_iter().map(|index| (index, false));
        let Calls { done, failure, complete: _ } = call_all(connection, &self.access, plan, calls, deadline).await;
        let is_news = done.iter().any(|done| self.made.is_news(plan, done)) || failure.is_some();
        self.made.record(plan, done, Instant::now());
        if let Some(error) = failure {
            self.lost(error);
        }
        is_news
    }

    pub(super) fn answers(&self) -> Result<(), String> {
        match &self.link {
            Link::Up { .. } | Link::Broken => Ok(()),
            Link::Down { error, .. } => {
                Err(error.as_ref().map_or_else(|| "not asked yet".to_owned(), ToString::to_string))
            }
        }
    }

    /// Whether it has not been usable for so long that all who rely on it are told.
    pub(super) fn is_away(&self) -> bool {
        self.down.is_some_and(|since| since.elapsed() >= AWAY)
    }

    pub(super) fn again(&self) -> Instant {
        let check = match &self.link {
            Link::Broken => return Instant::now(),
            Link::Up { .. } if self.unfinished => return Instant::now(),
            Link::Up { checked, .. } => *checked + CHECK_EVERY,
            // Nothing can be tried before that, however long it is due.
            Link::Down { retry, .. } => return *retry,
        };
        let unmade = self.made.unmade().map(|at| at + TRY_AGAIN);
        unmade.chain([check]).min().unwrap_or(check)
    }
}

/// A user of few rights may not ask.
async fn words(connection: &Connection, whose: &str) -> Option<(Words, Instant)> {
    let words = connection.words(whose).await;
    let words = words.inspect_err(|error| tracing::debug!(%error, "what modules say of themselves cannot be read"));
    words.ok().map(|words| (words, Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(port: u16, timeout: Duration) -> Access {
        Access { host: "127.0.0.1".to_owned(), port, database: 0, username: None, password: None, timeout }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_never_answers_holds_up_all_others_for_a_bounded_time_whatever_its_own_timeout() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut store =
            Store::new(access(silent.local_addr().unwrap().port(), Duration::from_secs(60)), StoreMeter::unread());
        let before = Instant::now();
        store.reach("c/n", false).await;
        assert_eq!(store.answers(), Err("no answer in time".to_owned()));
        assert!(before.elapsed() <= LONGEST_WAIT, "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_balance_that_could_not_be_made_is_not_tried_again_before_its_store_is_back() {
        let mut store = Store::new(access(1, Duration::from_secs(1)), StoreMeter::unread());
        let malformed = Seeded::Malformed { found: "text".to_owned() };
        store.made.record(&super::super::made::tests::plan(1), vec![(0, false, malformed, None)], Instant::now());
        tokio::time::advance(TRY_AGAIN * 2).await;
        let retry = Instant::now() + LONGEST_BACKOFF;
        store.link = Link::Down { error: None, retry };
        assert_eq!(store.again(), retry);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_says_nothing_before_another_was_tried() {
        let mut store = Store::new(access(1, Duration::from_secs(1)), StoreMeter::unread());
        let broken = || Failure::from(redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        store.lost(broken());
        assert_eq!((store.answers(), store.again()), (Ok(()), Instant::now()), "another is tried at once");
        // Nobody listens on port 1.
        store.reach("c/n", false).await;
        let said = store.answers().unwrap_err();
        assert!(said.contains("refused"), "{said}");
        assert!(store.again() > Instant::now());
        store.lost(broken());
        assert!(store.answers().is_err(), "where every connection breaks, that is said");
    }
}
