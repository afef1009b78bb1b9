//! Releases on a real API server: installed, upgraded, uninstalled, with what enforces left alone.

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject};
use serde_json::json;
use testbed::{ApiServer, helm};

use super::{Charts, HOME, OURS, RELEASE, served};
use crate::stage::{NAMESPACE, quota};

async fn cluster() -> Result<ApiServer> {
    let api = ApiServer::start().await?;
    api.install_higress_crds().await?;
    api.namespace(NAMESPACE).await?;
    Ok(api)
}

fn store(timeout: &str) -> String {
    format!("defaultStore={}", json!({"service": {"name": "local-redis.static", "port": 80}, "timeout": timeout}))
}

/// AIQuotaStores, when the kinds of the charts are served.
async fn stores(api: &ApiServer) -> Result<Api<DynamicObject>> {
    served(api).await?;
    api.objects(OURS, "AIQuotaStore", NAMESPACE).await
}

async fn exists(api: &ApiServer, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<bool> {
    Ok(api.objects(api_version, kind, namespace).await?.get_opt(name).await?.is_some())
}

async fn uninstall(api: &ApiServer, release: &str) -> Result<String> {
    helm(Some(api), &["uninstall", release, "--namespace", HOME]).await
}

#[tokio::test]
async fn an_upgrade_reaches_definitions_and_store_and_an_uninstall_leaves_them_and_every_object() -> Result<()> {
    let (api, charts) = (cluster().await?, Charts::copied().await?);
    let definition = "aiquotastores.quota.higress.io";
    let crds = api.objects("apiextensions.k8s.io/v1", "CustomResourceDefinition", "").await?;

    // A kind and an object of it at once cannot be: nothing is done by halves.
    let refused = charts.release(&api, "install", &[&store("1s")]).await.err().context("it is taken")?;
    ensure!(format!("{refused:#}").contains("install the chart aiquota-crds before"), "{refused:#}");
    ensure!(crds.get_opt(definition).await?.is_none(), "it installs something all the same");

    let notes = charts.release(&api, "install", &[]).await?;
    ensure!(notes.contains("kind: AIQuotaStore"), "it does not say what comes next: {notes}");
    ensure!(notes.lines().any(|line| line == "STORE"), "a shell would wait for the end of it: {notes}");
    let stores = stores(&api).await?;
    charts.release(&api, "upgrade", &[&store("1s")]).await?;
    let made = stores.get("default").await?;
    let uid = made.uid();
    let quotas = api.objects(OURS, "AIQuota", NAMESPACE).await?;
    let declared = api.apply(&quota("chat", &json!({}))).await?.uid();

    // The next version knows a field more, and the administrator has other values.
    let file = charts.path(&format!("aiquota-crds/templates/{definition}.yaml"));
    let text = std::fs::read_to_string(&file)?;
    let newer = text.replacen(
        "              database:\n",
        "              comment:\n                type: string\n              database:\n",
        1,
    );
    ensure!(newer != text, "no field to put another before");
    std::fs::write(&file, newer)?;
    charts.build().await?;
    let notes = charts.release(&api, "upgrade", &[&store("2s")]).await?;
    ensure!(notes.contains("get aiquotastore default"), "{notes}");
    let upgraded = crds.get(definition).await?;
    let comment = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/comment";
    ensure!(upgraded.data.pointer(comment).is_some(), "the upgrade did not reach the definition");
    let changed = stores.get("default").await?;
    ensure!(changed.uid() == uid && changed.data["spec"]["timeout"] == "2s", "{changed:?}");

    // What still enforces is not touched when the controller goes.
    let kept = uninstall(&api, RELEASE).await?;
    ensure!(kept.contains(definition) && kept.contains("[AIQuotaStore] default"), "{kept}");
    ensure!(stores.get("default").await?.uid() == uid && quotas.get("chat").await?.uid() == declared);
    for (api_version, kind, namespace) in [
        ("apps/v1", "Deployment", HOME),
        ("policy/v1", "PodDisruptionBudget", HOME),
        ("v1", "ServiceAccount", HOME),
        ("rbac.authorization.k8s.io/v1", "ClusterRole", ""),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", ""),
        ("rbac.authorization.k8s.io/v1", "Role", NAMESPACE),
        ("rbac.authorization.k8s.io/v1", "RoleBinding", NAMESPACE),
    ] {
        ensure!(!exists(&api, api_version, kind, namespace, "aiquota").await?, "the {kind} is left behind");
    }

    // And taken up again; a store that is otherwise by now is not silently left as it is.
    let refused = charts.release(&api, "install", &[&store("3s")]).await.err().context("helm would leave it")?;
    ensure!(format!("{refused:#}").contains("with another spec"), "{refused:#}");
    charts.release(&api, "install", &[&store("2s")]).await?;
    charts.release(&api, "upgrade", &[&store("3s")]).await?;
    let changed = stores.get("default").await?;
    ensure!(changed.uid() == uid && changed.data["spec"]["timeout"] == "3s", "{changed:?}");
    ensure!(quotas.get("chat").await?.uid() == declared);
    Ok(())
}

#[tokio::test]
async fn with_definitions_of_a_release_of_their_own_the_store_comes_with_the_first_install() -> Result<()> {
    let (api, charts) = (cluster().await?, Charts::copied().await?);
    let definitions = charts.definitions();
    let arguments = ["install", "aiquota-crds", &definitions, "--namespace", HOME, "--create-namespace", "--wait"];
    helm(Some(&api), &arguments).await?;
    charts.release(&api, "install", &["crds.enabled=false", &store("1s")]).await?;
    let stores = stores(&api).await?;
    let uid = stores.get("default").await?.uid();
    charts.release(&api, "upgrade", &["crds.enabled=false", &store("2s")]).await?;
    let changed = stores.get("default").await?;
    ensure!(changed.uid() == uid && changed.data["spec"]["timeout"] == "2s", "{changed:?}");
    // Two releases cannot both bring them: the one that would is told so.
    let refused = charts.release(&api, "upgrade", &[&store("2s")]).await.err().context("whose are they now?")?;
    ensure!(format!("{refused:#}").contains("invalid ownership metadata"), "{refused:#}");
    uninstall(&api, RELEASE).await?;
    uninstall(&api, "aiquota-crds").await?;
    ensure!(stores.get("default").await?.uid() == uid, "the store went with its kind");
    Ok(())
}
