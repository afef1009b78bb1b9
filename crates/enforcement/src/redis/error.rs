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

/// How Redis refuses a long command of a client that has not authenticated.
const UNAUTHENTICATED: &[u8] = b"ERR Protocol error: unauthenticated ";

impl ReplyError {
    /// Classifies the text of an error reply, without its leading minus.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Self {
        let code = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        let shown = shown(text);
        match code {
            // From whom it does not know, Redis takes at most ten words and says so before it asks who that is.
            _ if text.starts_with(UNAUTHENTICATED) => Self::NoAuth(shown),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_redis_are_told_apart() {
        for (text, error) in [
            ("NOSCRIPT No matching script. Please use EVAL.", ReplyError::NoScript),
            ("NOAUTH Authentication required.", ReplyError::NoAuth("NOAUTH Authentication required.".into())),
            (
                "ERR Protocol error: unauthenticated multibulk length",
                ReplyError::NoAuth("ERR Protocol error: unauthenticated multibulk length".into()),
            ),
            ("MOVED 3999 127.0.0.1:6381", ReplyError::Cluster("MOVED 3999 127.0.0.1:6381".into())),
            ("ASK 3999 127.0.0.1:6381", ReplyError::Cluster("ASK 3999 127.0.0.1:6381".into())),
            (
                "CROSSSLOT Keys in request don't hash to the same slot",
                ReplyError::Cluster("CROSSSLOT Keys in request don\\'t hash to the same slot".into()),
            ),
            (
                "READONLY You can't write against a read only replica.",
                ReplyError::ReadOnly("READONLY You can\\'t write against a read only replica.".into()),
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                ReplyError::NotReady("LOADING Redis is loading the dataset in memory".into()),
            ),
            ("OOM command not allowed", ReplyError::OutOfMemory("OOM command not allowed".into())),
            ("ERR NOSCRIPT is not the code", ReplyError::Refused("ERR NOSCRIPT is not the code".into())),
            ("", ReplyError::Refused(String::new())),
        ] {
            assert_eq!(Answer::of(&Reply::Error(text.as_bytes())).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn foreign_text_is_shown_bounded_and_printable() {
        assert_eq!(shown(b"a\x1b[31m\n\xff"), "a\\x1b[31m\\n\\xff");
        assert_eq!(shown(&[b'a'; 10_000]).len(), SHOWN);
    }

    #[test]
    fn a_newer_layout_is_named() {
        let reply = Reply::Array(vec![Reply::Bulk(b"layout"), Reply::Bulk(b"2")]);
        let error = Answer::of(&reply).err();
        assert_eq!(error, Some(ReplyError::Layout("2".into())));
        let text = "the ledger has layout version 2, this version knows 1";
        assert_eq!(error.map(|error| error.to_string()).as_deref(), Some(text));
    }

    #[test]
    fn a_reply_of_another_shape_is_no_answer() {
        for reply in [
            Reply::Nil,
            Reply::Integer(1),
            Reply::Simple(b"OK"),
            Reply::Bulk(b"admitted"),
            Reply::Array(vec![]),
            Reply::Array(vec![Reply::Integer(1)]),
        ] {
            assert_eq!(Answer::of(&reply).err(), Some(ReplyError::Unexpected), "{reply:?}");
        }
    }
}
