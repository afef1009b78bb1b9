//! A gate that answers wait at until a test opens it: concurrency without sleeps.

use std::sync::Arc;

use tokio::sync::watch;

/// A named place where answers wait. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    open: bool,
}

/// Counts one who waits, also when its connection is dropped meanwhile.
struct Waiting<'a>(&'a watch::Sender<State>);

impl Gate {
    pub(super) fn closed() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Waits until `count` answers wait here at the same time.
    pub async fn reached_by(&self, count: usize) {
        // The sender is ours: the channel cannot close.
        let _ = self.state.subscribe().wait_for(|state| state.waiting >= count).await;
    }

    /// How many wait here now.
    pub fn waiting(&self) -> usize {
        self.state.borrow().waiting
    }

    /// Lets all go on that wait here, and all that come later.
    pub fn open(&self) {
        self.state.send_modify(|state| state.open = true);
    }

    /// Makes those wait that come from now on.
    pub fn close(&self) {
        self.state.send_modify(|state| state.open = false);
    }

    pub(super) async fn pass(&self) {
        self.state.send_modify(|state| state.waiting += 1);
        let _waiting = Waiting(&self.state);
        let _ = self.state.subscribe().wait_for(|state| state.open).await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.waiting -= 1);
    }
}
