//! Many changes in, one wake-up out: after 50 ms of quiet, and at most 500 ms after the first change; a change of
//! WasmPlugins is hardly waited with. Only time, no other I/O.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How long nothing must have changed before the world is planned.
const QUIET: Duration = Duration::from_millis(50);
/// The same after a change of WasmPlugins: where another plugin's rule has gone, requests are not metered until ours is
/// written. Two that go together are one change.
const HARDLY: Duration = Duration::from_millis(5);
/// How long a change waits at most while others keep arriving.
const AT_MOST: Duration = Duration::from_millis(500);

/// What is told of changes.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) any: Arc<Notify>,
    pub(crate) plugins: Arc<Notify>,
}

/// Returns when something changed and the burst it belongs to is over, or lasts too long to wait for its end.
/// Changes after that wake the next call.
pub(crate) async fn settled(changes: &Changes) {
    let mut quiet = tokio::select! {
        () = changes.any.notified() => QUIET,
        () = changes.plugins.notified() => HARDLY,
    };
    let limit = Instant::now() + AT_MOST;
    loop {
        let until = limit.min(Instant::now() + quiet);
        tokio::select! {
            // What comes first when both are ready does not matter, but a burst must not outrun the limit.
            biased;
            () = sleep_until(until) => return,
            () = changes.plugins.notified() => quiet = HARDLY,
            () = changes.any.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_change_is_answered_after_the_quiet_time() {
        let changes = Changes::default();
        changes.any.notify_one();
        let start = Instant::now();
        settled(&changes).await;
        assert_eq!(start.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_answered_once_and_not_later_than_the_limit() {
        let changes = Changes::default();
        let source = changes.any.clone();
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
    async fn a_change_of_plugins_is_hardly_waited_with_also_in_a_burst_of_others() {
        let changes = Changes::default();
        changes.plugins.notify_one();
        let start = Instant::now();
        settled(&changes).await;
        assert_eq!(start.elapsed(), HARDLY);
        changes.any.notify_one();
        let (start, plugins) = (Instant::now(), changes.plugins.clone());
        let later = async move {
            tokio::time::sleep(QUIET / 2).await;
            plugins.notify_one();
        };
        futures::join!(settled(&changes), later);
        assert_eq!(start.elapsed(), QUIET / 2 + HARDLY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_while_planning_wakes_the_next_round() {
        let changes = Changes::default();
        changes.any.notify_one();
        settled(&changes).await;
        changes.any.notify_one();
        tokio::time::timeout(AT_MOST, settled(&changes)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_change_nothing_wakes() {
        let changes = Changes::default();
        assert!(tokio::time::timeout(Duration::from_secs(3600), settled(&changes)).await.is_err());
    }
}
