//! Conditions as Kubernetes has them: states and warnings in; conditions out whose times tell when they last changed.
//! Pure.

use std::fmt::Display;

use api::Condition;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::Reason;

/// Messages longer than this say no more to a reader.
const LONGEST_MESSAGE: usize = 1_024;

/// What a condition says. The reason of one that holds is its type.
#[derive(Clone)]
pub(crate) enum State {
    Is,
    Not(&'static str, String),
    Unknown(&'static str, String),
}

impl State {
    pub(crate) fn not(reason: &Reason) -> Self {
        Self::Not(reason.reason(), cut(reason.to_string()))
    }
}

pub(crate) struct Conditions<'a> {
    before: &'a [Condition],
    generation: Option<i64>,
    now: Time,
    anew: Option<&'static str>,
    pub(crate) made: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    pub(crate) fn new(before: Option<&'a [Condition]>, generation: Option<i64>, now: Timestamp) -> Self {
        // As the API server keeps it: without it, a status would never equal the one that was read back.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Self { before: before.unwrap_or_default(), generation, now: Time(now), anew: None, made: Vec::new() }
    }

    pub(crate) fn state(&mut self, kind: &'static str, state: State) {
        match state {
            State::Is => self.push(kind, "True", kind, String::new()),
            State::Not(reason, message) => self.push(kind, "False", reason, message),
            State::Unknown(reason, message) => self.push(kind, "Unknown", reason, message),
        }
    }

    /// All is well; but who looks at nothing else shall see that there are warnings.
    pub(crate) fn ready(&mut self, state: State, warnings: &[&str]) {
        match state {
            State::Is if !warnings.is_empty() => {
                self.push("Ready", "True", "Ready", cut(format!("with warnings: {}", warnings.join(", "))));
            }
            state => self.state("Ready", state),
        }
    }

    /// What was said of this before holds still, for the generation of then.
    pub(crate) fn keep(&mut self, kind: &'static str) {
        self.made.extend(self.before.iter().find(|before| before.type_ == kind).cloned());
    }

    /// What was said of this before does not count.
    pub(crate) fn begin(&mut self, kind: &'static str) {
        self.anew = Some(kind);
    }

    pub(crate) fn warn(&mut self, kind: &'static str, message: &impl Display) {
        self.push(kind, "True", kind, cut(message.to_string()));
    }

    pub(crate) fn push(&mut self, kind: &'static str, status: &'static str, reason: &str, message: String) {
        let same = |before: &&Condition| before.type_ == kind && before.status == status && self.anew != Some(kind);
        let same = self.before.iter().find(same);
        self.made.push(Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: self.generation,
            last_transition_time: same.map_or_else(|| self.now.clone(), |before| before.last_transition_time.clone()),
        });
    }
}

/// A message of bearable length.
pub(crate) fn cut(message: String) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message;
    }
    let mut end = LONGEST_MESSAGE - 3;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &message[..end])
}
