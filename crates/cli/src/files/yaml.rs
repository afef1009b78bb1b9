//! YAML with positions: a document in, its value and the line of each field out. Pure.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_yaml::Spanned;

/// A node of a document that knows where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    line: usize,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    /// In the order of the file; with the line of each key.
    Map(Vec<(String, usize, Node)>),
}

/// Why a document cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) line: usize,
    pub(crate) problem: String,
}

/// One step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The documents of a file, each by itself, so that one that cannot be read hides no other. Those without content are
/// left out.
pub(crate) fn documents(text: &str) -> Vec<Result<Node, Unreadable>> {
    let mut found = Vec::new();
    for (begin, chunk) in chunks(text) {
        let says_something = |line: &str| !line.is_empty() && !line.starts_with('#') && !line.starts_with('%');
        if !chunk.lines().any(|line| says_something(line.trim_start().trim_start_matches("---").trim())) {
            continue;
        }
        let budget = serde_yaml::budget! { max_nodes: 5_000_000, max_events: 20_000_000 };
        let options = serde_yaml::options! { budget: budget, with_snippet: false };
        match serde_yaml::from_str_with_options::<Spanned<Raw>>(chunk, options) {
            Ok(Spanned { value: Raw::Scalar(Value::Null), .. }) => {}
            Ok(raw) => found.push(Ok(node(raw, begin))),
            Err(error) => {
                let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
                found.push(Err(Unreadable { line: begin + line.max(1), problem: told(&error) }));
            }
        }
    }
    found
}

/// The parser's own words without its place, which is said otherwise.
fn told(error: &serde_yaml::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let rest = text.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    let at = text.rfind(" at line ").or_else(|| text.rfind(" (line "));
    if text.contains("budget") || text.contains("recursion limit") {
        return "is too large, or has too much in one another, for one document".to_owned();
    }
    if let Some(name) = text.split_once("duplicate mapping key: ").map(|(_, rest)| rest) {
        let name = name.split([',', ' ']).next().unwrap_or_default();
        return format!("the field {name} stands there twice");
    }
    match (rest, at) {
        (Some((_, rest)), _) => rest.to_owned(),
        (None, Some(at)) => text[..at].to_owned(),
        (None, None) => text.to_owned(),
    }
}

/// The text between markers, with the number of lines before it. A line that begins with `---`, or is `...`, is a marker
/// wherever it stands: YAML has no other meaning for it.
fn chunks(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut begin, mut line, mut at) = (0, 0, 0);
    let mut begin_line = 0;
    for whole in text.split_inclusive('\n') {
        let rest = whole.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) && at > begin {
            chunks.push((begin_line, &text[begin..at]));
            (begin, begin_line) = (at, line);
        }
        let ends = whole.trim_end() == "...";
        if ends {
            chunks.push((begin_line, &text[begin..at]));
        }
        at += whole.len();
        line += 1;
        if ends {
            (begin, begin_line) = (at, line);
        }
    }
    chunks.push((begin_line, &text[begin..]));
    chunks
}

impl Node {
    pub(crate) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            Content::Map(fields) => {
                Value::Object(fields.iter().map(|(key, _, node)| (key.clone(), node.value())).collect::<Map<_, _>>())
            }
        }
    }

    /// Where a field stands; of one that is not there, what it would stand in.
    pub(crate) fn line(&self, path: &[Step]) -> usize {
        let (mut line, mut node) = (self.line, self);
        let mut path = path;
        while let Some(step) = path.first() {
            let next = match (step, &node.content) {
                (Step::Key(_), Content::Map(fields)) => {
                    let named = fields.iter().filter_map(|(key, line, node)| Some((named(key, path)?, *line, node)));
                    named.max_by_key(|(steps, ..)| *steps)
                }
                (Step::Index(index), Content::List(items)) => items.get(*index).map(|node| (1, node.line, node)),
                _ => None,
            };
            let Some((steps, at, below)) = next else { break };
            (path, line, node) = (&path[steps..], at, below);
        }
        line
    }

    /// The nodes of a list under a key.
    pub(crate) fn items(&self, name: &str) -> Option<&[Self]> {
        let Content::Map(fields) = &self.content else { return None };
        match &fields.iter().find(|(key, ..)| key == name)?.2.content {
            Content::List(items) => Some(items),
            Content::Scalar(_) | Content::Map(_) => None,
        }
    }
}

/// How many steps a key is: it may have dots.
fn named(key: &str, path: &[Step]) -> Option<usize> {
    let mut rest = key;
    for (count, step) in (1..).zip(path) {
        let Step::Key(name) = step else { return None };
        rest = rest.strip_prefix(name.as_str())?;
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None => return rest.is_empty().then_some(count),
        }
    }
    None
}

/// `spec.consumers[3].name` as steps. What is no index stays part of a name.
pub(crate) fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, indexes) = part.split_once('[').unwrap_or((part, ""));
        if !name.is_empty() {
            steps.push(Step::Key(name.to_owned()));
        }
        steps.extend(indexes.split(['[', ']']).filter_map(|index| index.parse().ok()).map(Step::Index));
    }
    steps
}

enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, before: usize) -> Node {
    let at = |location: serde_yaml::Location| before + usize::try_from(location.line()).unwrap_or(1).max(1);
    let content = match raw.value {
        Raw::Scalar(value) => Content::Scalar(value),
        Raw::List(items) => Content::List(items.into_iter().map(|item| node(item, before)).collect()),
        Raw::Map(fields) => {
            let field = |(key, value): (Spanned<String>, _)| (key.value, at(key.referenced), node(value, before));
            Content::Map(fields.into_iter().map(field).collect())
        }
    };
    Node { line: at(raw.referenced), content }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything that JSON has too")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Raw, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("this number cannot be written in JSON"))?;
        Ok(Raw::Scalar(number.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut found = Vec::new();
        while let Some(item) = items.next_element()? {
            found.push(item);
        }
        Ok(Raw::List(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Raw, A::Error> {
        let mut found: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
        while let Some((key, value)) = fields.next_entry::<Spanned<String>, Spanned<Raw>>()? {
            if key.value.is_empty() {
                return Err(A::Error::custom("a field has no name"));
            }
            found.push((key, value));
        }
        Ok(Raw::Map(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "\
# the first
kind: A
spec:
  consumers:
    - name: a
      quota: 1
    - {name: b,
       quota: 2}
---
kind: B
spec: {list: [1,
  2]}
---
metadata:
  annotations:
    quota: x
    quota.higress.io/refresh: 5
";

    #[test]
    fn each_field_has_its_line_and_one_that_is_missing_that_of_what_it_belongs_into() {
        let found: Vec<Node> = documents(TWO).into_iter().map(Result::unwrap).collect();
        for (document, path, line) in [
            (0, "kind", 2),
            (0, "spec.consumers", 4),
            (0, "spec.consumers[0].quota", 6),
            (0, "spec.consumers[1]", 7),
            (0, "spec.consumers[1].quota", 8),
            (0, "spec.consumers[1].unlimited", 7),
            (0, "spec.targetRefs", 3),
            (1, "kind", 10),
            (1, "spec.list[1]", 12),
            (1, "metadata.name", 10),
            (2, "metadata.annotations.quota.higress.io/refresh", 17),
            (2, "metadata.annotations.other.higress.io/refresh", 15),
        ] {
            assert_eq!(found[document].line(&steps(path)), line, "{path}");
        }
        assert_eq!(found[1].value(), serde_json::json!({"kind": "B", "spec": {"list": [1, 2]}}));
    }

    #[test]
    fn a_document_that_cannot_be_read_hides_no_other_and_says_its_line() {
        let text = "a: 1\n---\nb: [1\nc: 2\n---\nd: 1\nd: 2\n---\ne: 5\n";
        let found = documents(text);
        let lines: Vec<_> = found.iter().map(|found| found.as_ref().map_err(|error| error.line).err()).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].is_none() && lines[3].is_none());
        assert!(matches!(lines[1], Some(3..=5)), "{lines:?}");
        assert_eq!(lines[2], Some(7), "{:?}", found[2]);
    }

    #[test]
    fn a_document_that_has_an_end_is_followed_by_another() {
        for text in ["a: 1\n...\n---\nb: 2\n", "a: 1\n...\nb: 2\n", "a: 1\r\n...\r\nb: 2\r\n...\r\n"] {
            let found: Vec<Value> = documents(text).into_iter().map(|found| found.unwrap().value()).collect();
            assert_eq!(found, [serde_json::json!({"a": 1}), serde_json::json!({"b": 2})], "{text:?}");
        }
    }

    #[test]
    fn what_the_parser_says_is_said_to_people() {
        let deep = format!("a: {}{}", "[".repeat(500), "]".repeat(500));
        for (text, says) in [
            ("d: 1\nd: 2\n", "the field d stands there twice"),
            (deep.as_str(), "is too large, or has too much in one another, for one document"),
        ] {
            let found = documents(text);
            assert_eq!(found[0].as_ref().unwrap_err().problem, says);
        }
    }

    #[test]
    fn what_has_no_content_is_no_document() {
        for text in ["", "# nothing\n", "---\n# nothing\n---\n", "%YAML 1.2\n---\na: 1\n"] {
            let found = documents(text);
            assert_eq!(found.len(), usize::from(text.contains('a')), "{text:?}: {found:?}");
        }
    }
}
