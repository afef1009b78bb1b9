//! One VM without HTTP around it: a test plays the host itself, callback by callback, and sees what each asked for.
//! For hostile bytes by the thousand, and for measuring a module alone.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::abi::{BodyAction, HeaderAction, Headers, Way};
use super::board::{Board, LogLine};
use super::engine::{Prepared, Runtime};
use super::host::{Effect, RedisCalls, StreamState};
use super::route::Routes;
use super::vm::{Machine, Start};

/// A compiled module. Cheap to clone.
#[derive(Clone)]
pub struct VmModule {
    prepared: Arc<Prepared>,
    // The compiler's clock runs while VMs do.
    _runtime: Arc<Runtime>,
}

/// A VM did not come to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// It trapped; otherwise it refused its configuration.
    pub trapped: bool,
    pub cause: String,
}

/// A callback trapped; the VM is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trapped(pub String);

/// A `proxy_redis_init` of the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisInit {
    pub cluster: String,
    pub user: String,
    pub password: String,
    pub timeout: Duration,
}

/// A `proxy_redis_call` of the module, to be answered by its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisCall {
    pub cluster: String,
    pub query: Vec<u8>,
    pub token: u32,
}

/// One running VM.
pub struct Vm {
    machine: Machine,
    streams: HashMap<u32, Rc<RefCell<StreamState>>>,
    redis: Rc<Recorder>,
    board: Arc<Board>,
    routes: Arc<Routes>,
    _module: VmModule,
}

/// How long one callback may run.
const DEADLINE: Duration = Duration::from_secs(10);

impl VmModule {
    /// Compiles a module file, or finds it compiled.
    ///
    /// # Errors
    /// When it cannot be read, or lacks what every Proxy-Wasm module exports.
    pub fn load(path: &Path) -> Result<Self> {
        let wasm = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::new(&wasm)
    }

    /// [`VmModule::load`] from bytes.
    ///
    /// # Errors
    /// When it lacks what every Proxy-Wasm module exports.
    pub fn new(wasm: &[u8]) -> Result<Self> {
        let runtime = Runtime::shared()?;
        let prepared = runtime.prepare(wasm)?;
        Ok(Self { prepared, _runtime: runtime })
    }

    /// A VM with this plugin configuration.
    ///
    /// # Errors
    /// When the module refuses it, or traps.
    pub fn start(&self, configuration: &[u8]) -> Result<Vm, StartFailure> {
        let board = Arc::new(Board::new(0));
        let redis = Rc::new(Recorder::default());
        let start = Start {
            plugin: "vm",
            configuration,
            vm_configuration: &[],
            board: &board,
            redis: Rc::clone(&redis) as Rc<dyn RedisCalls>,
            deadline: DEADLINE,
        };
        match Machine::start(&self.prepared, &start) {
            Ok(machine) => {
                Ok(Vm { machine, streams: HashMap::new(), redis, board, routes: Arc::default(), _module: self.clone() })
            }
            Err(error) => Err(StartFailure { trapped: board.traps() > 0, cause: format!("{error:#}") }),
        }
    }
}

impl Vm {
    /// A stream with these request headers, on the route of this name. The answer names it in the other calls.
    ///
    /// # Errors
    /// When the VM traps, as in all that follows.
    pub fn open(&mut self, request: Headers, route: &str) -> Result<u32, Trapped> {
        self.open_from(std::net::SocketAddr::from(([127, 0, 0, 1], 40000)), request, route)
    }

    /// [`Self::open`] by a client with this address.
    ///
    /// # Errors
    /// As there.
    pub fn open_from(&mut self, peer: std::net::SocketAddr, request: Headers, route: &str) -> Result<u32, Trapped> {
        let mut stream = StreamState::new(request, Arc::clone(&self.routes), peer);
        stream.properties.insert(b"route_name".to_vec(), route.into());
        let stream = Rc::new(RefCell::new(stream));
        let id = self.machine.open(Rc::clone(&stream)).map_err(|dead| Trapped(dead.0))?;
        self.streams.insert(id, stream);
        Ok(id)
    }

    pub fn request_headers(&mut self, stream: u32, end: bool) -> Result<HeaderAction, Trapped> {
        let count = self.state(stream).map_or(0, |state| state.borrow().request.0.len());
        self.machine.headers(stream, Way::Request, count, end).map_err(|dead| Trapped(dead.0))
    }

    pub fn response_headers(&mut self, stream: u32, headers: Headers, end: bool) -> Result<HeaderAction, Trapped> {
        let count = headers.0.len();
        if let Some(state) = self.state(stream) {
            state.borrow_mut().response = Some(headers);
        }
        self.machine.headers(stream, Way::Response, count, end).map_err(|dead| Trapped(dead.0))
    }

    /// A body piece; what the module left of it comes back.
    pub fn body(&mut self, stream: u32, way: Way, bytes: Vec<u8>, end: bool) -> Result<(BodyAction, Vec<u8>), Trapped> {
        let size = bytes.len();
        if let Some(state) = self.state(stream) {
            *state.borrow_mut().body(way) = Some(bytes);
        }
        let action = self.machine.body(stream, way, size, end).map_err(|dead| Trapped(dead.0))?;
        let left = self.state(stream).and_then(|state| state.borrow_mut().body(way).take());
        Ok((action, left.unwrap_or_default()))
    }

    /// The answer to a call by its token; `None` is a network failure.
    pub fn redis_reply(&mut self, token: u32, reply: Option<&[u8]>) -> Result<(), Trapped> {
        self.machine.redis_reply(token, reply.map(<[u8]>::to_vec)).map_err(|dead| Trapped(dead.0))
    }

    pub fn tick(&mut self) -> Result<(), Trapped> {
        self.machine.tick().map_err(|dead| Trapped(dead.0))
    }

    /// The stream ends.
    pub fn close(&mut self, stream: u32) -> Result<(), Trapped> {
        self.streams.remove(&stream);
        self.machine.close(stream).map_err(|dead| Trapped(dead.0))
    }

    /// What callbacks asked for since, with the stream it concerns.
    pub fn take_effects(&mut self) -> Vec<(u32, Effect)> {
        self.machine.take_effects()
    }

    /// Redis calls since, in order.
    pub fn take_redis_calls(&self) -> Vec<RedisCall> {
        self.redis.calls.take()
    }

    /// Redis initialisations since, in order.
    pub fn take_redis_inits(&self) -> Vec<RedisInit> {
        self.redis.inits.take()
    }

    /// What the next Redis calls answer at once; 0 lets them through again.
    pub fn refuse_redis_calls(&self, status: i32) {
        self.redis.refuse.set(status);
    }

    /// The request headers as the module left them.
    pub fn request(&self, stream: u32) -> Headers {
        self.state(stream).map(|state| state.borrow().request.clone()).unwrap_or_default()
    }

    pub fn logs(&self) -> Vec<LogLine> {
        self.board.logs()
    }

    /// The module's metrics by name.
    pub fn metrics(&self) -> BTreeMap<String, i64> {
        self.board.metrics()
    }

    fn state(&self, stream: u32) -> Option<&RefCell<StreamState>> {
        self.streams.get(&stream).map(Rc::as_ref)
    }
}

/// A Redis that only takes note.
#[derive(Default)]
struct Recorder {
    inits: RefCell<Vec<RedisInit>>,
    calls: RefCell<Vec<RedisCall>>,
    refuse: std::cell::Cell<i32>,
    token: std::cell::Cell<u32>,
}

impl RedisCalls for Recorder {
    fn init(&self, cluster: &str, user: &str, password: &str, timeout: Duration) -> i32 {
        let (cluster, user, password) = (cluster.to_owned(), user.to_owned(), password.to_owned());
        self.inits.borrow_mut().push(RedisInit { cluster, user, password, timeout });
        super::abi::status::OK
    }

    fn call(&self, cluster: &str, query: Vec<u8>) -> Result<u32, i32> {
        match self.refuse.get() {
            0 => {
                let token = self.token.get() + 1;
                self.token.set(token);
                self.calls.borrow_mut().push(RedisCall { cluster: cluster.to_owned(), query, token });
                Ok(token)
            }
            status => Err(status),
        }
    }
}
