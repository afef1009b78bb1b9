use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use plan::{Counts, Figures, Seeded};

use super::*;
use crate::seeder::plan_of_two;

fn metrics(part: Part) -> Metrics {
    Metrics::new(Leadership::playing(part), 2)
}

fn of<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let is_its = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(is_its).collect()
}

#[test]
fn a_standby_says_that_it_does_not_lead_and_nothing_of_objects() {
    let leader = metrics(Part::Leading(7)).encode().unwrap();
    assert_eq!(of(&leader, "aiquota_leader"), ["aiquota_leader 1"]);
    assert_eq!(of(&leader, "aiquota_lease_term"), ["aiquota_lease_term 7"]);
    let standby = metrics(Part::StandingBy).encode().unwrap();
    assert_eq!(of(&standby, "aiquota_leader"), ["aiquota_leader 0"]);
    assert_eq!(of(&standby, "aiquota_lease_term"), <[&str; 0]>::default());
    assert!(standby.ends_with("# EOF\n"), "{standby}");
}

#[test]
fn steps_are_in_seconds_and_writes_by_what_became_of_them() {
    let metrics = metrics(Part::Leading(2));
    metrics.round([("plan", Duration::from_millis(40)), ("seeding", Duration::from_secs(2))].into_iter());
    metrics.wrote(Written::Status, Became::Failed);
    let text = metrics.encode().unwrap();
    assert_eq!(of(&text, "aiquota_rounds_total"), ["aiquota_rounds_total 1"]);
    let sum = of(&text, "aiquota_round_step_duration_seconds_sum");
    assert!(sum.contains(&r#"aiquota_round_step_duration_seconds_sum{step="plan"} 0.04"#), "{sum:?}");
    let bucket = r#"aiquota_round_step_duration_seconds_bucket{le="0.05",step="plan"} 1"#;
    assert!(of(&text, "aiquota_round_step_duration_seconds_bucket").contains(&bucket), "{text}");
    let failed = r#"aiquota_writes_total{object="status",result="failed"} 1"#;
    let writes = of(&text, "aiquota_writes_total");
    assert!(writes.contains(&failed), "{writes:?}");
    assert_eq!(writes.iter().filter(|line| line.ends_with(" 0")).count(), writes.len() - 1, "the others are none");
}

#[test]
fn a_watch_is_there_before_its_first_list_and_not_synced() {
    let metrics = metrics(Part::StandingBy);
    let watch = metrics.watch("AIQuota");
    assert_eq!(of(&metrics.encode().unwrap(), "aiquota_watch_synced"), [r#"aiquota_watch_synced{kind="AIQuota"} 0"#]);
    watch.complete();
    watch.failed();
    let text = metrics.encode().unwrap();
    assert_eq!(of(&text, "aiquota_watch_synced"), [r#"aiquota_watch_synced{kind="AIQuota"} 1"#]);
    assert_eq!(of(&text, "aiquota_watch_failures_total"), [r#"aiquota_watch_failures_total{kind="AIQuota"} 1"#]);
}

/// Two objects with two consumers each: chat-1 of 100 tokens, the others of 5.
fn find(metrics: &Metrics, left: [Option<i64>; 4]) {
    let plan = plan_of_two(100);
    let figures = left.map(|left| left.map(|balance| Figures { balance: Some(balance), used: 3 }));
    let seeds = [Seeded::Applied, Seeded::Applied, Seeded::Pending, Seeded::Malformed { found: "text".to_owned() }];
    let mut tally = Tally::default();
    let ready = serde_json::json!({"type": "Ready", "status": "False", "reason": "Seeding", "message": "",
        "lastTransitionTime": "2026-11-22T00:00:00Z"});
    tally.add(&"AIQuota", &[serde_json::from_value(ready).unwrap()]);
    let stores = [Some(Err("no answer in time".to_owned()))];
    let (seeds, figures, stores) = (&seeds[..], &figures[..], &stores[..]);
    let gateway = "higress-system";
    let gateways = &[Counts::from([((plan::AI_QUOTA, "current"), 0), ((plan::AI_QUOTA, "stale_module"), 2)])];
    let now = Timestamp::UNIX_EPOCH;
    metrics.found(Found { plan: &plan, seeds, figures, stores, gateways, tally, gateway, now });
}

#[test]
fn what_a_round_found_replaces_what_the_last_one_did() {
    let metrics = metrics(Part::Leading(2));
    find(&metrics, [Some(99), Some(5), Some(5), None]);
    find(&metrics, [Some(9), Some(0), Some(5), None]);
    let text = metrics.encode().unwrap();
    assert_eq!(of(&text, "aiquota_store_up"), [r#"aiquota_store_up{store="default"} 0"#]);
    let gateways = |state: &str, count: i64| {
        format!(r#"aiquota_gateways{{store="default",plugin="aiquota-ai-quota",state="{state}"}} {count}"#)
    };
    assert_eq!(of(&text, "aiquota_gateways"), [gateways("current", 0), gateways("stale_module", 2)]);
    let objects = r#"aiquota_objects{kind="AIQuota",condition="Ready",status="False",reason="Seeding"} 1"#;
    assert_eq!(of(&text, "aiquota_objects"), [objects]);
    let states = |name: &str| -> Vec<String> {
        of(&text, name)
            .iter()
            .map(|line| line.split('"').nth(1).unwrap_or_default().to_owned() + &line[line.len() - 2..])
            .collect()
    };
    assert_eq!(states("aiquota_balances"), ["applied 2", "malformed 1", "pending 1"]);
    assert_eq!(states("aiquota_consumers"), ["exhausted 1", "nearly_exhausted 1", "within 1"]);
}

#[test]
fn only_as_many_consumers_as_asked_for_are_named_the_fullest_first_and_the_others_counted() {
    let metrics = metrics(Part::Leading(2));
    find(&metrics, [Some(9), Some(0), Some(5), Some(5)]);
    let text = metrics.encode().unwrap();
    let left = |consumer: &str, left: i64| {
        let labels = format!(r#"policy="higress-system/chat",consumer="{consumer}",model="""#);
        format!("aiquota_consumer_balance_tokens{{{labels}}} {left}")
    };
    assert_eq!(of(&text, "aiquota_consumer_balance_tokens"), [left("chat-2", 0), left("chat-1", 9)]);
    assert_eq!(of(&text, "aiquota_consumers_left_out"), ["aiquota_consumers_left_out 2"]);
    let unasked = Metrics::new(Leadership::playing(Part::Leading(2)), 0);
    find(&unasked, [Some(9), Some(0), Some(5), Some(5)]);
    let text = unasked.encode().unwrap();
    assert!(!text.contains("chat") && !of(&text, "aiquota_consumers").is_empty(), "{text}");
    let standby = Metrics::new(Leadership::playing(Part::StandingBy), 2);
    find(&standby, [Some(9), Some(0), Some(5), Some(5)]);
    assert_eq!(of(&standby.encode().unwrap(), "aiquota_consumers"), <[&str; 0]>::default(), "it may be old");
}

/// Each metric's type and labels.
type Kinds = BTreeMap<String, (String, BTreeSet<String>)>;

fn served(text: &str) -> Kinds {
    let mut kinds = Kinds::new();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    for (name, kind) in types {
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            "histogram" => "_bucket",
            _ => "",
        };
        let sampled = format!("{name}{suffix}");
        let labels = of(text, &sampled).into_iter().flat_map(|line| {
            let labels = line.split_once('{').map_or("", |(_, rest)| rest);
            // Values of ours have no quote.
            labels.split('"').step_by(2).filter_map(|name| name.trim_start_matches(',').strip_suffix('='))
        });
        let labels = labels.filter(|label| *label != "le").map(str::to_owned).collect();
        let name = if kind == "histogram" { name.to_owned() } else { sampled };
        kinds.insert(name, (kind.to_owned(), labels));
    }
    kinds
}

fn documented() -> Kinds {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let doc = std::fs::read_to_string(path).unwrap();
    let rows = doc.lines().filter_map(|line| line.strip_prefix("| `aiquota_"));
    let kinds = rows.map(|row| {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = columns[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (format!("aiquota_{}", columns[0].trim_end_matches('`')), (columns[1].to_owned(), labels))
    });
    kinds.collect()
}

#[test]
fn what_is_served_is_what_the_page_lists_with_types_and_labels() {
    let metrics = metrics(Part::Leading(2));
    find(&metrics, [Some(9), Some(0), Some(5), Some(5)]);
    metrics.round([("plan", Duration::from_millis(40))].into_iter());
    metrics.watch("AIQuota").complete();
    let store = metrics.store("default");
    store.answered(Duration::from_millis(1));
    store.seeded("applied");
    let (served, documented) = (served(&metrics.encode().unwrap()), documented());
    assert!(served.len() > 20, "{served:#?}");
    assert_eq!(served, documented);
}
