//! Many changes in, one wake-up out: after 50 ms of quiet, and at most 500 ms after the first change. Only time,
//! no other I/O.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How long nothing must have changed before the world is planned.
const QUIET: Duration = Duration::from_millis(50);
/// How long a change waits at most while others keep arriving.
const AT_MOST: Duration = Duration::from_millis(500);

/// Returns when something changed and the burst it belongs to is over, or lasts too long to wait for its end.
/// Changes after that wake the next call.
pub(crate) async fn settled(changes: &Notify) {
    changes.notified().await;
    let limit = Instant::now() + AT_MOST;
    loop {
        let until = limit.min(Instant::now() + QUIET);
        tokio::select! {
            // What comes first when both are ready does not matter, but a burst must not outrun the limit.
            biased;
            () = sleep_until(until) => return,
            () = changes.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_change_is_answered_after_the_quiet_time() {
        let changes = Notify::new();
        changes.notify_one();
        let start = Instant::now();
        settled(&changes).await;
        assert_eq!(start.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_answered_once_and_not_later_than_the_limit() {
        let changes = Arc::new(Notify::new());
        let source = changes.clone();
        let burst = tokio::spawn(async move {
            loop {
                source.notify_one();
                tokio::time::sleep(QUIET / 5).await;
            }
        });
        let start = Instant::now();
        settled(&changes).await;
        burst.abort();
        assert_eq!(start.elapsed(), AT_MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_while_planning_wakes_the_next_round() {
        let changes = Notify::new();
        changes.notify_one();
        settled(&changes).await;
        changes.notify_one();
        tokio::time::timeout(AT_MOST, settled(&changes)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_change_nothing_wakes() {
        let changes = Notify::new();
        assert!(tokio::time::timeout(Duration::from_secs(3600), settled(&changes)).await.is_err());
    }
}
