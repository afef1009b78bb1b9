//! Limits that were nearly reached: rule names in, what the gateway noted under them out. I/O: Redis.

use std::iter::once;

use enforcement::redis::warned;
use plan::Notes;
use tokio::time::timeout;

use super::leaving::is_of_the_store;
use crate::connection::{Connection, Failure, LONGEST_WAIT, with_reply};

/// Nothing for what cannot be read, though the store answers.
pub(super) async fn read(connection: &Connection, rules: &[&str]) -> Result<Vec<Option<Notes>>, Failure> {
    let commands = once(warned::time()).chain(rules.iter().map(|rule| warned::list(rule)));
    let replies = timeout(LONGEST_WAIT, connection.send(commands)).await.unwrap_or_else(|_| Err(Failure::late()))?;
    let Some((now, lists)) = replies.split_first() else { return Ok(Vec::new()) };
    let now = with_reply(now, warned::now)?;
    let notes = rules.iter().zip(lists).map(|(rule, list)| match with_reply(list, |list| warned::noted(list, now)) {
        Ok(noted) => Ok(Some(noted.into_iter().collect())),
        Err(error) if is_of_the_store(&error) => Err(error.into()),
        Err(error) => {
            tracing::debug!(rule, %error, "what the gateway warns of cannot be read");
            Ok(None)
        }
    });
    notes.collect()
}
