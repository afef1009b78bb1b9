//! What the chart brings for Prometheus and Grafana: helm alone, no cluster. That the metrics in it exist is tested beside
//! the controller.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::workspace;

use super::{Charts, HOME, find};

const ALL: [&str; 3] = [
    r#"metrics.serviceMonitor={"enabled":true,"labels":{"release":"prometheus"}}"#,
    r#"metrics.rules={"enabled":true,"labels":{"release":"prometheus"}}"#,
    "metrics.dashboard.enabled=true",
];

#[tokio::test]
async fn prometheus_finds_every_replica_and_is_told_the_alerts_as_they_stand_in_their_file() -> Result<()> {
    let rendered = Charts::copied().await?.render(&ALL).await?;
    let deployment = find(&rendered, "Deployment", "aiquota")?;
    let service = find(&rendered, "Service", "aiquota")?;
    assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
    assert_eq!(service["spec"]["clusterIP"], "None", "each replica is asked for itself");
    let monitor = find(&rendered, "ServiceMonitor", "aiquota")?;
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["spec"]["namespaceSelector"]["matchNames"], json!([HOME]));
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().context("it selects nothing")? {
        assert_eq!(&service["metadata"]["labels"][label], value);
    }
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!((&endpoint["port"], &endpoint["path"]), (&service["spec"]["ports"][0]["name"], &json!("/metrics")));
    let read = |file: &str| std::fs::read_to_string(workspace().join("charts/aiquota").join(file));
    let rules = find(&rendered, "PrometheusRule", "aiquota")?;
    assert_eq!(rules["spec"], serde_yaml::from_str::<Value>(&read("rules.yaml")?)?);
    assert_eq!(rules["metadata"]["labels"]["release"], "prometheus");
    let dashboard = find(&rendered, "ConfigMap", "aiquota-dashboard")?;
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let shown = dashboard["data"]["aiquota.json"].as_str().context("no dashboard")?;
    assert_eq!(serde_json::from_str::<Value>(shown)?, serde_json::from_str::<Value>(&read("dashboard.json")?)?);
    Ok(())
}

#[tokio::test]
async fn by_default_nothing_is_made_that_needs_other_software() -> Result<()> {
    let charts = Charts::copied().await?;
    let kinds = |rendered: &[Value]| -> Vec<String> {
        rendered.iter().map(|object| object["kind"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let defaults = kinds(&charts.render(&[]).await?);
    for kind in ["ServiceMonitor", "PrometheusRule", "ConfigMap"] {
        ensure!(!defaults.contains(&kind.to_owned()), "{kind}: {defaults:?}");
    }
    ensure!(defaults.contains(&"Service".to_owned()), "{defaults:?}");
    ensure!(!kinds(&charts.render(&["metrics.service.enabled=false"]).await?).contains(&"Service".to_owned()));
    Ok(())
}
