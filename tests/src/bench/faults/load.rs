//! Requests that never stop: loops that ask again when they were answered, each time for a consumer of its own, so
//! that what was booked for a request can be seen exactly. Every answer must be a documented one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use testbed::{Call, OpenReply, eventually, post};
use tokio::task::JoinSet;

use super::Kind;
use super::bed::Bed;

/// A loop asks again after this: clients do not ask faster.
const PACE: Duration = Duration::from_millis(20);
/// Longer than any answer takes: one that does not come is a failure, and is not waited for forever.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the streams wait that end during the fault.
const GATE: &str = "streams";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Before,
    During,
    After,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) consumer: String,
    pub(super) tokens: i64,
    pub(super) answer: &'static str,
    /// In which phase it began and ended.
    pub(super) phases: (Phase, Phase),
    /// Until the head of the answer came; nothing for a stream that was held back on purpose.
    waited: Option<Duration>,
}

/// What a load adds up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    pub asked: usize,
    /// Begun while the fault lasted.
    pub during: usize,
    /// How often each documented answer was given.
    pub answers: BTreeMap<&'static str, usize>,
    /// The longest that a client waited for the head of its answer.
    pub longest: Duration,
    waited: Vec<Duration>,
}

pub(super) struct Load {
    loops: JoinSet<Result<()>>,
    shared: Arc<Shared>,
}

/// Streams that were admitted and are not finished.
pub(super) struct Streams {
    open: Vec<(Asked, OpenReply)>,
    gate: testbed::Gate,
}

struct Shared {
    kind: Kind,
    url: String,
    stops: AtomicBool,
    next: AtomicUsize,
    phase: Mutex<Phase>,
    asked: Mutex<Vec<Asked>>,
}

impl Load {
    pub(super) fn start(bed: &Bed, loops: usize) -> Self {
        let shared = Arc::new(Shared {
            kind: bed.kind,
            url: format!("{}/v1/chat/completions", bed.gateway.url()),
            stops: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            phase: Mutex::new(Phase::Before),
            asked: Mutex::default(),
        });
        let mut asking = JoinSet::new();
        for _ in 0..loops {
            asking.spawn(ask(Arc::clone(&shared)));
        }
        Self { loops: asking, shared }
    }

    pub(super) fn enter(&self, phase: Phase) {
        *lock(&self.shared.phase) = phase;
    }

    /// Waits until so many requests that began in this phase were answered so; fails when a loop has ended.
    pub(super) async fn answers(&mut self, phase: Phase, answer: &str, count: usize) -> Result<()> {
        let what = format!("{count} requests are answered {answer}");
        let shared = Arc::clone(&self.shared);
        let reached = eventually(&what, async || {
            let asked = lock(&shared.asked);
            let found = asked.iter().filter(|asked| asked.phases.0 == phase && asked.answer == answer).count();
            ensure!(found >= count, "it is {found}");
            Ok(())
        });
        tokio::select! {
            reached = reached => reached,
            ended = self.loops.join_next() => match ended {
                Some(ended) => ended?.context("a loop ended"),
                None => bail!("no loop runs"),
            },
        }
    }

    /// Begins streams and returns when each has been admitted and its first event is there.
    pub(super) async fn admit_streams(&self, bed: &Bed, count: usize) -> Result<Streams> {
        let gate = bed.model.gate(GATE);
        let begin = (0..count).map(async |_| {
            loop {
                let (mut asked, call) = self.shared.request();
                let call = call.header("x-test-gate", GATE).header("x-test-gate-after", "1");
                let mut reply = call.open().await?;
                if reply.status == 200 {
                    reply.read_until("\n\n").await?;
                    return anyhow::Ok((asked, reply));
                }
                // On a busy machine Redis may have been too slow.
                asked.answer = self.shared.documented(&asked, reply.status, &reply.rest().await?)?;
                lock(&self.shared.asked).push(asked);
            }
        });
        Ok(Streams { open: futures::future::try_join_all(begin).await?, gate })
    }

    /// Lets those streams come to their end, and reads it; whose they were.
    pub(super) async fn end(&self, Streams { open, gate }: Streams) -> Result<Vec<String>> {
        gate.open();
        let mut ended = Vec::with_capacity(open.len());
        for (mut asked, mut reply) in open {
            let end = reply.read_until("data: [DONE]\n\n");
            tokio::time::timeout(PATIENCE, end).await.context("a stream is stuck")??;
            asked.phases.1 = *lock(&self.shared.phase);
            ended.push(asked.consumer.clone());
            lock(&self.shared.asked).push(asked);
        }
        Ok(ended)
    }

    /// Lets the loops come to an end; all that was asked.
    pub(super) async fn stop(mut self) -> Result<Vec<Asked>> {
        self.shared.stops.store(true, Ordering::SeqCst);
        while let Some(ended) = self.loops.join_next().await {
            ended??;
        }
        Ok(std::mem::take(&mut *lock(&self.shared.asked)))
    }
}

impl Shared {
    /// A request for somebody who never asked before.
    fn request(&self) -> (Asked, Call) {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let (input, output) = (10 + number % 7, 100 + number % 900);
        let consumer = format!("c{number:06}");
        let phase = *lock(&self.phase);
        let body = json!({"model": "qwen-max", "stream": true, "messages": [{"role": "user", "content": "Hello"}]});
        let call = post(&self.url).header("x-mse-consumer", &consumer).json(&body);
        let call = call.header("x-test-usage", format!("{input},{output}"));
        let tokens = (input + output) as i64;
        (Asked { consumer, tokens, answer: self.kind.admitted(), phases: (phase, phase), waited: None }, call)
    }

    fn documented(&self, asked: &Asked, status: u16, body: &str) -> Result<&'static str> {
        let answer = self.kind.answer(status, body);
        answer.with_context(|| format!("{} was answered {status} {body}", asked.consumer))
    }
}

async fn ask(shared: Arc<Shared>) -> Result<()> {
    while !shared.stops.load(Ordering::SeqCst) {
        let (mut asked, call) = shared.request();
        let begun = Instant::now();
        let answer = async {
            let mut reply = call.open().await?;
            asked.waited = Some(begun.elapsed());
            anyhow::Ok((reply.status, reply.rest().await?))
        };
        let (status, body) = tokio::time::timeout(PATIENCE, answer).await.context("a request is stuck")??;
        asked.answer = shared.documented(&asked, status, &body)?;
        asked.phases.1 = *lock(&shared.phase);
        lock(&shared.asked).push(asked);
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

impl Counts {
    pub(super) fn of(asked: &[Asked]) -> Self {
        let waited: Vec<Duration> = asked.iter().filter_map(|asked| asked.waited).collect();
        let mut answers = BTreeMap::new();
        for asked in asked {
            *answers.entry(asked.answer).or_default() += 1;
        }
        Self {
            asked: asked.len(),
            during: asked.iter().filter(|asked| asked.phases.0 == Phase::During).count(),
            answers,
            longest: waited.iter().max().copied().unwrap_or_default(),
            waited,
        }
    }

    /// How many waited longer than this.
    #[must_use]
    pub fn late(&self, bound: Duration) -> usize {
        self.waited.iter().filter(|waited| **waited > bound).count()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
