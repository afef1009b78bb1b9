//! What an import could not keep as it was. Data and how it is told; pure.

use serde::Serialize;

use crate::files::Place;
use crate::tell::Style;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    /// It has no equivalent, and is not imported.
    Lost,
    /// It is imported, and means something else in some case.
    Differs,
    /// Something has to be done before it works.
    ToDo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    /// `<namespace>/<name>`; none where it is about all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) plugin: String,
    /// File and line, unless it came from the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn general(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, plugin: String::new(), place: None, field: String::new(), message: message.into() }
    }

    pub(crate) fn at(place: Option<&Place>) -> Option<String> {
        place.map(|Place { file, line }| format!("{file}:{line}"))
    }

    pub(crate) fn tell(&self, style: &Style) -> String {
        let Self { kind, plugin, place, field, message } = self;
        let kind = match kind {
            Kind::Lost => style.bad("not imported"),
            Kind::Differs => style.poor("differs"),
            Kind::ToDo => style.strong("to do"),
        };
        let place = place.as_ref().map(|place| format!("{}: ", style.strong(place))).unwrap_or_default();
        let whose = match (plugin.as_str(), field.as_str()) {
            ("", _) => String::new(),
            (plugin, "") => format!("WasmPlugin {plugin}: "),
            (plugin, field) => format!("WasmPlugin {plugin}: {field}: "),
        };
        format!("{place}{kind}: {whose}{message}")
    }
}
