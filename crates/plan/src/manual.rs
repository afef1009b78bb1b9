//! A refresh by hand: the annotation of an object in, the token that its balances are to keep out, or why there is
//! none. Pure.

use api::REFRESH;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::Object;

const LONGEST: usize = 64;

/// The value of the annotation, if it may be a token.
pub(crate) fn annotated(metadata: &ObjectMeta) -> Option<Result<&str, &str>> {
    let value = metadata.annotations.as_ref()?.get(REFRESH)?.as_str();
    let visible = (1..=LONGEST).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic());
    Some(if visible { Ok(value) } else { Err(value) })
}

/// What its balances are to keep: where the annotation says nothing that can be meant, what they have.
pub(crate) fn token(object: &Object) -> Option<&str> {
    match annotated(object.metadata())? {
        Ok(token) => Some(token),
        Err(_) => refreshed(object),
    }
}

/// The last token that was honoured.
pub(crate) fn refreshed(object: &Object) -> Option<&str> {
    object.status()?.refreshed.as_deref()
}
