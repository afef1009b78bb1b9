//! Who may act, and with which term: the Lease `aiquota` of the gateway's namespace in, a term that grows with every
//! change of its holder out, and an error as soon as it is lost. I/O: the API server.
//!
//! The libraries for this (kube-lease-manager, kubert) say neither the term nor, on a monotonic clock, until when one
//! may act; kube-lease-manager also counts a change of holder by a second request, after the first one took the Lease.

use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::tenure::{Step, Tenure, named};

pub(crate) const NAME: &str = "aiquota";
/// Without a Lease there is one term, below all terms of a Lease.
const ALONE: i64 = 1;
/// How long an orderly end waits for the API server.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// Whether several controllers may run, of which one acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// This process is the only one.
    Off,
    /// Who holds the Lease acts; it is taken from a holder that was not seen for `duration`, in whole seconds.
    On { duration: Duration },
}

/// Why this process may not act any longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("the Lease {NAME} is now held by {0}")]
    Taken(String),
    #[error("the Lease {NAME} could not be renewed in time: {0}")]
    Overdue(String),
}

/// What a process does in the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It does not know yet who leads.
    Asking,
    StandingBy,
    /// With this term.
    Leading(i64),
}

/// The part of this process, to look at.
#[derive(Clone, Debug)]
pub(crate) struct Leadership(watch::Receiver<State>);

/// This process' part in the election.
pub(crate) struct Lease {
    /// Nothing without an election.
    claim: Option<Claim>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// It is not known yet who leads.
    Asking,
    StandingBy,
    /// This process, until then; without an election for ever.
    Leading {
        term: i64,
        until: Option<Instant>,
    },
}

struct Claim {
    api: Api<Object>,
    known: Mutex<Known>,
    /// Wakes who renews it.
    look: Notify,
}

struct Known {
    tenure: Tenure,
    /// The Lease as it was last written by us.
    stored: Option<Object>,
}

/// What one attempt to take or renew the Lease came to.
enum Attempt {
    Held,
    StandBy {
        holder: String,
    },
    /// Somebody wrote it in between.
    Again,
}

impl Lease {
    pub(crate) fn new(client: Client, namespace: &str, election: Election) -> Self {
        match election {
            Election::Off => {
                let state = State::Leading { term: ALONE, until: None };
                Self { claim: None, state: watch::Sender::new(state) }
            }
            Election::On { duration } => {
                let known = Known { tenure: Tenure::new(identity(), duration), stored: None };
                let claim =
                    Claim { api: Api::namespaced(client, namespace), known: Mutex::new(known), look: Notify::new() };
                Self { claim: Some(claim), state: watch::Sender::new(State::Asking) }
            }
        }
    }

    /// Does the work while this process may act or stands by, and stops it when the Lease is lost. That is asked before
    /// each step of the work: a process that was stopped for a while notices before it goes on.
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T, Lost> {
        let (mut keep, mut work) = (pin!(self.keep()), pin!(work));
        std::future::poll_fn(|context| {
            if self.is_overdue() {
                return Poll::Ready(Err(Lost::Overdue("this process did not run".to_owned())));
            }
            if let Poll::Ready(lost) = keep.as_mut().poll(context) {
                return Poll::Ready(Err(lost));
            }
            work.as_mut().poll(context).map(Ok)
        })
        .await
    }

    /// Whether this process leads, as soon as that is known.
    pub(crate) async fn is_leading(&self) -> bool {
        self.reaches(|state| *state != State::Asking).await;
        self.term().is_some()
    }

    /// Its part, for others to look at.
    pub(crate) fn leadership(&self) -> Leadership {
        Leadership(self.state.subscribe())
    }

    /// Returns when this process leads.
    pub(crate) async fn leading(&self) {
        self.reaches(|state| matches!(state, State::Leading { .. })).await;
    }

    /// The term, while this process leads.
    pub(crate) fn term(&self) -> Option<i64> {
        match *self.state.borrow() {
            State::Leading { term, .. } => Some(term),
            State::Asking | State::StandingBy => None,
        }
    }

    /// Somebody acted with a higher term though this process leads: the Lease was deleted, reset or restored. Makes
    /// the term higher than that, which only the holder of the Lease can; without an election, equal to it.
    pub(crate) async fn raise(&self, above: i64) -> bool {
        let Some(before) = self.term() else { return false };
        if let Some(claim) = &self.claim {
            let mut known = claim.known.lock().await;
            if !known.tenure.rise_above(above) {
                tracing::error!(found = above, "Redis knows a term above which there is none");
                return false;
            }
            // A renewal. When it fails, the next one writes the same.
            if let Ok(Attempt::Again) = self.attempt(claim, &mut known).await {
                let _ = self.attempt(claim, &mut known).await;
            }
            claim.look.notify_one();
        } else {
            self.state.send_replace(State::Leading { term: above.max(before), until: None });
        }
        let after = self.term();
        let raised = after > Some(before);
        if raised {
            tracing::warn!(before, found = above, after, "Redis knows a higher term: it is gone on above it");
        }
        raised
    }

    /// Gives the Lease away, so that another process need not wait for its end.
    pub(crate) async fn release(&self) {
        let Some(claim) = self.claim.as_ref().filter(|_| self.term().is_some() && !self.is_overdue()) else { return };
        let released = timeout(RELEASE_WITHIN, async {
            let mut known = claim.known.lock().await;
            let stored = match known.stored.take() {
                Some(stored) => stored,
                None => claim.api.get(NAME).await?,
            };
            if known.tenure.is_ours(&stored) {
                claim.api.replace(NAME, &parameters(), &Tenure::released(stored)).await?;
            }
            Ok::<_, kube::Error>(())
        });
        match released.await {
            Ok(Ok(())) => tracing::info!("the Lease is released"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease is not released"),
            Err(_) => tracing::warn!("the Lease is not released: no answer in time"),
        }
    }

    /// Takes the Lease when it is free, then renews it until it is lost.
    async fn keep(&self) -> Lost {
        let Some(claim) = &self.claim else { return std::future::pending().await };
        let (renews_after, looks_again_after) = {
            let known = claim.known.lock().await;
            (known.tenure.renews_after(), known.tenure.looks_again_after())
        };
        let mut told = String::new();
        loop {
            let began = Instant::now();
            // One that hangs must leave time for another, and none outlives the Lease.
            let limit = self.until().map_or(began + renews_after, |until| until.min(began + renews_after));
            let attempt = timeout_at(limit, async {
                let mut known = claim.known.lock().await;
                self.attempt(claim, &mut known).await.map_err(|error| error.to_string())
            });
            let (next, news) = match attempt.await.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(Attempt::Held) => {
                    (began + renews_after, format!("leading with term {}", self.term().unwrap_or_default()))
                }
                Ok(Attempt::StandBy { holder }) if self.term().is_some() => return Lost::Taken(holder),
                Ok(Attempt::StandBy { holder }) => {
                    self.state.send_if_modified(|state| std::mem::replace(state, State::StandingBy) == State::Asking);
                    (began + looks_again_after, format!("standing by while {holder} leads"))
                }
                Ok(Attempt::Again) => {
                    sleep_until(began + looks_again_after / 10).await;
                    continue;
                }
                Err(error) if self.is_overdue() => return Lost::Overdue(error),
                Err(error) => (
                    Instant::now() + looks_again_after,
                    format!("the Lease {NAME} cannot be read or written, trying again: {error}"),
                ),
            };
            // Each state once, however often it is found.
            if told != news {
                tracing::info!("{news}");
                told = news;
            }
            let next = self.until().map_or(next, |until| until.min(next));
            tokio::select! {
                () = sleep_until(next) => {}
                () = claim.look.notified() => {}
            }
        }
    }

    async fn attempt(&self, claim: &Claim, known: &mut Known) -> Result<Attempt, kube::Error> {
        let api = &claim.api;
        let sent = Instant::now();
        let found = match known.stored.take() {
            Some(stored) => Some(stored),
            None => api.get_opt(NAME).await?,
        };
        let lease = match known.tenure.step(found.as_ref(), sent, Timestamp::now()) {
            Step::StandBy { holder } => return Ok(Attempt::StandBy { holder }),
            // The Lease was free for a moment: whoever was in between may have acted.
            Step::Claim(_)
                if self.term().is_some() && found.as_ref().is_some_and(|found| !known.tenure.is_ours(found)) =>
            {
                return Ok(Attempt::StandBy { holder: "nobody".to_owned() });
            }
            Step::Claim(lease) => *lease,
        };
        let written = match found {
            Some(_) => api.replace(NAME, &parameters(), &lease).await,
            None => api.create(&parameters(), &named(lease, NAME)).await,
        };
        match written {
            Ok(stored) => {
                let until = Some(sent + known.tenure.may_act());
                self.state.send_replace(State::Leading { term: Tenure::term(&stored), until });
                known.stored = Some(stored);
                Ok(Attempt::Held)
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Attempt::Again),
            Err(error) => Err(error),
        }
    }

    /// Until when this process may act, where that has an end.
    fn until(&self) -> Option<Instant> {
        match *self.state.borrow() {
            State::Leading { until, .. } => until,
            State::Asking | State::StandingBy => None,
        }
    }

    fn is_overdue(&self) -> bool {
        self.until().is_some_and(|until| until <= Instant::now())
    }

    async fn reaches(&self, wanted: impl FnMut(&State) -> bool) {
        // It fails only when the sender is gone, which is ours.
        let _ = self.state.subscribe().wait_for(wanted).await;
    }
}

impl Leadership {
    pub(crate) fn part(&self) -> Part {
        match *self.0.borrow() {
            State::Asking => Part::Asking,
            State::StandingBy => Part::StandingBy,
            State::Leading { term, .. } => Part::Leading(term),
        }
    }

    /// One that plays a part for ever.
    #[cfg(test)]
    pub(crate) fn playing(part: Part) -> Self {
        let state = match part {
            Part::Asking => State::Asking,
            Part::StandingBy => State::StandingBy,
            Part::Leading(term) => State::Leading { term, until: None },
        };
        Self(watch::Sender::new(state).subscribe())
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(api::MANAGER.to_owned()), ..PostParams::default() }
}

/// The host's name, for people, and something that no other process has.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // The standard library's hash maps are seeded at random: enough to tell processes apart, and no dependency.
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{}_{random:016x}", host.trim())
}
