//! What requests and administrators see of a consumer whose object lists it no longer or is gone, and whose balance was
//! parked, released or deleted: reached through either door.

use anyhow::Result;
use enforcement::{
    redis::{Check, CheckOutcome, Delete, Fence, Grant, Invocation, LeaveOutcome, Park, Release},
    wire::RefreshMode,
};

use super::{
    Behaviour, behaviour,
    stage::{Administered, Asked, OWNER, Setup, Stage},
};

const PLAIN: Setup = Setup { default_quota: None, refresh: None, yields: false };
const YIELDING: Setup = Setup { default_quota: None, refresh: None, yields: true };
const DEFAULT: Setup = Setup { default_quota: Some(1000), refresh: None, yields: false };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };
const DEFAULT_RESET: Setup =
    Setup { default_quota: Some(1000), refresh: Some((RefreshMode::Reset, None)), yields: false };

const OTHER: &str = "cluster/ns/other";
pub(super) const DONE: LeaveOutcome = LeaveOutcome::Done { changed: true };
pub(super) const NOTHING: LeaveOutcome = LeaveOutcome::Done { changed: false };

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("a request in flight is charged to what is parked", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask_while("ann", 130, s.park("ann")).await?;
            assert_eq!(s.field("ann", "parked").await?, "-30");
            assert_eq!(s.field("ann", "used").await?, "130");
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", None).await
        })
    }),
    behaviour("a request in flight is charged to the balance that is released", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask_while("ann", 30, ends(&s, release("ann", 1))).await?;
            s.balance_is("ann", 70).await
        })
    }),
    behaviour("a request in flight brings back nothing that was deleted", DEFAULT_RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask_while("ann", 30, ends(&s, delete("ann", (1, "uid-1", 1)))).await?;
            assert_eq!(keys(&s, "ann").await?, 0);
            Ok(())
        })
    }),
    behaviour("a request that was admitted without limit counts after the consumer was parked", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Unlimited).await?;
            s.ask_while("ann", 130, s.park("ann")).await?;
            assert_eq!(s.field("ann", "used").await?, "130");
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.declare("ann", Grant::Tokens(100)).await?;
            s.balance_is("ann", 100).await
        })
    }),
    behaviour(
        "who was unlimited from the beginning lives on the whole default, and on each period's",
        DEFAULT_RESET,
        |s| {
            Box::pin(async move {
                s.declare("ann", Grant::Unlimited).await?;
                s.ask("ann", 5000).await?;
                s.park("ann").await?;
                assert_eq!(s.ask("ann", 1100).await?, Asked::Served);
                s.balance_is("ann", -100).await?;
                assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
                s.rewind("ann", 1).await?;
                assert_eq!(s.ask("ann", 1).await?, Asked::Served);
                s.balance_is("ann", 999).await
            })
        },
    ),
    behaviour("who was unlimited with a balance keeps that", DEFAULT, |s| {
        Box::pin(async move {
            s.store("ann", "-5").await?;
            s.declare("ann", Grant::Unlimited).await?;
            s.park("ann").await?;
            assert_eq!(s.field("ann", "unlimited").await?, "");
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", -5).await
        })
    }),
    behaviour("a Reset forgives who was parked, who has nothing granted too", DEFAULT_RESET, |s| {
        Box::pin(async move {
            s.store("ann", "-5").await?;
            s.declare("ann", Grant::Unlimited).await?;
            s.declare("bob", Grant::Tokens(100)).await?;
            s.ask("bob", 130).await?;
            for (consumer, left) in [("ann", 999), ("bob", 99)] {
                s.park(consumer).await?;
                s.rewind(consumer, 1).await?;
                assert_eq!(s.ask(consumer, 1).await?, Asked::Served, "{consumer}");
                s.balance_is(consumer, left).await?;
            }
            Ok(())
        })
    }),
    behaviour("what an administrator gives a parked consumer is obeyed, and a Reset gives it nothing", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.park("ann").await?;
            assert_eq!(s.add("ann", 10).await?, Administered::Done);
            assert_eq!(s.query("ann").await?, Some(10));
            assert_eq!(s.ask("ann", 15).await?, Asked::Served);
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            assert_eq!(s.leave(&park(&s, "ann", (1, "uid-1", 1))).await?, NOTHING, "it stays until it is listed");
            s.rewind("ann", 1).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", -5).await?;
            s.declare("ann", Grant::Tokens(100)).await?;
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("what an administrator sets replaces what is parked", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.park("ann").await?;
            assert_eq!(s.set("ann", 7).await?, Administered::Done);
            assert_eq!(s.ask("ann", 2).await?, Asked::Served);
            assert_eq!(s.leave(&park(&s, "ann", (1, "uid-1", 1))).await?, NOTHING);
            s.declare("ann", Grant::Tokens(100)).await?;
            s.balance_is("ann", 5).await
        })
    }),
    behaviour(
        "who has an administrator's gift lives on the default as well, from its next period",
        DEFAULT_RESET,
        |s| {
            Box::pin(async move {
                s.declare("ann", Grant::Tokens(10_000)).await?;
                s.ask("ann", 4000).await?;
                s.park("ann").await?;
                s.add("ann", 50).await?;
                assert_eq!(s.ask("ann", 20).await?, Asked::Served);
                s.balance_is("ann", 30).await?;
                s.rewind("ann", 1).await?;
                assert_eq!(s.ask("ann", 20).await?, Asked::Served);
                s.balance_is("ann", 980).await?;
                s.declare("ann", Grant::Tokens(10_000)).await?;
                s.balance_is("ann", 9980).await
            })
        },
    ),
    behaviour("what is parked, a gift and a default come to what it had when it is listed again", DEFAULT, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(10_000)).await?;
            s.ask("ann", 4000).await?;
            s.park("ann").await?;
            s.add("ann", 50).await?;
            s.ask("ann", 20).await?;
            s.declare("ann", Grant::Tokens(10_000)).await?;
            s.balance_is("ann", 10_000 - 4000 + 50 - 20).await
        })
    }),
    behaviour("who lived on a default that is withdrawn is refused, and has it again when it is back", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(10_000)).await?;
            s.ask("ann", 4000).await?;
            s.park("ann").await?;
            for consumer in ["ann", "bob"] {
                with_default(&s, consumer, OWNER, 1000).await?;
                s.add(consumer, -300).await?;
                assert_eq!(s.ask(consumer, 1).await?, Asked::NoQuota, "{consumer}");
                s.balance_is(consumer, None).await?;
                assert_eq!(s.field(consumer, "parked").await?, "700");
                with_default(&s, consumer, OWNER, 2000).await?;
                s.balance_is(consumer, 700).await?;
                assert_eq!(s.ask(consumer, 1).await?, Asked::NoQuota);
                s.add(consumer, 10).await?;
                assert_eq!(s.ask(consumer, 4).await?, Asked::Served, "an administrator's gift");
                s.declare(consumer, Grant::Tokens(10_000)).await?;
            }
            s.balance_is("ann", 10_000 - 4000 - 300 + 10 - 4).await?;
            s.balance_is("bob", 10_000 - 300 + 10 - 4).await
        })
    }),
    behaviour("a Reset renews a withdrawn default as it was, and what the object gave", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(10_000)).await?;
            s.ask("ann", 4000).await?;
            s.park("ann").await?;
            with_default(&s, "ann", OWNER, 1000).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.rewind("ann", 1).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            with_default(&s, "ann", OWNER, 1000).await?;
            s.balance_is("ann", 1000).await?;
            s.declare("ann", Grant::Tokens(10_000)).await?;
            s.balance_is("ann", 10_000).await
        })
    }),
    behaviour("who lives on another policy's default is obeyed where there is none", YIELDING, |s| {
        Box::pin(async move {
            with_default(&s, "ann", "cluster/ns/other", 1000).await?;
            assert_eq!(s.ask("ann", 30).await?, Asked::Served);
            s.balance_is("ann", 970).await
        })
    }),
    behaviour("who lived on the default of an object that is gone is refused where none has one", PLAIN, |s| {
        Box::pin(async move {
            with_default(&s, "ann", OTHER, 1000).await?;
            s.add("ann", -300).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", None).await?;
            assert_eq!(s.field("ann", "parked").await?, "700");
            Ok(())
        })
    }),
    behaviour("a released balance is obeyed, and rolls with its policy", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            ends(&s, release("ann", 1)).await?;
            assert_eq!(s.ask("ann", 130).await?, Asked::Served);
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.rewind("ann", 1).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::Served);
            s.balance_is("ann", 99).await
        })
    }),
    behaviour("a default that was released belongs to the policy that meets it, and follows it", DEFAULT, |s| {
        Box::pin(async move {
            s.ask("ann", 100).await?;
            s.edit("ann", "grant", "300").await?;
            s.edit("ann", "owner", OTHER).await?;
            s.leave(&Release { balance: &s.key("ann"), owner: OTHER, term: 1 }.invocation()).await?;
            assert_eq!(s.ask("ann", 50).await?, Asked::Served);
            assert_eq!(s.field("ann", "owner").await?, OWNER);
            s.balance_is("ann", 900 + 700 - 50).await
        })
    }),
    behaviour("a deleted consumer is a new one", DEFAULT, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(10)).await?;
            s.ask("ann", 30).await?;
            ends(&s, delete("ann", (1, "uid-1", 1))).await?;
            assert_eq!(s.query("ann").await?, Some(0));
            assert_eq!(s.ask("ann", 1).await?, Asked::Served);
            s.balance_is("ann", 999).await
        })
    }),
];

pub(super) type Fenced = (i64, &'static str, i64);

pub(super) const fn fence((term, uid, generation): Fenced) -> Fence<'static> {
    Fence { term, uid, generation }
}

pub(super) fn park(s: &Stage, consumer: &str, by: Fenced) -> Invocation {
    Park { balance: &s.key(consumer), owner: OWNER, fence: fence(by), period: s.period() }.invocation()
}

pub(super) fn release(consumer: &'static str, term: i64) -> impl FnOnce(&Stage) -> Invocation {
    move |s| Release { balance: &s.key(consumer), owner: OWNER, term }.invocation()
}

pub(super) fn delete(consumer: &'static str, by: Fenced) -> impl FnOnce(&Stage) -> Invocation {
    move |s| Delete { balance: &s.key(consumer), owner: OWNER, fence: fence(by) }.invocation()
}

/// A request under a policy of `owner` with a default.
async fn with_default(s: &Stage, consumer: &str, owner: &str, default: i64) -> Result<()> {
    let (balance, period) = (&s.key(consumer), s.period());
    let outcome =
        s.check(Check { balance, need: 1, hold: None, default: Some(default), owner, yields: false, period }).await?;
    anyhow::ensure!(matches!(outcome, CheckOutcome::Admitted { .. }), "{outcome:?}");
    Ok(())
}

/// Makes a call that must do something.
pub(super) async fn ends(s: &Stage, call: impl FnOnce(&Stage) -> Invocation) -> Result<()> {
    let outcome = s.leave(&call(s)).await?;
    anyhow::ensure!(outcome == DONE, "{outcome:?}");
    Ok(())
}

/// How many of the keys of a balance exist.
pub(super) async fn keys(s: &Stage, consumer: &str) -> Result<i64> {
    let key = s.key(consumer);
    s.redis(&[b"EXISTS", key.as_bytes(), &key.ledger(), &key.holds(), &key.amounts()]).await
}
