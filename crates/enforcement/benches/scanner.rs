//! How fast the usage scanner reads: MB/s on one core for streams and bodies as models send them.
//! `cargo bench -p aiquota-enforcement --bench scanner`
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use enforcement::usage::{Scanner, Usage};

const STREAM: Option<&[u8]> = Some(b"text/event-stream");
const JSON: Option<&[u8]> = Some(b"application/json");
const AT_LEAST: Duration = Duration::from_millis(100);
const ROUNDS: usize = 10;

struct Case {
    name: &'static str,
    content_type: Option<&'static [u8]>,
    body: String,
    /// Bytes per chunk; 0: one event per chunk.
    chunk: usize,
    total: u64,
}

fn main() {
    println!("{:<48} {:>9} {:>9}", "answer", "MB", "MB/s");
    for case in cases() {
        let chunks = chunks(&case);
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let (started, mut times) = (Instant::now(), 0);
            while started.elapsed() < AT_LEAST {
                let usage = scan(case.content_type, &chunks);
                assert_eq!(usage.map(|usage| usage.total), Some(case.total), "{}", case.name);
                times += 1;
            }
            best = best.min(started.elapsed().as_secs_f64() / f64::from(times));
        }
        let megabytes = case.body.len() as f64 / 1e6;
        println!("{:<48} {megabytes:>9.3} {:>9.0}", case.name, megabytes / best);
    }
}

fn scan(content_type: Option<&[u8]>, chunks: &[&[u8]]) -> Option<Usage> {
    let mut scanner = Scanner::new(content_type);
    for chunk in chunks {
        scanner.feed(black_box(chunk));
    }
    scanner.finish();
    black_box(scanner.generated_bytes());
    scanner.usage()
}

fn chunks(case: &Case) -> Vec<&[u8]> {
    if case.chunk > 0 {
        return case.body.as_bytes().chunks(case.chunk).collect();
    }
    case.body.split_inclusive("\n\n").map(str::as_bytes).collect()
}

fn cases() -> Vec<Case> {
    let text = "and so the quick brown fox jumps over a lazy dog, ";
    let prose = text.repeat(20_000);
    let openai = |delta: &str| {
        let mut body = String::new();
        for _ in 0..2_000 {
            body += &format!(
                r#"data: {{"id":"chatcmpl-9f86d081884c7d659a2feaa0c55ad015","object":"chat.completion.chunk","created":1760000000,"model":"qwen-max","system_fingerprint":"fp_44709d6fcb","choices":[{{"index":0,"delta":{{"content":"{delta}"}},"logprobs":null,"finish_reason":null}}],"usage":null}}"#
            );
            body += "\n\n";
        }
        body + "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2000,\"total_tokens\":2009}}\n\ndata: [DONE]\n\n"
    };
    let spaced = openai(text).replace("\":", "\": ").replace(",\"", ", \"");
    let mut anthropic = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg\",\"model\":\"claude\",\"content\":[],\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n".to_owned();
    for _ in 0..2_000 {
        anthropic += &format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
        );
    }
    anthropic += "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n";
    let responses = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"output\":[{{\"content\":[{{\"text\":\"{prose}\"}}]}}],\"usage\":{{\"input_tokens\":36,\"output_tokens\":10,\"total_tokens\":46}}}}}}\n\n"
    );
    let long = |content: &str| {
        format!(
            "{{\"id\":\"x\",\"model\":\"m\",\"choices\":[{{\"message\":{{\"content\":\"{content}\"}}}}],\"usage\":{{\"prompt_tokens\":4,\"completion_tokens\":8,\"total_tokens\":12}}}}"
        )
    };
    let embeddings = format!(
        "{{\"data\":[{}],\"usage\":{{\"prompt_tokens\":8,\"total_tokens\":8}}}}",
        vec![format!("{{\"embedding\":[{}]}}", vec!["-0.0123456789"; 1536].join(",")); 40].join(",")
    );
    let case = |name, content_type, body, chunk, total| Case { name, content_type, body, chunk, total };
    vec![
        case("OpenAI stream, 50-byte deltas, an event a chunk", STREAM, openai(text), 0, 2009),
        case("OpenAI stream, 50-byte deltas, 16 KiB chunks", STREAM, openai(text), 16_384, 2009),
        case("OpenAI stream, 5-byte deltas, an event a chunk", STREAM, openai(" word"), 0, 2009),
        case("OpenAI stream, blanks in the JSON", STREAM, spaced, 0, 2009),
        case("Anthropic stream, 50-byte deltas, an event a chunk", STREAM, anthropic, 0, 40),
        case("Responses, last event of 1 MB in 16 KiB chunks", STREAM, responses, 16_384, 46),
        case("JSON, 1 MB of prose", JSON, long(&prose), 16_384, 12),
        case("JSON, 1 MB with an escape every 50 bytes", JSON, long(&prose.replace(", ", "\\n")), 16_384, 12),
        case("JSON, embeddings of 1,536 numbers", JSON, embeddings, 16_384, 8),
    ]
}
