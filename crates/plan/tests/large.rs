//! At the size the design names, everything is there once, and a run with the result of the one before is quiet.

use plan::{AI_QUOTA, Deletions, Seeded, Write, Writes};

#[path = "large/turns.rs"]
mod turns;
#[path = "large/mod.rs"]
mod world;

#[test]
fn ten_thousand_objects_on_a_thousand_routes_make_a_thousand_policies() {
    let mut world = world::world(10_000, 10, 1_000);
    let plan = plan::build(&world);
    assert_eq!((plan.seeds.len(), plan.verdicts.len()), (100_000, 10_000));
    assert!(plan.verdicts.iter().all(|verdict| verdict.refused.is_empty() && verdict.targets[0].1.is_none()));

    let seeded = vec![Seeded::Applied; plan.seeds.len()];
    let program = plan::program(&plan, &seeded);
    let wanted = program.plugins.iter().find(|plugin| plugin.name == AI_QUOTA).and_then(|plugin| plugin.wanted.clone());
    let spec = &wanted.as_ref().expect("there are rules").spec;
    assert_eq!(spec.match_rules.as_ref().map(Vec::len), Some(1_000));
    let policies = spec.default_config.as_ref().and_then(|config| config.pointer("/aiquota/policies")?.as_object());
    assert_eq!(policies.map(serde_json::Map::len), Some(1_000));

    let writes: Writes = program.plugins.iter().map(|plugin| (plugin.name, Write::Done)).collect();
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    for verdict in 0..plan.verdicts.len() {
        let status = plan::status(
            &plan,
            verdict,
            plan::Answers { seeded: &seeded, ..plan::Answers::default() },
            &program,
            &writes,
            &Deletions::new(),
            now,
        );
        assert!(status.conditions.iter().all(|condition| condition.status == "True"), "{status:?}");
    }

    world.plugins.extend(program.plugins.into_iter().filter_map(|plugin| plugin.wanted).map(std::sync::Arc::new));
    let again = plan::build(&world);
    let pending = plan::program(&again, &[]);
    assert!(pending.plugins.iter().all(|plugin| !plugin.differs()), "what is in force stays without any answer");
}

/// The condition `Programmed` of each object, while both writes came to this.
fn programmed(plan: &plan::Plan, ai_quota: &Write, guard: &Write) -> Vec<String> {
    let seeded = vec![Seeded::Applied; plan.seeds.len()];
    let program = plan::program(plan, &seeded);
    let writes: Writes = [(AI_QUOTA, ai_quota.clone()), (plan::GUARD, guard.clone())].into();
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    let of = |verdict| {
        plan::status(
            plan,
            verdict,
            plan::Answers { seeded: &seeded, ..plan::Answers::default() },
            &program,
            &writes,
            &Deletions::new(),
            now,
        )
        .conditions
    };
    let all = (0..plan.verdicts.len()).map(of);
    let reason = |conditions: Vec<api::Condition>| {
        let found = conditions.into_iter().find(|condition| condition.type_ == "Programmed");
        found.map(|condition| condition.reason).unwrap_or_default()
    };
    all.map(reason).collect()
}

#[test]
fn a_write_that_is_still_to_be_made_concerns_only_the_objects_it_is_made_for() {
    let mut world = world::world(5, 1, 5);
    let plugins = |world: &plan::World| {
        let plan = plan::build(world);
        plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]).plugins
    };
    world.plugins.extend(plugins(&world).into_iter().filter_map(|plugin| plugin.wanted).map(std::sync::Arc::new));
    std::sync::Arc::make_mut(&mut world.quotas[3]).spec.default_quota = Some(7);
    let failed = Write::Failed { error: "no".to_owned() };

    let plan = plan::build(&world);
    assert_eq!(
        programmed(&plan, &Write::Waiting, &Write::Done),
        ["Programmed", "Programmed", "Programmed", "WaitsForWrite", "Programmed"]
    );
    assert_eq!(programmed(&plan, &failed, &Write::Done)[2..4], ["Programmed", "WriteFailed"]);
    // Without the guard anybody's identity is believed: that concerns them all.
    assert_eq!(programmed(&plan, &Write::Done, &failed), ["WriteFailed"; 5]);

    // So does somebody else's hand on the object.
    let ours = world.plugins.iter_mut().find(|plugin| plugin.metadata.name.as_deref() == Some(AI_QUOTA));
    let ours = std::sync::Arc::make_mut(ours.expect("it was written"));
    let mut phase = ours.clone();
    phase.spec.phase = Some("AUTHN".to_owned());
    let mut rule = ours.clone();
    rule.spec.match_rules.get_or_insert_default().insert(0, api::MatchRule::default());
    for touched in [phase, rule] {
        world.plugins.retain(|plugin| plugin.metadata.name.as_deref() != Some(AI_QUOTA));
        world.plugins.push(std::sync::Arc::new(touched));
        assert_eq!(programmed(&plan::build(&world), &Write::Waiting, &Write::Done), ["WaitsForWrite"; 5]);
    }
}

#[test]
fn nobody_takes_a_balance_from_an_object_that_cannot_be_understood() {
    let mut world = world::world(2, 1, 2);
    std::sync::Arc::make_mut(&mut world.quotas[0]).spec.target_refs.clear();
    let plan = plan::build(&world);
    assert!(!plan.may_take_over(&format!("{}/team-0/quota-00000", world.cluster)));
    assert!(plan.may_take_over(&format!("{}/team-0/quota-00001", world.cluster)));
}

#[test]
fn nobody_takes_a_balance_from_an_object_whose_store_has_not_said_which_database_it_is() {
    let mut world = world::world(2, 1, 2);
    let mut alias = world.stores[0].as_ref().clone();
    alias.metadata.name = Some("alias".to_owned());
    alias.spec.service.name = "alias.static".to_owned();
    let registries = &mut std::sync::Arc::make_mut(&mut world.bridges[0]).spec.registries;
    let address = "10.0.0.9:6379".to_owned();
    registries.push(api::Registry { name: "alias".to_owned(), domain: address, ..registries[0].clone() });
    world.stores.push(std::sync::Arc::new(alias));
    std::sync::Arc::make_mut(&mut world.quotas[0]).spec.store_ref = Some(api::StoreRef { name: "alias".to_owned() });
    let owner = format!("{}/team-0/quota-00000", world.cluster);
    let plan = plan::build(&world);
    assert!(!plan.may_take_over(&owner), "it may be the database of the other store");
    let said = (0..).zip(&plan.stores).map(|(id, store)| {
        (store.access.clone().expect("it can be reached"), plan::Database { id: format!("{id}"), is_there: true })
    });
    world.databases = said.collect();
    assert!(plan::build(&world).may_take_over(&owner));
}

fn size(world: &plan::World) -> (plan::Plan, usize) {
    let plan = plan::build(world);
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    let wanted = program.plugins.into_iter().find(|plugin| plugin.name == AI_QUOTA).and_then(|plugin| plugin.wanted);
    let size = serde_json::to_vec(&wanted.expect("there are rules").spec).expect("JSON").len();
    (plan, size)
}

#[test]
fn five_thousand_routes_of_a_thousand_objects_fit_into_the_gateway() {
    let (plan, size) = size(&world::world_of_wide_objects(1_000, 5));
    assert!(plan.verdicts.iter().all(|verdict| verdict.targets.iter().all(|(_, problem)| problem.is_none())));
    assert!(size < 1 << 20, "{size} bytes");
}

#[test]
fn schedules_that_come_once_in_four_years_each_have_a_whole_table_that_stays() {
    let mut world = world::world_of_rare_schedules(500);
    let plan = plan::build(&world);
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    world.plugins.extend(program.plugins.into_iter().filter_map(|plugin| plugin.wanted).map(std::sync::Arc::new));
    let ours = world.plugins.iter().find(|plugin| plugin.metadata.name.as_deref() == Some(AI_QUOTA)).expect("written");
    let config = ours.spec.default_config.as_ref().expect("there are policies");
    let tables = config.pointer("/aiquota/schedules").and_then(serde_json::Value::as_object).expect("tables");
    let ahead = |table: &serde_json::Value| table["at"].as_array().map(Vec::len);
    assert_eq!(tables.values().filter(|table| ahead(table) >= Some(65)).count(), 500, "one boundary behind at least");

    let again = plan::build(&world);
    assert!(plan::program(&again, &[]).plugins.iter().all(|plugin| !plugin.differs()), "what is found is right");
}

#[test]
fn what_has_no_room_in_the_gateway_is_the_youngest_and_says_so() {
    let (plan, size) = size(&world::world(8_000, 1, 8_000));
    let full: Vec<bool> = plan.verdicts.iter().map(|verdict| verdict.targets[0].1.is_some()).collect();
    let first = full.iter().position(|full| *full).expect("they do not all fit");
    assert!(full[first..].iter().all(|full| *full), "the youngest have no room, and nobody else");
    assert_eq!(plan.verdicts[first].targets[0].1.as_ref().map(plan::Reason::reason), Some("GatewayFull"));
    assert_eq!(plan.seeds.len(), first, "and no balances");
    assert!((900_000..1 << 20).contains(&size), "{size} bytes");
}

#[test]
fn a_namespace_that_is_not_trusted_leaves_room_to_others_and_is_told_its_share() {
    let mut world = world::world(8_000, 1, 8_000);
    world.settings.namespace_share = 50;
    // The youngest object is another team's, and has room though an older team wants all.
    std::sync::Arc::make_mut(&mut world.quotas[7_999]).metadata.namespace = Some("team-1".to_owned());
    std::sync::Arc::make_mut(&mut world.ingresses[7_999]).metadata.namespace = Some("team-1".to_owned());
    let (plan, bytes) = size(&world);
    assert!((450_000..1 << 19).contains(&bytes), "{bytes} bytes");
    let problem = |verdict: usize| plan.verdicts[verdict].targets[0].1.as_ref();
    assert!(problem(7_999).is_none() && problem(0).is_none());
    let full = (0..7_999).find(|verdict| problem(*verdict).is_some()).expect("they do not all fit");
    assert!((full..7_999).all(|verdict| problem(verdict).is_some()), "the youngest of the namespace have no room");
    let (reason, message) =
        (problem(full).expect("it is full").reason(), problem(full).expect("it is full").to_string());
    assert_eq!(reason, "GatewayFull");
    for part in ["namespace team-0", "50 % of the 1048576 bytes", "--namespace-share", "fewer targets"] {
        assert!(message.contains(part), "{message}");
    }
    // Who is trusted takes what there is.
    world.settings.trusted_namespaces.insert("team-0".to_owned());
    assert!((900_000..1 << 20).contains(&size(&world).1));
}

#[test]
fn a_ceiling_that_has_no_room_is_none() {
    let mut world = world::world(8_000, 1, 8_000);
    world.settings.trusted_namespaces.extend(["team-0".to_owned(), "team-1".to_owned()]);
    std::sync::Arc::make_mut(&mut world.quotas[0]).metadata.namespace = Some("team-1".to_owned());
    std::sync::Arc::make_mut(&mut world.ingresses[0]).metadata.namespace = Some("team-1".to_owned());
    let domain = api::TargetRef { kind: api::TargetKind::Domain, name: Some("0.example.com".to_owned()) };
    std::sync::Arc::make_mut(&mut world.quotas[7_999]).spec.target_refs = vec![domain];
    let oldest_and_youngest = |world: &plan::World| {
        let verdicts = plan::build(world).verdicts;
        [0, verdicts.len() - 1].map(|at| verdicts[at].targets[0].1.as_ref().map(plan::Reason::reason))
    };
    assert_eq!(oldest_and_youngest(&world), [None, Some("GatewayFull")]);
    world.quotas.drain(1..7_000);
    assert_eq!(oldest_and_youngest(&world), [Some("Overridden"), None], "with room it is one");
}

#[test]
fn what_an_older_object_wants_in_addition_takes_no_room_from_what_is_programmed() {
    let mut world = world::world(8_000, 1, 8_000);
    let plan = plan::build(&world);
    let first = plan.verdicts.iter().position(|verdict| verdict.targets[0].1.is_some()).expect("they do not all fit");
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    world.plugins.extend(program.plugins.into_iter().filter_map(|plugin| plugin.wanted).map(std::sync::Arc::new));
    let more = (7_985..8_000).map(|route| world.quotas[route].spec.target_refs[0].clone()).collect::<Vec<_>>();
    std::sync::Arc::make_mut(&mut world.quotas[0]).spec.target_refs.extend(more);

    let plan = plan::build(&world);
    let accepted = |verdict: &plan::Verdict| verdict.targets[0].1.is_none();
    assert!(plan.verdicts[..first].iter().all(accepted));
    let reason = plan.verdicts[0].targets[15].1.as_ref().map(plan::Reason::reason);
    assert_eq!(reason, Some("GatewayFull"));
}

/// What fits of 8,000 objects is written. Returns the first that had no room.
fn written(world: &mut plan::World) -> usize {
    let plan = plan::build(world);
    let full = plan.verdicts.iter().position(|verdict| verdict.targets[0].1.is_some()).expect("they do not all fit");
    write(world);
    full
}

fn write(world: &mut plan::World) {
    let plan = plan::build(world);
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    world.plugins.retain(|plugin| plugin.metadata.name.as_deref() == Some("key-auth"));
    world.plugins.extend(program.plugins.into_iter().filter_map(|plugin| plugin.wanted).map(std::sync::Arc::new));
}

fn is_quiet(world: &plan::World) -> bool {
    let plan = plan::build(world);
    plan::program(&plan, &[]).plugins.iter().all(|plugin| !plugin.differs())
}

/// Paths that take some 3 KB more than the usual ones.
fn many_paths(world: &mut plan::World, quota: usize) {
    let paths = (0..32).map(|n| format!("/{n:02}/{}", "p".repeat(100))).collect();
    std::sync::Arc::make_mut(&mut world.quotas[quota]).spec.paths = Some(paths);
}

fn conditions(plan: &plan::Plan, verdict: usize) -> Vec<(String, String)> {
    let seeded = vec![Seeded::Applied; plan.seeds.len()];
    let program = plan::program(plan, &seeded);
    let answers = plan::Answers { seeded: &seeded, ..plan::Answers::default() };
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    let status = plan::status(plan, verdict, answers, &program, &Writes::new(), &Deletions::new(), now);
    status.conditions.into_iter().map(|condition| (condition.type_, condition.reason)).collect()
}

#[test]
fn an_edit_that_takes_more_room_than_there_is_leaves_its_object_and_all_others_as_they_were() {
    for mut world in [world::world(8_000, 1, 8_000), for_upstream(4_500, str::to_owned)] {
        let first = written(&mut world);
        many_paths(&mut world, 0);
        let plan = plan::build(&world);
        assert!(plan.verdicts[..first].iter().all(|verdict| verdict.targets[0].1.is_none()), "nobody lost a target");
        assert!(plan.verdicts[1..first].iter().all(|verdict| verdict.refused.is_empty()));
        assert!(is_quiet(&world), "no rule goes out, its own neither");
        let reason = |of: &str, is: &str| conditions(&plan, 0).contains(&(of.to_owned(), is.to_owned()));
        assert!(reason("Accepted", "GatewayFull") && reason("Programmed", "GatewayFull"), "{:?}", conditions(&plan, 0));

        // With room it is as it says.
        world.quotas.drain(1..100);
        let plan = plan::build(&world);
        assert!(plan.verdicts[0].refused.is_empty());
        assert!(!is_quiet(&world));
    }
}

#[test]
fn what_is_new_is_the_administrators_first() {
    let mut world = world::world(8_000, 1, 8_000);
    let mut domain = world.quotas[7_999].as_ref().clone();
    domain.metadata.namespace = Some("higress-system".to_owned());
    domain.spec.target_refs =
        vec![api::TargetRef { kind: api::TargetKind::Domain, name: Some("none.example.org".to_owned()) }];
    written(&mut world);
    // Room for one of the two: some 3 KB.
    world.quotas.drain(20..35);
    world.quotas.push(std::sync::Arc::new(domain));
    let administrators = world.quotas.len() - 1;
    many_paths(&mut world, 0);
    many_paths(&mut world, administrators);
    let plan = plan::build(&world);
    let of = |name: &str| {
        let verdict = plan.verdicts.iter().find(|verdict| verdict.key.to_string() == name).expect("it is there");
        verdict.refused.first().or(verdict.targets[0].1.as_ref()).map(plan::Reason::reason)
    };
    assert_eq!((of("team-0/quota-00000"), of("higress-system/quota-07999")), (Some("GatewayFull"), None));
    world.quotas.pop();
    let plan = plan::build(&world);
    assert!(plan.verdicts[0].refused.is_empty(), "without it there is room");
}

#[test]
fn what_is_programmed_stays_though_its_namespace_has_more_than_its_share_now() {
    let mut world = world::world(2_000, 1, 2_000);
    write(&mut world);
    assert!(is_quiet(&world));
    world.settings.namespace_share = 1;
    assert!(is_quiet(&world), "nothing becomes unmetered by that");
    let mut more = world.quotas[0].as_ref().clone();
    more.metadata.name = Some("more".to_owned());
    more.metadata.creation_timestamp = None;
    more.spec.target_refs[0].name = Some("route-more".to_owned());
    let mut route = world.ingresses[0].as_ref().clone();
    route.metadata.name = Some("route-more".to_owned());
    world.ingresses.push(std::sync::Arc::new(route));
    world.quotas.push(std::sync::Arc::new(more));
    let plan = plan::build(&world);
    let new = plan.verdicts.iter().find(|verdict| verdict.key.name == "more").expect("it is there");
    assert_eq!(new.targets[0].1.as_ref().map(plan::Reason::reason), Some("GatewayFull"));
}

#[test]
fn an_older_object_without_room_takes_no_target_from_whom_the_gateway_has_it_for() {
    let mut world = world::world(8_000, 1, 8_000);
    let route = world.quotas[5].spec.target_refs.clone();
    // It is the oldest, and wants nothing that is there.
    std::sync::Arc::make_mut(&mut world.quotas[0]).spec.target_refs[0].name = Some("nothing".to_owned());
    written(&mut world);
    std::sync::Arc::make_mut(&mut world.quotas[0]).spec.target_refs = route;
    many_paths(&mut world, 0);
    let plan = plan::build(&world);
    let problem = |verdict: usize| plan.verdicts[verdict].targets[0].1.as_ref().map(plan::Reason::reason);
    assert_eq!((problem(0), problem(5)), (Some("GatewayFull"), None));
    assert!(is_quiet(&world));
}

/// Objects with a route each, for upstream's module.
fn for_upstream(objects: usize, name: impl Fn(&str) -> String) -> plan::World {
    let mut world = world::world(objects, 1, objects);
    world.settings.flavor = plan::Flavor::Upstream;
    for quota in &mut world.quotas {
        let quota = std::sync::Arc::make_mut(quota);
        quota.spec.admin = Some(api::Admin { consumer: "admin".to_owned(), path: None });
        quota.metadata.name = quota.metadata.name.as_deref().map(&name);
    }
    world
}

/// How many objects have room, the bytes of the spec and of the annotation; what is written stays as it is.
fn room(world: &mut plan::World) -> (usize, usize, usize) {
    let plan = plan::build(world);
    let full =
        |verdict: &&plan::Verdict| verdict.targets[0].1.as_ref().is_some_and(|why| why.reason() == "GatewayFull");
    let out = plan.verdicts.iter().filter(full).count();
    let program = plan::program(&plan, &vec![Seeded::Applied; plan.seeds.len()]);
    let plugins: Vec<_> = program.plugins.into_iter().filter_map(|plugin| plugin.wanted).collect();
    let plugin =
        plugins.iter().find(|plugin| plugin.metadata.name.as_deref() == Some(AI_QUOTA)).expect("it is written");
    let spec = serde_json::to_vec(&plugin.spec).expect("JSON").len();
    let annotations = plugin.metadata.annotations.as_ref().expect("names");
    let annotation = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    world.plugins.extend(plugins.into_iter().map(std::sync::Arc::new));
    let again = plan::program(&plan::build(world), &[]);
    assert!(again.plugins.iter().all(|plugin| !plugin.differs()), "what has room keeps it");
    (plan.verdicts.len() - out, spec, annotation)
}

#[test]
fn rules_of_upstreams_form_count_with_all_they_carry_and_so_do_their_names() {
    const SPEC: usize = 1 << 20;
    const ANNOTATION: usize = 240 << 10;
    let (fit, spec, annotation) = room(&mut for_upstream(4_500, str::to_owned));
    assert!((3_000..4_500).contains(&fit), "{fit} objects");
    assert!((SPEC * 98 / 100..=SPEC).contains(&spec), "{spec} bytes");
    assert!(annotation < ANNOTATION, "{annotation} bytes");
    // Names as long as Kubernetes allows fill the annotation first.
    let (fit, spec, annotation) = room(&mut for_upstream(1_500, |name| format!("{name}-{}", "n".repeat(240))));
    assert!((500..1_500).contains(&fit), "{fit} objects");
    assert!((ANNOTATION * 99 / 100..=ANNOTATION).contains(&annotation), "{annotation} bytes");
    assert!(spec < SPEC, "{spec} bytes");
}
