//! Seeds in, script calls to their store in large round trips, and what became of each seed out. Tells what is one
//! balance's own trouble from that of the whole store. I/O: Redis.

use enforcement::redis::{ApplyOutcome, Invocation, ReplyError};
use futures::stream::{self, StreamExt};
use plan::{Access, Figures, Plan, Seeded};
use tokio::time::{Instant, timeout};

use crate::connection::{Connection, Failure, LONGEST_WAIT, address, with_reply};

/// Calls in one round trip, and round trips on the way at once.
const BATCH: usize = 256;
const IN_FLIGHT: usize = 4;

/// What became of some calls.
pub(crate) struct Calls {
    pub(crate) done: Vec<Done>,
    /// Why the store is of no use any more.
    pub(crate) failure: Option<Failure>,
    /// Whether there was time for all.
    pub(crate) complete: bool,
}

/// One call: the seed's index, whether it was to be taken over, what became of it, and its figures if it was applied.
pub(crate) type Done = (usize, bool, Seeded, Option<Figures>);

/// Calls for all, several round trips on the way at once; what is done when the store fails is kept. After a failure
/// and after `deadline` nothing is asked any more.
pub(crate) async fn call_all(
    connection: &Connection,
    access: &Access,
    plan: &Plan,
    calls: impl Iterator<Item = (usize, bool)>,
    deadline: Instant,
) -> Calls {
    let calls: Vec<(usize, bool)> = calls.collect();
    let mut rounds = stream::iter(calls.chunks(BATCH))
        .map(|batch| async move {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let rolls: Vec<Invocation> =
                batch.iter().filter_map(|&(index, _)| Some(plan.seeds[index].roll()?.invocation())).collect();
            if !rolls.is_empty() {
                // What is wrong with a balance is told by what follows.
                timeout(LONGEST_WAIT, connection.call(&rolls)).await.unwrap_or(Err(Failure::late()))?;
            }
            let scripts: Vec<Invocation> =
                batch.iter().map(|&(index, takeover)| plan.seeds[index].apply(takeover).invocation()).collect();
            let replies = timeout(LONGEST_WAIT, connection.call(&scripts)).await.unwrap_or(Err(Failure::late()))?;
            let outcomes = replies.iter().map(|reply| {
                let reply = with_reply(reply, ApplyOutcome::of);
                let figures = figures(&reply);
                connection.meter().seeded(outcome(&reply));
                became(reply, access).map(|seeded| (seeded, figures))
            });
            Ok(Some(batch.iter().copied().zip(outcomes).collect::<Vec<_>>()))
        })
        .buffered(IN_FLIGHT);
    let mut outcome = Calls { done: Vec::with_capacity(calls.len()), failure: None, complete: true };
    while let Some(round) = rounds.next().await {
        let round = match round {
            Ok(Some(round)) => round,
            Ok(None) => {
                outcome.complete = false;
                continue;
            }
            // Each further one would take its whole time to fail as well.
            Err(error) => {
                outcome.failure = Some(error);
                break;
            }
        };
        for ((index, takeover), told) in round {
            match told {
                Ok((seeded, figures)) => outcome.done.push((index, takeover, seeded, figures)),
                Err(error) => outcome.failure = Some(error),
            }
        }
        if outcome.failure.is_some() {
            break;
        }
    }
    outcome
}

/// Of what was applied.
const fn figures(reply: &Result<ApplyOutcome, ReplyError>) -> Option<Figures> {
    match reply {
        Ok(ApplyOutcome::Applied { changed: _, balance, used }) => Some(Figures { balance: *balance, used: *used }),
        _ => None,
    }
}

/// The metric's word for it.
const fn outcome(reply: &Result<ApplyOutcome, ReplyError>) -> &'static str {
    match reply {
        Ok(ApplyOutcome::Applied { changed: true, .. }) => "applied",
        Ok(ApplyOutcome::Applied { changed: false, .. }) => "unchanged",
        Ok(ApplyOutcome::Conflict { .. }) => "conflict",
        Ok(ApplyOutcome::Stale { .. }) => "stale",
        Ok(ApplyOutcome::Malformed { .. }) => "malformed",
        Err(ReplyError::Layout(_)) => "unreadable",
        Err(_) => "failed",
    }
}

/// What one reply says about its seed; an error where no other call of this store would fare better.
fn became(reply: Result<ApplyOutcome, ReplyError>, access: &Access) -> Result<Seeded, Failure> {
    Ok(match reply {
        Ok(ApplyOutcome::Applied { .. }) => Seeded::Applied,
        Ok(ApplyOutcome::Conflict { owner, lazy: _ }) => Seeded::Conflict { owner },
        Ok(ApplyOutcome::Stale { term }) => Seeded::Stale { term },
        Ok(ApplyOutcome::Malformed { value }) => Seeded::Malformed { found: described(&value) },
        Err(ReplyError::Layout(version)) => {
            Seeded::Unreadable { problem: format!("its ledger has {}", layout(&version)) }
        }
        Err(
            error @ (ReplyError::NoAuth(_)
            | ReplyError::Cluster(_)
            | ReplyError::ReadOnly(_)
            | ReplyError::NotReady(_)
            | ReplyError::OutOfMemory(_)),
        ) => return Err(error.into()),
        // A key the store's user may not touch, for example: others may be permitted.
        Err(
            error @ (ReplyError::NoScript | ReplyError::Refused(_) | ReplyError::Malformed(_) | ReplyError::Unexpected),
        ) => Seeded::Unreachable { error: format!("{}: {error}", address(access)) },
    })
}

/// Of a ledger of another version; not the text itself, which is foreign where it is no number.
pub(super) fn layout(version: &str) -> String {
    version.parse::<u32>().map_or("an unknown layout".to_owned(), |version| format!("layout version {version}"))
}

/// Not the text itself: a key prefix may lead to keys of other software, whose values are not for readers of statuses.
fn described(value: &str) -> String {
    let number = |text: &str| text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
    match value.chars().count() {
        0 => "empty text, not an integer".to_owned(),
        _ if number(value) => "an integer of another form or range than balances have".to_owned(),
        _ if value.starts_with("ledger ") || value.starts_with("the ledger ") => "a ledger of another form".to_owned(),
        length => format!("text of {length} characters, not an integer"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn access() -> Access {
        Access {
            host: "10.0.0.7".to_owned(),
            port: 6379,
            database: 0,
            username: None,
            password: None,
            timeout: Duration::from_secs(1),
        }
    }

    fn error(text: &str) -> Result<Seeded, Failure> {
        became(Err(ReplyError::from_text(text.as_bytes())), &access())
    }

    #[test]
    fn an_error_of_one_key_is_that_balances_own() {
        for text in
            ["NOPERM No permissions to access a key", "ERR value is not an integer", "NOSCRIPT No matching script"]
        {
            let Ok(Seeded::Unreachable { error }) = error(text) else { panic!("{text} is not the balance's own") };
            assert!(error.starts_with("10.0.0.7:6379: Redis "), "{error}");
        }
        for (version, shown) in [("2", "layout version 2"), ("bought for 12 EUR", "an unknown layout")] {
            let layout = became(Err(ReplyError::Layout(version.to_owned())), &access());
            let Ok(Seeded::Unreadable { problem }) = layout else { panic!("{layout:?}") };
            assert_eq!(problem, format!("its ledger has {shown}"));
        }
    }

    #[test]
    fn what_stands_in_the_place_of_a_balance_is_described_without_its_text() {
        for (value, shown) in [
            ("session=0a1b2c", "text of 14 characters, not an integer"),
            ("", "empty text, not an integer"),
            ("99999999999999999999", "an integer of another form or range than balances have"),
            ("ledger held 0a1b2c", "a ledger of another form"),
        ] {
            let seeded = became(Ok(ApplyOutcome::Malformed { value: value.to_owned() }), &access());
            assert_eq!(seeded, Ok(Seeded::Malformed { found: shown.to_owned() }), "{value}");
        }
    }

    #[test]
    fn an_error_of_the_whole_store_is_the_stores() {
        for text in [
            "NOAUTH Authentication required.",
            "MOVED 3999 10.0.0.8:6379",
            "READONLY You can't write against a read only replica.",
            "LOADING Redis is loading the dataset in memory",
            "OOM command not allowed when used memory > 'maxmemory'.",
        ] {
            assert!(error(text).is_err(), "{text}");
        }
    }
}
