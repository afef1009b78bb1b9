//! What a path asks for: a metered call, the admin API, or neither. In: `:path` and a policy's suffixes. Out: the
//! mode and the query. Pure.

use std::borrow::Cow;

use crate::values::ADMIN_BASE_PATH;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Metered,
    Admin(Operation),
    /// Neither: passes unmetered.
    Other,
    /// Neither, and no others are open.
    Unlisted,
}

/// An operation of the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Query,
    Refresh,
    Delta,
}

/// The paths of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    metered: Vec<String>,
    /// The path of the query; the other operations are below it.
    admin: Option<String>,
    /// Whether other spellings of a metered path are metered too.
    tolerant: bool,
    /// Whether other paths are refused.
    closed: bool,
}

impl Paths {
    /// `admin` is what follows [`ADMIN_BASE_PATH`], under which the admin API stands whatever paths are metered.
    #[must_use]
    pub fn new(metered: Vec<String>, admin: Option<&str>) -> Self {
        Self { metered, admin: admin.map(|path| [ADMIN_BASE_PATH, path].concat()), tolerant: false, closed: false }
    }

    /// Every path is [`Mode::Other`].
    #[must_use]
    pub const fn none() -> Self {
        Self { metered: Vec::new(), admin: None, tolerant: false, closed: false }
    }

    /// Whether none could be anything but [`Mode::Other`].
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.metered.is_empty() && self.admin.is_none() && !self.closed
    }

    /// Meters also what servers take for a metered path though it is spelled otherwise, see [`plain`]. Upstream lets
    /// that pass.
    #[must_use]
    pub fn tolerant(self) -> Self {
        Self { tolerant: true, ..self }
    }

    /// Whether paths that are neither metered nor the admin's are [`Mode::Unlisted`].
    #[must_use]
    pub fn closed(self, closed: bool) -> Self {
        Self { closed, ..self }
    }

    /// The mode of a path without its query, see [`split`].
    #[must_use]
    pub fn mode(&self, path: &[u8]) -> Mode {
        if self.metered.iter().any(|suffix| path.ends_with(suffix.as_bytes())) {
            return Mode::Metered;
        }
        if let Some(operation) = self.operation(path) {
            return Mode::Admin(operation);
        }
        if self.tolerant {
            let plain = plain(path);
            let ends = |suffix: &String| {
                let end = plain.len().checked_sub(suffix.len()).and_then(|start| plain.get(start..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes()))
            };
            if self.metered.iter().any(ends) {
                return Mode::Metered;
            }
        }
        if self.closed { Mode::Unlisted } else { Mode::Other }
    }

    fn operation(&self, path: &[u8]) -> Option<Operation> {
        let admin = self.admin.as_deref()?.as_bytes();
        let below = |operation: &[u8]| path.strip_suffix(operation).is_some_and(|path| path.ends_with(admin));
        if path.ends_with(admin) {
            Some(Operation::Query)
        } else if below(b"/refresh") {
            Some(Operation::Refresh)
        } else if below(b"/delta") {
            Some(Operation::Delta)
        } else {
            None
        }
    }
}

/// A path as the most forgiving of servers read it: escapes resolved where they are whole, backslashes as slashes,
/// parameters behind a semicolon cut off, empty segments and dots gone.
pub(crate) fn plain(path: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)),
            _ => None,
        };
        let byte = escaped.map_or(*byte, |(high, low)| high << 4 | low);
        text.push(if byte == b'\\' { b'/' } else { byte });
        rest = if escaped.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    let mut out = Vec::with_capacity(text.len());
    for segment in text.split(|byte| *byte == b'/') {
        match segment.split(|byte| *byte == b';').next().unwrap_or_default() {
            b"" | b"." => {}
            b".." => out.truncate(memchr::memrchr(b'/', &out).unwrap_or(0)),
            segment => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    out
}

/// Splits `:path` into the path, with percent escapes resolved as the model behind it would, and the query.
#[must_use]
pub fn split(path: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let path = memchr::memchr(b'#', path).map_or(path, |hash| &path[..hash]);
    let (path, query) = memchr::memchr(b'?', path).map_or((path, &b""[..]), |mark| (&path[..mark], &path[mark + 1..]));
    (unescape(path, false).unwrap_or(Cow::Borrowed(path)), query)
}

/// The first value of a field in a query or form, as Go's `url.ParseQuery` reads it: pairs with a semicolon or a
/// broken escape do not count.
#[must_use]
pub fn field<'a>(form: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    form.split(|byte| *byte == b'&').filter(|pair| !pair.contains(&b';')).find_map(|pair| {
        let (key, value) = memchr::memchr(b'=', pair).map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        let matches = !pair.is_empty() && unescape(key, true)?.as_ref() == name.as_bytes();
        if matches { unescape(value, true) } else { None }
    })
}

/// Resolves `%XX` (and `+`, in queries); nothing if an escape is broken.
fn unescape(text: &[u8], plus: bool) -> Option<Cow<'_, [u8]>> {
    if !text.iter().any(|byte| *byte == b'%' || (plus && *byte == b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            b'+' if plus => b' ',
            other => *other,
        });
    }
    Some(Cow::Owned(out))
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(paths: &Paths, path: &str) -> Mode {
        paths.mode(&split(path.as_bytes()).0)
    }

    #[test]
    fn a_path_is_metered_by_its_end_without_the_query() {
        let paths = Paths::new(vec!["/v1/chat/completions".into(), ":generateContent".into()], Some("/quota"));
        for metered in [
            "/v1/chat/completions",
            "/prefix/v1/chat/completions?x=/other",
            "/v1/chat%2Fcompletion%73",
            "/v1/chat/completions#fragment",
            "/v1beta/models/gemini:generateContent?alt=sse",
            "/v1beta/models/gemini%3AgenerateContent",
            "https://host/v1/chat/completions",
        ] {
            assert_eq!(mode(&paths, metered), Mode::Metered, "{metered}");
        }
        for other in [
            "/",
            "",
            "/v1/models",
            "/v1/chat/completions/",
            "/v1/chat/completionsx",
            "/x?/v1/chat/completions",
            "/v1/chat/completions/quota/other",
            "/v1/completions",
            "/v1/chat/completions/quota/",
            "/v1/chat%2fcompletions%",
            "/v1beta/models/gemini:streamGenerateContentx",
        ] {
            assert_eq!(mode(&paths, other), Mode::Other, "{other}");
        }
    }

    #[test]
    fn a_metered_path_is_metered_in_every_spelling_where_that_is_asked_for() {
        let strict = Paths::new(vec!["/v1/chat/completions".into(), ":generateContent".into()], Some("/quota"));
        let tolerant = strict.clone().tolerant();
        for spelling in [
            "/v1/chat/completions/",
            "/v1/chat/completions//?x",
            "/v1//chat///completions",
            "/v1/./chat/x/../completions/.",
            "/../v1/chat/completions/..;/completions",
            "/v1/chat;a=b/completions;jsessionid=1?c=d",
            "/V1/Chat/Completions",
            "/v1\\chat%5Ccompletions",
            "/%zz/v1/chat/completion%73",
            "/v1/chat/completion%2573",
            "/m/gemini:generatecontent/",
        ] {
            assert_eq!(mode(&tolerant, spelling), Mode::Metered, "{spelling}");
            assert_eq!(mode(&strict, spelling), Mode::Other, "{spelling}: upstream lets it pass");
        }
        for other in ["", "/", "%", "%4", "..", "/..", "/v1/chat/completions/..", "/v1/chat/completions;/x", "/;/%/."] {
            assert_eq!(mode(&tolerant, other), Mode::Other, "{other}");
        }
        // The admin API answers to its own name only.
        assert_eq!(mode(&tolerant, "/v1/chat/completions/quota/"), Mode::Other);
        assert_eq!(mode(&tolerant, "/v1/chat/completions/quota"), Mode::Admin(Operation::Query));
    }

    #[test]
    fn admin_paths_stand_below_chat_completions() {
        let paths = Paths::new(vec!["/v1/messages".into()], Some("/quota"));
        let admin = |path| mode(&paths, path);
        assert_eq!(admin("/v1/chat/completions/quota?consumer=a"), Mode::Admin(Operation::Query));
        assert_eq!(admin("/api/v1/chat/completions/quota"), Mode::Admin(Operation::Query));
        assert_eq!(admin("/v1/chat/completions/quota/refresh"), Mode::Admin(Operation::Refresh));
        assert_eq!(admin("/v1/chat/completions/quota/delta?x"), Mode::Admin(Operation::Delta));
        assert_eq!(admin("/v1/messages/quota"), Mode::Other);
        assert_eq!(admin("/v1/chat/completions"), Mode::Other);
        let closed = Paths::new(vec!["/v1/messages".into()], None);
        assert_eq!(mode(&closed, "/v1/chat/completions/quota"), Mode::Other);
    }

    #[test]
    fn rows_are_tested_from_the_top() {
        let paths = Paths::new(vec!["/quota".into()], Some("/quota"));
        assert_eq!(mode(&paths, "/v1/chat/completions/quota"), Mode::Metered);
        assert_eq!(mode(&paths, "/v1/chat/completions/quota/refresh"), Mode::Admin(Operation::Refresh));
    }

    #[test]
    fn forms_are_read_as_go_reads_them() {
        let of =
            |form: &'static str| field(form.as_bytes(), "c").map(|value| String::from_utf8_lossy(&value).into_owned());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("c=a&q=1"), some("a"));
        assert_eq!(of("q=1&c=a&c=b"), some("a"));
        assert_eq!(of("c=a+b%20c%2b"), some("a b c+"));
        assert_eq!(of("%63=x"), some("x"));
        assert_eq!(of("c"), some(""));
        assert_eq!(of("c="), some(""));
        assert_eq!(of("c=a=b"), some("a=b"));
        assert_eq!(of("c=%zz&c=b"), some("b"));
        assert_eq!(of("c=%2&c=b"), some("b"));
        assert_eq!(of("c=a;b&c=b"), some("b"));
        assert_eq!(of("&&c=b"), some("b"));
        assert_eq!(of("%zz=1&c=b"), some("b"));
        assert_eq!(of(""), None);
        assert_eq!(of("cc=1"), None);
        assert_eq!(of("C=1"), None);
    }
}
