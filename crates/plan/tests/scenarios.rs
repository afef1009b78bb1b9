//! The planner, step by step through what happens in a cluster: each file in tests/scenarios is a topic.

#![expect(clippy::unwrap_used, reason = "a scenario that cannot be read fails its test")]

use plan::Flavor;
use serde_json::Value;
use simulator::{Scenario, play};

mod simulator;
mod translate;

/// Plays them with our module, and as far as they ask for nothing that upstream's module cannot do, with that.
fn all(yaml: &str) {
    let scenarios: Vec<Value> = serde_yaml::from_str(yaml).unwrap();
    assert!(!scenarios.is_empty());
    for scenario in scenarios {
        if let Some(upstream) = translate::for_upstream(&scenario) {
            play(&serde_json::from_value(upstream).unwrap(), Flavor::Upstream);
        }
        play(&serde_json::from_value(scenario).unwrap(), Flavor::Native);
    }
}

#[test]
fn stores_are_found_checked_and_told_to_the_gateway() {
    all(include_str!("scenarios/stores.yaml"));
}

#[test]
fn targets_become_rules_with_every_derived_route() {
    all(include_str!("scenarios/targets.yaml"));
}

#[test]
fn objects_on_one_target_merge_or_the_older_wins() {
    all(include_str!("scenarios/merging.yaml"));
}

#[test]
fn what_is_said_about_the_ends_of_requests_is_written_and_must_be_the_same_on_one_target() {
    all(include_str!("scenarios/ends.yaml"));
}

#[test]
fn a_ceiling_takes_what_lies_in_it_from_other_namespaces() {
    all(include_str!("scenarios/ceilings.yaml"));
}

#[test]
fn what_is_in_force_stays_and_what_is_new_waits() {
    all(include_str!("scenarios/keeping.yaml"));
}

#[test]
fn a_target_without_an_auth_plugin_ahead_is_warned_about() {
    all(include_str!("scenarios/authentication.yaml"));
}

#[test]
fn another_plugin_that_charges_as_well_is_waited_for_or_warned_about() {
    all(include_str!("scenarios/foreign.yaml"));
}

#[test]
fn upstreams_module_is_told_all_it_reads_and_no_more() {
    let scenarios: Vec<Scenario> = serde_yaml::from_str(include_str!("scenarios/upstream.yaml")).unwrap();
    for scenario in &scenarios {
        play(scenario, Flavor::Upstream);
    }
}

#[test]
fn consumers_come_and_go_and_are_reported() {
    all(include_str!("scenarios/consumers.yaml"));
}

#[test]
fn balances_outlive_edits_and_go_or_stay_with_their_object() {
    all(include_str!("scenarios/life.yaml"));
}

#[test]
fn limits_are_planned_as_quotas_are_and_beside_them() {
    let scenarios: Vec<Scenario> = serde_yaml::from_str(include_str!("scenarios/limits.yaml")).unwrap();
    for scenario in &scenarios {
        play(scenario, Flavor::Native);
    }
}

#[test]
fn models_are_written_seeded_merged_and_reported() {
    let scenarios: Vec<Scenario> = serde_yaml::from_str(include_str!("scenarios/models.yaml")).unwrap();
    for scenario in &scenarios {
        play(scenario, Flavor::Native);
    }
}

#[test]
fn limits_for_upstreams_first_generation_are_those_that_it_enforces_as_they_are_meant() {
    let scenarios: Vec<Scenario> = serde_yaml::from_str(include_str!("scenarios/limits_v1.yaml")).unwrap();
    for scenario in &scenarios {
        play(scenario, Flavor::Upstream);
    }
}

#[test]
fn upstreams_limits_are_spelled_as_it_reads_them_and_what_they_cannot_say_is_refused() {
    let scenarios: Vec<Scenario> = serde_yaml::from_str(include_str!("scenarios/limits_upstream.yaml")).unwrap();
    for scenario in &scenarios {
        play(scenario, Flavor::Upstream);
    }
}
