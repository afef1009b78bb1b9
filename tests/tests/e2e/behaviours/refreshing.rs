//! What a manual refresh does to a balance: the token that `apply` brings, honoured once. Scripts only.

use anyhow::Result;
use enforcement::{
    redis::{Apply, ApplyOutcome, Balance, Fence, Grant},
    wire::RefreshMode,
};

use super::{
    Behaviour, behaviour,
    holding::{hold, settle},
    stage::{Asked, NOW, OWNER, Setup, Stage},
};

const PLAIN: Setup = Setup { default_quota: None, refresh: None, yields: false };
const DEFAULT: Setup = Setup { default_quota: Some(1000), refresh: None, yields: false };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };
const ADD: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Add, None)), yields: false };
const CARRY: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::CarryOver, Some(120))), yields: false };

const OTHER: &str = "cluster/ns/other";

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("a token gives what one boundary gives, once: Reset", RESET, |s| Box::pin(once(s, 100))),
    behaviour("a token gives what one boundary gives, once: Add", ADD, |s| Box::pin(once(s, 160))),
    behaviour("a token gives what one boundary gives, once: CarryOver", CARRY, |s| Box::pin(once(s, 120))),
    behaviour("a token gives what one boundary gives, once: without a schedule a Reset", PLAIN, |s| {
        Box::pin(once(s, 100))
    }),
    behaviour("a boundary that passed meanwhile gives its own", ADD, |s| {
        Box::pin(async move {
            spent(&s, 40).await?;
            s.rewind("ann", 2).await?;
            assert_eq!(refresh(&s, "t").await?, applied(true, 360, 0));
            assert_eq!(s.field("ann", "ordinal").await?, NOW.to_string());
            Ok(())
        })
    }),
    behaviour("the grant is edited after the refresh", ADD, |s| {
        Box::pin(async move {
            spent(&s, 40).await?;
            let key = s.key("ann");
            let fence = Fence { generation: 2, ..FENCE };
            let edited = Apply { grant: Grant::Tokens(150), fence, period: s.period(), ..with(&key, "t") };
            assert_eq!(s.apply(edited).await?, applied(true, 210, 0));
            Ok(())
        })
    }),
    behaviour("holds stay, and a request in flight is charged to what it finds", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            hold(&s, "1", 60).await?;
            refresh(&s, "t").await?;
            assert_eq!(s.field("ann", "held").await?, "60");
            settle(&s, "1", 30, None).await?;
            assert_eq!(s.field("ann", "held").await?, "0");
            s.balance_is("ann", 70).await
        })
    }),
    behaviour("who is unlimited counts its usage anew", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Unlimited).await?;
            s.ask("ann", 40).await?;
            let key = s.key("ann");
            let again = Apply { grant: Grant::Unlimited, period: s.period(), ..with(&key, "t") };
            let outcome = ApplyOutcome::Applied { changed: true, balance: None, used: 0 };
            assert_eq!(s.apply(again).await?, outcome);
            assert_eq!(s.field("ann", "used").await?, "0");
            Ok(())
        })
    }),
    behaviour("a new balance and an adopted one only keep the token in mind", RESET, |s| {
        Box::pin(async move {
            assert_eq!(refresh(&s, "t").await?, applied(true, 100, 0));
            s.ask("ann", 40).await?;
            assert_eq!(refresh(&s, "t").await?, applied(false, 60, 40));
            s.redis::<()>(&[b"DEL", &s.key("ann").ledger()]).await?;
            assert_eq!(refresh(&s, "u").await?, applied(true, 60, 0));
            assert_eq!(s.field("ann", "refreshed").await?, "u");
            Ok(())
        })
    }),
    behaviour("a parked one only keeps the token in mind", RESET, |s| {
        Box::pin(async move {
            spent(&s, 40).await?;
            s.park("ann").await?;
            assert_eq!(refresh(&s, "t").await?, applied(true, 60, 40));
            assert_eq!(refresh(&s, "t").await?, applied(false, 60, 40));
            Ok(())
        })
    }),
    behaviour("who lived on a default only keeps the token in mind", DEFAULT, |s| {
        Box::pin(async move {
            s.ask("ann", 300).await?;
            assert_eq!(refresh(&s, "t").await?, applied(true, -200, 300));
            assert_eq!(s.field("ann", "refreshed").await?, "t");
            s.declare("bob", Grant::Tokens(100)).await?;
            s.park("bob").await?;
            s.ask("bob", 30).await?;
            assert_eq!(s.apply(with(&s.key("bob"), "t")).await?, applied(true, 70, 30));
            Ok(())
        })
    }),
    behaviour("who comes from another object only keeps the token in mind, and forgets the other's", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            refresh(&s, "t").await?;
            s.ask("ann", 40).await?;
            let key = s.key("ann");
            let other = Apply { owner: OTHER, takeover: true, period: s.period(), ..with(&key, "t") };
            // The same word, and nothing was refreshed for it yet.
            assert_eq!(s.apply(Apply { refresh: None, ..other }).await?, applied(true, 60, 40));
            assert_eq!(s.field("ann", "refreshed").await?, "");
            assert_eq!(s.apply(other).await?, applied(true, 100, 0));
            s.ask("ann", 40).await?;
            let back = Apply { period: s.period(), takeover: true, ..with(&key, "u") };
            assert_eq!(s.apply(back).await?, applied(true, 60, 40));
            // An object of the same name that was made anew is another one, too.
            let anew = Apply { fence: Fence { uid: "uid-2", ..FENCE }, ..back };
            assert_eq!(s.apply(Apply { refresh: Some("v"), ..anew }).await?, applied(true, 60, 40));
            assert_eq!(s.apply(Apply { refresh: Some("w"), ..anew }).await?, applied(true, 100, 0));
            Ok(())
        })
    }),
    behaviour("no token changes nothing, and an honoured one stays honoured", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            refresh(&s, "t").await?;
            s.ask("ann", 40).await?;
            assert_eq!(s.declare("ann", Grant::Tokens(100)).await?, applied(false, 60, 40));
            assert_eq!(refresh(&s, "t").await?, applied(false, 60, 40));
            Ok(())
        })
    }),
    behaviour("a token that comes again after another one is not honoured again", ADD, |s| {
        Box::pin(async move {
            spent(&s, 40).await?;
            assert_eq!(refresh(&s, "t").await?, applied(true, 160, 0));
            assert_eq!(refresh(&s, "u").await?, applied(true, 260, 0));
            for late in ["t", "u", "t"] {
                assert_eq!(refresh(&s, late).await?, applied(false, 260, 0), "{late}");
            }
            assert_eq!(s.field("ann", "refreshed").await?, "u");
            // Nor from a controller that knows no token yet, nor after a new generation.
            assert_eq!(s.declare("ann", Grant::Tokens(100)).await?, applied(false, 260, 0));
            assert_eq!(refresh(&s, "u").await?, applied(false, 260, 0));
            assert_eq!(refresh(&s, "v").await?, applied(true, 360, 0));
            for late in ["t", "u", "v"] {
                assert_eq!(refresh(&s, late).await?, applied(false, 360, 0), "{late}");
            }
            Ok(())
        })
    }),
    behaviour("five tokens are known, in the space of the field of a small hash", ADD, |s| {
        Box::pin(async move {
            spent(&s, 40).await?;
            for (token, balance) in [("1", 160), ("2", 260), ("3", 360), ("4", 460), ("5", 560), ("6", 660)] {
                assert_eq!(refresh(&s, token).await?, applied(true, balance, 0), "{token}");
            }
            for late in ["2", "3", "4", "5", "6"] {
                assert_eq!(refresh(&s, late).await?, applied(false, 660, 0), "{late}");
            }
            assert!(s.field("ann", "earlier").await?.len() <= 64);
            assert_eq!(refresh(&s, "1").await?, applied(true, 760, 0), "older than all that are known");
            Ok(())
        })
    }),
    behaviour("a ledger of a version that knew one token is read", ADD, |s| {
        Box::pin(async move {
            spent(&s, 40).await?;
            s.edit("ann", "refreshed", "t").await?;
            assert_eq!(refresh(&s, "t").await?, applied(false, 60, 40));
            assert_eq!(refresh(&s, "u").await?, applied(true, 160, 0));
            assert_eq!(refresh(&s, "t").await?, applied(false, 160, 0));
            Ok(())
        })
    }),
    behaviour("a write that is refused honours no token", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.edit("ann", "term", "2").await?;
            assert_eq!(refresh(&s, "t").await?, ApplyOutcome::Stale { term: 2 });
            s.edit("ann", "term", "1").await?;
            s.edit("ann", "owner", OTHER).await?;
            assert!(matches!(refresh(&s, "t").await?, ApplyOutcome::Conflict { .. }));
            s.edit("ann", "owner", OWNER).await?;
            s.store("ann", "abc").await?;
            assert!(matches!(refresh(&s, "t").await?, ApplyOutcome::Malformed { .. }));
            s.store("ann", "60").await?;
            assert_eq!(s.field("ann", "refreshed").await? + &s.field("ann", "used").await?, "40");
            assert_eq!(refresh(&s, "t").await?, applied(true, 100, 0));
            Ok(())
        })
    }),
];

const FENCE: Fence<'static> = Fence { term: 1, uid: "uid-1", generation: 1 };

const fn applied(changed: bool, balance: i64, used: i64) -> ApplyOutcome {
    ApplyOutcome::Applied { changed, balance: Some(balance), used }
}

const fn with<'a>(balance: &'a Balance, token: &'a str) -> Apply<'a> {
    let grant = Grant::Tokens(100);
    Apply { balance, owner: OWNER, fence: FENCE, grant, takeover: false, refresh: Some(token), period: None }
}

async fn refresh(s: &Stage, token: &str) -> Result<ApplyOutcome> {
    s.apply(Apply { period: s.period(), ..with(&s.key("ann"), token) }).await
}

/// Ann is listed and has spent so much.
async fn spent(s: &Stage, tokens: i64) -> Result<()> {
    s.declare("ann", Grant::Tokens(100)).await?;
    assert_eq!(s.ask("ann", tokens).await?, Asked::Served);
    Ok(())
}

async fn once(s: Stage, left: i64) -> Result<()> {
    spent(&s, 40).await?;
    let before = s.field("ann", "ordinal").await?;
    assert_eq!(refresh(&s, "t").await?, applied(true, left, 0));
    assert_eq!(s.field("ann", "refreshed").await?, "t");
    assert_eq!(s.field("ann", "ordinal").await?, before, "no period began");
    assert_eq!(refresh(&s, "t").await?, applied(false, left, 0));
    s.ask("ann", 10).await?;
    assert_eq!(refresh(&s, "t").await?, applied(false, left - 10, 10));
    s.balance_is("ann", left - 10).await
}
