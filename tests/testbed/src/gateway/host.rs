//! What a VM sees of the world: its configuration, the streams it has contexts for, the Redis clusters, and the
//! effects its calls ask for. Effects on streams are only noted here; they happen when the callback has returned.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Memory, StoreLimits, TypedFunc};

use super::abi::{Headers, Way};
use super::board::Board;
use super::route::{Route, Routes};

/// What Envoy calls itself under Higress.
const NODE: &[u8] = b"router~127.0.0.1~higress-gateway-0.higress-system~higress-system.svc.cluster.local";

/// What one VM of one plugin is given.
pub(super) struct Host {
    pub(super) plugin: String,
    pub(super) configuration: Vec<u8>,
    pub(super) vm_configuration: Vec<u8>,
    pub(super) board: Arc<Board>,
    pub(super) redis: Rc<dyn RedisCalls>,
    pub(super) limits: StoreLimits,
    // Known once the module is instantiated.
    pub(super) memory: Option<Memory>,
    pub(super) allocate: Option<TypedFunc<i32, i32>>,
    /// Streams by context id; the root context has none.
    pub(super) contexts: HashMap<u32, Context>,
    /// Whose callback runs, and whom it chose to act for (0: nobody else).
    pub(super) current: u32,
    pub(super) effective: u32,
    /// A local reply was sent in this callback: whatever it returns stops the iteration.
    pub(super) stopped: bool,
    pub(super) effects: Vec<(u32, Effect)>,
    pub(super) redis_reply: Option<Vec<u8>>,
    /// Set when the module asked for another tick period.
    pub(super) tick: Option<Duration>,
}

/// A stream as one filter sees it.
pub(super) struct Context {
    pub(super) stream: Rc<RefCell<StreamState>>,
    /// By property `clear_route_cache` = `off`.
    pub(super) keep_route: bool,
    /// The stream has ended: header maps and bodies are gone.
    pub(super) over: bool,
}

/// What a callback asked for, done when it has returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Continue(Way),
    Close,
    Reply(LocalReply),
}

/// An answer made by a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalReply {
    pub status: u16,
    pub details: String,
    pub body: Vec<u8>,
    pub headers: Headers,
}

/// Redis as a module reaches it. Both calls only hand over; answers come by a later callback.
pub(super) trait RedisCalls {
    fn init(&self, cluster: &str, user: &str, password: &str, timeout: Duration) -> i32;
    /// The token of the call, or the status of an immediate error.
    fn call(&self, cluster: &str, query: Vec<u8>) -> Result<u32, i32>;
}

/// What all filters of one stream share.
pub(super) struct StreamState {
    pub(super) request: Headers,
    pub(super) response: Option<Headers>,
    /// What the body callback at hand sees and may replace.
    pub(super) request_body: Option<Vec<u8>>,
    pub(super) response_body: Option<Vec<u8>>,
    pub(super) routes: Arc<Routes>,
    pub(super) route: Option<Arc<Route>>,
    /// A filter changed the headers: the route has to be found anew.
    pub(super) route_is_stale: bool,
    pub(super) peer: SocketAddr,
    pub(super) properties: HashMap<Vec<u8>, Vec<u8>>,
    pub(super) request_limit: usize,
    pub(super) response_limit: usize,
    pub(super) details: String,
}

/// What Envoy buffers of a held body by default.
pub(super) const BODY_LIMIT: usize = 32 << 10;

impl StreamState {
    pub(super) fn new(request: Headers, routes: Arc<Routes>, peer: SocketAddr) -> Self {
        let route = routes.find(&request);
        Self {
            request,
            response: None,
            request_body: None,
            response_body: None,
            routes,
            route,
            route_is_stale: false,
            peer,
            properties: HashMap::new(),
            request_limit: BODY_LIMIT,
            response_limit: BODY_LIMIT,
            details: String::new(),
        }
    }

    pub(super) const fn body(&mut self, way: Way) -> &mut Option<Vec<u8>> {
        match way {
            Way::Request => &mut self.request_body,
            Way::Response => &mut self.response_body,
        }
    }

    pub(super) fn route(&mut self) -> Option<Arc<Route>> {
        if std::mem::take(&mut self.route_is_stale) {
            self.route = self.routes.find(&self.request);
        }
        self.route.clone()
    }
}

impl Host {
    /// The context that calls act on.
    pub(super) const fn acting(&self) -> u32 {
        if self.effective == 0 { self.current } else { self.effective }
    }

    pub(super) fn context(&self) -> Option<&Context> {
        self.contexts.get(&self.acting()).filter(|context| !context.over)
    }

    /// Reads or changes a header map; `None` where there is none.
    pub(super) fn with_headers<R>(&self, map: i32, f: impl FnOnce(&mut Headers) -> R) -> Option<R> {
        let context = self.context()?;
        let mut stream = context.stream.borrow_mut();
        match map {
            super::abi::map::REQUEST => Some(f(&mut stream.request)),
            super::abi::map::RESPONSE => stream.response.as_mut().map(f),
            _ => None,
        }
    }

    /// After a change of request headers, unless the filter asked to keep the route.
    pub(super) fn headers_changed(&self, map: i32) {
        if let Some(context) = self.context().filter(|c| map == super::abi::map::REQUEST && !c.keep_route) {
            context.stream.borrow_mut().route_is_stale = true;
        }
    }

    /// A property by its path of segments.
    pub(super) fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        let path = path.strip_suffix(b"\0").unwrap_or(path);
        let segments: Vec<&str> =
            path.split(|byte| *byte == 0).map(std::str::from_utf8).collect::<Result<_, _>>().ok()?;
        match segments.as_slice() {
            ["plugin_name"] => return Some(self.plugin.clone().into_bytes()),
            ["plugin_root_id" | "plugin_vm_id"] => return Some(Vec::new()),
            ["node", "id"] => return Some(NODE.to_vec()),
            _ => {}
        }
        // Unlike its headers, what is known about a stream is still there in its last callbacks.
        let mut stream = self.contexts.get(&self.acting())?.stream.borrow_mut();
        let integer = |n: i64| Some(n.to_le_bytes().to_vec());
        let header = |headers: &Headers, name: &str| headers.get(name).map(<[u8]>::to_vec);
        match segments.as_slice() {
            ["route_name"] | ["xds", "route_name"] => {
                let route = stream.route().map(|route| route.name.clone().into_bytes());
                // A VM without routes around it was told its route.
                route.or_else(|| stream.properties.get(path).cloned())
            }
            ["cluster_name"] | ["xds", "cluster_name"] => {
                stream.route().map(|route| route.cluster.clone().into_bytes())
            }
            ["source", "address"] => Some(stream.peer.to_string().into_bytes()),
            ["source", "port"] => integer(stream.peer.port().into()),
            ["request", "path"] => header(&stream.request, ":path"),
            ["request", "url_path"] => {
                let path = header(&stream.request, ":path")?;
                Some(path.split(|byte| *byte == b'?').next().unwrap_or_default().to_vec())
            }
            ["request", "host"] => header(&stream.request, ":authority"),
            ["request", "scheme"] => header(&stream.request, ":scheme"),
            ["request", "method"] => header(&stream.request, ":method"),
            ["request", "id"] => header(&stream.request, "x-request-id"),
            ["request", "protocol"] => Some(b"HTTP/1.1".to_vec()),
            ["request", "headers", name] => header(&stream.request, name),
            ["response", "headers", name] => header(stream.response.as_ref()?, name),
            ["response", "code"] => {
                let status = header(stream.response.as_ref()?, ":status")?;
                integer(String::from_utf8_lossy(&status).parse().ok()?)
            }
            ["response", "code_details"] => Some(stream.details.clone().into_bytes()),
            _ => stream.properties.get(path).cloned(),
        }
    }

    pub(super) fn set_property(&mut self, key: &[u8], value: Vec<u8>) -> i32 {
        use super::abi::status::{BAD_ARGUMENT, NOT_FOUND, OK};
        let acting = self.acting();
        let Some(context) = self.contexts.get_mut(&acting).filter(|context| !context.over) else {
            return NOT_FOUND;
        };
        let bytes = || std::str::from_utf8(&value).ok()?.parse().ok();
        match key.strip_suffix(b"\0").unwrap_or(key) {
            b"clear_route_cache" => context.keep_route = value == b"off",
            b"set_decoder_buffer_limit" => match bytes() {
                Some(limit) => context.stream.borrow_mut().request_limit = limit,
                None => return BAD_ARGUMENT,
            },
            b"set_encoder_buffer_limit" => match bytes() {
                Some(limit) => context.stream.borrow_mut().response_limit = limit,
                None => return BAD_ARGUMENT,
            },
            key => {
                context.stream.borrow_mut().properties.insert(key.to_vec(), value);
            }
        }
        OK
    }

    /// The bytes of a buffer; `None` where there is none.
    pub(super) fn with_buffer<R>(&self, which: i32, f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        use super::abi::buffer;
        match which {
            buffer::VM_CONFIGURATION => Some(f(&self.vm_configuration)),
            buffer::PLUGIN_CONFIGURATION => Some(f(&self.configuration)),
            buffer::REDIS_REPLY => self.redis_reply.as_deref().map(f),
            buffer::REQUEST_BODY => self.context()?.stream.borrow().request_body.as_deref().map(f),
            buffer::RESPONSE_BODY => self.context()?.stream.borrow().response_body.as_deref().map(f),
            _ => None,
        }
    }

    /// Replaces a whole body; a length of 0 at 0 prepends, a start beyond appends. Of ranges inside, hosts differ in what
    /// they make of them: none is known here.
    pub(super) fn set_buffer(&self, which: i32, start: usize, length: usize, bytes: &[u8]) -> Option<i32> {
        use super::abi::{buffer, status};
        let mut stream = self.context()?.stream.borrow_mut();
        let body = match which {
            buffer::REQUEST_BODY => stream.request_body.as_mut()?,
            buffer::RESPONSE_BODY => stream.response_body.as_mut()?,
            _ => return None,
        };
        match (start, length) {
            (0, 0) => drop(body.splice(..0, bytes.iter().copied())),
            (0, length) if length == body.len() => *body = bytes.to_vec(),
            (start, _) if start >= body.len() => body.extend_from_slice(bytes),
            _ => return Some(status::BAD_ARGUMENT),
        }
        Some(status::OK)
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push((self.acting(), effect));
    }
}
