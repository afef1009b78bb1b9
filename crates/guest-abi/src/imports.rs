//! The host's functions, as Proxy-Wasm 0.2.100 and Higress name them. Off wasm there is no host: the twins of the
//! same signatures are never reached, so that everything links and is checked natively. I/O on wasm only.

macro_rules! imports {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> u32;)*) => {
        #[cfg(target_arch = "wasm32")]
        #[link(wasm_import_module = "env")]
        unsafe extern "C" {
            $($(#[$doc])* pub(crate) fn $name($($argument: $type),*) -> u32;)*
        }

        $(
            #[cfg(not(target_arch = "wasm32"))]
            #[allow(clippy::too_many_arguments, reason = "the host's signature")]
            pub(crate) unsafe fn $name($($argument: $type),*) -> u32 {
                $(let _ = $argument;)*
                unreachable!(concat!(stringify!($name), " is the host's, and there is none"))
            }
        )*
    };
}

imports! {
    fn proxy_log(level: u32, message: *const u8, length: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        length: usize,
        bytes: *mut *mut u8,
        bytes_length: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(kind: u32, start: usize, length: usize, bytes: *const u8, bytes_length: usize) -> u32;
    fn proxy_get_header_map_pairs(map: u32, pairs: *mut *mut u8, length: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_length: usize,
        value: *mut *mut u8,
        value_length: *mut usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_length: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_length: usize,
        value: *const u8,
        value_length: usize,
    ) -> u32;
    fn proxy_get_property(path: *const u8, path_length: usize, value: *mut *mut u8, length: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_length: usize, value: *const u8, value_length: usize) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_length: usize,
        body: *const u8,
        body_length: usize,
        headers: *const u8,
        headers_length: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, length: usize, metric: *mut u32) -> u32;
    fn proxy_increment_metric(metric: u32, by: i64) -> u32;
    fn proxy_redis_init(
        cluster: *const u8,
        cluster_length: usize,
        username: *const u8,
        username_length: usize,
        password: *const u8,
        password_length: usize,
        timeout: u32,
    ) -> u32;
    fn proxy_redis_call(
        cluster: *const u8,
        cluster_length: usize,
        query: *const u8,
        query_length: usize,
        token: *mut u32,
    ) -> u32;
}
