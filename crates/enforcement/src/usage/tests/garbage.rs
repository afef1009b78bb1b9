//! Arbitrary bytes: never a panic, never a difference by where they are cut, and the same idea of what is JSON as
//! serde_json has, which shares no code with the scanner.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::scan;
use crate::random::Random;
use crate::usage::json::Json;
use crate::values::MAX_AMOUNT;

const CASES: u64 = 10_000;
const CONTENT_TYPES: [Option<&str>; 4] =
    [None, Some("application/json"), Some("text/event-stream"), Some("application/x-ndjson")];

fn bodies() -> Vec<Vec<u8>> {
    include_str!("../../../../../tests/data/answers.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["body"].as_str().unwrap().replace(&"yz".repeat(9), ""))
        .map(|body| body.into_bytes().into_iter().take(1_500).collect())
        .collect()
}

/// Changes a few bytes: overwrites, removes, doubles a part, puts in what matters to the grammar.
fn mutate(random: &mut Random, body: &mut Vec<u8>) {
    const PIECES: [&[u8]; 24] = [
        b"\"",
        b"\\",
        b"\\u00",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"data:",
        b"\n\ndata: ",
        b"null",
        b"-",
        b"1e9",
        b"0",
        b".5",
        b"\xFF",
        b"\x00",
        b" ",
        b"\"usage\":{\"total_tokens\":7}",
        b"\"model\":\"x\"",
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(body.len() + 1);
        match random.below(4) {
            0 if at < body.len() => body[at] = random.next() as u8,
            1 => {
                let end = (at + random.below(20)).min(body.len());
                body.drain(at..end);
            }
            2 => {
                let end = (at + random.below(60)).min(body.len());
                let part = body[at..end].to_vec();
                body.splice(at..at, part);
            }
            _ => {
                let piece = *random.pick(&PIECES);
                body.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// Cuts at random places, into parts of a size that is drawn anew for each case.
fn cut<'a>(random: &mut Random, mut body: &'a [u8]) -> Vec<&'a [u8]> {
    let most = 1 + *random.pick(&[1, 3, 10, 100, 1_000]);
    let mut chunks = Vec::new();
    while !body.is_empty() {
        let (chunk, rest) = body.split_at(random.below(most + 1).min(body.len()));
        chunks.push(chunk);
        body = rest;
    }
    chunks
}

fn is_the_same_however_it_is_cut(random: &mut Random, body: &[u8]) {
    let content_type = *random.pick(&CONTENT_TYPES);
    let whole = scan(content_type, [body]);
    assert_eq!(scan(content_type, body.chunks(1)), whole, "{content_type:?} {}", body.escape_ascii());
    for _ in 0..3 {
        let chunks = cut(random, body);
        assert_eq!(scan(content_type, chunks), whole, "{content_type:?} {}", body.escape_ascii());
    }
    assert!(whole.usage.is_none_or(|usage| (1..=MAX_AMOUNT.unsigned_abs()).contains(&usage.total)));
    assert!(whole.generated <= body.len() as u64);
}

#[test]
fn mutated_answers_read_the_same_however_they_are_cut() {
    let (mut random, bodies) = (Random(1), bodies());
    for case in 0..CASES {
        let mut body = bodies[case as usize % bodies.len()].clone();
        mutate(&mut random, &mut body);
        is_the_same_however_it_is_cut(&mut random, &body);
    }
}

#[test]
fn random_bytes_read_the_same_however_they_are_cut() {
    /// The last one stands for all bytes.
    const ALPHABETS: [&[u8]; 3] = [b"{}[]\",:\\u0 \n\r-1.eE+truefalsn", b"data: {}\"\n\r", b""];
    let mut random = Random(2);
    for _ in 0..CASES {
        let length = random.below(300);
        let alphabet = *random.pick(&ALPHABETS);
        let body: Vec<u8> = (0..length)
            .map(|_| if alphabet.is_empty() { random.next() as u8 } else { *random.pick(alphabet) })
            .collect();
        is_the_same_however_it_is_cut(&mut random, &body);
    }
}

/// Whether the scanner takes all of it for one JSON document.
fn is_document(text: &[u8]) -> bool {
    let mut json = Json::new(false);
    let taken = json.scan(text);
    json.is_done() && text[taken..].iter().all(|byte| b" \t\n\r".contains(byte))
}

#[test]
fn it_takes_for_json_what_serde_takes_for_json() {
    let mut random = Random(3);
    let documents: Vec<Vec<u8>> = bodies()
        .iter()
        .flat_map(|body| body.split(|byte| *byte == b'\n'))
        .map(|line| line.strip_prefix(b"data: ").unwrap_or(line).to_vec())
        .filter(|document| document.starts_with(b"{"))
        .collect();
    let mut valid = 0;
    for case in 0..CASES {
        let mut document = documents[case as usize % documents.len()].clone();
        mutate(&mut random, &mut document);
        // The scanner does not check UTF-8 and does not need a document to begin at a bracket.
        let Ok(text) = str::from_utf8(&document) else { continue };
        if !text.trim_start().starts_with(['{', '[']) {
            continue;
        }
        let expected = serde_json::from_str::<IgnoredAny>(text).is_ok();
        assert_eq!(is_document(&document), expected, "{}", document.escape_ascii());
        valid += u64::from(expected);
    }
    assert!(valid > CASES / 20, "too few valid documents to mean anything: {valid}");
}

/// An answer in which the keys that matter stand at their places and elsewhere.
fn object(random: &mut Random, depth: usize) -> Value {
    const PLACES: [&str; 10] =
        ["usage", "usage", "usageMetadata", "message", "response", "choices", "metadata", "usages", "usag", "model"];
    const COUNTS: [&str; 10] = [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "promptTokenCount",
        "candidatesTokenCount",
        "thoughtsTokenCount",
        "x",
    ];
    let members = (0..random.below(10)).map(|_| {
        let keys = if depth > 0 && !random.one_in(3) { &PLACES } else { &COUNTS };
        ((*random.pick(keys)).to_owned(), value(random, depth))
    });
    Value::Object(members.collect())
}

fn value(random: &mut Random, depth: usize) -> Value {
    const TEXTS: [&str; 5] = ["", "{\"usage\":{\"total_tokens\":5}}", "\\\"\n", "你", "gpt"];
    match random.below(if depth == 0 { 6 } else { 20 }) {
        0..=3 => Value::from(random.below(40)),
        4 => random.pick(&[Value::Null, Value::Bool(true), Value::from(2.5), Value::from(-7)]).clone(),
        5 => Value::from(*random.pick(&TEXTS)),
        6 => (0..random.below(4)).map(|_| value(random, depth - 1)).collect(),
        _ => object(random, depth - 1),
    }
}

/// What a usage object says by itself, written down again without regard to how the scanner does it.
fn plain_total(usage: &Value) -> u64 {
    let sum = |keys: &[&str]| keys.iter().filter_map(|key| usage[key].as_u64()).sum::<u64>();
    let first = |sums: &[u64]| sums.iter().copied().find(|sum| *sum > 0).unwrap_or(0);
    let input =
        [sum(&["prompt_tokens"]), sum(&["input_tokens", "cache_read_input_tokens"]), sum(&["promptTokenCount"])];
    let output =
        [sum(&["completion_tokens"]), sum(&["output_tokens"]), sum(&["candidatesTokenCount", "thoughtsTokenCount"])];
    first(&[sum(&["total_tokens"]), first(&input) + first(&output)])
}

/// The same of an answer: serde_json writes keys in alphabetical order, so these places too come in that order.
fn expected_total(answer: &Value) -> Option<u64> {
    let said = |usages: &mut dyn Iterator<Item = &Value>| usages.map(plain_total).filter(|total| *total > 0).last();
    let places = ["/message/usage", "/response/usage", "/usage", "/usageMetadata"];
    said(&mut places.iter().filter_map(|place| answer.pointer(place)))
        .or_else(|| said(&mut answer["choices"].as_array().into_iter().flatten().map(|choice| &choice["usage"])))
}

#[test]
fn it_finds_what_a_parser_finds() {
    let mut random = Random(4);
    let (mut found, mut missing) = (0, 0);
    for _ in 0..CASES {
        let answer = object(&mut random, 3);
        let text = if random.one_in(2) { answer.to_string() } else { serde_json::to_string_pretty(&answer).unwrap() };
        let expected = expected_total(&answer);
        let chunks = cut(&mut random, text.as_bytes());
        let usage = scan(Some("application/json"), chunks).usage;
        assert_eq!(usage.map(|usage| usage.total), expected, "{text}");
        *(if expected.is_some() { &mut found } else { &mut missing }) += 1;
    }
    assert!(found > CASES / 20 && missing > CASES / 20, "{found} with usage, {missing} without");
}
