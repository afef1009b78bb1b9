//! What documents point at: files, headings, tests.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use testbed::workspace;

/// Lines outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// Every link that leads to this repository leads somewhere.
pub(super) fn check(document: &str, text: &str) -> Result<()> {
    let folder = Path::new(document).parent().unwrap_or(Path::new(""));
    for line in prose(text) {
        // A pattern may look like a link.
        let line: String = line.split('`').step_by(2).collect();
        for (_, rest) in line.match_indices("](").map(|(at, found)| line.split_at(at + found.len())) {
            let target = rest.split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { workspace().join(document) } else { workspace().join(folder).join(file) };
            ensure!(path.exists(), "{document}: {target} leads nowhere");
            if !heading.is_empty() {
                let there = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                ensure!(headings(&there).contains(heading), "{document}: there is no heading for {target}");
            }
        }
    }
    Ok(())
}

/// The names that GitHub gives to headings: lower case, without punctuation, blanks as hyphens, numbered if they repeat.
fn headings(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for heading in prose(text).filter(|line| line.starts_with('#')) {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|one| one.is_alphanumeric() || matches!(one, ' ' | '-' | '_'));
        let name: String = kept.map(|one| if one == ' ' { '-' } else { one }).collect();
        let mut unique = name.clone();
        let mut count = 0;
        while !names.insert(unique.clone()) {
            count += 1;
            unique.clone_from(&name);
            let _ = write!(unique, "-{count}");
        }
    }
    names
}

/// Names in backticks that are sentences, as those of tests are.
pub(super) fn tests_named_in(text: &str) -> Vec<&str> {
    let quoted = prose(text).flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_sentence = |word: &&str| {
        word.matches('_').count() >= 5
            && !word.starts_with("aiquota_")
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    quoted.filter(is_sentence).collect()
}

/// Paths in backticks that begin at the root.
pub(super) fn files_named_in(text: &str) -> Vec<&str> {
    const FOLDERS: [&str; 6] = ["charts/", "crates/", "docs/", "examples/", "tests/", "xtask/"];
    let quoted = prose(text).flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_path =
        |word: &&str| FOLDERS.iter().any(|folder| word.starts_with(folder)) && !word.contains([' ', '<', '*', '{']);
    quoted.filter(is_path).collect()
}

/// All Rust sources below a folder.
pub(super) fn sources(folder: &Path, into: &mut String) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[test]
fn headings_are_named_as_github_names_them() {
    let text = "# Token rate limits\n```sh\n# no heading\n```\n## `--flavor=native`, and more\n## Twice\n## Twice\n";
    let expected = ["token-rate-limits", "--flavornative-and-more", "twice", "twice-1"].map(str::to_owned);
    assert_eq!(headings(text), BTreeSet::from(expected));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    assert!(check("docs/cli.md", "[one](conditions.md) and [two](conditions.md#reasons)").is_ok());
    assert!(check("docs/cli.md", "[one](conditions.md), [two](condition.md)").is_err());
    assert!(check("docs/cli.md", "[one](conditions.md#no-such-heading)").is_err());
    assert_eq!(files_named_in("`crates/api` and `crates/<name>`, `api/crates`"), ["crates/api"]);
    assert_eq!(tests_named_in("`a_test_of_which_a_page_speaks`, `aiquota_seeds_written_in_one_round_total`").len(), 1);
}
