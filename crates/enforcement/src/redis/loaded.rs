//! What modules say of themselves, so that a stale image cannot hide: where it stands, how a worker says it and how it
//! is read. Names and texts come in; calls go out, and replies become what was said. Pure.

use std::collections::BTreeMap;

use super::{
    error::ReplyError,
    resp::{Command, Reply},
    script::{Invocation, Library},
};
use crate::wire;

/// Lets one worker say something. It is explained here, since both modules carry its text.
///
/// `KEYS[1]`, a sorted set: one member per worker, `<worker> <version> <revision> <gateway>`, with the unix second in
/// which it was said. It expires as a whole, so that nothing is left of gateways that nobody runs any more.
///
/// `ARGV`: `say`, the member, what the same worker said before or nothing, seconds after which a member counts no more,
/// the most members. The answer is 1. One call does all of it: no member is ever without its end.
static LOADED: Library =
    Library { source: include_str!("loaded.lua"), sha1: include_str!(concat!(env!("OUT_DIR"), "/loaded.sha1")) };

/// How often a worker says it, in seconds.
pub const SAID_EVERY_SECONDS: u32 = 60;

/// After so many seconds it counts no more.
const KEPT_SECONDS: i64 = 180;

/// So many workers' words are kept, of all gateways of one namespace: what lasts longest goes first.
const WORKERS_MAX: i64 = 2_000;

/// The longest name of a gateway that is said, in bytes.
const GATEWAY_MAX: usize = 256;

/// Longer words are no module's.
const WORDS_MAX: usize = 512;

/// What one worker says.
#[derive(Clone, Copy, Debug)]
pub struct Say<'a> {
    /// What its configuration asks it to say, and for whom.
    pub report: &'a wire::Report,
    /// The word of [`crate::steps::Kind::KIND`].
    pub kind: &'a str,
    /// No other worker has it; not of a client's making, and without blanks.
    pub worker: &'a [u8],
    /// The module's.
    pub version: &'a str,
    /// As the gateway calls itself.
    pub gateway: &'a [u8],
}

impl Say<'_> {
    /// What is said. Two that are equal need not be told apart.
    #[must_use]
    pub fn words(&self) -> Vec<u8> {
        let gateway = &self.gateway[..self.gateway.len().min(GATEWAY_MAX)];
        [self.worker, self.version.as_bytes(), self.report.revision.as_bytes(), gateway].join(&b' ')
    }

    /// The call that says it in the place of what the worker said `before`.
    pub(crate) fn invocation(&self, before: &[u8]) -> Invocation {
        let key = key(&self.report.of, self.kind);
        let said = Invocation::of(&LOADED, vec![key], "say").text(&self.words()).text(before);
        said.number(KEPT_SECONDS).number(WORKERS_MAX)
    }
}

/// What one worker said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub worker: String,
    pub version: String,
    pub revision: String,
    pub gateway: String,
    /// How many seconds ago.
    pub age: u64,
}

/// Asks Redis for its time, by which words age; read with [`now`].
#[must_use]
pub fn time() -> Command {
    Command::new(vec![b"TIME".to_vec()])
}

/// Asks for all that workers say of one kind of module; read with [`said`].
#[must_use]
pub fn list(of: &str, kind: &str) -> Command {
    let last = (WORKERS_MAX - 1).to_string().into_bytes();
    let all = [b"0".to_vec(), last, b"WITHSCORES".to_vec()];
    Command::new([b"ZRANGE".to_vec(), key(of, kind)].into_iter().chain(all).collect())
}

/// The reply to [`time`], in unix seconds.
pub fn now(reply: &Reply<'_>) -> Result<i64, ReplyError> {
    match reply {
        Reply::Array(parts) => parts.first().and_then(Reply::integer).ok_or(ReplyError::Unexpected),
        other => Err(refused(other)),
    }
}

/// The reply to [`list`] at this unix second: of each worker what it said last. What no module says is left out.
pub fn said(reply: &Reply<'_>, now: i64) -> Result<Vec<Said>, ReplyError> {
    let Reply::Array(all) = reply else { return Err(refused(reply)) };
    let mut last: BTreeMap<String, Said> = BTreeMap::new();
    // By their times, the oldest first.
    for pair in all.chunks(2) {
        let [Reply::Bulk(words), at] = pair else { return Err(ReplyError::Unexpected) };
        let at = at.integer().ok_or(ReplyError::Unexpected)?;
        // Others may write there too: what is shown to people is bounded and printable, and of now.
        let is_said = words.len() <= WORDS_MAX
            && words.iter().all(|byte| matches!(byte, b' '..=b'~'))
            && at <= now.saturating_add(1);
        let Some(words) = std::str::from_utf8(words).ok().filter(|_| is_said) else { continue };
        let mut words = words.splitn(4, ' ').map(str::to_owned);
        let (Some(worker), Some(version), Some(revision), Some(gateway)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let age = u64::try_from(now.saturating_sub(at)).unwrap_or_default();
        last.insert(worker.clone(), Said { worker, version, revision, gateway, age });
    }
    Ok(last.into_values().collect())
}

fn refused(reply: &Reply<'_>) -> ReplyError {
    match reply {
        Reply::Error(text) => ReplyError::from_text(text),
        _ => ReplyError::Unexpected,
    }
}

/// `aiquota:loaded:<uid of the namespace kube-system>/<the gateway's namespace>:<quota or limit>`.
fn key(of: &str, kind: &str) -> Vec<u8> {
    ["aiquota:loaded:", of, ":", kind].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        command.words().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    #[test]
    fn what_a_worker_says_is_pinned_and_bounded() {
        let report = wire::Report { of: "c-uid/higress-system".into(), revision: "abc".into() };
        let say =
            Say { report: &report, kind: "quota", worker: b"00ff", version: "0.1.0", gateway: b"router~10.0.0.1~a.b" };
        let call = words(&say.invocation(b"before").evalsha());
        let key = "aiquota:loaded:c-uid/higress-system:quota";
        let said = ["say", "00ff 0.1.0 abc router~10.0.0.1~a.b", "before", "180", "2000"];
        assert_eq!(call, [&["EVALSHA", LOADED.sha1, "1", key][..], &said].concat());
        let long = [b'x'; 1000];
        assert_eq!(Say { gateway: &long, ..say }.words().len(), "00ff 0.1.0 abc ".len() + GATEWAY_MAX);
        assert_eq!(words(&list("c-uid/higress-system", "quota")), ["ZRANGE", key, "0", "1999", "WITHSCORES"]);
        assert_eq!(words(&time()), ["TIME"]);
    }

    #[test]
    fn each_worker_counts_with_its_last_words_and_their_age() {
        let bulk = |text: &'static str| Reply::Bulk(text.as_bytes());
        let (old, new) = (bulk("1 0.1.0 abc g"), bulk("1 0.1.0 def g"));
        let all = [old, bulk("10"), bulk("?"), bulk("11"), bulk("2 0.0.9 abc of a b"), bulk("12"), new, bulk("13")];
        let found = said(&Reply::Array(all.to_vec()), 20).unwrap();
        let one = |worker: &str, version: &str, revision: &str, gateway: &str, age| Said {
            worker: worker.into(),
            version: version.into(),
            revision: revision.into(),
            gateway: gateway.into(),
            age,
        };
        assert_eq!(found, [one("1", "0.1.0", "def", "g", 7), one("2", "0.0.9", "abc", "of a b", 8)]);
        assert_eq!(said(&Reply::Array(vec![]), 20), Ok(vec![]));
        // What no module of ours says: of tomorrow, too long, not to be shown.
        let long = [b"3 0.1.0 abc ".as_slice(), &[b'g'; WORDS_MAX]].concat();
        for (words, at) in [(&b"3 0.1.0 abc g"[..], "22"), (&long, "10"), (b"3 0.1.0 abc \x1b[31m", "10")] {
            let one = Reply::Array(vec![Reply::Bulk(words), Reply::Bulk(at.as_bytes())]);
            assert_eq!(said(&one, 20), Ok(vec![]), "{}", String::from_utf8_lossy(words));
        }
        assert_eq!(now(&Reply::Array(vec![bulk("1700000000"), bulk("5")])), Ok(1_700_000_000));
    }

    #[test]
    fn a_reply_of_another_kind_is_told_apart() {
        let error = Reply::Error(b"NOPERM this user has no permissions");
        assert!(matches!(said(&error, 0), Err(ReplyError::Refused(_))));
        assert!(matches!(now(&error), Err(ReplyError::Refused(_))));
        assert_eq!(said(&Reply::Nil, 0), Err(ReplyError::Unexpected));
        assert_eq!(said(&Reply::Array(vec![Reply::Bulk(b"1 0.1.0 abc g")]), 0), Err(ReplyError::Unexpected));
        assert_eq!(now(&Reply::Array(vec![])), Err(ReplyError::Unexpected));
    }
}
