//! How the demo is told: chapters, commands, requests with their answers, balances, and the table at the end. What is
//! compared is kept, for the exit code. Writes to stdout, with colour only on a terminal.

use std::collections::HashMap;

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use owo_colors::{OwoColorize as _, Stream};
use testbed::{Call, Reply};

/// What has been told so far.
#[derive(Default)]
pub(crate) struct Story {
    chapter: String,
    checks: Vec<Check>,
    balances: HashMap<String, i64>,
}

struct Check {
    chapter: String,
    what: String,
    expected: String,
    found: String,
    right: bool,
}

impl Story {
    pub(crate) fn chapter(&mut self, title: &str) {
        title.clone_into(&mut self.chapter);
        println!("\n{}", title.if_supports_color(Stream::Stdout, |text| text.bold()));
    }

    /// Something that is there now.
    pub(crate) fn fact(&self, name: &str, value: &str) {
        println!("  {name:<22} {value}");
    }

    /// Something done besides.
    pub(crate) fn aside(&self, text: &str) {
        println!("  {}", format!("({text})").if_supports_color(Stream::Stdout, |text| text.dimmed()));
    }

    pub(crate) fn command(&self, text: &str) {
        println!("  {} {text}", "$".if_supports_color(Stream::Stdout, |text| text.cyan()));
    }

    /// What a command printed.
    pub(crate) fn printed(&self, text: &str) {
        for line in text.lines() {
            println!("    {line}");
        }
    }

    /// Sends a request, shows it with its answer, and compares: the status, and a text the body must contain.
    pub(crate) async fn exchange(
        &mut self,
        what: &str,
        who: &str,
        call: Call,
        status: u16,
        contains: &str,
    ) -> Result<Reply> {
        println!("  {} {}", format!("{who}:").if_supports_color(Stream::Stdout, |text| text.cyan()), call.shown());
        let reply = call.send().await?;
        let text = reply.text();
        let right = reply.status == status && text.contains(contains);
        println!("    {} {}", mark(right, &reply.status.to_string()), shortened(&text));
        let found = if right { format!("{status}") } else { format!("{} {}", reply.status, shortened(&text)) };
        self.check(what, &format!("{status} {}", contains), &found, right);
        Ok(reply)
    }

    /// Shows a header of an answer that says how many seconds to wait, and compares: at most so many.
    pub(crate) fn seconds(&mut self, reply: &Reply, header: &str, most: u64) {
        let found = reply.header(header).unwrap_or("none");
        let right = found.parse().is_ok_and(|seconds: u64| (1..=most).contains(&seconds));
        println!("    {header}: {}", mark(right, found));
        self.check(header, &format!("1 to {most}"), found, right);
    }

    /// Shows a balance and compares it.
    pub(crate) fn balance(&mut self, consumer: &str, expected: i64, found: Option<i64>) {
        let right = found == Some(expected);
        let before = found.and_then(|found| self.balances.insert(consumer.to_owned(), found)).filter(|_| right);
        let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
        let before = before.map_or_else(String::new, |before| format!(" (was {before})"));
        println!("    balance of {consumer}: {}{before}", mark(right, &found));
        self.check(&format!("balance of {consumer}"), &expected.to_string(), &found, right);
    }

    /// Prints what was compared, and returns how much of it was not as expected.
    pub(crate) fn closing_table(&self) -> usize {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["step", "what", "expected", "found", ""]);
        let mut last = "";
        for Check { chapter, what, expected, found, right } in &self.checks {
            let number = chapter.split('.').next().unwrap_or_default();
            let step = if last == number { "" } else { number };
            last = number;
            table.add_row([step, what, expected, found, if *right { "ok" } else { "WRONG" }]);
        }
        println!("\n{table}");
        let wrong = self.checks.iter().filter(|check| !check.right).count();
        let all = self.checks.len();
        println!("{}", mark(wrong == 0, &format!("{} of {all} as expected", all - wrong)));
        wrong
    }

    fn check(&mut self, what: &str, expected: &str, found: &str, right: bool) {
        let (what, expected, found) = (what.to_owned(), expected.to_owned(), found.to_owned());
        self.checks.push(Check { chapter: self.chapter.clone(), what, expected, found, right });
    }
}

fn mark(right: bool, text: &str) -> String {
    if right {
        text.if_supports_color(Stream::Stdout, |text| text.green()).to_string()
    } else {
        text.if_supports_color(Stream::Stdout, |text| text.red()).to_string()
    }
}

/// One line of a body: from where it reports usage, if it does and is long.
fn shortened(text: &str) -> String {
    const MOST: usize = 140;
    let line = text.replace("\r\n", " ").replace('\n', " ");
    if line.chars().count() <= MOST {
        return line;
    }
    let from = line.rfind(r#""usage":{"#).unwrap_or(0);
    let dots = if from > 0 { "... " } else { "" };
    format!("{dots}{} ...", line[from..].chars().take(MOST).collect::<String>().trim())
}
