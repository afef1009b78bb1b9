//! docs/conditions.md explains every word the control plane writes into conditions and Events, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where conditions, reasons and Events get their words.
const SOURCES: [&str; 6] = [
    "crates/plan/src/conditions.rs",
    "crates/plan/src/loaded.rs",
    "crates/plan/src/plan.rs",
    "crates/plan/src/reason.rs",
    "crates/plan/src/status.rs",
    "crates/controller/src/programmer.rs",
];
/// Words in those sources that are something else: the status of a condition, the action of an Event.
const OTHERS: [&str; 4] = ["True", "False", "Unknown", "Write"];

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.len() > 1
        && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// The string literals that are one word in capitals, without those of tests.
fn words_in_code() -> BTreeSet<String> {
    let sources = SOURCES.map(read);
    let code = sources.iter().map(|source| source.split("#[cfg(test)]").next().unwrap_or_default());
    let lines = code.flat_map(str::lines).filter(|line| !line.trim_start().starts_with("//"));
    let literals = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    literals.filter(|text| is_word(text) && !OTHERS.contains(text)).map(str::to_owned).collect()
}

/// The first column of all tables.
fn words_in_doc() -> BTreeSet<String> {
    let doc = read("docs/conditions.md");
    doc.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned)).collect()
}

#[test]
fn every_condition_reason_and_event_is_explained_and_nothing_else() {
    let (code, doc) = (words_in_code(), words_in_doc());
    assert!(code.contains("NoAuthentication") && code.contains("Restored"), "the sources are read wrongly: {code:?}");
    assert_eq!(code.difference(&doc).collect::<Vec<_>>(), Vec::<&String>::new(), "not in docs/conditions.md");
    assert_eq!(doc.difference(&code).collect::<Vec<_>>(), Vec::<&String>::new(), "nobody writes these any more");
}

/// The words of a text between two marks that stand in backticks.
fn quoted<'a>(text: &'a str, from: &str, to: &str) -> BTreeSet<&'a str> {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("there is no {from:?}"));
    let (part, _) = rest.split_once(to).unwrap_or_else(|| panic!("there is no {to:?} after {from:?}"));
    part.split('`').skip(1).step_by(2).filter(|word| is_word(word)).collect()
}

#[test]
fn what_passes_by_itself_is_the_same_in_events_documents_and_for_argo_cd() {
    let passing = BTreeSet::from(plan::PASSING);
    let (conditions, gitops) = (read("docs/conditions.md"), read("docs/gitops.md"));
    assert_eq!(quoted(&conditions, "These pass by themselves within seconds", ".\n"), passing, "docs/conditions.md");
    assert_eq!(quoted(&gitops, "for a reason that passes by itself (", ")"), passing, "docs/gitops.md");
    for word in &passing {
        let row = conditions.lines().find(|line| line.starts_with(&format!("| `{word}` |")));
        assert!(row.is_some_and(|row| row.ends_with("| time |")), "{word} heals by something else: {row:?}");
    }
    let lua = read("examples/argocd/health.yaml");
    let (_, table) = lua.split_once("local passing = {\n").expect("the script has a table");
    let (table, _) = table.split_once("}\n").expect("the table ends");
    let table: BTreeSet<&str> = table.lines().filter_map(|line| line.trim().strip_suffix(" = true,")).collect();
    assert_eq!(table, passing, "examples/argocd/health.yaml");
}
