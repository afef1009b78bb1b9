//! Why a reply of Redis is not an outcome. A reply comes in; the kind of failure goes out, so that callers can load
//! the script, authenticate again, or tell an unusable store from a broken answer. Pure.

use super::resp::{Malformed, Reply};

/// A reply that is no answer to what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Healed by [`super::Invocation::eval`].
    #[error("Redis does not know the script")]
    NoScript,
    /// Healed by authenticating again: the password changed or Redis was restarted.
    #[error("Redis asks for authentication: {0}")]
    NoAuth(String),
    /// A member of a Redis Cluster that does not serve this key: a store is one endpoint or a proxy.
    #[error("Redis Cluster is not supported as a store: {0}")]
    Cluster(String),
    #[error("Redis is a read-only replica: {0}")]
    ReadOnly(String),
    #[error("Redis is not ready: {0}")]
    NotReady(String),
    #[error("Redis is out of memory: {0}")]
    OutOfMemory(String),
    #[error("Redis refuses: {0}")]
    Refused(String),
    #[error("the reply is malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("the reply is not one to this question")]
    Unexpected,
    /// A newer version of this product wrote the ledger.
    #[error("the ledger has layout version {0}, this version knows {known}", known = super::LAYOUT)]
    Layout(String),
}

impl ReplyError {
    /// Classifies the text of an error reply, without its leading minus.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Self {
        let code = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        let shown = shown(text);
        match code {
            b"NOSCRIPT" => Self::NoScript,
            b"NOAUTH" => Self::NoAuth(shown),
            b"MOVED" | b"ASK" | b"CROSSSLOT" | b"CLUSTERDOWN" | b"TRYAGAIN" => Self::Cluster(shown),
            b"READONLY" => Self::ReadOnly(shown),
            b"LOADING" | b"BUSY" | b"MASTERDOWN" | b"UNBLOCKED" => Self::NotReady(shown),
            b"OOM" => Self::OutOfMemory(shown),
            _ => Self::Refused(shown),
        }
    }
}

/// The longest piece of foreign text that is kept for logs and conditions.
const SHOWN: usize = 200;

/// Foreign bytes as bounded, printable text.
pub(super) fn shown(text: &[u8]) -> String {
    text[..text.len().min(SHOWN)].escape_ascii().to_string()
}

/// What a script answered: a status and its values.
pub(super) struct Answer<'r, 'a> {
    pub(super) status: &'a [u8],
    values: &'r [Reply<'a>],
}

impl<'r, 'a> Answer<'r, 'a> {
    pub(super) fn of(reply: &'r Reply<'a>) -> Result<Self, ReplyError> {
        match reply {
            Reply::Error(text) => Err(ReplyError::from_text(text)),
            Reply::Array(all) => match all.as_slice() {
                [Reply::Bulk(b"layout"), Reply::Bulk(version)] => Err(ReplyError::Layout(shown(version))),
                [Reply::Bulk(status), values @ ..] => Ok(Self { status, values }),
                _ => Err(ReplyError::Unexpected),
            },
            Reply::Nil | Reply::Integer(_) | Reply::Simple(_) | Reply::Bulk(_) => Err(ReplyError::Unexpected),
        }
    }

    pub(super) fn number(&self, at: usize) -> Result<i64, ReplyError> {
        self.optional(at)?.ok_or(ReplyError::Unexpected)
    }

    pub(super) fn optional(&self, at: usize) -> Result<Option<i64>, ReplyError> {
        match self.values.get(at) {
            Some(Reply::Integer(value)) => Ok(Some(*value)),
            Some(Reply::Nil) => Ok(None),
            _ => Err(ReplyError::Unexpected),
        }
    }

    pub(super) fn text(&self, at: usize) -> Result<&'a [u8], ReplyError> {
        match self.values.get(at) {
            Some(Reply::Bulk(text)) => Ok(text),
            _ => Err(ReplyError::Unexpected),
        }
    }

    pub(super) fn flag(&self, at: usize) -> Result<bool, ReplyError> {
        match self.number(at)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ReplyError::Unexpected),
        }
    }
}
