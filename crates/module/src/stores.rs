//! The host's Redis clients, which all root contexts of a VM share. In: stores, calls, answers. Out: who waited for
//! an answer, with it or with the reason why there is none. I/O through the host.

use std::collections::BTreeMap;
use std::sync::Arc;

use enforcement::config::Store;
use enforcement::steps::{Call, Failure, HOLD_SECONDS};
use guest_abi::host::{self, Level, Status};

/// How often a root context looks for calls whose deadline has passed.
pub(crate) const TICK_MS: u32 = 50;

/// A client is not initialised again more often: it costs every connection of its cluster.
const INIT_INTERVAL_NS: u64 = 1_000_000_000;

/// Clients by cluster: the host has one for each.
#[derive(Default)]
pub(crate) struct Clients(BTreeMap<String, Client>);

struct Client {
    store: Arc<Store>,
    /// The last attempt to initialise it but for the one that its configuration made.
    repaired_at: Option<u64>,
    ready: bool,
}

/// Calls of one root context that have no answer yet, by token.
pub(crate) struct Calls<W>(BTreeMap<u32, Waiting<W>>);

struct Waiting<W> {
    who: W,
    left: Ticks,
}

/// How many ticks are left until a deadline.
#[derive(Clone, Copy)]
pub(crate) struct Ticks(u32);

impl Ticks {
    /// A store's whole timeout. One tick more, since the next may be due at once.
    pub(crate) fn of(store: &Store) -> Self {
        Self(store.timeout_ms.div_ceil(TICK_MS).saturating_add(1))
    }

    /// As long as a hold lasts that nobody renews.
    pub(crate) const fn of_a_hold() -> Self {
        Self(HOLD_SECONDS * 1000 / TICK_MS)
    }
}

impl Clients {
    /// Initialises the client of a store, unless it is just so already: that would close its connections.
    pub(crate) fn prepare(&mut self, store: &Arc<Store>) {
        match self.0.get(&store.cluster) {
            Some(client) if client.ready && client.store == *store => {}
            _ => {
                let _ = self.initialise(store, None);
            }
        }
    }

    /// Initialises the client anew because Redis asks for authentication, with the store that was configured last. Within
    /// a second of another such attempt, that one counts.
    pub(crate) fn reauthenticate(&mut self, store: &Arc<Store>) -> Result<(), Failure> {
        let store = match self.0.get(&store.cluster) {
            Some(client) if !client.is_due() => return Ok(()),
            Some(client) => Arc::clone(&client.store),
            None => Arc::clone(store),
        };
        self.initialise(&store, Some(host::now_nanoseconds()))
    }

    /// Sends a call and answers its token.
    fn send(&mut self, call: &Call) -> Result<u32, Failure> {
        let client = self.0.get(&call.store.cluster);
        if let Some(client) = client.filter(|client| !client.ready && client.is_due()) {
            let store = Arc::clone(&client.store);
            self.initialise(&store, Some(host::now_nanoseconds()))?;
        }
        host::redis_call(&call.store.cluster, &call.command).map_err(|status| {
            // The cluster may have gone, and come back without the client's options.
            if let Some(client) = self.0.get_mut(&call.store.cluster) {
                client.ready = false;
            }
            Failure::Dispatch(status.code())
        })
    }

    fn initialise(&mut self, store: &Arc<Store>, repaired_at: Option<u64>) -> Result<(), Failure> {
        let Store { cluster, with_options, username, password, timeout_ms } = &**store;
        let result = host::redis_init(with_options, username, password, *timeout_ms);
        let client = Client { store: Arc::clone(store), repaired_at, ready: result.is_ok() };
        self.0.insert(cluster.clone(), client);
        result.map_err(|status| {
            let service = cluster.rsplit('|').next().unwrap_or(cluster);
            let reason = if status == Status::BadArgument {
                format!(
                    "the gateway does not know the Redis service {service} ({cluster}): its name or port is wrong, or \
                     Higress runs with global.onlyPushRouteCluster=true and no route uses that service"
                )
            } else {
                format!("the Redis service {service} ({cluster}) cannot be initialised: status {}", status.code())
            };
            host::log(Level::Error, &reason);
            Failure::Dispatch(status.code())
        })
    }
}

impl Client {
    fn is_due(&self) -> bool {
        let long_ago = |at| host::now_nanoseconds().saturating_sub(at) >= INIT_INTERVAL_NS;
        self.repaired_at.is_none_or(long_ago)
    }
}

impl<W> Calls<W> {
    pub(crate) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Sends a call somebody waits for, so long. If it fails at once, no answer will come. The host has a timer of its
    /// own, which any other answer of the connection starts anew.
    pub(crate) fn send(&mut self, clients: &mut Clients, call: &Call, left: Ticks, who: W) -> Result<(), (W, Failure)> {
        match clients.send(call) {
            Ok(token) => {
                self.0.insert(token, Waiting { who, left });
                Ok(())
            }
            Err(failure) => Err((who, failure)),
        }
    }

    /// Who waits for this answer, and how long they still would; nobody if it comes too late.
    pub(crate) fn take(&mut self, token: u32) -> Option<(W, Ticks)> {
        self.0.remove(&token).map(|Waiting { who, left }| (who, left))
    }

    /// Waits, with another, for an answer that is late.
    pub(crate) fn wait(&mut self, token: u32, left: Ticks, who: W) {
        self.0.insert(token, Waiting { who, left });
    }

    /// Everybody whose deadline passes with this tick, and for which answer they waited.
    pub(crate) fn tick(&mut self) -> Vec<(u32, W)> {
        for waiting in self.0.values_mut() {
            waiting.left.0 = waiting.left.0.saturating_sub(1);
        }
        self.0.extract_if(.., |_, waiting| waiting.left.0 == 0).map(|(token, waiting)| (token, waiting.who)).collect()
    }
}
