//! Refusals as a policy has them. In: what it says about the ends of its requests, and why one is not to pass. Out: the
//! refusal in the shape of its choice, or an unhindered request where it only observes. Pure.

use std::fmt::Display;

use super::{Kind, Next, Request, Step};
use crate::announce::Announcement;
use crate::paths;
use crate::prompt;
use crate::response::Response;
use crate::wire::{Ends, OnStoreFailure};

impl Ends {
    /// Whether a request is made to ask for the usage of its stream.
    pub(crate) fn ask_for_usage(&self, request: &dyn Request) -> bool {
        self.include_usage && prompt::knows_include_usage(&paths::split(request.path()).0)
    }
}

impl<K: Kind> Step<K> {
    /// Refuses before the store is asked.
    pub(crate) fn refuse(ends: &Ends, response: Response) -> Self {
        if ends.observes() { Self::Spare } else { Self::Refuse(response.shaped(ends.errors)) }
    }
}

impl<K: Kind> Next<K> {
    /// The store has said that the request may not pass.
    pub(crate) fn deny(ends: &Ends, admission: K::Admission, response: Response) -> Self {
        if ends.observes() { Self::spare(admission, response.log) } else { Self::Refuse(response.shaped(ends.errors)) }
    }

    /// The store has not said whether the request may pass: `response` is for where it may not then.
    pub(crate) fn undecided(
        ends: &Ends,
        usual: OnStoreFailure,
        admission: K::Admission,
        response: Response,
        why: &dyn Display,
    ) -> Self {
        match ends.on_store_failure.unwrap_or(usual) {
            OnStoreFailure::Admit => Self::admit_unchecked(admission, why),
            OnStoreFailure::Refuse if ends.observes() => Self::spare_unchecked(admission, why),
            OnStoreFailure::Refuse => Self::Refuse(response.shaped(ends.errors).logged(why)),
        }
    }

    /// Tells the client of its budget, whoever answers it; of nothing, nothing.
    pub(crate) fn telling(mut self, told: Option<Announcement>) -> Self {
        let Some(told) = told else { return self };
        match &mut self {
            Self::Admit(admitted) => admitted.meter.announce(told.headers()),
            Self::Refuse(response) => response.headers.extend(told.headers().into_iter().chain(told.retry_after())),
            Self::Ask(_) | Self::Reauthenticate(_) => {}
        }
        self
    }
}
