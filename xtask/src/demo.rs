//! `cargo xtask demo`: looks whether the tools are there, installs or names what is missing, builds with progress, and
//! plays the demo of the test bed.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::modules::{self, MODULES, TARGET, ensure_target};
use crate::run::{find, program, say_done, say_failed, say_heading, shown, step, time};
use crate::test::{built, programs};

pub(crate) fn demo(keep: bool) -> Result<()> {
    tools()?;
    say_heading("building (the first time takes some minutes)");
    for (package, name) in MODULES {
        build(&format!("module {name}"), &mut modules::build(package))?;
        modules::keep(name)?;
    }
    build("controller and test bed", &mut programs())?;
    build("API server, etcd and kubectl", &mut program(built("components"), [] as [&str; 0]))?;
    let mut play = program(built("demo"), keep.then_some("--keep"));
    let status = play.status().with_context(|| format!("cannot run {}", shown(&play)))?;
    if !status.success() {
        bail!("the demo did not go as it should ({status})");
    }
    Ok(())
}

/// Each tool is there, is installed, or is named with the command that installs it; all missing ones at once.
fn tools() -> Result<()> {
    say_heading("tools");
    let mut missing = 0;
    for (tool, what_to_do) in [
        ("cargo", "install Rust: https://rustup.rs"),
        ("go", "install Go 1.24 or newer: https://go.dev/dl"),
        ("setpriv", "install util-linux"),
    ] {
        match find(tool) {
            Some(file) => say_done(&format!("{tool:<14} {}", file.display())),
            None => {
                missing += 1;
                say_failed(&format!("{tool} is missing: {what_to_do}"));
            }
        }
    }
    ensure_target()?;
    say_done(&format!("{TARGET:<14} target"));
    match find("redis-server") {
        Some(file) => say_done(&format!("redis-server   {}", file.display())),
        None if find("apt-get").is_some() && is_root() => {
            step("updating the package lists", program("apt-get", ["update"]).stdout(Stdio::null()))?;
            let mut install = program("apt-get", ["install", "-y", "redis-server"]);
            step("installing redis-server", install.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()))?;
        }
        None => {
            missing += 1;
            say_failed("redis-server is missing: sudo apt-get install redis-server (or your system's package redis)");
        }
    }
    match find("kubectl") {
        Some(file) => say_done(&format!("kubectl        {}", file.display())),
        None => say_done("kubectl        is built, as there is none on the PATH"),
    }
    if missing > 0 {
        bail!("{missing} of the tools above must be installed first");
    }
    Ok(())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Runs a build under a spinner that shows its last line; all its lines if it fails.
fn build(what: &str, command: &mut Command) -> Result<()> {
    let spinner = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    spinner.set_style(ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}")?);
    spinner.set_prefix(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    let mut lines = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            spinner.set_message(line.trim().to_owned());
            lines.push(line);
        }
    }
    let status = child.wait()?;
    spinner.finish_and_clear();
    if !status.success() {
        eprintln!("{}", lines.join("\n"));
        bail!("{what}: `{}` failed ({status})", shown(command));
    }
    say_done(&format!("{what} ({})", time(spinner.elapsed())));
    Ok(())
}
