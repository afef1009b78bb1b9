//! One VM: an instance of a module with its root context, and the callbacks into it. Every callback has a deadline;
//! one that traps or overruns leaves the VM dead, to be thrown away. Effects on streams come out after each callback.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use wasmtime::{Instance, Store, StoreLimitsBuilder, TypedFunc, WasmParams, WasmResults};

use super::abi::{Abi, BodyAction, HeaderAction, Way};
use super::board::Board;
use super::engine::{EPOCH, Prepared, failure};
use super::host::{Context, Effect, Host, RedisCalls, StreamState};

/// The id of the root context: there is one plugin per VM.
pub(super) const ROOT: u32 = 1;

/// What a VM may grow to.
const MEMORY: usize = 512 << 20;

/// Why a plugin does not answer: its VM trapped, or never started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dead(pub(super) String);

/// What a VM is started with.
pub(super) struct Start<'a> {
    pub(super) plugin: &'a str,
    pub(super) configuration: &'a [u8],
    pub(super) vm_configuration: &'a [u8],
    pub(super) board: &'a Arc<Board>,
    pub(super) redis: Rc<dyn RedisCalls>,
    /// How long one callback may run.
    pub(super) deadline: Duration,
}

pub(super) struct Machine {
    store: Store<Host>,
    calls: Calls,
    abi: Abi,
    next: u32,
    epochs: u64,
    dead: Option<Dead>,
}

type Call<P, R = ()> = Option<TypedFunc<P, R>>;

/// The callbacks a module exports. What it leaves out is skipped.
struct Calls {
    context_create: Call<(i32, i32)>,
    vm_start: Call<(i32, i32), i32>,
    configure: Call<(i32, i32), i32>,
    tick: Call<i32>,
    request_headers: Headers,
    response_headers: Headers,
    request_body: Call<(i32, i32, i32), i32>,
    response_body: Call<(i32, i32, i32), i32>,
    redis: Call<(i32, i32, i32, i32)>,
    done: Call<i32, i32>,
    log: Call<i32>,
    delete: Call<i32>,
}

/// The header callbacks of the oldest version were not told about the end of the stream.
enum Headers {
    Absent,
    Old(TypedFunc<(i32, i32), i32>),
    New(TypedFunc<(i32, i32, i32), i32>),
}

impl Machine {
    /// Instantiates, initialises, starts and configures.
    ///
    /// # Errors
    /// When any of it traps or the module refuses its configuration.
    pub(super) fn start(prepared: &Prepared, start: &Start<'_>) -> Result<Self> {
        let host = Host {
            plugin: start.plugin.to_owned(),
            configuration: start.configuration.to_vec(),
            vm_configuration: start.vm_configuration.to_vec(),
            board: Arc::clone(start.board),
            redis: Rc::clone(&start.redis),
            limits: StoreLimitsBuilder::new().memory_size(MEMORY).build(),
            memory: None,
            allocate: None,
            contexts: std::collections::HashMap::new(),
            current: ROOT,
            effective: 0,
            stopped: false,
            effects: Vec::new(),
            redis_reply: None,
            tick: None,
        };
        let mut store = Store::new(prepared.pre.module().engine(), host);
        store.limiter(|host| &mut host.limits);
        let epochs = u64::try_from(start.deadline.as_millis() / EPOCH.as_millis()).unwrap_or(u64::MAX / 2).max(1);
        store.set_epoch_deadline(epochs);
        let instance = prepared.pre.instantiate(&mut store).map_err(failure)?;
        let memory = instance.get_memory(&mut store, "memory");
        store.data_mut().memory = memory;
        let allocate = ["proxy_on_memory_allocate", "malloc"];
        let allocate = allocate.iter().find_map(|name| instance.get_typed_func(&mut store, name).ok());
        ensure!(allocate.is_some(), "no allocator of the right type");
        store.data_mut().allocate = allocate;
        initialize(&mut store, &instance, epochs)?;
        let calls = Calls::new(&mut store, &instance)?;
        let mut vm = Self { store, calls, abi: prepared.abi, next: ROOT + 1, epochs, dead: None };
        vm.configure()?;
        Ok(vm)
    }

    fn configure(&mut self) -> Result<()> {
        let started = |what: Result<Option<i32>, Dead>, step: &str| match what {
            Ok(Some(0)) => bail!("the module refused {step}"),
            Ok(_) => Ok(()),
            Err(Dead(cause)) => bail!("{cause}"),
        };
        let (vm_size, size) = (self.store.data().vm_configuration.len(), self.store.data().configuration.len());
        let create = self.calls.context_create.clone();
        started(self.call(create, (ROOT as i32, 0), ROOT).map(|_| None), "its root context")?;
        let vm_start = self.calls.vm_start.clone();
        started(self.call(vm_start, (ROOT as i32, vm_size as i32), ROOT), "to start")?;
        let configure = self.calls.configure.clone();
        started(self.call(configure, (ROOT as i32, size as i32), ROOT), "its configuration")
    }

    /// A context for a stream.
    pub(super) fn open(&mut self, stream: Rc<RefCell<StreamState>>) -> Result<u32, Dead> {
        let id = self.next;
        self.next += 1;
        self.store.data_mut().contexts.insert(id, Context { stream, keep_route: false, over: false });
        let create = self.calls.context_create.clone();
        self.call(create, (id as i32, ROOT as i32), id)?;
        Ok(id)
    }

    pub(super) fn headers(&mut self, id: u32, way: Way, count: usize, end: bool) -> Result<HeaderAction, Dead> {
        let calls = match way {
            Way::Request => &self.calls.request_headers,
            Way::Response => &self.calls.response_headers,
        };
        let (arg, count, end) = (id as i32, count as i32, i32::from(end));
        let returned = match calls {
            Headers::Absent => return Ok(HeaderAction::Continue),
            Headers::Old(call) => {
                let call = Some(call.clone());
                self.call(call, (arg, count), id)?
            }
            Headers::New(call) => {
                let call = Some(call.clone());
                self.call(call, (arg, count, end), id)?
            }
        };
        Ok(HeaderAction::new(self.abi, returned.unwrap_or_default(), self.store.data().stopped))
    }

    pub(super) fn body(&mut self, id: u32, way: Way, size: usize, end: bool) -> Result<BodyAction, Dead> {
        let call = match way {
            Way::Request => self.calls.request_body.clone(),
            Way::Response => self.calls.response_body.clone(),
        };
        let returned = self.call(call, (id as i32, size as i32, i32::from(end)), id)?;
        Ok(BodyAction::new(returned.unwrap_or_default(), self.store.data().stopped))
    }

    /// An answer of Redis, or `None` for a network failure, on the root context.
    pub(super) fn redis_reply(&mut self, token: u32, reply: Option<Vec<u8>>) -> Result<(), Dead> {
        let call = self.calls.redis.clone();
        let status = i32::from(reply.is_none());
        let size = reply.as_ref().map_or(0, Vec::len) as i32;
        self.store.data_mut().redis_reply = reply;
        let result = self.call(call, (ROOT as i32, token as i32, status, size), ROOT);
        self.store.data_mut().redis_reply = None;
        result.map(drop)
    }

    pub(super) fn tick(&mut self) -> Result<(), Dead> {
        let call = self.calls.tick.clone();
        self.call(call, ROOT as i32, ROOT).map(drop)
    }

    /// The stream has ended: log, done, delete, in Envoy's order, with the header maps already gone.
    pub(super) fn close(&mut self, id: u32) -> Result<(), Dead> {
        let Some(context) = self.store.data_mut().contexts.get_mut(&id) else { return Ok(()) };
        context.over = true;
        let (log, done, delete) = (self.calls.log.clone(), self.calls.done.clone(), self.calls.delete.clone());
        let closed = self
            .call(log, id as i32, id)
            .and_then(|_| self.call(done, id as i32, id).map(drop))
            .and_then(|()| self.call(delete, id as i32, id).map(drop));
        self.store.data_mut().contexts.remove(&id);
        closed
    }

    /// What the callbacks since asked for, by context.
    pub(super) fn take_effects(&mut self) -> Vec<(u32, Effect)> {
        std::mem::take(&mut self.store.data_mut().effects)
    }

    /// The tick period, if the module changed it.
    pub(super) fn take_tick(&mut self) -> Option<Duration> {
        self.store.data_mut().tick.take()
    }

    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        function: Call<P, R>,
        arguments: P,
        context: u32,
    ) -> Result<Option<R>, Dead> {
        if let Some(dead) = &self.dead {
            return Err(dead.clone());
        }
        let host = self.store.data_mut();
        (host.current, host.effective, host.stopped) = (context, 0, false);
        let Some(function) = function else { return Ok(None) };
        self.store.set_epoch_deadline(self.epochs);
        match function.call(&mut self.store, arguments) {
            Ok(result) => Ok(Some(result)),
            Err(error) => {
                let cause = Dead(failure(error).to_string());
                let host = self.store.data();
                host.board.trapped();
                host.board.log(&host.plugin, 5, format!("the VM trapped: {}", cause.0));
                self.dead = Some(cause.clone());
                Err(cause)
            }
        }
    }
}

/// A reactor module is initialised, then its `main` runs if it has one; a command module is run.
fn initialize(store: &mut Store<Host>, instance: &Instance, epochs: u64) -> Result<()> {
    let run = |store: &mut Store<Host>, name: &str| {
        store.set_epoch_deadline(epochs);
        match instance.get_typed_func::<(), ()>(&mut *store, name) {
            Ok(function) => function.call(store, ()).map(|()| true).map_err(failure),
            Err(_) => Ok(false),
        }
    };
    if !run(store, "_initialize")? {
        run(store, "_start")?;
        return Ok(());
    }
    if let Ok(main) = instance.get_typed_func::<(i32, i32), i32>(&mut *store, "main") {
        store.set_epoch_deadline(epochs);
        main.call(store, (0, 0)).map_err(failure)?;
    } else {
        run(store, "main")?;
    }
    Ok(())
}

impl Calls {
    fn new(store: &mut Store<Host>, instance: &Instance) -> Result<Self> {
        Ok(Self {
            context_create: find(store, instance, "proxy_on_context_create")?,
            vm_start: find(store, instance, "proxy_on_vm_start")?,
            configure: find(store, instance, "proxy_on_configure")?,
            tick: find(store, instance, "proxy_on_tick")?,
            request_headers: Headers::new(store, instance, "proxy_on_request_headers")?,
            response_headers: Headers::new(store, instance, "proxy_on_response_headers")?,
            request_body: find(store, instance, "proxy_on_request_body")?,
            response_body: find(store, instance, "proxy_on_response_body")?,
            redis: find(store, instance, "proxy_on_redis_call_response")?,
            done: find(store, instance, "proxy_on_done")?,
            log: find(store, instance, "proxy_on_log")?,
            delete: find(store, instance, "proxy_on_delete")?,
        })
    }
}

impl Headers {
    fn new(store: &mut Store<Host>, instance: &Instance, name: &str) -> Result<Self> {
        if let Ok(call) = instance.get_typed_func(&mut *store, name) {
            return Ok(Self::Old(call));
        }
        Ok(find(store, instance, name)?.map_or(Self::Absent, Self::New))
    }
}

/// An export by name and type; a wrong type is an error, an absent one is not.
fn find<P: WasmParams, R: WasmResults>(store: &mut Store<Host>, instance: &Instance, name: &str) -> Result<Call<P, R>> {
    match instance.get_func(&mut *store, name) {
        None => Ok(None),
        Some(function) => {
            function.typed(store).map(Some).map_err(|error| failure(error).context(format!("export {name}")))
        }
    }
}
