//! Holds of requests in flight, and charges that come late: after a Reset, after the consumer was removed, or
//! again. Scripts only.

use anyhow::Result;
use enforcement::{
    redis::{Balance, Charge, ChargeOutcome, Check, CheckOutcome, Grant, Hold, Left, Renew, Reply, ReplyError},
    values::MAX_AMOUNT,
    wire::RefreshMode,
};

use super::{
    Behaviour, behaviour,
    stage::{NOW, OWNER, Setup, Stage},
};

const PLAIN: Setup = Setup { default_quota: None, refresh: None, yields: false };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };
const ADD: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Add, None)), yields: false };

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("what is held cannot be held again", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(hold(&s, "1", 60).await?, admitted(100));
            assert_eq!(hold(&s, "2", 60).await?, CheckOutcome::Refused { available: Some(40) });
            assert_eq!(hold(&s, "3", 40).await?, admitted(40));
            assert_eq!(hold(&s, "4", 1).await?, CheckOutcome::Refused { available: Some(0) });
            held_is(&s, 100, 2).await?;
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("a charge drops its hold and takes what was used", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            hold(&s, "1", 60).await?;
            hold(&s, "2", 40).await?;
            assert_eq!(settle(&s, "1", 25, None).await?, ChargeOutcome::Booked { balance: Some(75) });
            held_is(&s, 40, 1).await?;
            assert_eq!(hold(&s, "3", 35).await?, admitted(35));
            assert_eq!(settle(&s, "2", 0, None).await?, ChargeOutcome::Booked { balance: Some(75) });
            assert_eq!(settle(&s, "3", 50, None).await?, ChargeOutcome::Booked { balance: Some(25) });
            held_is(&s, 0, 0).await
        })
    }),
    behaviour("a check that is repeated holds once", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(hold(&s, "1", 60).await?, admitted(100));
            assert_eq!(hold(&s, "1", 60).await?, admitted(100));
            assert_eq!(hold(&s, "1", 70).await?, admitted(100));
            held_is(&s, 70, 1).await
        })
    }),
    behaviour("a refused request holds nothing", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            assert_eq!(hold(&s, "1", 101).await?, CheckOutcome::Refused { available: Some(100) });
            assert_eq!(s.field("ann", "held").await?, "");
            Ok(())
        })
    }),
    behaviour("expired holds stop counting", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            hold(&s, "1", 60).await?;
            hold(&s, "2", 30).await?;
            expire(&s, "1").await?;
            assert_eq!(hold(&s, "3", 70).await?, admitted(70));
            held_is(&s, 100, 2).await?;
            assert_eq!(settle(&s, "1", 5, None).await?, ChargeOutcome::Booked { balance: Some(95) });
            held_is(&s, 100, 2).await
        })
    }),
    behaviour("a hold that is renewed lasts on, and one that is gone is not made again", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            hold(&s, "1", 60).await?;
            expire(&s, "1").await?;
            renew(&s, "1").await?;
            assert_eq!(hold(&s, "2", 41).await?, CheckOutcome::Refused { available: Some(40) });
            settle(&s, "1", 10, None).await?;
            renew(&s, "1").await?;
            assert_eq!(hold(&s, "3", 90).await?, admitted(90));
            held_is(&s, 90, 1).await
        })
    }),
    behaviour("many expired holds are dropped some per call", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(1000)).await?;
            for id in 0..200 {
                hold(&s, &id.to_string(), 5).await?;
                expire(&s, &id.to_string()).await?;
            }
            // Each call above met the one before it; now let many be old at once.
            held_is(&s, 5, 1).await?;
            for id in 0..150 {
                hold(&s, &id.to_string(), 2).await?;
            }
            for id in 0..150 {
                expire(&s, &id.to_string()).await?;
            }
            for left in [150 - 64 + 1, 150 - 128 + 1, 1, 1] {
                s.check(plain(&s.key("ann"))).await?;
                held_is(&s, (left - 1) * 2, left - 1).await?;
            }
            Ok(())
        })
    }),
    behaviour("holds that vanished from Redis do not count", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            hold(&s, "1", 60).await?;
            s.redis::<()>(&[b"DEL", &s.key("ann").holds(), &s.key("ann").amounts()]).await?;
            assert_eq!(hold(&s, "2", 100).await?, admitted(100));
            held_is(&s, 100, 1).await
        })
    }),
    behaviour("unlimited and balances without ledger hold nothing", PLAIN, |s| {
        Box::pin(async move {
            s.store("ann", "100").await?;
            assert_eq!(hold(&s, "1", 60).await?, admitted(100));
            assert_eq!(hold(&s, "2", 101).await?, CheckOutcome::Refused { available: Some(100) });
            s.declare("ann", Grant::Unlimited).await?;
            assert_eq!(hold(&s, "3", 500).await?, CheckOutcome::Admitted { left: Left::Unlimited, period: None });
            assert_eq!(s.redis::<i64>(&[b"EXISTS", &s.key("ann").holds(), &s.key("ann").amounts()]).await?, 0);
            Ok(())
        })
    }),
    behaviour("a Reset drops the holds of the older period and forgives their charges", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            hold(&s, "1", 60).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(hold(&s, "2", 90).await?, admitted_in(100, NOW));
            held_is(&s, 90, 1).await?;
            assert_eq!(settle(&s, "1", 80, Some(NOW - 1)).await?, ChargeOutcome::Forgiven);
            held_is(&s, 90, 1).await?;
            assert_eq!(s.field("ann", "used").await?, "0");
            assert_eq!(settle(&s, "2", 30, Some(NOW)).await?, ChargeOutcome::Booked { balance: Some(70) });
            held_is(&s, 0, 0).await?;
            assert_eq!(s.field("ann", "used").await?, "30");
            Ok(())
        })
    }),
    behaviour("the charge that meets the Reset itself is forgiven too", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            hold(&s, "1", 60).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(settle(&s, "1", 80, Some(NOW - 1)).await?, ChargeOutcome::Forgiven);
            held_is(&s, 0, 0).await?;
            s.balance_is("ann", 100).await
        })
    }),
    behaviour("after Add a late charge is booked and its hold lives on", ADD, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            hold(&s, "1", 60).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(hold(&s, "2", 140).await?, admitted_in(140, NOW));
            assert_eq!(settle(&s, "1", 80, Some(NOW - 1)).await?, ChargeOutcome::Booked { balance: Some(120) });
            held_is(&s, 140, 1).await
        })
    }),
    behaviour("a change of schedule is no Reset", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.edit("ann", "schedule", "newer").await?;
            s.edit("ann", "ordinal", "7000").await?;
            assert_eq!(settle(&s, "1", 80, Some(NOW)).await?, ChargeOutcome::Booked { balance: Some(20) });
            Ok(())
        })
    }),
    behaviour("a charge creates no key", PLAIN, |s| {
        Box::pin(async move {
            assert_eq!(settle(&s, "1", 80, None).await?, ChargeOutcome::Absent);
            assert!(s.ledger("ann").await?.is_empty());
            s.balance_is("ann", None).await
        })
    }),
    behaviour("a charge after the consumer was removed reduces what is parked", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.park("ann").await?;
            assert_eq!(settle(&s, "1", 130, None).await?, ChargeOutcome::Booked { balance: None });
            assert_eq!(s.field("ann", "parked").await?, "-30");
            assert_eq!(s.field("ann", "used").await?, "130");
            s.balance_is("ann", None).await
        })
    }),
    behaviour("debt ends at the smallest exact number", PLAIN, |s| {
        Box::pin(async move {
            s.store("ann", &(5 - MAX_AMOUNT).to_string()).await?;
            for _ in 0..2 {
                assert_eq!(settle(&s, "1", 10, None).await?, ChargeOutcome::Booked { balance: Some(-MAX_AMOUNT) });
            }
            s.declare("ann", Grant::Tokens(100)).await?;
            for _ in 0..2 {
                settle(&s, "1", MAX_AMOUNT, None).await?;
            }
            assert_eq!(s.field("ann", "used").await?, MAX_AMOUNT.to_string());
            s.balance_is("ann", -MAX_AMOUNT).await
        })
    }),
    behaviour("a charge against what is no balance leaves it and counts the usage", PLAIN, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.store("ann", "100.0").await?;
            assert_eq!(settle(&s, "1", 10, None).await?, ChargeOutcome::Malformed { value: "100.0".into() });
            assert_eq!(s.field("ann", "used").await?, "10");
            assert_eq!(s.stored("ann").await?.as_deref(), Some("100.0"));
            Ok(())
        })
    }),
];

const fn admitted(available: i64) -> CheckOutcome {
    CheckOutcome::Admitted { left: Left::Tokens(available), period: None }
}

const fn admitted_in(available: i64, ordinal: i64) -> CheckOutcome {
    CheckOutcome::Admitted { left: Left::Tokens(available), period: Some(ordinal) }
}

const fn plain(balance: &Balance) -> Check<'_> {
    Check { balance, need: 1, hold: None, default: None, owner: OWNER, yields: false, period: None }
}

pub(super) async fn hold(s: &Stage, id: &str, need: i64) -> Result<CheckOutcome> {
    let hold = Some(Hold { id: id.as_bytes(), expires_in: 600 });
    s.check(Check { need, hold, period: s.period(), ..plain(&s.key("ann")) }).await
}

pub(super) async fn settle(s: &Stage, id: &str, tokens: i64, admitted_in: Option<i64>) -> Result<ChargeOutcome> {
    let hold = Some(id.as_bytes());
    s.charge(Charge { balance: &s.key("ann"), tokens, hold, admitted_in, period: s.period() }).await
}

async fn renew(s: &Stage, id: &str) -> Result<()> {
    let (balance, hold) = (&s.key("ann"), Hold { id: id.as_bytes(), expires_in: 600 });
    s.call(&Renew { balance, hold }.invocation(), |reply| match reply {
        Reply::Error(text) => Err(ReplyError::from_text(text)),
        _ => Ok(()),
    })
    .await
}

/// Makes it as if the hold had been made long ago.
async fn expire(s: &Stage, id: &str) -> Result<()> {
    s.redis(&[b"ZADD", &s.key("ann").holds(), b"1", id.as_bytes()]).await
}

/// The running total agrees with the holds themselves.
async fn held_is(s: &Stage, tokens: i64, count: i64) -> Result<()> {
    let key = s.key("ann");
    assert_eq!(s.field("ann", "held").await?, tokens.to_string());
    assert_eq!(s.redis::<i64>(&[b"ZCARD", &key.holds()]).await?, count);
    let amounts: Vec<i64> = s.redis(&[b"HVALS", &key.amounts()]).await?;
    assert_eq!((amounts.len() as i64, amounts.iter().sum::<i64>()), (count, tokens));
    Ok(())
}
