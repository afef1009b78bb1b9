//! What the tests of the command line share: the program in, what it says out; files that it is compared with.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

/// Runs the built program in a folder, without what the environment says to it: exit code, standard output and
/// standard error.
pub(crate) fn aiquota(folder: &Path, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aiquota"));
    command.args(arguments).current_dir(folder);
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("AIQUOTA_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the built binary starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("it writes text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Compares with the file, or writes it.
pub(crate) fn golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, text).expect("the file is written");
    }
    let wanted = fs::read_to_string(&file).unwrap_or_default();
    assert!(wanted == text, "{name} is otherwise; UPDATE_GOLDEN=1 writes it:\n{text}");
}
