//! One plugin on one worker thread: its VM, replaced when it traps, its timer, and the streams that hear of what its
//! callbacks asked for. Calls into the VM are synchronous; everything else reaches a stream through its inbox.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::abi::{BodyAction, HeaderAction, Way};
use super::board::Board;
use super::config::{Code, Loaded};
use super::host::{Effect, RedisCalls, StreamState};
use super::redis::Pool;
use super::vm::{Dead, Machine, Start};

/// What happened to a stream in one of its filters.
pub(super) enum Event {
    Effect(Effect),
    /// The VM that knew the stream is gone.
    Failed,
}

/// Where a stream hears of events, with the number of the filter.
pub(super) type Inbox = UnboundedSender<(usize, Event)>;

pub(super) struct Plugin {
    pub(super) loaded: Arc<Loaded>,
    board: Arc<Board>,
    pool: Rc<Pool>,
    deadline: Duration,
    vm: RefCell<Vm>,
    /// Counts the VMs, so that answers to an earlier one are dropped.
    serial: Cell<u64>,
    seats: RefCell<HashMap<u32, (Inbox, usize)>>,
    ticker: RefCell<Option<AbortHandle>>,
    me: Weak<Self>,
}

enum Vm {
    Running(Box<Machine>),
    /// To be replaced when next needed.
    Trapped,
    /// Did not start; stays so until the plugin changes. Native plugins are here without a reason.
    None(String),
}

impl Plugin {
    pub(super) fn new(loaded: Arc<Loaded>, board: Arc<Board>, pool: Rc<Pool>, deadline: Duration) -> Rc<Self> {
        let plugin = Rc::new_cyclic(|me| Self {
            loaded,
            board,
            pool,
            deadline,
            vm: RefCell::new(Vm::Trapped),
            serial: Cell::new(0),
            seats: RefCell::default(),
            ticker: RefCell::default(),
            me: me.clone(),
        });
        plugin.start();
        plugin
    }

    /// Why the plugin does nothing, if it does.
    pub(super) fn failure(&self) -> Option<String> {
        match (&self.loaded.code, &*self.vm.borrow()) {
            (Err(reason), _) => Some(reason.clone()),
            (Ok(Code::KeyAuth(_)), _) | (Ok(_), Vm::Running(_) | Vm::Trapped) => None,
            (Ok(_), Vm::None(reason)) => Some(reason.clone()),
        }
    }

    fn start(&self) {
        let spec = &self.loaded.spec;
        let vm = match &self.loaded.code {
            Err(reason) => {
                self.board.log(&spec.name, 5, format!("cannot be loaded: {reason}"));
                Vm::None(reason.clone())
            }
            Ok(Code::KeyAuth(_)) => Vm::None(String::new()),
            Ok(Code::Module(prepared)) => {
                self.serial.set(self.serial.get() + 1);
                self.board.built(&spec.name);
                let configuration = spec.config.to_string();
                let link = Link {
                    pool: Rc::clone(&self.pool),
                    plugin: self.me.clone(),
                    serial: self.serial.get(),
                    token: Cell::new(0),
                };
                let start = Start {
                    plugin: &spec.name,
                    configuration: configuration.as_bytes(),
                    vm_configuration: &[],
                    board: &self.board,
                    redis: Rc::new(link),
                    deadline: self.deadline,
                };
                match Machine::start(prepared, &start) {
                    Ok(machine) => Vm::Running(Box::new(machine)),
                    Err(error) => {
                        self.board.log(&spec.name, 5, format!("cannot be started: {error:#}"));
                        Vm::None(format!("{error:#}"))
                    }
                }
            }
        };
        *self.vm.borrow_mut() = vm;
        // A tick asked for while starting.
        let _ = self.run(|_| Ok(()));
    }

    /// A context for a stream; `None` when the plugin has failed.
    pub(super) fn open(&self, stream: &Rc<RefCell<StreamState>>, inbox: &Inbox, filter: usize) -> Option<u32> {
        if matches!(*self.vm.borrow(), Vm::Trapped) {
            self.start();
        }
        let id = self.run(|machine| machine.open(Rc::clone(stream)))?;
        self.seats.borrow_mut().insert(id, (inbox.clone(), filter));
        Some(id)
    }

    pub(super) fn headers(&self, id: u32, way: Way, count: usize, end: bool) -> Option<HeaderAction> {
        self.run(|machine| machine.headers(id, way, count, end))
    }

    pub(super) fn body(&self, id: u32, way: Way, size: usize, end: bool) -> Option<BodyAction> {
        self.run(|machine| machine.body(id, way, size, end))
    }

    pub(super) fn close(&self, id: u32) {
        if self.seats.borrow_mut().remove(&id).is_some() {
            let _ = self.run(|machine| machine.close(id));
        }
    }

    /// One call into the VM, and what follows from it for the streams.
    fn run<R>(&self, call: impl FnOnce(&mut Machine) -> Result<R, Dead>) -> Option<R> {
        let mut vm = self.vm.borrow_mut();
        let Vm::Running(machine) = &mut *vm else { return None };
        let result = call(machine);
        let (effects, tick) = (machine.take_effects(), machine.take_tick());
        if result.is_err() {
            *vm = Vm::Trapped;
        }
        drop(vm);
        let Ok(result) = result else {
            self.serial.set(self.serial.get() + 1);
            self.set_tick(Duration::ZERO);
            for (inbox, filter) in std::mem::take(&mut *self.seats.borrow_mut()).into_values() {
                let _ = inbox.send((filter, Event::Failed));
            }
            return None;
        };
        for (id, effect) in effects {
            if let Some((inbox, filter)) = self.seats.borrow().get(&id) {
                let _ = inbox.send((*filter, Event::Effect(effect)));
            }
        }
        if let Some(period) = tick {
            self.set_tick(period);
        }
        Some(result)
    }

    fn set_tick(&self, period: Duration) {
        let ticker = (!period.is_zero()).then(|| {
            let me = self.me.clone();
            let tick = async move {
                let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
                loop {
                    interval.tick().await;
                    let Some(plugin) = me.upgrade() else { return };
                    let _ = plugin.run(Machine::tick);
                }
            };
            tokio::task::spawn_local(tick).abort_handle()
        });
        if let Some(old) = std::mem::replace(&mut *self.ticker.borrow_mut(), ticker) {
            old.abort();
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(ticker) = self.ticker.take() {
            ticker.abort();
        }
    }
}

/// The Redis clusters as one VM of a plugin reaches them.
struct Link {
    pool: Rc<Pool>,
    plugin: Weak<Plugin>,
    serial: u64,
    token: Cell<u32>,
}

impl RedisCalls for Link {
    fn init(&self, cluster: &str, user: &str, password: &str, timeout: Duration) -> i32 {
        self.pool.init(cluster, user, password, timeout)
    }

    fn call(&self, cluster: &str, query: Vec<u8>) -> Result<u32, i32> {
        let token = self.token.get() + 1;
        let (plugin, serial) = (self.plugin.clone(), self.serial);
        let answer = move |reply| {
            if let Some(plugin) = plugin.upgrade().filter(|plugin| plugin.serial.get() == serial) {
                let _ = plugin.run(|machine| machine.redis_reply(token, reply));
            }
        };
        self.pool.call(cluster, query, Box::new(answer))?;
        self.token.set(token);
        Ok(token)
    }
}
