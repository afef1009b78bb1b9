//! Which of the declared models a request is for, and what its tokens weigh. In: models as declared, and what a request
//! says: its body, its path, its headers. Out: the declared model, or that they contradict each other. Pure.

use serde::{Deserialize, Serialize};

use crate::paths;
use crate::prompt::{Model as Named, Prompt};
use crate::steps::Request;
use crate::usage::Usage;
use crate::values::{MAX_AMOUNT, MODEL_MAX_LENGTH, WEIGHT_MAX, is_plain};

/// The header in which Higress names the model of a request, and routes by it. A client may have sent its own.
pub const HEADER: &str = "x-higress-llm-model";

/// What stands before a model's name in Gemini's paths, and may stand there in its bodies.
const GEMINI: &[u8] = b"models/";

/// How much each token counts: of input, of output, of input from a cache, of output that is reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights(pub [u16; 4]);

impl Default for Weights {
    fn default() -> Self {
        Self([1; 4])
    }
}

impl Weights {
    /// Whether they are as without any.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether they may be declared. Where all are 0, nothing is charged.
    #[must_use]
    pub fn are_valid(self) -> bool {
        self.0.iter().all(|weight| *weight <= WEIGHT_MAX)
    }

    /// The same for a usage of which nobody knows yet how much comes from a cache and is reasoning: each counts as the
    /// dearer sort.
    #[must_use]
    pub fn dearest(self) -> Self {
        let [input, output, cached, reasoning] = self.0;
        let (input, output) = (input.max(cached), output.max(reasoning));
        Self([input, output, input, output])
    }

    /// What is charged for a usage. What the answer's total has beyond the parts that it names is output, or input where
    /// only the output is named.
    #[must_use]
    pub fn charge(self, usage: &Usage) -> u64 {
        let [per_input, per_output, per_cached, per_reasoning] = self.0.map(u64::from);
        if [per_output, per_cached, per_reasoning] == [per_input; 3] {
            return usage.total.saturating_mul(per_input).min(MAX_AMOUNT.unsigned_abs());
        }
        let (mut input, mut output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
        let rest = usage.total.saturating_sub(input.saturating_add(output));
        let beyond = if usage.input.is_none() && usage.output.is_some() { &mut input } else { &mut output };
        *beyond = beyond.saturating_add(rest);
        let cached = usage.cached_input.unwrap_or(0).min(input);
        let reasoning = usage.reasoning.unwrap_or(0).min(output);
        [
            (input - cached, per_input),
            (cached, per_cached),
            (output - reasoning, per_output),
            (reasoning, per_reasoning),
        ]
        .into_iter()
        .fold(0_u64, |sum, (tokens, weight)| sum.saturating_add(tokens.saturating_mul(weight)))
        .min(MAX_AMOUNT.unsigned_abs())
    }
}

/// A declared model: its name, or the beginning of names with `*` behind it.
#[derive(Debug, PartialEq, Eq)]
pub struct Model<T> {
    pub name: String,
    pub weights: Weights,
    /// What requests for it are held to.
    pub held_to: T,
}

/// Declared models. Nothing where requests are not asked which model they are for.
#[derive(Debug, PartialEq, Eq)]
pub struct Models<T>(Vec<Model<T>>);

impl<T> Models<T> {
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    #[must_use]
    pub fn new(models: Vec<Model<T>>) -> Self {
        // Names before beginnings, and of these the longest first: the first that fits is the one.
        let rank = |model: &Model<T>| (model.name.ends_with('*'), usize::MAX - model.name.len());
        let mut sorted: Vec<Model<T>> = Vec::with_capacity(models.len());
        for model in models {
            // There are few: a sort would weigh more than this takes.
            sorted.insert(sorted.partition_point(|before| rank(before) <= rank(&model)), model);
        }
        Self(sorted)
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The declared model that a request is for.
    ///
    /// # Errors
    /// If it names different ones, or its body could be read otherwise than we read it, or is not read.
    pub fn of(&self, request: &dyn Request, body: Option<&Prompt>) -> Result<Option<usize>, Unclear> {
        if self.is_empty() {
            return Ok(None);
        }
        let body = match body {
            None => None,
            Some(Prompt { is_object: true, model: Named::Named(name), .. }) => Some(name.as_bytes()),
            Some(Prompt { is_object, bytes, model: Named::Absent, .. }) if *is_object || *bytes == 0 => None,
            Some(Prompt { is_object: false, .. }) if is_form(request) => return Err(Unclear::Form),
            Some(_) => return Err(Unclear::Contradiction),
        };
        let path = paths::plain(&paths::split(request.path()).0);
        agreed(body, in_path(&path), request.header(HEADER)).map(|model| self.find(model))
    }

    /// The declared model that is called so; `*` is for what has no name, too.
    #[must_use]
    pub fn find(&self, model: Option<&[u8]>) -> Option<usize> {
        let model = model.map(bare).unwrap_or_default();
        self.0.iter().position(|declared| match declared.name.as_bytes() {
            [beginning @ .., b'*'] => model.starts_with(beginning),
            name => name == model,
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Model<T>> {
        self.0.iter()
    }

    #[must_use]
    pub fn get(&self, found: Option<usize>) -> Option<&Model<T>> {
        self.0.get(found?)
    }

    /// What is counted for it: its name, or `other`; nothing where no model is declared.
    #[must_use]
    pub fn name(&self, found: Option<usize>) -> Option<&str> {
        if self.is_empty() { None } else { Some(self.get(found).map_or("other", |model| &model.name)) }
    }

    #[must_use]
    pub fn weights(&self, found: Option<usize>) -> Weights {
        self.get(found).map(|model| model.weights).unwrap_or_default()
    }
}

/// Why nobody knows which model a request is for: what it is charged for may not be what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// What it says contradicts itself, or can be read in two ways.
    Contradiction,
    /// Its body is a form, which is not read.
    Form,
}

/// The model that body, path and headers agree on; nothing where none of them names one. An empty name is none. Higress
/// may name the provider in the header, and a slash, before what body and path name.
///
/// # Errors
/// If two of them name different ones.
fn agreed<'a>(
    body: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    headers: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<&'a [u8]>, Unclear> {
    let mut named = body.into_iter().chain(path).map(bare).filter(|name| !name.is_empty());
    let mut headers = headers.into_iter().map(bare).filter(|name| !name.is_empty());
    let said = named.next();
    let agree = match said {
        Some(said) => {
            let of_provider = |header: &[u8]| {
                let slash = memchr::memchr(b'/', header);
                slash.is_some_and(|slash| slash > 0 && &header[slash + 1..] == said)
            };
            named.all(|other| other == said) && headers.all(|header| header == said || of_provider(header))
        }
        None => {
            let first = headers.next();
            return if headers.all(|other| Some(other) == first) { Ok(first) } else { Err(Unclear::Contradiction) };
        }
    };
    if agree { Ok(said) } else { Err(Unclear::Contradiction) }
}

/// Whether the body is said to be a form: what is in it is not read.
fn is_form(request: &dyn Request) -> bool {
    const FORM: &[u8] = b"multipart/form-data";
    let types = request.header("content-type");
    types.first().and_then(|said| said.get(..FORM.len())).is_some_and(|said| said.eq_ignore_ascii_case(FORM))
}

/// The model in a path as Gemini's, Azure's or Bedrock's: `/v1beta/models/<model>:generateContent`,
/// `/openai/deployments/<model>/chat/completions`, `/model/<model>/invoke`. The last counts.
fn in_path(path: &[u8]) -> Option<&[u8]> {
    let mut segments = path.rsplit(|byte| *byte == b'/');
    let mut last = segments.next()?;
    let mut behind: Option<&[u8]> = None;
    for segment in segments {
        let is = |name: &[u8]| segment.eq_ignore_ascii_case(name);
        let named = match segment {
            b"models" if behind.is_none() => memchr::memrchr(b':', last).map(|end| &last[..end]),
            _ if is(b"deployments") || is(b"engines") => behind.map(|_| last),
            _ if is(b"model") => {
                behind.filter(|it| it.starts_with(b"invoke") || it.starts_with(b"converse")).map(|_| last)
            }
            _ => None,
        };
        if named.is_some() {
            return named;
        }
        (last, behind) = (segment, Some(last));
    }
    None
}

/// Without what Gemini lets stand before it.
fn bare(model: &[u8]) -> &[u8] {
    model.strip_prefix(GEMINI).unwrap_or(model)
}

/// Whether this may be declared ([`crate::values::MODEL_PATTERN`]), and can be found.
#[must_use]
pub fn is_declarable(name: &str) -> bool {
    let beginning = name.strip_suffix('*').unwrap_or(name);
    (1..=MODEL_MAX_LENGTH).contains(&name.len())
        && is_plain(name.as_bytes())
        && !beginning.contains('*')
        && !name.as_bytes().starts_with(GEMINI)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: Usage = Usage { input: None, output: None, total: 0, cached_input: None, reasoning: None };

    #[test]
    fn each_sort_of_token_has_its_weight() {
        let charge = |weights, usage: &Usage| Weights(weights).charge(usage);
        let all = Usage { input: Some(100), output: Some(50), total: 150, cached_input: Some(40), reasoning: Some(20) };
        assert_eq!(charge([1, 1, 1, 1], &all), 150);
        assert_eq!(charge([3, 3, 3, 3], &all), 450);
        assert_eq!(charge([1, 0, 0, 0], &all), 60);
        assert_eq!(charge([0, 1, 0, 0], &all), 30);
        assert_eq!(charge([0, 0, 1, 0], &all), 40);
        assert_eq!(charge([0, 0, 0, 1], &all), 20);
        assert_eq!(charge([2, 10, 1, 7], &all), 120 + 300 + 40 + 140);
    }

    #[test]
    fn what_a_total_has_beyond_its_parts_is_output_unless_only_that_is_named() {
        let charge = |usage: Usage| Weights([1, 10, 0, 100]).charge(&usage);
        assert_eq!(charge(Usage { total: 7, ..USAGE }), 70, "a total alone");
        assert_eq!(charge(Usage { input: Some(5), total: 7, ..USAGE }), 5 + 20);
        assert_eq!(charge(Usage { output: Some(5), total: 7, ..USAGE }), 2 + 50);
        assert_eq!(charge(Usage { input: Some(5), output: Some(0), total: 5, ..USAGE }), 5, "an embedding");
        // Reasoning that is counted beside the output, and in the total only.
        let beside = Usage { input: Some(10), output: Some(5), total: 115, reasoning: Some(100), ..USAGE };
        assert_eq!(charge(beside), 10 + 50 + 10_000);
    }

    #[test]
    fn parts_are_no_larger_than_the_whole_and_the_sum_is_what_a_balance_holds() {
        let odd = Usage { input: Some(5), output: Some(5), total: 10, cached_input: Some(9), reasoning: Some(9) };
        assert_eq!(Weights([1, 1, 2, 3]).charge(&odd), 10 + 15);
        let max = MAX_AMOUNT.unsigned_abs();
        let huge = Usage { input: Some(max), output: Some(max), total: max, ..USAGE };
        assert_eq!(Weights([1000, 999, 1, 1]).charge(&huge), max);
        assert_eq!(Weights([1000; 4]).charge(&huge), max);
        let small = Usage { input: Some(8), output: Some(8), total: 10, ..USAGE };
        assert_eq!(Weights::default().charge(&small), 10, "without weights the total counts");
    }

    #[test]
    fn what_nobody_knows_yet_counts_as_the_dearer_sort() {
        assert_eq!(Weights([1, 10, 2, 3]).dearest(), Weights([2, 10, 2, 10]));
        assert_eq!(Weights([5, 1, 0, 9]).dearest(), Weights([5, 9, 5, 9]));
    }

    fn models(names: &[&str]) -> Models<()> {
        let model = |name: &&str| Model { name: (*name).into(), weights: Weights::default(), held_to: () };
        Models::new(names.iter().map(model).collect())
    }

    #[test]
    fn a_name_comes_before_a_beginning_and_the_longest_beginning_first() {
        let models = models(&["*", "gpt-*", "gpt-4o", "gpt-4*", "o1"]);
        let of = |model: Option<&str>| models.name(models.find(model.map(str::as_bytes))).unwrap();
        for (model, declared) in [
            ("gpt-4o", "gpt-4o"),
            ("gpt-4o-mini", "gpt-4*"),
            ("gpt-4", "gpt-4*"),
            ("gpt-3.5", "gpt-*"),
            ("gpt", "*"),
            ("o1", "o1"),
            ("o1-mini", "*"),
            ("models/gpt-4o", "gpt-4o"),
            ("GPT-4o", "*"),
        ] {
            assert_eq!(of(Some(model)), declared, "{model}");
        }
        assert_eq!(of(None), "*");
    }

    #[test]
    fn what_is_not_declared_is_other() {
        let some = models(&["gpt-*"]);
        assert_eq!(some.name(some.find(Some(b"claude"))), Some("other"));
        assert_eq!(some.name(some.find(None)), Some("other"));
        assert_eq!(models(&[]).name(None), None);
    }

    #[test]
    fn all_that_name_the_model_must_agree() {
        let of = |body: &'static str, path: &'static str, headers: &[&'static str]| {
            let some = |text: &'static str| (!text.is_empty()).then_some(text.as_bytes());
            agreed(some(body), some(path), headers.iter().map(|header| header.as_bytes()))
                .map(|model| model.map(|model| std::str::from_utf8(model).unwrap()))
        };
        assert_eq!(of("a", "", &["a", "a"]), Ok(Some("a")));
        assert_eq!(of("a", "", &[]), Ok(Some("a")));
        assert_eq!(of("", "", &["a"]), Ok(Some("a")));
        assert_eq!(of("", "", &["", "a"]), Ok(Some("a")));
        assert_eq!(of("models/a", "a", &["a"]), Ok(Some("a")));
        assert_eq!(of("", "", &[]), Ok(None));
        for contradiction in [of("a", "", &["b"]), of("a", "", &["a", "b"]), of("", "", &["a", "b"]), of("a", "b", &[])]
        {
            assert_eq!(contradiction, Err(Unclear::Contradiction));
        }
        // Of a provider, the slash behind it counts, not one in the model's own name.
        assert_eq!(of("a", "", &["p/a", "a"]), Ok(Some("a")));
        assert_eq!(of("Qwen/q", "", &["p/Qwen/q"]), Ok(Some("Qwen/q")));
        assert_eq!(of("", "a", &["p/a"]), Ok(Some("a")));
        for header in ["p/b", "/a", "p/Qwen/a", "pa", "a/p"] {
            assert_eq!(of("a", "", &[header]), Err(Unclear::Contradiction), "{header}");
        }
        assert_eq!(of("p/a", "", &["a"]), Err(Unclear::Contradiction));
        assert_eq!(of("", "", &["a", "p/a"]), Err(Unclear::Contradiction));
        assert_eq!(of("a", "", &["A"]), Err(Unclear::Contradiction));
    }

    #[test]
    fn a_path_of_geminis_azures_or_bedrocks_names_a_model() {
        let of = |path: &'static str| in_path(path.as_bytes()).map(|model| std::str::from_utf8(model).unwrap());
        assert_eq!(of("/v1beta/models/gemini-2.5-pro:generateContent"), Some("gemini-2.5-pro"));
        assert_eq!(of("/v1/publishers/google/models/a:b:streamGenerateContent"), Some("a:b"));
        assert_eq!(of("/openai/deployments/gpt-4o/chat/completions"), Some("gpt-4o"));
        assert_eq!(of("/openai/Deployments/x/deployments/gpt-4o/completions"), Some("gpt-4o"));
        assert_eq!(of("/v1/engines/davinci/completions"), Some("davinci"));
        assert_eq!(of("/model/anthropic.claude-v1:0/invoke-with-response-stream"), Some("anthropic.claude-v1:0"));
        assert_eq!(of("/model/m/converse"), Some("m"));
        for path in ["/deployments/a", "/model/m/other", "/model/invoke"] {
            assert_eq!(of(path), None, "{path}");
        }
        for path in ["/v1/models/gpt-4o", "/v1/chat/completions", "/a:b", "models", "", "/v1/models/", "/models/a/b:c"]
        {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn a_name_with_a_star_elsewhere_than_at_its_end_cannot_be_declared() {
        for good in ["a", "*", "gpt-4*", "Qwen/Qwen3:30b@x", &"a".repeat(128)] {
            assert!(is_declarable(good), "{good}");
        }
        for bad in ["", "a*b", "**", "a b", "a{b", "ü", "models/a", &"a".repeat(129)] {
            assert!(!is_declarable(bad), "{bad}");
        }
    }
}
