//! `cargo xtask generate`: the custom resource definitions in `crds/`, written by `aiquota crds`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::run::{program, root, say_done, step, target};
use crate::test::{built, programs};

pub(crate) fn generate(check: bool) -> Result<()> {
    let fresh = target().join("generated/crds");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    step("programs", &mut programs())?;
    let mut command = program(built("aiquota"), ["crds", "--output-dir"]);
    step("custom resource definitions", command.arg(&fresh))?;
    let wanted = files(&fresh)?;
    ensure!(!wanted.is_empty(), "`aiquota crds` wrote nothing");
    let folder = root().join("crds");
    fs::create_dir_all(&folder)?;
    let found = files(&folder)?;
    let differing = differing(&wanted, &found);
    if check {
        if !differing.is_empty() {
            let list = differing.iter().map(|name| format!("crds/{name}")).collect::<Vec<_>>().join(", ");
            bail!("not what crates/api says: {list}; run `cargo xtask generate` and commit");
        }
        say_done("crds/ is what crates/api says");
        return Ok(());
    }
    for name in differing {
        match wanted.get(name) {
            Some(text) => fs::write(folder.join(name), text)?,
            None => fs::remove_file(folder.join(name))?,
        }
        say_done(&format!("crds/{name}"));
    }
    Ok(())
}

/// The names of what is new, changed or no longer wanted.
fn differing<'a>(wanted: &'a BTreeMap<String, String>, found: &'a BTreeMap<String, String>) -> Vec<&'a String> {
    let names: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    names.into_iter().filter(|name| wanted.get(*name) != found.get(*name)).collect()
}

fn files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
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
        let files = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let wanted = files(&[("changed", "2"), ("equal", "1"), ("new", "1")]);
        let found = files(&[("changed", "1"), ("equal", "1"), ("unwanted", "1")]);
        assert_eq!(differing(&wanted, &found), ["changed", "new", "unwanted"]);
    }
}
