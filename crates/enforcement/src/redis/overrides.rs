//! The limits that single values have instead of their rule's: where they are, what stands there for a value, and the calls
//! that keep them as objects say. Names and limits come in; calls and their outcomes go out. Pure.

use std::fmt;

use super::{
    apply::Fence,
    error::{Answer, ReplyError},
    resp::{Command, Reply},
    script::{Invocation, Library},
};
use crate::wire::limit::{By, Rate};

/// What `overrides.lua` is, without its comments, and how Redis names it.
pub static OVERRIDES: Library = Library {
    source: include_str!(concat!(env!("OUT_DIR"), "/overrides.lua")),
    sha1: include_str!(concat!(env!("OUT_DIR"), "/overrides.sha1")),
};

/// The key of one rule's overrides: `aiquota:overrides:{<rule name>}:<header, param, cookie, consumer or ip>:<name>`, in
/// the hash slot of the rule's counters. Its fields are hashes: no value can be read there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Overrides(Vec<u8>);

impl Overrides {
    #[must_use]
    pub fn new(rule_name: &str, by: &By) -> Self {
        let (source, name) = by.source();
        Self(format!("aiquota:overrides:{{{rule_name}}}:{source}:{name}").into_bytes())
    }

    /// As it stands in the index.
    #[must_use]
    pub fn recorded(key: &[u8]) -> Self {
        Self(key.to_vec())
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// The field of a value: the SHA-1 of rule name and value, in hexadecimal digits, so that no list of hashes of values
/// fits all rules. Redis never hears the value, which may be a client's credential.
#[must_use]
pub fn field(rule_name: &str, value: &[u8]) -> String {
    sha1_smol::Sha1::from([rule_name.as_bytes(), b"\0", value].concat()).digest().to_string()
}

/// A limit as it stands beside its hash.
#[must_use]
pub fn limit(Rate { tokens, window_seconds }: Rate) -> String {
    format!("{tokens}/{window_seconds}")
}

/// Makes a rule's overrides these, at once.
#[derive(Clone, Copy, Debug)]
pub struct SetOverrides<'a> {
    pub key: &'a Overrides,
    /// As in [`super::Apply`].
    pub owner: &'a str,
    pub fence: Fence<'a>,
    /// Of all that is said: where it is what stands there, nothing is written.
    pub digest: &'a str,
    /// [`field`] and [`limit`] of each value.
    pub entries: &'a [(String, String)],
}

/// Takes away what an object wrote that does not want it any more.
#[derive(Clone, Copy, Debug)]
pub struct DropOverrides<'a> {
    pub key: &'a Overrides,
    pub owner: &'a str,
    /// As in [`Fence`].
    pub term: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverridesOutcome {
    Done {
        /// Whether Redis was written to.
        changed: bool,
    },
    /// They are another object's; nothing changed.
    Foreign { owner: String },
    /// A newer controller, whose term this is, or a newer generation was here; nothing changed.
    Stale { term: i64 },
}

impl SetOverrides<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        let Self { key, owner, fence, digest, entries } = *self;
        let call = Invocation::of(&OVERRIDES, vec![key.0.clone()], "set").fenced(owner, fence).text(digest.as_bytes());
        entries.iter().fold(call, |call, (field, limit)| call.text(field.as_bytes()).text(limit.as_bytes()))
    }
}

impl DropOverrides<'_> {
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        let Self { key, owner, term } = *self;
        Invocation::of(&OVERRIDES, vec![key.0.clone()], "drop").text(owner.as_bytes()).number(term)
    }
}

impl OverridesOutcome {
    pub fn of(reply: &Reply<'_>) -> Result<Self, ReplyError> {
        let answer = Answer::of(reply)?;
        match answer.status {
            b"set" | b"dropped" => Ok(Self::Done { changed: answer.flag(0)? }),
            b"absent" => Ok(Self::Done { changed: false }),
            b"foreign" => Ok(Self::Foreign { owner: String::from_utf8_lossy(answer.text(0)?).into_owned() }),
            b"stale" => Ok(Self::Stale { term: answer.number(0)? }),
            _ => Err(ReplyError::Unexpected),
        }
    }
}

/// What the controller of one cluster wrote, so that what nobody wants any more is found after any crash or restart:
/// the hash `aiquota:overrides:of:<uid of the namespace kube-system>`, of each key its owner. A key is recorded before it
/// is set, and forgotten after it was dropped.
#[derive(Clone, Copy, Debug)]
pub struct OverridesIndex<'a> {
    pub cluster: &'a str,
}

impl OverridesIndex<'_> {
    fn command(&self, name: &str, words: &[&[u8]]) -> Command {
        let key = [b"aiquota:overrides:of:", self.cluster.as_bytes()].concat();
        let words = words.iter().map(|word| word.to_vec());
        Command::new([name.as_bytes().to_vec(), key].into_iter().chain(words).collect())
    }

    /// Read with [`recorded`].
    #[must_use]
    pub fn list(&self) -> Command {
        self.command("HGETALL", &[])
    }

    #[must_use]
    pub fn record(&self, key: &Overrides, owner: &str) -> Command {
        self.command("HSET", &[&key.0, owner.as_bytes()])
    }

    #[must_use]
    pub fn forget(&self, key: &Overrides) -> Command {
        self.command("HDEL", &[&key.0])
    }
}

/// Keys and their owners.
///
/// # Errors
/// If the reply is an error, or no such list.
pub fn recorded(reply: &Reply<'_>) -> Result<Vec<(Overrides, String)>, ReplyError> {
    let words = match reply {
        Reply::Error(text) => return Err(ReplyError::from_text(text)),
        Reply::Array(words) => words,
        _ => return Err(ReplyError::Unexpected),
    };
    let pair = |pair: &[Reply<'_>]| match pair {
        [Reply::Bulk(key), Reply::Bulk(owner)] => {
            Ok((Overrides::recorded(key), String::from_utf8_lossy(owner).into_owned()))
        }
        _ => Err(ReplyError::Unexpected),
    };
    words.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::limit::{Consumer, Ip};

    fn words(command: &Command) -> Vec<String> {
        command.words().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    #[test]
    fn keys_are_pinned_byte_for_byte_and_in_the_slot_of_the_rules_counters() {
        for (by, key) in [
            (By::Header("x-api-key".into()), "aiquota:overrides:{r.1}:header:x-api-key"),
            (By::Param("k:1".into()), "aiquota:overrides:{r.1}:param:k:1"),
            (By::Cookie("sid".into()), "aiquota:overrides:{r.1}:cookie:sid"),
            (By::Consumer(Consumer {}), "aiquota:overrides:{r.1}:consumer:"),
            (By::Ip(Ip::default()), "aiquota:overrides:{r.1}:ip:"),
            (By::Ip(Ip { from_header: Some("X-Real-IP".into()) }), "aiquota:overrides:{r.1}:ip:X-Real-IP"),
        ] {
            assert_eq!(Overrides::new("r.1", &by).as_bytes(), key.as_bytes());
        }
        assert_eq!(field("r", b"v"), "6b7b561a8c64ac9a41e61cbe716787bd13340bbe");
        assert_eq!(limit(Rate { tokens: 5, window_seconds: 60 }), "5/60");
    }

    #[test]
    fn calls_name_the_key_the_fence_and_each_entry() {
        let key = Overrides::new("r", &By::Header("k".into()));
        let fence = Fence { term: 2, uid: "u-1", generation: 7 };
        let entries = [("aa".to_owned(), "5/60".to_owned()), ("bb".to_owned(), "6/1".to_owned())];
        let set = SetOverrides { key: &key, owner: "c/n/o", fence, digest: "dd", entries: &entries };
        let name = "aiquota:overrides:{r}:header:k";
        let head = ["EVALSHA", OVERRIDES.sha1, "1", name];
        let args = ["set", "c/n/o", "2", "u-1", "7", "dd", "aa", "5/60", "bb", "6/1"];
        assert_eq!(words(&set.invocation().evalsha()), [&head[..], &args[..]].concat());
        let drop = DropOverrides { key: &key, owner: "c/n/o", term: 2 };
        assert_eq!(words(&drop.invocation().evalsha()), [&head[..], &["drop", "c/n/o", "2"]].concat());
        let index = OverridesIndex { cluster: "c" };
        assert_eq!(words(&index.record(&key, "c/n/o")), ["HSET", "aiquota:overrides:of:c", name, "c/n/o"]);
        assert_eq!(words(&index.forget(&key)), ["HDEL", "aiquota:overrides:of:c", name]);
        assert_eq!(words(&index.list()), ["HGETALL", "aiquota:overrides:of:c"]);
    }

    #[test]
    fn each_answer_is_read_and_others_are_none() {
        let of = |bytes: &str| OverridesOutcome::of(&Reply::parse(bytes.as_bytes()).unwrap());
        assert_eq!(of("*2\r\n$3\r\nset\r\n:1\r\n"), Ok(OverridesOutcome::Done { changed: true }));
        assert_eq!(of("*1\r\n$6\r\nabsent\r\n"), Ok(OverridesOutcome::Done { changed: false }));
        assert_eq!(of("*2\r\n$7\r\nforeign\r\n$1\r\nx\r\n"), Ok(OverridesOutcome::Foreign { owner: "x".into() }));
        assert_eq!(of("*2\r\n$5\r\nstale\r\n:3\r\n"), Ok(OverridesOutcome::Stale { term: 3 }));
        assert_eq!(of("*1\r\n$1\r\nx\r\n"), Err(ReplyError::Unexpected));
        let all = Reply::parse(b"*4\r\n$1\r\na\r\n$1\r\nx\r\n$1\r\nb\r\n$1\r\ny\r\n").unwrap();
        let key = |text: &str| Overrides::recorded(text.as_bytes());
        assert_eq!(recorded(&all), Ok(vec![(key("a"), "x".to_owned()), (key("b"), "y".to_owned())]));
        assert_eq!(recorded(&Reply::parse(b"*1\r\n$1\r\na\r\n").unwrap()), Err(ReplyError::Unexpected));
    }
}
