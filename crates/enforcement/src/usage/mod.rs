//! The usage scanner: the bytes of a model's answer come in as they pass, cut anywhere; what goes out is the usage the
//! answer states, the model it names and how much text it generated. No I/O, nothing allocated, about 1 KiB per
//! stream whatever the answer holds.
//!
//! Server-sent events, JSON, JSON arrays and newline-delimited JSON are one grammar here: a sequence of documents.
//! A document of an event stream or of NDJSON counts when it is complete; one that is broken or cut off says
//! nothing, and reading goes on behind it. In a plain JSON answer a usage object counts as soon as it is closed, and
//! text as it comes, whether or not the rest arrives.
//!
//! Of several usages the last counts, never their sum. A number above `MAX_AMOUNT`, a negative or broken one and a
//! string are no counts; a usage of zeros says nothing.

pub(crate) mod bytes;
mod counts;
pub(crate) mod json;
mod shape;
#[cfg(test)]
mod tests;

use bytes::Short;
use counts::Counts;
use json::{Json, MODEL_MAX};
use shape::Slot;

/// What an answer used, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// With what was cached, also where the API counts that apart (Anthropic).
    pub input: Option<u64>,
    pub output: Option<u64>,
    /// What is charged: the answer's own total, else input and output. 1 to `MAX_AMOUNT`.
    pub total: u64,
    /// The part of the input that came from a cache.
    pub cached_input: Option<u64>,
    /// The part of the output that was reasoning.
    pub reasoning: Option<u64>,
}

/// How the documents of an answer are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Not known before the first byte that is not blank.
    Unknown,
    /// One document after the other.
    Documents,
    /// One per line.
    Lines,
    Events,
    /// Nothing more can be found.
    Ended,
}

/// Where in a line of an event stream, or of NDJSON, the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    /// So many bytes of the field name `data`.
    Field(u8),
    /// In the value; the one blank that may stand in front of it is blank to JSON, too.
    Data,
    Skipped,
}

const DATA: &[u8] = b"data";

/// Finds usage, model and generated text in one answer. See the module's text for what counts.
#[derive(Debug)]
pub struct Scanner {
    framing: Framing,
    declared: Framing,
    line: Line,
    /// A line feed that follows belongs to the carriage return before it.
    after_return: bool,
    json: Json,
    usage: Counts,
    /// Whether `usage` began with a `message_start`, so that later usages add to it.
    open: bool,
    /// Whether `usage` is that of a `message_start` alone.
    provisional: bool,
    generated: u64,
    model: Short<MODEL_MAX>,
}

impl Scanner {
    /// A scanner for an answer with this `content-type`. The type only says what the first bytes cannot: an answer
    /// that begins with a bracket is JSON even when it is called an event stream, and the other way round.
    #[must_use]
    pub fn new(content_type: Option<&[u8]>) -> Self {
        let declared = declared(content_type.unwrap_or_default());
        Self {
            framing: Framing::Unknown,
            declared,
            line: Line::Start,
            after_return: false,
            json: Json::new(false),
            usage: Counts::EMPTY,
            open: false,
            provisional: false,
            generated: 0,
            model: Short::EMPTY,
        }
    }

    /// The next bytes of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        let rest = if self.framing == Framing::Unknown { self.sniff(chunk) } else { chunk };
        match self.framing {
            Framing::Documents => self.documents(rest),
            Framing::Lines | Framing::Events => self.lines(rest),
            Framing::Unknown | Framing::Ended => {}
        }
    }

    /// The answer ended, or the client left: a last event that is complete counts without the blank line behind it.
    /// Bytes fed later are ignored.
    pub fn finish(&mut self) {
        match self.framing {
            Framing::Documents => self.take(),
            Framing::Lines | Framing::Events if self.json.is_done() => self.take(),
            _ => {}
        }
        self.framing = Framing::Ended;
    }

    /// The usage so far; none if the answer stated none, or only zeros.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage.usage()
    }

    /// Whether the usage so far is only what a stream began with: its output is not counted yet.
    #[must_use]
    pub const fn is_provisional(&self) -> bool {
        self.provisional
    }

    /// Bytes of generated text so far: content, reasoning, refusals and arguments of tools, with escapes as long as
    /// what they stand for. What a stream repeats behind its deltas (Responses) is not counted again.
    #[must_use]
    pub const fn generated_bytes(&self) -> u64 {
        self.generated
    }

    /// The model that the answer names first; none if it names none or one of more than 128 bytes.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        std::str::from_utf8(self.model.get()).ok().filter(|name| !name.is_empty())
    }

    /// Finds out the framing and returns what is left to read.
    fn sniff<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        // Blanks, and the bytes of a byte order mark.
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0xEF | 0xBB | 0xBF);
        let Some(start) = chunk.iter().position(|byte| !blank(byte)) else { return &[] };
        self.framing = match (chunk[start], self.declared) {
            (b'{' | b'[', Framing::Lines) => Framing::Lines,
            (b'{' | b'[', _) => Framing::Documents,
            // What a line of an event stream begins with; no JSON value of interest does.
            (b'd' | b'e' | b'i' | b'r' | b':', _) => Framing::Events,
            (_, Framing::Unknown) => Framing::Documents,
            (_, declared) => declared,
        };
        self.json = Json::new(self.framing != Framing::Documents);
        &chunk[start..]
    }

    fn documents(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            rest = &rest[self.json.scan(rest)..];
            if self.json.is_done() {
                self.take();
            } else if self.json.is_broken() {
                self.take();
                self.framing = Framing::Ended;
                return;
            }
        }
    }

    fn lines(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.line {
                Line::Start => {
                    let after_return = std::mem::take(&mut self.after_return);
                    if byte == b'\n' && after_return {
                        at += 1;
                    } else if self.framing == Framing::Lines {
                        self.line = Line::Data;
                    } else if bytes[at..].starts_with(b"data:") {
                        at += 5;
                        self.line = Line::Data;
                    } else if byte == b'\n' || byte == b'\r' {
                        // A line feed behind the return ends the event once more, which does no harm.
                        at += 1;
                        self.json.restart();
                    } else {
                        self.line = Line::Field(0);
                    }
                }
                Line::Field(length) => match DATA.get(usize::from(length)) {
                    Some(expected) if byte == *expected => {
                        at += 1;
                        self.line = Line::Field(length + 1);
                    }
                    None if byte == b':' => {
                        at += 1;
                        self.line = Line::Data;
                    }
                    _ => self.line = Line::Skipped,
                },
                Line::Data => {
                    at += self.json.scan(&bytes[at..]);
                    if self.json.is_broken() {
                        self.line = Line::Skipped;
                    } else if let Some(&end) = bytes.get(at) {
                        at += 1;
                        self.line_ended(end);
                    }
                }
                Line::Skipped => match memchr::memchr2(b'\n', b'\r', &bytes[at..]) {
                    None => return,
                    Some(length) => {
                        self.line_ended(bytes[at + length]);
                        at += length + 1;
                    }
                },
            }
        }
    }

    /// A document that is complete at the end of a line counts then: some servers leave out the blank line. One that
    /// is not goes on in the next line of the event.
    fn line_ended(&mut self, by: u8) {
        self.line = Line::Start;
        self.after_return = by == b'\r';
        if self.json.is_done() {
            self.take();
        } else if self.framing == Framing::Lines {
            self.json.restart();
        } else {
            self.json.line_break();
        }
    }

    /// Takes over what the document said, and makes ready for the next.
    fn take(&mut self) {
        let found = &self.json.found;
        self.generated = self.generated.saturating_add(found.generated);
        if self.model.get().is_empty() && !found.model.get().is_empty() {
            self.model = found.model;
        }
        if let Some((slot, _)) = &found.usage {
            self.provisional = *slot == Slot::MessageUsage && self.framing == Framing::Events;
        }
        match &found.usage {
            Some((Slot::MessageUsage, counts)) => {
                self.usage = *counts;
                self.open = true;
            }
            Some((_, counts)) if self.open && !counts.has_total() => self.usage.overlay(counts),
            Some((_, counts)) => {
                self.usage = *counts;
                self.open = false;
            }
            None if found.beside.usage().is_some() => self.usage = found.beside,
            None => {}
        }
        self.json.restart();
    }
}

/// What a content type says about the framing, where the first byte leaves it open.
fn declared(content_type: &[u8]) -> Framing {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is = |name: &str| media_type.eq_ignore_ascii_case(name.as_bytes());
    if is("text/event-stream") {
        Framing::Events
    } else if is("application/x-ndjson") || is("application/ndjson") || is("application/jsonl") {
        Framing::Lines
    } else {
        Framing::Unknown
    }
}
