//! What the controller's `apply` makes of a balance: adoption, edits, owners, fences. Scripts only.

use anyhow::Result;
use enforcement::{
    redis::{Apply, ApplyOutcome, Balance, Fence, Grant, Period},
    values::MAX_AMOUNT,
    wire::RefreshMode,
};

use super::{
    Behaviour, behaviour,
    stage::{Asked, NOW, OWNER, Setup, Stage},
};

const PLAIN: Setup = Setup { default_quota: None, refresh: None, yields: false };
const DEFAULT: Setup = Setup { default_quota: Some(1000), refresh: None, yields: false };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };

const OTHER: &str = "cluster/ns/other";

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("a new consumer gets its grant and a ledger", RESET, |s| {
        Box::pin(async move {
            let outcome = s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(outcome, ApplyOutcome::Applied { changed: true, balance: Some(100), used: 0 });
            let ledger: Vec<_> = s.ledger("ann").await?.into_iter().collect();
            let schedule = schedule(&s);
            let expected = [
                ("generation", "1"),
                ("grant", "100"),
                ("layout", "1"),
                ("ordinal", "100"),
                ("owner", OWNER),
                ("schedule", &schedule),
                ("term", "1"),
                ("uid", "uid-1"),
                ("used", "0"),
            ];
            assert_eq!(ledger, expected.map(|(field, value)| (field.to_owned(), value.to_owned())));
            assert_eq!(s.redis::<i64>(&[b"TTL", s.key("ann").as_bytes()]).await?, -1, "no expiry");
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("an existing balance is adopted", PLAIN, |s| {
        Box::pin(async move {
            s.store("ann", "37").await?;
            let outcome = s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(outcome, ApplyOutcome::Applied { changed: true, balance: Some(37), used: 0 });
            assert_eq!(s.field("ann", "grant").await?, "100");
            s.balance_is("ann", 37).await
        })
    }),
    behaviour("a repeated apply writes nothing, under a newer term neither", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            let before = s.ledger("ann").await?;
            for term in [1, 2] {
                let outcome = by(&s, OWNER, (term, "uid-1", 1), Grant::Tokens(100), false).await?;
                assert_eq!(outcome, ApplyOutcome::Applied { changed: false, balance: Some(60), used: 40 });
                assert_eq!(s.ledger("ann").await?, before);
            }
            s.balance_is("ann", 60).await
        })
    }),
    behaviour("an edited grant moves the balance by the difference", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.add("ann", 7).await?;
            for (generation, grant, left) in [(2, 200, 167), (3, 50, 17), (4, 10, -23), (5, 100, 67)] {
                let outcome = by(&s, OWNER, (1, "uid-1", generation), Grant::Tokens(grant), false).await?;
                assert_eq!(outcome, ApplyOutcome::Applied { changed: true, balance: Some(left), used: 40 });
            }
            s.balance_is("ann", 67).await
        })
    }),
    behaviour("a grant edited to 0 blocks what was left, what is added later counts", PLAIN, |s| {
        Box::pin(async move {
            s.store("ann", "500").await?;
            s.declare("ann", Grant::Tokens(0)).await?;
            s.balance_is("ann", 0).await?;
            s.add("ann", 5).await?;
            s.declare("ann", Grant::Tokens(0)).await?;
            s.balance_is("ann", 5).await?;
            by(&s, OWNER, (1, "uid-1", 2), Grant::Tokens(100), false).await?;
            s.balance_is("ann", 105).await
        })
    }),
    behaviour("a sum beyond the largest exact number saturates", PLAIN, |s| {
        Box::pin(async move {
            s.store("ann", &MAX_AMOUNT.to_string()).await?;
            s.declare("ann", Grant::Tokens(1)).await?;
            by(&s, OWNER, (1, "uid-1", 2), Grant::Tokens(MAX_AMOUNT), false).await?;
            s.balance_is("ann", MAX_AMOUNT).await
        })
    }),
    behaviour("unlimited is switched on and off", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            by(&s, OWNER, (1, "uid-1", 2), Grant::Unlimited, false).await?;
            assert_eq!(s.ask("ann", 1000).await?, Asked::Served);
            s.balance_is("ann", 60).await?;
            let off = by(&s, OWNER, (1, "uid-1", 3), Grant::Tokens(200), false).await?;
            assert_eq!(off, ApplyOutcome::Applied { changed: true, balance: Some(160), used: 1040 });
            assert_eq!(s.field("ann", "unlimited").await?, "");
            s.balance_is("ann", 160).await
        })
    }),
    behaviour("who was unlimited from the beginning gets the whole grant when limited", PLAIN, |s| {
        Box::pin(async move {
            let on = s.declare("ann", Grant::Unlimited).await?;
            assert_eq!(on, ApplyOutcome::Applied { changed: true, balance: None, used: 0 });
            assert_eq!(
                s.declare("ann", Grant::Unlimited).await?,
                ApplyOutcome::Applied { changed: false, balance: None, used: 0 }
            );
            s.ask("ann", 30).await?;
            by(&s, OWNER, (1, "uid-1", 2), Grant::Tokens(100), false).await?;
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("a parked amount is restored, with the edit made meanwhile", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.park("ann").await?;
            let outcome = by(&s, OWNER, (1, "uid-1", 3), Grant::Tokens(150), false).await?;
            assert_eq!(outcome, ApplyOutcome::Applied { changed: true, balance: Some(110), used: 40 });
            assert_eq!(s.field("ann", "parked").await?, "");
            Ok(())
        })
    }),
    behaviour("a lost key is restored without what was spent", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.redis::<()>(&[b"DEL", s.key("ann").as_bytes()]).await?;
            let outcome = s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(outcome, ApplyOutcome::Applied { changed: true, balance: Some(60), used: 40 });
            Ok(())
        })
    }),
    behaviour("the period rolls before the edit", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 140).await?;
            s.rewind("ann", 3).await?;
            let outcome = by(&s, OWNER, (1, "uid-1", 2), Grant::Tokens(150), false).await?;
            assert_eq!(outcome, ApplyOutcome::Applied { changed: true, balance: Some(150), used: 0 });
            Ok(())
        })
    }),
    behaviour("another schedule begins in its current period and grants nothing", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.edit("ann", "schedule", "former").await?;
            s.rewind("ann", 5).await?;
            s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(s.field("ann", "schedule").await?, schedule(&s));
            assert_eq!(s.field("ann", "ordinal").await?, NOW.to_string());
            s.balance_is("ann", 60).await?;
            let key = s.key("ann");
            let none = Apply { period: None, ..declared(&key) };
            assert!(matches!(s.apply(none).await?, ApplyOutcome::Applied { changed: true, .. }));
            assert_eq!(s.field("ann", "schedule").await? + &s.field("ann", "ordinal").await?, "");
            assert!(matches!(s.apply(none).await?, ApplyOutcome::Applied { changed: false, .. }));
            s.balance_is("ann", 60).await
        })
    }),
    behaviour("before the first boundary it is the period before, after the last the last", PLAIN, |s| {
        Box::pin(async move {
            let hour = 3600;
            for (consumer, boundaries, ordinal) in [
                ("ann", [(7, s.now + hour), (8, s.now + 2 * hour)], "6"),
                ("bob", [(7, s.now - hour), (8, s.now + hour)], "7"),
                ("cid", [(7, s.now - 2 * hour), (8, s.now - hour)], "8"),
            ] {
                let period = Period { schedule: "far", mode: RefreshMode::Reset, cap: 0, boundaries: &boundaries };
                s.apply(Apply { period: Some(period), ..declared(&s.key(consumer)) }).await?;
                assert_eq!(s.field(consumer, "ordinal").await?, ordinal);
            }
            Ok(())
        })
    }),
    behaviour(
        "boundaries that Redis' clock has not reached roll nothing, however far their ordinals are",
        PLAIN,
        |s| {
            Box::pin(async move {
                let hour = 3600;
                let at = |ordinal| [(ordinal, s.now + hour), (ordinal + 1, s.now + 2 * hour)];
                for mode in [RefreshMode::Reset, RefreshMode::Add, RefreshMode::CarryOver] {
                    let consumer = format!("{mode:?}");
                    for boundaries in [at(7), at(13)] {
                        let period = Period { schedule: "far", mode, cap: 1_000, boundaries: &boundaries };
                        s.apply(Apply { period: Some(period), ..declared(&s.key(&consumer)) }).await?;
                        assert_eq!(s.field(&consumer, "ordinal").await?, "6");
                        s.balance_is(&consumer, 100).await?;
                        assert_eq!(s.ask(&consumer, 0).await?, Asked::Served);
                    }
                }
                Ok(())
            })
        },
    ),
    behaviour("another owner is answered, and nothing changes", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            let before = s.ledger("ann").await?;
            let outcome = by(&s, OTHER, (9, "uid-2", 9), Grant::Tokens(500), false).await?;
            assert_eq!(outcome, ApplyOutcome::Conflict { owner: OWNER.into(), lazy: false });
            assert_eq!(s.ledger("ann").await?, before);
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("a balance made from a default is answered as nobody's", DEFAULT, |s| {
        Box::pin(async move {
            s.ask("ann", 40).await?;
            let outcome = by(&s, OTHER, (1, "uid-2", 1), Grant::Tokens(500), false).await?;
            assert_eq!(outcome, ApplyOutcome::Conflict { owner: OWNER.into(), lazy: true });
            by(&s, OTHER, (1, "uid-2", 1), Grant::Tokens(500), true).await?;
            assert_eq!(s.field("ann", "lazy").await?, "");
            s.balance_is("ann", 460).await
        })
    }),
    behaviour("a takeover keeps usage and follows the new grant", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            let outcome = by(&s, OTHER, (1, "uid-2", 1), Grant::Tokens(500), true).await?;
            assert_eq!(outcome, ApplyOutcome::Applied { changed: true, balance: Some(460), used: 40 });
            assert_eq!(s.field("ann", "owner").await?, OTHER);
            let former = s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(former, ApplyOutcome::Conflict { owner: OTHER.into(), lazy: false });
            Ok(())
        })
    }),
    behaviour("a released ledger is anybody's", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.redis::<()>(&[b"HDEL", &s.key("ann").ledger(), b"owner"]).await?;
            by(&s, OTHER, (1, "uid-2", 1), Grant::Tokens(100), false).await?;
            assert_eq!(s.field("ann", "owner").await?, OTHER);
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("the term decides first, the generation under the same uid", PLAIN, |s| Box::pin(fences(s))),
    behaviour("an old leader cannot take back what a newer one did", PLAIN, |s| {
        Box::pin(async move {
            by(&s, OWNER, (1, "uid-1", 1), Grant::Tokens(100), false).await?;
            by(&s, OWNER, (2, "uid-1", 2), Grant::Tokens(200), false).await?;
            for fence in [(1, "uid-1", 1), (1, "uid-1", 9)] {
                assert_eq!(by(&s, OWNER, fence, Grant::Tokens(100), false).await?, ApplyOutcome::Stale { term: 2 });
            }
            s.balance_is("ann", 200).await
        })
    }),
    behaviour("an edit and its return leave no room for the edit in between", PLAIN, |s| {
        Box::pin(async move {
            by(&s, OWNER, (1, "uid-1", 4), Grant::Tokens(100), false).await?;
            let again = by(&s, OWNER, (2, "uid-1", 6), Grant::Tokens(100), false).await?;
            assert_eq!(again, ApplyOutcome::Applied { changed: true, balance: Some(100), used: 0 });
            assert_eq!(
                by(&s, OWNER, (1, "uid-1", 5), Grant::Tokens(200), false).await?,
                ApplyOutcome::Stale { term: 2 }
            );
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("a malformed balance is answered, and nothing changes", RESET, |s| {
        Box::pin(async move {
            s.store("ann", "1e17").await?;
            let outcome = s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(outcome, ApplyOutcome::Malformed { value: "1e17".into() });
            assert!(s.ledger("ann").await?.is_empty());
            s.store("bob", "5").await?;
            s.declare("bob", Grant::Tokens(100)).await?;
            s.store("bob", "\u{1b}x").await?;
            s.rewind("bob", 1).await?;
            let before = s.ledger("bob").await?;
            let key = s.key("bob");
            let again = Apply { grant: Grant::Tokens(200), period: s.period(), ..declared(&key) };
            assert_eq!(s.apply(again).await?, ApplyOutcome::Malformed { value: "\\x1bx".into() });
            assert_eq!(s.ledger("bob").await?, before);
            Ok(())
        })
    }),
    behaviour("a ledger of a newer layout is left alone", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.edit("ann", "layout", "2").await?;
            let error = s.declare("ann", Grant::Tokens(200)).await.expect_err("not ours to read");
            assert_eq!(error.to_string(), "the ledger has layout version 2, this version knows 1");
            s.balance_is("ann", 100).await
        })
    }),
];

/// The name of the policy's schedule.
fn schedule(s: &Stage) -> String {
    s.period().map(|period| period.schedule.to_owned()).unwrap_or_default()
}

const fn declared(balance: &Balance) -> Apply<'_> {
    let fence = Fence { term: 1, uid: "uid-1", generation: 1 };
    Apply { balance, owner: OWNER, fence, grant: Grant::Tokens(100), takeover: false, refresh: None, period: None }
}

/// Applies ann's grant as `owner` with a fence of term, uid and generation.
async fn by(
    s: &Stage,
    owner: &str,
    (term, uid, generation): (i64, &str, i64),
    grant: Grant,
    takeover: bool,
) -> Result<ApplyOutcome> {
    let fence = Fence { term, uid, generation };
    s.apply(Apply { balance: &s.key("ann"), owner, fence, grant, takeover, refresh: None, period: s.period() }).await
}

async fn fences(s: Stage) -> Result<()> {
    let stored = (5, "uid-5", 5);
    for ((term, uid, generation), accepted) in [
        ((4, "uid-5", 9), false),
        ((4, "uid-6", 9), false),
        ((5, "uid-5", 4), false),
        ((5, "uid-5", 5), true),
        ((5, "uid-5", 6), true),
        ((5, "uid-6", 1), true),
        ((6, "uid-5", 1), true),
        ((6, "uid-6", 1), true),
    ] {
        s.redis::<()>(&[b"DEL", s.key("ann").as_bytes(), &s.key("ann").ledger()]).await?;
        by(&s, OWNER, stored, Grant::Tokens(100), false).await?;
        let before = s.ledger("ann").await?;
        let outcome = by(&s, OWNER, (term, uid, generation), Grant::Tokens(300), false).await?;
        let case = format!("{term} {uid} {generation}");
        if accepted {
            assert_eq!(outcome, ApplyOutcome::Applied { changed: true, balance: Some(300), used: 0 }, "{case}");
            let fence =
                [s.field("ann", "term").await?, s.field("ann", "uid").await?, s.field("ann", "generation").await?];
            assert_eq!(fence, [term.to_string(), uid.to_owned(), generation.to_string()], "{case}");
        } else {
            assert_eq!(outcome, ApplyOutcome::Stale { term: 5 }, "{case}");
            assert_eq!(s.ledger("ann").await?, before, "{case}");
        }
    }
    // A takeover is for other owners' ledgers, not for newer controllers'.
    assert_eq!(by(&s, OTHER, (4, "uid-9", 9), Grant::Tokens(1), true).await?, ApplyOutcome::Stale { term: 6 });
    Ok(())
}
