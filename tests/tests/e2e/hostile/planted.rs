//! A module with a trap, made byte by byte: what a hunt must find. A callback comes in, a module goes out.

/// Where the trap is planted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Callback {
    Configure,
    RedisReply,
    ResponseBody,
}

/// A module that does nothing but trap where one callback is told a size whose last five bits are 7: one in 32.
pub(super) fn planted(callback: Callback) -> Vec<u8> {
    let section = |id: u8, items: &[Vec<u8>]| {
        let mut content = vec![u8::try_from(items.len()).unwrap_or_default()];
        content.extend(items.concat());
        [vec![id, u8::try_from(content.len()).unwrap_or_default()], content].concat()
    };
    // Types of functions: so many i32, and an i32 back or nothing.
    let kind = |parameters: u8, returns: u8| {
        let mut kind = vec![0x60, parameters];
        kind.extend(std::iter::repeat_n(0x7f, parameters.into()));
        kind.push(returns);
        kind.extend(std::iter::repeat_n(0x7f, returns.into()));
        kind
    };
    let function = |code: &[u8]| [&[u8::try_from(code.len() + 2).unwrap_or_default(), 0], code, &[0x0b]].concat();
    // if (local & 31) == 7 { unreachable }
    let trap = |local: u8| [0x20, local, 0x41, 31, 0x71, 0x41, 7, 0x46, 0x04, 0x40, 0x00, 0x0b];
    let planted = |here: Callback, local: u8, rest: &[u8]| {
        let trap = if here == callback { trap(local).to_vec() } else { Vec::new() };
        function(&[trap, rest.to_vec()].concat())
    };
    let export = |name: &str, kind: u8, index: u8| {
        [&[u8::try_from(name.len()).unwrap_or_default()], name.as_bytes(), &[kind, index]].concat()
    };
    let exports = [
        export("memory", 2, 0),
        export("proxy_abi_version_0_2_100", 0, 0),
        export("proxy_on_memory_allocate", 0, 1),
        export("proxy_on_configure", 0, 2),
        export("proxy_on_response_body", 0, 3),
        export("proxy_on_redis_call_response", 0, 4),
    ];
    let exports = {
        // The only section longer than one byte can tell.
        let content = [vec![6], exports.concat()].concat();
        let length = content.len();
        let low = u8::try_from(length & 0x7f).unwrap_or_default() | 0x80;
        [vec![7, low, u8::try_from(length >> 7).unwrap_or_default()], content].concat()
    };
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[kind(0, 0), kind(1, 1), kind(2, 1), kind(3, 1), kind(4, 0)]),
        section(3, &[vec![0], vec![1], vec![2], vec![3], vec![4]]),
        section(5, &[vec![0, 1]]),
        exports,
        section(
            10,
            &[
                function(&[]),
                function(&[0x41, 0x80, 0x08]), // always the same place, which nobody reads
                planted(Callback::Configure, 1, &[0x41, 1]),
                planted(Callback::ResponseBody, 1, &[0x41, 0]),
                planted(Callback::RedisReply, 3, &[]),
            ],
        ),
    ]
    .concat()
}
