//! Consumers who live only in Redis: the keys of a prefix in, consumers with a grant that leaves their balances as they
//! are out. I/O: reads Redis (SCAN and MGET), writes nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use enforcement::values::{MAX_AMOUNT, is_consumer};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo};

/// The library would wait a second and half a second: a SCAN of many keys may wait behind what the gateways ask.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// What was found under a prefix.
#[derive(Default)]
pub(crate) struct Found {
    /// Consumers and their balances, by name.
    pub(crate) consumers: Vec<(String, i64)>,
    /// Keys whose rest is no consumer's name, or whose value is no balance.
    pub(crate) others: usize,
}

/// Where and as whom; the password is never an argument.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

impl Place {
    /// # Errors
    /// Redis does not answer, or refuses.
    pub(crate) async fn open(&self) -> Result<MultiplexedConnection> {
        let mut info: ConnectionInfo = self.url.as_str().into_connection_info().context("this is no redis:// URL")?;
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        info = info.set_redis_settings(settings);
        let client = Client::open(info)?;
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTED_WITHIN))
            .set_response_timeout(Some(ANSWERED_WITHIN));
        client.get_multiplexed_async_connection_with_config(&patient).await.context("Redis cannot be reached or asked")
    }
}

/// `others` are longer prefixes, whose keys are not this one's.
///
/// # Errors
/// Redis does not answer, or refuses.
pub(crate) async fn list(redis: &mut MultiplexedConnection, prefix: &str, others: &[&str]) -> Result<Found> {
    let mut found = Found::default();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern(prefix)).arg("COUNT").arg(1_000).arg("TYPE").arg("string");
        let (next, some): (u64, Vec<Vec<u8>>) = scan.query_async(redis).await.context("SCAN is refused")?;
        keys.extend(some);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    // SCAN may tell a key twice.
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| !others.iter().any(|other| other.len() > prefix.len() && key.starts_with(other.as_bytes())));
    for some in keys.chunks(1_000) {
        let values: Vec<Option<Vec<u8>>> =
            redis::cmd("MGET").arg(some).query_async(redis).await.context("MGET is refused")?;
        for (key, value) in some.iter().zip(values) {
            let Some(value) = value else { continue };
            let balance = std::str::from_utf8(&value).ok().and_then(|text| text.parse::<i64>().ok());
            let balance = balance.filter(|balance| (-MAX_AMOUNT..=MAX_AMOUNT).contains(balance));
            let name = key.get(prefix.len()..).filter(|name| is_consumer(name));
            match (name.and_then(|name| std::str::from_utf8(name).ok()), balance) {
                (Some(name), Some(balance)) => found.consumers.push((name.to_owned(), balance)),
                _ => found.others += 1,
            }
        }
    }
    Ok(found)
}

/// The quota under which a balance is adopted as it is. 0 would block the consumer, also one that somebody gives
/// something to before that is read: who has nothing left gets the smallest there is.
pub(crate) const fn grant(balance: i64) -> i64 {
    if balance > 0 { balance } else { 1 }
}

/// All keys that begin with this text.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for char in prefix.chars() {
        if matches!(char, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_means_itself() {
        assert_eq!(pattern(r"a*[b]?\:"), r"a\*\[b\]\?\\:*");
    }

    #[test]
    fn a_balance_is_adopted_as_it_is_also_one_below_zero() {
        assert_eq!([grant(7), grant(0), grant(-7)], [7, 1, 1]);
    }
}
