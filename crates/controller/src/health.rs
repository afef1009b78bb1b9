//! What Kubernetes is told of this process: whether it goes on, and whether it may be counted on. What its parts say in,
//! one verdict and a line of text out. Neither Redis nor the API server makes it unhealthy: a restart would not bring
//! them back. No I/O.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::LONGEST_PLANNING;
use crate::lease::{Leadership, Part};

/// How often the work says that it goes on.
const BEAT: Duration = Duration::from_secs(1);

/// The objects of one kind, as far as this process has them.
#[derive(Clone)]
pub(crate) struct Cache {
    pub(crate) kind: String,
    /// Whether a list of them was complete once.
    pub(crate) synced: Arc<AtomicBool>,
}

/// What is known of this process.
pub(crate) struct Health {
    leadership: Leadership,
    beat: Mutex<Instant>,
    /// Nothing before all of them are watched.
    caches: OnceLock<Vec<Cache>>,
    stopping: AtomicBool,
}

impl Health {
    pub(crate) fn new(leadership: Leadership) -> Self {
        let beat = Mutex::new(Instant::now());
        Self { leadership, beat, caches: OnceLock::new(), stopping: AtomicBool::new(false) }
    }

    /// Does the work, and notes that it goes on for as long as its task does not stand still: what blocks one of the
    /// two blocks the other.
    pub(crate) async fn beating<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.beats() => match never {},
        }
    }

    async fn beats(&self) -> Infallible {
        loop {
            *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            sleep(BEAT).await;
        }
    }

    /// These are watched from now on.
    pub(crate) fn watches(&self, caches: Vec<Cache>) {
        // Once: there is one observer.
        let _ = self.caches.set(caches);
    }

    /// It ends: nobody counts on it any more.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether it goes on; if not, only another process may.
    pub(crate) fn live(&self) -> Result<String, String> {
        let still = self.beat.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if still > LONGEST_PLANNING {
            return Err(format!("the controller has stood still for {} s", still.as_secs()));
        }
        Ok("ok".to_owned())
    }

    /// Whether it could act on what the API server holds, now or as soon as it leads.
    pub(crate) fn ready(&self) -> Result<String, String> {
        if self.stopping.load(Ordering::Acquire) {
            return Err("not ready: stopping".to_owned());
        }
        let part = match self.leadership.part() {
            Part::Asking => return Err("not ready: it is not known yet who leads".to_owned()),
            Part::StandingBy => "standing by".to_owned(),
            Part::Leading(term) => format!("leading with term {term}"),
        };
        let Some(caches) = self.caches.get() else {
            return Err("not ready: nothing is watched yet".to_owned());
        };
        let missing = caches.iter().filter(|cache| !cache.synced.load(Ordering::Acquire));
        let missing: Vec<&str> = missing.map(|cache| cache.kind.as_str()).collect();
        if missing.is_empty() {
            return Ok(format!("ready: {part}"));
        }
        Err(format!("not ready: {part}, without a complete list yet of {}", missing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(part: Part) -> Health {
        Health::new(Leadership::playing(part))
    }

    fn cache(kind: &str, synced: bool) -> Cache {
        Cache { kind: kind.to_owned(), synced: Arc::new(AtomicBool::new(synced)) }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_stands_still_for_longer_than_a_plan_may_take_is_not_alive() {
        let health = health(Part::StandingBy);
        tokio::time::timeout(LONGEST_PLANNING * 10, health.beating(std::future::pending::<()>())).await.unwrap_err();
        assert_eq!(health.live(), Ok("ok".to_owned()), "waiting is no standing still, however long");
        // Nobody polls it.
        tokio::time::advance(LONGEST_PLANNING).await;
        assert_eq!(health.live(), Ok("ok".to_owned()));
        tokio::time::advance(BEAT).await;
        assert_eq!(health.live(), Err("the controller has stood still for 61 s".to_owned()));
        assert!(health.beating(std::future::ready(true)).await);
    }

    #[tokio::test]
    async fn who_stands_by_is_as_ready_as_who_leads_once_all_lists_are_complete() {
        for (part, says) in [(Part::StandingBy, "standing by"), (Part::Leading(7), "leading with term 7")] {
            let health = health(part);
            assert_eq!(health.ready(), Err("not ready: nothing is watched yet".to_owned()));
            let (quotas, stores) = (cache("AIQuota", false), cache("AIQuotaStore", true));
            health.watches(vec![quotas.clone(), stores]);
            let without = format!("not ready: {says}, without a complete list yet of AIQuota");
            assert_eq!(health.ready(), Err(without));
            quotas.synced.store(true, Ordering::Release);
            assert_eq!(health.ready(), Ok(format!("ready: {says}")));
            health.stop();
            assert_eq!(health.ready(), Err("not ready: stopping".to_owned()));
            assert_eq!(health.live(), Ok("ok".to_owned()), "who stops is not to be restarted");
        }
    }

    #[tokio::test]
    async fn who_does_not_know_yet_who_leads_is_not_ready() {
        let health = health(Part::Asking);
        health.watches(vec![cache("AIQuota", true)]);
        assert_eq!(health.ready(), Err("not ready: it is not known yet who leads".to_owned()));
    }
}
