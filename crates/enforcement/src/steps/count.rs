//! What is added up for each policy, and what the gateway calls it. Pure.

/// Something that happened under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A metered request went on.
    Admitted,
    /// A request was answered by us instead of the model.
    Refused,
    /// A request went on that would have been refused if its policy enforced.
    WouldRefuse,
    /// A request went on that is not metered.
    Unmetered,
    /// The store did not say what it was asked.
    StoreFailure,
    /// A charge was not booked, or nobody knows.
    UnknownCharge,
    /// A charge was booked for an answer that told no usage.
    Estimated,
    /// Tokens were booked.
    Tokens,
    /// With a charge, what is used came to the share at which somebody is to be warned.
    Warned,
}

impl Count {
    /// Each at the place of its number.
    pub const ALL: [Self; 9] = [
        Self::Admitted,
        Self::Refused,
        Self::WouldRefuse,
        Self::Unmetered,
        Self::StoreFailure,
        Self::UnknownCharge,
        Self::Estimated,
        Self::Tokens,
        Self::Warned,
    ];

    /// The gateway's counter of it: `kind` is that of the policy's object, `policy` its namespace and name. What stands
    /// between `policy.` and `.metric.` is the policy, whatever dots it has.
    #[must_use]
    pub fn metric(self, kind: &str, policy: &str) -> String {
        format!("aiquota.{kind}.policy.{policy}.metric.{}", self.name())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Refused => "refused",
            Self::WouldRefuse => "would_refuse",
            Self::Unmetered => "unmetered",
            Self::StoreFailure => "store_failures",
            Self::UnknownCharge => "unknown_charges",
            Self::Estimated => "estimated",
            Self::Tokens => "tokens",
            Self::Warned => "warned",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_its_place_and_its_name() {
        let at = Count::ALL.iter().map(|count| *count as usize);
        assert!(at.eq(0..Count::ALL.len()));
        let names: BTreeSet<_> = Count::ALL.iter().map(|count| count.metric("quota", "ns/a.b")).collect();
        assert_eq!(names.len(), Count::ALL.len());
        assert!(names.contains("aiquota.quota.policy.ns/a.b.metric.would_refuse"));
    }
}
