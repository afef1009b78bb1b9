//! When a request is admitted: the same for both kinds. The comments with three slashes are what `kubectl explain`
//! shows. No comments on the variants: they would turn the enum into alternatives, which a structural schema may not
//! have.

use enforcement::values::MAX_AMOUNT;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Admission {
    #[default]
    Check,
    Reserve,
}

/// What is held for a request that does not say itself how long its answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reservation {
    /// Tokens that are held for the answer to a request without `max_tokens`, `max_completion_tokens`,
    /// `max_output_tokens` or `generationConfig.maxOutputTokens`, 1 to 9007199254740991. An answer that is longer is
    /// charged as long as it is, and may then exceed what is left.
    #[schemars(range(min = 1, max = MAX_AMOUNT))]
    pub default_max_tokens: i64,
}

pub(crate) fn reservation_with_reserve() -> serde_json::Value {
    serde_json::json!({
        "rule": "has(self.reservation) == (has(self.admission) && self.admission == 'Reserve')",
        "message": "is required with admission Reserve and allowed with no other",
        "fieldPath": ".reservation",
    })
}
