//! Running other programs, and what is said about it: headings, commands, times. All of it on stderr, with colour only
//! on a terminal.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use owo_colors::{OwoColorize as _, Stream};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The folder for tools and components that are built once and kept.
pub(crate) fn cache() -> PathBuf {
    if let Some(folder) = std::env::var_os("AIQUOTA_CACHE") {
        return folder.into();
    }
    let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = caches.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    caches.unwrap_or_else(std::env::temp_dir).join("aiquota")
}

/// A program to run in the workspace.
pub(crate) fn program<S: AsRef<OsStr>>(name: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root());
    command
}

/// Cargo, the one that runs us.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments)
}

/// Runs a program with its output shown, under a heading; fails when it does.
pub(crate) fn step(heading: &str, command: &mut Command) -> Result<()> {
    say_heading(heading);
    say_faint(&shown(command));
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{heading}: `{}` failed ({status})", shown(command));
    }
    say_done(&format!("{heading} ({})", time(begun.elapsed())));
    Ok(())
}

/// Runs a program and returns what it printed; its stderr is shown.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shown(command), output.status);
    }
    Ok(output.stdout)
}

/// The file that `PATH` gives for a program's name.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

pub(crate) fn say_heading(text: &str) {
    eprintln!("\n{}", text.if_supports_color(Stream::Stderr, |text| text.bold()));
}

pub(crate) fn say_faint(text: &str) {
    eprintln!("{}", format!("  {text}").if_supports_color(Stream::Stderr, |text| text.dimmed()));
}

pub(crate) fn say_done(text: &str) {
    eprintln!("{} {text}", "  ok".if_supports_color(Stream::Stderr, |text| text.green()));
}

pub(crate) fn say_warning(text: &str) {
    eprintln!("{} {text}", "  note".if_supports_color(Stream::Stderr, |text| text.yellow()));
}

pub(crate) fn say_failed(text: &str) {
    eprintln!("\n{} {text}", "failed".if_supports_color(Stream::Stderr, |text| text.red()));
}

/// A duration to read: `3.2 s`, `4 min 10 s`.
pub(crate) fn time(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 60.. => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}
