//! Words and writes at chosen times in, what is said of the gateways out.

use api::{WasmPlugin, WasmPluginSpec};
use serde_json::json;

use super::*;
use crate::PluginWrite;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What is written for ai-quota.
fn program(url: &str, revision: &str) -> Program {
    let native = json!({"aiquota": {"stores": {"s": {}}, "report": {"of": "c/n", "revision": revision}}});
    let spec = WasmPluginSpec { url: Some(url.into()), default_config: Some(native), ..WasmPluginSpec::default() };
    let wanted = Some(WasmPlugin::new(AI_QUOTA, spec));
    let plugins = vec![PluginWrite { name: AI_QUOTA, found: None, wanted, refused: None }];
    Program { plugins, rules: vec![], stands: vec![], keeps: vec![] }
}

const URL: &str = "oci://registry.example/ai-quota:0.1.0";

fn written(rollouts: &mut Rollouts, revision: &str, at: u64) {
    rollouts.written(&program(URL, revision), &Writes::from([(AI_QUOTA, Write::Done)]), seconds(at));
}

fn said(worker: &str, version: &str, revision: &str, age: u64) -> Said {
    let gateway = format!("router~10.0.0.1~gateway-{worker}.higress-system~x");
    Said { worker: worker.into(), version: version.into(), revision: revision.into(), gateway, age }
}

/// As one word, and what is said of it.
fn judged(rollouts: &mut Rollouts, said: &[Said], at: u64) -> (&'static str, String) {
    let words = vec![("s".to_owned(), Some(([said.to_vec(), vec![]], Duration::ZERO)))];
    told(&rollouts.judge(&words, seconds(at)))
}

fn told(loaded: &Loaded) -> (&'static str, String) {
    match loaded.state(ObjectKind::AiQuota) {
        None => ("absent", String::new()),
        Some(Err(())) => ("as before", String::new()),
        Some(Ok(State::Is)) => ("Loaded", String::new()),
        Some(Ok(State::Not(reason, message) | State::Unknown(reason, message))) => (reason, message),
    }
}

#[test]
fn all_is_loaded_once_each_worker_says_so() {
    let mut rollouts = Rollouts::default();
    assert_eq!(judged(&mut rollouts, &[said("1", "0.1.0", "a", 0)], 0).0, "absent", "nothing was written");
    written(&mut rollouts, "a", 0);
    let both = [said("1", "0.1.0", "a", 3), said("2", "0.1.0", "a", 3)];
    assert_eq!(judged(&mut rollouts, &both, 5).0, "Loaded");
    written(&mut rollouts, "b", 100);
    let one = [said("1", "0.1.0", "b", 0), said("2", "0.1.0", "a", 20)];
    assert_eq!(judged(&mut rollouts, &one, 101).0, "as before", "the other may take it yet");
    assert_eq!(judged(&mut rollouts, &[said("1", "0.1.0", "b", 0)], 160).0, "Loaded");
}

#[test]
fn who_says_the_old_long_after_the_write_is_stale_and_named_however_fresh_others_are() {
    let mut rollouts = Rollouts::default();
    written(&mut rollouts, "a", 0);
    written(&mut rollouts, "b", 100);
    let said_at = |age| [said("1", "0.1.0", "b", 0), said("2", "0.1.0", "a", age)];
    assert_eq!(judged(&mut rollouts, &said_at(5), 135).0, "as before", "it was said 30 s after the write");
    let (reason, message) = judged(&mut rollouts, &said_at(4), 135);
    assert_eq!(reason, "StaleConfiguration");
    assert!(message.contains("gateway-2.higress-system") && !message.contains("gateway-1"), "{message}");
    // Writes that follow do not hide it: what it runs was replaced long ago.
    written(&mut rollouts, "c", 134);
    assert_eq!(judged(&mut rollouts, &said_at(0), 135).0, "StaleConfiguration");
    // What was written before this process began is older than all.
    assert_eq!(judged(&mut rollouts, &[said("2", "0.1.0", "?", 0)], 135).0, "StaleConfiguration");
    // The same as before, once more, is not what was replaced.
    written(&mut rollouts, "a", 140);
    assert_eq!(judged(&mut rollouts, &[said("2", "0.1.0", "a", 0)], 141).0, "Loaded");
}

#[test]
fn another_version_than_the_urls_is_a_stale_module_even_with_the_current_configuration() {
    let mut rollouts = Rollouts::default();
    written(&mut rollouts, "a", 0);
    let old = [said("1", "0.0.9", "a", 0), said("2", "0.1.0", "old", 0)];
    assert_eq!(judged(&mut rollouts, &old, 30).0, "as before", "its image may be on its way");
    let (reason, message) = judged(&mut rollouts, &old, 31);
    assert_eq!(reason, "StaleModule");
    assert!(
        message.contains("declares module version 0.1.0") && message.contains("gateway-1.higress-system runs 0.0.9")
    );
    let done = Writes::from([(AI_QUOTA, Write::Done)]);
    rollouts.written(&program("oci://registry.example/ai-quota:0.0.9", "a"), &done, seconds(40));
    assert_eq!(judged(&mut rollouts, &old[..1], 41).0, "Loaded");
    // A url without a version declares none.
    rollouts.written(&program("file:///opt/ai-quota.wasm", "a"), &done, seconds(50));
    assert_eq!(judged(&mut rollouts, &old[..1], 100).0, "Loaded");
}

#[test]
fn silence_is_told_after_three_minutes_of_it_and_a_store_that_cannot_be_read_is_none() {
    let mut rollouts = Rollouts::default();
    written(&mut rollouts, "a", 0);
    assert_eq!(judged(&mut rollouts, &[], 10).0, "as before");
    assert_eq!(judged(&mut rollouts, &[], 190).0, "as before");
    assert_eq!(told(&rollouts.judge(&[("s".to_owned(), None)], seconds(191))).0, "as before", "it begins anew");
    assert_eq!(judged(&mut rollouts, &[], 200).0, "as before");
    let (reason, message) = judged(&mut rollouts, &[], 381);
    assert_eq!(reason, "NotLoaded");
    assert!(message.contains("image") && message.contains("onlyPushRouteCluster"), "{message}");
    // Who stopped speaking is not there any more.
    assert_eq!(judged(&mut rollouts, &[said("1", "0.1.0", "old", 90)], 382).0, "NotLoaded");
    assert_eq!(judged(&mut rollouts, &[said("1", "0.1.0", "a", 89)], 383).0, "Loaded");
    assert_eq!(judged(&mut rollouts, &[], 384).0, "as before");
    // It is no longer written that anything should be loaded.
    let none = Program {
        plugins: vec![PluginWrite { name: AI_QUOTA, found: None, wanted: None, refused: None }],
        rules: vec![],
        stands: vec![],
        keeps: vec![],
    };
    rollouts.written(&none, &Writes::new(), seconds(385));
    assert_eq!(judged(&mut rollouts, &[], 999).0, "absent");
}

#[test]
fn silence_in_a_store_that_no_gateway_uses_tells_nothing() {
    let mut rollouts = Rollouts::default();
    written(&mut rollouts, "a", 0);
    let elsewhere = [("s".to_owned(), None), ("t".to_owned(), Some(([vec![], vec![]], Duration::ZERO)))];
    for at in [10, 200, 400] {
        assert_eq!(told(&rollouts.judge(&elsewhere, seconds(at))).0, "as before");
    }
}

#[test]
fn what_is_told_stays_in_its_words_while_gateways_come_and_go() {
    let mut rollouts = Rollouts::default();
    written(&mut rollouts, "a", 0);
    let old = |worker: &str| said(worker, "0.0.9", "a", 0);
    let first = judged(&mut rollouts, &[old("1")], 31);
    assert_eq!(judged(&mut rollouts, &[old("1"), old("2")], 41), first);
    assert_eq!(judged(&mut rollouts, &[said("1", "0.1.0", "a", 0)], 51).0, "Loaded");
    assert!(judged(&mut rollouts, &[old("2")], 61).1.contains("gateway-2"));
}

#[test]
fn a_write_that_is_still_to_be_made_replaces_nothing() {
    let mut rollouts = Rollouts::default();
    written(&mut rollouts, "a", 0);
    rollouts.written(&program(URL, "b"), &Writes::from([(AI_QUOTA, Write::Waiting)]), seconds(50));
    assert_eq!(judged(&mut rollouts, &[said("1", "0.1.0", "a", 0)], 60).0, "Loaded");
}

#[test]
fn of_several_stores_the_last_words_count_and_each_store_shows_its_gateways() {
    let mut rollouts = Rollouts::default();
    written(&mut rollouts, "a", 0);
    let old = said("1", "0.1.0", "old", 50);
    let now = [said("1", "0.1.0", "a", 1), said("2", "0.1.0", "a", 1), said("2", "0.1.0", "a", 1)];
    let read = |said: &[Said]| Some(([said.to_vec(), vec![said[0].clone()]], Duration::ZERO));
    let words = [("s".to_owned(), read(&[old])), ("t".to_owned(), None), ("u".to_owned(), read(&now))];
    assert_eq!(Rollouts::default().judge(&words, seconds(90)).gateways(2), None, "nothing was written yet");
    let loaded = rollouts.judge(&words, seconds(90));
    assert_eq!(told(&loaded).0, "Loaded");
    let row = |name: &str, configuration| GatewayStatus {
        name: format!("gateway-{name}.higress-system"),
        plugin: AI_QUOTA.into(),
        version: "0.1.0".into(),
        configuration,
    };
    assert_eq!(loaded.gateways(0), Some(&[row("1", GatewayConfiguration::Stale)][..]));
    assert_eq!(loaded.gateways(1), None);
    let current = |name| row(name, GatewayConfiguration::Current);
    assert_eq!(loaded.gateways(2), Some(&[current("1"), current("2")][..]));
}

#[test]
fn a_revision_says_what_is_configured_and_for_whom_it_is_told() {
    let stamped = |text: &str, domain: &str| {
        let mut config = json!({"aiquota": {"version": 1, "policies": {"p": {"x": text}}}});
        let rule = MatchRule { domain: Some(vec![domain.into()]), ..MatchRule::default() };
        stamp(&mut config, &[rule], "c/n");
        let report = config["aiquota"]["report"].clone();
        assert_eq!(report["of"], "c/n");
        report["revision"].as_str().unwrap().to_owned()
    };
    let one = stamped("a", "d");
    assert_eq!((one.len(), &one), (16, &stamped("a", "d")));
    assert_ne!(one, stamped("b", "d"));
    assert_ne!(one, stamped("a", "e"));
}

#[test]
fn versions_are_read_from_urls_that_name_one() {
    for (url, version) in [
        (URL, Some("0.1.0")),
        ("oci://r.example:5000/a/b:v1.2.3-rc.1", Some("1.2.3-rc.1")),
        ("oci://r.example/b:0.1.0@sha256:aa", Some("0.1.0")),
        ("oci://r.example/b@sha256:aa", None),
        ("oci://r.example:5000/b", None),
        ("oci://r.example/b:1.0", None),
        ("oci://r.example/b:stable", None),
        ("https://1.2.3.4/ai-quota.wasm", None),
        ("https://x.example/v1.2.3/ai-quota.wasm", Some("1.2.3")),
        ("file:///opt/ai-quota-1.0.10.wasm", Some("1.0.10")),
        ("file:///opt/ai-quota.wasm?v=1.2.3", None),
    ] {
        assert_eq!(declared(url), version, "{url}");
    }
    assert_eq!(shown("router~10.0.0.1~pod.ns~domain"), "pod.ns");
    assert_eq!((shown("envoy-1").as_str(), shown("").as_str()), ("envoy-1", "unnamed"));
    let names = || (0..9).map(|at| format!("g{at}"));
    assert_eq!(listed(names().chain(names())), "g0, g1, g2, g3, g4 and 4 more");
}

#[test]
fn gateways_are_counted_once_by_the_worst_of_their_workers_and_none_is_a_number_too() {
    let mut rollouts = Rollouts::default();
    written(&mut rollouts, "a", 0);
    let of = |gateway: &str, worker, version, revision| Said {
        gateway: gateway.into(),
        ..said(worker, version, revision, 0)
    };
    let all = vec![
        of("x", "1", "0.1.0", "a"),
        of("x", "2", "0.1.0", "old"),
        of("y", "3", "0.0.9", "a"),
        of("z", "4", "0.1.0", "a"),
        of("z", "5", "0.1.0", "a"),
    ];
    let read = |said: Vec<Said>| Some(([said, vec![]], Duration::ZERO));
    let words = [
        ("s".to_owned(), read(all)),
        ("s".to_owned(), read(vec![])),
        ("s".to_owned(), None),
        ("t".to_owned(), read(vec![])),
    ];
    let loaded = rollouts.judge(&words, seconds(90));
    let counts = |numbers: [i64; 3]| Counts::from_iter(HOW.map(|how| (AI_QUOTA, how)).into_iter().zip(numbers));
    let expected = [counts([1, 1, 1]), counts([0, 0, 0]), Counts::new(), Counts::new()];
    assert_eq!(loaded.counts(), expected, "a store that is away, or that no rule uses, has no numbers");
}
