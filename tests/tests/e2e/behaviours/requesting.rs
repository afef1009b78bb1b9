//! What a request and its answer's usage do to a balance: reached through either door.

use anyhow::Result;
use enforcement::{redis::Grant, wire::RefreshMode};

use super::{
    Behaviour, behaviour,
    stage::{Administered, Asked, OWNER, Setup, Stage},
};

const LISTED: Setup = Setup { default_quota: None, refresh: None, yields: false };
const DEFAULT: Setup = Setup { default_quota: Some(1000), refresh: None, yields: false };
const YIELDING: Setup = Setup { default_quota: Some(1000), refresh: None, yields: true };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };
const DEFAULT_RESET: Setup =
    Setup { default_quota: Some(1000), refresh: Some((RefreshMode::Reset, None)), yields: false };

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("a declared quota is spent by what answers use", LISTED, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(s.ask("ann", 25).await?, Asked::Served);
            assert_eq!(s.ask("ann", 30).await?, Asked::Served);
            assert_eq!(s.field("ann", "used").await?, "55");
            s.balance_is("ann", 45).await
        })
    }),
    behaviour("the last admitted request may overdraw, the next is refused", LISTED, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(10)).await?;
            assert_eq!(s.ask("ann", 25).await?, Asked::Served);
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", -15).await
        })
    }),
    behaviour("exactly 0 is refused", LISTED, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(25)).await?;
            assert_eq!(s.ask("ann", 25).await?, Asked::Served);
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", 0).await
        })
    }),
    behaviour("a quota of 0 blocks", DEFAULT, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(0)).await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", 0).await
        })
    }),
    behaviour("without a default who is not listed is refused and leaves no trace", LISTED, |s| {
        Box::pin(async move {
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            assert!(s.ledger("ann").await?.is_empty());
            s.balance_is("ann", None).await
        })
    }),
    behaviour("who is not listed starts with the default once", DEFAULT, |s| {
        Box::pin(async move {
            assert_eq!(s.ask("ann", 400).await?, Asked::Served);
            s.balance_is("ann", 600).await?;
            let ledger = s.ledger("ann").await?;
            for (field, value) in [
                ("owner", OWNER),
                ("term", "0"),
                ("generation", "0"),
                ("grant", "1000"),
                ("lazy", "1"),
                ("layout", "1"),
            ] {
                assert_eq!(ledger[field], value, "{field}");
            }
            assert_eq!(s.ask("ann", 700).await?, Asked::Served);
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", -100).await
        })
    }),
    behaviour("a raised default reaches who lives on it, usage stays", DEFAULT, |s| {
        Box::pin(async move {
            lazily(&s, "ann", 300, 100).await?;
            assert_eq!(s.ask("ann", 50).await?, Asked::Served);
            assert_eq!(s.field("ann", "grant").await?, "1000");
            s.balance_is("ann", 1000 - 200 - 50).await
        })
    }),
    behaviour(
        "who lives on another object's default follows the one that decides, which has it from then on",
        DEFAULT,
        |s| {
            Box::pin(async move {
                lazily(&s, "ann", 300, 100).await?;
                s.edit("ann", "owner", "cluster/ns/other").await?;
                assert_eq!(s.ask("ann", 50).await?, Asked::Served);
                assert_eq!(s.field("ann", "owner").await?, OWNER);
                s.balance_is("ann", 1000 - 200 - 50).await
            })
        },
    ),
    behaviour("a default that yields changes no other object's balance, and its own still", YIELDING, |s| {
        Box::pin(async move {
            for (consumer, owner, left) in [("ann", "cluster/ns/other", 50), ("bob", OWNER, 1000 - 200 - 50)] {
                lazily(&s, consumer, 300, 100).await?;
                s.edit(consumer, "owner", owner).await?;
                assert_eq!(s.ask(consumer, 50).await?, Asked::Served);
                assert_eq!(s.field(consumer, "owner").await?, owner);
                s.balance_is(consumer, left).await?;
            }
            Ok(())
        })
    }),
    behaviour("another cluster's balance is left to it", DEFAULT, |s| {
        Box::pin(async move {
            lazily(&s, "ann", 300, 100).await?;
            s.edit("ann", "owner", "cluster2/ns/chat").await?;
            assert_eq!(s.ask("ann", 50).await?, Asked::Served);
            assert_eq!(s.field("ann", "owner").await?, "cluster2/ns/chat");
            s.balance_is("ann", 50).await
        })
    }),
    behaviour(
        "who lived on another object's default follows the schedule of the one that decides",
        DEFAULT_RESET,
        |s| {
            Box::pin(async move {
                lazily(&s, "ann", 1000, 100).await?;
                s.edit("ann", "owner", "cluster/ns/other").await?;
                s.edit("ann", "schedule", "former").await?;
                s.rewind("ann", 3).await?;
                assert_eq!(s.ask("ann", 30).await?, Asked::Served);
                s.balance_is("ann", 70).await?;
                s.rewind("ann", 1).await?;
                assert_eq!(s.ask("ann", 30).await?, Asked::Served);
                s.balance_is("ann", 970).await
            })
        },
    ),
    behaviour("who lives on a default follows an edited schedule, and is granted nothing for it", DEFAULT_RESET, |s| {
        Box::pin(async move {
            lazily(&s, "ann", 1000, 100).await?;
            s.edit("ann", "schedule", "former").await?;
            s.rewind("ann", 3).await?;
            assert_eq!(s.ask("ann", 30).await?, Asked::Served);
            s.balance_is("ann", 70).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(s.ask("ann", 30).await?, Asked::Served);
            s.balance_is("ann", 970).await
        })
    }),
    behaviour("a parked consumer is refused without a default", LISTED, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.park("ann").await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            assert_eq!(s.field("ann", "parked").await?, "100");
            s.balance_is("ann", None).await
        })
    }),
    behaviour("a parked consumer gets what it had where that is less than the default", DEFAULT, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.park("ann").await?;
            assert_eq!(s.ask("ann", 40).await?, Asked::Served);
            s.balance_is("ann", 60).await
        })
    }),
    behaviour("a parked consumer in debt gets no default", DEFAULT, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(10)).await?;
            s.ask("ann", 30).await?;
            s.park("ann").await?;
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            s.balance_is("ann", -20).await
        })
    }),
    behaviour("a parked consumer gets the default where it had more, and the rest when listed again", DEFAULT, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(10_000)).await?;
            s.ask("ann", 4000).await?;
            s.park("ann").await?;
            assert_eq!(s.ask("ann", 300).await?, Asked::Served);
            s.balance_is("ann", 700).await?;
            s.declare("ann", Grant::Tokens(10_000)).await?;
            s.balance_is("ann", 10_000 - 4000 - 300).await?;
            assert_eq!(s.field("ann", "parked").await? + &s.field("ann", "lazy").await?, "");
            Ok(())
        })
    }),
    behaviour("a lost key is no reason for a fresh default", DEFAULT, |s| {
        Box::pin(async move {
            assert_eq!(s.ask("ann", 400).await?, Asked::Served);
            s.redis::<()>(&[b"DEL", s.key("ann").as_bytes()]).await?;
            assert_eq!(s.ask("ann", 100).await?, Asked::Served);
            s.balance_is("ann", 500).await
        })
    }),
    behaviour("unlimited passes without balance, and usage is counted", LISTED, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Unlimited).await?;
            assert_eq!(s.ask("ann", 25).await?, Asked::Served);
            assert_eq!(s.ask("ann", 30).await?, Asked::Served);
            assert_eq!(s.field("ann", "used").await?, "55");
            s.balance_is("ann", None).await
        })
    }),
    behaviour("unlimited passes in debt and leaves the balance alone", RESET, |s| {
        Box::pin(async move {
            s.store("ann", "-5").await?;
            s.declare("ann", Grant::Unlimited).await?;
            assert_eq!(s.ask("ann", 25).await?, Asked::Served);
            s.rewind("ann", 1).await?;
            assert_eq!(s.ask("ann", 30).await?, Asked::Served);
            assert_eq!(s.field("ann", "used").await?, "30", "of this period");
            s.balance_is("ann", -5).await
        })
    }),
    behaviour("unlimited passes over what is no balance", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Unlimited).await?;
            s.store("ann", "abc").await?;
            assert_eq!(s.ask("ann", 25).await?, Asked::Served);
            s.rewind("ann", 1).await?;
            assert_eq!(s.ask("ann", 30).await?, Asked::Served);
            assert_eq!(s.field("ann", "used").await?, "30", "of this period");
            assert_eq!(s.stored("ann").await?.as_deref(), Some("abc"));
            Ok(())
        })
    }),
    behaviour("a balance without ledger is obeyed as upstream obeys it", DEFAULT_RESET, |s| {
        Box::pin(async move {
            s.store("ann", "40").await?;
            assert_eq!(s.ask("ann", 25).await?, Asked::Served);
            assert_eq!(s.ask("ann", 25).await?, Asked::Served);
            assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota);
            assert!(s.ledger("ann").await?.is_empty());
            s.balance_is("ann", -10).await
        })
    }),
    behaviour("what is no balance refuses and is never rewritten", DEFAULT_RESET, |s| Box::pin(malformed(s))),
    behaviour("what is no ledger refuses and is never rewritten", DEFAULT_RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            for value in ["", "abc", "12.5", "9007199254740992", "-9007199254740992", "inf", "nan"] {
                s.edit("ann", "grant", value).await?;
                let before = s.ledger("ann").await?;
                assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota, "{value}");
                assert_eq!(s.ledger("ann").await?, before);
            }
            s.redis::<()>(&[b"SET", &s.key("bob").ledger(), b"text"]).await?;
            assert_eq!(s.ask("bob", 1).await?, Asked::NoQuota);
            s.balance_is("bob", None).await
        })
    }),
];

/// A consumer that a request made from a default of `grant`, with `left` of it.
async fn lazily(s: &Stage, consumer: &str, grant: i64, left: i64) -> Result<()> {
    assert_eq!(s.ask(consumer, 1).await?, Asked::Served);
    s.edit(consumer, "grant", &grant.to_string()).await?;
    s.store(consumer, &left.to_string()).await
}

async fn malformed(s: Stage) -> Result<()> {
    let values =
        ["abc", "", "1.5", "1e3", "007", "-0", "+5", " 5", "5 ", "0x10", "9007199254740992", "-9007199254740992"];
    let long = "9".repeat(400);
    for value in values.into_iter().chain([long.as_str(), "inf", "nan"]) {
        s.store("ann", value).await?;
        assert_eq!(s.ask("ann", 1).await?, Asked::NoQuota, "{value}");
        assert_eq!(s.query("ann").await?, None, "{value}");
        assert_eq!(s.add("ann", 1).await?, Administered::Refused, "{value}");
        assert_eq!(s.stored("ann").await?.as_deref(), Some(value));
    }
    s.redis::<()>(&[b"RPUSH", s.key("bob").as_bytes(), b"1"]).await?;
    assert_eq!(s.ask("bob", 1).await?, Asked::NoQuota, "a list");
    // With a ledger the period stays too: it rolls when the value is repaired.
    s.declare("eve", Grant::Tokens(100)).await?;
    s.store("eve", "abc").await?;
    s.rewind("eve", 1).await?;
    let before = s.ledger("eve").await?;
    assert_eq!(s.ask("eve", 1).await?, Asked::NoQuota);
    assert_eq!(s.ledger("eve").await?, before);
    s.store("eve", "-20").await?;
    assert_eq!(s.ask("eve", 1).await?, Asked::Served);
    s.balance_is("eve", 99).await
}
