//! One worker thread's view: its plugins, kept while their specs are the same, its Redis connections, its routes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::board::Board;
use super::config::Snapshot;
use super::plugin::Plugin;
use super::redis::Pool;

pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) board: Arc<Board>,
    pool: Rc<Pool>,
    deadline: Duration,
    plugins: RefCell<Vec<Rc<Plugin>>>,
    snapshot: RefCell<Arc<Snapshot>>,
}

impl Worker {
    /// Runs nothing yet.
    pub(super) fn new(
        index: usize,
        board: Arc<Board>,
        connect_timeout: Duration,
        deadline: Duration,
        snapshot: Arc<Snapshot>,
    ) -> Rc<Self> {
        let pool = Rc::new(Pool::new(connect_timeout));
        let (plugins, snapshot) = (RefCell::default(), RefCell::new(snapshot));
        Rc::new(Self { index, board, pool, deadline, plugins, snapshot })
    }

    /// Takes a new snapshot; answers what each plugin fails with, if it does. Streams under way keep what they have.
    pub(super) fn apply(&self, snapshot: Arc<Snapshot>) -> Vec<Option<String>> {
        self.pool.set_clusters(&snapshot.clusters);
        let old = std::mem::take(&mut *self.plugins.borrow_mut());
        let kept = |loaded: &Arc<_>| old.iter().find(|plugin| Arc::ptr_eq(&plugin.loaded, loaded)).cloned();
        let build = |loaded: &Arc<_>| {
            let (board, pool) = (Arc::clone(&self.board), Rc::clone(&self.pool));
            kept(loaded).unwrap_or_else(|| Plugin::new(Arc::clone(loaded), board, pool, self.deadline))
        };
        let plugins: Vec<Rc<Plugin>> = snapshot.plugins.iter().map(build).collect();
        let failures = plugins.iter().map(|plugin| plugin.failure()).collect();
        *self.plugins.borrow_mut() = plugins;
        *self.snapshot.borrow_mut() = snapshot;
        failures
    }

    pub(super) fn plugins(&self) -> Vec<Rc<Plugin>> {
        self.plugins.borrow().clone()
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }
}
