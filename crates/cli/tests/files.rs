//! `aiquota check` and `aiquota render` over every example and over inputs with problems: what is written, byte for byte
//! (`UPDATE_GOLDEN=1` writes it anew), and the exit code.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::golden;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Exit code, standard output and standard error, from the root of the project.
fn aiquota(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    common::aiquota(&root(), arguments, input)
}

fn folders(of: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join(of))
        .expect("the folder is there")
        .map(|entry| entry.expect("it is listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

const RENDER: [&str; 3] = ["render", "--at=2026-01-31T12:00:00Z", "-f"];

#[test]
fn every_example_is_without_errors_and_comes_to_what_is_recorded() {
    for name in folders("examples") {
        let folder = format!("examples/{name}");
        let (code, said, errors) = aiquota(&["check", "-f", &folder], "");
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{said}");
        golden(&format!("{name}.check.txt"), &said);
        let (code, rendered, said) = aiquota(&[&RENDER[..], &[&folder]].concat(), "");
        assert_eq!(code, Some(0), "{said}");
        golden(&format!("{name}.render.yaml"), &rendered);
        let (_, again, _) = aiquota(&[&RENDER[..], &[&folder]].concat(), "");
        assert_eq!(rendered, again, "it is the same each time");
        let (_, json, _) = aiquota(&[&RENDER[..], &[&folder, "-o", "json"]].concat(), "");
        let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        let documents = rendered.split("---\n").filter(|text| text.contains("kind:"));
        let read = |text: &str| serde_yaml::from_str::<serde_json::Value>(text).expect("it is YAML");
        assert_eq!(json["plugins"], documents.map(read).collect::<serde_json::Value>(), "{rendered}");
    }
}

#[test]
fn every_problem_is_told_with_its_line_and_none_hides_another() {
    for name in folders("crates/cli/tests/inputs") {
        let folder = format!("crates/cli/tests/inputs/{name}");
        let (code, said, _) = aiquota(&["check", "-f", &folder], "");
        assert_eq!(code, Some(1), "{said}");
        golden(&format!("{name}.check.txt"), &said);
        assert!(!said.contains("planted-secret"), "{said}");
        let (code, rendered, said) = aiquota(&[&RENDER[..], &[&folder]].concat(), "");
        assert_eq!(code, Some(1), "a refused object fails rendering too: {said}");
        assert!(said.contains("error") && !format!("{rendered}{said}").contains("planted-secret"), "{said}");
    }
}

#[test]
fn programs_are_told_the_same_as_people() {
    let (code, said, _) = aiquota(&["check", "-f", "crates/cli/tests/inputs/conflicts", "-o", "json"], "");
    assert_eq!(code, Some(1));
    golden("conflicts.check.json", &said);
}

#[test]
fn the_exit_code_says_whether_there_are_errors_warnings_that_count_or_a_wrong_call() {
    let quota = |rest: &str| {
        format!(
            "apiVersion: quota.higress.io/v1alpha1\nkind: AIQuota\nmetadata: {{name: a, namespace: t}}\nspec:\n  \
             targetRefs: [{{kind: Ingress, name: i}}]\n{rest}"
        )
    };
    for (arguments, input, code, says) in [
        (&["check", "-f", "-"][..], quota("  defaultQuota: 1\n"), 0, "warnings"),
        (&["check", "-f", "-", "--warnings-as-errors"], quota("  defaultQuota: 1\n"), 1, "warnings"),
        (&["check", "-f", "-"], quota("  defaultQuota: -1\n"), 1, "standard input:6: error"),
        (&["check", "-f", "-"], "a: 1\n".to_owned(), 0, "is -f right?"),
        (
            &["check", "-f", "-", "-n", "x", "--flavor", "upstream"],
            quota("  defaultQuota: 1\n"),
            1,
            "NotSupportedByPlugin",
        ),
        (&["check"], String::new(), 2, "--filename"),
        (&["check", "-f", "nowhere"], String::new(), 1, "nowhere cannot be read"),
        (&["check", "-f", "-", "-o", "xml"], String::new(), 2, "json"),
        (&["check", "-f", "-", "--namespace-share", "0"], String::new(), 2, "1..=100"),
        (&["render", "-f", "-", "--module-url", "oci://a/b"], String::new(), 2, "--module-sha256"),
        (&["render", "-f", "-", "--cluster-uid", "a b"], String::new(), 2, "uid"),
    ] {
        let (found, said, errors) = aiquota(arguments, &input);
        assert_eq!(found, Some(code), "{arguments:?}: {said}{errors}");
        assert!(format!("{said}{errors}").contains(says), "{arguments:?}: {said}{errors}");
    }
}

#[test]
fn objects_alone_are_rendered_and_what_is_assumed_is_told_on_standard_error() {
    let quota = "apiVersion: quota.higress.io/v1alpha1\nkind: AIQuota\nmetadata: {name: a}\nspec:\n  \
                 targetRefs: [{kind: HTTPRoute, name: r}]\n  consumers: [{name: c, quota: 5}]\n";
    let (code, rendered, said) = aiquota(&["render", "-f", "-", "-n", "team", "-o", "json"], quota);
    assert_eq!(code, Some(0), "{said}");
    for part in ["\"team/r\"", "unknown-default.static", "\"key\": \"aiquota:team/HTTPRoute/r:c\"", "\"grant\": 5"] {
        assert!(rendered.contains(part), "{part}: {rendered}");
    }
    for part in ["HTTPRoute team/r is not in these files", "AIQuotaStore higress-system/default", "--module-url"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (_, table, _) = aiquota(&["render", "-f", "-", "-o", "table"], quota);
    assert!(table.starts_with("STORE") && table.lines().count() == 2, "{table}");
}

#[test]
fn with_the_flags_of_the_controller_its_own_names_stand_in_what_is_rendered() {
    let flags = ["--module-url=oci://r.example/q:1.0.0", "--flavor=upstream", "--guard=off", "--cluster-uid=c-1"];
    let (code, rendered, said) = aiquota(&[&RENDER[..], &["examples/quickstart"], &flags].concat(), "");
    assert_eq!(code, Some(1), "without --limit-module-url a limit has no module: {said}");
    assert!(said.contains("NoModule") && rendered.contains("redis_key_prefix: \"chat_quota:\""), "{said}{rendered}");
    assert!(rendered.contains("url: oci://r.example/q:1.0.0") && !rendered.contains("change-me"), "{rendered}");
}

#[test]
fn every_shell_is_given_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = aiquota(&["completion", shell], "");
        assert_eq!(code, Some(0));
        assert!(["render", "check", "completion"].iter().all(|command| script.contains(command)), "{shell}");
    }
    assert_eq!(aiquota(&["completion", "cmd"], "").0, Some(2));
}
