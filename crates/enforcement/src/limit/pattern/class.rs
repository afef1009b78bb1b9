//! Sets of characters. In: ranges and names of classes. Out: sorted ranges, and their text for `regex-lite`. Pure.

use std::fmt::Write as _;

use super::PatternError;

/// Ranges of code points, both ends included, by where they begin; they may overlap.
#[derive(Clone, Debug, Default)]
pub(super) struct Set(Vec<(u32, u32)>);

const LAST: u32 = char::MAX as u32;
const KELVIN: u32 = 0x212A;
const LONG_S: u32 = 0x17F;

const LETTERS: &[(char, char)] = &[('A', 'Z'), ('a', 'z')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

impl Set {
    pub(super) fn range(from: char, to: char) -> Self {
        Self(vec![(from.into(), to.into())])
    }

    /// `\d`, `\s`, `\w` and their opposites.
    pub(super) fn perl(name: char, fold: bool) -> Option<Result<Self, PatternError>> {
        let ranges: &[(char, char)] = match name.to_ascii_lowercase() {
            'd' => &[('0', '9')],
            's' => &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
            'w' => WORD,
            _ => return None,
        };
        Some(Self::named(ranges, name.is_ascii_uppercase(), fold))
    }

    /// What stands between `[:` and `:]`.
    pub(super) fn posix(name: &str, fold: bool) -> Result<Self, PatternError> {
        let (negated, name) = name.strip_prefix('^').map_or((false, name), |name| (true, name));
        let ranges: &[(char, char)] = match name {
            "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
            "alpha" => LETTERS,
            "ascii" => &[('\0', '\x7f')],
            "blank" => &[('\t', '\t'), (' ', ' ')],
            "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
            "digit" => &[('0', '9')],
            "graph" => &[('!', '~')],
            "lower" => &[('a', 'z')],
            "print" => &[(' ', '~')],
            "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
            "space" => &[('\t', '\r'), (' ', ' ')],
            "upper" => &[('A', 'Z')],
            "word" => WORD,
            "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
            _ => return Err(PatternError::Class),
        };
        Self::named(ranges, negated, fold)
    }

    fn named(ranges: &[(char, char)], negated: bool, fold: bool) -> Result<Self, PatternError> {
        let set = Self(ranges.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect());
        let set = if fold { set.folded()? } else { set };
        Ok(if negated { set.negated() } else { set })
    }

    pub(super) fn add(&mut self, Self(ranges): Self) {
        // They are few, and a sort of its own would take more of the module than all classes do.
        for range in ranges {
            let at = self.0.partition_point(|known| *known <= range);
            self.0.insert(at, range);
        }
    }

    /// With every letter in both cases. Two letters of ASCII have a third case beyond it.
    ///
    /// # Errors
    /// For what is not ASCII: its cases are a table that is not here.
    pub(super) fn folded(mut self) -> Result<Self, PatternError> {
        if self.0.iter().any(|(_, to)| *to > 0x7f) {
            return Err(PatternError::Unsupported);
        }
        let mut more = Vec::new();
        for (from, to) in &self.0 {
            for letter in (*from..=*to).filter_map(char::from_u32).filter(char::is_ascii_alphabetic) {
                let other = letter as u32 ^ 0x20;
                more.push((other, other));
                match letter.to_ascii_lowercase() {
                    'k' => more.push((KELVIN, KELVIN)),
                    's' => more.push((LONG_S, LONG_S)),
                    _ => {}
                }
            }
        }
        self.add(Self(more));
        Ok(self)
    }

    pub(super) fn negated(self) -> Self {
        let mut out = Vec::with_capacity(self.0.len() + 1);
        let mut next = 0;
        for (from, to) in self.joined() {
            if next < from {
                out.push((next, from - 1));
            }
            next = to + 1;
        }
        if next <= LAST {
            out.push((next, LAST));
        }
        Self(out)
    }

    /// Without overlaps.
    fn joined(self) -> Vec<(u32, u32)> {
        let mut out: Vec<(u32, u32)> = Vec::with_capacity(self.0.len());
        for (from, to) in self.0 {
            match out.last_mut() {
                Some(last) if from <= last.1 + 1 => last.1 = last.1.max(to),
                _ => out.push((from, to)),
            }
        }
        out
    }

    /// The class as `regex-lite` reads it.
    pub(super) fn text(self) -> String {
        // Surrogates are no characters of a text.
        let ends = self.joined().into_iter().filter_map(|(from, to)| {
            let from = if (0xd800..0xe000).contains(&from) { 0xe000 } else { from };
            let to = if (0xd800..0xe000).contains(&to) { 0xd7ff } else { to };
            (from <= to).then_some((from, to))
        });
        let mut text = String::from("[");
        for (from, to) in ends {
            let _ = write!(text, "\\x{{{from:x}}}-\\x{{{to:x}}}");
        }
        if text.len() == 1 {
            // No character at all.
            return "[^\\x{0}-\\x{10ffff}]".into();
        }
        text.push(']');
        text
    }
}
