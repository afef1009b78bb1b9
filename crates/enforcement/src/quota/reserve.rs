//! A quota whose requests are held until their bodies have come: what a body says may be held with the store's answer
//! to the check, and the charge drops it. In: bodies. Out: checks. Pure.

use std::sync::Arc;

use super::config::Policy;
use super::{Quotas, answers, check};
use crate::steps::{Body, NO_ROOM, Request, Step};

/// A request that is held until its body has come.
#[derive(Debug, PartialEq, Eq)]
pub struct AwaitBody {
    policy: Arc<Policy>,
    consumer: Vec<u8>,
}

impl AwaitBody {
    pub(super) fn new(policy: &Arc<Policy>, consumer: &[u8]) -> Self {
        Self { policy: Arc::clone(policy), consumer: consumer.to_vec() }
    }

    /// Takes what the body says.
    pub(super) fn body(self, body: Body, request: &dyn Request) -> Step<Quotas> {
        let Self { policy, consumer } = self;
        let step = match body {
            Body::Read(prompt) => check(&policy, &consumer, request, Some(&prompt)),
            Body::TooLong => Step::Refuse(answers::too_long()),
            Body::NoRoom => Step::Refuse(answers::unenforceable(NO_ROOM)),
        };
        super::as_said(&policy, step)
    }
}
