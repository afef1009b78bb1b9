//! What a module built for WASI asks of its system, answered as Higress' host does: clock, randomness, standard output
//! as log lines, no arguments, no environment, no files. Ending the process traps.

use wasmtime::{Caller, Linker, Result, bail};

use super::host::Host;
use super::imports::{now, read, write};

type Guest<'a> = Caller<'a, Host>;

const SUCCESS: i32 = 0;
const BAD_DESCRIPTOR: i32 = 8;
const FAULT: i32 = 21;
const NO_ENTRY: i32 = 44;
const NO_SYSCALL: i32 = 52;
const NOT_SUPPORTED: i32 = 58;

pub(super) fn link(linker: &mut Linker<Host>) -> Result<()> {
    for module in ["wasi_snapshot_preview1", "wasi_unstable"] {
        link_as(linker, module)?;
    }
    Ok(())
}

fn link_as(linker: &mut Linker<Host>, module: &str) -> Result<()> {
    linker.func_wrap(module, "proc_exit", |code: i32| -> Result<()> { bail!("proc_exit({code})") })?;
    linker.func_wrap(module, "sched_yield", || SUCCESS)?;
    linker.func_wrap(module, "clock_time_get", |mut guest: Guest<'_>, _clock: i32, _precision: i64, out: i32| {
        errno(write(&mut guest, out, &now().to_le_bytes()))
    })?;
    linker.func_wrap(module, "clock_res_get", |mut guest: Guest<'_>, _clock: i32, out: i32| {
        errno(write(&mut guest, out, &1u64.to_le_bytes()))
    })?;
    linker.func_wrap(module, "random_get", |mut guest: Guest<'_>, out: i32, len: i32| {
        let mut bytes = vec![0; (len as u32 as usize).min(1 << 20)];
        fill(&mut bytes);
        errno(write(&mut guest, out, &bytes))
    })?;
    for sizes in ["environ_sizes_get", "args_sizes_get"] {
        linker.func_wrap(module, sizes, |mut guest: Guest<'_>, count: i32, size: i32| {
            errno(write(&mut guest, count, &[0; 4]).max(write(&mut guest, size, &[0; 4])))
        })?;
    }
    for empty in ["environ_get", "args_get"] {
        linker.func_wrap(module, empty, |_: i32, _: i32| SUCCESS)?;
    }
    linker.func_wrap(module, "fd_write", |mut guest: Guest<'_>, fd: i32, vectors: i32, count: i32, out: i32| {
        let level = match fd {
            1 => 2,
            2 => 4,
            _ => return BAD_DESCRIPTOR,
        };
        let Some(size) = count.checked_mul(8) else { return FAULT };
        let Some(vectors) = read(&mut guest, vectors, size) else { return FAULT };
        let mut text = Vec::new();
        for vector in vectors.chunks_exact(8) {
            let word = |at| i32::from_le_bytes([vector[at], vector[at + 1], vector[at + 2], vector[at + 3]]);
            let Some(bytes) = read(&mut guest, word(0), word(4)) else { return FAULT };
            text.extend(bytes);
        }
        let written = text.len() as u32;
        let host = guest.data();
        host.board.log(&host.plugin, level, String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned());
        errno(write(&mut guest, out, &written.to_le_bytes()))
    })?;
    linker.func_wrap(module, "fd_read", |_: i32, _: i32, _: i32, _: i32| NO_SYSCALL)?;
    linker.func_wrap(module, "fd_seek", |_: i32, _: i64, _: i32, _: i32| SUCCESS)?;
    linker.func_wrap(module, "fd_close", |_: i32| SUCCESS)?;
    linker.func_wrap(module, "fd_fdstat_get", |mut guest: Guest<'_>, fd: i32, out: i32| {
        if fd != 1 && fd != 2 {
            return BAD_DESCRIPTOR;
        }
        let mut stat = [0; 24];
        stat[8] = 64; // may write
        errno(write(&mut guest, out, &stat))
    })?;
    linker.func_wrap(module, "fd_fdstat_set_flags", |_: i32, _: i32| NO_SYSCALL)?;
    linker.func_wrap(module, "fd_filestat_get", |_: i32, _: i32| BAD_DESCRIPTOR)?;
    linker.func_wrap(module, "fd_prestat_get", |_: i32, _: i32| BAD_DESCRIPTOR)?;
    linker.func_wrap(module, "fd_prestat_dir_name", |_: i32, _: i32, _: i32| NO_SYSCALL)?;
    linker.func_wrap(module, "path_filestat_get", |_: i32, _: i32, _: i32, _: i32, _: i32| NOT_SUPPORTED)?;
    linker.func_wrap(
        module,
        "path_open",
        |_: i32, _: i32, _: i32, _: i32, _: i32, _: i64, _: i64, _: i32, _: i32| NO_ENTRY,
    )?;
    linker.func_wrap(module, "poll_oneoff", |_: i32, _: i32, _: i32, _: i32| NO_SYSCALL)?;
    Ok(())
}

const fn errno(status: i32) -> i32 {
    if status == super::abi::status::OK { SUCCESS } else { FAULT }
}

/// Bytes that differ between VMs and calls; nothing here has to be secret.
fn fill(bytes: &mut [u8]) {
    use std::hash::{BuildHasher, RandomState};
    for (i, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = RandomState::new().hash_one(i).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}
