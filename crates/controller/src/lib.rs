//! The operator: what the API server holds comes in through watches, a pure plan is made of it, and balances in
//! Redis, WasmPlugins, statuses and Events go out. All cluster and Redis I/O of the control plane is in this crate.

mod allowance;
mod coalesce;
mod connection;
mod drift;
mod events;
mod finalizers;
mod guarded;
mod health;
mod lease;
mod metrics;
mod observe;
pub mod permissions;
mod programmer;
mod reporter;
mod seeder;
mod serve;
mod tenure;
mod took;
mod watch;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use plan::{Plan, Rollouts, Settings};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::coalesce::Changes;
use crate::events::Events;
use crate::finalizers::{Finalizers, Finalizing};
use crate::health::Health;
use crate::lease::Lease;
use crate::metrics::{Found, Metrics};
use crate::observe::Observer;
use crate::programmer::Programmer;
use crate::reporter::Reporter;
use crate::seeder::{Seeder, Seeding};
use crate::serve::{Pages, Server};
use crate::took::Took;

pub use crate::lease::{Election, Lost};

/// Why the controller ended though nobody asked it to. It does not go on with half of its tasks: whoever started it
/// starts it again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API server cannot be reached or asked: {0}")]
    Cluster(#[source] Box<kube::Error>),
    #[error("{address} cannot be listened on: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("signals cannot be received: {0}")]
    Signals(#[source] std::io::Error),
    #[error("the watch of {0} ended")]
    WatchEnded(&'static str),
    #[error("no plan was made within {} seconds", LONGEST_PLANNING.as_secs())]
    Stuck,
    #[error("a task failed: {0}")]
    Task(#[source] JoinError),
    #[error("another controller may act now: {0}")]
    Lost(#[from] Lost),
}

/// Who leads and cannot plan is of no use, however well it renews the Lease: another process may fare better. All
/// objects that fit into a gateway take less than a second.
const LONGEST_PLANNING: Duration = Duration::from_secs(60);

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Cluster(Box::new(error))
    }
}

/// How this process is looked after.
#[derive(Clone, Copy, Debug)]
pub struct Operations {
    /// Where it serves `/healthz`, `/readyz` and `/metrics`.
    pub listen: SocketAddr,
    /// How many consumers have metrics of their own, the fullest first.
    pub consumer_metrics: usize,
}

/// Runs until SIGTERM or SIGINT. The cluster is the one of `KUBECONFIG`, or the one this process is in.
///
/// # Errors
/// When the cluster cannot be reached or the address not listened on at the start, when a task ends, panics or does not come to an end, and when
/// another controller may act. A task of the last kind goes on, without hands, until the process ends.
pub async fn run(settings: Settings, election: Election, operations: Operations) -> Result<(), Error> {
    let mut stop = Stop::new().map_err(Error::Signals)?;
    let Operations { listen: address, consumer_metrics } = operations;
    let listener = serve::listen(address).await.map_err(|source| Error::Listen { address, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address, source })?;
    let client = Client::try_default().await?;
    let lease = Lease::new(client.clone(), &settings.gateway_namespace, election);
    let health = Arc::new(Health::new(lease.leadership()));
    let metrics = Arc::new(Metrics::new(lease.leadership(), consumer_metrics));
    let server = Server::start(listener, Pages { health: health.clone(), metrics: metrics.clone() });
    tracing::info!("serving /healthz, /readyz and /metrics on {address}");
    let ended = tokio::select! {
        () = stop.requested() => Ok(()),
        ended = lease.guard(health.beating(control(client, settings, &lease, (&health, &metrics)))) => ended?,
    };
    // Nothing is written any more.
    health.stop();
    lease.release().await;
    server.stop().await;
    ended
}

async fn control(
    client: Client,
    settings: Settings,
    lease: &Lease,
    (health, metrics): (&Health, &Arc<Metrics>),
) -> Result<(), Error> {
    let changes = Changes::default();
    let gateway = settings.gateway_namespace.clone();
    let leads = lease.is_leading().await;
    let mut watches = JoinSet::new();
    let observer = Observer::start(&client, settings, (&changes, metrics), &mut watches).await?;
    health.watches(observer.caches());
    tracing::info!("watching");
    let rounds = async {
        if !leads {
            lease.leading().await;
            observer.take_over();
        }
        Box::pin(rounds(client, &gateway, observer, &changes, (lease, metrics))).await
    };
    tokio::select! {
        ended = watches.join_next() => Err(ended_watch(ended)),
        ended = rounds => ended.map(|never| match never {}),
    }
}

/// From snapshots to reports, for as long as this process leads.
async fn rounds(
    client: Client,
    gateway: &str,
    mut observer: Observer,
    changes: &Changes,
    (lease, metrics): (&Lease, &Arc<Metrics>),
) -> Result<Infallible, Error> {
    let events = Events::new(client.clone(), metrics.clone());
    let mut seeder = Seeder::new(metrics.clone());
    let mut programmer = Programmer::new(client.clone(), gateway, metrics.clone());
    let mut finalizers = Finalizers::new(client.clone(), metrics.clone());
    let mut reporter = Reporter::new(client, metrics.clone());
    let (mut rollouts, began) = (Rollouts::default(), Instant::now());
    let mut again = None;
    let mut last: Option<Plan> = None;
    loop {
        tokio::select! {
            () = coalesce::settled(changes) => {}
            () = due(again) => {}
            () = look(&mut seeder, last.as_ref(), lease) => {}
        }
        // Gone before there is another: two of them would take much memory.
        drop(last.take());
        again = None;
        let Some(term) = lease.term() else { continue };
        let mut took = Took::begin();
        let ours = [plan::AI_QUOTA, plan::AI_TOKEN_RATELIMIT];
        let written = ours.into_iter().filter_map(|name| programmer.last_written(name)).collect();
        let Some(world) = observer.snapshot(term, written, seeder.databases()) else { continue };
        took.step("snapshot");
        let plan = aside(move || plan::build(&world)).await?;
        took.step("plan");
        let Finalizing { held, again: finalizing } = finalizers.prepare(&plan).await;
        let Some(seeding) = seeder.run(&plan, &held).await else {
            // Which stores are one database was not known to the plan.
            again = Some(Instant::now());
            continue;
        };
        took.step("seeding");
        if let Some(newer) = seeding.newer_term(term)
            && lease.raise(newer).await
        {
            // With this term nothing was obeyed.
            again = Some(Instant::now());
            continue;
        }
        let programmed = move || (plan::program(&plan, &seeding.seeds), plan, seeding);
        let (program, plan, seeding) = aside(programmed).await?;
        took.step("program");
        let programming = programmer.run(&program, &events).await;
        took.step("writing");
        rollouts.written(&program, &programming.writes, began.elapsed());
        let loaded = rollouts.judge(&seeding.words, began.elapsed());
        let letting_go = finalizers.let_go(&plan, &seeding.deletions).await;
        let now = Timestamp::now();
        let reporting = reporter.run(&plan, (&seeding, &loaded), (&program, &programming.writes), now, &events).await;
        took.step("reporting");
        let Seeding { seeds, figures, stores, .. } = &seeding;
        let gateways = loaded.counts();
        metrics.found(Found { plan: &plan, seeds, figures, stores, gateways, tally: reporting.tally, gateway, now });
        metrics.round(took.steps());
        tracing::debug!(objects = plan.verdicts.len(), balances = plan.seeds.len(), %took, "round done");
        let next = plan.next.map(|next| instant(next, Timestamp::now()));
        again = [finalizing, letting_go, seeding.again, programming.again, reporting.again, next]
            .into_iter()
            .flatten()
            .min();
        last = Some(plan);
    }
}

/// Ends when balances are otherwise than they were last told.
async fn look(seeder: &mut Seeder, last: Option<&Plan>, lease: &Lease) {
    match last {
        Some(plan) => seeder.look(plan, || lease.term().is_some()).await,
        None => std::future::pending().await,
    }
}

/// A pure step, where it holds up nothing: the Lease is renewed meanwhile.
async fn aside<T: Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let done = timeout(LONGEST_PLANNING, tokio::task::spawn_blocking(step)).await;
    done.map_err(|_| Error::Stuck)?.map_err(Error::Task)
}

/// Nothing changed, but something was to be tried again.
async fn due(again: Option<Instant>) {
    match again {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// When to look again whether a moment has come. Somebody may set the clock meanwhile, so not in an hour.
fn instant(moment: Timestamp, now: Timestamp) -> Instant {
    const LONGEST: Duration = Duration::from_secs(60);
    let left = Duration::try_from(moment.duration_since(now)).unwrap_or_default();
    Instant::now() + left.min(LONGEST)
}

fn ended_watch(ended: Option<Result<&'static str, JoinError>>) -> Error {
    match ended {
        Some(Ok(kind)) => Error::WatchEnded(kind),
        Some(Err(error)) => Error::Task(error),
        None => Error::WatchEnded("everything"),
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::info!("stopping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ended(task: impl Future<Output = &'static str> + Send + 'static) -> String {
        let mut watches = JoinSet::new();
        watches.spawn(std::future::pending());
        watches.spawn(task);
        ended_watch(watches.join_next().await).to_string()
    }

    #[tokio::test]
    async fn one_watch_that_ends_or_panics_is_an_error_of_the_whole() {
        assert_eq!(ended(async { "AIQuota" }).await, "the watch of AIQuota ended");
        let panicked = ended(async { panic!("at the worst time") }).await;
        assert!(panicked.starts_with("a task failed") && panicked.contains("at the worst time"), "{panicked}");
    }

    #[tokio::test]
    async fn while_a_plan_is_made_the_lease_is_renewed_by_the_same_task() {
        let (renewed, wait) = std::sync::mpsc::channel();
        let planned = aside(move || wait.recv().is_ok());
        let (planned, renewed) = futures::join!(planned, async move { renewed.send(()) });
        assert!(planned.unwrap() && renewed.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_plan_that_never_ends_and_one_that_panics_end_the_whole() {
        let (_never, wait) = std::sync::mpsc::channel::<()>();
        let mut planned = std::pin::pin!(aside(move || wait.recv().is_ok()));
        assert!(futures::poll!(planned.as_mut()).is_pending());
        tokio::time::advance(LONGEST_PLANNING + Duration::from_millis(1)).await;
        assert_eq!(planned.await.unwrap_err().to_string(), "no plan was made within 60 seconds");
        let panicked = aside(|| -> () { panic!("at the worst time") }).await.unwrap_err();
        assert!(panicked.to_string().starts_with("a task failed"), "{panicked}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_waited_for_but_never_so_long_that_a_clock_which_is_set_would_matter() {
        let now: Timestamp = "2026-11-22T00:00:00Z".parse().unwrap();
        let waits =
            |seconds| instant(now + k8s_openapi::jiff::SignedDuration::from_secs(seconds), now) - Instant::now();
        assert_eq!(waits(7), Duration::from_secs(7));
        assert_eq!(waits(86_400), Duration::from_secs(60));
        assert_eq!(waits(-5), Duration::ZERO, "it has come");
    }
}
