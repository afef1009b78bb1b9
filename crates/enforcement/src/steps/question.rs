//! One question to Redis until it has its answer. In: a command or script call, then replies or failures. Out: bytes
//! to send, again where the script is not loaded or the store wants authentication, each at most once. Pure.

use std::sync::Arc;

use crate::config::Store;
use crate::redis::{Command, Invocation, Reply, ReplyError};

/// Bytes for a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub store: Arc<Store>,
    pub command: Vec<u8>,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The host did not take the call; its status.
    #[error("the host refused the call with status {0}")]
    Dispatch(u32),
    /// The host could not deliver the call or lost the connection.
    #[error("the store cannot be reached")]
    Network,
    /// The deadline passed.
    #[error("the store did not answer in time")]
    Deadline,
    /// There is a reply, but it cannot be read.
    #[error("the reply of the store cannot be read")]
    Unreadable,
}

impl Failure {
    /// What upstream's client says of it.
    pub(crate) const fn upstream_text(self) -> &'static str {
        match self {
            Self::Dispatch(2) => "error status returned by host: bad argument",
            Self::Dispatch(_) => "error status returned by host: internal failure",
            Self::Network | Self::Deadline => "cannot connect to redis cluster",
            Self::Unreadable => "cannot read redis response",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    Command(Command),
    Script(Invocation),
}

/// A question that was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    store: Arc<Store>,
    words: Words,
    /// The script itself was sent, not only its name.
    loaded: bool,
    authenticated: bool,
}

/// What becomes of a question after a reply.
pub(super) enum Heard<'a> {
    /// Send it again as it is now.
    Again(Question),
    /// Initialise the store again, then send it again.
    Unauthenticated(Question),
    /// Its answer; may be an error reply.
    Reply(Reply<'a>),
    Failure(Failure),
}

impl Question {
    pub(crate) const fn new(store: Arc<Store>, words: Words) -> Self {
        Self { store, words, loaded: false, authenticated: false }
    }

    pub(super) fn call(&self) -> Call {
        let command = match &self.words {
            Words::Command(command) => command.encode(),
            Words::Script(script) if self.loaded => script.eval().encode(),
            Words::Script(script) => script.evalsha().encode(),
        };
        Call { store: Arc::clone(&self.store), command }
    }

    pub(super) fn hear(self, answer: Result<&[u8], Failure>) -> Heard<'_> {
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(failure) => return Heard::Failure(failure),
        };
        match Reply::parse(bytes) {
            Err(_) => Heard::Failure(Failure::Unreadable),
            Ok(Reply::Error(text)) => match ReplyError::from_text(text) {
                ReplyError::NoAuth(_) if !self.authenticated => {
                    Heard::Unauthenticated(Self { authenticated: true, ..self })
                }
                ReplyError::NoScript if !self.loaded && matches!(self.words, Words::Script(_)) => {
                    Heard::Again(Self { loaded: true, ..self })
                }
                _ => Heard::Reply(Reply::Error(text)),
            },
            Ok(reply) => Heard::Reply(reply),
        }
    }
}
