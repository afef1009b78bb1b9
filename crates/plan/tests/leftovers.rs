//! What becomes of balances that an object leaves behind it, where another object with the same prefix has a default.

use std::sync::Arc;

use api::{AiQuota, AiQuotaStatus, Condition, DeletionPolicy, FINALIZER};
use enforcement::redis::{self, Balance};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use plan::{AI_QUOTA, Fate, Leftovers, ObjectKind, Plan, Seeded, Undecodable, World};

#[expect(dead_code, reason = "worlds of other tests")]
#[path = "large/mod.rs"]
mod world;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn quota(world: &mut World, index: usize) -> &mut AiQuota {
    Arc::make_mut(&mut world.quotas[index])
}

/// Two objects on one route with one prefix, of which the first is deleted with its balances now.
fn left(heirs_default: Option<i64>) -> World {
    let mut world = world::world(2, 1, 2);
    world.now = NOW + SignedDuration::from_hours(1);
    for index in 0..2 {
        let quota = quota(&mut world, index);
        (quota.metadata.namespace, quota.spec.key_prefix) = (Some("higress-system".into()), Some("q:".into()));
        quota.spec.default_quota = if index == 0 { Some(5) } else { heirs_default };
    }
    let ingresses = world.ingresses.iter_mut();
    ingresses.for_each(|ingress| Arc::make_mut(ingress).metadata.namespace = Some("higress-system".into()));
    let deleting = Condition {
        type_: "Deleting".into(),
        status: "True".into(),
        reason: "Draining".into(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(NOW),
    };
    let gone = quota(&mut world, 0);
    gone.spec.deletion_policy = Some(DeletionPolicy::Delete);
    gone.metadata.finalizers = Some(vec![FINALIZER.into()]);
    gone.metadata.deletion_timestamp = Some(Time(NOW));
    gone.status = Some(AiQuotaStatus { conditions: vec![deleting], ..AiQuotaStatus::default() });
    world
}

/// What becomes of what it listed, of what it did not, and whether what requests made is looked for.
fn becomes(plan: &Plan) -> (Fate, Fate, bool) {
    let leftovers = Leftovers::new(plan);
    let owner = &plan.verdicts.iter().find(|verdict| verdict.key.name == "quota-00000").expect("it is there").owner;
    let recorded = leftovers.of(0, &owner.name).expect("of this cluster");
    let fate = |consumer: &str| recorded.fate(&Balance::new("q:", consumer.as_bytes()));
    let sweeps = plan.departures().next().expect("it leaves").lazy.is_some();
    (fate("tenant-00000-user-00"), fate("somebody"), sweeps)
}

#[test]
fn what_a_leaving_object_does_not_list_is_left_to_another_default_and_goes_where_there_is_none() {
    assert_eq!(becomes(&plan::build(&left(None))), (Fate::Delete, Fate::Delete, true));
    assert_eq!(becomes(&plan::build(&left(Some(7)))), (Fate::Delete, Fate::Release, true));
    let mut elsewhere = left(Some(7));
    quota(&mut elsewhere, 1).spec.key_prefix = Some("r:".into());
    assert_eq!(becomes(&plan::build(&elsewhere)), (Fate::Delete, Fate::Delete, true));
}

#[test]
fn what_a_model_made_that_was_removed_before_goes_though_the_common_default_is_inherited() {
    let plan = plan::build(&left(Some(7)));
    let departure = plan.departures().next().expect("it leaves");
    assert_eq!(departure.lazy, Some((0, "q:".to_owned())));
    let is_inherited =
        |prefix: &str| Leftovers::new(&plan).is_inherited(&departure, 0, &Balance::new(prefix, b"somebody"));
    assert!(is_inherited("q:"));
    assert!(!is_inherited(&redis::of_model("q:", "gone*")));
}

#[test]
fn a_default_that_is_in_force_inherits_also_of_an_object_that_cannot_be_read_any_more() {
    let mut world = left(Some(7));
    let plan = plan::build(&world);
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    let written = program.plugins.into_iter().find(|plugin| plugin.name == AI_QUOTA).and_then(|plugin| plugin.wanted);
    world.plugins.push(Arc::new(written.expect("a rule")));
    let heir = world.quotas.remove(1);
    world.undecodable.push(Arc::new(Undecodable {
        kind: ObjectKind::AiQuota,
        metadata: heir.metadata.clone(),
        error: "from tomorrow".into(),
        status: None,
    }));
    assert_eq!(becomes(&plan::build(&world)), (Fate::Delete, Fate::Release, true));
}
