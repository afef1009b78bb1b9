//! What a module may ask of the host, safely. In: Rust values. Out: the host's answer; a status that is not Ok is a
//! value, never a panic. All I/O of a module is here.

use crate::headers::{Headers, serialise};
use crate::imports;

/// A status other than Ok.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    NotFound,
    BadArgument,
    /// Any other; the number is the host's.
    Other(u32),
}

impl Status {
    const fn check(code: u32) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            1 => Err(Self::NotFound),
            2 => Err(Self::BadArgument),
            other => Err(Self::Other(other)),
        }
    }

    /// The host's number.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::NotFound => 1,
            Self::BadArgument => 2,
            Self::Other(code) => code,
        }
    }
}

/// How much a line in the gateway's log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Debug = 1,
    Info = 2,
    Warn = 3,
    Error = 4,
}

/// Which headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    Request = 0,
    Response = 2,
}

/// Which bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    PluginConfiguration = 7,
    RedisReply = 9,
}

/// Writes a line into the gateway's log.
pub fn log(level: Level, message: &str) {
    // SAFETY: the pointer and length are those of a live string.
    let _ = unsafe { imports::proxy_log(level as u32, message.as_ptr(), message.len()) };
}

/// Nanoseconds since 1970, as the host has them.
#[must_use]
pub fn now_nanoseconds() -> u64 {
    let mut time = 0;
    // SAFETY: the host writes one u64 to a live one.
    let _ = unsafe { imports::proxy_get_current_time_nanoseconds(&raw mut time) };
    time
}

/// Calls [`crate::Module::tick`] for the current root context so often.
pub fn set_tick_period(milliseconds: u32) {
    // SAFETY: no pointers.
    let _ = unsafe { imports::proxy_set_tick_period_milliseconds(milliseconds) };
}

/// Makes what follows concern another context, root or stream.
///
/// # Errors
/// If there is no such context any more.
pub fn set_effective_context(context: u32) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { imports::proxy_set_effective_context(context) })
}

/// At most `length` bytes of a buffer.
#[must_use]
pub fn buffer(kind: Buffer, length: usize) -> Vec<u8> {
    buffer_from(kind, 0, length)
}

/// At most `length` bytes of a buffer from `start` on.
#[must_use]
pub fn buffer_from(kind: Buffer, start: usize, length: usize) -> Vec<u8> {
    // SAFETY: `returned` hands over live places for a pointer and a length.
    let read =
        returned(|bytes, size| unsafe { imports::proxy_get_buffer_bytes(kind as u32, start, length, bytes, size) });
    read.unwrap_or_default()
}

/// Puts other bytes in the place of a buffer that is so long: of the whole, since hosts know no ranges inside.
///
/// # Errors
/// If the host refuses: then it stays as it is.
pub fn replace_buffer(kind: Buffer, length: usize, bytes: &[u8]) -> Result<(), Status> {
    // SAFETY: the pointer and length are those of live bytes.
    Status::check(unsafe { imports::proxy_set_buffer_bytes(kind as u32, 0, length, bytes.as_ptr(), bytes.len()) })
}

/// A whole header map.
///
/// # Errors
/// If there is none now: not the same as one without headers.
pub fn headers(map: Map) -> Result<Headers, Status> {
    // SAFETY: as in `buffer`.
    returned(|pairs, size| unsafe { imports::proxy_get_header_map_pairs(map as u32, pairs, size) }).map(Headers::parse)
}

/// A header's value; where it has several, what the host makes of them.
#[must_use]
pub fn header(map: Map, name: &str) -> Option<Vec<u8>> {
    // SAFETY: as in `buffer`; the name is a live string.
    returned(|value, size| unsafe {
        imports::proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), value, size)
    })
    .ok()
}

/// Removes a header with all its values. Where the route would be chosen anew because of it, that is prevented.
///
/// # Errors
/// If the host refuses.
pub fn remove_header(map: Map, name: &str) -> Result<(), Status> {
    // Hosts that do not know the property have nothing to prevent.
    let _ = set_property(&["clear_route_cache"], b"off");
    // SAFETY: the name is a live string.
    Status::check(unsafe { imports::proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// Gives a response header this value, in the place of all that it has.
///
/// # Errors
/// If the host refuses.
pub fn set_response_header(name: &str, value: &str) -> Result<(), Status> {
    // SAFETY: both are live strings.
    Status::check(unsafe {
        imports::proxy_replace_header_map_value(
            Map::Response as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// A property of the stream.
#[must_use]
pub fn property(path: &[&str]) -> Option<Vec<u8>> {
    let path = path.join("\0");
    // SAFETY: as in `buffer`; the path is a live string.
    returned(|value, size| unsafe { imports::proxy_get_property(path.as_ptr(), path.len(), value, size) }).ok()
}

/// Lets the host keep so many bytes of the request's body while they are held; more it answers itself, with 413.
pub fn set_request_buffer_limit(bytes: &str) {
    // A host that has no such limit has nothing to raise.
    let _ = set_property(&["set_decoder_buffer_limit"], bytes.as_bytes());
}

fn set_property(path: &[&str], value: &[u8]) -> Result<(), Status> {
    let path = path.join("\0");
    // SAFETY: both are live.
    Status::check(unsafe { imports::proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

/// Lets the request of the current stream go on.
///
/// # Errors
/// If the host refuses.
pub fn continue_request() -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { imports::proxy_continue_stream(0) })
}

/// Answers the request of the current stream.
///
/// # Errors
/// If the host refuses.
pub fn respond(status: u16, details: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Status> {
    let headers = serialise(headers);
    // SAFETY: all of them are live. -1: no gRPC status.
    Status::check(unsafe {
        imports::proxy_send_local_response(
            status.into(),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            -1,
        )
    })
}

/// A counter among the gateway's metrics. The host keeps one for each time it is asked, under one name or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(u32);

/// Makes a counter known.
///
/// # Errors
/// If the host refuses.
pub fn define_counter(name: &str) -> Result<Counter, Status> {
    let mut metric = 0;
    // SAFETY: the name is a live string; the host writes one u32 to a live one. 0: a counter.
    Status::check(unsafe { imports::proxy_define_metric(0, name.as_ptr(), name.len(), &raw mut metric) })?;
    Ok(Counter(metric))
}

/// Adds to a counter.
///
/// # Errors
/// If the host refuses.
pub fn count(Counter(metric): Counter, by: i64) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { imports::proxy_increment_metric(metric, by) })
}

/// Makes the host's Redis client of a cluster ready. It closes every connection of that cluster in this thread.
///
/// # Errors
/// [`Status::BadArgument`] if the gateway does not know the cluster.
pub fn redis_init(cluster: &str, username: &str, password: &str, timeout_ms: u32) -> Result<(), Status> {
    // SAFETY: all of them are live strings.
    Status::check(unsafe {
        imports::proxy_redis_init(
            cluster.as_ptr(),
            cluster.len(),
            username.as_ptr(),
            username.len(),
            password.as_ptr(),
            password.len(),
            timeout_ms,
        )
    })
}

/// Sends a command in Redis' protocol and answers the token of the call.
///
/// # Errors
/// If the host does not take the call: then no answer comes.
pub fn redis_call(cluster: &str, command: &[u8]) -> Result<u32, Status> {
    let mut token = 0;
    // SAFETY: the strings are live; the host writes one u32 to a live one.
    Status::check(unsafe {
        imports::proxy_redis_call(cluster.as_ptr(), cluster.len(), command.as_ptr(), command.len(), &raw mut token)
    })?;
    Ok(token)
}

/// Takes what the host put into our memory, by [`crate::exports::allocate`].
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, Status> {
    let (mut bytes, mut length) = (std::ptr::null_mut(), 0);
    Status::check(call(&raw mut bytes, &raw mut length))?;
    if bytes.is_null() || length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the host got these bytes from `allocate` with exactly this length and gives them up.
    Ok(unsafe { Vec::from_raw_parts(bytes, length, length) })
}
