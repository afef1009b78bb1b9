//! The planner refuses what the table says, for the reason it says, naming the field; and nothing else.

use api::{AiQuota, AiQuotaStore, AiTokenRateLimit};
use plan::{Refusal, Refused, decode, validate, validate_limit, validate_store};
use serde_json::{Value, json};
use table::{Kind, accepted, refused};

mod table;

fn check(kind: Kind, object: Value) -> Result<(), Vec<Refusal>> {
    match kind {
        Kind::Quota => decode::<AiQuota>(object).map_err(|refusal| vec![refusal]).and_then(|quota| validate(&quota)),
        Kind::Limit => {
            decode::<AiTokenRateLimit>(object).map_err(|refusal| vec![refusal]).and_then(|limit| validate_limit(&limit))
        }
        Kind::Store => {
            decode::<AiQuotaStore>(object).map_err(|refusal| vec![refusal]).and_then(|store| validate_store(&store))
        }
    }
}

#[test]
fn each_changed_object_is_refused_for_its_field_and_reason_alone() {
    for case in refused() {
        let refusals = check(case.kind, case.object()).expect_err(&case.name());
        let [Refusal { field, reason, message }] = refusals.as_slice() else {
            panic!("{}: more than one refusal: {refusals:?}", case.name());
        };
        assert_eq!((field.as_str(), *reason), (case.field, case.reason), "{}: {message}", case.name());
        assert!(!message.is_empty() && message.len() < 200, "{}: {message}", case.name());
    }
}

#[test]
fn valid_objects_are_accepted() {
    for (kind, object) in accepted() {
        assert_eq!(check(kind, object.clone()), Ok(()), "{object}");
    }
}

/// To compare all with all, in each rule of each model, would cost the API server more than it allows.
#[test]
fn more_limits_of_one_match_than_a_request_should_ask_for_are_refused() {
    let limit = |count: usize| {
        let any = |n| json!({"match": {"any": true}, "tokens": 1, "window": format!("{n}s")});
        let mut limit = table::valid(Kind::Limit);
        limit["spec"]["rules"][0]["limits"] = (1..=count).map(any).collect();
        limit
    };
    assert_eq!(check(Kind::Limit, limit(10)), Ok(()));
    let refusals = check(Kind::Limit, limit(11)).unwrap_err();
    let found = (refusals.len(), refusals[0].field.as_str(), refusals[0].reason);
    assert_eq!(found, (1, "spec.rules[0].limits", Refused::TooMany));
}

/// The API server takes them, as RE2 does; the module has no tables of letters beyond ASCII, and a pattern that it read as
/// something else would limit others.
#[test]
fn patterns_that_re2_knows_and_the_module_does_not_are_refused_by_their_field() {
    for pattern in [r"\pL", r"^\p{Greek}+$", r"[\PN]", "(?i)\u{c9}", "(?i:x\u{c9})"] {
        let mut limit = table::valid(Kind::Limit);
        limit["spec"]["rules"][0]["limits"][1]["match"] = json!({"pattern": pattern});
        let refusals = check(Kind::Limit, limit).expect_err(pattern);
        let found: Vec<_> = refusals.iter().map(|refusal| (refusal.field.as_str(), refusal.reason)).collect();
        assert_eq!(found, [("spec.rules[0].limits[1].match.pattern", Refused::Characters)], "{pattern}");
    }
}

/// The API server cannot measure them.
#[test]
fn patterns_that_take_too_much_together_are_refused_with_what_they_take() {
    let limit = |count: usize| {
        let pattern = |n| json!({"match": {"pattern": format!("^{n}[a-z]{{200}}$")}, "tokens": 1, "window": "1m"});
        let mut limit = table::valid(Kind::Limit);
        limit["spec"]["rules"][0]["limits"] = (0..count).map(pattern).collect();
        limit
    };
    let fit = (1..64).rfind(|count| check(Kind::Limit, limit(*count)).is_ok()).unwrap();
    assert!((2..32).contains(&fit), "{fit}");
    let refusals = check(Kind::Limit, limit(fit + 1)).unwrap_err();
    assert_eq!((refusals.len(), refusals[0].field.as_str(), refusals[0].reason), (1, "spec.rules", Refused::TooMany));
    assert!(refusals[0].message.contains("at most 65536 may be"), "{}", refusals[0].message);
}
