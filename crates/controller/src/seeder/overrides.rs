//! The limits of single values in one database: sets of the plan in, script calls that make them so, and that drop what
//! nobody wants any more, out. What was made is remembered, so that unchanged sets cost nothing. I/O: Redis.

use std::collections::HashMap;
use std::time::Duration;

use enforcement::redis::overrides::{DropOverrides, Overrides, OverridesIndex, OverridesOutcome, recorded};
use plan::{OverrideSet, Plan, Seeded};
use tokio::time::{Instant, timeout};

use crate::connection::{Connection, Failure, LONGEST_WAIT, with_reply};

/// How often a set is tried again that belongs to somebody else, or is behind.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// What is known of them. It is forgotten with the database, when Redis lost what was written.
#[derive(Default)]
pub(super) struct Sets {
    /// What is recorded there with its owner; nothing before it was asked for.
    recorded: Option<HashMap<Overrides, String>>,
    made: HashMap<Overrides, Made>,
    /// The highest term somebody else wrote with.
    pub(super) newer: Option<i64>,
}

struct Made {
    stamp: (String, String, i64),
    became: Seeded,
    at: Instant,
}

impl Sets {
    /// `stores`: all that lead to the database.
    pub(super) async fn run(&mut self, connection: &Connection, stores: &[usize], plan: &Plan) -> Result<(), Failure> {
        self.newer = None;
        let (cluster, term) = plan.writer();
        let index = OverridesIndex { cluster };
        let wanted = plan.overrides.iter().filter(|set| stores.contains(&set.store));
        let open: Vec<&OverrideSet> = wanted.filter(|set| self.is_open(set)).collect();
        let Self { recorded: known, made, newer } = self;
        let known = match known {
            Some(known) => known,
            None => {
                let replies = in_time(connection.send(std::iter::once(index.list()))).await?;
                let all = replies.first().map_or_else(|| Ok(Vec::new()), |reply| with_reply(reply, recorded))?;
                known.insert(all.into_iter().collect())
            }
        };
        for set in open {
            let call = set.set();
            if known.get(&set.key).map(String::as_str) != Some(call.owner) {
                in_time(connection.send(std::iter::once(index.record(&set.key, call.owner)))).await?;
                known.insert(set.key.clone(), call.owner.to_owned());
            }
            let replies = in_time(connection.call(&[call.invocation()])).await?;
            let Some(reply) = replies.first() else { continue };
            let became = match with_reply(reply, OverridesOutcome::of)? {
                OverridesOutcome::Done { changed } => {
                    if changed {
                        tracing::info!(set = %set.key, object = call.owner, "limits of single values written");
                    }
                    Seeded::Applied
                }
                OverridesOutcome::Foreign { owner } => Seeded::Conflict { owner },
                OverridesOutcome::Stale { term } => {
                    *newer = (*newer).max(Some(term));
                    Seeded::Stale { term }
                }
            };
            made.insert(set.key.clone(), Made { stamp: stamp(set), became, at: Instant::now() });
        }
        let gone: Vec<(Overrides, String)> = known
            .iter()
            .filter(|(key, _)| !plan.wants_overrides(stores, key))
            .map(|(key, owner)| (key.clone(), owner.clone()))
            .collect();
        for (key, owner) in gone {
            let drop = DropOverrides { key: &key, owner: &owner, term };
            let replies = in_time(connection.call(&[drop.invocation()])).await?;
            let Some(reply) = replies.first() else { continue };
            match with_reply(reply, OverridesOutcome::of)? {
                // What is another's is not ours to keep in mind.
                OverridesOutcome::Done { .. } | OverridesOutcome::Foreign { .. } => {
                    in_time(connection.send(std::iter::once(index.forget(&key)))).await?;
                    known.remove(&key);
                    made.remove(&key);
                    tracing::info!(set = %key, object = owner, "limits of single values dropped");
                }
                OverridesOutcome::Stale { term } => *newer = (*newer).max(Some(term)),
            }
        }
        Ok(())
    }

    fn is_open(&self, set: &OverrideSet) -> bool {
        self.made.get(&set.key).is_none_or(|made| {
            made.stamp != stamp(set) || (made.became != Seeded::Applied && made.at.elapsed() >= TRY_AGAIN)
        })
    }

    /// What became of a set; nothing where it has not been tried.
    pub(super) fn became(&self, set: &OverrideSet) -> Option<&Seeded> {
        self.made.get(&set.key).filter(|made| made.stamp == stamp(set)).map(|made| &made.became)
    }
}

fn stamp(set: &OverrideSet) -> (String, String, i64) {
    let (digest, uid, generation) = set.stamp();
    (digest.to_owned(), uid.to_owned(), generation)
}

async fn in_time<T>(call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(LONGEST_WAIT, call).await.unwrap_or_else(|_| Err(Failure::late()))
}
