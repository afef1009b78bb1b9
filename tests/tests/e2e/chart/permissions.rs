//! What a service account asked, by the audit log of the API server, against what its roles grant: both ways.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::ApiServer;

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// What may be asked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    /// Only there, or everywhere.
    namespace: Option<String>,
    group: String,
    /// With the subresource, as RBAC spells it.
    resource: String,
    verb: String,
    /// Only this one, or any.
    name: Option<String>,
}

/// What was asked, and answered.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    namespace: String,
    group: String,
    resource: String,
    verb: String,
    name: String,
    code: i64,
}

impl Grant {
    fn permits(&self, request: &Request) -> bool {
        let same = (&self.group, &self.resource, &self.verb) == (&request.group, &request.resource, &request.verb);
        same && self.namespace.as_ref().is_none_or(|namespace| *namespace == request.namespace)
            && self.name.as_ref().is_none_or(|name| *name == request.name)
    }

    /// Who may do something everywhere must do it elsewhere than where a Role would do.
    fn is_needed_for(&self, request: &Request, gateway: &str) -> bool {
        self.permits(request) && (self.namespace.is_some() || request.namespace != gateway)
    }
}

/// The rules of a role, one by one.
async fn grants(api: &ApiServer, kind: &str, namespace: &str, name: &str) -> Result<Vec<Grant>> {
    let role = api.objects(RBAC, kind, namespace).await?.get(name).await?;
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let words = rule[key].as_array().into_iter().flatten();
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut grants = Vec::new();
    for rule in role.data["rules"].as_array().context("a role without rules")? {
        let names = words(rule, "resourceNames");
        let names: Vec<Option<String>> =
            if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    for name in &names {
                        grants.push(Grant {
                            namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
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

fn requests(audit: &[Value], account: &str) -> BTreeSet<Request> {
    let its = audit.iter().filter(|event| event["user"]["username"] == account);
    let request = |event: &Value| {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut resource = text("/objectRef/resource");
        let subresource = text("/objectRef/subresource");
        if !subresource.is_empty() {
            resource = format!("{resource}/{subresource}");
        }
        if resource.is_empty() {
            resource = text("/requestURI");
        }
        Request {
            namespace: text("/objectRef/namespace"),
            group: text("/objectRef/apiGroup"),
            resource,
            verb: text("/verb"),
            name: text("/objectRef/name"),
            code: event.pointer("/responseStatus/code").and_then(Value::as_i64).unwrap_or_default(),
        }
    };
    its.map(request).collect()
}

/// The service account was refused nothing, asked nothing that its roles of the same name do not grant, and asked all
/// that they grant.
pub(super) async fn compare(api: &ApiServer, home: &str, name: &str, gateway: &str) -> Result<()> {
    let asked = requests(&api.audit()?, &format!("system:serviceaccount:{home}:{name}"));
    ensure!(asked.len() > 20, "hardly anything was asked: {asked:#?}");
    let mut granted = grants(api, "ClusterRole", "", name).await?;
    granted.extend(grants(api, "Role", gateway, name).await?);
    let refused: Vec<_> = asked.iter().filter(|request| matches!(request.code, 401 | 403)).collect();
    ensure!(refused.is_empty(), "refused: {refused:#?}");
    let beyond: Vec<_> = asked.iter().filter(|request| !granted.iter().any(|grant| grant.permits(request))).collect();
    ensure!(beyond.is_empty(), "asked and not granted by the chart: {beyond:#?}");
    let unused: Vec<_> =
        granted.iter().filter(|grant| !asked.iter().any(|request| grant.is_needed_for(request, gateway))).collect();
    ensure!(unused.is_empty(), "granted and never asked: {unused:#?}");
    Ok(())
}
