//! What a request to a model asks for. In: its body, piece by piece, cut anywhere. Out: the model it names, the most
//! tokens it lets the answer have, whether it streams ([`Prompt`]). Read with the tokenizer that finds usage in
//! answers: nothing of the body is kept but a name, however long it is. Pure.

pub(crate) mod shape;
#[cfg(test)]
mod tests;

use shape::{Api, Asked, Named};

use crate::usage::Usage;
use crate::usage::json::Json;
use crate::values::MAX_AMOUNT;

/// A longer body is not awaited: the gateway keeps what is awaited in memory, for every request in flight. 10 MiB are a
/// prompt as long as the longest context, several times, or some images.
pub const BODY_MAX: u64 = 10 << 20;

/// How many bytes of text are estimated as one token.
const BYTES_PER_TOKEN: u64 = 4;

/// The most tokens that a body is estimated at: as many as the context of a large model holds. What is longer carries
/// images or files, whose bytes say little about their tokens.
const INPUT_MAX: u64 = 128 << 10;

/// What a request's body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// How long the body is.
    pub bytes: u64,
    /// Whether it is one JSON object and nothing else. What the other fields say was found in it as far as it can be
    /// read.
    pub is_object: bool,
    pub model: Model,
    /// The most tokens of one answer: by [`Api`], the largest number under its names.
    max_tokens: [Option<u64>; 4],
    /// Something else than such a number stands there, too.
    unclear: bool,
    /// How many answers are made to one prompt.
    choices: u64,
    /// How many prompts it has, where it has a list of them.
    prompts: u64,
    pub stream: bool,
    /// What makes it ask for a stream that ends with its usage; nothing where it asks for that, or for no stream, and where
    /// it can be read in several ways.
    pub edit: Option<Edit>,
}

/// A change of a body: other text in the place of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    start: usize,
    length: usize,
    text: &'static str,
}

/// Which model a body asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// It names none.
    #[default]
    Absent,
    Named(String),
    /// It names two, or one by what is no name: no string, an empty one, one of more than 128 bytes, or no text; or by a
    /// key that is not written `model`. Who answers could read another than we do.
    Unclear,
}

/// Reads one body.
#[derive(Debug)]
pub struct Reader {
    json: Json,
    bytes: u64,
    /// Something stands behind the document.
    excess: bool,
}

impl Reader {
    #[must_use]
    pub fn new() -> Self {
        Self { json: Json::of_request(), bytes: 0, excess: false }
    }

    /// The next bytes.
    pub fn feed(&mut self, piece: &[u8]) {
        self.bytes = self.bytes.saturating_add(piece.len() as u64);
        let rest = &piece[self.json.scan(piece)..];
        self.excess |= !rest.trim_ascii().is_empty();
    }

    /// How many bytes were read.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The body is over.
    #[must_use]
    pub fn finish(self) -> Prompt {
        let Self { json, bytes, excess } = self;
        let Asked { object, model, name, max_tokens, unclear, choices, prompts, stream, .. } = json.found.asked;
        let model = match (model, std::str::from_utf8(name.get())) {
            (Named::Never, _) => Model::Absent,
            (Named::Once, Ok(name)) => Model::Named(name.to_owned()),
            (Named::Once, Err(_)) | (Named::Unclearly, _) => Model::Unclear,
        };
        let is_object = object && json.is_done() && !excess;
        let (choices, stream) = (choices.unwrap_or(1), stream == Some(true));
        let edit = if is_object && stream { json.found.asked.edit() } else { None };
        Prompt { bytes, is_object, model, max_tokens, unclear, choices, prompts, stream, edit }
    }
}

impl Edit {
    /// The body with it.
    #[must_use]
    pub fn apply(self, body: &[u8]) -> Vec<u8> {
        let Self { start, length, text } = self;
        let (head, tail) = body.split_at_checked(start).unwrap_or((body, &[]));
        [head, text.as_bytes(), tail.get(length..).unwrap_or_default()].concat()
    }
}

/// Whether what is asked for on this path may be told to end with its usage: only OpenAI's completions know that.
pub(crate) fn knows_include_usage(path: &[u8]) -> bool {
    path.ends_with(b"/completions")
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Prompt {
    /// What a request to `path` may use: the most tokens that its answers may have, and its body. `otherwise` is for each
    /// answer where the request does not say, clearly and as its API does: then no less than this is taken.
    #[must_use]
    pub fn at_most(&self, path: &[u8], otherwise: i64) -> Usage {
        let said = self.is_object && !self.unclear && self.max_tokens[Api::of(path) as usize].is_some();
        let otherwise = (!said).then_some(otherwise.unsigned_abs());
        let most = self.max_tokens.into_iter().fold(otherwise, Option::max).unwrap_or(0);
        let output = most.saturating_mul(self.choices.max(1)).saturating_mul(self.prompts.max(1));
        let input = self.bytes.div_ceil(BYTES_PER_TOKEN).min(INPUT_MAX);
        let total = input.saturating_add(output).min(MAX_AMOUNT.unsigned_abs());
        Usage { input: Some(input), output: Some(output), total, cached_input: None, reasoning: None }
    }
}
