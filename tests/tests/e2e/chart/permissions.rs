//! What the controller asked against what the roles of a release grant: both ways.

use anyhow::{Result, ensure};
use e2e::permissions::{Grant, nothing_beyond, nothing_refused, nothing_unused};
use testbed::{ApiServer, GATEWAY};

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// The service account was refused nothing, asked nothing that its roles of this name do not grant, and asked all that
/// they grant.
pub(super) async fn compare(api: &ApiServer, name: &str) -> Result<()> {
    let rules = async |kind: &str, namespace: &str| {
        let role = api.objects(RBAC, kind, namespace).await?.get(name).await?;
        anyhow::Ok(role.data["rules"].clone())
    };
    let mut granted = Grant::of(&rules("ClusterRole", "").await?, None)?;
    granted.extend(Grant::of(&rules("Role", GATEWAY).await?, Some(GATEWAY))?);
    let asked = api.asked()?;
    ensure!(asked.len() > 20, "hardly anything was asked: {asked:#?}");
    nothing_refused(&asked)?;
    nothing_beyond(&asked, &granted)?;
    nothing_unused(&asked, &granted, GATEWAY)
}
