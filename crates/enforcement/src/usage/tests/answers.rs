//! The recorded answers of real APIs: what each says, cut anywhere, and what is known when the client leaves.

use serde::Deserialize;

use super::{Outcome, scan, scanned};
use crate::usage::{Scanner, Usage};

#[derive(Deserialize)]
struct Answer {
    name: String,
    content_type: String,
    body: String,
    input: Option<u64>,
    output: Option<u64>,
    /// Zero for an answer that is charged nothing because of its status.
    total: Option<u64>,
}

fn answers() -> Vec<Answer> {
    include_str!("../../../../../tests/data/answers.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Input, output and total, as the recordings state them.
fn figures(usage: Option<Usage>) -> (Option<u64>, Option<u64>, Option<u64>) {
    usage.map_or((None, None, None), |usage| (usage.input, usage.output, Some(usage.total)))
}

fn answer(name: &str) -> Answer {
    answers().into_iter().find(|answer| answer.name == name).unwrap()
}

/// Each place behind an event, with what is found when the client leaves there.
fn leaving(answer: &Answer) -> Vec<Outcome> {
    let ends = ["\n\n", "\r\n\r\n", "\r\r"];
    let body = &answer.body;
    (1..=body.len())
        .filter(|end| body.is_char_boundary(*end) && ends.iter().any(|blank| body[..*end].ends_with(blank)))
        .map(|end| scan(Some(&answer.content_type), [&body.as_bytes()[..end]]))
        .collect()
}

#[test]
fn every_answer_states_its_tokens_wherever_it_is_cut() {
    let answers = answers();
    assert_eq!(answers.len(), 38);
    for answer in answers {
        let outcome = scanned(Some(&answer.content_type), answer.body.as_bytes());
        let expected = (answer.input, answer.output, answer.total.filter(|total| *total > 0));
        assert_eq!(figures(outcome.usage), expected, "{}", answer.name);
    }
}

#[test]
fn every_answer_states_its_tokens_without_a_content_type() {
    for answer in answers() {
        for content_type in [None, Some(""), Some("text/plain; charset=utf-8")] {
            let outcome = scan(content_type, [answer.body.as_bytes()]);
            let expected = answer.total.filter(|total| *total > 0);
            assert_eq!(outcome.usage.map(|usage| usage.total), expected, "{}", answer.name);
        }
    }
}

#[test]
fn every_stream_keeps_what_it_said_when_the_client_leaves_behind_an_event() {
    let mut streams = 0;
    for answer in answers().iter().filter(|answer| answer.content_type == "text/event-stream") {
        let seen = leaving(answer);
        // Once a usage was seen there is one, and text only grows.
        assert!(seen.windows(2).all(|pair| pair[0].usage.is_none() || pair[1].usage.is_some()), "{}", answer.name);
        assert!(seen.windows(2).all(|pair| pair[0].generated <= pair[1].generated), "{}", answer.name);
        if answer.name != "stream, no blank line at the end" && answer.name != "stream, data over two lines" {
            let last = seen.last().unwrap();
            assert_eq!(last, &scan(Some("text/event-stream"), [answer.body.as_bytes()]), "{}", answer.name);
        }
        streams += 1;
    }
    assert_eq!(streams, 18);
}

#[test]
fn a_client_that_leaves_early_owes_the_running_total() {
    let totals: Vec<_> = leaving(&answer("vllm stream, running totals"))
        .iter()
        .map(|outcome| outcome.usage.map(|usage| usage.total))
        .collect();
    assert_eq!(totals, [Some(6), Some(7), Some(8), Some(8), Some(8)]);
}

#[test]
fn a_client_that_leaves_an_anthropic_stream_early_owes_the_input() {
    let seen: Vec<_> = leaving(&answer("anthropic stream")).iter().map(|outcome| figures(outcome.usage)).collect();
    let early = (Some(55), Some(1), Some(56));
    let late = (Some(55), Some(15), Some(70));
    assert_eq!(seen, [early, early, early, late, late]);
}

#[test]
fn details_are_shown_and_never_added() {
    let usage = |name: &str| scan(None, [answer(name).body.as_bytes()]).usage.unwrap();
    let details = |name: &str| (usage(name).cached_input, usage(name).reasoning);
    assert_eq!(details("openai chat with reasoning and cache"), (Some(1920), Some(256)));
    assert_eq!(details("deepseek stream, cache hit fields"), (Some(32), Some(30)));
    assert_eq!(details("anthropic with cache"), (Some(1000), None));
    assert_eq!(details("gemini"), (Some(4), Some(20)));
    assert_eq!(details("responses"), (Some(0), Some(0)));
    assert_eq!(details("rerank"), (None, None));
}

#[test]
fn the_text_of_every_api_is_measured() {
    for (name, bytes) in [
        ("openai chat", 5),
        ("openai chat stream without usage", 11),
        ("qwen compatible stream", 6),
        ("deepseek stream, cache hit fields", 7),
        ("completions", 2),
        ("embeddings", 0),
        ("images", 0),
        ("tool call argument named usage", r#"{"usage":{"total_tokens":77}}"#.len() as u64),
        // 5,000 bytes of text repeat the one of the delta.
        ("responses stream", 1),
        ("anthropic", 2),
        ("anthropic stream", 2),
        ("gemini", 2),
        ("ollama native", 1),
        ("error in a 200 stream", 0),
    ] {
        assert_eq!(scan(None, [answer(name).body.as_bytes()]).generated, bytes, "{name}");
    }
}

#[test]
fn the_model_is_the_one_the_answer_names() {
    for (name, model) in [
        ("openai chat", Some("gpt-4o-mini")),
        ("azure stream, first chunk without choices", Some("gpt-4o-mini")),
        ("anthropic stream", Some("claude")),
        ("gemini", Some("gemini-2.5-pro")),
        ("ollama native", Some("l")),
        ("rerank", None),
        ("empty body", None),
    ] {
        assert_eq!(scan(None, [answer(name).body.as_bytes()]).model.as_deref(), model, "{name}");
    }
}

#[test]
fn what_was_found_so_far_is_known_before_the_end() {
    let answer = answer("openai chat stream with usage asked for");
    let mut scanner = Scanner::new(Some(b"text/event-stream"));
    scanner.feed(answer.body.as_bytes());
    assert_eq!(scanner.usage().map(|usage| usage.total), Some(11));
    assert_eq!(scanner.generated_bytes(), 2);
}
