//! The bounds and alphabets of what users declare: one constant each, printed into the CRD schema, checked
//! again by the planner and by the modules. Pure.

/// Amounts, caps and weighted charges are 0 to this; a stored balance is between its negative and it.
/// Lua numbers are doubles: above 2^53 they lose units silently.
pub const MAX_AMOUNT: i64 = (1 << 53) - 1;

/// Hundredths of what may be used at which somebody is warned.
pub const WARN_AT_MIN: u8 = 1;
pub const WARN_AT_MAX: u8 = 100;

/// Whether so many hundredths are used of an amount.
#[must_use]
pub const fn reaches(used: i64, of: i64, percent: u8) -> bool {
    // Amounts leave room for both products.
    used.saturating_mul(100) >= of.saturating_mul(percent as i64)
}

pub const CONSUMER_MAX_LENGTH: usize = 253;
/// Visible ASCII without braces: a consumer becomes part of a Redis key whose hash tag is in braces.
pub const CONSUMER_PATTERN: &str = "^[!-z|~]{1,253}$";

pub const KEY_PREFIX_MAX_LENGTH: usize = 128;
pub const KEY_PREFIX_PATTERN: &str = "^[!-z|~]{1,128}$";
/// Key prefixes that begin so belong to namespaces that may not choose one.
pub const RESERVED_KEY_PREFIX: &str = "aiquota:";

/// What is metered where nothing is declared: request paths that end so.
pub const DEFAULT_PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/messages", "/v1/responses"];
pub const PATHS_MAX: usize = 32;
pub const PATH_MAX_LENGTH: usize = 128;
/// A path suffix: visible ASCII without braces, `?` and `#` (paths are compared without their query).
pub const PATH_PATTERN: &str = r##"^[/:][!-"$->@-z|~]{1,127}$"##;
/// The admin API is at [`ADMIN_BASE_PATH`] plus a path of the same form, beginning with a slash.
pub const ADMIN_PATH_PATTERN: &str = r##"^/[!-"$->@-z|~]{1,127}$"##;
pub const ADMIN_BASE_PATH: &str = "/v1/chat/completions";
pub const DEFAULT_ADMIN_PATH: &str = "/quota";

pub const DATABASE_MAX: u32 = 65_535;
pub const DEFAULT_TIMEOUT_MS: u32 = 1_000;
pub const TIMEOUT_MS_MIN: u32 = 10;
pub const TIMEOUT_MS_MAX: u32 = 60_000;

/// Names the counters of token rate limits: visible ASCII without braces, as in a key prefix.
pub const RULE_NAME_MAX_LENGTH: usize = 320;
pub const RULE_NAME_PATTERN: &str = "^[!-z|~]{1,320}$";
/// Rules of one policy, as many as upstream's module enforces at once.
pub const RULES_MAX: usize = 10;
/// A limit's tokens are 1 to [`MAX_AMOUNT`], its window 1 second to 31 days.
pub const WINDOW_SECONDS_MAX: u32 = 31 * 86_400;
pub const REJECTION_CODE_MIN: u16 = 400;
pub const REJECTION_CODE_MAX: u16 = 599;
pub const DEFAULT_REJECTION_CODE: u16 = 429;
pub const DEFAULT_REJECTION_MESSAGE: &str = "Too many requests";

/// Limits of one match, each of another window.
pub const SAME_MATCH_MAX: usize = 10;
/// What the patterns of a policy may take together, compiled, in bytes.
pub const PATTERNS_SIZE_MAX: usize = 65_536;
/// The longest value that patterns are tried on, in bytes; longer than any exact value may be.
pub const TRIED_MAX: usize = 1_024;
/// The longest value that stands in a key as it is, in bytes.
pub const KEPT_MAX: usize = 512;

/// Models of one object: names, or beginnings of names with `*` behind them.
pub const MODELS_MAX: usize = 32;
pub const MODEL_MAX_LENGTH: usize = 128;
/// Visible ASCII without braces, and `*` nowhere but at the end.
pub const MODEL_PATTERN: &str = r"^([!-)+-z|~]{1,128}|[!-)+-z|~]{0,127}\*)$";
/// How much one token counts at most.
pub const WEIGHT_MAX: u16 = 1_000;

/// Whether every byte may stand in a consumer name or key prefix.
pub(crate) fn is_plain(text: &[u8]) -> bool {
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

/// Whether this names the counters of limits ([`RULE_NAME_PATTERN`]).
#[must_use]
pub fn is_rule_name(text: &[u8]) -> bool {
    (1..=RULE_NAME_MAX_LENGTH).contains(&text.len()) && is_plain(text)
}

/// Whether this is a metered path suffix that native policies accept ([`PATH_PATTERN`]).
#[must_use]
pub fn is_path(text: &[u8]) -> bool {
    matches!(text, [b'/' | b':', rest @ ..] if is_path_rest(rest))
}

/// Whether this is a path below [`ADMIN_BASE_PATH`] that native policies accept ([`ADMIN_PATH_PATTERN`]).
#[must_use]
pub fn is_admin_path(text: &[u8]) -> bool {
    matches!(text, [b'/', rest @ ..] if is_path_rest(rest))
}

fn is_path_rest(rest: &[u8]) -> bool {
    (1..PATH_MAX_LENGTH).contains(&rest.len()) && is_plain(rest) && !rest.iter().any(|byte| matches!(byte, b'?' | b'#'))
}

/// Whether an amount may be declared: 0 to [`MAX_AMOUNT`].
#[must_use]
pub const fn is_amount(amount: i64) -> bool {
    0 <= amount && amount <= MAX_AMOUNT
}
