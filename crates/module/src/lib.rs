//! What all modules share: moves bytes between the Proxy-Wasm host and the pure core, and keeps who waits for which
//! answer. In: the host's callbacks. Out: actions, Redis calls, local answers. All decisions are in `enforcement`, by
//! the kind that a module names.

mod charging;
mod counters;
mod holds;
mod ids;
mod policies;
mod saying;
mod stores;

use std::collections::BTreeMap;
use std::sync::Arc;

use counters::Counters;
use enforcement::config::{Config, Matched, Policies};
use enforcement::prompt::{self, Edit, Prompt};
use enforcement::response::Response;
use enforcement::rules::Subject;
use enforcement::steps::{
    self, Admitted, Ask, Body, Booking, Charge, Count, Failure, Kind, Meter, Next, Pending, Request, Saying, Step,
};
use enforcement::{guard, identity};
use guest_abi::host::{self, Buffer, Level, Map, Status};
use guest_abi::{Action, Headers, Module, Unanswered};
use holds::Renewals;
use ids::Ids;
use policies::PolicyCounters;
use saying::Speaker;
use stores::{Calls, Clients, TICK_MS, Ticks};

/// What begins each line that tells of a start.
const NAME: &str = concat!("aiquota ", env!("CARGO_PKG_VERSION"));

/// What the module says of itself: a part of that, so that both are one text in it.
const VERSION: &str = NAME.split_at("aiquota ".len()).1;

/// The longest form of an admin API.
const MAX_FORM: usize = 64 * 1024;

/// What the host may keep of a body that is awaited: 1 MiB more than is awaited, so that it is we who answer to one that
/// is longer.
const HELD_BODY: &str = "11534336";
const _: () = assert!(prompt::BODY_MAX + (1 << 20) == 11_534_336);

/// So much of all bodies that are awaited may the gateway keep in memory for one VM.
const AWAITED_MAX: usize = 256 << 20;

/// The longest body that is changed.
const BODY_MAX: usize = prompt::BODY_MAX as usize;

/// A store that fails does so for every request: of such lines no more than one a second is written.
const LOG_INTERVAL_NS: u64 = 1_000_000_000;

/// Everything one VM knows.
pub struct Enforcer<K: Kind> {
    logged_at: u64,
    unlogged: u64,
    ids: Ids,
    renewals: Renewals,
    /// Bytes of the bodies that are held, of all streams.
    awaited: usize,
    clients: Clients,
    counters: Counters,
    policies: policies::Policies,
    speaker: Option<Speaker>,
    /// What was said last, for whichever root.
    said: Vec<u8>,
    roots: BTreeMap<u32, Root<K>>,
    streams: BTreeMap<u32, Stream<K>>,
}

/// A version of the configuration.
struct Root<K: Kind> {
    config: Option<Arc<Config<K::Policy>>>,
    calls: Calls<Waiter<K>>,
}

/// Whom an answer of Redis is for.
enum Waiter<K: Kind> {
    Stream(u32, Pending<K>),
    Charge(Booking<K>, Option<PolicyCounters>),
    /// Nobody any more: what it may have held is dropped.
    Late(Charge<K>),
    /// Only whether it was heard.
    Saying(Saying),
}

struct Stream<K: Kind> {
    root: u32,
    state: State<K>,
    /// Bytes of its body that are held.
    awaited: usize,
    /// Those of the policy it is under.
    counters: Option<PolicyCounters>,
}

enum State<K: Kind> {
    /// Not ours, or not any more.
    Passing,
    /// It is held until its form has come.
    AwaitingForm(K::AwaitForm),
    /// It is held until its body has come, and read meanwhile.
    AwaitingBody(K::AwaitBody, Box<prompt::Reader>),
    /// It is held until Redis has answered.
    Waiting,
    Metered(Box<Meter<K>>),
    /// It was answered by us.
    Refused,
}

/// The request headers of one callback, and where ids come from.
struct Shown<'a>(&'a Headers, &'a Ids);

impl Request for Shown<'_> {
    fn header(&self, name: &str) -> Vec<&[u8]> {
        self.0.all(name).collect()
    }

    fn source(&self) -> Option<Vec<u8>> {
        host::property(&["source", "address"])
    }

    fn now(&self) -> i64 {
        now()
    }

    fn unique(&self) -> Vec<u8> {
        self.1.next()
    }
}

impl<K: Kind> Default for Enforcer<K> {
    fn default() -> Self {
        let (roots, streams) = (BTreeMap::new(), BTreeMap::new());
        let (clients, counters, policies) = (Clients::default(), Counters::default(), policies::Policies::default());
        Self {
            logged_at: 0,
            unlogged: 0,
            ids: Ids::default(),
            renewals: Renewals::default(),
            awaited: 0,
            clients,
            counters,
            policies,
            speaker: None,
            said: Vec::new(),
            roots,
            streams,
        }
    }
}

impl<K: Kind> Module for Enforcer<K> {
    fn create_root(&mut self, root: u32) {
        self.roots.insert(root, Root { config: None, calls: Calls::new() });
    }

    fn create_stream(&mut self, stream: u32, root: u32) {
        self.streams.insert(stream, Stream { root, state: State::Passing, awaited: 0, counters: None });
    }

    fn configure(&mut self, root: u32, configuration: &[u8]) -> bool {
        let config = match Config::parse(configuration) {
            Ok(config) => config,
            Err(error) => {
                host::log(Level::Error, &error.to_string());
                return false;
            }
        };
        if let Config::Policies(policies) = &config {
            let (what, rules, stores) = (K::ENFORCES, policies.rules(), policies.stores().len());
            host::log(Level::Info, &format!("{NAME} enforces {what}: {rules} rules, {stores} stores"));
            for reason in policies.refusals() {
                host::log(Level::Error, &format!("some requests are answered with 503: {reason}"));
            }
            for store in policies.stores() {
                self.clients.prepare(store);
            }
            host::set_tick_period(TICK_MS);
            self.speak_for(root, policies);
        } else {
            host::log(Level::Info, &format!("{NAME} guards the identity header"));
        }
        // Streams in flight go on under the policy they began with.
        self.roots.entry(root).or_insert_with(|| Root { config: None, calls: Calls::new() }).config =
            Some(Arc::new(config));
        true
    }

    fn tick(&mut self, root: u32) {
        let expired = self.roots.get_mut(&root).map(|root| root.calls.tick()).unwrap_or_default();
        for (token, waiter) in expired {
            self.overdue(root, token, waiter);
        }
        self.renew(root);
        self.say(root);
    }

    fn redis_reply(&mut self, root: u32, token: u32, reply: Result<&[u8], Unanswered>) {
        if let Some((waiter, left)) = self.roots.get_mut(&root).and_then(|root| root.calls.take(token)) {
            self.answer(root, waiter, Some(left), reply.map_err(|Unanswered| Failure::Network));
        }
    }

    fn request_headers(&mut self, stream: u32, end: bool) -> Action {
        let Some(root) = self.streams.get(&stream).map(|stream| stream.root) else {
            // The host created it where we could not hear it, so its policy is unknown.
            return self.refuse(stream, K::unenforceable(steps::UNKNOWN));
        };
        let config = self.roots.get(&root).and_then(|root| root.config.clone());
        match config.as_deref() {
            None => Action::Continue,
            Some(Config::Guard) => self.guard(stream),
            Some(Config::Policies(policies)) => self.begin(root, stream, policies, end),
        }
    }

    fn request_body(&mut self, stream: u32, size: usize, end: bool) -> Action {
        let Some(Stream { root, state, awaited, counters: _ }) = self.streams.get_mut(&stream) else {
            return Action::Continue;
        };
        let root = *root;
        match state {
            State::Passing => return Action::Continue,
            State::Metered(meter) => {
                meter.request_body(size as u64);
                return Action::Continue;
            }
            State::Waiting | State::Refused => {}
            State::AwaitingForm(_) if end => return self.form(root, stream),
            State::AwaitingForm(_) => {}
            State::AwaitingBody(_, reader) => {
                self.awaited = self.awaited.saturating_sub(*awaited).saturating_add(size.max(*awaited));
                *awaited = size.max(*awaited);
                if size as u64 > prompt::BODY_MAX {
                    return self.body(root, stream, |_| Body::TooLong);
                }
                if self.awaited > AWAITED_MAX {
                    return self.body(root, stream, |_| Body::NoRoom);
                }
                // What is held was read before, but for the last piece.
                let read = usize::try_from(reader.bytes()).unwrap_or(usize::MAX);
                if let Some(more) = size.checked_sub(read).filter(|more| *more > 0) {
                    let piece = host::buffer_from(Buffer::RequestBody, read, more);
                    if piece.len() != more {
                        return self.refuse(stream, K::unenforceable(steps::UNKNOWN));
                    }
                    reader.feed(&piece);
                }
                if end {
                    return self.body(root, stream, |reader| Body::Read(reader.finish()));
                }
            }
        }
        Action::StopIteration
    }

    fn response_headers(&mut self, stream: u32) {
        if let Some(Stream { state: State::Metered(meter), .. }) = self.streams.get_mut(&stream) {
            let header = |name| host::header(Map::Response, name);
            let status = header(":status").and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
            let (content_type, encoding) = (header("content-type"), header("content-encoding"));
            meter.response_headers(status, content_type.as_deref(), encoding.as_deref());
            if meter.changes_body() {
                let _ = host::remove_header(Map::Response, "content-length");
            }
            for (name, value) in meter.take_headers() {
                let _ = host::set_response_header(name, &value);
            }
        }
    }

    fn response_body(&mut self, stream: u32, size: usize, end: bool) {
        if let Some(Stream { state: State::Metered(meter), .. }) = self.streams.get_mut(&stream) {
            let piece = if size > 0 { host::buffer(Buffer::ResponseBody, size) } else { Vec::new() };
            if size > 0 {
                meter.response_body(&piece);
            }
            if let Some(other) = meter.in_place_of(&piece, end) {
                let _ = host::replace_buffer(Buffer::ResponseBody, size, &other);
            }
            if end {
                self.settle(stream);
            }
        }
    }

    fn done(&mut self, context: u32) {
        self.settle(context);
    }

    fn delete(&mut self, context: u32) {
        self.settle(context);
        self.enter(context, State::Passing);
        self.streams.remove(&context);
        self.roots.remove(&context);
        self.hush(context);
    }
}

impl<K: Kind> Enforcer<K> {
    fn guard(&mut self, stream: u32) -> Action {
        for name in guard::REMOVED {
            if host::header(Map::Request, name).is_some() && host::remove_header(Map::Request, name).is_err() {
                return self.refuse(stream, K::unenforceable(guard::FAILED));
            }
        }
        Action::Continue
    }

    fn begin(&mut self, root: u32, stream: u32, policies: &Policies<K::Policy>, end: bool) -> Action {
        let needs = policies.needs();
        let property = |needed: bool, name| if needed { host::property(&[name]) } else { None }.unwrap_or_default();
        let (route, cluster) = (property(needs.route, "route_name"), property(needs.cluster, "cluster_name"));
        let Ok(headers) = host::headers(Map::Request) else {
            return self.refuse(stream, K::unenforceable(steps::UNKNOWN));
        };
        let subject = Subject {
            route: &route,
            cluster: &cluster,
            authority: headers.first(":authority").unwrap_or_default(),
            consumer: headers.first(identity::HEADER).unwrap_or_default(),
        };
        let values: Vec<&[u8]> = headers.all(identity::HEADER).collect();
        let Some(Matched { target, policy }) = policies.matched_by_any(&subject, &values) else {
            return Action::Continue;
        };
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.counters = policy.map(|policy| self.policies.of(K::KIND, policy));
        }
        let step = K::begin(target, &Shown(&headers, &self.ids));
        let metered = match &step {
            Step::Ask(ask) => ask.pending.is_metered(),
            Step::AwaitBody(_) => true,
            Step::Pass | Step::Spare | Step::Refuse(_) | Step::AwaitForm(_) => false,
        };
        // An answer that is compressed could not be read.
        if metered && headers.first("accept-encoding").is_some() {
            let _ = host::remove_header(Map::Request, "accept-encoding");
        }
        match step {
            Step::AwaitForm(awaiting) if end => self.take(root, stream, K::form(awaiting, b"", now())),
            Step::AwaitForm(awaiting) => {
                self.enter(stream, State::AwaitingForm(awaiting));
                Action::StopIteration
            }
            Step::AwaitBody(awaiting) if end => {
                let step = K::body(awaiting, Body::Read(Prompt::default()), &Shown(&headers, &self.ids));
                self.take(root, stream, step)
            }
            Step::AwaitBody(awaiting) => {
                host::set_request_buffer_limit(HELD_BODY);
                self.enter(stream, State::AwaitingBody(awaiting, Box::default()));
                Action::StopIteration
            }
            step => self.take(root, stream, step),
        }
    }

    fn form(&mut self, root: u32, stream: u32) -> Action {
        let State::AwaitingForm(awaiting) = self.enter(stream, State::Refused) else { return Action::Continue };
        let mut form = host::buffer(Buffer::RequestBody, MAX_FORM + 1);
        if form.len() > MAX_FORM {
            form.clear();
        }
        let step = K::form(awaiting, &form, now());
        self.take_in_body(root, stream, step)
    }

    fn body(&mut self, root: u32, stream: u32, read: fn(prompt::Reader) -> Body) -> Action {
        let State::AwaitingBody(awaiting, reader) = self.enter(stream, State::Waiting) else { return Action::Continue };
        let body = read(*reader);
        let Ok(headers) = host::headers(Map::Request) else {
            return self.refuse(stream, K::unenforceable(steps::UNKNOWN));
        };
        let step = K::body(awaiting, body, &Shown(&headers, &self.ids));
        self.take_in_body(root, stream, step)
    }

    /// Does what a step asks, inside a callback of the request's body, which knows but two actions.
    fn take_in_body(&mut self, root: u32, stream: u32, step: Step<K>) -> Action {
        match self.take(root, stream, step) {
            Action::Continue => Action::Continue,
            Action::StopIteration | Action::StopAllAndWatermark => Action::StopIteration,
        }
    }

    /// Does what a step asks, inside a callback of the request's headers.
    fn take(&mut self, root: u32, stream: u32, step: Step<K>) -> Action {
        let (metered, next) = match step {
            Step::Pass => {
                self.enter(stream, State::Passing);
                self.count(stream, &[Count::Unmetered]);
                return Action::Continue;
            }
            Step::Spare => {
                self.enter(stream, State::Passing);
                self.count(stream, &[Count::Unmetered, Count::WouldRefuse]);
                return Action::Continue;
            }
            Step::Refuse(response) => (false, Next::Refuse(response)),
            Step::AwaitForm(_) | Step::AwaitBody(_) => return Action::StopIteration,
            Step::Ask(mut ask) => {
                if ask.edit.take().is_some_and(|edit| apply(edit).is_ok()) {
                    ask.pending.was_edited();
                }
                if let (Some(model), Some(stream)) = (ask.pending.model(), self.streams.get_mut(&stream)) {
                    let policy = stream.counters.take();
                    stream.counters = policy.map(|policy| self.policies.of_model(K::KIND, &policy, model));
                }
                (ask.pending.is_metered(), Next::Ask(ask))
            }
        };
        match self.follow(root, stream, next, None) {
            None if metered => Action::StopAllAndWatermark,
            None => Action::StopIteration,
            Some(Ok(meter)) => {
                self.admit(stream, meter);
                Action::Continue
            }
            Some(Err(response)) => self.refuse(stream, response),
        }
    }

    /// Takes an answer of Redis, or the reason why there is none, and how long it still could have come.
    fn answer(&mut self, root: u32, waiter: Waiter<K>, left: Option<Ticks>, answer: Result<&[u8], Failure>) {
        match waiter {
            Waiter::Charge(booking, counters) => self.booked(root, counters, booking.answer(answer)),
            Waiter::Saying(saying) => self.answered(root, saying.answer(answer)),
            // Also where the connection was lost: the store may have heard the call.
            Waiter::Late(release) => {
                if !matches!(answer, Err(Failure::Deadline)) {
                    self.charge(root, None, release);
                }
            }
            Waiter::Stream(stream, pending) => {
                // The stream may be gone by now.
                let waits = |stream: &Stream<K>| matches!(stream.state, State::Waiting);
                if !self.streams.get(&stream).is_some_and(waits) {
                    return self.unwanted(root, &pending, answer);
                }
                // The store may have heard the call, and holds what nobody will settle.
                if let Err(Failure::Network) = answer {
                    self.drop_held(root, &pending);
                }
                let Some(decided) = self.follow(root, stream, pending.answer(answer), left) else { return };
                if host::set_effective_context(stream).is_err() {
                    self.enter(stream, State::Passing);
                    if let Ok(meter) = decided {
                        self.forget(root, *meter);
                    }
                    return;
                }
                match decided {
                    Ok(meter) => {
                        self.admit(stream, meter);
                        if let Err(status) = host::continue_request() {
                            host::log(Level::Debug, &format!("a request could not be continued: {status:?}"));
                        }
                    }
                    Err(response) => {
                        self.refuse(stream, response);
                    }
                }
                let _ = host::set_effective_context(root);
            }
        }
    }

    /// Asks as long as there is something to ask. Nothing: the stream waits. Else the decision over it. What is asked
    /// once more has what is left of the first time: a client waits for one deadline, not for one per round trip.
    fn follow(
        &mut self,
        root: u32,
        stream: u32,
        mut next: Next<K>,
        left: Option<Ticks>,
    ) -> Option<Result<Box<Meter<K>>, Response>> {
        loop {
            let Ask { call, pending, edit: _ } = match next {
                Next::Admit(Admitted { meter, counts, log }) => {
                    self.count(stream, counts);
                    if let Some(log) = log {
                        self.log_failure("a request passed unchecked", &log);
                    }
                    return Some(Ok(meter));
                }
                Next::Refuse(response) => return Some(Err(response)),
                Next::Ask(ask) => ask,
                Next::Reauthenticate(ask) => match self.clients.reauthenticate(&ask.call.store) {
                    Ok(()) => ask,
                    Err(failure) => {
                        next = ask.pending.answer(Err(failure));
                        continue;
                    }
                },
            };
            let calls = &mut self.roots.get_mut(&root)?.calls;
            let left = left.unwrap_or_else(|| Ticks::of(&call.store));
            next = match calls.send(&mut self.clients, &call, left, Waiter::Stream(stream, pending)) {
                Ok(()) => {
                    self.enter(stream, State::Waiting);
                    return None;
                }
                Err((Waiter::Stream(_, pending), failure)) => pending.answer(Err(failure)),
                Err((Waiter::Charge(..) | Waiter::Late(_) | Waiter::Saying(_), _)) => return None,
            };
        }
    }

    fn refuse(&mut self, stream: u32, response: Response) -> Action {
        let Response { status, content_type, body, details, headers, counts, by_route, log } = response;
        self.count(stream, counts);
        if let Some(log) = log {
            self.log_failure("a request was refused", &log);
        }
        let own = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let headers: Vec<(&str, &str)> = [("content-type", content_type)].into_iter().chain(own).collect();
        self.enter(stream, State::Refused);
        if let Err(status) = host::respond(status, details, &headers, body.as_bytes()) {
            host::log(Level::Debug, &format!("a request could not be answered: {status:?}"));
        }
        if let Some(count) = by_route {
            let (route, cluster) = (host::property(&["route_name"]), host::property(&["cluster_name"]));
            self.counters.add_one(&count.name(route.as_deref(), cluster.as_deref()));
        }
        Action::StopIteration
    }

    fn count(&self, stream: u32, counts: &[Count]) {
        if let Some(counters) = self.streams.get(&stream).and_then(|stream| stream.counters.as_ref()) {
            counters.each(counts);
        }
    }

    fn log_failure(&mut self, what: &str, why: &str) {
        let now = host::now_nanoseconds();
        if now.saturating_sub(self.logged_at) < LOG_INTERVAL_NS {
            self.unlogged += 1;
            return;
        }
        match std::mem::take(&mut self.unlogged) {
            0 => host::log(Level::Warn, &format!("{what}: {why}")),
            more => host::log(Level::Warn, &format!("{what}, and {more} before it: {why}")),
        }
        self.logged_at = now;
    }

    /// Changes a stream's state and answers the one before.
    fn enter(&mut self, stream: u32, state: State<K>) -> State<K> {
        let Some(stream) = self.streams.get_mut(&stream) else { return State::Passing };
        if matches!(state, State::Passing | State::Metered(_) | State::Refused) {
            self.awaited = self.awaited.saturating_sub(std::mem::take(&mut stream.awaited));
        }
        std::mem::replace(&mut stream.state, state)
    }
}

/// Changes the body of the current request, which is held as a whole, and its headers too.
fn apply(edit: Edit) -> Result<(), Status> {
    let body = host::buffer(Buffer::RequestBody, BODY_MAX);
    host::remove_header(Map::Request, "content-length")?;
    host::replace_buffer(Buffer::RequestBody, body.len(), &edit.apply(&body))
}

/// Unix seconds.
fn now() -> i64 {
    i64::try_from(host::now_nanoseconds() / 1_000_000_000).unwrap_or(i64::MAX)
}
