//! The guest side of Proxy-Wasm 0.2.100 with Higress' Redis calls: a module implements [`Module`] and names it in
//! [`module!`]; callbacks of the host come in as method calls, [`host`] is the way out. The only unsafe code.
//!
//! Under 0.2.100, and only there, the host honours every [`Action`] exactly.
#![allow(unsafe_code, reason = "the boundary to the host is raw pointers; nothing unsafe leaves this crate")]

mod dispatch;
mod headers;
pub mod host;
mod imports;

pub use dispatch::{Action, Module, Unanswered};
pub use headers::Headers;

#[doc(hidden)]
pub mod exports {
    //! What the exports of [`crate::module!`] call.

    pub use crate::dispatch::{Cell, allocate};
}

/// Makes a cdylib a module: exports what the host looks for and sends every callback to it.
/// Off wasm it expands to nothing.
#[macro_export]
macro_rules! module {
    ($module:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "exports have fixed names, which nothing else may have")]
        mod proxy_wasm_exports {
            use super::*;

            unsafe extern "C" {
                fn __wasm_call_ctors();
            }

            thread_local! {
                static MODULE: $crate::exports::Cell<$module> = $crate::exports::Cell::default();
            }

            /// Without it the linker takes the module for a command and wraps every export with the constructors.
            #[unsafe(no_mangle)]
            extern "C" fn _initialize() {
                static ONCE: std::sync::Once = std::sync::Once::new();
                // SAFETY: the linker makes this function; it is called once, before anything else.
                ONCE.call_once(|| unsafe { __wasm_call_ctors() });
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_abi_version_0_2_100() {}

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
                $crate::exports::allocate(size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_context_create(context: u32, root: u32) {
                MODULE.with(|module| module.create(context, root));
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
                1
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_configure(root: u32, size: usize) -> u32 {
                MODULE.with(|module| module.configure(root, size))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_tick(root: u32) {
                MODULE.with(|module| module.tick(root));
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_redis_call_response(root: u32, token: u32, status: u32, size: usize) {
                MODULE.with(|module| module.redis_reply(root, token, status, size));
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_headers(stream: u32, _count: u32, end: u32) -> u32 {
                MODULE.with(|module| module.request_headers(stream, end != 0))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_body(stream: u32, size: usize, end: u32) -> u32 {
                MODULE.with(|module| module.request_body(stream, size, end != 0))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_trailers(stream: u32, _count: u32) -> u32 {
                MODULE.with(|module| module.request_body(stream, 0, true))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_response_headers(stream: u32, _count: u32, _end: u32) -> u32 {
                MODULE.with(|module| module.response_headers(stream))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_response_body(stream: u32, size: usize, end: u32) -> u32 {
                MODULE.with(|module| module.response_body(stream, size, end != 0))
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_done(context: u32) -> u32 {
                MODULE.with(|module| module.done(context));
                1
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_log(context: u32) {
                MODULE.with(|module| module.done(context));
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_delete(context: u32) {
                MODULE.with(|module| module.delete(context));
            }
        }
    };
}
