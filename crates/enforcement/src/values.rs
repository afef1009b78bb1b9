//! The bounds and alphabets of what users declare: one constant each, printed into the CRD schema, checked
//! again by the planner and by the modules. Pure.

/// Amounts, caps and weighted charges are 0 to this; a stored balance is between its negative and it.
/// Lua numbers are doubles: above 2^53 they lose units silently.
pub const MAX_AMOUNT: i64 = (1 << 53) - 1;

pub const CONSUMER_MAX_LENGTH: usize = 253;
/// Visible ASCII without braces: a consumer becomes part of a Redis key whose hash tag is in braces.
pub const CONSUMER_PATTERN: &str = "^[!-z|~]{1,253}$";

pub const KEY_PREFIX_MAX_LENGTH: usize = 128;
pub const KEY_PREFIX_PATTERN: &str = "^[!-z|~]{1,128}$";
/// Key prefixes that begin so belong to namespaces that may not choose one.
pub const RESERVED_KEY_PREFIX: &str = "aiquota:";

/// Whether every byte may stand in a consumer name or key prefix.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'!'..=b'z' | b'|' | b'~'))
}

/// Whether this is a consumer name that native policies accept ([`CONSUMER_PATTERN`]).
#[must_use]
pub fn is_consumer(text: &[u8]) -> bool {
    (1..=CONSUMER_MAX_LENGTH).contains(&text.len()) && is_plain(text)
}

/// Whether this is a key prefix that native policies accept ([`KEY_PREFIX_PATTERN`]).
#[must_use]
pub fn is_key_prefix(text: &[u8]) -> bool {
    (1..=KEY_PREFIX_MAX_LENGTH).contains(&text.len()) && is_plain(text)
}

/// Whether an amount may be declared: 0 to [`MAX_AMOUNT`].
#[must_use]
pub const fn is_amount(amount: i64) -> bool {
    0 <= amount && amount <= MAX_AMOUNT
}
