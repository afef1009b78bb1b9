//! Small modules written by hand, for what the gateway itself promises: each is a common head and a few callbacks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A module of the given ABI version. The head gives it memory, an allocator, imports under short names, `$say` for a
/// log line of three letters, and `$seen`, the stream that was created last.
///
/// Data: 16 `cluster`, 96 cluster with options, 160 a Redis command, 200 header name, 224 property names, 512 a body.
pub(crate) fn module(abi: &str, callbacks: &str) -> Result<Vec<u8>> {
    module_with(abi, "", callbacks)
}

/// [`module`] with more imports.
fn module_with(abi: &str, imports: &str, callbacks: &str) -> Result<Vec<u8>> {
    let text = format!(
        r#"(module
        (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (import "env" "proxy_send_local_response"
            (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
        (import "env" "proxy_set_effective_context" (func $act_for (param i32) (result i32)))
        (import "env" "proxy_set_tick_period_milliseconds" (func $tick_every (param i32) (result i32)))
        (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_header_map_value" (func $header (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_add_header_map_value" (func $add_header (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_redis_init" (func $redis_init (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_redis_call" (func $redis_call (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_unheard_of" (func $unheard_of (result i32)))
        {imports}
        (memory (export "memory") 256)
        (data (i32.const 16) "outbound|80||redis.static")
        (data (i32.const 96) "outbound|80||redis.static?db=3")
        (data (i32.const 160) "CLIENT INFO\r\n")
        (data (i32.const 200) "x-tag")
        (data (i32.const 208) "x-trap")
        (data (i32.const 224) "plugin_name")
        (data (i32.const 240) "set_decoder_buffer_limit")
        (data (i32.const 272) "100000")
        (data (i32.const 512) "made here")
        (global $next (mut i32) (i32.const 65536))
        (global $seen (mut i32) (i32.const 0))
        (func (export "proxy_on_memory_allocate") (param $n i32) (result i32)
            (global.get $next)
            (global.set $next (i32.add (global.get $next) (i32.and (i32.add (local.get $n) (i32.const 7)) (i32.const -8)))))
        (func (export "proxy_abi_version_{abi}"))
        (func (export "proxy_on_context_create") (param $id i32) (param $parent i32)
            (if (local.get $parent) (then (global.set $seen (local.get $id)))))
        ;; Three letters in an integer, the first lowest, as a log line.
        (func $say (param $text i32)
            (i32.store (i32.const 0) (local.get $text))
            (drop (call $log (i32.const 2) (i32.const 0) (i32.const 3))))
        ;; What a buffer holds, as a log line.
        (func $say_buffer (param $which i32)
            (drop (call $buffer (local.get $which) (i32.const 0) (i32.const 1000000) (i32.const 8) (i32.const 12)))
            (drop (call $log (i32.const 2) (i32.load (i32.const 8)) (i32.load (i32.const 12)))))
        ;; A local reply with a status, the details "guest.reply" and nine bytes at 512.
        (func $answer (param $status i32)
            (drop (call $reply (local.get $status) (i32.const 448) (i32.const 11) (i32.const 512) (i32.const 9)
                (i32.const 0) (i32.const 0) (i32.const -1))))
        (data (i32.const 448) "guest.reply")
        {callbacks})"#
    );
    wat::parse_str(&text).context("a module of a test")
}

/// Writes a module where the gateway loads it from, and answers its URL.
pub(crate) fn write(folder: &Path, name: &str, abi: &str, callbacks: &str) -> Result<String> {
    write_with(folder, name, abi, "", callbacks)
}

/// [`write`] with more imports.
pub(crate) fn write_with(folder: &Path, name: &str, abi: &str, imports: &str, callbacks: &str) -> Result<String> {
    let path: PathBuf = folder.join(name).with_extension("wasm");
    std::fs::write(&path, module_with(abi, imports, callbacks)?)?;
    Ok(format!("file://{}", path.display()))
}

/// `$say` takes three letters as a number.
pub(crate) fn letters(text: &str) -> u32 {
    text.bytes().rev().fold(0, |number, byte| number << 8 | u32::from(byte))
}

/// A callback that says three letters and returns.
pub(crate) fn say(export: &str, parameters: usize, letters_: &str, returns: Option<i32>) -> String {
    let parameters = "i32 ".repeat(parameters);
    let (result, value) = returns
        .map_or((String::new(), String::new()), |value| ("(result i32)".to_owned(), format!("(i32.const {value})")));
    let number = letters(letters_);
    format!("(func (export \"{export}\") (param {parameters}) {result} (call $say (i32.const {number})) {value})\n")
}

/// Says `log`, `don` and `del` when a stream ends.
pub(crate) fn endings() -> String {
    [
        say("proxy_on_log", 1, "log", None),
        say("proxy_on_done", 1, "don", Some(1)),
        say("proxy_on_delete", 1, "del", None),
    ]
    .concat()
}
