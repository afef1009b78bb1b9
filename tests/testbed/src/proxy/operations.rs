//! What a program changed through one or several proxies, in order, and the hook that comes at the n-th change.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::sync::{oneshot, watch};

/// One thing that may have changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The HTTP method, or the Redis command; of a script also its first argument: `EVALSHA apply`.
    pub verb: String,
    /// `redis`, or the resource as in a URL: `wasmplugins`, `aiquotas/status`.
    pub kind: String,
    /// The first key, or `namespace/name`; empty where there is none.
    pub name: String,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.verb, self.kind, self.name)
    }
}

/// When the hook comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the operation is forwarded.
    Unsent,
    /// After it was done and before its answer is delivered: whoever asked does not know.
    Unanswered,
}

/// The operations of all proxies that were started with it. Cheap to clone.
#[derive(Clone)]
pub struct Operations(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// What passes without being one of them.
    ignored: fn(&Operation) -> bool,
    /// While a hook waits for its turn, one operation is on the way at a time: then exactly n were done.
    turn: tokio::sync::Mutex<()>,
    /// How often everything was cut off.
    cuts: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    seen: Vec<Operation>,
    hook: Option<Hook>,
    /// A hook has been taken and is not over.
    comes: bool,
    /// Of every proxy, the cut after which it has begun anew.
    doors: Vec<watch::Receiver<u64>>,
}

struct Hook {
    left: usize,
    moment: Moment,
    cuts: bool,
    call: Box<dyn FnOnce() + Send>,
    reached: oneshot::Sender<Operation>,
}

/// Tells when a hook has come.
pub struct Reached(oneshot::Receiver<Operation>);

impl Reached {
    /// Waits until the hook has returned; the operation at which it came.
    ///
    /// # Errors
    /// When another hook took its place, or the connection of that operation was closed by its other end.
    pub async fn operation(self) -> Result<Operation> {
        self.0.await.context("the hook never came")
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self::new()
    }
}

impl Operations {
    #[must_use]
    pub fn new() -> Self {
        Self::without(|_| false)
    }

    /// Those that are not `ignored`, which are neither told nor counted.
    #[must_use]
    pub fn without(ignored: fn(&Operation) -> bool) -> Self {
        let (state, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { state, ignored, turn, cuts: watch::Sender::new(0) }))
    }

    /// All so far, oldest first.
    pub fn seen(&self) -> Vec<Operation> {
        self.state().seen.clone()
    }

    /// All so far, and forgets them.
    pub fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut self.state().seen)
    }

    /// At the `nth` operation from now on (1 is the next), calls `hook` and then breaks every connection: neither this
    /// operation's answer nor anything that was on the way behind it comes through. From then on the operations are
    /// those of new connections. For a hook that kills the program.
    pub fn cut(&self, nth: usize, moment: Moment, hook: impl FnOnce() + Send + 'static) -> Reached {
        self.arm(nth, moment, true, Box::new(hook))
    }

    /// At the `nth` operation from now on, calls `hook`, and goes on when it returns.
    pub fn at(&self, nth: usize, moment: Moment, hook: impl FnOnce() + Send + 'static) -> Reached {
        self.arm(nth, moment, false, Box::new(hook))
    }

    /// Takes back a hook that has not come; whether there was one.
    pub fn disarm(&self) -> bool {
        self.state().hook.take().is_some()
    }

    fn arm(&self, nth: usize, moment: Moment, cuts: bool, call: Box<dyn FnOnce() + Send>) -> Reached {
        let (reached, told) = oneshot::channel();
        let mut state = self.state();
        (state.hook, state.comes) = (Some(Hook { left: nth.max(1), moment, cuts, call, reached }), false);
        Reached(told)
    }

    /// Lets one operation through; nothing comes back where the connection is to be closed.
    pub(super) async fn pass<T>(&self, cuts: u64, operation: Operation, forward: impl Future<Output = T>) -> Option<T> {
        if (self.0.ignored)(&operation) {
            return if *self.0.cuts.borrow() == cuts { Some(forward.await) } else { None };
        }
        let armed = {
            let state = self.state();
            state.hook.is_some() || state.comes
        };
        let _turn = if armed { Some(self.0.turn.lock().await) } else { None };
        // Of a connection that should be gone already.
        if *self.0.cuts.borrow() != cuts {
            return None;
        }
        let Some(hook) = self.due() else {
            self.state().seen.push(operation);
            return Some(forward.await);
        };
        let goes_on = !hook.cuts;
        match hook.moment {
            Moment::Unsent => {
                self.come(hook, operation.clone()).await;
                if !goes_on {
                    return None;
                }
                self.state().seen.push(operation);
                Some(forward.await)
            }
            Moment::Unanswered => {
                let answer = forward.await;
                self.state().seen.push(operation.clone());
                self.come(hook, operation).await;
                goes_on.then_some(answer)
            }
        }
    }

    /// The hook, when this is the operation it waits for.
    fn due(&self) -> Option<Hook> {
        let mut state = self.state();
        let hook = state.hook.as_mut()?;
        hook.left -= 1;
        if hook.left > 0 {
            return None;
        }
        state.comes = true;
        state.hook.take()
    }

    /// In a task of its own: a cut ends the connection that it is called from.
    async fn come(&self, hook: Hook, operation: Operation) {
        let operations = self.clone();
        let coming = tokio::spawn(async move {
            let Hook { call, cuts, reached, .. } = hook;
            // A hook may wait for a process to end.
            let _ = tokio::task::spawn_blocking(call).await;
            if cuts {
                operations.cut_off().await;
            }
            operations.state().comes = false;
            // Whoever armed it may have stopped waiting.
            let _ = reached.send(operation);
        });
        let _ = coming.await;
    }

    async fn cut_off(&self) {
        self.0.cuts.send_modify(|cuts| *cuts += 1);
        let cuts = *self.0.cuts.borrow();
        let doors = self.state().doors.clone();
        for mut door in doors {
            // An error is a proxy that has ended.
            let _ = door.wait_for(|anew| *anew >= cuts).await;
        }
    }

    /// For a proxy that begins: what tells it of cuts, and where it says that it has begun anew after one.
    pub(super) fn attend(&self) -> (watch::Receiver<u64>, watch::Sender<u64>) {
        let cuts = self.0.cuts.subscribe();
        let (anew, told) = watch::channel(*cuts.borrow());
        self.state().doors.push(told);
        (cuts, anew)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
