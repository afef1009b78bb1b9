//! Regular expressions of limits. In: RE2 syntax, as upstream's module reads it with Go's `regexp`. Out: a matcher that
//! agrees with Go's, or the reason why there is none. Only whether a pattern finds itself in a text counts here, so
//! that groups need no numbers and repetitions no greed. Pure.
//!
//! The pattern is read as Go reads it and written anew for `regex-lite`, whose own reading differs in places: every
//! class is spelled out, flags are resolved, literals are escaped.

mod class;
mod translate;

use regex_lite::{Regex, RegexBuilder};

/// What a compiled pattern may take, in bytes: a gateway holds those of all objects, once per worker thread.
const MAX_SIZE: usize = 1 << 15;

/// What a small one is taken to take.
const MIN_SIZE: usize = 1 << 8;

/// A compiled regular expression, and what it takes.
#[derive(Clone, Debug)]
pub struct Pattern(Regex, usize);

/// Why a pattern cannot be used. Go's `regexp` refuses it too, but for [`Self::Unsupported`] and [`Self::TooLarge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it {}", self.problem())]
pub enum PatternError {
    Incomplete,
    Escape,
    Group,
    /// A parenthesis that closes nothing.
    Unopened,
    Class,
    Repetition,
    Repeats,
    Unsupported,
    TooLarge,
}

impl PatternError {
    /// What is said of the field it stands in.
    #[must_use]
    pub const fn problem(self) -> &'static str {
        match self {
            Self::Incomplete => "is a pattern that ends too early",
            Self::Escape => "is a pattern with an escape that RE2 does not know",
            Self::Group => "is a pattern with a group or flag that RE2 does not know",
            Self::Unopened => "is a pattern with a parenthesis that closes nothing",
            Self::Class => "is a pattern with a class or range that is none",
            Self::Repetition => "is a pattern that repeats nothing, or a repetition",
            Self::Repeats => "is a pattern that repeats more than 1000 times",
            Self::Unsupported => "is a pattern with Unicode classes, or case ignored beyond ASCII",
            Self::TooLarge => "is a pattern that is too large or nested too deeply",
        }
    }
}

impl Pattern {
    /// Reads a pattern in RE2's syntax.
    ///
    /// # Errors
    /// If Go would not read it either, or if `regex-lite` cannot do what it asks.
    pub fn new(re2: &str) -> Result<Self, PatternError> {
        let translated = translate::translate(re2)?;
        // What it takes is not said, only what is not enough.
        let sizes = std::iter::successors(Some(MIN_SIZE), |size| Some(size * 2)).take_while(|size| *size <= MAX_SIZE);
        let mut built = sizes.map(|size| {
            let built = RegexBuilder::new(&translated).size_limit(size).nest_limit(200).build();
            built.map(|regex| Self(regex, size))
        });
        built.find_map(Result::ok).ok_or(PatternError::TooLarge)
    }

    /// What it takes, in bytes, rounded up to a power of two, and what a byte of text costs.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.1
    }

    /// Whether the pattern finds itself anywhere in the text. A byte that is no UTF-8 counts as U+FFFD, as in Go.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match std::str::from_utf8(text) {
            Ok(text) => self.0.is_match(text),
            Err(_) => self.0.is_match(&replaced(text)),
        }
    }
}

fn replaced(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::random::Random;

    /// Patterns and, for each, whether it matches inputs, as Go's `regexp` (go1.26) said: or that it is an error.
    const GOLDEN: &str = include_str!("../../../../../tests/data/re2-golden.jsonl");

    #[test]
    fn patterns_agree_with_gos_regexp_or_are_refused() {
        let (mut agreed, mut unsupported) = (0, Vec::new());
        for line in GOLDEN.lines() {
            let golden: Value = serde_json::from_str(line).unwrap();
            let text = golden["pattern"].as_str().unwrap();
            match (Pattern::new(text), golden["matches"].as_object()) {
                (Ok(_), None) => panic!("{text:?} is an error in Go"),
                (Err(PatternError::Unsupported | PatternError::TooLarge), Some(_)) => unsupported.push(text.to_owned()),
                (Err(error), Some(_)) => panic!("{text:?} is none in Go, but {error}"),
                (Err(_), None) => agreed += 1,
                (Ok(pattern), Some(inputs)) => {
                    for (input, expected) in inputs {
                        let matched = pattern.matches(input.as_bytes());
                        assert_eq!(Some(matched), expected.as_bool(), "{text:?} on {input:?}: {pattern:?}");
                    }
                    agreed += 1;
                }
            }
        }
        let refused = [
            r"\pL",
            r"\p{L}",
            r"\PL",
            r"\p{Greek}",
            r"\p{^Greek}",
            r"\p{Lu}",
            r"\pN+",
            "(?i)É",
            "(?i)straße",
            r"[\pL]",
            r"[^\pL]",
        ];
        assert_eq!(unsupported, refused);
        assert_eq!(agreed, 218 - refused.len());
    }

    #[test]
    fn a_byte_that_is_no_text_is_one_character() {
        assert!(Pattern::new("^a.b$").unwrap().matches(b"a\xffb"));
        assert!(Pattern::new("^a..b$").unwrap().matches(b"a\xe2\x82b"));
        assert!(!Pattern::new("^a.b$").unwrap().matches(b"a\xe2\x82b"));
        assert!(Pattern::new("\u{fffd}").unwrap().matches(b"\xff"));
    }

    #[test]
    fn quoted_text_is_matched_as_it_is() {
        // What the planner writes for exact keys beside patterns.
        for text in ["a.b", "a*", "sk-[x]", "a|b", "", "\\", "é{2}", "(?i)"] {
            let pattern = Pattern::new(&format!(r"^\Q{text}\E$")).unwrap();
            assert!(pattern.matches(text.as_bytes()), "{text}");
            assert!(!pattern.matches(format!("{text}x").as_bytes()), "{text}");
        }
    }

    #[test]
    fn no_pattern_makes_the_reader_panic_and_depth_is_bounded() {
        assert_eq!(Pattern::new(&"(".repeat(100_000)).err(), Some(PatternError::TooLarge));
        assert_eq!(Pattern::new(&"(a{9}".repeat(90)).err(), Some(PatternError::TooLarge));
        let mut random = Random(11);
        let bits: [&str; 28] = [
            "a",
            "é",
            "(",
            ")",
            "(?i)",
            "(?:",
            "(?P<n>",
            "[",
            "]",
            "[^",
            "-",
            "\\",
            "\\Q",
            "\\E",
            "\\d",
            "\\x{41}",
            "*",
            "+",
            "?",
            "{2,3}",
            "{",
            ",",
            "|",
            "^",
            "$",
            "[:alpha:]",
            ":",
            "😀",
        ];
        let mut read = 0;
        for _ in 0..50_000 {
            let text: String = (0..random.below(9)).map(|_| *random.pick(&bits)).collect();
            if let Ok(pattern) = Pattern::new(&text) {
                read += 1;
                let _ = pattern.matches(text.as_bytes());
            }
        }
        assert!(read > 5_000, "{read}");
    }
}
