//! The two ways in: the scripts called directly, as a module would call them, and the built module in the gateway,
//! reached by HTTP. What comes of a request is the same through both.

use anyhow::{Context as _, Result, bail};
use e2e::raw::Raw;
use enforcement::redis::{Add, AdminOutcome, Charge, ChargeOutcome, Check, CheckOutcome, Query, Set};
use tokio::sync::Mutex;

use super::{
    gate::Gate,
    stage::{Administered, Asked, Stage},
};

pub(super) enum Door {
    Scripts(Mutex<Raw>),
    Gateway(Gate),
}

impl Door {
    pub(super) async fn ask(&self, stage: &Stage, consumer: &str, tokens: i64) -> Result<Asked> {
        let raw = match self {
            Self::Scripts(raw) => raw,
            Self::Gateway(gate) => return gate.ask(stage, consumer, tokens).await,
        };
        let Some(admitted_in) = admitted(raw, stage, consumer).await? else { return Ok(Asked::NoQuota) };
        match charged(raw, stage, consumer, tokens, admitted_in).await? {
            ChargeOutcome::Booked { .. } => Ok(Asked::Served),
            other => bail!("an admitted request could not be charged: {other:?}"),
        }
    }

    /// Whatever comes of the charge.
    pub(super) async fn ask_while(
        &self,
        stage: &Stage,
        consumer: &str,
        tokens: i64,
        meanwhile: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let raw = match self {
            Self::Scripts(raw) => raw,
            Self::Gateway(gate) => return gate.ask_while(stage, consumer, tokens, meanwhile).await,
        };
        let admitted_in = admitted(raw, stage, consumer).await?.context("the request is refused")?;
        meanwhile.await?;
        charged(raw, stage, consumer, tokens, admitted_in).await.map(drop)
    }

    /// The balance that is answered; `None` where the question is refused.
    pub(super) async fn query(&self, stage: &Stage, consumer: &str) -> Result<Option<i64>> {
        let raw = match self {
            Self::Scripts(raw) => raw,
            Self::Gateway(gate) => return gate.query(stage, consumer).await,
        };
        let call = Query { balance: &stage.key(consumer), period: stage.period() }.invocation();
        Ok(match raw.lock().await.call(&call, AdminOutcome::of).await? {
            AdminOutcome::Balance(balance) => Some(balance),
            AdminOutcome::OutOfRange | AdminOutcome::Malformed { .. } => None,
        })
    }

    pub(super) async fn set(&self, stage: &Stage, consumer: &str, value: i64) -> Result<Administered> {
        let raw = match self {
            Self::Scripts(raw) => raw,
            Self::Gateway(gate) => {
                return gate.change(stage, "refresh", &format!("consumer={consumer}&quota={value}")).await;
            }
        };
        let call = Set { balance: &stage.key(consumer), value, period: stage.period() }.invocation();
        Ok(administered(&raw.lock().await.call(&call, AdminOutcome::of).await?))
    }

    pub(super) async fn add(&self, stage: &Stage, consumer: &str, value: i64) -> Result<Administered> {
        let raw = match self {
            Self::Scripts(raw) => raw,
            Self::Gateway(gate) => {
                return gate.change(stage, "delta", &format!("consumer={consumer}&value={value}")).await;
            }
        };
        let call = Add { balance: &stage.key(consumer), value, period: stage.period() }.invocation();
        Ok(administered(&raw.lock().await.call(&call, AdminOutcome::of).await?))
    }
}

/// The period a request is admitted in; nothing where it is refused.
async fn admitted(raw: &Mutex<Raw>, stage: &Stage, consumer: &str) -> Result<Option<Option<i64>>> {
    let balance = &stage.key(consumer);
    let policy = &stage.setting.policy;
    let (default, owner, period) = (policy.default_quota, policy.owner.as_str(), stage.period());
    let check = Check { balance, need: 1, hold: None, default, owner, yields: policy.yields, period };
    Ok(match raw.lock().await.call(&check.invocation(), CheckOutcome::of).await? {
        CheckOutcome::Admitted { period, .. } => Some(period),
        CheckOutcome::Refused { .. } | CheckOutcome::Malformed { .. } => None,
    })
}

async fn charged(
    raw: &Mutex<Raw>,
    stage: &Stage,
    consumer: &str,
    tokens: i64,
    admitted_in: Option<i64>,
) -> Result<ChargeOutcome> {
    let charge = Charge { balance: &stage.key(consumer), tokens, hold: None, admitted_in, period: stage.period() };
    raw.lock().await.call(&charge.invocation(), ChargeOutcome::of).await
}

const fn administered(outcome: &AdminOutcome) -> Administered {
    match outcome {
        AdminOutcome::Balance(_) => Administered::Done,
        AdminOutcome::OutOfRange | AdminOutcome::Malformed { .. } => Administered::Refused,
    }
}
