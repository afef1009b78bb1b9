//! `aiquota completion`: what shells complete, from the same definition that reads the command line.

use anyhow::Result;
use clap::{Args, ValueEnum};
use clap_complete::Shell;

use crate::tell;

/// Print the completion of aiquota for a shell
///
/// For example: `source <(aiquota completion bash)`.
#[derive(Args, Debug)]
pub(crate) struct Completion {
    #[arg(value_enum)]
    shell: Known,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(crate) fn run(self, mut command: clap::Command) -> Result<()> {
        let shell = match self.shell {
            Known::Bash => Shell::Bash,
            Known::Zsh => Shell::Zsh,
            Known::Fish => Shell::Fish,
        };
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "aiquota", &mut text);
        tell::print(&String::from_utf8(text)?)
    }
}
