//! The real API server refuses what the planner refuses, naming the same field, and accepts what it accepts.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use table::{Kind, accepted, refused};
use testbed::{ApiServer, eventually};

#[path = "../../../crates/plan/tests/table/mod.rs"]
mod table;

/// What `kubectl apply` asks for: nothing is stored, unknown fields are refused.
async fn create(client: &kube::Client, kind: Kind, object: &Value) -> Result<(), String> {
    let plural = match kind {
        Kind::Quota => "aiquotas",
        Kind::Limit => "aitokenratelimits",
        Kind::Store => "aiquotastores",
    };
    let path = format!("/apis/quota.higress.io/v1alpha1/namespaces/higress-system/{plural}");
    let request = http::Request::post(format!("{path}?dryRun=All&fieldValidation=Strict"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .map_err(|error| error.to_string())?;
    client.request::<Value>(request).await.map(drop).map_err(|error| match error {
        kube::Error::Api(status) => status.message,
        other => panic!("no answer of the API server: {other}"),
    })
}

#[tokio::test]
async fn the_api_server_refuses_what_the_planner_refuses() -> Result<()> {
    let api = ApiServer::start().await?;
    api.namespace("higress-system").await?;
    for crd in api::crds()? {
        api.apply(&crd).await?;
    }
    let client = api.client();
    for kind in [Kind::Quota, Kind::Limit, Kind::Store] {
        let valid = table::valid(kind);
        eventually("the kinds are served", async || create(&client, kind, &valid).await.map_err(anyhow::Error::msg))
            .await?;
    }

    for (kind, object) in accepted() {
        create(&client, kind, &object).await.map_err(anyhow::Error::msg).with_context(|| object.to_string())?;
    }
    for case in refused() {
        let Err(message) = create(&client, case.kind, &case.object()).await else {
            anyhow::bail!("{} was not refused ({:?})", case.name(), case.reason);
        };
        // `spec.paths: Too many` or `unknown field "spec.refresh"`: this field, not one inside it.
        let named = [':', '"'].iter().any(|end| message.contains(&format!("{}{end}", case.field)));
        ensure!(named, "{}: the field {} is not named: {message}", case.name(), case.field);
    }
    Ok(())
}
