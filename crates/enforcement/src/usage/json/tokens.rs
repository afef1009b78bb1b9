//! Inside the tokens of a document: strings with their escapes, literals and numbers, each cut anywhere.

use super::super::counts::Field;
use super::super::shape::{Slot, lookup};
use super::{Json, Sink, State};

impl Json {
    pub(super) fn keep(&mut self, text: &[u8]) {
        match self.sink {
            Sink::Nothing => {}
            Sink::Generated => self.found.generated += text.len() as u64,
            Sink::Model => self.found.model.push(text),
            Sink::Key => self.key.push(text),
        }
    }

    pub(super) fn text_ended(&mut self) {
        if self.sink == Sink::Key {
            self.slot = lookup(self.frame.slot, self.key.get());
            self.state = State::Colon;
        } else {
            if let Slot::Asked(place) = self.slot {
                self.found.asked.text(place, &self.found.model);
            }
            self.value_ended();
        }
    }

    pub(super) fn escape(&mut self, byte: u8) {
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.unicode = 0;
                self.unicode_digits = 0;
                self.state = State::Unicode;
                return;
            }
            _ => {
                self.state = State::Broken;
                return;
            }
        };
        self.keep(&[plain]);
        self.state = State::Text;
    }

    pub(super) fn unicode(&mut self, byte: u8) {
        let Some(digit) = char::from(byte).to_digit(16) else {
            self.state = State::Broken;
            return;
        };
        self.unicode = self.unicode << 4 | digit as u16;
        self.unicode_digits += 1;
        if self.unicode_digits < 4 {
            return;
        }
        self.state = State::Text;
        match char::from_u32(self.unicode.into()) {
            Some(character) => self.keep(character.encode_utf8(&mut [0; 4]).as_bytes()),
            // Each half of a surrogate pair stands for two of its four bytes; no name has one.
            None => self.keep(&[b'?'; 2]),
        }
    }

    pub(super) fn literal(&mut self, bytes: &[u8], at: usize, literal: &'static [u8]) -> usize {
        self.word = literal;
        if bytes[at..].starts_with(literal) {
            self.literal_ended(at + literal.len());
            at + literal.len()
        } else {
            self.literal = &literal[1..];
            self.state = State::Literal;
            at + 1
        }
    }

    /// `at`: behind it.
    pub(super) fn literal_ended(&mut self, at: usize) {
        if let Slot::Asked(place) = self.slot {
            self.found.asked.literal(place, self.word, self.read.wrapping_add(at));
        }
        self.value_ended();
    }

    /// Reads on in a number; the byte behind it is not taken.
    pub(super) fn digits(&mut self, bytes: &[u8], mut at: usize) -> usize {
        let counts = matches!(self.slot, Slot::Count(_) | Slot::Asked(_));
        loop {
            // Most numbers count nothing (embeddings): their digits only have to be digits.
            if !counts && matches!(self.state, State::Integer | State::Fraction | State::ExponentDigits) {
                at += bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            }
            let Some(&byte) = bytes.get(at) else { return at };
            self.state = match (self.state, byte) {
                (State::Minus, b'0') => State::Zero,
                (State::Minus, b'1'..=b'9') | (State::Integer, b'0'..=b'9') => {
                    self.number.integer_digit(byte);
                    State::Integer
                }
                (State::Zero | State::Integer, b'.') => State::Point,
                (State::Point | State::Fraction, b'0'..=b'9') => {
                    self.number.fraction_digit(byte);
                    State::Fraction
                }
                (State::Zero | State::Integer | State::Fraction, b'e' | b'E') => State::Exponent,
                (State::Exponent, b'+') => State::ExponentSign,
                (State::Exponent, b'-') => {
                    self.number.negate_exponent();
                    State::ExponentSign
                }
                (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => {
                    self.number.exponent_digit(byte);
                    State::ExponentDigits
                }
                (State::Zero | State::Integer | State::Fraction | State::ExponentDigits, _) => {
                    self.number_ended();
                    return at;
                }
                _ => {
                    self.state = State::Broken;
                    return at;
                }
            };
            at += 1;
        }
    }

    fn number_ended(&mut self) {
        if let Slot::Asked(place) = self.slot {
            self.found.asked.number(place, self.number.count_or_more());
        } else if let Slot::Count(field) = self.slot
            && let Some(count) = self.number.count()
        {
            match field {
                Field::OllamaPrompt | Field::OllamaOutput => self.found.beside.set(field, count),
                _ => self.counts.set(field, count),
            }
        }
        self.value_ended();
    }
}
