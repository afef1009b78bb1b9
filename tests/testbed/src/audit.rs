//! What the controller asked of an API server: an audit log in, each request once out; kept in a folder where those of a
//! whole run of tests lie side by side.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::service_account::ACCOUNT;

/// Names the folder in which each audited API server leaves what it was asked, when it ends.
const FOLDER: &str = "AIQUOTA_ASKED";

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub namespace: String,
    pub group: String,
    /// With the subresource, as RBAC spells it; the path of what is no resource.
    pub resource: String,
    pub verb: String,
    pub name: String,
    /// Of the answer.
    pub code: i64,
}

impl Asked {
    fn of(event: &Value) -> Self {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut resource = text("/objectRef/resource");
        let subresource = text("/objectRef/subresource");
        if !subresource.is_empty() {
            resource = format!("{resource}/{subresource}");
        }
        if resource.is_empty() {
            resource = text("/requestURI");
        }
        Self {
            namespace: text("/objectRef/namespace"),
            group: text("/objectRef/apiGroup"),
            resource,
            verb: text("/verb"),
            name: text("/objectRef/name"),
            code: event.pointer("/responseStatus/code").and_then(Value::as_i64).unwrap_or_default(),
        }
    }

    fn line(&self) -> String {
        let Self { namespace, group, resource, verb, name, code } = self;
        format!("{}\n", json!([namespace, group, resource, verb, name, code]))
    }

    fn read(line: &str) -> Result<Self> {
        let (namespace, group, resource, verb, name, code) = serde_json::from_str(line)?;
        Ok(Self { namespace, group, resource, verb, name, code })
    }
}

/// The requests of the controller's service account.
pub(crate) fn asked(log: &Path) -> Result<BTreeSet<Asked>> {
    let log = fs::read_to_string(log).with_context(|| format!("no {}", log.display()))?;
    // The last line may be half written.
    let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n') && line.contains(ACCOUNT));
    let mut asked = BTreeSet::new();
    for line in lines {
        let event: Value = serde_json::from_str(line)?;
        if event["user"]["username"] == ACCOUNT {
            asked.insert(Asked::of(&event));
        }
    }
    Ok(asked)
}

/// Where to leave what was asked, if somebody wants to know.
pub(crate) fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Leaves it there under a name that no other has.
pub(crate) fn leave(folder: &Path, log: &Path, port: u16) -> Result<()> {
    let lines: String = asked(log)?.iter().map(Asked::line).collect();
    fs::create_dir_all(folder)?;
    Ok(fs::write(folder.join(format!("{}-{port}", std::process::id())), lines)?)
}

/// All that was left in a folder.
///
/// # Errors
/// When there is no such folder, or something else lies in it.
pub fn left(folder: &Path) -> Result<BTreeSet<Asked>> {
    let mut all = BTreeSet::new();
    for file in fs::read_dir(folder).with_context(|| format!("no folder {}", folder.display()))? {
        for line in fs::read_to_string(file?.path())?.lines() {
            all.insert(Asked::read(line)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_left_once_as_it_was_made_by_the_controller_and_read_again() {
        let event = |user: &str, name: &str| {
            json!({"verb": "patch", "user": {"username": user}, "requestURI": "/apis/g.io/v1/namespaces/a/things/b/status",
                "objectRef": {"resource": "things", "subresource": "status", "apiGroup": "g.io", "namespace": "a", "name": name},
                "responseStatus": {"code": 403}, "annotations": {"reason": format!("not {ACCOUNT}")}})
        };
        let path = json!({"verb": "get", "user": {"username": ACCOUNT}, "requestURI": "/version", "responseStatus": {"code": 200}});
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let events = [event(ACCOUNT, "b"), event(ACCOUNT, "b"), event("admin", "c"), path];
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        fs::write(&log, lines + "{\"half\": ").unwrap();
        let kept = folder.path().join("kept");
        leave(&kept, &log, 1).unwrap();
        leave(&kept, &log, 2).unwrap();
        let asked = |[namespace, group, resource, verb, name]: [&str; 5], code| Asked {
            namespace: namespace.into(),
            group: group.into(),
            resource: resource.into(),
            verb: verb.into(),
            name: name.into(),
            code,
        };
        let expected =
            [asked(["", "", "/version", "get", ""], 200), asked(["a", "g.io", "things/status", "patch", "b"], 403)];
        assert_eq!(left(&kept).unwrap(), expected.into());
    }
}
