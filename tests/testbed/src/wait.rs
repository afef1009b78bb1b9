//! Waiting for a condition: polls a probe until it holds, or says what it last saw. No fixed sleeps anywhere else.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::Instant;

/// How long a condition may take by default: far more than any needs, so that a slow machine fails no test.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Calls `probe` until it succeeds. `what` names the condition; the last error says what was there instead.
///
/// ```no_run
/// # async fn f(mut connection: redis::aio::MultiplexedConnection) -> anyhow::Result<()> {
/// testbed::eventually("user1 has 50 tokens", async || {
///     let balance: Option<i64> = redis::cmd("GET").arg("chat_quota:user1").query_async(&mut connection).await?;
///     anyhow::ensure!(balance == Some(50), "the balance is {balance:?}");
///     Ok(())
/// })
/// .await
/// # }
/// ```
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    eventually_within(PATIENCE, what, probe).await
}

/// [`eventually`] with a patience of one's own.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    let mut last = anyhow!("the first attempt never came back");
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if Instant::now() + PAUSE > deadline {
            return Err(last.context(format!("waited {patience:?} in vain: {what}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
