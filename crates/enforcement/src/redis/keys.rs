//! The keys of one balance. A key prefix and a consumer come in; the balance's own key and those of its ledger and
//! holds go out. They share one hash slot: the balance is their hash tag. Besides, the keys of the index of what the
//! controller wrote. Pure.

use std::fmt;

/// The key of a balance, `<key prefix><consumer>`: an integer without expiry that upstream's module may use as well.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Balance(Vec<u8>);

impl Balance {
    #[must_use]
    pub fn new(key_prefix: &str, consumer: &[u8]) -> Self {
        Self([key_prefix.as_bytes(), consumer].concat())
    }

    /// The balance with this key.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        Self(key.to_vec())
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The model and the consumer whose it is under a prefix; nothing if it is another's, or of no name of ours.
    #[must_use]
    pub fn under(&self, key_prefix: &str) -> Option<(Option<&str>, &str)> {
        let rest = std::str::from_utf8(self.0.strip_prefix(key_prefix.as_bytes())?).ok()?;
        match rest.strip_prefix(' ') {
            None => Some((None, rest)),
            Some(rest) => rest.split_once(' ').map(|(model, consumer)| (Some(model), consumer)),
        }
    }

    /// The hash of what is known about the balance; its fields are listed in `aiquota.lua`.
    #[must_use]
    pub fn ledger(&self) -> Vec<u8> {
        self.beside(b"ledger")
    }

    /// The sorted set of holds: id and unix second of expiry.
    #[must_use]
    pub fn holds(&self) -> Vec<u8> {
        self.beside(b"holds")
    }

    /// The hash of held amounts: id and tokens.
    #[must_use]
    pub fn amounts(&self) -> Vec<u8> {
        self.beside(b"amounts")
    }

    fn beside(&self, what: &[u8]) -> Vec<u8> {
        [b"{", self.0.as_slice(), b"}:", what].concat()
    }
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Balance({})", self.0.escape_ascii())
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// The prefix of the balances of one declared model. Neither prefixes nor names of models and consumers have blanks, so
/// that a key with two is nothing else.
#[must_use]
pub fn of_model(key_prefix: &str, model: &str) -> String {
    [key_prefix, " ", model, " "].concat()
}

/// Whether a prefix is this one, or that of a model under it.
#[must_use]
pub fn is_of(prefix: &str, key_prefix: &str) -> bool {
    prefix.strip_prefix(key_prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// What a database is told from others by, whatever names lead to it.
pub(super) const DATABASE: &[u8] = b"aiquota:database";

/// The set of owners of one cluster: `aiquota:owners:<uid of the namespace kube-system>`.
pub(super) fn owners(cluster: &str) -> Vec<u8> {
    [b"aiquota:owners:", cluster.as_bytes()].concat()
}

/// The set of balances of one owner: `aiquota:owned:<owner>`.
pub(super) fn owned(owner: &str) -> Vec<u8> {
    [b"aiquota:owned:", owner.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_balance_are_pinned_byte_for_byte() {
        let balance = Balance::new("chat_quota:", b"user1");
        assert_eq!(balance.as_bytes(), b"chat_quota:user1");
        assert_eq!(balance.ledger(), b"{chat_quota:user1}:ledger");
        assert_eq!(balance.holds(), b"{chat_quota:user1}:holds");
        assert_eq!(balance.amounts(), b"{chat_quota:user1}:amounts");
        let of_model = Balance::new(&of_model("chat_quota:", "gpt-4*"), b"user1");
        assert_eq!(of_model.as_bytes(), b"chat_quota: gpt-4* user1");
        assert_eq!(of_model.under("chat_quota:"), Some((Some("gpt-4*"), "user1")));
        assert_eq!(balance.under("chat_quota:"), Some((None, "user1")));
        assert_eq!(balance.under("chat_quota:u"), Some((None, "ser1")));
        assert_eq!(balance.under("other:"), None);
        assert!(is_of("a", "a") && is_of("a m ", "a") && !is_of("ab", "a") && !is_of("a", "ab"));
        assert_eq!(of_model.ledger(), b"{chat_quota: gpt-4* user1}:ledger");
    }
}
