//! The host calls of module `env`: bytes in and out of the guest's memory, the rest is the host's state. A call that
//! is not here traps by its name when it is made.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wasmtime::{Caller, Linker, Result, format_err};

use super::abi::status::{BAD_ARGUMENT, INTERNAL_FAILURE, INVALID_MEMORY, NOT_FOUND, OK, UNIMPLEMENTED};
use super::abi::{Headers, Way};
use super::host::{Effect, Host, LocalReply};

type Guest<'a> = Caller<'a, Host>;

/// Ends a host call with a status.
macro_rules! some {
    ($value:expr, $status:expr) => {
        match $value {
            Some(value) => value,
            None => return Ok($status),
        }
    };
}

pub(super) fn link(linker: &mut Linker<Host>) -> Result<()> {
    general(linker)?;
    streams(linker)?;
    headers(linker)?;
    buffers(linker)?;
    calls(linker)?;
    metrics(linker)
}

fn general(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap("env", "proxy_log", |mut guest: Guest<'_>, level: i32, ptr: i32, len: i32| {
        let text = some!(read(&mut guest, ptr, len), INVALID_MEMORY);
        let host = guest.data();
        host.board.log(&host.plugin, level as u32, String::from_utf8_lossy(&text).into_owned());
        Ok(OK)
    })?;
    linker.func_wrap("env", "proxy_get_log_level", |mut guest: Guest<'_>, out: i32| {
        let level = guest.data().board.level();
        Ok(write(&mut guest, out, &level.to_le_bytes()))
    })?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |mut guest: Guest<'_>, ptr: i32, len: i32, out: i32, out_len: i32| {
            let path = some!(read(&mut guest, ptr, len), INVALID_MEMORY);
            let value = some!(guest.data().property(&path), NOT_FOUND);
            give(&mut guest, &value, out, out_len)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |mut guest: Guest<'_>, ptr: i32, len: i32, value: i32, value_len: i32| {
            let key = some!(read(&mut guest, ptr, len), INVALID_MEMORY);
            let value = some!(read(&mut guest, value, value_len), INVALID_MEMORY);
            Ok(guest.data_mut().set_property(&key, value))
        },
    )?;
    linker.func_wrap("env", "proxy_get_current_time_nanoseconds", |mut guest: Guest<'_>, out: i32| {
        Ok(write(&mut guest, out, &now().to_le_bytes()))
    })?;
    linker.func_wrap("env", "proxy_set_tick_period_milliseconds", |mut guest: Guest<'_>, period: i32| {
        guest.data_mut().tick = Some(Duration::from_millis(u64::from(period as u32)));
        OK
    })?;
    linker.func_wrap("env", "proxy_set_effective_context", |mut guest: Guest<'_>, context: i32| {
        let host = guest.data_mut();
        if context as u32 != super::vm::ROOT && !host.contexts.contains_key(&(context as u32)) {
            return BAD_ARGUMENT;
        }
        host.effective = context as u32;
        OK
    })?;
    linker.func_wrap("env", "proxy_done", || OK)?;
    linker
        .func_wrap("env", "proxy_call_foreign_function", |_: i32, _: i32, _: i32, _: i32, _: i32, _: i32| NOT_FOUND)?;
    Ok(())
}

fn streams(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap("env", "proxy_continue_stream", |mut guest: Guest<'_>, stream: i32| {
        let way = match stream {
            0 => Way::Request,
            1 => Way::Response,
            _ => return BAD_ARGUMENT,
        };
        guest.data_mut().effect(Effect::Continue(way));
        OK
    })?;
    linker.func_wrap("env", "proxy_continue_request", |mut guest: Guest<'_>| {
        guest.data_mut().effect(Effect::Continue(Way::Request));
        OK
    })?;
    linker.func_wrap("env", "proxy_continue_response", |mut guest: Guest<'_>| {
        guest.data_mut().effect(Effect::Continue(Way::Response));
        OK
    })?;
    linker.func_wrap("env", "proxy_close_stream", |mut guest: Guest<'_>, stream: i32| {
        if !(0..=3).contains(&stream) {
            return BAD_ARGUMENT;
        }
        guest.data_mut().effect(Effect::Close);
        OK
    })?;
    linker.func_wrap("env", "proxy_clear_route_cache", |guest: Guest<'_>| {
        if let Some(context) = guest.data().context() {
            context.stream.borrow_mut().route_is_stale = true;
        }
        OK
    })?;
    linker.func_wrap(
        "env",
        "proxy_send_local_response",
        |mut guest: Guest<'_>,
         status: i32,
         details: i32,
         details_len: i32,
         body: i32,
         body_len: i32,
         headers: i32,
         headers_len: i32,
         _grpc: i32| {
            let details = some!(read(&mut guest, details, details_len), INVALID_MEMORY);
            let body = some!(read(&mut guest, body, body_len), INVALID_MEMORY);
            let headers = some!(read(&mut guest, headers, headers_len), INVALID_MEMORY);
            let headers = some!(Headers::unpack(&headers), BAD_ARGUMENT);
            let status = some!(u16::try_from(status).ok().filter(|s| (200..=999).contains(s)), BAD_ARGUMENT);
            let details = String::from_utf8_lossy(&details).into_owned();
            let host = guest.data_mut();
            host.effect(Effect::Reply(LocalReply { status, details, body, headers }));
            host.stopped = true;
            Ok(OK)
        },
    )?;
    Ok(())
}

fn headers(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_header_map_value",
        |mut guest: Guest<'_>, map: i32, name: i32, name_len: i32, out: i32, out_len: i32| {
            let name = some!(text(&mut guest, name, name_len), INVALID_MEMORY);
            let value = guest.data().with_headers(map, |h| h.get(&name).map(<[u8]>::to_vec)).flatten();
            let value = some!(value, NOT_FOUND);
            give(&mut guest, &value, out, out_len)
        },
    )?;
    type Change = fn(&mut Headers, &str, Vec<u8>);
    let changes: [(&str, Change); 2] = [
        ("proxy_add_header_map_value", |headers, name, value| headers.add(name, value)),
        ("proxy_replace_header_map_value", |headers, name, value| headers.set(name, value)),
    ];
    for (import, change) in changes {
        linker.func_wrap(
            "env",
            import,
            move |mut guest: Guest<'_>, map: i32, name: i32, name_len: i32, value: i32, value_len: i32| {
                let name = some!(text(&mut guest, name, name_len), INVALID_MEMORY);
                let value = some!(read(&mut guest, value, value_len), INVALID_MEMORY);
                Ok(change_headers(&guest, map, |h| change(h, &name, value)))
            },
        )?;
    }
    linker.func_wrap(
        "env",
        "proxy_remove_header_map_value",
        |mut guest: Guest<'_>, map: i32, name: i32, name_len: i32| {
            let name = some!(text(&mut guest, name, name_len), INVALID_MEMORY);
            Ok(change_headers(&guest, map, |h| h.remove(&name)))
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_pairs",
        |mut guest: Guest<'_>, map: i32, out: i32, out_len: i32| {
            let packed = guest.data().with_headers(map, |headers| headers.pack());
            let packed = some!(packed, NOT_FOUND);
            give(&mut guest, &packed, out, out_len)
        },
    )?;
    linker.func_wrap("env", "proxy_get_header_map_size", |mut guest: Guest<'_>, map: i32, out: i32| {
        let size = some!(guest.data().with_headers(map, |headers| headers.pack().len() as u32), NOT_FOUND);
        Ok(write(&mut guest, out, &size.to_le_bytes()))
    })?;
    linker.func_wrap("env", "proxy_set_header_map_pairs", |mut guest: Guest<'_>, map: i32, ptr: i32, len: i32| {
        let packed = some!(read(&mut guest, ptr, len), INVALID_MEMORY);
        let headers = some!(Headers::unpack(&packed), BAD_ARGUMENT);
        Ok(change_headers(&guest, map, |h| *h = headers))
    })?;
    Ok(())
}

fn buffers(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |mut guest: Guest<'_>, which: i32, start: i32, length: i32, out: i32, out_len: i32| {
            let (start, length) = (start as u32 as usize, length as u32 as usize);
            let bytes = guest.data().with_buffer(which, |bytes| {
                let start = start.min(bytes.len());
                bytes[start..start.saturating_add(length).min(bytes.len())].to_vec()
            });
            let bytes = some!(bytes, NOT_FOUND);
            give(&mut guest, &bytes, out, out_len)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_buffer_status",
        |mut guest: Guest<'_>, which: i32, out_len: i32, out_flags: i32| {
            let length = some!(guest.data().with_buffer(which, <[u8]>::len), NOT_FOUND);
            let wrote = write(&mut guest, out_len, &(length as u32).to_le_bytes());
            Ok(wrote.max(write(&mut guest, out_flags, &[0; 4])))
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_buffer_bytes",
        |mut guest: Guest<'_>, which: i32, start: i32, length: i32, ptr: i32, len: i32| {
            let bytes = some!(read(&mut guest, ptr, len), INVALID_MEMORY);
            let (start, length) = (start as u32 as usize, length as u32 as usize);
            Ok(some!(guest.data().set_buffer(which, start, length, &bytes), NOT_FOUND))
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |mut guest: Guest<'_>, key: i32, key_len: i32, out: i32, out_len: i32, out_cas: i32| {
            let key = some!(read(&mut guest, key, key_len), INVALID_MEMORY);
            let (value, cas) = some!(guest.data().board.shared_data(&key), NOT_FOUND);
            if write(&mut guest, out_cas, &cas.to_le_bytes()) != OK {
                return Ok(INVALID_MEMORY);
            }
            give(&mut guest, &value, out, out_len)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |mut guest: Guest<'_>, key: i32, key_len: i32, value: i32, value_len: i32, cas: i32| {
            let key = some!(read(&mut guest, key, key_len), INVALID_MEMORY);
            let value = some!(read(&mut guest, value, value_len), INVALID_MEMORY);
            Ok(guest.data().board.set_shared_data(key, value, cas as u32))
        },
    )?;
    Ok(())
}

fn calls(linker: &mut Linker<Host>) -> Result<()> {
    // Calls to other HTTP services are not played here; no module of this project makes one.
    linker.func_wrap(
        "env",
        "proxy_http_call",
        |_: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32, _: i32| INTERNAL_FAILURE,
    )?;
    linker.func_wrap(
        "env",
        "proxy_redis_init",
        |mut guest: Guest<'_>,
         cluster: i32,
         cluster_len: i32,
         user: i32,
         user_len: i32,
         password: i32,
         password_len: i32,
         timeout: i32| {
            let cluster = some!(text(&mut guest, cluster, cluster_len), INVALID_MEMORY);
            let user = some!(text(&mut guest, user, user_len), INVALID_MEMORY);
            let password = some!(text(&mut guest, password, password_len), INVALID_MEMORY);
            let timeout = Duration::from_millis(u64::from(timeout as u32));
            Ok(guest.data().redis.init(&cluster, &user, &password, timeout))
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_redis_call",
        |mut guest: Guest<'_>, cluster: i32, cluster_len: i32, query: i32, query_len: i32, out: i32| {
            let cluster = some!(text(&mut guest, cluster, cluster_len), INVALID_MEMORY);
            let query = some!(read(&mut guest, query, query_len), INVALID_MEMORY);
            if write(&mut guest, out, &[0; 4]) != OK {
                return Ok(INVALID_MEMORY);
            }
            match guest.data().redis.call(&cluster, query) {
                Ok(token) => Ok(write(&mut guest, out, &token.to_le_bytes())),
                Err(status) => Ok(status),
            }
        },
    )?;
    Ok(())
}

fn metrics(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_define_metric",
        |mut guest: Guest<'_>, kind: i32, name: i32, name_len: i32, out: i32| {
            if !(0..=2).contains(&kind) {
                return Ok(BAD_ARGUMENT);
            }
            let name = some!(text(&mut guest, name, name_len), INVALID_MEMORY);
            let id = guest.data().board.define_metric(kind, name);
            Ok(write(&mut guest, out, &id.to_le_bytes()))
        },
    )?;
    linker.func_wrap("env", "proxy_increment_metric", |guest: Guest<'_>, id: i32, by: i64| {
        guest.data().board.change_metric(id as u32, false, by)
    })?;
    linker.func_wrap("env", "proxy_record_metric", |guest: Guest<'_>, id: i32, value: i64| {
        guest.data().board.change_metric(id as u32, true, value)
    })?;
    linker.func_wrap("env", "proxy_get_metric", |mut guest: Guest<'_>, id: i32, out: i32| {
        let value = some!(guest.data().board.metric(id as u32), NOT_FOUND);
        Ok(write(&mut guest, out, &value.to_le_bytes()))
    })?;
    // Part of every SDK's import list, used by no module of this project.
    for import in ["proxy_register_shared_queue", "proxy_dequeue_shared_queue"] {
        linker.func_wrap("env", import, |_: i32, _: i32, _: i32| UNIMPLEMENTED)?;
    }
    linker.func_wrap("env", "proxy_enqueue_shared_queue", |_: i32, _: i32, _: i32| UNIMPLEMENTED)?;
    linker.func_wrap("env", "proxy_resolve_shared_queue", |_: i32, _: i32, _: i32, _: i32, _: i32| UNIMPLEMENTED)?;
    Ok(())
}

fn change_headers(guest: &Guest<'_>, map: i32, change: impl FnOnce(&mut Headers)) -> i32 {
    let host = guest.data();
    match host.with_headers(map, change) {
        None => NOT_FOUND,
        Some(()) => {
            host.headers_changed(map);
            OK
        }
    }
}

/// Bytes of the guest's memory.
pub(super) fn read(guest: &mut Guest<'_>, ptr: i32, len: i32) -> Option<Vec<u8>> {
    let (ptr, len) = (ptr as u32 as usize, len as u32 as usize);
    let memory = guest.data().memory?;
    memory.data(&guest).get(ptr..ptr.checked_add(len)?).map(<[u8]>::to_vec)
}

fn text(guest: &mut Guest<'_>, ptr: i32, len: i32) -> Option<String> {
    read(guest, ptr, len).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes where the guest said.
pub(super) fn write(guest: &mut Guest<'_>, ptr: i32, bytes: &[u8]) -> i32 {
    let Some(memory) = guest.data().memory else { return INVALID_MEMORY };
    match memory.write(guest, ptr as u32 as usize, bytes) {
        Ok(()) => OK,
        Err(_) => INVALID_MEMORY,
    }
}

/// Copies bytes into memory that the guest allocates, and says where.
fn give(guest: &mut Guest<'_>, bytes: &[u8], out: i32, out_len: i32) -> Result<i32> {
    let mut at = 0;
    if !bytes.is_empty() {
        let size = i32::try_from(bytes.len())?;
        let allocate = guest.data().allocate.clone().ok_or_else(|| format_err!("no allocator"))?;
        at = allocate.call(&mut *guest, size)?;
        if at == 0 || write(guest, at, bytes) != OK {
            return Ok(INVALID_MEMORY);
        }
    }
    let placed = write(guest, out, &at.to_le_bytes());
    Ok(placed.max(write(guest, out_len, &(bytes.len() as u32).to_le_bytes())))
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
