//! What the controller asked of API servers against what its roles grant: nothing beyond, and where all that it can do was
//! played, nothing unused.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::Asked;

/// What may be asked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Only there, or everywhere.
    namespace: Option<String>,
    group: String,
    /// With the subresource, as RBAC spells it.
    resource: String,
    verb: String,
    /// Only this one, or any.
    name: Option<String>,
}

impl Grant {
    /// The rules of a role, one by one; of a Role, with its namespace.
    ///
    /// # Errors
    /// When they are no list of rules.
    pub fn of(rules: &Value, namespace: Option<&str>) -> Result<Vec<Self>> {
        let mut grants = Vec::new();
        for rule in rules.as_array().context("a role without rules")? {
            let words = |key: &str| -> Vec<String> {
                let words = rule[key].as_array().into_iter().flatten();
                words.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let names = words("resourceNames");
            let names: Vec<Option<String>> =
                if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
            for group in words("apiGroups") {
                for resource in words("resources") {
                    for verb in words("verbs") {
                        for name in &names {
                            grants.push(Self {
                                namespace: namespace.map(str::to_owned),
                                group: group.clone(),
                                resource: resource.clone(),
                                verb: verb.clone(),
                                name: name.clone(),
                            });
                        }
                    }
                }
            }
        }
        Ok(grants)
    }

    fn permits(&self, asked: &Asked) -> bool {
        let same = (&self.group, &self.resource, &self.verb) == (&asked.group, &asked.resource, &asked.verb);
        same && self.namespace.as_ref().is_none_or(|namespace| *namespace == asked.namespace)
            && self.name.as_ref().is_none_or(|name| *name == asked.name)
    }

    /// Who may do something everywhere must do it elsewhere than where a Role would do.
    fn is_needed_for(&self, asked: &Asked, gateway: &str) -> bool {
        self.permits(asked) && (self.namespace.is_some() || asked.namespace != gateway)
    }
}

/// Nothing was refused. An API server that is starting refuses what it does not know yet to be granted.
///
/// # Errors
/// With what was.
pub fn nothing_refused(asked: &BTreeSet<Asked>) -> Result<()> {
    let refused: Vec<_> = asked.iter().filter(|asked| matches!(asked.code, 401 | 403)).collect();
    ensure!(refused.is_empty(), "refused: {refused:#?}");
    Ok(())
}

/// Nothing was asked that is not granted, whatever was answered.
///
/// # Errors
/// With what was.
pub fn nothing_beyond(asked: &BTreeSet<Asked>, granted: &[Grant]) -> Result<()> {
    let beyond: Vec<_> = asked.iter().filter(|asked| !granted.iter().any(|grant| grant.permits(asked))).collect();
    ensure!(beyond.is_empty(), "asked and not granted: {beyond:#?}");
    Ok(())
}

/// All that is granted was asked.
///
/// # Errors
/// With what was not.
pub fn nothing_unused(asked: &BTreeSet<Asked>, granted: &[Grant], gateway: &str) -> Result<()> {
    let unused: Vec<_> =
        granted.iter().filter(|grant| !asked.iter().any(|asked| grant.is_needed_for(asked, gateway))).collect();
    ensure!(unused.is_empty(), "granted and never asked: {unused:#?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(namespace: &str, resource: &str, verb: &str, name: &str, code: i64) -> Asked {
        let [namespace, resource, verb, name] = [namespace, resource, verb, name].map(str::to_owned);
        Asked { namespace, group: String::new(), resource, verb, name, code }
    }

    fn granted() -> Vec<Grant> {
        let everywhere = json!([{"apiGroups": [""], "resources": ["services"], "verbs": ["list"]}]);
        let there = json!([{"apiGroups": [""], "resources": ["leases"], "verbs": ["get"], "resourceNames": ["l"]}]);
        let mut granted = Grant::of(&everywhere, None).unwrap();
        granted.extend(Grant::of(&there, Some("gateway")).unwrap());
        granted
    }

    #[test]
    fn what_is_refused_is_told_and_what_is_not_granted_whatever_was_answered() {
        let refused = |code| nothing_refused(&[asked("", "services", "list", "", code)].into()).is_err();
        assert!(refused(403) && refused(401) && !refused(200) && !refused(404));
        let granted = granted();
        let one = |asked: Asked| nothing_beyond(&BTreeSet::from([asked]), &granted).map_err(|error| error.to_string());
        assert_eq!(one(asked("", "services", "list", "", 403)), Ok(()));
        assert_eq!(one(asked("gateway", "leases", "get", "l", 404)), Ok(()));
        for asked in [
            asked("", "services", "watch", "", 200),
            asked("gateway", "leases", "get", "m", 200),
            asked("other", "leases", "get", "l", 403),
            asked("", "secrets", "list", "", 200),
        ] {
            let told = one(asked.clone()).unwrap_err();
            assert!(told.contains("not granted") && told.contains(&asked.resource), "{asked:?}: {told}");
        }
    }

    #[test]
    fn what_is_granted_and_not_needed_is_told() {
        let granted = granted();
        let all = |asked: &[Asked]| nothing_unused(&asked.iter().cloned().collect(), &granted, "gateway");
        let (everywhere, there) = (asked("", "services", "list", "", 200), asked("gateway", "leases", "get", "l", 200));
        assert!(all(&[everywhere.clone(), there.clone()]).is_ok());
        let told = all(std::slice::from_ref(&everywhere)).unwrap_err().to_string();
        assert!(told.contains("leases") && !told.contains("services"), "{told}");
        let in_the_gateways = Asked { namespace: "gateway".into(), ..everywhere };
        let told = all(&[in_the_gateways, there]).unwrap_err().to_string();
        assert!(told.contains("services") && !told.contains("leases"), "a Role would do: {told}");
    }
}
