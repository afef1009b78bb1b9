//! `aiquota crds`: the CustomResourceDefinitions, as YAML on standard output or as one file each.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::tell;

/// Print the CustomResourceDefinitions as YAML
#[derive(Args, Debug)]
pub(crate) struct Crds {
    /// Write each into a file of this folder instead, as <plural>.<group>.yaml
    #[arg(long, value_name = "FOLDER")]
    output_dir: Option<PathBuf>,
}

impl Crds {
    pub(crate) fn run(self) -> Result<()> {
        let crds = api::crds()?;
        let Some(folder) = self.output_dir else {
            let all: Vec<String> = crds.iter().map(|crd| Ok(format!("---\n{}", yaml(crd)?))).collect::<Result<_>>()?;
            return tell::print(&all.concat());
        };
        fs::create_dir_all(&folder).with_context(|| format!("cannot make folder {}", folder.display()))?;
        for crd in &crds {
            let name = crd.pointer("/metadata/name").and_then(Value::as_str).context("a CRD without a name")?;
            let file = folder.join(format!("{name}.yaml"));
            fs::write(&file, yaml(crd)?).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

/// A generated file.
pub(crate) fn yaml(content: &Value) -> Result<String> {
    let text = serde_yaml::to_string(content)?;
    Ok(format!("# Made by `cargo xtask generate`.\n{}\n", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_as_what_was_meant() {
        for crd in api::crds().unwrap() {
            let text = yaml(&crd).unwrap();
            assert_eq!(serde_yaml::from_str::<Value>(&text).unwrap(), crd, "{text}");
        }
    }
}
