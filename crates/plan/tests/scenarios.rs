//! The planner, step by step through what happens in a cluster: each file in tests/scenarios is a topic.

#![expect(clippy::unwrap_used, reason = "a scenario that cannot be read fails its test")]

use simulator::{Scenario, play};

mod simulator;

fn all(yaml: &str) {
    let scenarios: Vec<Scenario> = serde_yaml::from_str(yaml).unwrap();
    assert!(!scenarios.is_empty());
    for scenario in &scenarios {
        play(scenario);
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
fn consumers_come_and_go_and_are_reported() {
    all(include_str!("scenarios/consumers.yaml"));
}
