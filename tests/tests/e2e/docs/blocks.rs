//! The fenced blocks of a document, and what is done with each by the words behind its fence. Pure, but for the list of
//! topics and packages that commands may name.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// Blocks that are neither run nor applied: the document, how their first line begins, and why. YAML among them is parsed
/// all the same.
const SHOWN: [(&str, &str, &str); 6] = [
    ("docs/cli.md", "NAMESPACE        AIQUOTA", "a table of figures that requests have changed"),
    ("docs/gitops.md", "- run: aiquota check", "steps of a pipeline that is not this one"),
    ("docs/install.md", "cargo xtask package", "needs a container engine and a registry, which tests do without"),
    ("docs/metrics.md", "aiquota.<kind>.policy.<namespace>/<name>.metric.<metric>", "the form of names"),
    ("docs/metrics.md", "aiquota.<kind>.policy.<namespace>/<name>.model.", "the form of names"),
    ("docs/metrics.md", "stats_tags:", "a part of Envoy's bootstrap: no Envoy is here"),
];

pub(super) struct Block {
    pub(super) document: String,
    /// Of its fence.
    pub(super) line: usize,
    pub(super) content: String,
    pub(super) rule: Rule,
}

/// What is done with a block.
#[derive(Debug, PartialEq)]
pub(super) enum Rule {
    /// `sh`: the commands succeed, in a checkout with aiquota, kubectl and helm at hand and a cluster.
    Run,
    /// `sh run`: a controller's command line, which fails for want of a cluster, not for its flags.
    Controller,
    /// `sh cargo`: what is named exists. Cargo runs this very test, and cannot be run within it.
    Cargo,
    /// `console`: what `$ command` prints is what follows.
    Compare,
    /// `yaml <name>.yaml`: written there for the commands that follow.
    File(String),
    /// `yaml`: objects that `aiquota check` and the API server take.
    Objects,
    /// `yaml <Kind>.spec`: fields of the spec of such an object.
    Spec(String),
    /// `json`: each line, or the whole.
    Json,
    /// `redis`: commands that Redis takes.
    Redis,
    /// On the list above.
    Shown,
}

/// The blocks of a document, in its order.
pub(super) fn blocks(document: &str, text: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut open: Option<(usize, usize, &str, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let (indent, trimmed) = (line.len() - line.trim_start().len(), line.trim());
        match (trimmed.strip_prefix("```"), open.take()) {
            (Some(info), None) => open = Some((index + 1, indent, info.trim(), String::new())),
            (Some(_), Some((line, _, info, content))) => {
                let rule = rule(document, info, &content).with_context(|| format!("{document}:{line}"))?;
                found.push(Block { document: document.to_owned(), line, content, rule });
            }
            (None, Some((at, indent, info, mut content))) => {
                content.extend([line.get(indent..).unwrap_or_default(), "\n"]);
                open = Some((at, indent, info, content));
            }
            (None, None) => {}
        }
    }
    ensure!(open.is_none(), "{document}: a block does not end");
    Ok(found)
}

fn rule(document: &str, info: &str, content: &str) -> Result<Rule> {
    let (language, word) = info.split_once(' ').unwrap_or((info, ""));
    if SHOWN.iter().any(|(of, begin, _)| *of == document && content.starts_with(begin)) {
        ensure!(language != "yaml" || !documents(content)?.is_empty(), "no YAML");
        return Ok(Rule::Shown);
    }
    Ok(match (language, word) {
        ("sh", "" | "cluster") => Rule::Run,
        ("sh", "run") => Rule::Controller,
        ("sh", "cargo") => Rule::Cargo,
        ("console", "") => Rule::Compare,
        ("json", "") => Rule::Json,
        ("redis", "") => Rule::Redis,
        ("yaml", "") if documents(content)?.iter().all(|object| object["kind"].is_string()) => Rule::Objects,
        ("yaml", file) if file.ends_with(".yaml") => Rule::File(file.to_owned()),
        ("yaml", part) if part.ends_with(".spec") => Rule::Spec(part.trim_end_matches(".spec").to_owned()),
        _ => bail!(
            "nothing is known to be done with a block `{info}`: say what it is with the words of Rule in this file, or put \
             it on the list SHOWN with the reason"
        ),
    })
}

/// The documents of a YAML text.
pub(super) fn documents(yaml: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_yaml::from_multiple(yaml)?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// An entry whose block is gone would exempt another one some day.
pub(super) fn ensure_no_exemption_is_stale(all: &[Block]) -> Result<()> {
    for (document, begin, _) in SHOWN {
        let matched = |block: &Block| block.document == document && block.content.starts_with(begin);
        ensure!(all.iter().any(matched), "no block of {document} begins with {begin}");
    }
    Ok(())
}

#[test]
fn a_block_is_read_with_its_indentation_and_its_rule() -> Result<()> {
    let text = "1. Do:\n\n   ```sh cluster\n   if true; then\n     true\n   fi\n   ```\n\n```yaml AIQuota.spec\nmode: Observe\n```\n";
    let found = blocks("docs/some.md", text)?;
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].line, found[0].content.as_str()), (3, "if true; then\n  true\nfi\n"));
    assert_eq!((&found[0].rule, &found[1].rule), (&Rule::Run, &Rule::Spec("AIQuota".to_owned())));
    Ok(())
}

#[test]
fn a_block_without_a_rule_is_refused_where_it_stands() {
    for (info, content) in
        [("", "a"), ("text", "a"), ("bash", "true"), ("yaml", "spec: {}"), ("yaml", "a: ]["), ("sh quiet", "true")]
    {
        let error =
            blocks("docs/some.md", &format!("\n```{info}\n{content}\n```\n")).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("docs/some.md:2"), "{info}");
    }
    assert!(blocks("docs/some.md", "```sh\ntrue\n").is_err(), "it does not end");
    let exempt = "```text\ncargo xtask package\n```\n";
    assert!(blocks("docs/install.md", exempt).is_ok() && blocks("docs/some.md", exempt).is_err());
}
