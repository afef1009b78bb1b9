//! What the gateway's own tests are played on, and the objects it is given.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testbed::gateway::Exchange;
use testbed::{Gateway, GatewayOptions, ModelServer, eventually};

use super::guest;

/// A gateway, a model server behind it, and a folder for modules.
pub(crate) struct Bed {
    pub(crate) gateway: Gateway,
    pub(crate) model: ModelServer,
    pub(crate) folder: tempfile::TempDir,
}

impl Bed {
    pub(crate) async fn new() -> Result<Self> {
        Self::with(GatewayOptions::default()).await
    }

    pub(crate) async fn with(options: GatewayOptions) -> Result<Self> {
        let (gateway, model) = (Gateway::start(options).await?, ModelServer::start().await?);
        Ok(Self { gateway, model, folder: tempfile::tempdir()? })
    }

    /// One route for everything to the model server, and these plugins.
    pub(crate) async fn serve(&self, plugins: Vec<Value>) -> Result<()> {
        let mut objects = vec![bridge(&[("llm", &self.model.addr().to_string())]), route("all", json!({}))];
        objects.extend(plugins);
        self.gateway.set_objects(objects).await
    }

    /// [`Bed::serve`] with one plugin `guest` of these callbacks.
    pub(crate) async fn serve_guest(&self, abi: &str, callbacks: &str) -> Result<()> {
        let url = guest::write(self.folder.path(), "guest", abi, callbacks)?;
        self.serve(vec![plugin("guest", &url, json!({}))]).await
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/v1/chat/completions", self.gateway.url())
    }

    pub(crate) fn said(&self) -> Vec<String> {
        self.gateway.logs().into_iter().map(|line| line.text).collect()
    }

    /// The runs of the chain, once there are so many.
    pub(crate) async fn exchanges(&self, count: usize) -> Result<Vec<Exchange>> {
        eventually("the exchanges have ended", async || {
            let ended = self.gateway.access_log();
            ensure!(ended.len() == count, "{ended:#?}");
            Ok(ended)
        })
        .await
    }
}

pub(crate) fn plugin(name: &str, url: &str, spec: Value) -> Value {
    let mut object = json!({"kind": "WasmPlugin", "metadata": {"namespace": "higress-system", "name": name},
        "spec": {"url": url, "failStrategy": "FAIL_CLOSE", "defaultConfig": {}}});
    if let (Some(object), Value::Object(spec)) = (object["spec"].as_object_mut(), spec) {
        object.extend(spec);
    }
    object
}

pub(crate) fn bridge(registries: &[(&str, &str)]) -> Value {
    let registries: Vec<Value> = registries
        .iter()
        .map(|(name, addresses)| json!({"name": name, "type": "static", "domain": addresses, "port": 80}))
        .collect();
    json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge",
        "metadata": {"namespace": "higress-system", "name": "default"}, "spec": {"registries": registries}})
}

pub(crate) fn route(name: &str, annotations: Value) -> Value {
    let mut object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"namespace": "higress-system", "name": name,
            "annotations": {"higress.io/destination": "100% llm.static:80"}},
        "spec": {"ingressClassName": "higress", "rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}}}]}}]}});
    if let (Some(object), Value::Object(annotations)) = (object["metadata"]["annotations"].as_object_mut(), annotations)
    {
        object.extend(annotations);
    }
    object
}

pub(crate) fn key_auth(config: Value) -> Value {
    let mut spec = json!({"phase": "AUTHN", "priority": 310});
    if let (Some(spec), Value::Object(config)) = (spec.as_object_mut(), config) {
        spec.extend(config);
    }
    plugin("key-auth", "oci://registry.example/plugins/key-auth:1.0.0", spec)
}

pub(crate) fn consumers() -> Value {
    json!({"keys": ["x-api-key"], "in_header": true,
        "consumers": [{"name": "alice", "credential": "a"}, {"name": "bob", "credential": "b"}]})
}
