//! Being a service account: a token that the API server itself gives out, in a kubeconfig for programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount as Object;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api_server::ApiServer;

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

    /// With which a program is this service account.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        Self::path(self.folder.path())
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join("kubeconfig")
    }
}
