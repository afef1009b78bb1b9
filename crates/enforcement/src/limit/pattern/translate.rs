//! RE2's syntax, read as Go's `regexp/syntax` reads it with its Perl flags, into the text of an equal pattern for
//! `regex-lite`. In and out: text. Pure.

use super::PatternError;
use super::class::Set;

/// How deeply groups may nest.
const MAX_DEPTH: usize = 50;
const MAX_REPEATS: u32 = 1000;

pub(super) fn translate(re2: &str) -> Result<String> {
    let mut reader = Reader { rest: re2, flags: Flags::default(), depth: 0 };
    let whole = reader.alternatives()?;
    if reader.rest.is_empty() { Ok(whole.text) } else { Err(PatternError::Unopened) }
}

#[derive(Clone, Copy, Default)]
struct Flags {
    fold: bool,
    multi_line: bool,
    dot_all: bool,
}

struct Reader<'a> {
    rest: &'a str,
    flags: Flags,
    depth: usize,
}

/// A piece of the pattern that a repetition can follow.
struct Item {
    text: String,
    /// The most often that something in it is repeated, nested counts multiplied.
    repeats: u32,
}

impl Item {
    const fn new(text: String) -> Self {
        Self { text, repeats: 1 }
    }
}

type Result<T> = std::result::Result<T, PatternError>;

impl Reader<'_> {
    /// Up to the end of the group or of the pattern.
    fn alternatives(&mut self) -> Result<Item> {
        let mut whole = Item::new(String::new());
        let mut items: Vec<Item> = Vec::new();
        let mut after_repetition = false;
        loop {
            let mut repetition = false;
            match self.rest.chars().next() {
                None | Some(')') => {
                    whole.close(items);
                    return Ok(whole);
                }
                Some('|') => {
                    self.skip(1);
                    whole.close(std::mem::take(&mut items));
                    whole.text.push('|');
                }
                Some('(') => items.extend(self.group()?),
                Some('[') => items.push(Item::new(self.class()?)),
                Some('.') => {
                    self.skip(1);
                    items.push(Item::new(if self.flags.dot_all { "(?s:.)" } else { "." }.into()));
                }
                Some('^') => {
                    self.skip(1);
                    items.push(Item::new(if self.flags.multi_line { "(?m:^)" } else { "^" }.into()));
                }
                Some('$') => {
                    self.skip(1);
                    items.push(Item::new(if self.flags.multi_line { "(?m:$)" } else { "$" }.into()));
                }
                Some(operator @ ('*' | '+' | '?')) => {
                    self.skip(1);
                    repeat(&mut items, after_repetition, &operator.to_string(), 0)?;
                    self.skip_lazy();
                    repetition = true;
                }
                Some('{') => match self.counts()? {
                    None => {
                        self.skip(1);
                        items.push(self.literal('{')?);
                    }
                    Some((least, most)) => {
                        let most_text = most.map_or_else(String::new, |most| most.to_string());
                        let operator = if most == Some(least) {
                            format!("{{{least}}}")
                        } else {
                            format!("{{{least},{most_text}}}")
                        };
                        repeat(&mut items, after_repetition, &operator, most.unwrap_or(least))?;
                        self.skip_lazy();
                        repetition = true;
                    }
                },
                Some('\\') => self.escaped(&mut items)?,
                Some(other) => {
                    self.skip(other.len_utf8());
                    items.push(self.literal(other)?);
                }
            }
            after_repetition = repetition;
        }
    }

    /// `(...)`; flags alone are nothing to repeat.
    fn group(&mut self) -> Result<Option<Item>> {
        let outer = self.flags;
        self.skip(1);
        if let Some(rest) = self.rest.strip_prefix('?') {
            let named = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<'));
            if let Some(named) = named {
                let end = named.find('>').ok_or(PatternError::Group)?;
                let name = &named[..end];
                if name.is_empty() || !name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()) {
                    return Err(PatternError::Group);
                }
                self.rest = &named[end + 1..];
            } else {
                self.rest = rest;
                if !self.flags()? {
                    return Ok(None);
                }
            }
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(PatternError::TooLarge);
        }
        let Item { text, repeats } = self.alternatives()?;
        self.depth -= 1;
        self.rest = self.rest.strip_prefix(')').ok_or(PatternError::Incomplete)?;
        self.flags = outer;
        Ok(Some(Item { text: format!("(?:{text})"), repeats }))
    }

    /// Flags up to the colon of a group (`true`) or to the parenthesis that ends them.
    fn flags(&mut self) -> Result<bool> {
        let (mut flags, mut on, mut seen) = (self.flags, true, false);
        loop {
            let flag = self.rest.chars().next().ok_or(PatternError::Group)?;
            self.skip(flag.len_utf8());
            match flag {
                'i' => flags.fold = on,
                'm' => flags.multi_line = on,
                's' => flags.dot_all = on,
                // Who takes more does not change whether there is something to take.
                'U' => {}
                '-' if on => {
                    (on, seen) = (false, false);
                    continue;
                }
                ':' | ')' if on || seen => {
                    self.flags = flags;
                    return Ok(flag == ':');
                }
                _ => return Err(PatternError::Group),
            }
            seen = true;
        }
    }

    /// `{2}`, `{2,}`, `{2,3}`: and nothing if it is only a brace.
    fn counts(&mut self) -> Result<Option<(u32, Option<u32>)>> {
        let rest = &self.rest[1..];
        let Some((least, rest)) = number(rest) else { return Ok(None) };
        let (most, rest) = match rest.strip_prefix(',') {
            None => (Some(least), rest),
            Some(rest) if rest.starts_with('}') => (None, rest),
            Some(rest) => match number(rest) {
                None => return Ok(None),
                Some((most, rest)) => (Some(most), rest),
            },
        };
        let Some(rest) = rest.strip_prefix('}') else { return Ok(None) };
        if least > MAX_REPEATS || most.is_some_and(|most| most > MAX_REPEATS || most < least) {
            return Err(PatternError::Repeats);
        }
        self.rest = rest;
        Ok(Some((least, most)))
    }

    fn escaped(&mut self, items: &mut Vec<Item>) -> Result<()> {
        if let Some(quoted) = self.rest.strip_prefix("\\Q") {
            let (literal, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            self.rest = rest;
            for character in literal.chars() {
                items.push(self.literal(character)?);
            }
            return Ok(());
        }
        let text = match self.rest[1..].chars().next() {
            Some('A') => "\\A",
            Some('z') => "\\z",
            Some('b') => "\\b",
            Some('B') => "\\B",
            Some('p' | 'P') => return Err(self.unicode_class()),
            Some(name) => {
                if let Some(set) = Set::perl(name, self.flags.fold) {
                    self.skip(2);
                    items.push(Item::new(set?.text()));
                    return Ok(());
                }
                let character = self.escape()?;
                items.push(self.literal(character)?);
                return Ok(());
            }
            None => return Err(PatternError::Escape),
        };
        self.skip(2);
        items.push(Item::new(text.into()));
        Ok(())
    }

    /// `\pL` or `\p{Greek}`: which names there are is not known here, only what cannot be one.
    fn unicode_class(&self) -> PatternError {
        let name = &self.rest[2..];
        let braced = name.strip_prefix('{').map(|name| name.split_once('}'));
        match braced {
            None if name.is_empty() => PatternError::Class,
            Some(None) => PatternError::Class,
            None | Some(Some(_)) => PatternError::Unsupported,
        }
    }

    /// The character that an escape stands for.
    fn escape(&mut self) -> Result<char> {
        self.skip(1);
        let first = self.rest.chars().next().ok_or(PatternError::Escape)?;
        self.skip(first.len_utf8());
        Ok(match first {
            'a' => '\x07',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            'x' => self.hexadecimal()?,
            // One digit alone would be what a group has matched.
            '1'..='7' if !self.rest.starts_with(|next| ('0'..='7').contains(&next)) => {
                return Err(PatternError::Escape);
            }
            '0'..='7' => {
                let mut value = first.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = self.rest.chars().next().and_then(|next| next.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    self.skip(1);
                }
                char::from_u32(value).ok_or(PatternError::Escape)?
            }
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => other,
            _ => return Err(PatternError::Escape),
        })
    }

    fn hexadecimal(&mut self) -> Result<char> {
        let (digits, rest) = match self.rest.strip_prefix('{') {
            Some(braced) => braced.split_once('}').ok_or(PatternError::Escape)?,
            None => self.rest.split_at_checked(2).ok_or(PatternError::Escape)?,
        };
        let digits = if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) { digits } else { "" };
        let digits = if digits.len() > 8 { digits.trim_start_matches('0') } else { digits };
        let value = u32::from_str_radix(digits, 16).map_err(|_| PatternError::Escape)?;
        self.rest = rest;
        match char::from_u32(value) {
            Some(character) => Ok(character),
            // Go reads a surrogate, which no text has.
            None if value <= char::MAX.into() => Err(PatternError::Unsupported),
            None => Err(PatternError::Escape),
        }
    }

    fn class(&mut self) -> Result<String> {
        self.skip(1);
        let negated = self.rest.starts_with('^');
        self.skip(usize::from(negated));
        let mut set = Set::default();
        let mut first = true;
        loop {
            let next = self.rest.chars().next().ok_or(PatternError::Class)?;
            if next == ']' && !first {
                self.skip(1);
                return Ok(if negated { set.negated().text() } else { set.text() });
            }
            first = false;
            if let Some(named) = self.rest.strip_prefix("[:")
                && let Some((name, rest)) = named.split_once(":]")
            {
                set.add(Set::posix(name, self.flags.fold)?);
                self.rest = rest;
                continue;
            }
            if next == '\\' {
                match self.rest[1..].chars().next() {
                    Some('p' | 'P') => return Err(self.unicode_class()),
                    Some(name) => {
                        if let Some(perl) = Set::perl(name, self.flags.fold) {
                            set.add(perl?);
                            self.skip(2);
                            continue;
                        }
                    }
                    None => {}
                }
            }
            let from = self.class_character()?;
            let to = match self.rest.strip_prefix('-') {
                Some(rest) if !rest.is_empty() && !rest.starts_with(']') => {
                    self.rest = rest;
                    self.class_character()?
                }
                _ => from,
            };
            if to < from {
                return Err(PatternError::Class);
            }
            let range = Set::range(from, to);
            set.add(if self.flags.fold { range.folded()? } else { range });
        }
    }

    fn class_character(&mut self) -> Result<char> {
        match self.rest.chars().next() {
            None => Err(PatternError::Class),
            Some('\\') => self.escape(),
            Some(character) => {
                self.skip(character.len_utf8());
                Ok(character)
            }
        }
    }

    fn literal(&self, character: char) -> Result<Item> {
        let text = if self.flags.fold && (character.is_ascii_alphabetic() || !character.is_ascii()) {
            Set::range(character, character).folded()?.text()
        } else if character.is_ascii_alphanumeric() || !character.is_ascii() {
            character.to_string()
        } else {
            format!("\\x{{{:x}}}", u32::from(character))
        };
        Ok(Item::new(text))
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// The mark behind a repetition that says who takes more.
    fn skip_lazy(&mut self) {
        self.rest = self.rest.strip_prefix('?').unwrap_or(self.rest);
    }
}

impl Item {
    /// Appends the items of an alternative that has ended.
    fn close(&mut self, items: Vec<Self>) {
        for Self { text, repeats } in items {
            self.text.push_str(&text);
            self.repeats = self.repeats.max(repeats);
        }
    }
}

/// Repeats the last item; `times` is 0 where it is not counted.
fn repeat(items: &mut [Item], after_repetition: bool, operator: &str, times: u32) -> Result<()> {
    let Some(last) = items.last_mut().filter(|_| !after_repetition) else { return Err(PatternError::Repetition) };
    last.text = format!("(?:{}){operator}", last.text);
    if times > 0 {
        last.repeats = last.repeats.saturating_mul(times);
    }
    if last.repeats > MAX_REPEATS { Err(PatternError::Repeats) } else { Ok(()) }
}

/// Digits without leading zeros, and what follows them.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits.parse().unwrap_or(u32::MAX), rest))
}
