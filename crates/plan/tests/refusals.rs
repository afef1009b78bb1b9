//! The planner refuses what the table says, for the reason it says, naming the field; and nothing else.

use api::{AiQuota, AiQuotaStore, AiTokenRateLimit};
use plan::{Refusal, decode, validate, validate_limit, validate_store};
use serde_json::Value;
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
