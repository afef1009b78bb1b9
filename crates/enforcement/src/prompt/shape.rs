//! Where a request to a model says what it asks for, in the bodies of every API: the keys that matter, and what their
//! values come to. Pure tables, nothing allocated.

use super::Edit;
use crate::paths;
use crate::usage::bytes::Short;
use crate::usage::json::MODEL_MAX;
use crate::values::MAX_AMOUNT;

/// A place in a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Body,
    Model,
    /// A key that some servers take for `model`, and others do not.
    ModelOtherwise,
    /// The most tokens of an answer, as requests of one API say it.
    MaxTokens(Api),
    /// How many answers are made, each of so many tokens.
    Choices,
    /// One prompt or several, each with answers of its own.
    Prompts,
    OnePrompt,
    Stream,
    StreamOptions,
    IncludeUsage,
    /// `generationConfig` (Gemini).
    Generation,
    /// `options` (Ollama).
    Options,
}

/// The APIs that say the most tokens of an answer by different keys. A server ignores those of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// OpenAI's, but for Responses; Anthropic's.
    Chat,
    Responses,
    Gemini,
    Ollama,
}

impl Api {
    /// That of a request to `path`, its query included.
    pub(crate) fn of(path: &[u8]) -> Self {
        let mut path = paths::plain(&paths::split(path).0);
        path.make_ascii_lowercase();
        if path.ends_with(b"/responses") {
            Self::Responses
        } else if path.ends_with(b"generatecontent") {
            Self::Gemini
        } else if path.ends_with(b"/api/chat") || path.ends_with(b"/api/generate") {
            Self::Ollama
        } else {
            Self::Chat
        }
    }
}

/// What `key` leads to in an object in this place. Servers written in Go read a key whatever its case.
pub(crate) fn lookup(object: Place, key: &[u8]) -> Option<Place> {
    Some(match (object, fold(key, &mut [0; FOLDED_MAX])) {
        (Place::Body, b"max_tokens" | b"max_completion_tokens") => Place::MaxTokens(Api::Chat),
        (Place::Body, b"max_output_tokens") => Place::MaxTokens(Api::Responses),
        (Place::Body, b"n" | b"best_of") => Place::Choices,
        (Place::Body, b"prompt") => Place::Prompts,
        (Place::Body, b"generationconfig" | b"generation_config") => Place::Generation,
        (Place::Body, b"options") => Place::Options,
        (Place::Body, b"model") if key == b"model" => Place::Model,
        (Place::Body, b"model") => Place::ModelOtherwise,
        (Place::Body, b"stream") if key == b"stream" => Place::Stream,
        (Place::Body, b"stream_options") if key == b"stream_options" => Place::StreamOptions,
        (Place::StreamOptions, b"include_usage") if key == b"include_usage" => Place::IncludeUsage,
        (Place::Generation, b"maxoutputtokens" | b"max_output_tokens") => Place::MaxTokens(Api::Gemini),
        (Place::Generation, b"candidatecount" | b"candidate_count") => Place::Choices,
        (Place::Options, b"num_predict") => Place::MaxTokens(Api::Ollama),
        _ => return None,
    })
}

/// As long as the longest key that leads anywhere.
const FOLDED_MAX: usize = 21;

/// The key in lower case, as Go's `encoding/json` compares keys: the long s is an s, the sign for Kelvin a k. Nothing
/// if it is longer than any that leads somewhere.
fn fold<'a>(key: &[u8], into: &'a mut [u8; FOLDED_MAX]) -> &'a [u8] {
    let (mut rest, mut length) = (key, 0);
    while let [byte, others @ ..] = rest {
        let (folded, after) = match rest {
            [0xc5, 0xbf, after @ ..] => (b's', after),
            [0xe2, 0x84, 0xaa, after @ ..] => (b'k', after),
            _ => (byte.to_ascii_lowercase(), others),
        };
        let Some(place) = into.get_mut(length) else { return b"" };
        *place = folded;
        length += 1;
        rest = after;
    }
    &into[..length]
}

/// What was found so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The body is an object, or begins as one.
    pub(crate) object: bool,
    pub(crate) model: Named,
    pub(crate) name: Short<MODEL_MAX>,
    /// By [`Api`].
    pub(crate) max_tokens: [Option<u64>; 4],
    /// Something stands where a maximum should that is none: who answers may make of it what they like.
    pub(crate) unclear: bool,
    pub(crate) choices: Option<u64>,
    pub(crate) prompts: u64,
    pub(crate) stream: Option<bool>,
    /// Behind the bracket that opens the body.
    begin: usize,
    options: Options,
}

/// What is said about the usage of a stream, and where. Said twice it could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Options {
    Absent,
    /// `stream_options` is `null`, and ends there.
    Null(usize),
    /// They are an object, behind whose bracket this is, and do not speak of usage.
    Object {
        begin: usize,
        empty: bool,
    },
    /// They do not want it: `false` or `null`, which ends there and is so long.
    Unwanted {
        end: usize,
        length: usize,
    },
    Wanted,
    Unclear,
}

/// How often a model is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Never,
    Once,
    /// Twice and differently, or by what is no name.
    Unclearly,
}

impl Asked {
    pub(crate) const NOTHING: Self = Self {
        object: false,
        model: Named::Never,
        name: Short::EMPTY,
        max_tokens: [None; 4],
        unclear: false,
        choices: None,
        prompts: 0,
        stream: None,
        begin: 0,
        options: Options::Absent,
    };

    /// An object or array begins in front of there.
    pub(crate) fn opened(&mut self, place: Place, array: bool, at: usize) {
        match place {
            Place::Body => {
                self.object = !array;
                self.begin = at;
            }
            Place::Model | Place::ModelOtherwise => self.model = Named::Unclearly,
            Place::MaxTokens(_) => self.unclear = true,
            Place::OnePrompt if array => self.prompts = self.prompts.saturating_add(1),
            Place::StreamOptions if self.options == Options::Absent && !array => {
                self.options = Options::Object { begin: at, empty: false };
            }
            Place::StreamOptions | Place::IncludeUsage => self.options = Options::Unclear,
            _ => {}
        }
    }

    /// The object that ends has nothing in it.
    pub(crate) fn emptied(&mut self, place: Place) {
        if let (Place::StreamOptions, Options::Object { empty, .. }) = (place, &mut self.options) {
            *empty = true;
        }
    }

    /// A text, kept where it is the name of a model or stands for a number.
    pub(crate) fn text(&mut self, place: Place, text: &Short<MODEL_MAX>) {
        match place {
            Place::Model => self.named(text),
            Place::ModelOtherwise => self.model = Named::Unclearly,
            // Some servers take it for the number that it says, others do not.
            Place::MaxTokens(_) => {
                self.number(place, digits(text.get()));
                self.unclear = true;
            }
            // What is no number some may still read as one.
            Place::Choices => self.number(place, digits(text.get()).or(Some(u64::MAX))),
            Place::OnePrompt => self.prompts = self.prompts.saturating_add(1),
            Place::StreamOptions | Place::IncludeUsage => self.options = Options::Unclear,
            _ => {}
        }
    }

    fn named(&mut self, name: &Short<MODEL_MAX>) {
        self.model = match self.model {
            // Empty, or too long to be kept.
            _ if name.get().is_empty() => Named::Unclearly,
            Named::Never => {
                self.name = *name;
                Named::Once
            }
            Named::Once if self.name.get() == name.get() => Named::Once,
            _ => Named::Unclearly,
        };
    }

    /// A number; none if it is no count, and more than a balance holds if it is larger.
    pub(crate) fn number(&mut self, place: Place, count: Option<u64>) {
        let count = count.map(|count| count.min(MAX_AMOUNT.unsigned_abs()));
        match place {
            Place::Model | Place::ModelOtherwise => self.model = Named::Unclearly,
            // Servers take none for no maximum.
            Place::MaxTokens(_) if count.is_none_or(|count| count == 0) => self.unclear = true,
            Place::MaxTokens(api) => {
                let most = &mut self.max_tokens[api as usize];
                *most = (*most).max(count);
            }
            Place::Choices => self.choices = self.choices.max(count),
            Place::StreamOptions | Place::IncludeUsage => self.options = Options::Unclear,
            _ => {}
        }
    }

    /// `true`, `false` or `null`, which ends there.
    pub(crate) fn literal(&mut self, place: Place, word: &[u8], end: usize) {
        match (place, self.options) {
            (Place::Model | Place::ModelOtherwise, _) => self.model = Named::Unclearly,
            (Place::MaxTokens(_), _) => self.unclear = true,
            (Place::Stream, _) => {
                let before = self.stream.replace(word == b"true");
                if before.is_some() {
                    self.options = Options::Unclear;
                }
            }
            (Place::StreamOptions, Options::Absent) if word == b"null" => self.options = Options::Null(end),
            (Place::IncludeUsage, Options::Object { .. }) => {
                let unwanted = Options::Unwanted { end, length: word.len() };
                self.options = if word == b"true" { Options::Wanted } else { unwanted };
            }
            (Place::StreamOptions | Place::IncludeUsage, _) => self.options = Options::Unclear,
            _ => {}
        }
    }

    /// What makes a stream end with its usage that is not to; nothing where that is not clear.
    pub(crate) const fn edit(&self) -> Option<Edit> {
        Some(match self.options {
            // Something follows in the body, which asks for a stream.
            Options::Absent => {
                Edit { start: self.begin, length: 0, text: r#""stream_options":{"include_usage":true},"# }
            }
            Options::Null(end) => Edit { start: end - 4, length: 4, text: r#"{"include_usage":true}"# },
            Options::Object { begin, empty: true } => Edit { start: begin, length: 0, text: r#""include_usage":true"# },
            Options::Object { begin, empty: false } => {
                Edit { start: begin, length: 0, text: r#""include_usage":true,"# }
            }
            Options::Unwanted { end, length } => Edit { start: end - length, length, text: "true" },
            Options::Wanted | Options::Unclear => return None,
        })
    }
}

/// The number that a text says in digits.
fn digits(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}
