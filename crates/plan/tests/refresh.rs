//! Refreshing as it is planned: which table of boundaries the gateway has and for how long, what an edit brings, and a
//! refresh by hand.

use std::sync::Arc;

use api::{AiQuota, AiQuotaStatus, Refresh, RefreshMode};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use plan::{AI_QUOTA, Plan, Seeded, World, Write, Writes};
use serde_json::{Value, json};

#[expect(dead_code, reason = "worlds of other tests")]
#[path = "large/mod.rs"]
mod world;

const DAILY: &str = "0 0 * * * Asia/Shanghai";

fn refresh(schedule: &str, zone: Option<&str>) -> Refresh {
    let time_zone = zone.map(str::to_owned);
    Refresh { schedule: schedule.to_owned(), time_zone, mode: None, max_balance: None }
}

fn quota(world: &mut World, index: usize) -> &mut AiQuota {
    Arc::make_mut(&mut world.quotas[index])
}

/// Some objects, each on a route of its own, that are refreshed every midnight in Shanghai.
fn daily(objects: usize) -> World {
    let mut world = world::world(objects, 1, objects);
    world.now = "2026-11-22T05:40:00Z".parse().expect("a time");
    for index in 0..objects {
        quota(&mut world, index).spec.refresh = Some(refresh("@daily", Some("Asia/Shanghai")));
    }
    world
}

/// Plans and writes as the controller does; returns the plan and whether the ai-quota WasmPlugin was written.
fn round(world: &mut World) -> (Plan, bool) {
    let plan = plan::build(world);
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    let mut written = false;
    for plugin in program.plugins.into_iter().filter(plan::PluginWrite::differs) {
        world.plugins.retain(|found| found.metadata.name.as_deref() != Some(plugin.name));
        let wanted = plugin.wanted.map(Arc::new);
        world.plugins.extend(wanted.clone());
        if plugin.name == AI_QUOTA {
            written = true;
            world.last_written = wanted.into_iter().collect();
        }
    }
    (plan, written)
}

fn schedules(world: &World) -> Value {
    let found = world.plugins.iter().find(|found| found.metadata.name.as_deref() == Some(AI_QUOTA));
    let config = found.and_then(|plugin| plugin.spec.default_config.as_ref()).expect("it is written");
    config["aiquota"]["schedules"].clone()
}

fn later(world: &mut World, hours: i64) {
    world.now += SignedDuration::from_hours(hours);
}

/// What is reported of the first object when all balances and the ai-quota WasmPlugin became this.
fn status(plan: &Plan, seeded: &Seeded, write: &Write) -> AiQuotaStatus {
    let seeded = vec![seeded.clone(); plan.seeds.len()];
    let program = plan::program(plan, &seeded);
    let writes: Writes = [(AI_QUOTA, write.clone()), (plan::GUARD, Write::Done)].into();
    let answers = plan::Answers { seeded: &seeded, ..plan::Answers::default() };
    plan::status(plan, 0, answers, &program, &writes, &plan::Deletions::new(), Timestamp::UNIX_EPOCH)
}

fn arguments(call: &enforcement::redis::Invocation) -> String {
    let shown: Vec<_> = call.args().iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    shown.join(" ")
}

#[test]
fn a_table_stands_once_for_all_who_follow_it_and_stays_until_few_boundaries_are_ahead() {
    let mut world = daily(3);
    quota(&mut world, 1).spec.refresh = Some(refresh("0  0 * * *", Some("Asia/Shanghai")));
    let (plan, _) = round(&mut world);
    let first = schedules(&world);
    assert_eq!(first.as_object().map(|all| all.keys().map(String::as_str).collect::<Vec<_>>()), Some(vec![DAILY]));
    assert_eq!((first[DAILY]["first"].as_i64(), first[DAILY]["at"].as_array().map(Vec::len)), (Some(2516), Some(66)));
    assert_eq!(plan.next.map(|next| next.to_string()).as_deref(), Some("2026-11-22T16:00:00Z"));

    later(&mut world, 47 * 24);
    assert!(!round(&mut world).1, "17 are ahead, 16 after the next midnight");
    later(&mut world, 48);
    let (plan, written) = round(&mut world);
    assert!(written, "15 are ahead");
    assert_eq!(schedules(&world)[DAILY]["first"].as_i64(), Some(2516 + 49));
    let meanwhile = status(&plan, &Seeded::Applied, &Write::Waiting);
    assert!(meanwhile.conditions.iter().all(|condition| condition.status == "True"), "{meanwhile:?}");
}

#[test]
fn a_restart_writes_nothing_and_believes_no_table_that_somebody_changed() {
    let mut world = daily(1);
    round(&mut world);
    let first = schedules(&world);
    later(&mut world, 24);
    world.last_written.clear();
    assert!(!round(&mut world).1);

    let change = |world: &mut World| {
        let ours = world.plugins.iter_mut().find(|found| found.metadata.name.as_deref() == Some(AI_QUOTA));
        let config = Arc::make_mut(ours.expect("it is written")).spec.default_config.as_mut().expect("it is ours");
        config["aiquota"]["schedules"][DAILY]["at"][40] = json!(1_800_000_000);
    };
    change(&mut world);
    let (_, written) = round(&mut world);
    assert!(written && schedules(&world)[DAILY]["at"][0] != first[DAILY]["at"][0], "another process: a table of now");
    let second = schedules(&world);
    change(&mut world);
    let (_, written) = round(&mut world);
    assert!(written && schedules(&world) == second, "the same process: the table that it wrote");
}

#[test]
fn an_object_says_when_it_is_refreshed_next_and_seeds_go_with_the_boundaries_around_now() {
    let mut world = daily(1);
    let (plan, _) = round(&mut world);
    let found = status(&plan, &Seeded::Applied, &Write::Done);
    assert_eq!(found.next_refresh.as_deref(), Some("2026-11-22T16:00:00Z"));
    let seed = &plan.seeds[0];
    assert_eq!(seed.ordinal(), Some(2517));
    let period = "0 0 * * * Asia/Shanghai reset 9007199254740991 2516 1795190400 2517 1795276800 2518 1795363200 2519 1795449600";
    let apply = arguments(&seed.apply(false).invocation());
    assert!(apply.ends_with(period), "{apply}");

    later(&mut world, 11);
    let (plan, _) = round(&mut world);
    assert_eq!(plan.seeds[0].ordinal(), Some(2518));
    assert_eq!(status(&plan, &Seeded::Applied, &Write::Done).next_refresh.as_deref(), Some("2026-11-23T16:00:00Z"));
    quota(&mut world, 0).spec.refresh = None;
    let (plan, _) = round(&mut world);
    assert_eq!((plan.seeds[0].ordinal(), plan::build(&world).next), (None, None));
    assert_eq!(status(&plan, &Seeded::Applied, &Write::Done).next_refresh, None);
    assert_eq!(schedules(&world), Value::Null);
}

#[test]
fn an_edit_is_made_on_balances_that_had_what_was_in_force_until_it_is_written() {
    let mut world = daily(1);
    let (plan, _) = round(&mut world);
    assert!(plan.seeds[0].roll().is_none(), "nothing was in force before");
    let mut added = refresh("@daily", Some("Asia/Shanghai"));
    added.mode = Some(RefreshMode::Add);
    for edited in [None, Some(refresh("@daily", None)), Some(added)] {
        let mut world = daily(1);
        round(&mut world);
        quota(&mut world, 0).spec.refresh = edited;
        let roll = plan::build(&world).seeds[0].roll().map(|roll| arguments(&roll.invocation()));
        assert!(roll.is_some_and(|roll| roll.starts_with("query 0 0 * * * Asia/Shanghai reset ")));
        round(&mut world);
        assert!(plan::build(&world).seeds[0].roll().is_none(), "written");
    }
}

#[test]
fn a_refresh_by_hand_is_told_to_every_balance_and_reported_when_all_had_it() {
    let mut world = daily(2);
    let annotate = |world: &mut World, value: &str| {
        let annotations = quota(world, 0).metadata.annotations.get_or_insert_default();
        annotations.insert(api::REFRESH.to_owned(), value.to_owned());
    };
    let tokens = |plan: &Plan| plan.seeds.iter().map(|seed| seed.object.refresh.clone()).collect::<Vec<_>>();
    annotate(&mut world, "2026-11-22T05:00Z");
    let (plan, _) = round(&mut world);
    assert_eq!(tokens(&plan), [Some("2026-11-22T05:00Z".to_owned()), None]);
    assert_eq!(plan.seeds[0].apply(false).refresh, Some("2026-11-22T05:00Z"));
    let away = Seeded::Unreachable { error: "away".to_owned() };
    assert_eq!(status(&plan, &away, &Write::Done).refreshed, None);
    let done = status(&plan, &Seeded::Applied, &Write::Done);
    assert_eq!(done.refreshed.as_deref(), Some("2026-11-22T05:00Z"));

    quota(&mut world, 0).status = Some(done);
    for unreadable in ["", "at noon", "zwölf", &"x".repeat(65)] {
        annotate(&mut world, unreadable);
        let (plan, _) = round(&mut world);
        assert_eq!(tokens(&plan)[0].as_deref(), Some("2026-11-22T05:00Z"), "what was honoured stays so");
        let found = status(&plan, &Seeded::Applied, &Write::Done);
        assert_eq!(found.refreshed.as_deref(), Some("2026-11-22T05:00Z"));
        let warned = found.conditions.iter().find(|condition| condition.type_ == "RefreshUnreadable");
        assert!(warned.is_some_and(|warned| warned.status == "True"), "{found:?}");
    }
    annotate(&mut world, &"x".repeat(64));
    let (plan, _) = round(&mut world);
    assert_eq!(status(&plan, &away, &Write::Done).refreshed.as_deref(), Some("2026-11-22T05:00Z"), "not all had it");
    assert!(status(&plan, &Seeded::Applied, &Write::Done).conditions.iter().all(|c| c.type_ != "RefreshUnreadable"));
}

#[test]
fn objects_whose_refresh_differs_do_not_share_a_target() {
    let mut world = world::world(2, 1, 1);
    world.now = "2026-11-22T05:40:00Z".parse().expect("a time");
    for index in 0..2 {
        quota(&mut world, index).spec.refresh = Some(refresh("@daily", None));
    }
    let lost = |world: &World| plan::build(world).verdicts[1].targets[0].1.as_ref().map(ToString::to_string);
    assert_eq!(lost(&world), None);
    for change in [
        |refresh: &mut Refresh| refresh.schedule = "@weekly".to_owned(),
        |refresh: &mut Refresh| refresh.time_zone = Some("Asia/Shanghai".to_owned()),
        |refresh: &mut Refresh| refresh.mode = Some(RefreshMode::Add),
    ] {
        let mut world = world::world(2, 1, 1);
        for index in 0..2 {
            quota(&mut world, index).spec.refresh = Some(refresh("@daily", None));
        }
        change(quota(&mut world, 1).spec.refresh.as_mut().expect("it is there"));
        assert!(lost(&world).is_some_and(|why| why.contains("refresh")), "{:?}", lost(&world));
    }
}

#[test]
fn tables_take_room_in_the_gateway_too() {
    let mut world = daily(2_000);
    for index in 0..2_000 {
        let (hour, minute) = (index / 60 % 24, index % 60);
        let day = if index < 1_440 { "*" } else { "1-5" };
        quota(&mut world, index).spec.refresh = Some(refresh(&format!("{minute} {hour} * * {day}"), None));
    }
    let plan = plan::build(&world);
    let full = plan.verdicts.iter().position(|verdict| verdict.targets[0].1.is_some()).expect("they do not all fit");
    assert_eq!(plan.verdicts[full].targets[0].1.as_ref().map(plan::Reason::reason), Some("GatewayFull"));
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    let wanted = program.plugins.into_iter().find(|plugin| plugin.name == AI_QUOTA).and_then(|plugin| plugin.wanted);
    let size = serde_json::to_vec(&wanted.expect("there are rules").spec).expect("JSON").len();
    assert!((900_000..1 << 20).contains(&size), "{size} bytes with {full} tables");
}

#[test]
fn what_the_documentation_shows_is_valid() {
    let text = include_str!("../../../docs/refresh.md");
    let shown = text.split("```yaml").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let object: Value = serde_yaml::from_str(shown).expect("YAML");
    let quota = plan::decode::<AiQuota>(object).expect("an AIQuota");
    assert_eq!(plan::validate(&quota), Ok(()));
    assert!(quota.spec.refresh.is_some());
}
