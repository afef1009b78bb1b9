//! The limits of single values in one database: sets of the plan in, script calls that make them so, and that drop what
//! nobody wants any more, out. What was made is remembered, so that unchanged sets cost nothing. I/O: Redis.

use std::collections::HashMap;
use std::time::Duration;

use enforcement::redis::{
    Reply, ReplyError,
    index::count,
    overrides::{DropOverrides, Overrides, OverridesIndex, OverridesOutcome, recorded},
};
use plan::{Access, OverrideSet, Plan, Seeded};
use redis::Value;
use tokio::time::{Instant, timeout};

use super::leaving::is_of_the_store;
use crate::connection::{Connection, Failure, LONGEST_WAIT, address, with_reply};

/// How often a set is tried again that belongs to somebody else, is behind, or was refused.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// What is known of them. It is forgotten with the database, when Redis lost what was written.
#[derive(Default)]
pub(super) struct Sets {
    /// What is recorded there with its owner; nothing before it was asked for.
    recorded: Option<HashMap<Overrides, String>>,
    /// When Redis last refused to say it.
    refused: Option<Instant>,
    made: HashMap<Overrides, Made>,
    /// The highest term somebody else wrote with.
    pub(super) newer: Option<i64>,
}

struct Made {
    stamp: (String, String, i64),
    became: Seeded,
    at: Instant,
}

/// A store that leads to the database, as its user.
pub(super) type Here<'a> = (&'a Connection, &'a Access);

impl Sets {
    /// `stores`: all that lead to the database. `again`: what another of them was refused just now is tried as well.
    /// Whether Redis refused nothing; an error where no other call of this store would fare better.
    pub(super) async fn run(
        &mut self,
        here: Here<'_>,
        (plan, stores): (&Plan, &[usize]),
        again: bool,
    ) -> Result<bool, Failure> {
        let wanted = plan.overrides.iter().filter(|set| stores.contains(&set.store));
        let open: Vec<&OverrideSet> = wanted.filter(|set| self.is_open(set, again)).collect();
        if self.recorded.is_none() {
            // Where nobody has any, no store is held to what its user may not do.
            if open.is_empty() && !again && self.refused.is_some_and(|at| at.elapsed() < TRY_AGAIN) {
                return Ok(true);
            }
            let index = OverridesIndex { cluster: plan.writer().0 };
            match ask(here.0.send(std::iter::once(index.list())), recorded).await? {
                Ok(all) => self.recorded = Some(all.into_iter().collect()),
                Err(error) => {
                    self.refused = Some(Instant::now());
                    let refused = refused(here, &error);
                    open.into_iter().for_each(|set| self.remember(set, refused.clone()));
                    return Ok(false);
                }
            }
        }
        let mut complete = true;
        for set in open {
            let became = self.set(here, plan, set).await?;
            complete &= !matches!(became, Seeded::Unreachable { .. });
            self.remember(set, became);
        }
        Ok(self.drop_unwanted(here, plan, stores).await? && complete)
    }

    /// Makes a set again that was made, which writes nothing where it is whole. Whether it is otherwise than it was
    /// told.
    pub(super) async fn look(&mut self, here: Here<'_>, plan: &Plan, set: &OverrideSet) -> Result<bool, Failure> {
        if self.became(set) != Some(&Seeded::Applied) {
            return Ok(false);
        }
        let became = self.set(here, plan, set).await?;
        let is_news = became != Seeded::Applied;
        self.remember(set, became);
        Ok(is_news)
    }

    /// Nothing is set that is not recorded.
    async fn set(&mut self, here: Here<'_>, plan: &Plan, set: &OverrideSet) -> Result<Seeded, Failure> {
        let (connection, call) = (here.0, set.set());
        let index = OverridesIndex { cluster: plan.writer().0 };
        let record = index.record(&set.key, call.owner);
        if let Err(error) = ask(connection.send(std::iter::once(record)), count).await? {
            return Ok(refused(here, &error));
        }
        if let Some(recorded) = &mut self.recorded {
            recorded.insert(set.key.clone(), call.owner.to_owned());
        }
        Ok(match ask(connection.call(&[call.invocation()]), OverridesOutcome::of).await? {
            Ok(OverridesOutcome::Done { changed }) => {
                if changed {
                    tracing::info!(set = %set.key, object = call.owner, "limits of single values written");
                }
                Seeded::Applied
            }
            Ok(OverridesOutcome::Foreign { owner }) => Seeded::Conflict { owner },
            Ok(OverridesOutcome::Stale { term }) => {
                self.newer = self.newer.max(Some(term));
                Seeded::Stale { term }
            }
            Err(error) => refused(here, &error),
        })
    }

    /// Whether Redis refused nothing. What it refused is tried again with the next round.
    async fn drop_unwanted(&mut self, here: Here<'_>, plan: &Plan, stores: &[usize]) -> Result<bool, Failure> {
        let (connection, (cluster, term)) = (here.0, plan.writer());
        let known = self.recorded.iter().flatten().filter(|(key, _)| !plan.wants_overrides(stores, key));
        let gone: Vec<(Overrides, String)> = known.map(|(key, owner)| (key.clone(), owner.clone())).collect();
        let mut complete = true;
        for (key, owner) in gone {
            let drop = DropOverrides { key: &key, owner: &owner, term };
            match ask(connection.call(&[drop.invocation()]), OverridesOutcome::of).await? {
                // What is another's is not ours to keep in mind.
                Ok(OverridesOutcome::Done { .. } | OverridesOutcome::Foreign { .. }) => {
                    let forget = OverridesIndex { cluster }.forget(&key);
                    if let Err(error) = ask(connection.send(std::iter::once(forget)), count).await? {
                        tracing::debug!(set = %key, %error, "limits of single values cannot be forgotten");
                        complete = false;
                        continue;
                    }
                    if let Some(recorded) = &mut self.recorded {
                        recorded.remove(&key);
                    }
                    self.made.remove(&key);
                    tracing::info!(set = %key, object = owner, "limits of single values dropped");
                }
                Ok(OverridesOutcome::Stale { term }) => self.newer = self.newer.max(Some(term)),
                Err(error) => {
                    tracing::debug!(set = %key, %error, "limits of single values cannot be dropped");
                    complete = false;
                }
            }
        }
        Ok(complete)
    }

    fn remember(&mut self, set: &OverrideSet, became: Seeded) {
        self.made.insert(set.key.clone(), Made { stamp: stamp(set), became, at: Instant::now() });
    }

    fn is_open(&self, set: &OverrideSet, again: bool) -> bool {
        self.made.get(&set.key).is_none_or(|made| {
            let is_due = made.at.elapsed() >= TRY_AGAIN || (again && matches!(made.became, Seeded::Unreachable { .. }));
            made.stamp != stamp(set) || (made.became != Seeded::Applied && is_due)
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

/// What is one set's own: another may be permitted.
fn refused((_, access): Here<'_>, error: &ReplyError) -> Seeded {
    Seeded::Unreachable { error: format!("{}: {error}", address(access)) }
}

/// The first reply, or why there is none to be had; an error where no other call of this store would fare better.
async fn ask<T>(
    call: impl Future<Output = Result<Vec<Value>, Failure>>,
    read: impl FnOnce(&Reply<'_>) -> Result<T, ReplyError>,
) -> Result<Result<T, ReplyError>, Failure> {
    let replies = timeout(LONGEST_WAIT, call).await.unwrap_or_else(|_| Err(Failure::late()))?;
    match replies.first().map_or(Err(ReplyError::Unexpected), |reply| with_reply(reply, read)) {
        Err(error) if is_of_the_store(&error) => Err(error.into()),
        reply => Ok(reply),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use plan::LimitModule;
    use serde_json::{Value as Json, json};

    use super::super::made::tests::world;
    use super::*;

    /// A Redis that refuses these commands, and says to scripts that it made them so; with all that it was asked.
    async fn redis(refuses: &'static [&'static str]) -> (Connection, Access, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut input, mut begin, mut read) = (Vec::new(), 0, [0; 4_096]);
            while let Ok(length @ 1..) = stream.read(&mut read) {
                input.extend_from_slice(&read[..length]);
                while let Some((command, end)) = command(&input, begin) {
                    begin = end;
                    let answer = match command.as_str() {
                        refused if refuses.contains(&refused) => "-NOPERM No permissions to access a key\r\n",
                        "PING" | "CLIENT" => "+OK\r\n",
                        "HGETALL" => "*0\r\n",
                        "HSET" | "HDEL" => ":1\r\n",
                        "EVALSHA" => "*2\r\n$3\r\nset\r\n:1\r\n",
                        _ => "-ERR unknown command\r\n",
                    };
                    seen.lock().unwrap().push(command);
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        let (host, timeout) = ("127.0.0.1".to_owned(), Duration::from_secs(5));
        let access = Access { host, port, database: 0, username: None, password: None, timeout };
        let connection = Connection::open(&access, crate::metrics::StoreMeter::unread()).await.unwrap();
        asked.lock().unwrap().clear();
        (connection, access, asked)
    }

    /// The name of the command that begins there, and where it ends; nothing while it is not whole.
    fn command(input: &[u8], begin: usize) -> Option<(String, usize)> {
        let line = |at: usize| {
            let end = at + input.get(at..)?.windows(2).position(|two| two == b"\r\n")?;
            Some((std::str::from_utf8(&input[at + 1..end]).unwrap().parse::<usize>().unwrap(), end + 2))
        };
        let (words, mut at) = line(begin)?;
        let mut name = None;
        for _ in 0..words {
            let (length, text) = line(at)?;
            let word = String::from_utf8_lossy(input.get(text..text + length)?).into_owned();
            name.get_or_insert(word);
            at = text + length + 2;
        }
        (at <= input.len()).then_some((name?, at))
    }

    /// One set, of one key.
    fn plan() -> Plan {
        let mut world = world(1);
        let namespace = world.settings.gateway_namespace.clone();
        let of = |mut object: Json| {
            object["metadata"]["namespace"] = namespace.clone().into();
            object
        };
        let limit = of(json!({
            "apiVersion": "v1", "kind": "AITokenRateLimit", "metadata": {"name": "burst", "uid": "burst", "generation": 1},
            "spec": {
                "targetRefs": [{"kind": "Gateway"}],
                "rules": [{"by": {"header": "k"}, "overridesFrom": [{"kind": "Secret", "name": "keys"}]}],
            },
        }));
        let keys = of(json!({"metadata": {"name": "keys"}, "data": {"list": "c2stMTogMTAwLzFoCg=="}}));
        world.limits = vec![Arc::new(serde_json::from_value(limit).unwrap())];
        world.secrets = vec![Arc::new(serde_json::from_value(keys).unwrap())];
        let url = "oci://example/ai-token-ratelimit:1.0.0".to_owned();
        let (phase, priority) = (world.settings.module.phase, 600);
        world.settings.limit_module = Some(LimitModule { url, sha256: None, phase, priority });
        let plan = plan::build(&world);
        assert_eq!(plan.overrides.len(), 1);
        plan
    }

    #[tokio::test]
    async fn what_redis_refuses_is_the_sets_own_trouble_and_not_the_stores() {
        let plan = plan();
        let set = &plan.overrides[0];
        let stores = [set.store];
        for (refuses, asked) in [
            (&["HGETALL"][..], &["HGETALL"][..]),
            (&["HSET"], &["HGETALL", "HSET"]),
            (&["EVALSHA"], &["HGETALL", "HSET", "EVALSHA"]),
        ] {
            let (connection, access, seen) = redis(refuses).await;
            let mut sets = Sets::default();
            assert_eq!(sets.run((&connection, &access), (&plan, &stores), false).await, Ok(false), "{refuses:?}");
            assert_eq!(*seen.lock().unwrap(), asked, "nothing is set that was not recorded");
            let Some(Seeded::Unreachable { error }) = sets.became(set) else { panic!("{refuses:?}") };
            assert!(error.ends_with("NOPERM No permissions to access a key"), "{error}");
            assert_eq!(sets.run((&connection, &access), (&plan, &stores), false).await, Ok(true), "not at once");
            // Another store's user may be permitted.
            let (connection, access, _) = redis(&[]).await;
            assert_eq!(sets.run((&connection, &access), (&plan, &stores), true).await, Ok(true));
            assert_eq!(sets.became(set), Some(&Seeded::Applied));
        }
    }

    #[tokio::test]
    async fn nobody_who_has_no_overrides_is_told_that_their_index_is_refused() {
        let plan = plan::build(&world(1));
        let (connection, access, seen) = redis(&["HGETALL"]).await;
        let mut sets = Sets::default();
        for _ in 0..2 {
            assert!(sets.run((&connection, &access), (&plan, &[0]), false).await.is_ok());
        }
        assert_eq!(*seen.lock().unwrap(), ["HGETALL"], "tried again after a while only");
    }

    #[tokio::test]
    async fn a_set_that_was_made_is_recorded_and_made_again_when_it_is_looked_at() {
        let plan = plan();
        let set = &plan.overrides[0];
        let (connection, access, seen) = redis(&[]).await;
        let mut sets = Sets::default();
        assert_eq!(sets.look((&connection, &access), &plan, set).await, Ok(false), "it was not made yet");
        assert_eq!(*seen.lock().unwrap(), [""; 0]);
        sets.run((&connection, &access), (&plan, &[set.store]), false).await.unwrap();
        seen.lock().unwrap().clear();
        assert_eq!(sets.look((&connection, &access), &plan, set).await, Ok(false), "as it was told");
        assert_eq!(*seen.lock().unwrap(), ["HSET", "EVALSHA"]);
        let (connection, access, _) = redis(&["EVALSHA"]).await;
        assert_eq!(sets.look((&connection, &access), &plan, set).await, Ok(true));
    }
}
