//! Shapes that are easily got wrong, one sentence each.

use super::{Outcome, scan, scanned};
use crate::usage::Scanner;
use crate::values::MAX_AMOUNT;

const STREAM: Option<&str> = Some("text/event-stream");
const JSON: Option<&str> = Some("application/json");
const NDJSON: Option<&str> = Some("application/x-ndjson");

fn total(content_type: Option<&str>, body: &str) -> Option<u64> {
    scanned(content_type, body.as_bytes()).usage.map(|usage| usage.total)
}

fn generated(content_type: Option<&str>, body: &str) -> u64 {
    scanned(content_type, body.as_bytes()).generated
}

#[test]
fn lines_end_with_lf_crlf_or_cr() {
    for end in ["\n", "\r\n", "\r"] {
        let stream = ["data: {\"usage\":{\"total_tokens\":3}}", "", "data: {\"usage\":null}", "", ""].join(end);
        assert_eq!(total(STREAM, &stream), Some(3), "{end:?}");
    }
}

#[test]
fn an_event_over_several_lines_is_joined_by_line_breaks() {
    for end in ["\n", "\r\n", "\r"] {
        let lines =
            ["data: {\"usage\":", "data:{", ": a comment", "id: 7", "data", "data:   \"total_tokens\":", "data: 3"];
        let stream = [&lines[..], &["data: }}", "", ""]].concat().join(end);
        assert_eq!(total(STREAM, &stream), Some(3), "{end:?}");
    }
}

#[test]
fn a_line_break_inside_a_token_breaks_the_event() {
    for (head, tail) in
        [("\"total_", "tokens\":3"), ("\"total_tokens\":3", "3"), ("\"x\":tr", "ue"), ("\"a\\", "n\":1")]
    {
        let stream = format!("data: {{\"usage\":{{{head}\ndata: {tail},\"prompt_tokens\":1}}}}\n\n");
        assert_eq!(total(STREAM, &stream), None, "{head}");
    }
}

#[test]
fn only_data_fields_are_data() {
    for field in ["datax: ", "dat: ", " data: ", "Data: ", "event: ", ": ", ""] {
        let stream = format!(": hello\n\n{field}{{\"usage\":{{\"total_tokens\":3}}}}\n\n");
        assert_eq!(total(STREAM, &stream), None, "{field:?}");
    }
}

#[test]
fn a_byte_order_mark_and_blank_lines_may_stand_in_front() {
    for content_type in [STREAM, None] {
        assert_eq!(total(content_type, "\u{FEFF}\r\n\ndata: {\"usage\":{\"total_tokens\":3}}\n\n"), Some(3));
        assert_eq!(total(content_type, "\u{FEFF} \n{\"usage\":{\"total_tokens\":3}}"), Some(3));
    }
}

#[test]
fn an_event_ends_at_a_complete_line_where_the_blank_line_is_left_out() {
    let stream = "data: {\"usage\":{\"total_tokens\":3}}\ndata: {\"usage\":{\"total_tokens\":4}}\ndata: [DONE]\n";
    assert_eq!(total(STREAM, stream), Some(4));
}

#[test]
fn an_event_that_is_broken_says_nothing_and_the_next_one_counts() {
    for broken in [
        "{\"usage\":{\"total_tokens\":9}} x",
        "{\"usage\":{\"total_tokens\":9}}}",
        "{\"usage\":{\"total_tokens\":9},}",
        "{\"usage\":{\"total_tokens\":9}",
        "{\"usage\":{\"total_tokens\":09}}",
        "{\"usage\":{\"total_tokens\":9]}",
        "{\"usage\":{\"total_tokens\":9},\"x\":[1,]}",
        "{\"usage\":{\"total_tokens\":9},\"x\":]",
        "{\"choices\":[{\"delta\":{\"content\":\"lost\\",
        "[DONE]",
        "\u{1}",
    ] {
        let stream = format!("data: {broken}\n\ndata: {{\"usage\":{{\"total_tokens\":3}}}}\n\n");
        assert_eq!(total(STREAM, &stream), Some(3), "{broken}");
        assert_eq!(total(STREAM, &format!("data: {broken}\n\n")), None, "{broken}");
        assert_eq!(generated(STREAM, &format!("data: {broken}\n\n")), 0, "{broken}");
        let lines = format!("{broken}\n{{\"usage\":{{\"total_tokens\":3}}}}\n");
        if !broken.starts_with('\u{1}') {
            assert_eq!(total(NDJSON, &lines), Some(3), "{broken}");
        }
    }
}

#[test]
fn an_event_broken_in_one_line_stays_broken_in_the_next() {
    let stream = "data: {x\ndata: {\"usage\":{\"total_tokens\":9}}\n\n";
    assert_eq!(total(STREAM, stream), None);
}

#[test]
fn a_last_event_counts_when_it_is_complete_and_not_when_it_is_cut() {
    let event = "data: {\"usage\":{\"total_tokens\":3}}";
    for end in 0..event.len() {
        assert_eq!(total(STREAM, &event[..end]), None, "{end}");
    }
    assert_eq!(total(STREAM, event), Some(3));
    let line = "{\"usage\":{\"total_tokens\":3}}";
    assert_eq!(total(NDJSON, line), Some(3));
    assert_eq!(total(NDJSON, &line[..line.len() - 1]), None);
}

#[test]
fn a_json_answer_cut_behind_its_usage_still_states_it() {
    let body = "{\"usage\":{\"total_tokens\":3},\"choices\":[{\"message\":{\"content\":\"abc";
    assert_eq!(scanned(JSON, body.as_bytes()).usage.map(|usage| usage.total), Some(3));
    assert_eq!(generated(JSON, body), 3);
    assert_eq!(total(JSON, "{\"usage\":{\"total_tokens\":3"), None);
    assert_eq!(total(JSON, "{\"usage\":{\"total_tokens\":3} oh"), Some(3));
    assert_eq!(total(JSON, "{\"usage\":{\"total_tokens\":3 oh}}"), None);
}

#[test]
fn a_wrong_content_type_hides_nothing() {
    let (stream, body) = ("event: x\ndata: {\"usage\":{\"total_tokens\":3}}\n\n", "{\"usage\":{\"total_tokens\":3}}");
    for content_type in [JSON, NDJSON, STREAM, None, Some("text/event-stream;charset=utf-8"), Some("image/png")] {
        assert_eq!(total(content_type, stream), Some(3), "{content_type:?}");
        assert_eq!(total(content_type, body), Some(3), "{content_type:?}");
    }
    assert_eq!(
        total(Some("Text/Event-Stream ; charset=utf-8"), "x: y\n\ndata: {\"usage\":{\"total_tokens\":3}}\n\n"),
        Some(3)
    );
}

#[test]
fn an_ndjson_line_says_nothing_to_the_next() {
    let lines = "{\"prompt_eval_count\":2,\"message\":{\"content\":\"a\r\n\r\n{\"eval_count\":3,\"done\":true}\r\n";
    let outcome = scanned(NDJSON, lines.as_bytes());
    assert_eq!(outcome.usage.map(|usage| (usage.input, usage.output)), Some((None, Some(3))));
}

#[test]
fn usage_counts_only_where_the_answer_has_it() {
    for elsewhere in [
        "{\"metadata\":{\"usage\":{\"total_tokens\":9}}}",
        "{\"message\":{\"content\":{\"usage\":{\"total_tokens\":9}}}}",
        "{\"choices\":{\"usage\":{\"total_tokens\":9}}}",
        "{\"choices\":[[{\"usage\":{\"total_tokens\":9}}]]}",
        "{\"choices\":[{\"message\":{\"usage\":{\"total_tokens\":9}}}]}",
        "{\"response\":{\"response\":{\"usage\":{\"total_tokens\":9}}}}",
        "{\"usage\":[{\"total_tokens\":9}]}",
        "{\"usage\":{\"usage\":{\"total_tokens\":9}}}",
        "{\"usage\":{\"prompt_tokens_details\":{\"total_tokens\":9}}}",
        "{\"usage\":\"{\\\"total_tokens\\\":9}\"}",
        "[[{\"usage\":{\"total_tokens\":9}}]]",
        "{\"total_tokens\":9}",
        "{\"Usage\":{\"total_tokens\":9}}",
        "{\"usage\":{\"total_tokens\":true}}",
        "{\"usage\":{\"total_tokens\":[9]}}",
        "{\"usage\":{\"total_tokens\":{\"total_tokens\":9}}}",
        "{\"message\":{\"prompt_eval_count\":9}}",
    ] {
        assert_eq!(total(JSON, elsewhere), None, "{elsewhere}");
        assert_eq!(total(STREAM, &format!("data: {elsewhere}\n\n")), None, "{elsewhere}");
    }
}

#[test]
fn usage_of_the_answer_goes_before_usage_of_a_choice() {
    let (choice, answer) = ("\"choices\":[{\"usage\":{\"total_tokens\":2}}]", "\"usage\":{\"total_tokens\":5}");
    assert_eq!(total(JSON, &format!("{{{choice},{answer}}}")), Some(5));
    assert_eq!(total(JSON, &format!("{{{answer},{choice}}}")), Some(5));
    assert_eq!(total(JSON, &format!("{{{choice}}}")), Some(2));
}

#[test]
fn of_two_usages_the_last_counts_and_null_or_zeros_say_nothing() {
    let stream = |last: &str| {
        format!("data: {{\"usage\":{{\"prompt_tokens\":4,\"completion_tokens\":4}}}}\n\ndata: {{\"usage\":{last}}}\n\n")
    };
    for silent in
        ["null", "{}", "{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}", "{\"total_tokens\":\"9\"}"]
    {
        assert_eq!(total(STREAM, &stream(silent)), Some(8), "{silent}");
    }
    assert_eq!(total(STREAM, &stream("{\"prompt_tokens\":1}")), Some(1));
    assert_eq!(
        total(JSON, "{\"usage\":{\"total_tokens\":4},\"usage\":{\"total_tokens\":3,\"total_tokens\":2}}"),
        Some(2)
    );
}

#[test]
fn escaped_keys_are_the_keys_they_stand_for() {
    assert_eq!(total(JSON, r#"{"\u0075sage":{"total\u005Ftokens":3}}"#), Some(3));
    assert_eq!(total(JSON, r#"{"\/usage":{"total_tokens":3}}"#), None);
    assert_eq!(total(JSON, r#"{"usage\ud83d\ude00":{"total_tokens":3}}"#), None);
    assert_eq!(total(JSON, r#"{"usage\u000":{"total_tokens":3}}"#), None);
    assert_eq!(total(JSON, r#"{"usage\x":{"total_tokens":3}}"#), None);
}

#[test]
fn numbers_may_be_written_in_any_way_and_have_bounds() {
    let most = MAX_AMOUNT.unsigned_abs();
    for (number, expected) in [
        ("3.0", Some(3)),
        ("30e-1", Some(3)),
        ("0.3E+1", Some(3)),
        ("-0", None),
        ("-3", None),
        ("3.5", None),
        ("\"3\"", None),
        ("9007199254740991", Some(most)),
        ("9007199254740992", None),
        ("99999999999999999999999999", None),
        ("1e400", None),
    ] {
        assert_eq!(total(JSON, &format!("{{\"usage\":{{\"total_tokens\":{number}}}}}")), expected, "{number}");
    }
    for broken in ["-", "+3", "03", ".3", "3.", "3e", "3e+", "-.3", "3-", "0x3", "NaN", "nul", "3 3"] {
        assert_eq!(total(JSON, &format!("{{\"usage\":{{\"total_tokens\":{broken}}}}}")), None, "{broken}");
    }
}

#[test]
fn the_total_is_the_answers_own_else_the_sum() {
    let answer = |usage: &str| scanned(JSON, format!("{{\"usage\":{usage}}}").as_bytes()).usage.unwrap();
    assert_eq!(answer("{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":9}").total, 9);
    assert_eq!(answer("{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":0}").total, 5);
    assert_eq!(answer("{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":null}").total, 5);
    let most = format!("{{\"input_tokens\":{MAX_AMOUNT},\"output_tokens\":{MAX_AMOUNT}}}");
    assert_eq!(answer(&most).total, MAX_AMOUNT.unsigned_abs());
}

#[test]
fn cached_input_is_added_only_where_no_total_is_named() {
    let usage = "\"input_tokens\":5,\"output_tokens\":1,\"cache_read_input_tokens\":4";
    let answer = |more: &str| scanned(JSON, format!("{{\"usage\":{{{usage}{more}}}}}").as_bytes()).usage.unwrap();
    assert_eq!((answer("").input, answer("").total), (Some(9), 10));
    assert_eq!((answer(",\"total_tokens\":6").input, answer(",\"total_tokens\":6").total), (Some(5), 6));
}

#[test]
fn the_usage_of_a_message_start_is_merged_with_those_that_follow() {
    let stream = |start: &str, then: &[&str]| {
        let mut stream = format!("data: {{\"message\":{{\"usage\":{start}}}}}\n\n");
        for usage in then {
            stream += &format!("data: {{\"usage\":{usage}}}\n\n");
        }
        scanned(STREAM, stream.as_bytes()).usage.map(|usage| (usage.input, usage.output, usage.total))
    };
    let start = "{\"input_tokens\":5,\"output_tokens\":1}";
    assert_eq!(stream(start, &[]), Some((Some(5), Some(1), 6)));
    assert_eq!(stream(start, &["{\"output_tokens\":2}", "{\"output_tokens\":7}"]), Some((Some(5), Some(7), 12)));
    // Some servers know the input only at the end, others have forgotten it by then.
    let zero = "{\"input_tokens\":0,\"output_tokens\":0}";
    assert_eq!(stream(zero, &[]), None);
    assert_eq!(stream(zero, &["{\"input_tokens\":5}", "{\"output_tokens\":7}"]), Some((Some(5), Some(7), 12)));
    assert_eq!(stream(start, &["{\"input_tokens\":0,\"output_tokens\":7}"]), Some((Some(5), Some(7), 12)));
    // One that names a total needs nothing from before, nor do those behind it.
    let whole = "{\"output_tokens\":7,\"total_tokens\":8}";
    assert_eq!(stream(start, &[whole]), Some((None, Some(7), 8)));
    assert_eq!(stream(start, &[whole, "{\"prompt_tokens\":1}"]), Some((Some(1), None, 1)));
}

#[test]
fn text_is_measured_as_what_its_escapes_stand_for() {
    let content =
        |text: &str| generated(JSON, &format!("{{\"choices\":[{{\"message\":{{\"content\":\"{text}\"}}}}]}}"));
    assert_eq!(content(r"abc"), 3);
    assert_eq!(content(r#"a\n\"\\\/c"#), 6);
    assert_eq!(content(r"\u4f60\u597d"), "你好".len() as u64);
    assert_eq!(content(r"\ud83d\ude00"), "😀".len() as u64);
    assert_eq!(content("你好😀"), "你好😀".len() as u64);
}

#[test]
fn text_is_found_where_models_say_it() {
    for (bytes, answer) in [
        (3, r#"{"choices":[{"delta":{"reasoning_content":"abc","role":"assistant"}}]}"#),
        (3, r#"{"choices":[{"delta":{"reasoning":"abc"}}]}"#),
        (3, r#"{"choices":[{"delta":{"refusal":"abc"}}]}"#),
        (3, r#"{"choices":[{"delta":{"tool_calls":[{"id":"x","function":{"name":"f","arguments":"{}}"}}]}}]}"#),
        (3, r#"{"choices":[{"message":{"function_call":{"name":"f","arguments":"abc"}}}]}"#),
        (3, r#"{"choices":[{"message":{"content":[{"type":"text","text":"abc"}]}}]}"#),
        (6, r#"{"choices":[{"message":{"content":"abc"}},{"message":{"content":"def"}}]}"#),
        (3, r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"abc"}}"#),
        (3, r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"abc"}}"#),
        (3, r#"{"type":"content_block_start","content_block":{"type":"text","text":"abc"}}"#),
        (6, r#"{"content":[{"type":"tool_use","name":"f","input":{"a":"abc","b":[{"c":"def"}],"d":1}}]}"#),
        (3, r#"{"candidates":[{"content":{"parts":[{"text":"abc"}],"role":"model"}}]}"#),
        (3, r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"q":"abc"}}}]}}]}"#),
        (3, r#"{"output":[{"type":"message","content":[{"type":"output_text","text":"abc"}]}]}"#),
        (3, r#"{"output":[{"type":"function_call","name":"f","arguments":"abc"}]}"#),
        (3, r#"{"output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"abc"}]}]}"#),
        (3, r#"{"type":"response.output_text.delta","item_id":"x","delta":"abc"}"#),
        (3, r#"{"model":"l","response":"abc","done":false}"#),
        (3, r#"{"model":"l","message":{"role":"assistant","thinking":"abc"}}"#),
        // What a Responses stream has said in its deltas.
        (0, r#"{"type":"response.output_text.done","text":"abc"}"#),
        (0, r#"{"type":"response.function_call_arguments.done","arguments":"abc"}"#),
        (0, r#"{"type":"response.content_part.done","part":{"text":"abc"}}"#),
        (0, r#"{"type":"response.output_item.done","item":{"content":[{"text":"abc"}]}}"#),
        (0, r#"{"type":"response.completed","response":{"output":[{"content":[{"text":"abc"}]}]}}"#),
        (0, r#"{"error":{"message":"abc"}}"#),
    ] {
        assert_eq!(generated(JSON, answer), bytes, "{answer}");
        assert_eq!(generated(STREAM, &format!("data: {answer}\n\n")), bytes, "{answer}");
    }
}

#[test]
fn the_first_model_named_is_kept_if_it_is_short_enough() {
    let model = |body: &str| scanned(JSON, body.as_bytes()).model;
    assert_eq!(model(r#"{"model":"a"}{"model":"b"}"#).as_deref(), Some("a"));
    assert_eq!(model(r#"{"model":"a","model":"b"}"#).as_deref(), Some("b"));
    assert_eq!(model(r#"{"model":""}{"response":{"model":"b\u002D\u4f60"}}"#).as_deref(), Some("b-你"));
    assert_eq!(model(r#"{"model":7}{"model":{"model":"x"}}{"model":["x"]}"#), None);
    let long = |length: usize| scan(JSON, [format!("{{\"model\":\"{}\"}}", "m".repeat(length)).as_bytes()]).model;
    assert_eq!(long(128), Some("m".repeat(128)));
    assert_eq!(long(129), None);
    assert_eq!(scan(JSON, [&b"{\"model\":\"\xFF\"}"[..]]).model, None);
    // A broken event names nothing.
    let stream = "data: {\"model\":\"a\" x}\n\ndata: {\"model\":\"b\"}\n\n";
    assert_eq!(scanned(STREAM, stream.as_bytes()).model.as_deref(), Some("b"));
}

#[test]
fn what_comes_after_the_end_is_ignored() {
    let mut scanner = Scanner::new(None);
    scanner.finish();
    scanner.feed(b"{\"usage\":{\"total_tokens\":3}}");
    scanner.finish();
    assert_eq!(Outcome::of(&scanner), Outcome { usage: None, generated: 0, model: None });
}

#[test]
fn nothing_grows_with_the_answer() {
    // The scanner has no heap: what it keeps is its size.
    assert!(std::mem::size_of::<Scanner>() <= 2048, "{}", std::mem::size_of::<Scanner>());
    let huge = "a".repeat(10_000_000);
    let usage = "\"usage\":{\"total_tokens\":3}";
    for (body, text) in [
        (format!("{{\"{huge}\":1,{usage}}}"), 0),
        (format!("{{\"model\":\"{huge}\",{usage}}}"), 0),
        (format!("{{\"choices\":[{{\"message\":{{\"content\":\"{huge}\"}}}}],{usage}}}"), 10_000_000),
        (format!("{{\"x\":{},{usage}}}", "1".repeat(10_000_000)), 0),
        (format!("{{{}{usage}}}", " ".repeat(10_000_000)), 0),
    ] {
        for (content_type, body) in [(JSON, body.clone()), (STREAM, format!("data: {body}\n\n"))] {
            let outcome = scan(content_type, body.as_bytes().chunks(16_384));
            assert_eq!((outcome.usage.map(|usage| usage.total), outcome.generated), (Some(3), text));
        }
    }
}

#[test]
fn nesting_however_deep_hides_no_usage() {
    for depth in [1, 126, 127, 128, 129, 100_000] {
        let (open, close) = ("[{\"a\":".repeat(depth), "}]".repeat(depth));
        let body = format!("{{\"tools\":{open}\"}}\\\"]\"{close},\"usage\":{{\"total_tokens\":3}}}}");
        for (content_type, body) in [(JSON, body.clone()), (STREAM, format!("data: {body}\n\n"))] {
            assert_eq!(
                scan(content_type, body.as_bytes().chunks(7)).usage.map(|usage| usage.total),
                Some(3),
                "{depth}"
            );
            let cut = body.replacen("\"}\\\"", "\"\n", 1);
            assert_eq!(scan(content_type, cut.as_bytes().chunks(7)).usage, None, "{depth}");
        }
        // A line break in the text of an event, and an event that ends too early.
        for (ending, expected) in [("\"\ndata: \"", None), ("\n\ndata: {\"usage\":{\"total_tokens\":4}}\n\n", Some(4))]
        {
            let cut = format!("data: {}\n\n", body.replacen("\"}\\\"", ending, 1));
            let usage = scan(STREAM, cut.as_bytes().chunks(7)).usage;
            assert_eq!(usage.map(|usage| usage.total), expected, "{depth} {ending:?}");
        }
    }
}
