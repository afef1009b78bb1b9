//! Models: which limits a request for one is under besides those of all, what its tokens weigh, and who names two.

use super::*;
use crate::prompt::Reader;

fn config() -> Value {
    let limit = |tokens: i64| json!({"tokens": tokens, "windowSeconds": 60});
    native(json!({
        "global": [limit(100)],
        "models": [
            {"name": "dear", "weights": [2, 10, 2, 10]},
            {"name": "slow-*", "global": [limit(5)], "rules": [
                {"by": {"consumer": {}}, "limits": [{"match": "any", "tokens": 3, "windowSeconds": 60}]}
            ]},
        ]
    }))
}

fn step(config: &Value, asked: &Asked, body: &str) -> Step {
    match start(config, asked) {
        Step::AwaitBody(awaiting) => {
            let mut reader = Reader::new();
            reader.feed(body.as_bytes());
            Limits::body(awaiting, Body::Read(reader.finish()), asked)
        }
        other => panic!("{other:?}"),
    }
}

fn asked(step: Step) -> Ask {
    match step {
        Step::Ask(ask) => ask,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_for_a_model_is_under_its_limits_besides_those_of_all() {
    let user = Asked::with(&[("x-mse-consumer", "user1")]);
    let keys = |body: &str| {
        let ask = asked(step(&config(), &user, body));
        let sent = words(&ask.call.command);
        let count: usize = sent[2].parse().unwrap();
        let keys =
            sent[3..3 + count].iter().map(|key| key.strip_prefix("higress-token-ratelimit:").unwrap().to_owned());
        (keys.collect::<Vec<_>>(), ask.pending.model().unwrap().to_owned())
    };
    let common = "{r}:global_threshold:60".to_owned();
    assert_eq!(keys(r#"{"model":"else"}"#), (vec![common.clone()], "other".to_owned()));
    assert_eq!(keys(r#"{"model":"dear"}"#), (vec![common.clone()], "dear".to_owned()));
    let own = [
        "{r} slow-* :global_threshold:60".to_owned(),
        "{r} slow-* :limit_by_per_consumer:60:x-mse-consumer:user1".to_owned(),
    ];
    let all = [vec![common], own.to_vec()].concat();
    assert_eq!(keys(r#"{"model":"slow-1"}"#), (all, "slow-*".to_owned()));
}

#[test]
fn a_request_under_no_limit_passes_and_one_for_two_models_does_not() {
    let limit = json!([{"tokens": 5, "windowSeconds": 60}]);
    let only = native(json!({"models": [{"name": "slow", "global": limit}]}));
    assert_eq!(step(&only, &Asked::with(&[]), r#"{"model":"else"}"#), Step::Pass);
    for (headers, body) in [
        (&[("x-higress-llm-model", "else")][..], r#"{"model":"slow"}"#),
        (&[], r#"{"model":"else","model":"slow"}"#),
        (&[], r#"{"model":"else"}{"model":"slow"}"#),
    ] {
        let Step::Refuse(response) = step(&only, &Asked::with(headers), body) else { panic!("{body}") };
        assert_eq!((response.status, response.details), (403, "ai-token-ratelimit.unclear_model"), "{body}");
    }
    let differing = [("x-mse-consumer", "a"), ("x-mse-consumer", "b")];
    assert!(matches!(start(&config(), &Asked::with(&differing)), Step::Refuse(_)), "limits of a model look at it");
    let Step::AwaitBody(awaiting) = start(&only, &Asked::with(&[])) else { panic!() };
    let Step::Refuse(response) = Limits::body(awaiting, Body::TooLong, &Asked::with(&[])) else { panic!() };
    assert_eq!((response.status, response.details), (413, "ai-token-ratelimit.body_too_long"));
}

#[test]
fn all_counters_of_a_request_are_charged_what_its_tokens_weigh() {
    let charged = |model: &str| {
        let ask = asked(step(&config(), &Asked::with(&[]), &format!(r#"{{"model":"{model}"}}"#)));
        let (mut meter, _) = admitted(ask.pending.answer(Ok(b"*1\r\n*3\r\n:100\r\n:0\r\n:60\r\n")));
        meter.response_headers(Some(200), None, None);
        meter.response_body(br#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#);
        let Ending::Charge(charge) = meter.end(NOW) else { panic!() };
        let sent = words(&charge.call.command);
        assert_eq!(sent[4], "charge");
        sent[5].clone()
    };
    assert_eq!(charged("dear"), "46");
    assert_eq!(charged("else"), "7");
}

#[test]
fn a_model_that_cannot_be_used_is_named_by_its_field() {
    for (model, field) in [
        (json!({"name": "a b"}), "models[0] is no model, or weighs too much"),
        (json!({"name": "a", "weights": [1, 1, 1, 1001]}), "models[0] is no model, or weighs too much"),
        (
            json!({"name": "a", "global": [{"tokens": 0, "windowSeconds": 1}]}),
            "models[0].global is too long or out of range",
        ),
        (json!({"name": "a", "rules": [{"by": {"header": ""}, "limits": []}]}), "models[0].rules[0].by names nothing"),
    ] {
        let config = native(json!({"global": [{"tokens": 5, "windowSeconds": 60}], "models": [model]}));
        let policies = policies(&config);
        let Target::Refuse { reason, .. } = policies.target(&Subject::default()).unwrap() else { panic!("{field}") };
        assert_eq!(*reason, format!("Invalid configuration: aiquota.policies.p.{field}."));
    }
}
