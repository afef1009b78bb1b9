//! The compiler and its clock: one wasmtime engine for all gateways of a process, compiled modules cached by hash in
//! memory and on disk, and a thread that advances the epoch by which a callback that never ends is trapped.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use wasmtime::{Cache, CacheConfig, Config, Engine, InstancePre, Linker, Module, OptLevel};

use super::abi::Abi;
use super::host::Host;
use super::{imports, wasi};

/// How often the epoch advances.
pub(super) const EPOCH: Duration = Duration::from_millis(10);

/// The size of a wasm stack, which is part of the thread's own: half of what a test's thread has.
const STACK: usize = 1 << 20;

/// A module ready to be instantiated: what each worker makes its VM from.
pub(super) struct Prepared {
    pub(super) pre: InstancePre<Host>,
    pub(super) abi: Abi,
}

/// The engine of this process. The last handle stops its thread.
pub(super) struct Runtime {
    pub(super) engine: Engine,
    linker: Linker<Host>,
    prepared: Mutex<HashMap<Vec<u8>, Arc<Prepared>>>,
    stop: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

static CURRENT: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

impl Runtime {
    /// The engine that others already use, else a new one.
    pub(super) fn shared() -> Result<Arc<Self>> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = current.upgrade() {
            return Ok(runtime);
        }
        let runtime = Arc::new(Self::new(&crate::cache_dir().join("modules"))?);
        *current = Arc::downgrade(&runtime);
        Ok(runtime)
    }

    fn new(cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(cache)?;
        let mut on_disk = CacheConfig::new();
        on_disk.with_directory(cache);
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .cranelift_opt_level(OptLevel::Speed)
            .max_wasm_stack(STACK)
            .cache(Some(Cache::new(on_disk).map_err(failure)?));
        let engine = Engine::new(&config).map_err(failure)?;
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker).map_err(failure)?;
        wasi::link(&mut linker).map_err(failure)?;
        let stop = Arc::new(AtomicBool::new(false));
        let ticker = std::thread::Builder::new().name("epoch".into()).spawn({
            let (engine, stop) = (engine.clone(), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::park_timeout(EPOCH);
                    engine.increment_epoch();
                }
            }
        })?;
        Ok(Self { engine, linker, prepared: Mutex::default(), stop, ticker: Some(ticker) })
    }

    /// Compiles a module, or finds it compiled. Blocks; a module built by Go takes long the first time.
    pub(super) fn prepare(&self, wasm: &[u8]) -> Result<Arc<Prepared>> {
        let cached = |wasm: &[u8]| self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(wasm).cloned();
        if let Some(prepared) = cached(wasm) {
            return Ok(prepared);
        }
        let module = Module::new(&self.engine, wasm).map_err(failure).context("not a wasm module")?;
        let exports = |name: &str| module.exports().any(|export| export.name() == name);
        let abi = Abi::ALL.into_iter().find(|(name, _)| exports(name)).map(|(_, abi)| abi);
        let abi = abi.context("the module exports no proxy_abi_version_*")?;
        ensure!(
            exports("proxy_on_memory_allocate") || exports("malloc"),
            "the module exports neither proxy_on_memory_allocate nor malloc"
        );
        ensure!(exports("memory"), "the module exports no memory");
        let mut linker = self.linker.clone();
        linker.define_unknown_imports_as_traps(&module).map_err(failure)?;
        let pre = linker.instantiate_pre(&module).map_err(failure)?;
        let prepared = Arc::new(Prepared { pre, abi });
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(wasm.to_vec(), Arc::clone(&prepared));
        Ok(prepared)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            ticker.thread().unpark();
            let _ = ticker.join();
        }
    }
}

/// wasmtime's error with all its causes.
#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
pub(super) fn failure(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("{error:#}")
}
