//! Stores that are there already: those of an import and those of the cluster in, each Redis once out. Pure.

use std::collections::HashSet;

use api::AiQuotaStore;
use serde_json::{Value, json};

use super::super::objects::Imported;

/// Uses a store of the cluster where one is for the same Redis, and gives the others free names.
///
/// # Errors
/// Where balances would be looked for in another database.
pub(super) fn fit(imported: &mut Imported, there: &[AiQuotaStore]) -> Result<(), Vec<String>> {
    let mut taken: HashSet<String> = there.iter().filter_map(|store| store.metadata.name.clone()).collect();
    let mut problems = Vec::new();
    let mut renamed: Vec<(String, String)> = Vec::new();
    for mut object in std::mem::take(&mut imported.stores) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let Ok(store) = plan::decode::<AiQuotaStore>(object.clone()) else { continue };
        let (service, port) = (&store.spec.service.name, store.spec.port());
        let same = |known: &&AiQuotaStore| known.spec.service.name == *service && known.spec.port() == port;
        if let Some(known) = there.iter().find(same) {
            let there = known.metadata.name.clone().unwrap_or_default();
            let database = |store: &AiQuotaStore| store.spec.database.unwrap_or_default();
            if database(known) == database(&store) {
                renamed.push((name, there));
            } else {
                problems.push(format!(
                    "AIQuotaStore {there} is database {} of {service}:{port}, and the WasmPlugin has {}: one client of the \
                     gateway cannot use both",
                    database(known),
                    database(&store)
                ));
            }
            continue;
        }
        let free = free(&name, &taken);
        taken.insert(free.clone());
        object["metadata"]["name"] = json!(free);
        imported.stores.push(object);
        renamed.push((name, free));
    }
    let refer = |object: &mut Value| {
        let name = object.pointer("/spec/storeRef/name").and_then(Value::as_str).unwrap_or("default");
        if let Some((_, now)) = renamed.iter().find(|(before, now)| before == name && before != now) {
            object["spec"]["storeRef"] = json!({"name": now});
        }
    };
    imported.quotas.iter_mut().map(|quota| &mut quota.object).chain(&mut imported.limits).for_each(refer);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn free(name: &str, taken: &HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("imported-{number}"));
    let mut names = [name.to_owned(), "imported".to_owned()].into_iter().chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::super::objects::Quota;
    use super::*;

    fn store(name: &str, service: &str, database: u32) -> Value {
        json!({"apiVersion": "quota.higress.io/v1alpha1", "kind": "AIQuotaStore",
            "metadata": {"name": name, "namespace": "higress-system"},
            "spec": {"service": {"name": service, "port": 80}, "database": database}})
    }

    fn imported(service: &str) -> Imported {
        let quota = Quota {
            object: json!({"kind": "AIQuota", "spec": {}}),
            store: "default".to_owned(),
            key_prefix: String::new(),
        };
        Imported { stores: vec![store("default", service, 0)], quotas: vec![quota], ..Imported::default() }
    }

    fn there(stores: &[Value]) -> Vec<AiQuotaStore> {
        stores.iter().map(|store| plan::decode(store.clone()).expect("a store")).collect()
    }

    #[test]
    fn a_redis_that_has_a_store_keeps_it_whatever_it_is_called() {
        let mut found = imported("redis.static");
        fit(&mut found, &there(&[store("shared", "redis.static", 0)])).expect("it fits");
        assert!(found.stores.is_empty());
        assert_eq!(found.quotas[0].object["spec"]["storeRef"], json!({"name": "shared"}));
    }

    #[test]
    fn a_name_that_another_redis_has_is_not_taken_from_it() {
        let mut found = imported("redis.static");
        fit(&mut found, &there(&[store("default", "other.static", 0)])).expect("it fits");
        assert_eq!(found.stores[0]["metadata"]["name"], "imported");
        assert_eq!(found.quotas[0].object["spec"]["storeRef"], json!({"name": "imported"}));
    }

    #[test]
    fn balances_are_not_looked_for_in_another_database() {
        let problems = fit(&mut imported("redis.static"), &there(&[store("default", "redis.static", 3)])).err();
        assert!(problems.expect("it does not fit")[0].contains("is database 3 of redis.static:80"));
    }
}
