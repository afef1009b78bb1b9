//! From the numbers of one usage object to tokens: the names of the counts, how a JSON number becomes a count, and
//! how the counts of every API become input, output and total. Pure, nothing allocated.

use super::Usage;
use crate::values::MAX_AMOUNT;

const MAX: u64 = MAX_AMOUNT.unsigned_abs();

/// One named number of a usage object. Names that mean the same in every API share a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Field {
    Prompt,
    Completion,
    Input,
    Output,
    Total,
    CacheCreation,
    CacheRead,
    GeminiPrompt,
    Candidates,
    Thoughts,
    ToolUse,
    /// Inside the input, for display only.
    Cached,
    /// Inside the output, for display only.
    Reasoning,
    OllamaPrompt,
    OllamaOutput,
}

const FIELDS: usize = Field::OllamaOutput as usize + 1;

/// The counts of one usage object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    present: u16,
    values: [u64; FIELDS],
}

impl Counts {
    pub(super) const EMPTY: Self = Self { present: 0, values: [0; FIELDS] };

    pub(super) const fn clear(&mut self) {
        self.present = 0;
    }

    pub(super) const fn set(&mut self, field: Field, value: u64) {
        self.present |= 1 << field as u8;
        self.values[field as usize] = value;
    }

    const fn get(&self, field: Field) -> Option<u64> {
        if self.present & (1 << field as u8) == 0 { None } else { Some(self.values[field as usize]) }
    }

    /// Whether the object names its own total, so that it needs nothing from an earlier one.
    pub(super) fn has_total(&self) -> bool {
        self.get(Field::Total).is_some_and(|total| total > 0)
    }

    /// Takes over what a later object of the same answer says. A zero says nothing: counts never fall, and some
    /// servers fill what they do not know with zeros.
    pub(super) fn overlay(&mut self, later: &Self) {
        for index in 0..FIELDS {
            if later.present & (1 << index) != 0 && later.values[index] > 0 {
                self.present |= 1 << index;
                self.values[index] = later.values[index];
            }
        }
    }

    /// The sum of those that are present.
    fn sum(&self, fields: &[Field]) -> Option<u64> {
        fields.iter().filter_map(|field| self.get(*field)).reduce(u64::saturating_add)
    }

    /// What the counts say; none if they are all zero or absent.
    pub(super) fn usage(&self) -> Option<Usage> {
        let own_total = self.get(Field::Total).filter(|total| *total > 0);
        // Anthropic leaves what it cached out of `input_tokens` and names no total; who names a total has it inside.
        let input_tokens = if own_total.is_some() {
            self.get(Field::Input)
        } else {
            self.sum(&[Field::Input, Field::CacheCreation, Field::CacheRead])
        };
        let input = first([
            self.get(Field::Prompt),
            input_tokens,
            self.sum(&[Field::GeminiPrompt, Field::ToolUse]),
            self.get(Field::OllamaPrompt),
        ]);
        let mut output = first([
            self.get(Field::Completion),
            self.get(Field::Output),
            self.sum(&[Field::Candidates, Field::Thoughts]),
            self.get(Field::OllamaOutput),
        ]);
        // Embeddings name no output: their total is their input.
        if output.is_none() && own_total.is_some() && own_total == input {
            output = Some(0);
        }
        let parts = input.unwrap_or(0).saturating_add(output.unwrap_or(0));
        let total = own_total.unwrap_or(parts).min(MAX);
        (total > 0).then(|| Usage {
            input,
            output,
            total,
            cached_input: first([self.get(Field::Cached), self.get(Field::CacheRead)]),
            reasoning: first([self.get(Field::Reasoning), self.get(Field::Thoughts)]),
        })
    }
}

/// The first that is not zero, else zero if any is present: some servers fill both families of names and leave one
/// of them at zero.
fn first<const N: usize>(candidates: [Option<u64>; N]) -> Option<u64> {
    let mut present = candidates.into_iter().flatten();
    let head = present.next()?;
    if head > 0 { Some(head) } else { Some(present.find(|value| *value > 0).unwrap_or(0)) }
}

/// A JSON number, digit by digit: `digits * 10^scale`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    digits: u64,
    scale: i32,
    exponent: i32,
    negative: bool,
    negative_exponent: bool,
    /// Whether a digit other than zero did not fit.
    inexact: bool,
}

/// More digits than this do not fit; `MAX_AMOUNT` has 16.
const DIGITS_MAX: u64 = 1_000_000_000_000_000_000;
/// Bounds scale and exponent far beyond anything that is a count.
const SCALE_MAX: i32 = 1_000_000;

impl Number {
    pub(super) const ZERO: Self =
        Self { digits: 0, scale: 0, exponent: 0, negative: false, negative_exponent: false, inexact: false };

    pub(super) const fn negate(&mut self) {
        self.negative = true;
    }

    pub(super) const fn negate_exponent(&mut self) {
        self.negative_exponent = true;
    }

    const fn digit(&mut self, byte: u8) -> bool {
        let digit = byte.wrapping_sub(b'0') as u64;
        if self.digits < DIGITS_MAX {
            self.digits = self.digits * 10 + digit;
            true
        } else {
            self.inexact |= digit != 0;
            false
        }
    }

    pub(super) const fn integer_digit(&mut self, byte: u8) {
        if !self.digit(byte) && self.scale < SCALE_MAX {
            self.scale += 1;
        }
    }

    pub(super) const fn fraction_digit(&mut self, byte: u8) {
        if self.digit(byte) && self.scale > -SCALE_MAX {
            self.scale -= 1;
        }
    }

    pub(super) const fn exponent_digit(&mut self, byte: u8) {
        if self.exponent < SCALE_MAX {
            self.exponent = self.exponent * 10 + byte.wrapping_sub(b'0') as i32;
        }
    }

    /// The number as a count: whole, not negative and at most [`MAX_AMOUNT`]. Anything else is no count, as a string
    /// is none: no answer has used more tokens than a balance can hold, and such a number must not empty one.
    pub(super) const fn count(&self) -> Option<u64> {
        let mut digits = self.digits;
        if digits == 0 {
            return Some(0);
        }
        let mut scale = if self.negative_exponent { self.scale - self.exponent } else { self.scale + self.exponent };
        if self.negative || self.inexact {
            return None;
        }
        while scale < 0 && digits.is_multiple_of(10) {
            digits /= 10;
            scale += 1;
        }
        while scale > 0 && digits <= MAX {
            digits *= 10;
            scale -= 1;
        }
        if scale == 0 && digits <= MAX { Some(digits) } else { None }
    }

    /// The number as a count, or more than [`MAX_AMOUNT`] where it is larger.
    pub(super) const fn count_or_more(&self) -> Option<u64> {
        if self.negative {
            return self.count();
        }
        let (mut digits, mut scale) = (self.digits, self.scale);
        scale += if self.negative_exponent { -self.exponent } else { self.exponent };
        while scale < 0 && digits > 0 {
            digits /= 10;
            scale += 1;
        }
        while scale > 0 && digits > 0 && digits <= MAX {
            digits *= 10;
            scale -= 1;
        }
        if digits > MAX { Some(u64::MAX) } else { self.count() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Option<u64> {
        let mut number = Number::ZERO;
        let (mut fraction, mut exponent) = (false, false);
        for byte in text.bytes() {
            match byte {
                b'-' if exponent => number.negate_exponent(),
                b'-' => number.negate(),
                b'.' => fraction = true,
                b'e' => exponent = true,
                b'+' => {}
                digit if exponent => number.exponent_digit(digit),
                digit if fraction => number.fraction_digit(digit),
                digit => number.integer_digit(digit),
            }
        }
        number.count()
    }

    #[test]
    fn a_whole_number_is_a_count_however_it_is_written() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("0.0e99999999999999999999", 0),
            ("12", 12),
            ("4.0", 4),
            ("1.5e1", 15),
            ("1e3", 1000),
            ("1E+3".to_lowercase().as_str(), 1000),
            ("1200e-2", 12),
            ("9007199254740991", MAX),
            ("90071992547409910000e-4", MAX),
            ("100000000000000000000000000e-24", 100),
        ] {
            assert_eq!(count(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_broken_negative_or_huge_number_is_no_count() {
        for text in [
            "-1",
            "4.5",
            "1e-1",
            "9007199254740992",
            "18446744073709551616",
            "99999999999999999999999999999999999999999999",
            "1e300",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "0.1000000000000000000000000000001",
            "1.0000000000000000001e2",
        ] {
            assert_eq!(count(text), None, "{text}");
        }
    }

    #[test]
    fn a_sum_beyond_what_a_balance_holds_is_the_most_it_holds() {
        let mut counts = Counts::EMPTY;
        counts.set(Field::Prompt, MAX);
        counts.set(Field::Completion, MAX);
        assert_eq!(counts.usage().map(|usage| usage.total), Some(MAX));
    }

    #[test]
    fn of_two_families_of_names_the_one_that_is_not_zero_counts() {
        let mut counts = Counts::EMPTY;
        counts.set(Field::Prompt, 0);
        counts.set(Field::Input, 7);
        counts.set(Field::Completion, 5);
        counts.set(Field::Output, 0);
        let usage = counts.usage().unwrap();
        assert_eq!((usage.input, usage.output, usage.total), (Some(7), Some(5), 12));
    }
}
