//! What is wrong with something in a file, and how it is told to people and to programs. Pure, but for colour, which is
//! for terminals only.

use std::fmt::Write as _;

use plan::{Key, Reason, Refusal, Refused, Warning};
use serde::Serialize;

use crate::files::Place;
use crate::tell::Style;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Error,
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Problem {
    pub(crate) level: Level,
    pub(crate) file: String,
    pub(crate) line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<Named>,
    /// As in `spec.consumers[3].name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// One word.
    pub(crate) reason: String,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

/// An object by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Named {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Named {
    pub(crate) fn new(kind: &str, key: &Key) -> Self {
        Self { kind: kind.to_owned(), namespace: key.namespace.clone(), name: key.name.clone() }
    }
}

impl Problem {
    pub(crate) fn new(level: Level, place: &Place, reason: &str, message: impl Into<String>) -> Self {
        Self {
            level,
            file: place.file.to_string(),
            line: place.line,
            object: None,
            field: None,
            reason: reason.to_owned(),
            message: message.into(),
            remedy: None,
        }
    }

    pub(crate) fn of(mut self, object: Named) -> Self {
        self.object = Some(object);
        self
    }

    pub(crate) fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub(crate) fn with(mut self, remedy: &str) -> Self {
        self.remedy = Some(remedy.to_owned()).filter(|remedy| !remedy.is_empty());
        self
    }

    /// For people: the place first, as editors and pipelines expect it.
    pub(crate) fn tell(&self, style: &Style) -> String {
        let Self { level, file, line, object, field, reason, message, remedy } = self;
        let level = match level {
            Level::Error => style.bad("error"),
            Level::Warning => style.poor("warning"),
        };
        let mut text = format!("{}: {level}: ", style.strong(&format!("{file}:{line}")));
        if let Some(Named { kind, namespace, name }) = object {
            let _ = write!(text, "{kind} {namespace}/{name}: ");
        }
        if let Some(field) = field {
            let _ = write!(text, "{}: ", style.strong(field));
        }
        let _ = write!(text, "{message} {}", style.faint(&format!("[{reason}]")));
        if let Some(remedy) = remedy {
            let _ = write!(text, "\n    {} {remedy}", style.faint("->"));
        }
        text
    }
}

/// Why an object of another's kind cannot be read, without any value of it: it may be a password.
pub(crate) fn unreadable(kind: &str, refusal: &Refusal) -> String {
    match refusal.message.rsplit_once(", expected ") {
        _ if kind == "Secret" && refusal.field.starts_with("data") => "must be texts in base64".to_owned(),
        _ if kind == "Secret" => "must be texts".to_owned(),
        Some((_, expected)) => format!("must be {expected}"),
        None if refusal.message.starts_with("missing field") => refusal.message.clone(),
        None => "is not as this kind has it".to_owned(),
    }
}

/// The word of a refusal, and what helps where the message does not say it.
pub(crate) fn refused(refusal: &Refusal) -> (&'static str, &'static str) {
    let Refusal { field, reason, message } = refusal;
    let (word, remedy) = match reason {
        Refused::Required => ("Required", "add it"),
        Refused::TooLong => ("TooLong", "shorten it"),
        Refused::TooMany => ("TooMany", "take some out, or divide them among several objects"),
        Refused::Characters => ("Characters", "write it with the characters that may be"),
        Refused::OutOfRange => ("OutOfRange", "take a value within the bounds"),
        Refused::Duplicate => ("Duplicate", "keep one of them"),
        Refused::Excluded => ("Excluded", "keep one of what excludes each other"),
        Refused::Unknown => ("Unknown", "correct the name"),
        Refused::Unreadable => ("Unreadable", "`kubectl explain` has the fields and their types"),
        Refused::Unsupported => ("NotSupportedByPlugin", "do without it, or have the flavor changed to native"),
    };
    // What many write first.
    let given = !matches!(reason, Refused::Required | Refused::Excluded | Refused::Unsupported);
    let is_there = !message.starts_with("there is no such field");
    let remedy = if field.ends_with(".window") && given && is_there {
        "write a number and s, m, h or d without a blank, 1s to 31d: `1m` is a minute"
    } else if field.starts_with("spec.targetRefs[") && field.ends_with("].namespace") {
        "take it out: a route is in the namespace of its object; a Service elsewhere is named <service>.<namespace>.svc.cluster.local"
    } else if message.starts_with("must be a whole number") {
        "write digits alone, without quotes: `1000000`, not `\"1000000\"`, `1e6` or `1M`; at most 9007199254740991"
    } else {
        remedy
    };
    (word, remedy)
}

/// What helps against a reason whose message leaves that open.
pub(crate) const fn remedy(reason: &Reason) -> &'static str {
    match reason {
        Reason::TargetNotFound { .. } => "create the target, or correct its name",
        Reason::StoreNotFound(_) => "create the AIQuotaStore in the gateway's namespace, or correct storeRef",
        Reason::ServiceNotFound { .. } => "add the service to an McpBridge, or correct spec.service.name",
        Reason::PortNotFound { .. } => "correct spec.service.port",
        Reason::SecretNotFound { .. } => "create the Secret in the gateway's namespace, or correct spec.auth",
        Reason::SecretInvalid { .. } => "correct the Secret, or spec.auth",
        _ => "",
    }
}

/// The field that a warning is about.
pub(crate) const fn warned(warning: &Warning) -> &'static str {
    match warning {
        Warning::ConsumerUnknown { .. } | Warning::ConsumerNotAllowed { .. } | Warning::NobodyMaySpend => {
            "spec.consumers"
        }
        Warning::RefreshUnreadable => "metadata.annotations",
        _ => "spec.targetRefs",
    }
}
