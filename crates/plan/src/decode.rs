//! An object as JSON in, the object or the field that cannot be read out. Pure.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::validate::{Refusal, Refused};

/// Reads an object and names the field it fails at, which the API server's client does not.
///
/// # Errors
/// The first field that is of another type, out of its type's range, missing or unknown.
pub fn decode<K: DeserializeOwned>(object: Value) -> Result<K, Refusal> {
    serde_path_to_error::deserialize(object).map_err(|error| {
        let field = error.path().to_string();
        let mut message = error.into_inner().to_string();
        // The names of all fields would bury the one that is not among them.
        if message.starts_with("unknown field")
            && let Some(end) = message.find(", expected")
        {
            message.truncate(end);
        }
        Refusal { field, reason: Refused::Unreadable, message }
    })
}
