//! How things are shown: colour on terminals only, tables without frames, amounts with their thousands apart. I/O:
//! writes to standard output.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use owo_colors::OwoColorize;

/// Whether there are colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// For what is written to standard output.
    pub(crate) fn stdout() -> Self {
        Self::of(std::io::stdout().is_terminal())
    }

    /// For what is written to standard error.
    pub(crate) fn stderr() -> Self {
        Self::of(std::io::stderr().is_terminal())
    }

    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self { colour: false }
    }

    /// `NO_COLOR` and `TERM=dumb` are asked too, as everywhere.
    fn of(terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: terminal && !set("NO_COLOR") && !dumb }
    }

    pub(crate) fn bad(&self, text: &str) -> String {
        if self.colour { text.red().bold().to_string() } else { text.to_owned() }
    }

    pub(crate) fn poor(&self, text: &str) -> String {
        if self.colour { text.yellow().bold().to_string() } else { text.to_owned() }
    }

    pub(crate) fn good(&self, text: &str) -> String {
        if self.colour { text.green().to_string() } else { text.to_owned() }
    }

    pub(crate) fn strong(&self, text: &str) -> String {
        if self.colour { text.bold().to_string() } else { text.to_owned() }
    }

    pub(crate) fn faint(&self, text: &str) -> String {
        if self.colour { text.dimmed().to_string() } else { text.to_owned() }
    }
}

/// Rows under headings, as kubectl has them. `right`: columns of numbers.
pub(crate) fn table(headings: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings.to_vec()).add_rows(rows);
    let last = headings.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 3 }));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.to_string();
    lines.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// `1 document`, `2 documents`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Writes to standard output; that a reader such as `head` has seen enough is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    // Nobody is there to be told that nobody can be told.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_headings_columns_and_no_frame() {
        let rows = vec![vec!["a".into(), "1000".into()], vec!["consumer".into(), "7".into()]];
        let shown = table(&["NAME", "TOKENS"], &[1], rows);
        assert_eq!(shown, "NAME       TOKENS\na            1000\nconsumer        7\n");
    }
}
