//! How long each step of a round took: the steps' names in, one field of a log line out. Only time, no other I/O.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// The steps of one round, in order.
pub(crate) struct Took {
    last: Instant,
    steps: Vec<(&'static str, Duration)>,
}

impl Took {
    pub(crate) fn begin() -> Self {
        Self { last: Instant::now(), steps: Vec::new() }
    }

    /// Each step with its time.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        self.steps.iter().copied()
    }

    /// What was done since the last call, or since the beginning.
    pub(crate) fn step(&mut self, name: &'static str) {
        let now = Instant::now();
        self.steps.push((name, now - self.last));
        self.last = now;
    }
}

/// `snapshot=3ms plan=81ms`, in whole milliseconds.
impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, took)) in self.steps.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={}ms", took.as_millis())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_step_is_told_by_itself() {
        let mut took = Took::begin();
        tokio::time::advance(Duration::from_millis(3)).await;
        took.step("snapshot");
        tokio::time::advance(Duration::from_millis(81)).await;
        took.step("plan");
        assert_eq!(took.to_string(), "snapshot=3ms plan=81ms");
    }
}
