//! What the gateway of the test bed promises to the modules: the host's own facts, each on a module made for it.

pub(crate) mod bed;
mod guest;
mod redis;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use testbed::gateway::{HeaderAction, Headers, VmModule};
use testbed::{After, Answer, ApiServer, Gateway, GatewayOptions, ModelServer, Source, eventually, get, post};

use bed::{Bed, bridge, consumers, key_auth, plugin, route};
use guest::{endings, say};
use redis::asks;

/// Stops the headers; in the body callback, answers 299 when a tick came before the body, else 298.
const STOPS_HEADERS: &str = r#"
    (global $ticked (mut i32) (i32.const 0))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
        (call $answer (i32.add (i32.const 298) (global.get $ticked)))
        (i32.const 1))
    (func (export "proxy_on_tick") (param i32)
        (if (global.get $seen) (then
            (global.set $ticked (i32.const 1))
            (drop (call $act_for (global.get $seen)))
            (drop (call $continue (i32.const 0))))))"#;

#[tokio::test]
async fn a_body_is_seen_before_the_headers_go_on_only_under_the_newest_abi() -> Result<()> {
    let bed = Bed::new().await?;
    bed.serve_guest("0_2_100", STOPS_HEADERS).await?;
    assert_eq!(post(bed.url()).body("x").send().await?.status, 298);

    let ticking = r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32)
        (drop (call $tick_every (i32.const 5))) (i32.const 1))"#;
    let url = guest::write(bed.folder.path(), "older", "0_2_1", &format!("{ticking}{STOPS_HEADERS}"))?;
    bed.serve(vec![plugin("older", &url, json!({}))]).await?;
    assert_eq!(post(bed.url()).body("x").send().await?.status, 299, "the body waited for the tick that continues");
    Ok(())
}

#[tokio::test]
async fn a_local_reply_comes_after_the_callback_and_passes_the_filters_that_saw_the_request() -> Result<()> {
    let bed = Bed::new().await?;
    let replies = format!(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (call $answer (i32.const 418)) (call $say (i32.const {})) (i32.const 0)) {} {} {}"#,
        guest::letters("req"),
        say("proxy_on_response_headers", 3, "hea", Some(0)),
        say("proxy_on_response_body", 3, "bod", Some(0)),
        endings()
    );
    let first = guest::write(bed.folder.path(), "replies", "0_2_100", &replies)?;
    let later = say("proxy_on_response_headers", 3, "not", Some(0));
    let later = guest::write(bed.folder.path(), "later", "0_2_100", &later)?;
    bed.serve(vec![plugin("later", &later, json!({"priority": 1})), plugin("replies", &first, json!({"priority": 2}))])
        .await?;
    let reply = get(bed.url()).send().await?;
    assert_eq!(
        (reply.status, reply.text().as_str(), reply.header("content-type")),
        (418, "made here", Some("text/plain"))
    );
    let ended = bed.exchanges(1).await?;
    assert_eq!((ended[0].status, ended[0].details.as_str()), (418, "guest.reply"));
    assert_eq!(bed.said(), ["req", "hea", "bod", "log", "don", "del"], "and the filter behind it saw nothing");
    assert!(bed.model.received().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_trapped_vm_is_replaced_and_its_streams_fail_as_the_plugin_says() -> Result<()> {
    let traps = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (if (i32.eqz (call $header (i32.const 0) (i32.const 208) (i32.const 6) (i32.const 8) (i32.const 12)))
            (then unreachable))
        (i32.const 0))"#;
    let bed = Bed::new().await?;
    bed.serve_guest("0_2_100", traps).await?;
    let vms = bed.gateway.loaded().plugin("guest").context("guest")?.vms;
    let failed = get(bed.url()).header("x-trap", "now").send().await?;
    assert_eq!(failed.status, 503);
    assert_eq!(bed.exchanges(1).await?[0].details, "wasm_fail_stream");
    // One worker or the other, both answer.
    for _ in 0..4 {
        assert_eq!(get(bed.url()).send().await?.status, 200);
    }
    assert_eq!((bed.gateway.traps(), bed.gateway.loaded().plugin("guest").context("guest")?.vms), (1, vms + 1));

    let url = guest::write(bed.folder.path(), "open", "0_2_100", traps)?;
    bed.serve(vec![plugin("open", &url, json!({"failStrategy": "FAIL_OPEN"}))]).await?;
    assert_eq!(get(bed.url()).header("x-trap", "now").send().await?.status, 200);
    assert_eq!(bed.gateway.traps(), 2);
    Ok(())
}

#[tokio::test]
async fn a_trap_fails_the_streams_that_wait_in_the_same_vm() -> Result<()> {
    // The first stream waits; the tick after it traps.
    let traps_later = r#"
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
            (drop (call $tick_every (i32.const 5))) (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 4))
        (func (export "proxy_on_tick") (param i32) (if (global.get $seen) (then unreachable)))"#;
    let bed = Bed::new().await?;
    bed.serve_guest("0_2_100", traps_later).await?;
    assert_eq!(get(bed.url()).send().await?.status, 503);
    assert_eq!(bed.exchanges(1).await?[0].details, "wasm_fail_stream");
    Ok(())
}

#[tokio::test]
async fn a_callback_that_never_ends_and_an_unknown_import_trap_with_their_reason() -> Result<()> {
    let options = GatewayOptions { callback_deadline: Duration::from_millis(100), ..GatewayOptions::default() };
    let bed = Bed::with(options).await?;
    let spins = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (loop $again (br $again)) (i32.const 0))"#;
    bed.serve_guest("0_2_100", spins).await?;
    assert_eq!(get(bed.url()).send().await?.status, 503);
    let calls = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $unheard_of))"#;
    let url = guest::write(bed.folder.path(), "calls", "0_2_100", calls)?;
    bed.serve(vec![plugin("calls", &url, json!({}))]).await?;
    assert_eq!(get(bed.url()).send().await?.status, 503);
    let said = bed.said().join("\n");
    assert!(said.contains("interrupt") && said.contains("proxy_unheard_of"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_module_that_cannot_be_loaded_or_started_fails_as_the_plugin_says() -> Result<()> {
    let bed = Bed::new().await?;
    bed.serve(vec![plugin("absent", "file:///nowhere/x.wasm", json!({}))]).await?;
    assert_eq!(get(bed.url()).send().await?.status, 503);
    assert!(!bed.gateway.loaded().runs("absent"));

    let refuses = say("proxy_on_configure", 2, "cfg", Some(0));
    let url = guest::write(bed.folder.path(), "refuses", "0_2_100", &refuses)?;
    bed.serve(vec![plugin("refuses", &url, json!({"failStrategy": "FAIL_OPEN"}))]).await?;
    assert_eq!(get(bed.url()).send().await?.status, 200);
    let failure = bed.gateway.loaded().plugin("refuses").and_then(|p| p.failure.clone()).unwrap_or_default();
    assert!(failure.contains("refused its configuration"), "{failure}");

    let wrong = json!({"sha256": "00", "failStrategy": "FAIL_CLOSE"});
    bed.serve(vec![plugin("other", &url, wrong)]).await?;
    assert_eq!(get(bed.url()).send().await?.status, 503, "the digest is another one");
    Ok(())
}

#[tokio::test]
async fn an_image_is_found_by_its_name_in_the_module_folder_and_counts_what_its_module_counts() -> Result<()> {
    let counts = r#"(import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))"#;
    let callback = r#"(data (i32.const 600) "requests")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $define (i32.const 0) (i32.const 600) (i32.const 8) (i32.const 4)))
            (drop (call $increment (i32.load (i32.const 4)) (i64.const 2)))
            (i32.const 0))"#;
    let folder = tempfile::tempdir()?;
    guest::write_with(folder.path(), "counter", "0_2_100", counts, callback)?;
    let module_dir = Some(folder.path().to_owned());
    let bed = Bed::with(GatewayOptions { module_dir, ..GatewayOptions::default() }).await?;
    bed.serve(vec![plugin("counter", "oci://registry.example:5000/team/counter:0.1.0", json!({}))]).await?;
    for _ in 0..2 {
        assert_eq!(get(bed.url()).send().await?.status, 200);
    }
    assert_eq!(bed.gateway.metrics().get("requests"), Some(&4), "summed over the workers");
    Ok(())
}

#[tokio::test]
async fn the_chain_runs_by_phase_then_priority_and_unchanged_plugins_keep_their_vms() -> Result<()> {
    let tags = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $property (i32.const 224) (i32.const 11) (i32.const 8) (i32.const 12)))
        (drop (call $add_header (i32.const 0) (i32.const 200) (i32.const 5)
            (i32.load (i32.const 8)) (i32.load (i32.const 12))))
        (i32.const 0))"#;
    let bed = Bed::new().await?;
    let url = guest::write(bed.folder.path(), "tags", "0_2_100", tags)?;
    let at = |name: &str, phase: &str, priority: i64, config: Value| {
        plugin(name, &url, json!({"phase": phase, "priority": priority, "defaultConfig": config}))
    };
    let plugins = |config: Value| {
        vec![
            at("limit", "UNSPECIFIED_PHASE", 600, json!({})),
            at("quota", "UNSPECIFIED_PHASE", 750, config),
            at("stats", "STATS", 1, json!({})),
            at("guard", "AUTHN", 1000, json!({})),
            at("auth", "AUTHN", 310, json!({})),
        ]
    };
    bed.serve(plugins(json!({"a": 1}))).await?;
    assert_eq!(get(bed.url()).send().await?.status, 200);
    let received = bed.model.take_received();
    let order: Vec<&str> = received[0].headers.get_all("x-tag").iter().filter_map(|tag| tag.to_str().ok()).collect();
    assert_eq!(order, ["guard", "auth", "stats", "quota", "limit"]);

    bed.serve(plugins(json!({"a": 2}))).await?;
    let loaded = bed.gateway.loaded();
    let vms = |name: &str| loaded.plugin(name).map(|plugin| plugin.vms);
    assert_eq!((vms("quota"), vms("limit"), vms("guard")), (Some(4), Some(2), Some(2)), "two workers, one change");
    Ok(())
}

#[tokio::test]
async fn a_held_body_is_limited_to_32_kib_unless_the_filter_raises_it_or_lets_the_client_wait() -> Result<()> {
    let buffers = |raises: &str| {
        format!(
            r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {raises} (i32.const 1))
            (func (export "proxy_on_request_body") (param $id i32) (param $size i32) (param $end i32) (result i32)
                (i32.eqz (local.get $end)))"#
        )
    };
    let raise = r#"(drop (call $set_property (i32.const 240) (i32.const 24) (i32.const 272) (i32.const 6)))"#;
    let bed = Bed::new().await?;
    let body = |size: usize| Bytes::from(vec![b'x'; size]);
    bed.serve_guest("0_2_100", &buffers("")).await?;
    assert_eq!(post(bed.url()).body(body(32 << 10)).send().await?.status, 200);
    assert_eq!(bed.model.take_received()[0].body.len(), 32 << 10, "a held body arrives whole");
    let refused = post(bed.url()).body(body(200_000)).send().await?;
    assert_eq!((refused.status, refused.text().as_str()), (413, "Payload Too Large"));
    assert_eq!(bed.exchanges(2).await?[1].details, "request_payload_too_large");

    let url = guest::write(bed.folder.path(), "raises", "0_2_100", &buffers(raise))?;
    bed.serve(vec![plugin("raises", &url, json!({}))]).await?;
    assert_eq!(post(bed.url()).body(body(100_000)).send().await?.status, 200);

    let waits = r#"
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
            (drop (call $tick_every (i32.const 5))) (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 4))
        (func (export "proxy_on_tick") (param i32)
            (if (global.get $seen) (then
                (drop (call $act_for (global.get $seen)))
                (drop (call $continue (i32.const 0)))
                (global.set $seen (i32.const 0)))))"#;
    let url = guest::write(bed.folder.path(), "waits", "0_2_100", waits)?;
    bed.serve(vec![plugin("waits", &url, json!({}))]).await?;
    bed.model.take_received();
    assert_eq!(post(bed.url()).body(body(3_000_000)).send().await?.status, 200);
    assert_eq!(bed.model.take_received()[0].body.len(), 3_000_000);
    Ok(())
}

/// Says every response chunk.
const WATCHES: &str = r#"(func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
    (call $say_buffer (i32.const 1)) (i32.const 0))"#;

#[tokio::test]
async fn response_chunks_pass_one_by_one_with_their_borders() -> Result<()> {
    let bed = Bed::new().await?;
    bed.serve_guest("0_2_100", WATCHES).await?;
    let chunks = ["data: a", "b\n", "\ndata: [DONE]\n\n"];
    bed.model.script("cut", Answer::ok("text/event-stream", chunks));
    let reply = post(bed.url()).header("x-answer", "cut").body("{}").send().await?;
    assert_eq!((reply.status, reply.text()), (200, chunks.concat()));
    let mut said = bed.said();
    said.retain(|line| !line.is_empty());
    assert_eq!(said, chunks);
    assert_eq!(bed.exchanges(1).await?[0].details, "via_upstream");
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_stream_for_filter_and_upstream() -> Result<()> {
    let bed = Bed::new().await?;
    bed.serve_guest("0_2_100", &format!("{WATCHES}{}", endings())).await?;
    bed.model.script("stalls", Answer::ok("text/event-stream", ["data: 1\n\n"]).then(After::Stall));
    let mut reply = post(bed.url()).header("x-answer", "stalls").body("{}").open().await?;
    reply.read_until("data: 1").await?;
    assert_eq!(bed.model.in_flight(), 1);
    drop(reply);
    let ended = bed.exchanges(1).await?;
    assert_eq!((ended[0].flags, ended[0].sent), ("DC", 9));
    assert_eq!(bed.said(), ["data: 1\n\n", "log", "don", "del"]);
    eventually("the model server was left", async || {
        ensure!(bed.model.in_flight() == 0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_or_hangs_up_is_told_apart_from_none() -> Result<()> {
    let bed = Bed::new().await?;
    bed.serve(Vec::new()).await?;
    bed.model.script("cut off", Answer::ok("text/event-stream", ["data: 1\n\n"]).then(After::HangUp));
    let broken = post(bed.url()).header("x-answer", "cut off").body("{}").send().await;
    assert!(broken.is_err(), "{broken:?}");
    assert_eq!(bed.exchanges(1).await?[0].flags, "UC");

    let nobody = testbed::free_port()?;
    bed.gateway.set_objects(vec![bridge(&[("llm", &format!("127.0.0.1:{nobody}"))]), route("all", json!({}))]).await?;
    assert_eq!(get(bed.url()).send().await?.status, 503);
    assert_eq!(bed.exchanges(2).await?[1].flags, "UF");
    bed.gateway.set_objects(Vec::new()).await?;
    assert_eq!(get(bed.url()).send().await?.status, 404);
    assert_eq!(bed.exchanges(3).await?[2].flags, "NR");
    Ok(())
}

#[tokio::test]
async fn key_auth_adds_the_consumer_behind_what_the_client_wrote_and_lets_other_routes_pass() -> Result<()> {
    let bed = Bed::new().await?;
    bed.serve(vec![key_auth(json!({"defaultConfig": consumers()}))]).await?;
    let forged = || get(bed.url()).header("x-mse-consumer", "bob");
    let passed = async |call: testbed::Call| {
        assert_eq!(call.send().await?.status, 200);
        let received = bed.model.take_received();
        let values = received[0].headers.get_all("x-mse-consumer").iter();
        Ok::<_, anyhow::Error>(values.map(|value| value.to_str().unwrap_or_default().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(passed(forged().header("x-api-key", "a")).await?, ["bob", "alice"]);
    let refused = forged().send().await?;
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (401, "Request denied by Key Auth check. No Key Authentication information found.")
    );

    let elsewhere =
        json!({"defaultConfig": consumers(), "matchRules": [{"ingress": ["other"], "config": {"allow": ["bob"]}}]});
    bed.serve(vec![key_auth(elsewhere)]).await?;
    assert_eq!(passed(forged().header("x-api-key", "a")).await?, ["bob"], "a forged header stands without a guard");
    Ok(())
}

#[tokio::test]
async fn a_refusal_on_an_ai_route_is_redirected_to_its_twin_where_the_chain_runs_anew() -> Result<()> {
    let bed = Bed::new().await?;
    let says = [say("proxy_on_request_headers", 3, "req", Some(0)), endings()].concat();
    let url = guest::write(bed.folder.path(), "says", "0_2_100", &says)?;
    let auth = json!({"defaultConfig": consumers(), "priority": 1, "phase": "UNSPECIFIED_PHASE", "matchRules": [
        {"ingress": ["ai-route-x.internal"], "config": {"allow": ["bob"]}},
        {"ingress": ["ai-route-x.fallback.internal"], "config": {"allow": ["alice"]}}]});
    let objects = |twin: Value| {
        vec![
            bridge(&[("llm", &bed.model.addr().to_string())]),
            route("ai-route-x.internal", json!({})),
            route("ai-route-x.fallback.internal", twin),
            key_auth(auth.clone()),
            plugin("says", &url, json!({"priority": 2})),
        ]
    };
    bed.gateway.set_objects(objects(json!({}))).await?;
    let call = || post(bed.url()).header("x-api-key", "a").body("{\"n\": 1}");
    assert_eq!(call().send().await?.status, 403, "no fallback is asked for");

    bed.gateway.set_objects(objects(json!({"testbed.aiquota/fallback-on": "4xx"}))).await?;
    let reply = call().send().await?;
    assert_eq!((reply.status, reply.header("x-higress-fallback-from")), (200, Some("ai-route-x.internal")));
    let received = bed.model.take_received();
    assert_eq!(received[0].body, "{\"n\": 1}", "the body is sent again");
    assert_eq!(received[0].headers["x-higress-fallback-from"], "ai-route-x.internal");
    let ended = bed.exchanges(3).await?;
    let routes: Vec<_> = ended.iter().map(|e| (e.route.as_deref(), e.status, e.redirected)).collect();
    assert_eq!(
        routes[1..],
        [(Some("ai-route-x.internal"), 403, true), (Some("ai-route-x.fallback.internal"), 200, false)]
    );
    let once = ["req", "log", "don", "del"];
    assert_eq!(bed.said(), [once, once, once].concat(), "the old stream ends before the new one begins");
    Ok(())
}

#[tokio::test]
async fn a_failed_answer_goes_on_to_the_default_backend_by_the_route_derived_for_it() -> Result<()> {
    let (bed, second) = (Bed::new().await?, ModelServer::start().await?);
    let service = json!({"kind": "Service", "metadata": {"namespace": "higress-system", "name": "spare"}, "spec": {
        "type": "ExternalName", "externalName": "127.0.0.1", "ports": [{"port": 80, "targetPort": second.addr().port()}]}});
    let annotations = json!({"higress.io/default-backend": "spare", "higress.io/custom-http-errors": "429,503"});
    let objects = vec![bridge(&[("llm", &bed.model.addr().to_string())]), route("n", annotations), service];
    bed.gateway.set_objects(objects).await?;
    assert_eq!(bed.gateway.loaded().routes, ["n-fallback", "n"]);
    bed.model.script("busy", Answer { status: 429, ..Answer::ok("text/plain", ["busy"]) });
    // The spare server knows no such answer by name and makes one of its own.
    second.script("busy", Answer::ok("text/plain", ["spare"]));
    let reply = post(bed.url()).header("x-answer", "busy").body("{}").send().await?;
    assert_eq!((reply.status, reply.text().as_str()), (200, "spare"));
    let routes: Vec<_> = bed.exchanges(2).await?.into_iter().map(|e| (e.route, e.redirected)).collect();
    assert_eq!(routes, [(Some("n".to_owned()), true), (Some("n-fallback".to_owned()), false)]);
    Ok(())
}

#[tokio::test]
async fn objects_of_a_cluster_are_watched_and_a_missing_secret_leaves_templates_as_they_are() -> Result<()> {
    let api = ApiServer::start().await?;
    api.install_crds().await?;
    let model = ModelServer::start().await?;
    let folder = tempfile::tempdir()?;
    let url = guest::write(folder.path(), "guest", "0_2_100", &say("proxy_on_request_headers", 3, "req", Some(0)))?;
    let spec = json!({"defaultConfig": {"password": "${secret.higress-system/redis.password}", "other": "x"},
        "matchRules": [{"ingress": ["team/r"], "config": {"n": 1}}], "phase": "UNSPECIFIED_PHASE", "priority": 5});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "higress-system", "name": "redis"},
        "stringData": {"password": "p@ss"}});
    let mut plugin = plugin("quota", &url, spec);
    plugin["apiVersion"] = json!("extensions.higress.io/v1alpha1");
    for object in [bridge(&[("llm", &model.addr().to_string())]), route("all", json!({})), secret.clone(), plugin] {
        api.apply(&object).await?;
    }
    let source = Source::Cluster(api.client(), "higress-system".to_owned());
    let gateway = Gateway::start(GatewayOptions { source, ..GatewayOptions::default() }).await?;
    let password = |loaded: &testbed::gateway::Loaded| {
        loaded.plugin("quota").and_then(|plugin| plugin.config["password"].as_str().map(str::to_owned))
    };
    gateway.settled(|loaded| loaded.runs("quota") && password(loaded).as_deref() == Some("p@ss")).await?;
    let rules = gateway.loaded().plugin("quota").map(|plugin| plugin.config["_rules_"].clone());
    assert_eq!(rules, Some(json!([{"n": 1, "_match_route_": ["team/r"]}])));
    assert_eq!(get(format!("{}/v1", gateway.url())).send().await?.status, 404, "the model server knows no such path");

    let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> = kube::Api::namespaced(api.client(), "higress-system");
    secrets.delete("redis", &kube::api::DeleteParams::default()).await?;
    gateway.settled(|loaded| password(loaded).is_some_and(|p| p.starts_with("${"))).await?;
    assert_eq!(gateway.loaded().problems.len(), 1, "{:?}", gateway.loaded().problems);
    Ok(())
}

#[tokio::test]
async fn a_module_built_by_go_runs() -> Result<()> {
    let bed = Bed::new().await?;
    let wasm = bed.folder.path().join("go.wasm");
    let built = tokio::process::Command::new("go")
        .args(["build", "-buildmode=c-shared", "-ldflags=-s -w", "-o"])
        .arg(&wasm)
        .arg(".")
        .current_dir(testbed::workspace().join("tests/tests/e2e/gateway/go"))
        .envs([("GOOS", "wasip1"), ("GOARCH", "wasm"), ("CGO_ENABLED", "0")])
        .output()
        .await
        .context("go")?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    bed.serve(vec![plugin("go", &format!("file://{}", wasm.display()), json!({}))]).await?;
    assert_eq!(get(bed.url()).send().await?.status, 200, "{:#?}", bed.gateway.loaded());
    assert_eq!(bed.said(), ["in the log", "on standard error"]);
    Ok(())
}

#[tokio::test]
async fn a_vm_can_be_driven_without_http() -> Result<()> {
    let callbacks = format!("{}{WATCHES}", asks(true));
    let module = VmModule::new(&guest::module("0_2_100", &callbacks)?)?;
    let mut vm = module.start(b"{}").map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    assert_eq!(vm.take_redis_inits()[0].cluster, "outbound|80||redis.static?db=3");
    let mut request = Headers::default();
    request.add(":path", "/v1/chat/completions");
    let stream = vm.open(request, "route").expect("no trap");
    assert_eq!(vm.request_headers(stream, true).expect("no trap"), HeaderAction::StopAllAndWatermark);
    let call = vm.take_redis_calls().pop().context("a call")?;
    assert_eq!(call.query, b"CLIENT INFO\r\n");
    vm.redis_reply(call.token, Some(b":1\r\n")).expect("no trap");
    let effects = vm.take_effects();
    let (of, testbed::gateway::Effect::Reply(reply)) = &effects[0] else { anyhow::bail!("{effects:?}") };
    assert_eq!((*of, reply.status, reply.body.as_slice()), (stream, 200, b":1\r\n".as_slice()));
    vm.close(stream).expect("no trap");
    Ok(())
}
