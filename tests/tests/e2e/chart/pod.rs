//! What a kubelet does with the chart's Deployment, as there is none: its arguments, run as its service account.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::{Controller, ServiceAccount, eventually};

use super::served;
use super::{HOME, RELEASE, arguments};
use crate::stage::Stage;

/// What Kubernetes would start: one of the pods, with its credentials.
pub(super) struct Pod {
    pub(super) controller: Controller,
    _account: ServiceAccount,
}

impl Pod {
    pub(super) async fn start(stage: &Stage) -> Result<Self> {
        served(&stage.api).await?;
        let deployment = stage.api.objects("apps/v1", "Deployment", HOME).await?.get(RELEASE).await?;
        let account = deployment.data.pointer("/spec/template/spec/serviceAccountName").and_then(Value::as_str);
        let account = ServiceAccount::granted(&stage.api, HOME, account.context("no service account")?).await?;
        let controller = Controller::run(arguments(&deployment.data)?, account.kubeconfig())?;
        Ok(Self { controller, _account: account })
    }

    pub(super) async fn says(&self, words: &str) -> Result<()> {
        eventually(&format!("a controller says: {words}"), async || {
            self.controller.ensure_running()?;
            let log = self.controller.log();
            ensure!(log.contains(words), "it says:\n{log}");
            Ok(())
        })
        .await
    }
}
