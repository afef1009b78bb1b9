//! What a module says of itself, on its way to a store. In: words, then the store's answer. Out: the call once more
//! where that heals, or why it was not heard. No request waits for it. Pure.

use std::sync::Arc;

use super::question::{Call, Failure, Heard, Question, Words};
use crate::config::Store;
use crate::redis::Reply;
use crate::redis::loaded::Say;

/// Words whose answer is awaited.
#[derive(Debug, PartialEq, Eq)]
pub struct Saying(Question);

/// What became of them.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered {
    Heard,
    /// Send them once more.
    Again(Saying),
    /// The store wants authentication: initialise it again, then send them once more.
    Reauthenticate(Saying),
    /// Why they were not heard, for the log.
    Unheard(String),
}

impl Saying {
    /// In the place of what the same worker said `before`.
    #[must_use]
    pub fn new(store: &Arc<Store>, say: &Say<'_>, before: &[u8]) -> Self {
        Self(Question::new(Arc::clone(store), Words::Script(say.invocation(before))))
    }

    #[must_use]
    pub fn call(&self) -> Call {
        self.0.call()
    }

    /// Takes the store's answer, or the reason why there is none.
    #[must_use]
    pub fn answer(self, answer: Result<&[u8], Failure>) -> Answered {
        match self.0.hear(answer) {
            Heard::Again(question) => Answered::Again(Self(question)),
            Heard::Unauthenticated(question) => Answered::Reauthenticate(Self(question)),
            Heard::Reply(Reply::Error(text)) => Answered::Unheard(String::from_utf8_lossy(text).into_owned()),
            Heard::Reply(_) => Answered::Heard,
            Heard::Failure(failure) => Answered::Unheard(failure.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::quota::Quotas;
    use crate::steps::Kind;
    use crate::wire;

    fn saying() -> Saying {
        let config = br#"{"redis": {"service_name": "r.dns"}, "admin_consumer": "a"}"#;
        let Ok(Config::<<Quotas as Kind>::Policy>::Policies(policies)) = Config::parse(config) else {
            panic!("no policies")
        };
        let report = wire::Report { of: "c/n".into(), revision: "r".into() };
        let say = Say { report: &report, kind: "quota", worker: b"1", version: "0.1.0", gateway: b"g" };
        Saying::new(&policies.stores()[0], &say, b"")
    }

    #[test]
    fn words_are_sent_again_once_where_that_heals() {
        let noscript = b"-NOSCRIPT No matching script. Please use EVAL.\r\n".as_slice();
        let Answered::Again(again) = saying().answer(Ok(noscript)) else { panic!("not again") };
        assert!(again.call().command.windows(6).any(|six| six == b"EVAL\r\n"), "with the script");
        assert!(matches!(again.answer(Ok(noscript)), Answered::Unheard(_)), "not a third time");
        let noauth = b"-NOAUTH Authentication required.\r\n".as_slice();
        let Answered::Reauthenticate(again) = saying().answer(Ok(noauth)) else { panic!("not again") };
        assert!(matches!(again.answer(Ok(noauth)), Answered::Unheard(_)));
        assert_eq!(saying().answer(Ok(b":1\r\n")), Answered::Heard);
        let refused = b"-NOPERM this user has no permissions\r\n".as_slice();
        assert_eq!(saying().answer(Ok(refused)), Answered::Unheard("NOPERM this user has no permissions".into()));
        assert_eq!(saying().answer(Err(Failure::Network)), Answered::Unheard("the store cannot be reached".into()));
    }
}
