//! A JSON reader that keeps nothing it has read: bytes of one document come in, cut anywhere; what goes out is the
//! usage, the model and the amount of generated text found in an answer ([`Found`]), or what a request asks for
//! ([`Asked`]). Strict grammar, but that the bytes of strings are not checked to be UTF-8 and that what is nested deeper
//! than [`DEPTH_MAX`] is only skipped. Pure, nothing allocated.

mod tokens;

use super::bytes::{Short, text_end};
use super::counts::{Counts, Number};
use super::shape::{KEY_MAX, Slot, lookup};
use crate::prompt::shape::{Asked, Place};

/// Deeper containers are skipped by counting brackets: a client can have its own nesting echoed in an answer, and
/// must not escape its charge by that.
const DEPTH_MAX: usize = 128;

/// A longer model name is not kept.
pub(crate) const MODEL_MAX: usize = 128;

/// What one document said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The last usage object that was closed and says anything, and where it stood.
    pub(super) usage: Option<(Slot, Counts)>,
    /// Counts beside the answer's other fields (Ollama).
    pub(super) beside: Counts,
    pub(super) model: Short<MODEL_MAX>,
    /// It has a list of choices, and none in it.
    pub(crate) no_choices: bool,
    /// It has usage of its own, be it of nothing.
    pub(crate) has_usage: bool,
    /// Bytes of generated text, escapes counted as what they stand for.
    pub(super) generated: u64,
    /// In a request's body.
    pub(crate) asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must come.
    Value,
    /// A value or the end of the array.
    FirstElement,
    /// A key or the end of the object.
    FirstKey,
    Key,
    Colon,
    /// A comma or the end of the container.
    AfterValue,
    Text,
    Escape,
    Unicode,
    Literal,
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Deep,
    DeepText,
    DeepEscape,
    /// The document is complete.
    Done,
    Broken,
}

/// Where the bytes of the string being read go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Nothing,
    Generated,
    Model,
    Key,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    slot: Slot,
    array: bool,
}

#[derive(Debug)]
pub(crate) struct Json {
    pub(crate) found: Found,
    /// Whether a line break ends the bytes of this document: then [`Self::scan`] stops in front of it.
    lines: bool,
    state: State,
    /// Of the value that comes or is being read.
    slot: Slot,
    sink: Sink,
    /// The innermost open container; those around it are in `stack`.
    frame: Frame,
    depth: usize,
    excess: u64,
    counts: Counts,
    number: Number,
    literal: &'static [u8],
    /// The whole of the literal being read.
    word: &'static [u8],
    /// How much was read before.
    read: usize,
    unicode: u16,
    unicode_digits: u8,
    key: Short<KEY_MAX>,
    stack: [Frame; DEPTH_MAX],
}

const OUTSIDE: Frame = Frame { slot: Slot::Ignored, array: true };

impl Json {
    pub(super) const fn new(lines: bool) -> Self {
        Self {
            found: Found {
                usage: None,
                beside: Counts::EMPTY,
                model: Short::EMPTY,
                no_choices: false,
                has_usage: false,
                generated: 0,
                asked: Asked::NOTHING,
            },
            lines,
            state: State::Value,
            slot: Slot::Document,
            sink: Sink::Nothing,
            frame: OUTSIDE,
            depth: 0,
            excess: 0,
            counts: Counts::EMPTY,
            number: Number::ZERO,
            literal: &[],
            word: &[],
            read: 0,
            unicode: 0,
            unicode_digits: 0,
            key: Short::EMPTY,
            stack: [OUTSIDE; DEPTH_MAX],
        }
    }

    /// A reader of one request's body.
    pub(crate) const fn of_request() -> Self {
        Self { slot: Slot::Asked(Place::Body), ..Self::new(false) }
    }

    /// A reader of one event's data.
    pub(crate) const fn of_answer() -> Self {
        Self::new(true)
    }

    /// Forgets the document: what comes next is another.
    pub(super) const fn restart(&mut self) {
        self.found.usage = None;
        self.found.beside.clear();
        self.found.model.clear();
        self.found.no_choices = false;
        self.found.has_usage = false;
        self.found.generated = 0;
        self.state = State::Value;
        self.slot = Slot::Document;
        self.frame = OUTSIDE;
        self.depth = 0;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(super) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// The line ended inside the document, which goes on in another: a line break stands between. It may stand
    /// between tokens only.
    pub(super) fn line_break(&mut self) {
        match self.state {
            State::Value
            | State::FirstElement
            | State::FirstKey
            | State::Key
            | State::Colon
            | State::AfterValue
            | State::Deep => {}
            _ => self.state = State::Broken,
        }
    }

    /// Reads on and returns how many bytes it took: all of them, or those up to what broke the document, or up to a
    /// line break if it stops there, or up to the end of the document if it does not.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Text => {
                    let end = text_end(bytes, at);
                    self.keep(&bytes[at..end]);
                    at = end;
                    match bytes.get(at) {
                        None => break,
                        Some(b'"') => {
                            at += 1;
                            self.text_ended();
                        }
                        Some(b'\\') => {
                            at += 1;
                            self.state = State::Escape;
                        }
                        Some(&other) => {
                            if !self.is_line_break(other) {
                                self.state = State::Broken;
                            }
                            break;
                        }
                    }
                }
                State::Value | State::FirstElement => match byte {
                    b'"' => {
                        at += 1;
                        self.state = State::Text;
                        self.sink = match self.slot {
                            Slot::Ignored => Sink::Nothing,
                            // Of a request the name is kept elsewhere.
                            Slot::Model | Slot::Asked(Place::Model | Place::MaxTokens(_) | Place::Choices) => {
                                self.found.model.clear();
                                Sink::Model
                            }
                            slot if slot.is_text() => Sink::Generated,
                            _ => Sink::Nothing,
                        };
                    }
                    b'{' => {
                        at += 1;
                        self.open(Frame { slot: self.slot.object(), array: false }, at);
                    }
                    b'[' => {
                        at += 1;
                        self.open(Frame { slot: self.slot.elements(), array: true }, at);
                    }
                    b'0'..=b'9' => {
                        at += 1;
                        self.number = Number::ZERO;
                        self.number.integer_digit(byte);
                        self.state = if byte == b'0' { State::Zero } else { State::Integer };
                    }
                    b'-' => {
                        at += 1;
                        self.number = Number::ZERO;
                        self.number.negate();
                        self.state = State::Minus;
                    }
                    b'n' => at = self.literal(bytes, at, b"null"),
                    b't' => at = self.literal(bytes, at, b"true"),
                    b'f' => at = self.literal(bytes, at, b"false"),
                    b']' if self.state == State::FirstElement => {
                        at += 1;
                        self.found.no_choices |= self.frame.slot == Slot::Choice;
                        self.close(true);
                    }
                    _ if self.skips(byte) => at += 1,
                    _ => break,
                },
                State::Key | State::FirstKey => match byte {
                    b'"' => {
                        let start = at + 1;
                        let end = text_end(bytes, start);
                        if bytes.get(end) == Some(&b'"') {
                            self.slot = lookup(self.frame.slot, &bytes[start..end]);
                            at = end + 1;
                            if bytes.get(at) == Some(&b':') {
                                at += 1;
                                self.state = State::Value;
                            } else {
                                self.state = State::Colon;
                            }
                        } else {
                            self.key.clear();
                            self.sink = Sink::Key;
                            self.state = State::Text;
                            at = start;
                        }
                    }
                    b'}' if self.state == State::FirstKey => {
                        at += 1;
                        if let Slot::Asked(place) = self.frame.slot {
                            self.found.asked.emptied(place);
                        }
                        self.close(false);
                    }
                    _ if self.skips(byte) => at += 1,
                    _ => break,
                },
                State::Colon => match byte {
                    b':' => {
                        at += 1;
                        self.state = State::Value;
                    }
                    _ if self.skips(byte) => at += 1,
                    _ => break,
                },
                State::AfterValue => match byte {
                    b',' => {
                        at += 1;
                        if self.frame.array {
                            self.slot = self.frame.slot;
                            self.state = State::Value;
                        } else {
                            self.state = State::Key;
                        }
                    }
                    b'}' => {
                        at += 1;
                        self.close(false);
                    }
                    b']' => {
                        at += 1;
                        self.close(true);
                    }
                    _ if self.skips(byte) => at += 1,
                    _ => break,
                },
                State::Escape => {
                    self.escape(byte);
                    at += usize::from(self.state != State::Broken);
                }
                State::Unicode => {
                    self.unicode(byte);
                    at += usize::from(self.state != State::Broken);
                }
                State::Literal => {
                    if self.literal.first() == Some(&byte) {
                        at += 1;
                        self.literal = &self.literal[1..];
                        if self.literal.is_empty() {
                            self.literal_ended(at);
                        }
                    } else {
                        self.state = State::Broken;
                    }
                }
                State::Minus
                | State::Zero
                | State::Integer
                | State::Point
                | State::Fraction
                | State::Exponent
                | State::ExponentSign
                | State::ExponentDigits => at = self.digits(bytes, at),
                State::Deep => match byte {
                    b'{' | b'[' => {
                        at += 1;
                        self.excess = self.excess.saturating_add(1);
                    }
                    b'}' | b']' => {
                        at += 1;
                        self.excess -= 1;
                        if self.excess == 0 {
                            self.value_ended();
                        }
                    }
                    b'"' => {
                        at += 1;
                        self.state = State::DeepText;
                    }
                    _ if self.is_line_break(byte) => break,
                    _ => at += 1,
                },
                State::DeepText => {
                    at = text_end(bytes, at);
                    match bytes.get(at) {
                        None => break,
                        Some(b'"') => self.state = State::Deep,
                        Some(b'\\') => self.state = State::DeepEscape,
                        Some(&other) => {
                            if !self.is_line_break(other) {
                                self.state = State::Broken;
                            }
                            break;
                        }
                    }
                    at += 1;
                }
                State::DeepEscape => {
                    if self.is_line_break(byte) {
                        break;
                    }
                    at += 1;
                    self.state = State::DeepText;
                }
                State::Done => {
                    if !self.lines || !self.skips(byte) {
                        break;
                    }
                    at += 1;
                }
                State::Broken => break,
            }
        }
        self.read = self.read.wrapping_add(at);
        at
    }

    fn is_line_break(&self, byte: u8) -> bool {
        self.lines && matches!(byte, b'\n' | b'\r')
    }

    /// Whether this byte between tokens is blank. A byte that is not breaks the document, but for a line break that
    /// ends the line.
    fn skips(&mut self, byte: u8) -> bool {
        match byte {
            b' ' | b'\t' => true,
            b'\n' | b'\r' => !self.lines,
            _ => {
                self.state = State::Broken;
                false
            }
        }
    }

    /// `at`: behind the bracket.
    fn open(&mut self, frame: Frame, at: usize) {
        if let Slot::Asked(place) = self.slot {
            self.found.asked.opened(place, frame.array, self.read.wrapping_add(at));
        }
        let Some(place) = self.stack.get_mut(self.depth) else {
            self.excess = 1;
            self.state = State::Deep;
            return;
        };
        *place = self.frame;
        self.depth += 1;
        self.frame = frame;
        if frame.array {
            self.slot = frame.slot;
            self.state = State::FirstElement;
        } else {
            if frame.slot.is_usage() {
                self.counts.clear();
            }
            self.state = State::FirstKey;
        }
    }

    fn close(&mut self, array: bool) {
        if self.depth == 0 || self.frame.array != array {
            self.state = State::Broken;
            return;
        }
        if !array && self.frame.slot.is_usage() {
            self.usage_ended();
        }
        self.depth -= 1;
        self.frame = self.stack[self.depth];
        self.value_ended();
    }

    /// Usage of the whole answer goes before that of one choice; of two of the same kind the last counts. One that
    /// says nothing is kept only where it begins a message (Anthropic), for what follows adds to it.
    fn usage_ended(&mut self) {
        let slot = self.frame.slot;
        self.found.has_usage |= slot == Slot::Usage;
        let counts = match self.found.usage {
            Some((earlier, _)) if slot == Slot::ChoiceUsage && earlier != slot => false,
            None if slot == Slot::MessageUsage => true,
            _ => self.counts.usage().is_some(),
        };
        if counts {
            self.found.usage = Some((slot, self.counts));
        }
    }

    fn value_ended(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::AfterValue };
    }
}
