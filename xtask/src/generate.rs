//! `cargo xtask generate`: what is made of the code and kept in the repository: the custom resource definitions in
//! `crds/` and, as templates, in `charts/aiquota-crds`; the permissions and versions of the charts; `docs/reference.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::run::{output, program, root, say_done, step, target};
use crate::test::{built, programs};

const CRDS: &str = "crds";
const TEMPLATES: &str = "charts/aiquota-crds/templates";
/// Files that a hidden command of `aiquota` prints whole.
const PRINTED: [(&str, &str); 2] =
    [("charts/aiquota/permissions.yaml", "permissions"), ("docs/reference.md", "reference")];
const CHARTS: [&str; 2] = ["charts/aiquota/Chart.yaml", "charts/aiquota-crds/Chart.yaml"];
/// All packages have the workspace's, this one too.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Texts by their path below the root.
type Files = BTreeMap<String, String>;

pub(crate) fn generate(check: bool) -> Result<()> {
    step("programs", &mut programs())?;
    let wanted = wanted()?;
    let found = found()?;
    let differing = differing(&wanted, &found);
    if check {
        if !differing.is_empty() {
            let list = differing.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            bail!("not what the code says: {list}; run `cargo xtask generate` and commit");
        }
        say_done("crds/, charts/ and docs/reference.md are what the code says");
        return Ok(());
    }
    for name in differing {
        let path = root().join(name);
        match wanted.get(name) {
            Some(text) => {
                fs::create_dir_all(path.parent().unwrap_or(root()))?;
                fs::write(path, text)?;
            }
            None => fs::remove_file(path)?,
        }
        say_done(name);
    }
    Ok(())
}

fn wanted() -> Result<Files> {
    let fresh = target().join("generated/crds");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    let mut command = program(built("aiquota"), ["crds", "--output-dir"]);
    step("custom resource definitions", command.arg(&fresh))?;
    let mut wanted = Files::new();
    for (name, text) in yaml_files(&fresh)? {
        wanted.insert(format!("{TEMPLATES}/{name}"), template(&text).with_context(|| name.clone())?);
        wanted.insert(format!("{CRDS}/{name}"), text);
    }
    ensure!(!wanted.is_empty(), "`aiquota crds` wrote nothing");
    for (file, command) in PRINTED {
        let text = output(&mut program(built("aiquota"), [command]))?;
        wanted.insert(file.to_owned(), String::from_utf8(text)?);
    }
    for chart in CHARTS {
        let text = fs::read_to_string(root().join(chart)).with_context(|| format!("reading {chart}"))?;
        wanted.insert(chart.to_owned(), versioned(&text, VERSION));
    }
    Ok(wanted)
}

fn found() -> Result<Files> {
    let mut found = Files::new();
    for folder in [CRDS, TEMPLATES].into_iter().filter(|folder| root().join(folder).is_dir()) {
        for (name, text) in yaml_files(&root().join(folder))? {
            found.insert(format!("{folder}/{name}"), text);
        }
    }
    let single = CHARTS.into_iter().chain(PRINTED.map(|(file, _)| file));
    for file in single.filter(|file| root().join(file).is_file()) {
        found.insert(file.to_owned(), fs::read_to_string(root().join(file))?);
    }
    Ok(found)
}

/// A definition as a template of helm: kept when its release is uninstalled, and nothing in it is taken for an action.
fn template(definition: &str) -> Result<String> {
    const METADATA: &str = "\nmetadata:\n";
    ensure!(definition.matches(METADATA).count() == 1, "not one line `metadata:`");
    let kept = format!("{METADATA}  annotations:\n    helm.sh/resource-policy: keep\n");
    Ok(definition.replace("{{", r#"{{ "{{" }}"#).replace(METADATA, &kept))
}

/// A Chart.yaml with this version in place of each that it has: its own, the application's, its dependencies'.
fn versioned(chart: &str, version: &str) -> String {
    let line = |line: &str| match line.split_once(':') {
        Some((key, _)) if matches!(key.trim_start(), "version" | "appVersion") => format!("{key}: {version}\n"),
        _ => format!("{line}\n"),
    };
    chart.lines().map(line).collect()
}

/// The names of what is new, changed or no longer wanted.
fn differing<'a>(wanted: &'a Files, found: &'a Files) -> Vec<&'a String> {
    let names: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    names.into_iter().filter(|name| wanted.get(*name) != found.get(*name)).collect()
}

/// By name, not by path.
fn yaml_files(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if let (Some("yaml"), Some(name)) = (path.extension().and_then(|end| end.to_str()), path.file_name()) {
            files.insert(name.to_string_lossy().into_owned(), fs::read_to_string(&path)?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_changed_and_unwanted_files_differ_and_equal_ones_do_not() {
        let files = |pairs: &[(&str, &str)]| -> Files {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let wanted = files(&[("changed", "2"), ("equal", "1"), ("new", "1")]);
        let found = files(&[("changed", "1"), ("equal", "1"), ("unwanted", "1")]);
        assert_eq!(differing(&wanted, &found), ["changed", "new", "unwanted"]);
    }

    #[test]
    fn a_definition_in_a_chart_is_kept_and_its_text_runs_nothing() {
        let text = "kind: X\nmetadata:\n  name: a\nspec:\n  description: as {{consumer}}\n";
        let expected = "kind: X\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n  name: a\nspec:\n  \
                        description: as {{ \"{{\" }}consumer}}\n";
        assert_eq!(template(text).unwrap(), expected);
        assert!(template("kind: X\n").is_err());
    }

    #[test]
    fn a_chart_and_what_it_depends_on_have_the_version_of_the_workspace() {
        let chart = "name: a\nversion: 0.1.0\nappVersion: \"0.1.0\"\ndependencies:\n  - name: b\n    version: 0.1.0\n";
        let expected = "name: a\nversion: 2.0.0\nappVersion: 2.0.0\ndependencies:\n  - name: b\n    version: 2.0.0\n";
        assert_eq!(versioned(chart, "2.0.0"), expected);
    }
}
