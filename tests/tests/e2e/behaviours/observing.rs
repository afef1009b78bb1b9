//! A policy that only observes: what is used is noted, counts for what would be refused, and for nothing once the
//! policy enforces. By the scripts that the module calls under each.

use anyhow::Result;
use enforcement::{
    redis::{Charge, ChargeOutcome, Check, CheckOutcome, Grant, Left},
    wire::RefreshMode,
};

use super::{
    Behaviour, behaviour,
    stage::{Asked, NOW, OWNER, Setup, Stage},
};

const PLAIN: Setup = Setup { default_quota: None, refresh: None, yields: false };
const DEFAULT: Setup = Setup { default_quota: Some(1000), refresh: None, yields: false };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };
const ADD: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Add, None)), yields: false };
const CARRY: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::CarryOver, Some(250))), yields: false };

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("what is used is noted, and missing only from what is available", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            used(&s, 60).await?;
            assert_eq!(observe(&s).await?, left(40));
            used(&s, 50).await?;
            assert_eq!(observe(&s).await?, CheckOutcome::Refused { available: Some(-10) });
            assert_eq!(s.field("ann", "observed").await?, "110");
            assert_eq!(s.field("ann", "used").await?, "0");
            assert_eq!(s.query("ann").await?, Some(100), "the admin API tells the balance");
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("nothing of it counts once the policy enforces, and observing begins afresh after that", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            used(&s, 150).await?;
            assert_eq!(s.ask("ann", 30).await?, Asked::Served);
            assert_eq!(s.field("ann", "observed").await?, "");
            assert_eq!(s.field("ann", "used").await?, "30");
            s.balance_is("ann", 70).await?;
            assert_eq!(observe(&s).await?, left(70));
            used(&s, 5).await?;
            assert_eq!(observe(&s).await?, left(65));
            assert_eq!(s.ask("ann", 70).await?, Asked::Served);
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", 0).await
        })
    }),
    behaviour("a request that was let pass under one and ends under the other counts where it began", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            // Admitted while it observed, ends when it enforces: what it notes is dropped with the next check.
            assert_eq!(s.ask("ann", 10).await?, Asked::Served);
            used(&s, 500).await?;
            assert_eq!(s.ask("ann", 10).await?, Asked::Served);
            s.balance_is("ann", 80).await?;
            // Admitted while it enforced, ends when it observes.
            s.ask_while("ann", 20, async { observe(&s).await.map(drop) }).await?;
            assert_eq!(observe(&s).await?, left(60));
            s.balance_is("ann", 60).await
        })
    }),
    behaviour("repeating what changes nothing writes nothing", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            used(&s, 60).await?;
            let before = s.ledger("ann").await?;
            for _ in 0..3 {
                observe(&s).await?;
                used(&s, 0).await?;
            }
            assert_eq!(s.ledger("ann").await?, before);
            s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(s.ledger("ann").await?, before, "nor does the controller");
            Ok(())
        })
    }),
    behaviour("an edit of the quota moves what would be left by as much", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            used(&s, 60).await?;
            s.declare("ann", Grant::Tokens(150)).await?;
            assert_eq!(observe(&s).await?, left(90));
            s.set("ann", 20).await?;
            assert_eq!(observe(&s).await?, left(20), "who sets a balance says what is left");
            Ok(())
        })
    }),
    behaviour("a Reset forgets what was noted", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            used(&s, 130).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(observe(&s).await?, in_period(100));
            // What was admitted in the period before is forgiven as any other charge.
            let late = note(&s, 40, Some(NOW - 1)).await?;
            assert_eq!(late, ChargeOutcome::Forgiven);
            assert_eq!(observe(&s).await?, in_period(100));
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("added grants leave what was noted missing", ADD, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            used(&s, 130).await?;
            s.rewind("ann", 2).await?;
            assert_eq!(observe(&s).await?, in_period(170));
            s.balance_is("ann", 300).await
        })
    }),
    behaviour("what carries over is what would be left, debts forgiven and capped", CARRY, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            used(&s, 40).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(observe(&s).await?, in_period(160), "60 and 100");
            s.balance_is("ann", 200).await?;
            used(&s, 300).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(observe(&s).await?, in_period(100), "nothing and 100");
            s.balance_is("ann", 250).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(observe(&s).await?, in_period(200));
            s.rewind("ann", 1).await?;
            assert_eq!(observe(&s).await?, in_period(250), "both are at the cap");
            assert_eq!(s.field("ann", "observed").await?, "0");
            Ok(())
        })
    }),
    behaviour("what carries over is exact up to the largest amount", CARRY, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(9_007_199_254_740_990)).await?;
            s.set("ann", 3).await?;
            s.rewind("ann", 2).await?;
            assert_eq!(observe(&s).await?, in_period(250));
            assert_eq!(s.field("ann", "observed").await?, "", "nothing was noted");
            Ok(())
        })
    }),
    behaviour(
        "who is not listed lives on the default while it is observed, and has all of it afterwards",
        DEFAULT,
        |s| {
            Box::pin(async move {
                assert_eq!(observe(&s).await?, left(1000));
                used(&s, 1500).await?;
                assert_eq!(observe(&s).await?, CheckOutcome::Refused { available: Some(-500) });
                assert_eq!(s.ask("ann", 1).await?, Asked::Served);
                s.balance_is("ann", 999).await
            })
        },
    ),
    behaviour("without a balance nothing is noted and nothing is made", PLAIN, |s| {
        Box::pin(async move {
            assert_eq!(observe(&s).await?, CheckOutcome::Refused { available: None });
            assert_eq!(note(&s, 10, None).await?, ChargeOutcome::Absent);
            assert!(s.ledger("ann").await?.is_empty());
            s.store("ann", "100").await?;
            assert_eq!(observe(&s).await?, left(100));
            assert_eq!(note(&s, 10, None).await?, ChargeOutcome::Absent);
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("unlimited stays unlimited, and what it uses is noted apart", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Unlimited).await?;
            assert_eq!(observe(&s).await?, CheckOutcome::Admitted { left: Left::Unlimited, period: None });
            used(&s, 10).await?;
            assert_eq!((s.field("ann", "used").await?, s.field("ann", "observed").await?), ("0".into(), "10".into()));
            Ok(())
        })
    }),
    behaviour("notes add up to the largest amount and no further", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(5)).await?;
            used(&s, i64::MAX).await?;
            used(&s, i64::MAX).await?;
            assert_eq!(s.field("ann", "observed").await?, "9007199254740991");
            assert_eq!(observe(&s).await?, CheckOutcome::Refused { available: Some(5 - 9_007_199_254_740_991) });
            Ok(())
        })
    }),
];

const fn left(available: i64) -> CheckOutcome {
    CheckOutcome::Admitted { left: Left::Tokens(available), period: None }
}

const fn in_period(available: i64) -> CheckOutcome {
    CheckOutcome::Admitted { left: Left::Tokens(available), period: Some(NOW) }
}

async fn observe(s: &Stage) -> Result<CheckOutcome> {
    let (default, period) = (s.setting.policy.default_quota, s.period());
    let check = Check { balance: &s.key("ann"), need: 1, hold: None, default, owner: OWNER, yields: false, period };
    s.call(&check.observing(), CheckOutcome::of).await
}

async fn note(s: &Stage, tokens: i64, admitted_in: Option<i64>) -> Result<ChargeOutcome> {
    let charge = Charge { balance: &s.key("ann"), tokens, hold: None, admitted_in, period: s.period() };
    s.call(&charge.observing(), ChargeOutcome::of).await
}

async fn used(s: &Stage, tokens: i64) -> Result<()> {
    assert_eq!(note(s, tokens, s.period().map(|_| NOW)).await?, ChargeOutcome::Booked { balance: None });
    Ok(())
}
