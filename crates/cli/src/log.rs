//! What is logged and how: flags in, the process' subscriber out. Lines go to standard error, coloured only on a
//! terminal.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

#[derive(Args, Debug)]
pub(crate) struct Log {
    /// How log lines are written
    #[arg(long, env = "AIQUOTA_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,

    /// What is logged, as in `debug` or `controller=debug,warn`
    #[arg(long, env = "AIQUOTA_LOG", value_name = "FILTER", default_value = "info")]
    log: EnvFilterText,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// A filter that parses.
#[derive(Clone, Debug)]
struct EnvFilterText(String);

impl std::str::FromStr for EnvFilterText {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::builder().parse(text).map(|_| Self(text.to_owned()))
    }
}

impl std::fmt::Display for EnvFilterText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Log {
    /// Logs from now on.
    pub(crate) fn start(&self) {
        let filter = EnvFilter::builder().parse_lossy(&self.log.0);
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
            Format::Json => lines.json().init(),
        }
    }
}
