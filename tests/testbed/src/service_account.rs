//! Being a service account: a token that the API server itself gives out, in a kubeconfig for programs; and that of the
//! chart, with the rights that the chart grants, for every controller that is started without helm.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::ServiceAccount as Object;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api_server::ApiServer;
use crate::paths::workspace;
use crate::wait::eventually;

/// The namespace of the gateway, where the chart grants what is not granted everywhere.
pub const GATEWAY: &str = "higress-system";
/// Where the chart is installed.
const HOME: &str = "aiquota-system";
/// The release, and what it calls its service account and roles.
const NAME: &str = "aiquota";
/// The controller's name in audit logs.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:aiquota-system:aiquota";

/// A service account that exists, and its credentials.
pub struct ServiceAccount {
    folder: TempDir,
}

impl ServiceAccount {
    /// Asks for a token of it.
    ///
    /// # Errors
    /// When there is no such service account.
    pub async fn of(api: &ApiServer, namespace: &str, name: &str) -> Result<Self> {
        let accounts: Api<Object> = Api::namespaced(api.client(), namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        let token = answer.status.context("the API server gave no token")?.token;
        let mut config: Value = serde_yaml::from_str(&fs::read_to_string(api.kubeconfig())?)?;
        for user in config["users"].as_array_mut().into_iter().flatten() {
            user["user"] = json!({"token": token});
        }
        let folder = tempfile::Builder::new().prefix("aiquota-account-").tempdir()?;
        fs::write(Self::path(folder.path()), serde_json::to_vec(&config)?)?;
        Ok(Self { folder })
    }

    /// [`Self::of`], when the API server obeys its roles, which is a moment after they were written.
    ///
    /// # Errors
    /// When it has not the roles of the chart.
    pub async fn granted(api: &ApiServer, namespace: &str, name: &str) -> Result<Self> {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        // One of each role.
        may(api, &user, json!({"verb": "get", "resource": "namespaces", "name": "kube-system"})).await?;
        may(api, &user, json!({"verb": "list", "resource": "secrets", "namespace": GATEWAY})).await?;
        Self::of(api, namespace, name).await
    }

    /// With which a program is this service account.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        Self::path(self.folder.path())
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join("kubeconfig")
    }
}

/// Makes the service account of the chart, with the roles that it has there, and waits until they are obeyed.
pub(crate) async fn grant(api: &ApiServer) -> Result<ServiceAccount> {
    const RBAC: &str = "rbac.authorization.k8s.io/v1";
    let file = workspace().join("charts/aiquota/permissions.yaml");
    let rules: Value = serde_yaml::from_str(&fs::read_to_string(&file)?)?;
    let subjects = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": HOME}]);
    for namespace in [HOME, GATEWAY] {
        api.namespace(namespace).await?;
    }
    api.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": HOME}}))
        .await?;
    for (kind, metadata, rules) in [
        ("ClusterRole", json!({"name": NAME}), &rules["cluster"]),
        ("Role", json!({"name": NAME, "namespace": GATEWAY}), &rules["gateway"]),
    ] {
        api.apply(&json!({"apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": rules})).await?;
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME});
        api.apply(&json!({"apiVersion": RBAC, "kind": format!("{kind}Binding"), "metadata": metadata, "roleRef": role,
            "subjects": subjects}))
            .await?;
    }
    ServiceAccount::granted(api, HOME, NAME).await
}

/// Waits until somebody may do this.
async fn may(api: &ApiServer, user: &str, what: Value) -> Result<()> {
    let reviews: Api<SubjectAccessReview> = Api::all(api.client());
    let review: SubjectAccessReview =
        serde_json::from_value(json!({"metadata": {}, "spec": {"user": user, "resourceAttributes": what}}))?;
    eventually(&format!("the controller may {what}"), async || {
        let status = reviews.create(&PostParams::default(), &review).await?.status.context("no verdict")?;
        ensure!(status.allowed, "{status:?}");
        Ok(())
    })
    .await
}
