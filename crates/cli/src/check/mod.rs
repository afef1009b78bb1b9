//! `aiquota check`: files in; every problem with its line, and an exit code for pipelines, out. No cluster is asked.

pub(crate) mod conflicts;
mod metadata;
pub(crate) mod objects;
mod schema;

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::files::{Contents, Files};
use crate::problem::{Level, Problem};
use crate::settings::Flags;
use crate::tell::{self, Style, count};
use crate::world::{self, Assembled, NO_CLUSTER, Where};

/// Check files with AIQuota, AITokenRateLimit and AIQuotaStore objects, without a cluster
///
/// Each problem is told with file, line, field and reason. Errors are what the API server or the controller would refuse,
/// and conflicts among the objects of the files; warnings are what the controller would warn of, and what only a cluster
/// knows: whether targets, stores and secrets exist that are not in the files.
///
/// Exits with 0 where there is no error, 1 where there is one, 2 when it was called wrongly.
#[derive(Args, Debug)]
pub(crate) struct Check {
    #[command(flatten)]
    files: Files,

    /// Exit with 1 for warnings too
    #[arg(long)]
    warnings_as_errors: bool,

    /// How problems are written
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    output: Output,

    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What is written with `-o json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    files: usize,
    /// Of aiquota's kinds.
    objects: usize,
    errors: usize,
    warnings: usize,
    problems: Vec<Problem>,
}

impl Check {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let (settings, _) = self.flags.into_looking()?;
        let Contents { documents, unreadable, plain: _, files } = self.files.read()?;
        let around = Where { now: Timestamp::now(), cluster: NO_CLUSTER.to_owned() };
        let Assembled { world, places, assumed, mut problems } = world::assemble(&documents, settings, around);
        problems.extend(unreadable.iter().map(|(place, problem)| {
            Problem::new(Level::Error, place, "Syntax", problem).with("correct the YAML; what follows it was not read")
        }));
        problems.extend(conflicts::found(&world, &places, &assumed));
        let report = Report::new(files, places.len(), problems);
        match self.output {
            Output::Text => report.tell()?,
            Output::Json => tell::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
        }
        let failed = report.errors > 0 || (self.warnings_as_errors && report.warnings > 0);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Report {
    fn new(files: usize, objects: usize, mut problems: Vec<Problem>) -> Self {
        // Those of one field stay in the order in which they were found.
        problems
            .sort_by_cached_key(|problem| (problem.level, problem.file.clone(), problem.line, problem.field.clone()));
        let mut seen = HashSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        let of = |level| problems.iter().filter(|problem| problem.level == level).count();
        Self { files, objects, errors: of(Level::Error), warnings: of(Level::Warning), problems }
    }

    fn tell(&self) -> Result<()> {
        let style = Style::stdout();
        let mut text: String = self.problems.iter().map(|problem| format!("{}\n", problem.tell(&style))).collect();
        let Self { files, objects, errors, warnings, .. } = self;
        let found = match (errors, warnings) {
            (0, 0) => style.good("no problems"),
            (0, warnings) => style.poor(&count(*warnings, "warning")),
            (errors, 0) => style.bad(&count(*errors, "error")),
            (errors, warnings) => style.bad(&format!("{}, {}", count(*errors, "error"), count(*warnings, "warning"))),
        };
        text.push_str(&format!("{found} in {} with {} of aiquota\n", count(*files, "file"), count(*objects, "object")));
        if *objects == 0 {
            text.push_str("nothing of quota.higress.io is in them: is -f right?\n");
        }
        tell::print(&text)
    }
}
