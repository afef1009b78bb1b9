//! What the bodies of every API ask for, that nothing depends on where they are cut, and that what can be read in two
//! ways is said to be unclear.

use serde_json::{Value, json};

use super::*;
use crate::random::Random;

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Prompt {
    let mut reader = Reader::new();
    pieces.into_iter().for_each(|piece| reader.feed(piece));
    reader.finish()
}

/// The same in one piece, byte by byte and cut in two anywhere.
#[track_caller]
fn prompt(body: &str) -> Prompt {
    let body = body.as_bytes();
    let whole = read([body]);
    assert_eq!(read(body.chunks(1)), whole, "byte by byte: {}", body.escape_ascii());
    for border in 0..=body.len() {
        let (head, tail) = body.split_at(border);
        assert_eq!(read([head, tail]), whole, "cut at {border}: {}", body.escape_ascii());
    }
    whole
}

fn total(prompt: &Prompt, otherwise: i64) -> i64 {
    let Usage { input, output, total, .. } = prompt.at_most(CHAT, otherwise);
    assert!(total == MAX_AMOUNT.unsigned_abs() || input.zip(output).is_some_and(|(a, b)| a + b == total));
    i64::try_from(total).unwrap()
}

fn model(body: &str) -> Model {
    prompt(body).model
}

const CHAT: &[u8] = b"/v1/chat/completions";

/// What is held for the answers of a request to `path`, where the default is 1,000.
#[track_caller]
fn output(path: &str, body: &str) -> u64 {
    prompt(body).at_most(path.as_bytes(), 1_000).output.unwrap()
}

#[test]
fn every_api_says_how_long_an_answer_may_be() {
    let responses = "/api/V1/Responses/?x=/v1/chat/completions";
    let (gemini, ollama) = ("/v1beta/models/g:streamGenerateContent?alt=sse", "/api/chat");
    for (path, body, expected) in [
        ("/v1/messages", json!({"model": "m", "max_tokens": 100}), 100),
        ("/v1/chat/completions", json!({"max_completion_tokens": 100.0}), 100),
        ("/v1/chat/completions", json!({"max_tokens": 20, "max_completion_tokens": 100, "n": 3}), 300),
        ("/v1/completions", json!({"max_tokens": 20, "n": 2, "best_of": 5}), 100),
        ("/x", json!({"n": 0, "max_tokens": 5}), 5),
        (responses, json!({"max_output_tokens": 100, "input": "x"}), 100),
        (gemini, json!({"generationConfig": {"maxOutputTokens": 100, "candidateCount": 2}}), 200),
        (gemini, json!({"generation_config": {"max_output_tokens": 100}}), 100),
        (ollama, json!({"options": {"num_predict": 100}, "messages": [{"max_tokens": 7}]}), 100),
        // What others read is no less than the default.
        (responses, json!({"max_tokens": 5}), 1_000),
        (gemini, json!({"max_tokens": 5, "options": {"num_predict": 5000}}), 5_000),
        (ollama, json!({"max_tokens": 5}), 1_000),
        ("/v1/chat/completions", json!({"max_output_tokens": 5, "generationConfig": {"maxOutputTokens": 6}}), 1_000),
        ("/v1/chat/completions", json!({"max_output_tokens": 5, "max_tokens": 7}), 7),
        // What is no maximum is none.
        ("/", json!({"max_tokens": 0}), 1_000),
        ("/", json!({"max_tokens": "5", "n": -3}), 1_000),
        ("/", json!({"max_tokens": -5}), 1_000),
        ("/", json!({"max_tokens": null, "n": 2}), 2_000),
        ("/", json!({"messages": [{"max_tokens": 5}], "metadata": {"max_tokens": 5}}), 1_000),
    ] {
        assert_eq!(output(path, &body.to_string()), expected, "{path} {body}");
    }
}

#[test]
fn a_small_maximum_hides_no_other_one() {
    for (body, expected) in [
        (r#"{"max_tokens":1,"max_tokens":50,"max_tokens":2,"n":4,"n":1}"#, 200),
        (r#"{"max_tokens":1,"Max_Tokens":50,"N":3}"#, 150),
        ("{\"max_tokens\":1,\"max_token\u{17f}\":50}", 50),
        ("{\"max_tokens\":1,\"max_to\u{212a}ens\":50}", 50),
        (r#"{"max_tokens":1,"max_to\u212aen\u017f":50}"#, 50),
        (r#"{"max_tokens":1,"max_tokens":null}"#, 1_000),
        (r#"{"max_tokens":1,"max_tokens":"5"}"#, 1_000),
        (r#"{"max_tokens":1,"max_tokens":[5]}"#, 1_000),
        (r#"{"max_tokens":1,"max_tokens":{}}"#, 1_000),
        (r#"{"max_tokens":1,"max_tokens":7.5}"#, 1_000),
        (r#"{"max_tokens":1,"max_tokens":0}"#, 1_000),
        (r#"{"max_tokens":1,"max_tokens":-1}"#, 1_000),
        (r#"{"max_tokens":5000,"max_tokens":"5"}"#, 5_000),
        (r#"{"max_tokens":"5000"}"#, 5_000),
        (r#"{"max_tokens":"x"}"#, 1_000),
        (r#"{"max_tokens":1,"max_tokens":9007199254740992}"#, MAX_AMOUNT.unsigned_abs()),
        (r#"{"max_tokens":1,"max_tokens":123456789012345678901234567890}"#, MAX_AMOUNT.unsigned_abs()),
        (r#"{"max_tokens":1,"max_tokens":1e400}"#, MAX_AMOUNT.unsigned_abs()),
        (r#"{"max_tokens":1,"x":NaN,"max_tokens":5000}"#, 1_000),
        (r#"{"max_tokens":1}{}"#, 1_000),
        (r#"{"max_tokens":1"#, 1_000),
        // Longer than any key, however it begins.
        (r#"{"max_tokens":1,"max_completion_tokenss":50}"#, 1),
    ] {
        assert_eq!(output("/v1/chat/completions", body), expected, "{body}");
    }
}

#[test]
fn the_number_of_answers_counts_as_a_text_too_and_is_no_less_than_any_server_may_read() {
    let most = 10 * MAX_AMOUNT.unsigned_abs();
    let long = format!("\"{}3\"", "0".repeat(200));
    for (n, expected) in [
        ("\"3\"", 30),
        ("\" +3 \"", 30),
        ("\"\\u0033\"", 30),
        ("2,\"n\":\"3\",\"best_of\":\"1\"", 30),
        ("\"0\"", 10),
        ("\"3.0\"", most),
        ("\"1e3\"", most),
        ("\"-3\"", most),
        ("\"three\"", most),
        ("\"\"", most),
        (&long, most),
        ("null", 10),
        ("[3]", 10),
        ("{}", 10),
    ] {
        assert_eq!(output("/v1/chat/completions", &format!("{{\"max_tokens\":10,\"n\":{n}}}")), expected, "{n}");
    }
    assert_eq!(model(r#"{"model":"a","n":"3","max_tokens":"5"}"#), Model::Named("a".into()), "it is no name");
    assert_eq!(model(r#"{"n":"3"}"#), Model::Absent);
}

#[test]
fn each_prompt_of_a_list_has_answers_of_its_own() {
    for (body, expected) in [
        (r#"{"max_tokens":10,"prompt":["a","b\"","c"],"n":2}"#, 60),
        (r#"{"max_tokens":10,"Prompt":[[1,2],[3,[4],"x"]]}"#, 20),
        (r#"{"max_tokens":10,"prompt":[1,2,3]}"#, 10),
        (r#"{"max_tokens":10,"prompt":"a"}"#, 10),
        (r#"{"max_tokens":10,"prompt":[]}"#, 10),
        (r#"{"max_tokens":10,"messages":["a","b"]}"#, 10),
    ] {
        assert_eq!(output("/v1/completions", body), expected, "{body}");
    }
}

#[test]
fn an_estimate_is_never_more_than_a_balance_holds() {
    assert_eq!(total(&prompt(r#"{"max_tokens":9007199254740991,"n":9007199254740991}"#), 5), MAX_AMOUNT);
    let long = Prompt { bytes: BODY_MAX, ..Prompt::default() };
    assert_eq!(total(&long, 7), 7 + 131_072, "images say little by their bytes");
}

#[test]
fn a_model_is_named_once_or_unclear() {
    let named = |name: &str| Model::Named(name.into());
    assert_eq!(model("{}"), Model::Absent);
    assert_eq!(model(r#"{"messages":[{"model":"x"}],"metadata":{"model":"y"}}"#), Model::Absent);
    assert_eq!(model(r#"{"model":"gpt-4o","n":1}"#), named("gpt-4o"));
    assert_eq!(model(r#" { "mod\u0065l" : "qwen\u002dmax" } "#), named("qwen-max"), "escapes are what they stand for");
    assert_eq!(model(r#"{"model":"a","x":{"y":[1,true]},"model":"a"}"#), named("a"), "twice the same");
    let longest = "m".repeat(128);
    assert_eq!(model(&json!({ "model": longest }).to_string()), named(&longest));
    for unclear in [
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","Model":"a"}"#,
        r#"{"Model":"a"}"#,
        r#"{"MODEL":null}"#,
        r#"{"mOdel":7}"#,
        r#"{"modeL":["a"]}"#,
        r#"{"model":"a","model":null}"#,
        r#"{"model":["a"],"model":"b"}"#,
        r#"{"model":{"model":"a"}}"#,
        r#"{"model":7}"#,
        r#"{"model":true}"#,
        r#"{"model":""}"#,
        &json!({"model": "m".repeat(129)}).to_string(),
    ] {
        assert_eq!(model(unclear), Model::Unclear, "{unclear}");
    }
    assert_eq!(read([&b"{\"model\":\"\xff\"}"[..]]).model, Model::Unclear);
}

#[test]
fn a_stream_is_made_to_tell_its_usage_where_it_is_clear_that_it_does_not() {
    for (body, expected) in [
        (r#"{"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
        (
            " \n{ \"n\":1,\"stream\" : true }\n",
            " \n{\"stream_options\":{\"include_usage\":true}, \"n\":1,\"stream\" : true }\n",
        ),
        (r#"{"stream":true,"stream_options":{}}"#, r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options": { } ,"stream":true}"#, r#"{"stream_options": {"include_usage":true } ,"stream":true}"#),
        (
            r#"{"stream":true,"stream_options":{"x":{"include_usage":1}}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true,"x":{"include_usage":1}}}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"a":1,"include_\u0075sage": false ,"b":2}}"#,
            r#"{"stream":true,"stream_options":{"a":1,"include_\u0075sage": true ,"b":2}}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (r#"{"stream_options":null,"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
    ] {
        let prompt = prompt(body);
        let edited = prompt.edit.expect(body).apply(body.as_bytes());
        assert_eq!(std::str::from_utf8(&edited), Ok(expected));
        assert_eq!(self::prompt(expected).edit, None, "it is said now: {expected}");
        let value: Value = serde_json::from_slice(&edited).unwrap();
        assert_eq!(value["stream_options"]["include_usage"], true, "{expected}");
    }
    for as_it_is in [
        "{}",
        r#"{"stream":false}"#,
        r#"{"stream":"true"}"#,
        r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"messages":[{"stream":true}]}"#,
        r#"[{"stream":true}]"#,
        r#"{"stream":true}{}"#,
        r#"{"stream":true"#,
        // In two ways.
        r#"{"stream":true,"stream":true}"#,
        r#"{"stream":false,"stream":true}"#,
        r#"{"stream":true,"stream_options":{},"stream_options":{}}"#,
        r#"{"stream":true,"stream_options":null,"stream_options":{}}"#,
        r#"{"stream":true,"stream_options":{},"stream_options":null}"#,
        r#"{"stream":true,"stream_options":{"include_usage":false,"include_usage":false}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":true,"include_usage":false}}"#,
        // As no API has it.
        r#"{"stream":true,"stream_options":[]}"#,
        r#"{"stream":true,"stream_options":"x"}"#,
        r#"{"stream":true,"stream_options":7}"#,
        r#"{"stream":true,"stream_options":true}"#,
        r#"{"stream":true,"stream_options":{"include_usage":"true"}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":1}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":{}}}"#,
    ] {
        assert_eq!(prompt(as_it_is).edit, None, "{as_it_is}");
    }
    assert!(prompt(r#"{"stream":true}"#).stream && !prompt("{}").stream);
}

#[test]
fn only_completions_know_how_to_ask_for_usage() {
    let knows = |path: &str| knows_include_usage(path.as_bytes());
    assert!(knows("/v1/chat/completions") && knows("/v1/completions") && knows("/openai/v1/chat/completions"));
    assert!(!knows("/v1/messages") && !knows("/v1/responses") && !knows("/v1/models/g:streamGenerateContent"));
}

#[test]
fn only_one_whole_object_is_an_object() {
    for (body, expected) in [
        ("{}", true),
        ("\r\n {\"a\":[{}]}\t\n", true),
        ("", false),
        ("  ", false),
        ("{", false),
        ("{}{}", false),
        ("{} x", false),
        ("[{}]", false),
        ("7", false),
        ("{\"a\":01}", false),
        ("consumer=c&value=5", false),
    ] {
        let prompt = prompt(body);
        assert_eq!((prompt.is_object, prompt.bytes), (expected, body.len() as u64), "{body:?}");
    }
}

#[test]
fn what_is_nested_deeper_than_any_request_hides_nothing_behind_it() {
    let deep = format!(r#"{{"x":{}{},"model":"a","max_tokens":70}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let prompt = read(deep.as_bytes().chunks(1_000));
    assert_eq!((prompt.is_object, &prompt.model), (true, &Model::Named("a".into())));
    assert_eq!(prompt.at_most(CHAT, 1_000).output, Some(70));
}

#[test]
fn a_reader_of_any_body_keeps_less_than_two_kilobytes() {
    assert!(size_of::<Reader>() <= 2048, "{}", size_of::<Reader>());
}

#[test]
fn objects_are_read_as_serde_json_reads_them_and_garbage_the_same_however_it_is_cut() {
    let mut random = Random(11);
    let seeds: [&[u8]; 4] = [
        br#"{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":true},"n":2}"#,
        br#"{"messages":[{"role":"user","content":"a\"\\\u00e9b"}],"max_completion_tokens":1e3}"#,
        br#"{"generationConfig":{"maxOutputTokens":8},"contents":[{"parts":[{"text":"x"}]}]}"#,
        br#"{"model":"a","model":"b","stream":false}"#,
    ];
    let mut objects = 0;
    for _ in 0..10_000 {
        let mut body = random.pick(&seeds).to_vec();
        for _ in 0..random.below(3) {
            let at = random.below(body.len() + 1);
            match random.below(3) {
                0 => body.truncate(at),
                1 => drop(body.splice(at..at, random.pick(&seeds).iter().copied())),
                _ => drop(body.splice(at..at, [*random.pick(b"{}[]\",:\\u0 1-.e\xff")])),
            }
        }
        let whole = read([&body[..]]);
        let size = 1 + random.below(7);
        assert_eq!(read(body.chunks(size)), whole, "{}", body.escape_ascii());
        let Ok(text) = std::str::from_utf8(&body) else { continue };
        let value = serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
        // What stands for half a character is text to the one and none to the other.
        if !text.contains("\\u") {
            assert_eq!(whole.is_object, value.is_some(), "{text}");
        }
        objects += u32::from(whole.is_object);
        if let (Some(value), Model::Named(name)) = (&value, &whole.model) {
            assert_eq!(value["model"].as_str(), Some(name.as_str()), "{text}");
        }
    }
    assert!(objects > 1_000, "{objects}");
}
