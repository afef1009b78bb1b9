//! What the controller's park, release and delete answer and leave. Scripts only.

use anyhow::Result;
use enforcement::{
    redis::{Apply, ApplyOutcome, Check, Fence, Grant, Hold, Invocation, LeaveOutcome, Park},
    values::MAX_AMOUNT,
    wire::RefreshMode,
};

use super::{
    Behaviour, behaviour,
    holding::{hold, settle},
    leaving::{DONE, Fenced, NOTHING, delete, ends, fence, keys, park, release},
    stage::{NOW, OWNER, Setup, Stage},
};

const PLAIN: Setup = Setup { default_quota: None, refresh: None, yields: false };
const DEFAULT: Setup = Setup { default_quota: Some(1000), refresh: None, yields: false };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };
const ADD: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Add, None)), yields: false };
const DEFAULT_RESET: Setup =
    Setup { default_quota: Some(1000), refresh: Some((RefreshMode::Reset, None)), yields: false };

const OTHER: &str = "cluster/ns/other";

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("parking moves the balance into the ledger, once", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            let mut expected = s.ledger("ann").await?;
            expected.extend([("parked", "60"), ("generation", "2")].map(|(name, value)| (name.into(), value.into())));
            assert_eq!(s.leave(&park(&s, "ann", (1, "uid-1", 2))).await?, DONE);
            assert_eq!(s.ledger("ann").await?, expected);
            for term in [1, 2] {
                assert_eq!(s.leave(&park(&s, "ann", (term, "uid-1", 2))).await?, NOTHING);
                assert_eq!(s.ledger("ann").await?, expected, "a newer term alone is not worth a write");
            }
            s.balance_is("ann", None).await
        })
    }),
    behaviour("the period rolls before the balance is parked", ADD, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.rewind("ann", 3).await?;
            s.park("ann").await?;
            assert_eq!(s.field("ann", "parked").await?, "360");
            assert_eq!(s.field("ann", "used").await?, "0");
            assert_eq!(s.field("ann", "ordinal").await?, NOW.to_string());
            Ok(())
        })
    }),
    behaviour("a Reset that comes with the parking is granted", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 140).await?;
            s.rewind("ann", 1).await?;
            s.park("ann").await?;
            assert_eq!(s.field("ann", "parked").await?, "100");
            s.rewind("ann", 1).await?;
            assert_eq!(s.leave(&park(&s, "ann", (1, "uid-1", 1))).await?, DONE, "the boundary alone");
            assert_eq!(s.field("ann", "parked").await?, "100");
            s.balance_is("ann", None).await
        })
    }),
    behaviour("a lost key is parked without what was spent", DEFAULT, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.redis::<()>(&[b"DEL", s.key("ann").as_bytes()]).await?;
            s.park("ann").await?;
            assert_eq!(s.field("ann", "parked").await?, "60");
            s.ask("ann", 10).await?;
            s.balance_is("ann", 50).await
        })
    }),
    behaviour("who lives on a default goes on when it is parked again", DEFAULT, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(10_000)).await?;
            s.ask("ann", 4000).await?;
            s.park("ann").await?;
            s.ask("ann", 300).await?;
            let before = s.ledger("ann").await?;
            assert_eq!(s.leave(&park(&s, "ann", (1, "uid-1", 1))).await?, NOTHING);
            assert_eq!(s.ledger("ann").await?, before);
            s.balance_is("ann", 700).await
        })
    }),
    behaviour("holds outlive the parking, a charge drops its own", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            let key = s.key("ann");
            hold(&s, "1", 60).await?;
            hold(&s, "2", 30).await?;
            s.park("ann").await?;
            assert_eq!(s.field("ann", "held").await?, "90");
            settle(&s, "1", 25, None).await?;
            assert_eq!(s.field("ann", "held").await?, "30");
            assert_eq!(s.redis::<i64>(&[b"ZCARD", &key.holds()]).await?, 1);
            assert_eq!(s.field("ann", "parked").await?, "75");
            Ok(())
        })
    }),
    behaviour("what is parked ends at the smallest exact number", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.park("ann").await?;
            for _ in 0..2 {
                settle(&s, "1", MAX_AMOUNT, None).await?;
            }
            assert_eq!(s.field("ann", "parked").await?, (-MAX_AMOUNT).to_string());
            // A gift and a grant that are further apart than numbers are exact.
            s.set("ann", -MAX_AMOUNT).await?;
            s.rewind("ann", 1).await?;
            s.query("ann").await?;
            assert_eq!(s.field("ann", "parked").await?, MAX_AMOUNT.to_string());
            Ok(())
        })
    }),
    behaviour("releasing takes the owner out and nothing else", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            let mut expected = s.ledger("ann").await?;
            expected.remove("owner");
            expected.insert("term".into(), "2".into());
            assert_eq!(s.leave(&release("ann", 2)(&s)).await?, DONE);
            assert_eq!(s.ledger("ann").await?, expected);
            assert_eq!(s.leave(&release("ann", 3)(&s)).await?, NOTHING);
            assert_eq!(s.ledger("ann").await?, expected);
            s.balance_is("ann", 60).await
        })
    }),
    behaviour("a released balance is whose object comes, but not an old controller's", PLAIN, |s| {
        Box::pin(async move {
            for parked in [false, true] {
                s.declare("ann", Grant::Tokens(100)).await?;
                s.ask("ann", 40).await?;
                if parked {
                    s.park("ann").await?;
                }
                ends(&s, release("ann", 3)).await?;
                let balance = &s.key("ann");
                let by = |term, grant| Apply {
                    balance,
                    owner: OTHER,
                    fence: Fence { term, uid: "uid-2", generation: 1 },
                    grant: Grant::Tokens(grant),
                    takeover: false,
                    refresh: None,
                    period: None,
                };
                assert_eq!(s.apply(by(2, 500)).await?, ApplyOutcome::Stale { term: 3 });
                let taken = ApplyOutcome::Applied { changed: true, balance: Some(160), used: 40 };
                assert_eq!(s.apply(by(3, 200)).await?, taken, "parked {parked}");
                assert_eq!(s.field("ann", "owner").await?, OTHER);
                s.redis::<()>(&[b"DEL", balance.as_bytes(), &balance.ledger()]).await?;
            }
            Ok(())
        })
    }),
    behaviour("deleting leaves no key, whatever the balance is", DEFAULT_RESET, |s| {
        Box::pin(async move {
            for (consumer, balance) in [("ann", None), ("bob", Some("12.5")), ("cid", Some("99999999999999999999"))] {
                s.declare(consumer, Grant::Tokens(100)).await?;
                let held = Some(Hold { id: b"1", expires_in: 600 });
                let balance_key = &s.key(consumer);
                let check = Check {
                    balance: balance_key,
                    need: 60,
                    hold: held,
                    default: None,
                    owner: OWNER,
                    yields: false,
                    period: None,
                };
                s.check(check).await?;
                if let Some(balance) = balance {
                    s.store(consumer, balance).await?;
                }
                assert_eq!(keys(&s, consumer).await?, 4);
                assert_eq!(s.leave(&delete(consumer, (1, "uid-1", 1))(&s)).await?, DONE);
                assert_eq!(keys(&s, consumer).await?, 0, "{consumer}");
                assert_eq!(s.leave(&delete(consumer, (1, "uid-1", 1))(&s)).await?, LeaveOutcome::Absent);
            }
            s.declare("dan", Grant::Tokens(100)).await?;
            s.park("dan").await?;
            s.ask("eve", 10).await?;
            assert_eq!(s.field("eve", "lazy").await?, "1");
            for consumer in ["dan", "eve"] {
                assert_eq!(s.leave(&delete(consumer, (1, "uid-1", 1))(&s)).await?, DONE);
                assert_eq!(keys(&s, consumer).await?, 0, "{consumer}");
            }
            s.declare("fay", Grant::Tokens(100)).await?;
            s.redis::<()>(&[b"DEL", s.key("fay").as_bytes()]).await?;
            s.redis::<()>(&[b"RPUSH", s.key("fay").as_bytes(), b"1"]).await?;
            assert_eq!(s.leave(&delete("fay", (1, "uid-1", 1))(&s)).await?, DONE);
            assert_eq!(keys(&s, "fay").await?, 0);
            Ok(())
        })
    }),
    behaviour("what no controller applied is left alone", PLAIN, |s| {
        Box::pin(async move {
            s.store("ann", "40").await?;
            for call in all(&s, (1, "uid-1", 1)) {
                assert_eq!(s.leave(&call).await?, LeaveOutcome::Absent, "{call:?}");
            }
            assert_eq!(keys(&s, "ann").await?, 1);
            s.balance_is("ann", 40).await
        })
    }),
    behaviour("another owner's balance is left alone, and a released one by who parks or deletes", PLAIN, |s| {
        Box::pin(async move {
            let stranger = LeaveOutcome::Foreign { owner: OTHER.into() };
            let nobodys = LeaveOutcome::Foreign { owner: String::new() };
            for (owner, outcomes) in
                [(OTHER, [stranger.clone(), stranger.clone(), stranger]), ("", [nobodys.clone(), NOTHING, nobodys])]
            {
                s.declare("ann", Grant::Tokens(100)).await?;
                s.edit("ann", "owner", OTHER).await?;
                if owner.is_empty() {
                    s.redis::<()>(&[b"HDEL", &s.key("ann").ledger(), b"owner"]).await?;
                }
                let before = s.ledger("ann").await?;
                for (call, outcome) in all(&s, (9, "uid-1", 9)).into_iter().zip(outcomes) {
                    assert_eq!(s.leave(&call).await?, outcome, "{call:?}");
                    assert_eq!(s.ledger("ann").await?, before);
                }
                s.balance_is("ann", 100).await?;
                s.redis::<()>(&[b"DEL", s.key("ann").as_bytes(), &s.key("ann").ledger()]).await?;
            }
            Ok(())
        })
    }),
    behaviour("the term decides first, the generation under the same uid", PLAIN, |s| Box::pin(fences(s))),
    behaviour("what was removed stays removed for an edit that comes late", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.leave(&park(&s, "ann", (1, "uid-1", 2))).await?;
            // Listed and removed once more, but the listing never arrived.
            assert_eq!(s.leave(&park(&s, "ann", (1, "uid-1", 4))).await?, DONE, "a newer generation is stored");
            let balance = &s.key("ann");
            let fence = |term, generation| Fence { term, uid: "uid-1", generation };
            let (grant, owner) = (Grant::Tokens(100), OWNER);
            let late = |fence| Apply { balance, owner, fence, grant, takeover: false, refresh: None, period: None };
            assert_eq!(s.apply(late(fence(1, 3))).await?, ApplyOutcome::Stale { term: 1 });
            s.declare("bob", Grant::Tokens(100)).await?;
            let (balance, bob) = (&s.key("bob"), fence(2, 2));
            s.leave(&Park { balance, owner, fence: bob, period: None }.invocation()).await?;
            let late = Apply { balance, ..late(fence(1, 9)) };
            assert_eq!(s.apply(late).await?, ApplyOutcome::Stale { term: 2 }, "a former leader");
            s.balance_is("bob", None).await
        })
    }),
    behaviour("what is no balance is not parked, and nothing changes", RESET, |s| {
        Box::pin(async move {
            for grant in [Grant::Tokens(100), Grant::Unlimited] {
                s.declare("ann", grant).await?;
                s.store("ann", "1e17").await?;
                s.rewind("ann", 1).await?;
                let before = s.ledger("ann").await?;
                let outcome = s.leave(&park(&s, "ann", (2, "uid-1", 2))).await?;
                assert_eq!(outcome, LeaveOutcome::Malformed { value: "1e17".into() });
                assert_eq!(s.ledger("ann").await?, before);
                assert_eq!(s.stored("ann").await?.as_deref(), Some("1e17"));
                s.store("ann", "5").await?;
            }
            Ok(())
        })
    }),
    behaviour("what is no ledger, or a newer layout's, is left alone", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.edit("ann", "held", "12.5").await?;
            for call in all(&s, (1, "uid-1", 1)) {
                let outcome = s.leave(&call).await?;
                assert_eq!(outcome, LeaveOutcome::Malformed { value: "ledger held 12.5".into() }, "{call:?}");
            }
            s.edit("ann", "layout", "2").await?;
            for call in all(&s, (1, "uid-1", 1)) {
                let error = s.leave(&call).await.expect_err("not ours to read");
                assert_eq!(error.to_string(), "the ledger has layout version 2, this version knows 1");
            }
            assert_eq!(keys(&s, "ann").await?, 2);
            s.redis::<()>(&[b"SET", &s.key("ann").ledger(), b"text"]).await?;
            for call in all(&s, (1, "uid-1", 1)) {
                let outcome = s.leave(&call).await?;
                assert_eq!(outcome, LeaveOutcome::Malformed { value: "the ledger is not a hash".into() });
            }
            s.balance_is("ann", 100).await
        })
    }),
];

/// Each way to leave, of ann.
fn all(s: &Stage, by: Fenced) -> [Invocation; 3] {
    [park(s, "ann", by), release("ann", by.0)(s), delete("ann", by)(s)]
}

async fn fences(s: Stage) -> Result<()> {
    for (by, accepted, by_term) in [
        ((4, "uid-5", 9), false, false),
        ((4, "uid-6", 9), false, false),
        ((5, "uid-5", 4), false, true),
        ((5, "uid-5", 5), true, true),
        ((5, "uid-5", 6), true, true),
        ((5, "uid-6", 1), true, true),
        ((6, "uid-5", 1), true, true),
        ((6, "uid-6", 1), true, true),
    ] {
        // No uid and no generation come with a release.
        for (call, accepted) in all(&s, by).into_iter().zip([accepted, by_term, accepted]) {
            s.redis::<()>(&[b"DEL", s.key("ann").as_bytes(), &s.key("ann").ledger()]).await?;
            let (balance, fence, grant) = (&s.key("ann"), fence((5, "uid-5", 5)), Grant::Tokens(100));
            s.apply(Apply { balance, owner: OWNER, fence, grant, takeover: false, refresh: None, period: None })
                .await?;
            let before = (s.stored("ann").await?, s.ledger("ann").await?);
            let outcome = s.leave(&call).await?;
            let after = (s.stored("ann").await?, s.ledger("ann").await?);
            if accepted {
                assert_eq!(outcome, DONE, "{call:?}");
                assert_ne!(after, before, "{call:?}");
            } else {
                assert_eq!(outcome, LeaveOutcome::Stale { term: 5 }, "{call:?}");
                assert_eq!(after, before, "{call:?}");
            }
        }
    }
    Ok(())
}
