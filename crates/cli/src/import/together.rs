//! Whether what was imported can be together: the objects in; what `aiquota check` would say against them out. Pure, but
//! for the clock and the variables that `aiquota check` reads too.

use std::collections::HashSet;

use clap::Parser;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::report::{Finding, Kind};
use crate::check::conflicts;
use crate::files::Contents;
use crate::problem::{Level, Named};
use crate::settings::Flags;
use crate::world::{self, Assembled, NO_CLUSTER, Where};

const FILE: &str = "imported";

#[derive(Parser)]
struct Looking {
    #[command(flatten)]
    flags: Flags,
}

/// Nothing of it is left out: which of two objects gives way is for people to say.
pub(crate) fn against(objects: &[&Value], gateway_namespace: &str) -> Vec<Finding> {
    let namespaces = objects.iter().filter_map(|object| object.pointer("/metadata/namespace")?.as_str());
    let namespaces: HashSet<&str> = namespaces.collect();
    // Whom to trust is told by itself.
    let trusted = namespaces.iter().map(|namespace| format!("--trusted-namespace={namespace}"));
    let arguments =
        ["aiquota".to_owned(), format!("--gateway-namespace={gateway_namespace}")].into_iter().chain(trusted);
    let Ok(Looking { flags }) = Looking::try_parse_from(arguments) else { return Vec::new() };
    let Ok((settings, _)) = flags.into_looking() else { return Vec::new() };
    let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
    let Contents { documents, .. } = Contents::of(FILE, &text);
    let around = Where { now: Timestamp::now(), cluster: NO_CLUSTER.to_owned() };
    let Assembled { world, places, assumed, mut problems } = world::assemble(&documents, settings, around);
    problems.extend(conflicts::found(&world, &places, &assumed));
    let told = problems.iter().filter(|problem| problem.level == Level::Error).map(|problem| {
        let object =
            problem.object.as_ref().map(|Named { kind, namespace, name }| format!("{kind} {namespace}/{name}"));
        let message = problem.message.split(&format!(" ({FILE}:")).next().unwrap_or_default();
        let message = format!(
            "{} would be refused beside the others: {}: {message}",
            object.unwrap_or_default(),
            problem.field.as_deref().unwrap_or("metadata.name"),
        );
        Finding::general(Kind::Lost, message)
    });
    told.collect()
}
