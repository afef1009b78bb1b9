//! Periods that the controller begins itself, because the gateway's module does not.

use std::sync::Arc;

use api::{Admin, Refresh, RefreshMode};
use jiff::Timestamp;
use plan::{Flavor, Plan, Turn, World};

use crate::world;

/// One object that is refreshed every hour.
fn hourly(flavor: Flavor) -> World {
    let mut world = world::world(1, 1, 1);
    world.settings.flavor = flavor;
    let quota = Arc::make_mut(&mut world.quotas[0]);
    quota.spec.admin = Some(Admin { consumer: "admin".to_owned(), path: None });
    quota.spec.refresh = Some(Refresh {
        schedule: "@hourly".to_owned(),
        time_zone: None,
        mode: Some(RefreshMode::Reset),
        max_balance: None,
    });
    world
}

fn at(world: &mut World, time: &str) -> Plan {
    world.now = time.parse().expect("a time");
    plan::build(world)
}

fn time(text: &str) -> Option<Timestamp> {
    Some(text.parse().expect("a time"))
}

#[test]
fn a_balance_is_applied_again_at_each_boundary_and_once_more_when_redis_clock_has_come_to_it() {
    let mut world = hourly(Flavor::Upstream);
    let settling = at(&mut world, "2026-11-22T12:00:00Z");
    let first = settling.seeds[0].turn().expect("a period");
    assert_eq!(first.settles, time("2026-11-22T12:00:10Z"));
    assert_eq!(settling.next, first.settles);
    assert_eq!(at(&mut world, "2026-11-22T12:00:09Z").seeds[0].turn(), Some(first));

    let settled = at(&mut world, "2026-11-22T12:00:10Z");
    assert_eq!(settled.seeds[0].turn(), Some(Turn { settles: None, ..first }));
    assert_eq!(settled.next, time("2026-11-22T13:00:00Z"));
    assert_eq!(at(&mut world, "2026-11-22T12:59:59Z").seeds[0].turn(), settled.seeds[0].turn());

    let next = at(&mut world, "2026-11-22T13:00:00Z").seeds[0].turn();
    assert_eq!(next.map(|turn| turn.ordinal), Some(first.ordinal + 1));
}

#[test]
fn what_the_module_begins_itself_is_not_applied_again() {
    let mut world = hourly(Flavor::Native);
    for time in ["2026-11-22T12:00:00Z", "2026-11-22T13:00:00Z"] {
        assert_eq!(at(&mut world, time).seeds[0].turn(), None);
    }
}
