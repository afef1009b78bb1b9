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
        (&["check", "-f", "-"], "kind: DaemonSet\nreplicas: 2\n".to_owned(), 0, "is -f right?"),
        (&["check", "-f", "-"], quota("").replace("quota.higress.io", "ai.example.com"), 0, "is -f right?"),
        (
            &["check", "-f", "-"],
            quota("").replace("quota.higress.io", "quota.higres.io"),
            1,
            "is no version of AIQuota",
        ),
        (
            &["check", "-f", "-"],
            quota("").replace("kind: AIQuota", "Kind: AIQuota"),
            1,
            "needs both apiVersion and kind",
        ),
        (&["check", "-f", "-"], quota("  defaultQuota: 1\n").replace("name: a,", "name: a..b,"), 1, "metadata.name"),
        (&["check", "-f", "-"], quota("  consumers: [{name: a, quota: 010}]\n"), 1, "with a 0 before it"),
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
fn nothing_of_a_file_hides_what_is_wrong_with_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).expect("it is written");
    write("a.yaml", b"# fine\n# \xff\n");
    write(
        "b.yaml",
        b"apiVersion: quota.higress.io/v1alpha1\nkind: AIQuota\nmetadata:\n  name: a\n  labls: {x: y}\n  annotations:\n    \
          quota.higress.io/refresh: 5\nspec:\n  refresh: {schedule: 99 * * * *}\n  unknown: 1\n  consumers:\n  - {name: a, \
          quota: 1}\n  - {name: a, quota: 2}\n",
    );
    let (code, said, errors) = common::aiquota(folder.path(), &["check", "-f", ".", "-o", "json"], "");
    assert_eq!((code, errors.as_str()), (Some(1), ""), "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
    let found: Vec<(u64, &str)> = report["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|problem| (problem["line"].as_u64().expect("a line"), problem["field"].as_str().unwrap_or("the file")))
        .collect();
    let expected = [
        (2, "the file"),
        (5, "metadata.labls"),
        (7, "metadata.annotations.quota.higress.io/refresh"),
        (8, "spec.targetRefs"),
        (9, "spec.refresh.schedule"),
        (10, "spec.unknown"),
        (13, "spec.consumers[1]"),
    ];
    assert_eq!(found, expected, "{said}");
}

#[test]
fn a_file_is_read_once_and_what_is_left_out_of_a_folder_is_told() {
    let (quota, folder) = (root().join("examples/quickstart/quota.yaml"), tempfile::tempdir().expect("a folder"));
    let path = |name: &str| folder.path().join(name);
    let copied = fs::create_dir(path("real")).and_then(|()| fs::copy(quota, path("real/a.yaml")));
    copied.expect("it is copied");
    let there = |said: &str| said.contains("in 1 file with 2 objects");
    let (code, said, _) = common::aiquota(folder.path(), &["check", "-f", "real", "-f", "./real/../real/a.yaml"], "");
    assert!(code == Some(0) && there(&said), "{said}");
    std::os::unix::fs::symlink("real", path("linked")).expect("a link");
    std::os::unix::fs::symlink("nowhere", path("lost.yaml")).expect("a link");
    fs::write(path("b.YAML"), "a: 1\n").expect("it is written");
    let (code, said, errors) = common::aiquota(folder.path(), &["check", "-f", "."], "");
    assert!(code == Some(0) && there(&said), "{said}");
    let told: Vec<&str> =
        errors.lines().filter_map(|line| line.split_once(" is left out").map(|(file, _)| file)).collect();
    assert_eq!(told, ["./b.YAML", "./linked", "./lost.yaml"]);
}

#[test]
fn no_value_of_a_secret_is_told() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: redis-auth, namespace: higress-system}\n";
    for (wrong, field) in [
        ("stringData: {password: 48151623}", "stringData.password"),
        ("stringData: planted-48151623", "stringData"),
        ("data: {password: planted-48151623}", "data.password"),
        ("data: {password: [48151623]}", "data.password"),
    ] {
        let (code, said, errors) = aiquota(&["check", "-f", "-"], &format!("{secret}{wrong}\n"));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("{field}: cannot be read and is left out: must be texts")), "{wrong}: {said}");
        assert!(!format!("{said}{errors}").contains("48151623"), "{wrong}: {said}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_of_the_definitions_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_aiquota"));
    let output = command.arg("crds").stdout(writer).output().expect("the built binary starts");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
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
