//! Where usage, model and generated text stand in the answers of every API: for each place the keys that matter and
//! what they lead to. Everything else leads to [`Slot::Ignored`]. What a request's body has is in `prompt::shape`. Pure
//! tables.

use super::counts::Field;
use crate::prompt::shape::{self as prompt, Place};

/// What a place in an answer means: of a value that is about to come, of an open object, or of the elements of an
/// open array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Ignored,
    /// The answer or event itself; as an array, its elements are answers (Gemini without SSE).
    Document,
    Element,
    /// `message` of the answer: Anthropic's `message_start`, Ollama's text.
    Message,
    /// `response`: the whole answer again (Responses), or Ollama's text.
    Response,
    Choices,
    Choice,
    Usage,
    MessageUsage,
    ChoiceUsage,
    /// Details inside a usage object.
    Details,
    Count(Field),
    Model,
    /// Something generated: a text, parts, or an object of which some keys are text.
    Said,
    /// A generated JSON value (arguments of a tool): every string inside is text.
    Arguments,
    /// In a request's body.
    Asked(Place),
}

impl Slot {
    /// What an object in this place is.
    pub(super) const fn object(self) -> Self {
        match self {
            Self::Element => Self::Document,
            other => other,
        }
    }

    /// What the elements of an array in this place are.
    pub(super) const fn elements(self) -> Self {
        match self {
            Self::Document => Self::Element,
            Self::Choices => Self::Choice,
            Self::Said => Self::Said,
            Self::Arguments => Self::Arguments,
            Self::Asked(Place::Prompts) => Self::Asked(Place::OnePrompt),
            _ => Self::Ignored,
        }
    }

    /// Whether a string in this place is generated text.
    pub(super) const fn is_text(self) -> bool {
        matches!(self, Self::Said | Self::Arguments | Self::Response)
    }

    /// Whether an object in this place is the answer's usage.
    pub(super) const fn is_usage(self) -> bool {
        matches!(self, Self::Usage | Self::MessageUsage | Self::ChoiceUsage)
    }
}

/// What `key` leads to in an object of this meaning.
pub(super) fn lookup(object: Slot, key: &[u8]) -> Slot {
    match object {
        Slot::Ignored => Slot::Ignored,
        Slot::Asked(place) => prompt::lookup(place, key).map_or(Slot::Ignored, Slot::Asked),
        Slot::Document => document(key),
        Slot::Choice => choice(key),
        Slot::Said => said(key),
        Slot::Message => match key {
            b"usage" => Slot::MessageUsage,
            b"model" => Slot::Model,
            _ => said(key),
        },
        Slot::Response => match key {
            b"usage" => Slot::Usage,
            b"model" => Slot::Model,
            _ => Slot::Ignored,
        },
        Slot::Arguments => Slot::Arguments,
        Slot::Usage | Slot::MessageUsage | Slot::ChoiceUsage => usage(key),
        Slot::Details => match key {
            b"cached_tokens" => Slot::Count(Field::Cached),
            b"reasoning_tokens" => Slot::Count(Field::Reasoning),
            _ => Slot::Ignored,
        },
        Slot::Element | Slot::Choices | Slot::Count(_) | Slot::Model => Slot::Ignored,
    }
}

// A Responses stream repeats its text: in `text` and `arguments` of the `done` events, in `part`, `item` and
// `response`. None of them leads to text here; only the `delta` events do.
fn document(key: &[u8]) -> Slot {
    match key {
        b"model" | b"modelVersion" => Slot::Model,
        b"choices" => Slot::Choices,
        b"usage" | b"usageMetadata" => Slot::Usage,
        b"message" => Slot::Message,
        b"response" => Slot::Response,
        b"delta" | b"content" | b"content_block" | b"candidates" | b"output" | b"thinking" => Slot::Said,
        b"prompt_eval_count" => Slot::Count(Field::OllamaPrompt),
        b"eval_count" => Slot::Count(Field::OllamaOutput),
        _ => Slot::Ignored,
    }
}

fn choice(key: &[u8]) -> Slot {
    match key {
        b"delta" | b"message" | b"text" => Slot::Said,
        b"usage" => Slot::ChoiceUsage,
        _ => Slot::Ignored,
    }
}

fn said(key: &[u8]) -> Slot {
    match key {
        b"content" | b"text" | b"parts" | b"summary" | b"tool_calls" | b"function" | b"function_call"
        | b"functionCall" | b"reasoning_content" | b"reasoning" | b"thinking" | b"refusal" | b"partial_json" => {
            Slot::Said
        }
        b"arguments" | b"args" | b"input" => Slot::Arguments,
        _ => Slot::Ignored,
    }
}

fn usage(key: &[u8]) -> Slot {
    Slot::Count(match key {
        b"prompt_tokens" => Field::Prompt,
        b"completion_tokens" => Field::Completion,
        b"total_tokens" | b"totalTokenCount" => Field::Total,
        b"input_tokens" => Field::Input,
        b"output_tokens" => Field::Output,
        b"cache_creation_input_tokens" => Field::CacheCreation,
        b"cache_read_input_tokens" => Field::CacheRead,
        b"promptTokenCount" => Field::GeminiPrompt,
        b"candidatesTokenCount" => Field::Candidates,
        b"thoughtsTokenCount" => Field::Thoughts,
        b"toolUsePromptTokenCount" => Field::ToolUse,
        b"cachedContentTokenCount" | b"prompt_cache_hit_tokens" => Field::Cached,
        b"prompt_tokens_details"
        | b"completion_tokens_details"
        | b"input_tokens_details"
        | b"output_tokens_details" => return Slot::Details,
        _ => return Slot::Ignored,
    })
}

/// A key longer than this leads nowhere.
pub(super) const KEY_MAX: usize = 32;
