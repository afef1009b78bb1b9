//! What the charts render, and which values they refuse: helm alone, no cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};
use testbed::{controller_binary, helm, workspace};

use super::{Charts, arguments, find};

/// With every value set that renders something.
const EVERYTHING: [&str; 11] = [
    r#"trustedNamespaces=["a","b"]"#,
    r#"flavor="upstream""#,
    r#"modules.quota={"url":"oci://registry.example/ai-quota:2.0.1","sha256":"aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11"}"#,
    r#"modules.limits={"dialect":"v1","url":"https://registry.example/limits-2.0.1.wasm","sha256":"bb11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11"}"#,
    r#"modules.guard={"url":"oci://registry.example/guard:latest","sha256":"cc11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11"}"#,
    "modules.allowUnpinned=true",
    r#"modules.imagePullSecret="pull.secret""#,
    r#"authPlugins=["sso"]"#,
    r#"image.pullSecrets=["registry"]"#,
    r#"defaultStore={"service":{"name":"local-redis.static","port":80},"timeout":"2s"}"#,
    r#"tolerations=[{"key":"gateway","operator":"Exists"}]"#,
];
const STORES_ARE_SERVED: [&str; 2] = ["--api-versions", "quota.higress.io/v1alpha1/AIQuotaStore"];

/// What `aiquota run` says about its arguments; it never gets as far as a cluster.
fn run(arguments: &[String]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(controller_binary()?);
    let output = command.args(arguments).env("KUBECONFIG", "/nonexistent").output()?;
    let told = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&told).into_owned()))
}

/// Long flags of `aiquota run` with what each is when it is not given.
fn flags() -> Result<BTreeMap<String, Option<String>>> {
    let (_, help) = run(&["run".to_owned(), "--help".to_owned()])?;
    let mut flags = BTreeMap::new();
    for line in help.lines().map(str::trim).filter(|line| line.starts_with("--")) {
        let flag = line.trim_start_matches('-').split(' ').next().unwrap_or_default();
        // What is said of it after that is in brackets, too, and so is an address.
        let default = line.split_once("[default: ").and_then(|(_, rest)| rest.split("] [").next());
        flags.insert(flag.to_owned(), default.map(|default| default.strip_suffix(']').unwrap_or(default).to_owned()));
    }
    ensure!(flags.len() > 20, "{help}");
    Ok(flags)
}

fn given(arguments: &[String]) -> BTreeMap<String, String> {
    let flags = arguments.iter().filter_map(|argument| argument.strip_prefix("--"));
    flags.map(|flag| flag.split_once('=').unwrap_or((flag, ""))).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[tokio::test]
async fn both_charts_pass_helms_own_lint() -> Result<()> {
    let charts = Charts::copied().await?;
    helm(None, &["lint", "--strict", &charts.main(), &charts.definitions()]).await.map(drop)
}

#[tokio::test]
async fn the_controller_is_told_all_that_can_be_told_and_by_default_what_it_assumes_itself() -> Result<()> {
    let charts = Charts::copied().await?;
    let rendered = charts.render_for(&EVERYTHING, &STORES_ARE_SERVED).await?;
    let everything = arguments(find(&rendered, "Deployment", "aiquota")?)?;
    let (flags, told) = (flags()?, given(&everything));
    assert_eq!(told.keys().collect::<Vec<_>>(), flags.keys().collect::<Vec<_>>());
    let (code, words) = run(&everything)?;
    assert_eq!(code, Some(1), "refused for another reason than that there is no cluster: {words}");

    let defaults = charts.render(&[]).await?;
    let defaults = arguments(find(&defaults, "Deployment", "aiquota")?)?;
    let (code, words) = run(&defaults)?;
    assert_eq!(code, Some(1), "{words}");
    let defaults = given(&defaults);
    for (flag, default) in flags.iter().filter_map(|(flag, default)| Some((flag, default.as_ref()?))) {
        // In a cluster logs are collected by programs.
        let expected = if flag == "log-format" { "json" } else { default };
        assert_eq!(defaults.get(flag).map(String::as_str), Some(expected), "--{flag}");
    }
    Ok(())
}

#[tokio::test]
async fn the_controller_may_do_nothing_on_its_node() -> Result<()> {
    let charts = Charts::copied().await?;
    let objects = charts.render(&[]).await?;
    let deployment = find(&objects, "Deployment", "aiquota")?;
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let restricted =
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    assert_eq!(container["securityContext"], restricted);
    assert!(container["resources"]["limits"]["memory"].is_string());
    let labels = &pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"];
    assert_eq!(labels, &deployment["spec"]["selector"]["matchLabels"]);
    let budget = find(&objects, "PodDisruptionBudget", "aiquota")?;
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    let mut selected = deployment["spec"]["template"]["metadata"]["labels"].clone();
    let selected = selected.as_object_mut().context("labels")?;
    selected.retain(|label, _| labels.get(label).is_some());
    assert_eq!(&Value::Object(selected.clone()), labels, "the selector selects the pods");
    // One is never in the way of another's upgrade.
    assert!(find(&charts.render(&["replicas=1"]).await?, "PodDisruptionBudget", "aiquota").is_err());
    Ok(())
}

#[tokio::test]
async fn kubernetes_asks_the_controller_how_it_is_where_it_listens() -> Result<()> {
    let rendered = Charts::copied().await?.render(&["port=9000"]).await?;
    let deployment = find(&rendered, "Deployment", "aiquota")?;
    assert_eq!(given(&arguments(deployment)?)["listen"], "[::]:9000");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"], json!([{"name": "http", "containerPort": 9000, "protocol": "TCP"}]));
    for (probe, path) in [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": "http"}), "{probe}");
    }
    Ok(())
}

#[tokio::test]
async fn what_clusters_ask_of_pods_can_be_said() -> Result<()> {
    let charts = Charts::copied().await?;
    let values = [
        r#"nameOverride="quota""#,
        r#"fullnameOverride="budget""#,
        r#"serviceAccount={"create":false,"name":"theirs"}"#,
        r#"podSecurityContext={"runAsUser":null,"runAsGroup":null,"fsGroup":7}"#,
        r#"securityContext={"seLinuxOptions":{"level":"s0"}}"#,
        r#"extraEnv=[{"name":"HTTPS_PROXY","value":"http://proxy.example"}]"#,
        "terminationGracePeriodSeconds=60",
        r#"log.filter="controller=debug,info""#,
        "leaderElection.enabled=false",
        "replicas=1",
    ];
    let objects = charts.render(&values).await?;
    let deployment = find(&objects, "Deployment", "budget")?;
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"], "quota");
    assert_eq!(pod["serviceAccountName"], "theirs");
    ensure!(!objects.iter().any(|object| object["kind"] == "ServiceAccount"), "it is theirs to make");
    let context = json!({"runAsNonRoot": true, "fsGroup": 7, "seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(pod["securityContext"], context, "what is null is left to the cluster, the rest stays");
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["seLinuxOptions"]["level"], "s0");
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["env"], json!([{"name": "HTTPS_PROXY", "value": "http://proxy.example"}]));
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    assert_eq!(given(&arguments(deployment)?)["log"], "controller=debug,info");
    // Without an election the old one ends before the new one acts.
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    let elected = charts.render(&[]).await?;
    assert_eq!(find(&elected, "Deployment", "aiquota")?["spec"]["strategy"]["type"], "RollingUpdate");
    Ok(())
}

#[tokio::test]
async fn no_secret_can_be_read_outside_of_the_gateways_namespace() -> Result<()> {
    let objects = Charts::copied().await?.render(&[r#"gateway.namespace="gateway""#]).await?;
    let rules = |kind: &str| -> Result<String> { Ok(find(&objects, kind, "aiquota")?["rules"].to_string()) };
    assert!(!rules("ClusterRole")?.contains("secrets"));
    assert!(rules("Role")?.contains("secrets"));
    for kind in ["Role", "RoleBinding"] {
        assert_eq!(find(&objects, kind, "aiquota")?["metadata"]["namespace"], "gateway");
    }
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        let subjects = json!([{"kind": "ServiceAccount", "name": "aiquota", "namespace": "aiquota-system"}]);
        assert_eq!(find(&objects, kind, "aiquota")?["subjects"], subjects);
    }
    for rule in ["ClusterRole", "Role"] {
        assert!(!rules(rule)?.contains('*'), "nothing is granted that is not named");
    }
    Ok(())
}

#[tokio::test]
async fn the_released_image_is_named_by_its_digest_unless_another_is_named() -> Result<()> {
    let charts = Charts::copied().await?;
    let (recorded, other) = ("ab".repeat(32), "cd".repeat(32));
    let image = async |values: &[&str]| -> Result<String> {
        let objects = charts.render(values).await?;
        let image = &find(&objects, "Deployment", "aiquota")?["spec"]["template"]["spec"]["containers"][0]["image"];
        Ok(image.as_str().unwrap_or_default().to_owned())
    };
    let version = env!("CARGO_PKG_VERSION");
    ensure!(image(&[]).await? == format!("ghcr.io/aiquota/aiquota:{version}"), "what is not released has no digest");
    std::fs::write(charts.path("aiquota/digests.yaml"), format!("aiquota: {recorded}\n"))?;
    for (values, expected) in [
        (vec![], format!("ghcr.io/aiquota/aiquota:{version}@sha256:{recorded}")),
        (
            vec![r#"registry="mirror.example/a""#.to_owned()],
            format!("mirror.example/a/aiquota:{version}@sha256:{recorded}"),
        ),
        (vec![r#"image.tag="7""#.to_owned()], "ghcr.io/aiquota/aiquota:7".to_owned()),
        (vec![r#"image.repository="other.example/b""#.to_owned()], format!("other.example/b:{version}")),
        (vec![format!(r#"image.digest="sha256:{other}""#)], format!("ghcr.io/aiquota/aiquota@sha256:{other}")),
    ] {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let found = image(&values).await?;
        ensure!(found == expected, "{values:?}: {found}");
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_cannot_be_meant_is_refused_by_its_name() -> Result<()> {
    const STORE: &str = r#"{"service":{"name":"local-redis.static"}}"#;
    let charts = Charts::copied().await?;
    let with_store = |field: &str| format!("defaultStore={}", STORE.replacen('{', &format!("{{{field},"), 1));
    charts.render_for(&[&format!("defaultStore={STORE}")], &STORES_ARE_SERVED).await?;
    for (value, reason) in [
        (r#"gateway.namespace="Higress""#.to_owned(), "/gateway/namespace"),
        (r#"trustedNamespaces=["a","a"]"#.to_owned(), "/trustedNamespaces"),
        ("namespaceShare=0".to_owned(), "/namespaceShare"),
        ("namespaceShare=101".to_owned(), "/namespaceShare"),
        (r#"flavor="sidestream""#.to_owned(), "/flavor"),
        (r#"registry="""#.to_owned(), "/registry"),
        (r#"image.digest="sha256:abc""#.to_owned(), "/image/digest"),
        (r#"image.tag="latest""#.to_owned(), "/image/tag"),
        (r#"image.pullPolicy="Sometimes""#.to_owned(), "/image/pullPolicy"),
        (r#"modules.quota.url="registry.example/ai-quota:1.0.0""#.to_owned(), "/modules/quota/url"),
        (r#"modules.quota.url="oci://registry.example/${secret.a/b.c}:1.0.0""#.to_owned(), "/modules/quota/url"),
        (r#"modules.limits.sha256="abc""#.to_owned(), "/modules/limits/sha256"),
        ("modules.quota.priority=0".to_owned(), "/modules/quota/priority"),
        ("modules.limits.priority=1001".to_owned(), "/modules/limits/priority"),
        (r#"modules.imagePullPolicy="Never""#.to_owned(), "/modules/imagePullPolicy"),
        (r#"modules.limits.dialect="v3""#.to_owned(), "/modules/limits/dialect"),
        (r#"modules.limits.dialect="v1""#.to_owned(), "modules.limits.dialect"),
        (r#"modules.failStrategy="CLOSE""#.to_owned(), "/modules/failStrategy"),
        (r#"modules.phase="AUTH""#.to_owned(), "/modules/phase"),
        (
            r#"modules.guard.sha256="cc11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11""#.to_owned(),
            "modules.guard.sha256",
        ),
        (r#"authPlugins=["SSO"]"#.to_owned(), "/authPlugins/0"),
        ("leaderElection.enabled=false".to_owned(), "leaderElection.enabled"),
        (r#"leaderElection.leaseDuration="2s""#.to_owned(), "/leaderElection/leaseDuration"),
        (r#"leaderElection.leaseDuration="15""#.to_owned(), "/leaderElection/leaseDuration"),
        (r#"drain="5""#.to_owned(), "/drain"),
        ("port=80".to_owned(), "/port"),
        ("metrics.consumers=10001".to_owned(), "/metrics/consumers"),
        (r#"metrics.serviceMonitor.interval="often""#.to_owned(), "/metrics/serviceMonitor/interval"),
        (
            r#"metrics={"service":{"enabled":false},"serviceMonitor":{"enabled":true}}"#.to_owned(),
            "metrics.serviceMonitor.enabled",
        ),
        (r#"log.format="xml""#.to_owned(), "/log/format"),
        (r#"log.filter="info\n- --guard=off""#.to_owned(), "/log/filter"),
        (r#"log.filter="=bad=filter""#.to_owned(), "/log/filter"),
        (r#"drain="99999m""#.to_owned(), "/drain"),
        (r#"registry="oci://registry.example""#.to_owned(), "/registry"),
        (r#"podDisruptionBudget.maxUnavailable="lots""#.to_owned(), "/podDisruptionBudget/maxUnavailable"),
        ("podDisruptionBudget.maxUnavailable=0".to_owned(), "/podDisruptionBudget/maxUnavailable"),
        (r#"podLabels={"app.kubernetes.io/name":"evil"}"#.to_owned(), "app.kubernetes.io/name"),
        (
            r#"commonLabels={"app.kubernetes.io/name":"evil"}"#.to_owned(),
            "invalid propertyName 'app.kubernetes.io/name'",
        ),
        (r#"commonLabels={"team":"not a label"}"#.to_owned(), "/commonLabels/team"),
        (
            r#"commonLabels={"grafana_dashboard":"0"}"#.to_owned(),
            "grafana_dashboard is in metrics.dashboard.labels too",
        ),
        ("revisionHistoryLimit=-1".to_owned(), "/revisionHistoryLimit"),
        (r#"extraEnv=[{"name":"AIQUOTA_GUARD","value":"off"}]"#.to_owned(), "/extraEnv/0/name"),
        (r#"nameOverride="Up""#.to_owned(), "/nameOverride"),
        ("serviceAccount.create=false".to_owned(), "serviceAccount.name"),
        ("terminationGracePeriodSeconds=0".to_owned(), "/terminationGracePeriodSeconds"),
        (with_store(r#""timeout":"99999s""#), "defaultStore.timeout"),
        (with_store(r#""address":"redis://a:99999""#), "defaultStore.address"),
        ("replicas=0".to_owned(), "/replicas"),
        (r#"flavor="upstream""#.to_owned(), "modules.quota.url"),
        (r#"defaultStore={"database":1}"#.to_owned(), "/defaultStore"),
        (with_store(r#""database":-1"#), "/defaultStore/database"),
        (with_store(r#""auth":{"secretName":"a.b"}"#), "/defaultStore/auth/secretName"),
    ] {
        let refused = charts.render_for(&[&value], &STORES_ARE_SERVED).await;
        let told = format!("{:#}", refused.err().with_context(|| format!("{value} is taken"))?);
        ensure!(told.contains(reason), "{value}: {told}");
    }
    let both = [r#"flavor="upstream""#, r#"modules.quota.url="oci://registry.example/ai-quota:2.0.1""#];
    let told = format!("{:#}", charts.render(&both).await.err().context("whose limits?")?);
    ensure!(told.contains("modules.limits.url"), "{told}");
    // Helm cannot make a kind and an object of it at once: it says what to do instead.
    let store = format!("defaultStore={STORE}");
    let told = format!("{:#}", charts.render(&[&store]).await.err().context("the kind is not served")?);
    ensure!(told.contains("install the chart aiquota-crds before"), "{told}");
    charts.render(&[&store, "crds.enabled=false"]).await.map(drop)
}

#[tokio::test]
async fn what_a_platform_labels_is_labelled_everywhere_and_selects_nothing() -> Result<()> {
    let charts = Charts::copied().await?;
    let store = r#"defaultStore={"service":{"name":"local-redis.static"}}"#;
    let all = [
        store,
        r#"commonLabels={"example.com/cost-centre":"42"}"#,
        "metrics.serviceMonitor.enabled=true",
        "metrics.rules.enabled=true",
        "metrics.dashboard.enabled=true",
        "revisionHistoryLimit=3",
    ];
    let objects = charts.render_for(&all, &STORES_ARE_SERVED).await?;
    let ours = objects.iter().filter(|object| object["kind"] != "CustomResourceDefinition");
    let mut seen = BTreeSet::new();
    for object in ours {
        let labels = &object["metadata"]["labels"];
        ensure!(labels["example.com/cost-centre"] == "42" && labels["app.kubernetes.io/name"] == "aiquota", "{object}");
        seen.insert(object["kind"].as_str().unwrap_or_default());
    }
    ensure!(seen.len() >= 12, "{seen:?}");
    let deployment = find(&objects, "Deployment", "aiquota")?;
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], 3);
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"]["example.com/cost-centre"], "42");
    // It cannot be changed afterwards.
    ensure!(deployment["spec"]["selector"]["matchLabels"].get("example.com/cost-centre").is_none(), "{deployment}");
    Ok(())
}

/// The paths of all objects with named properties, but in lists.
fn objects<'a>(schema: &'a Value, path: &str, into: &mut Vec<(String, &'a Map<String, Value>)>) {
    let (Some(node), Some(properties)) = (schema.as_object(), schema["properties"].as_object()) else { return };
    into.push((path.to_owned(), node));
    for (name, property) in properties {
        objects(property, &format!("{path}{name}."), into);
    }
}

#[tokio::test]
async fn a_misspelt_value_is_refused_wherever_it_stands() -> Result<()> {
    let charts = Charts::copied().await?;
    let schema = std::fs::read_to_string(charts.path("aiquota/values.schema.json"))?;
    let schema: Value = serde_json::from_str(&schema)?;
    let mut found = Vec::new();
    objects(&schema, "", &mut found);
    ensure!(found.len() > 15, "{}", found.len());
    for (path, _) in found {
        let value = format!("{path}misspelt=1");
        let told = charts.render_for(&[&value], &STORES_ARE_SERVED).await;
        let told = format!("{:#}", told.err().with_context(|| format!("{value} is taken"))?);
        ensure!(told.contains("additional properties 'misspelt' not allowed"), "{value}: {told}");
    }
    // And what is there by default has its place there.
    let values: Value = serde_yaml::from_str(&std::fs::read_to_string(charts.path("aiquota/values.yaml"))?)?;
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let declared: BTreeSet<String> = names(&schema["properties"]);
    let extra: BTreeSet<String> = ["aiquota-crds".to_owned(), "global".to_owned()].into();
    assert_eq!(declared.difference(&extra).cloned().collect::<BTreeSet<_>>(), names(&values));
    Ok(())
}

/// A schema without what only the API server reads, refusing what it does not name.
fn plain(schema: &Value) -> Value {
    let Some(node) = schema.as_object() else { return schema.clone() };
    let mut plain = Map::new();
    for (key, value) in node.iter().filter(|(key, _)| *key != "description" && !key.starts_with("x-kubernetes")) {
        let value = match (key.as_str(), value.as_object()) {
            ("properties", Some(properties)) => {
                properties.iter().map(|(name, property)| (name.clone(), self::plain(property))).collect()
            }
            _ => value.clone(),
        };
        plain.insert(key.clone(), value);
    }
    if plain.contains_key("properties") {
        plain.insert("additionalProperties".to_owned(), false.into());
    }
    Value::Object(plain)
}

#[test]
fn the_default_store_of_the_values_is_an_ai_quota_store() -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(workspace().join(path));
    let definition: Value = serde_yaml::from_str(&read("crds/aiquotastores.quota.higress.io.yaml")?)?;
    let spec = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").context("no spec")?;
    let schema: Value = serde_json::from_str(&read("charts/aiquota/values.schema.json")?)?;
    let mut expected = plain(spec);
    // There may be none.
    let required = expected.as_object_mut().and_then(|spec| spec.remove("required")).context("nothing is required")?;
    expected["if"] = json!({"minProperties": 1});
    expected["then"] = json!({"required": required});
    assert_eq!(plain(&schema["properties"]["defaultStore"]), expected);
    Ok(())
}

#[tokio::test]
async fn helm_and_the_controller_refuse_the_same_urls_of_modules() -> Result<()> {
    let charts = Charts::copied().await?;
    let sha256 = "a1".repeat(32);
    let digest = format!("oci://registry.example/ai-quota@sha256:{sha256}");
    let tagged = format!("oci://registry.example/ai-quota:latest@sha256:{sha256}");
    let urls = [
        "oci://registry.example/plugins/ai-quota:1.0.0",
        "oci://registry.example:5000/ai-quota:v1",
        "oci://registry.example/ai-quota",
        "oci://registry.example:5000/ai-quota",
        "oci://registry.example/ai-quota:",
        "oci://registry.example/ai-quota:latest",
        "oci://registry.example/ai-quota@sha256:abc",
        &digest,
        &tagged,
        "https://example.com/v1.2.3/ai-quota.wasm",
        "https://10.0.0.7/ai-quota.wasm",
        "https://example.com/latest/ai-quota-1.0.0.wasm",
        "http://example.com/ai-quota.wasm?v=1.0.0",
        "file:///opt/modules/ai-quota-1.0.0.wasm",
        "file:///opt/ai-quota.wasm",
        "ftp://registry.example/ai-quota:1.0.0",
        "registry.example/ai-quota:1.0.0",
        "oci://",
    ];
    let (mut taken, mut refused) = (0, 0);
    for url in urls {
        for sha256 in [None, Some(&sha256)] {
            for unpinned in [false, true] {
                let mut arguments = vec!["run".to_owned(), format!("--module-url={url}")];
                arguments.extend(sha256.map(|sum| format!("--module-sha256={sum}")));
                arguments.extend(unpinned.then(|| "--allow-unpinned-modules".to_owned()));
                let (code, words) = run(&arguments)?;
                let module =
                    format!("modules.quota={}", json!({"url": url, "sha256": sha256.map_or("", String::as_str)}));
                let helm = charts.render(&[&module, &format!("modules.allowUnpinned={unpinned}")]).await;
                let helms = helm.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
                assert_eq!(helm.is_ok(), code == Some(1), "{arguments:?}: {helms}; {words}");
                if helm.is_ok() { taken += 1 } else { refused += 1 }
            }
        }
    }
    ensure!(taken > 10 && refused > 10, "{taken} taken, {refused} refused");
    Ok(())
}
