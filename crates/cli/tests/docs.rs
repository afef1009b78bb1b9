//! The commands in docs/cli.md and docs/gitops.md that need no cluster, run as they stand there: `console` blocks are compared
//! with what they show, `sh` blocks must succeed. (`sh cluster` blocks are run by the tests of the whole system.)

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Exit code, and what was written to standard output.
fn shell(script: &str) -> (Option<i32>, String, String) {
    let programs = Path::new(env!("CARGO_BIN_EXE_aiquota")).parent().expect("a folder");
    let path = format!("{}:{}", programs.display(), env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(root()).env("PATH", path);
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("AIQUOTA_")) {
        command.env_remove(name);
    }
    let output = command.output().expect("a shell");
    let text = |bytes| String::from_utf8(bytes).expect("it writes text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn blocks<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let begin = format!("\n```{kind}\n");
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&begin) {
        let rest = &text[at + begin.len()..];
        found.push(rest.split_once("\n```").expect("a block ends").0);
    }
    found
}

#[test]
fn what_the_docs_show_is_what_the_commands_say() {
    let mut count = 0;
    for document in ["docs/cli.md", "docs/gitops.md"] {
        let text = fs::read_to_string(root().join(document)).expect("it is there");
        for block in blocks(&text, "console") {
            let (command, shown) = block.split_once('\n').expect("a command and what it says");
            let command = command.strip_prefix("$ ").expect("a command");
            let (_, said, _) = shell(command);
            assert_eq!(said.trim_end(), shown, "{document}: {command}");
            count += 1;
        }
        for block in blocks(&text, "sh") {
            let (code, said, errors) = shell(block);
            assert_eq!(code, Some(0), "{document}: {block}\n{said}{errors}");
            count += 1;
        }
    }
    assert!(count >= 7, "{count}");
}
