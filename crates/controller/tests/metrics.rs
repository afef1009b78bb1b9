//! The chart's alerts and dashboard ask for metrics that docs/metrics.md lists, by labels that they have: a name that is
//! misspelt would never say anything. What is served is compared with that page beside the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect()
}

/// By the name of a series, the labels that it may have.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let page = read("docs/metrics.md");
    let (modules, controller) = page.split_once("\n## Metrics of the controller").expect("both are listed");
    let set = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<_>>();
    let mut series = BTreeMap::new();
    for row in modules.lines().filter_map(|line| line.strip_prefix("| `")) {
        let metric = row.split('`').next().unwrap_or_default();
        for kind in ["quota", "limit"] {
            let labels = set(&["aiquota_policy", "aiquota_model"]);
            series.insert(format!("aiquota_{kind}_metric_{metric}"), labels);
        }
    }
    for row in controller.lines().filter_map(|line| line.strip_prefix("| `aiquota_")) {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = format!("aiquota_{}", columns[0].trim_end_matches('`'));
        let mut labels = set(&words(columns[2]));
        labels.insert("instance".to_owned());
        if columns[1] == "histogram" {
            labels.insert("le".to_owned());
            for part in ["bucket", "sum", "count"] {
                series.insert(format!("{name}_{part}"), labels.clone());
            }
        } else {
            series.insert(name, labels);
        }
    }
    series
}

/// Every `expr` in a document.
fn expressions(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if name == "expr" => into.push(text.clone()),
                    field => expressions(field, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, into)),
        _ => {}
    }
}

/// Without what stands between quotes.
fn unquoted(expression: &str) -> String {
    expression.split('"').step_by(2).collect::<Vec<_>>().join(" ")
}

/// What is wrong with an expression.
fn mistakes(expression: &str, series: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let plain = unquoted(expression);
    // Labels stand in braces and behind `by`.
    let (mut labels, mut names) = (BTreeSet::new(), String::new());
    let mut rest = plain.as_str();
    while let Some(at) = rest.find(['{', '(']) {
        let (before, inside) = rest.split_at(at);
        names.push_str(before);
        let is_list = inside.starts_with('{') || before.trim_end().ends_with(" by");
        let end = inside.find(['}', ')']).unwrap_or(inside.len());
        if is_list {
            labels.extend(words(&inside[..end]).into_iter().map(str::to_owned));
            rest = &inside[end..];
        } else {
            names.push(' ');
            rest = &inside[1..];
        }
    }
    names.push_str(rest);
    let used: BTreeSet<&str> = words(&names).into_iter().filter(|word| word.contains("aiquota_")).collect();
    let mut wrong: Vec<String> =
        used.iter().filter(|name| !series.contains_key(**name)).map(|name| (*name).to_owned()).collect();
    let known: BTreeSet<&String> = used.iter().filter_map(|name| series.get(*name)).flatten().collect();
    wrong.extend(labels.into_iter().filter(|label| !known.contains(label)));
    if used.is_empty() {
        wrong.push("no metric of ours".to_owned());
    }
    if plain.matches('(').count() != plain.matches(')').count() {
        wrong.push("brackets".to_owned());
    }
    wrong
}

#[test]
fn alerts_and_dashboard_ask_only_for_what_there_is() {
    let series = series();
    assert!(series.contains_key("aiquota_quota_metric_refused") && series.contains_key("aiquota_leader"), "{series:?}");
    let rules: Value = serde_yaml::from_str(&read("charts/aiquota/rules.yaml")).expect("YAML");
    let dashboard: Value = serde_json::from_str(&read("charts/aiquota/dashboard.json")).expect("JSON");
    for (document, least) in [(rules, 10), (dashboard, 15)] {
        let mut found = Vec::new();
        expressions(&document, &mut found);
        assert!(found.len() >= least, "{} expressions", found.len());
        for expression in found {
            assert_eq!(mistakes(&expression, &series), Vec::<String>::new(), "{expression}");
        }
    }
}

#[test]
fn each_alert_says_what_is_wrong_and_what_to_do() {
    let rules: Value = serde_yaml::from_str(&read("charts/aiquota/rules.yaml")).expect("YAML");
    let alerts = rules["groups"][0]["rules"].as_array().expect("alerts");
    for alert in alerts {
        let text = |pointer: &str| alert.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        assert!(text("/annotations/summary").ends_with('.'), "{alert}");
        assert!(text("/annotations/description").len() > 40, "{alert}");
        assert!(["info", "warning", "critical"].contains(&text("/labels/severity")), "{alert}");
    }
}

#[test]
fn a_misspelt_metric_or_label_is_found() {
    let series = series();
    for (expression, wrong) in [
        ("sum(aiquota_leaders) == 0", "aiquota_leaders"),
        ("sum by (sore) (aiquota_store_up)", "sore"),
        (r#"aiquota_objects{statuses="True"}"#, "statuses"),
        ("rate(aiquota_round_step_duration_seconds[5m])", "aiquota_round_step_duration_seconds"),
        ("rate(aiquota_quota_metric_refusals[5m])", "aiquota_quota_metric_refusals"),
        ("sum(aiquota_leader", "brackets"),
        ("up == 0", "no metric of ours"),
    ] {
        assert_eq!(mistakes(expression, &series), [wrong], "{expression}");
    }
}

#[test]
fn the_tags_of_the_page_make_policy_and_model_labels_of_the_counters_names() {
    let page = read("docs/metrics.md");
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the tags");
    let tags: Value = serde_yaml::from_str(block).expect("YAML");
    let tags = tags["stats_tags"].as_array().expect("tags");
    // As Envoy does: each looks at the whole name, its second group is the value, its first is cut out.
    let tagged = |name: &str| {
        let (mut values, mut cuts) = (BTreeMap::new(), Vec::new());
        for tag in tags {
            let regex = regex_lite::Regex::new(tag["regex"].as_str().expect("a pattern")).expect("a pattern");
            if let Some(found) = regex.captures(name) {
                values.insert(tag["tag_name"].as_str().expect("a name").to_owned(), found[2].to_owned());
                cuts.push(found.get(1).expect("a part").range());
            }
        }
        cuts.sort_by_key(|cut| std::cmp::Reverse(cut.start));
        let mut rest = name.to_owned();
        cuts.into_iter().for_each(|cut| rest.replace_range(cut, ""));
        (rest.trim_start_matches("wasmcustom.").replace('.', "_"), values)
    };
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    for (name, counter, expected) in [
        ("quota.policy.team/chat.metric.tokens", "aiquota_quota_metric_tokens", &[("aiquota_policy", "team/chat")][..]),
        (
            "limit.policy.team/a.b.metric.store_failures",
            "aiquota_limit_metric_store_failures",
            &[("aiquota_policy", "team/a.b")],
        ),
        (
            "quota.policy.team/a.b.model.qwen2.5-max.metric.refused",
            "aiquota_quota_metric_refused",
            &[("aiquota_policy", "team/a.b"), ("aiquota_model", "qwen2.5-max")],
        ),
    ] {
        assert_eq!(tagged(&format!("wasmcustom.aiquota.{name}")), (counter.to_owned(), labels(expected)));
    }
}
