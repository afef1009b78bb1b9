//! What calls of the admin API do to a balance: reached through either door.

use enforcement::{redis::Grant, values::MAX_AMOUNT, wire::RefreshMode};

use super::{
    Behaviour, behaviour,
    stage::{Administered, Setup},
};

const LISTED: Setup = Setup { default_quota: None, refresh: None, yields: false };
const DEFAULT: Setup = Setup { default_quota: Some(1000), refresh: None, yields: false };
const RESET: Setup = Setup { default_quota: None, refresh: Some((RefreshMode::Reset, None)), yields: false };
const DEFAULT_RESET: Setup =
    Setup { default_quota: Some(1000), refresh: Some((RefreshMode::Reset, None)), yields: false };

pub(super) const SUITE: &[Behaviour] = &[
    behaviour("the administrator's question creates nothing", DEFAULT_RESET, |s| {
        Box::pin(async move {
            assert_eq!(s.query("ann").await?, Some(0));
            assert!(s.ledger("ann").await?.is_empty());
            s.balance_is("ann", None).await
        })
    }),
    behaviour("the administrator sets and adds, also where nothing was", DEFAULT, |s| {
        Box::pin(async move {
            assert_eq!(s.add("ann", -50).await?, Administered::Done);
            s.balance_is("ann", -50).await?;
            assert_eq!(s.set("ann", 100).await?, Administered::Done);
            assert_eq!(s.add("ann", 100).await?, Administered::Done);
            assert_eq!(s.query("ann").await?, Some(200));
            assert!(s.ledger("ann").await?.is_empty(), "as upstream would");
            s.declare("bob", Grant::Tokens(10)).await?;
            assert_eq!(s.set("bob", 70).await?, Administered::Done);
            s.declare("bob", Grant::Tokens(10)).await?;
            s.balance_is("bob", 70).await
        })
    }),
    behaviour("the administrator acts in the period that is now", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.ask("ann", 40).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(s.add("ann", 5).await?, Administered::Done);
            s.balance_is("ann", 105).await?;
            s.rewind("ann", 1).await?;
            assert_eq!(s.set("ann", 7).await?, Administered::Done);
            assert_eq!(s.query("ann").await?, Some(7), "the boundary was behind it");
            Ok(())
        })
    }),
    behaviour("a value or sum that is not exact is refused", LISTED, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            for value in [MAX_AMOUNT + 1, -MAX_AMOUNT - 1, i64::MAX, i64::MIN] {
                assert_eq!(s.set("ann", value).await?, Administered::Refused, "{value}");
                assert_eq!(s.add("ann", value).await?, Administered::Refused, "{value}");
            }
            assert_eq!(s.add("ann", MAX_AMOUNT - 99).await?, Administered::Refused);
            s.balance_is("ann", 100).await?;
            assert_eq!(s.add("ann", MAX_AMOUNT - 100).await?, Administered::Done);
            s.balance_is("ann", MAX_AMOUNT).await
        })
    }),
    behaviour("the administrator repairs a malformed balance by setting it", RESET, |s| {
        Box::pin(async move {
            s.declare("ann", Grant::Tokens(100)).await?;
            s.store("ann", "12.5").await?;
            s.rewind("ann", 1).await?;
            assert_eq!(s.query("ann").await?, None);
            assert_eq!(s.add("ann", 1).await?, Administered::Refused);
            assert_eq!(s.stored("ann").await?.as_deref(), Some("12.5"));
            assert_eq!(s.set("ann", 12).await?, Administered::Done);
            assert_eq!(s.query("ann").await?, Some(12));
            Ok(())
        })
    }),
];
