//! The controller's rounds as its log tells them: text in, when each was over and how long its steps took out. No I/O.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// From one snapshot of the world to the last report about it.
#[derive(Clone, Debug)]
pub struct Round {
    pub done: Timestamp,
    /// In their order.
    pub steps: Vec<(String, Duration)>,
}

impl Round {
    /// All rounds of a log, the oldest first.
    pub(super) fn all(log: &str) -> Vec<Self> {
        log.lines().filter_map(Self::read).collect()
    }

    /// `<time> DEBUG controller: round done objects=1 balances=1 took=snapshot=0ms plan=1ms`
    fn read(line: &str) -> Option<Self> {
        let (head, fields) = line.split_once("round done ")?;
        let (_, took) = fields.split_once("took=")?;
        let step = |step: &str| {
            let (name, took) = step.split_once('=')?;
            Some((name.to_owned(), Duration::from_millis(took.strip_suffix("ms")?.parse().ok()?)))
        };
        Some(Self { done: head.split(' ').next()?.parse().ok()?, steps: took.split(' ').filter_map(step).collect() })
    }

    /// How long one step took.
    #[must_use]
    pub fn step(&self, name: &str) -> Duration {
        self.steps.iter().find(|(step, _)| step == name).map_or(Duration::ZERO, |(_, took)| *took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_read_from_its_line_of_the_log() {
        let log = "2026-11-22T05:56:01.250000Z  INFO controller: watching\n\
                   2026-11-22T05:56:02.500000Z DEBUG controller: round done objects=2 balances=3 took=snapshot=0ms plan=12ms\n";
        let rounds = Round::all(log);
        assert_eq!(rounds.len(), 1);
        assert_eq!(rounds[0].done.to_string(), "2026-11-22T05:56:02.5Z");
        assert_eq!((rounds[0].step("snapshot"), rounds[0].step("plan")), (Duration::ZERO, Duration::from_millis(12)));
    }
}
