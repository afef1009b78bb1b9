//! What a process took of the machine: its id in, memory and processor time out. I/O: `/proc`.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// The kernel's clock ticks per second, in which `/proc` tells times: the same on every Linux that Rust runs on.
const TICKS: u64 = 100;

/// So far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Now, in MiB.
    pub resident: u64,
    /// The most it ever was, in MiB.
    pub peak: u64,
    /// On all cores.
    pub processor: Duration,
}

impl Usage {
    pub(super) fn of(process: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let mebibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
            anyhow::Ok(kibibytes / 1024)
        };
        // The name of the program, in brackets, may hold blanks: what follows it does not.
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| anyhow::Ok(fields.get(at).context("no such field")?.parse::<u64>()?);
        let processor = Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS);
        Ok(Self { resident: mebibytes("VmRSS:")?, peak: mebibytes("VmHWM:")?, processor })
    }
}
