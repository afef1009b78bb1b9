//! What one metered, streamed answer costs in a compiled module: headers, the store's reply, 50 chunks, the charge.
//! A module file comes in, figures go out. The host around it is the test bed's, with nothing but the callbacks.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed::gateway::{Headers, Trapped, Vm, VmModule, Way};

use super::lookup::{balances, configuration, counters, header, key, route};

const CHUNKS: usize = 50;
const MEASURED: Duration = Duration::from_secs(1);

/// What is measured: a configuration, a request under it, and what Redis answers.
struct Setting {
    configuration: String,
    route: String,
    /// Besides those that every request has.
    headers: Vec<(String, String)>,
    admitted: Vec<u8>,
    booked: Vec<u8>,
}

/// Rules of a quota, and microseconds that one exchange takes on average.
///
/// # Errors
/// When the module does not start, traps, or does not meter the exchange.
pub fn quotas(module: &Path) -> Result<Vec<(usize, f64)>> {
    let module = VmModule::load(module)?;
    let setting = |rules| Setting {
        configuration: configuration(&balances(), rules),
        route: route(rules - 1),
        headers: Vec::new(),
        admitted: b"*3\r\n$8\r\nadmitted\r\n:1000000\r\n$-1\r\n".to_vec(),
        booked: b"*2\r\n$6\r\nbooked\r\n:999000\r\n".to_vec(),
    };
    [1, 1_000, 10_000].into_iter().map(|rules| Ok((rules, measure(&module, &setting(rules))?))).collect()
}

/// Routes with limits, rules that match at once, exact keys in each, and microseconds that one exchange takes on average.
///
/// # Errors
/// When the module does not start, traps, or does not meter the exchange.
pub fn limits(module: &Path) -> Result<Vec<([usize; 3], f64)>> {
    let module = VmModule::load(module)?;
    let settings = [[1, 1, 1], [1_000, 1, 1], [10_000, 1, 1], [1, 10, 1], [1, 10, 10_000]];
    settings.into_iter().map(|setting| Ok((setting, measure(&module, &limited(setting))?))).collect()
}

/// A request that each rule finds the last of its exact keys in.
fn limited([routes, rules, keys]: [usize; 3]) -> Setting {
    let state = "*3\r\n:1000000\r\n:7\r\n:42\r\n";
    let states = format!("*{rules}\r\n{}", state.repeat(rules)).into_bytes();
    Setting {
        configuration: configuration(&counters(rules, keys), routes),
        route: route(routes - 1),
        headers: (0..rules).map(|n| (header(n), key(keys - 1))).collect(),
        admitted: states.clone(),
        booked: states,
    }
}

fn measure(module: &VmModule, setting: &Setting) -> Result<f64> {
    let mut vm = module
        .start(setting.configuration.as_bytes())
        .map_err(|failure| anyhow::anyhow!("the module did not start: {}", failure.cause))?;
    let chunks = chunks();
    for _ in 0..200 {
        exchange(&mut vm, setting, &chunks)?;
    }
    let (begun, mut done) = (Instant::now(), 0_u32);
    while begun.elapsed() < MEASURED {
        exchange(&mut vm, setting, &chunks)?;
        done += 1;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(done))
}

fn exchange(vm: &mut Vm, setting: &Setting, chunks: &[Vec<u8>]) -> Result<()> {
    let trapped = |Trapped(cause): Trapped| anyhow::anyhow!("the module trapped: {cause}");
    let mut request = headers(&[
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        (":authority", "llm.example.com"),
        ("content-type", "application/json"),
        ("x-mse-consumer", "aliyun-user1"),
    ]);
    setting.headers.iter().for_each(|(name, value)| request.add(name, value.as_bytes()));
    let stream = vm.open(request, &setting.route).map_err(trapped)?;
    vm.request_headers(stream, false).map_err(trapped)?;
    let check = vm.take_redis_calls().pop().context("the module did not check")?;
    vm.redis_reply(check.token, Some(&setting.admitted)).map_err(trapped)?;
    let response = headers(&[(":status", "200"), ("content-type", "text/event-stream")]);
    vm.response_headers(stream, response, false).map_err(trapped)?;
    for (n, chunk) in chunks.iter().enumerate() {
        vm.body(stream, Way::Response, chunk.clone(), n + 1 == chunks.len()).map_err(trapped)?;
    }
    let charge = vm.take_redis_calls().pop().context("the module did not charge")?;
    ensure!(charge.query.windows(4).any(|bytes| bytes == b"2009"), "the charge is not the answer's usage");
    vm.redis_reply(charge.token, Some(&setting.booked)).map_err(trapped)?;
    vm.close(stream).map_err(trapped)?;
    vm.take_effects();
    Ok(())
}

/// An OpenAI stream, an event a chunk, the last with usage.
fn chunks() -> Vec<Vec<u8>> {
    let mut chunks: Vec<Vec<u8>> = (1..CHUNKS)
        .map(|n| {
            format!(
                "data: {{\"id\":\"chatcmpl-9f86d081884c7d65\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\
                 \"model\":\"qwen-max\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"word {n}, and some more of \
                 them\"}},\"finish_reason\":null}}],\"usage\":null}}\n\n"
            )
            .into_bytes()
        })
        .collect();
    chunks.push(
        b"data: {\"id\":\"chatcmpl-9f86d081884c7d65\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\
          \"completion_tokens\":2000,\"total_tokens\":2009}}\n\ndata: [DONE]\n\n"
            .to_vec(),
    );
    chunks
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect())
}
