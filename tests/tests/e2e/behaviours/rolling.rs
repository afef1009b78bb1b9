//! What the boundary of a period does to a balance, when a request or an administrator comes after it: reached
//! through either door.

use anyhow::Result;
use enforcement::{redis::Grant, values::MAX_AMOUNT, wire::RefreshMode};

use super::{
    Behaviour, behaviour,
    stage::{Asked, NOW, Setup, Stage},
};

const LISTED: Setup = Setup { default_quota: None, refresh: None, yields: false };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };
const ADD: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Add, None)), yields: false };
const CARRY: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::CarryOver, Some(250))), yields: false };

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("a Reset makes the balance the grant, however many were missed", RESET, |s| {
        Box::pin(async move {
            for (consumer, missed) in [("ann", 1), ("bob", 5), ("eve", 1_000_000)] {
                s.declare(consumer, Grant::Tokens(100)).await?;
                s.ask(consumer, 130).await?;
                s.rewind(consumer, missed).await?;
                assert_eq!(s.ask(consumer, 40).await?, Asked::Served);
                assert_eq!(s.field(consumer, "used").await?, "40");
                assert_eq!(s.field(consumer, "ordinal").await?, NOW.to_string());
                s.balance_is(consumer, 60).await?;
            }
            Ok(())
        })
    }),
    behaviour("Add grants once for every boundary", ADD, |s| {
        Box::pin(async move {
            for (consumer, missed, left) in [("ann", 1, 70), ("bob", 5, 470)] {
                s.declare(consumer, Grant::Tokens(100)).await?;
                s.ask(consumer, 130).await?;
                s.rewind(consumer, missed).await?;
                assert_eq!(s.query(consumer).await?, Some(left));
                s.balance_is(consumer, left).await?;
                assert_eq!(s.field(consumer, "used").await?, "0");
            }
            Ok(())
        })
    }),
    behaviour("Add saturates at the largest exact number", ADD, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(MAX_AMOUNT)).await?;
            s.add("ann", -10).await?;
            s.rewind("ann", 1_000_000).await?;
            assert_eq!(s.query("ann").await?, Some(MAX_AMOUNT));
            s.declare("bob", Grant::Tokens(MAX_AMOUNT)).await?;
            s.set("bob", -MAX_AMOUNT).await?;
            s.rewind("bob", 1).await?;
            assert_eq!(s.query("bob").await?, Some(0));
            // Three grants are more than a double holds exactly, what is left of the debt is not.
            s.declare("cid", Grant::Tokens(3_002_399_751_580_331)).await?;
            s.set("cid", -MAX_AMOUNT).await?;
            s.rewind("cid", 3).await?;
            assert_eq!(s.query("cid").await?, Some(2));
            s.balance_is("ann", MAX_AMOUNT).await
        })
    }),
    behaviour("CarryOver forgives debt, keeps what is left and fills up to its cap", CARRY, |s| {
        Box::pin(async move {
            for (consumer, spent, missed, left) in
                [("ann", 130, 1, 100), ("bob", 40, 1, 160), ("cid", 40, 2, 250), ("dan", 130, 7, 250)]
            {
                s.declare(consumer, Grant::Tokens(100)).await?;
                s.ask(consumer, spent).await?;
                s.rewind(consumer, missed).await?;
                assert_eq!(s.query(consumer).await?, Some(left), "{consumer}");
            }
            Ok(())
        })
    }),
    behaviour("no boundary passed: nothing is granted", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            assert_eq!(s.query("ann").await?, Some(60));
            s.rewind("ann", -1).await?;
            assert_eq!(s.query("ann").await?, Some(60), "a clock that went back grants nothing");
            assert_eq!(s.field("ann", "ordinal").await?, (NOW + 1).to_string());
            Ok(())
        })
    }),
    behaviour("a ledger on another schedule is not rolled", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.edit("ann", "schedule", "newer").await?;
            s.rewind("ann", 5).await?;
            assert_eq!(s.ask("ann", 10).await?, Asked::Served);
            assert_eq!(s.field("ann", "schedule").await?, "newer");
            s.balance_is("ann", 50).await
        })
    }),
    behaviour("without a table nothing rolls", LISTED, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.edit("ann", "schedule", "hourly").await?;
            s.rewind("ann", 5).await?;
            assert_eq!(s.ask("ann", 10).await?, Asked::Served);
            s.balance_is("ann", 90).await
        })
    }),
    behaviour("a new period reopens a consumer that was used up", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 100).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.rewind("ann", 1).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::Served);
            s.balance_is("ann", 99).await
        })
    }),
    behaviour("a lost key comes back with the period", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.redis::<()>(&[b"DEL", s.key("ann").as_bytes()]).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.rewind("ann", 1).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::Served);
            s.balance_is("ann", 99).await
        })
    }),
    behaviour("a parked amount is renewed by a Reset", RESET, |s| {
        Box::pin(async move {
            parked_for_two_periods(&s).await?;
            assert_eq!(s.field("ann", "parked").await?, "100");
            s.balance_is("ann", None).await
        })
    }),
    behaviour("a parked amount is granted nothing by Add", ADD, |s| {
        Box::pin(async move {
            parked_for_two_periods(&s).await?;
            assert_eq!(s.field("ann", "parked").await?, "60");
            s.balance_is("ann", None).await
        })
    }),
];

async fn parked_for_two_periods(s: &Stage) -> Result<()> {
    s.declare("ann", Grant::Tokens(100)).await?;
    s.ask("ann", 40).await?;
    s.park("ann").await?;
    s.rewind("ann", 2).await?;
    assert_eq!(s.query("ann").await?, Some(0));
    assert_eq!(s.field("ann", "ordinal").await?, NOW.to_string());
    Ok(())
}
