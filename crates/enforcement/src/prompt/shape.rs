//! Where a request to a model says what it asks for, in the bodies of every API: the keys that matter, and what their
//! values come to. Pure tables, nothing allocated.

use crate::usage::bytes::Short;
use crate::usage::json::MODEL_MAX;

/// A place in a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Body,
    Model,
    /// The most tokens of an answer.
    MaxTokens,
    /// How many answers are made, each of so many tokens.
    Choices,
    Stream,
    StreamOptions,
    IncludeUsage,
    /// `generationConfig` (Gemini).
    Generation,
    /// `options` (Ollama).
    Options,
}

/// What `key` leads to in an object in this place.
pub(crate) fn lookup(object: Place, key: &[u8]) -> Option<Place> {
    Some(match (object, key) {
        (Place::Body, b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens") => Place::MaxTokens,
        (Place::Body, b"n" | b"best_of") => Place::Choices,
        (Place::Body, b"stream") => Place::Stream,
        (Place::Body, b"stream_options") => Place::StreamOptions,
        (Place::Body, b"generationConfig" | b"generation_config") => Place::Generation,
        (Place::Body, b"options") => Place::Options,
        // Servers written in Go read a key whatever its case.
        (Place::Body, key) if key.eq_ignore_ascii_case(b"model") => Place::Model,
        (Place::StreamOptions, b"include_usage") => Place::IncludeUsage,
        (Place::Generation, b"maxOutputTokens" | b"max_output_tokens") => Place::MaxTokens,
        (Place::Generation, b"candidateCount" | b"candidate_count") => Place::Choices,
        (Place::Options, b"num_predict") => Place::MaxTokens,
        _ => return None,
    })
}

/// What was found so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The body is an object, or begins as one.
    pub(crate) object: bool,
    pub(crate) model: Named,
    pub(crate) name: Short<MODEL_MAX>,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) choices: Option<u64>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
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
        max_tokens: None,
        choices: None,
        stream: false,
        include_usage: false,
    };

    /// An object or array begins.
    pub(crate) fn opened(&mut self, place: Place, array: bool) {
        match place {
            Place::Body => self.object = !array,
            Place::Model => self.model = Named::Unclearly,
            // The last of several is the one that counts.
            Place::StreamOptions => self.include_usage = false,
            _ => {}
        }
    }

    /// A model is named.
    pub(crate) fn named(&mut self, name: &Short<MODEL_MAX>) {
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

    /// A number; none if it is no count.
    pub(crate) fn number(&mut self, place: Place, count: Option<u64>) {
        match place {
            Place::Model => self.model = Named::Unclearly,
            Place::MaxTokens => self.max_tokens = self.max_tokens.max(count),
            Place::Choices => self.choices = self.choices.max(count),
            _ => {}
        }
    }

    /// `true`, `false` or `null`.
    pub(crate) fn literal(&mut self, place: Place, truth: bool) {
        match place {
            Place::Model => self.model = Named::Unclearly,
            Place::Stream => self.stream = truth,
            Place::StreamOptions => self.include_usage = false,
            Place::IncludeUsage => self.include_usage = truth,
            _ => {}
        }
    }
}
