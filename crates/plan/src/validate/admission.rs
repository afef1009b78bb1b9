//! When a request is admitted, the same for both kinds: refusals by field, what the module reads, and what Higress' own
//! has no means for. Pure.

use api::{Admission, Reservation};
use enforcement::values::MAX_AMOUNT;
use enforcement::wire::Reserve;

use super::{Check, Refusal, Refused};

impl Check {
    pub(super) fn admission(&mut self, admission: Option<Admission>, reservation: Option<Reservation>) {
        const FIELD: &str = "spec.reservation";
        match (admission.unwrap_or_default(), reservation) {
            (Admission::Check, None) => {}
            (Admission::Check, Some(_)) => self.refuse(FIELD, Refused::Excluded, "is allowed with Reserve only"),
            (Admission::Reserve, None) => self.refuse(FIELD, Refused::Required, "is required with Reserve"),
            (Admission::Reserve, Some(Reservation { default_max_tokens })) => {
                if !(1..=MAX_AMOUNT).contains(&default_max_tokens) {
                    let message = format!("must be 1 to {MAX_AMOUNT}");
                    self.refuse("spec.reservation.defaultMaxTokens", Refused::OutOfRange, message);
                }
            }
        }
    }
}

pub(crate) fn reserve(admission: Option<Admission>, reservation: Option<Reservation>) -> Option<Reserve> {
    let Reservation { default_max_tokens } = reservation.filter(|_| admission == Some(Admission::Reserve))?;
    Some(Reserve { default_max_tokens })
}

pub(crate) fn beyond_upstream(admission: Option<Admission>) -> Option<Refusal> {
    (admission == Some(Admission::Reserve)).then(|| Refusal {
        field: "spec.admission".to_owned(),
        reason: Refused::Unsupported,
        message: "the module holds nothing for requests in flight".to_owned(),
    })
}
