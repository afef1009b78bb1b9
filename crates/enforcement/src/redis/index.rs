//! The index of what the controller wrote, so that what was removed is found after any crash or restart: one set of
//! owners per cluster, and one set of balances per owner. Names come in; plain commands go out, and their replies
//! become names again. Only the controller writes it: a balance is recorded before it is applied and dropped after it
//! was released or deleted, so that the index may list what was never applied, but misses nothing. Pure.

use super::{
    error::ReplyError,
    keys::{Balance, owned, owners},
    resp::{Command, Reply},
};

/// The owners of one cluster.
#[derive(Clone, Copy, Debug)]
pub struct Owners<'a> {
    /// The uid of the namespace kube-system.
    pub cluster: &'a str,
}

/// The balances of one owner.
#[derive(Clone, Copy, Debug)]
pub struct Owned<'a> {
    /// As in [`super::Apply`].
    pub owner: &'a str,
}

impl Owners<'_> {
    /// All owners; read with [`names`].
    #[must_use]
    pub fn list(&self) -> Command {
        command("SMEMBERS", owners(self.cluster), [])
    }

    /// Records owners, at least one; read with [`count`].
    #[must_use]
    pub fn record<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Command {
        command("SADD", owners(self.cluster), names.into_iter().map(str::as_bytes))
    }

    /// Drops owners, at least one, whose balances were all dropped; read with [`count`].
    #[must_use]
    pub fn forget<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Command {
        command("SREM", owners(self.cluster), names.into_iter().map(str::as_bytes))
    }
}

impl Owned<'_> {
    /// All balances; read with [`balances`].
    #[must_use]
    pub fn list(&self) -> Command {
        command("SMEMBERS", owned(self.owner), [])
    }

    /// Records balances, at least one; read with [`count`].
    #[must_use]
    pub fn record<'b>(&self, balances: impl IntoIterator<Item = &'b Balance>) -> Command {
        command("SADD", owned(self.owner), balances.into_iter().map(Balance::as_bytes))
    }

    /// Drops balances, at least one; read with [`count`].
    #[must_use]
    pub fn forget<'b>(&self, balances: impl IntoIterator<Item = &'b Balance>) -> Command {
        command("SREM", owned(self.owner), balances.into_iter().map(Balance::as_bytes))
    }
}

/// The reply to recording and dropping: how many members were new, or were there.
pub fn count(reply: &Reply<'_>) -> Result<i64, ReplyError> {
    match reply {
        Reply::Integer(count) => Ok(*count),
        other => Err(refused(other)),
    }
}

/// The reply to [`Owners::list`]. What is no text was not written by us and is left out.
pub fn names(reply: &Reply<'_>) -> Result<Vec<String>, ReplyError> {
    Ok(members(reply)?.into_iter().filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect())
}

/// The reply to [`Owned::list`].
pub fn balances(reply: &Reply<'_>) -> Result<Vec<Balance>, ReplyError> {
    Ok(members(reply)?.into_iter().map(Balance::of_key).collect())
}

fn members<'a>(reply: &Reply<'a>) -> Result<Vec<&'a [u8]>, ReplyError> {
    let Reply::Array(members) = reply else { return Err(refused(reply)) };
    let member = |member: &Reply<'a>| match member {
        Reply::Bulk(text) => Ok(*text),
        other => Err(refused(other)),
    };
    members.iter().map(member).collect()
}

fn refused(reply: &Reply<'_>) -> ReplyError {
    match reply {
        Reply::Error(text) => ReplyError::from_text(text),
        _ => ReplyError::Unexpected,
    }
}

fn command<'w>(name: &str, key: Vec<u8>, members: impl IntoIterator<Item = &'w [u8]>) -> Command {
    let head = [name.as_bytes().to_vec(), key];
    Command::new(head.into_iter().chain(members.into_iter().map(<[u8]>::to_vec)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn words(command: &Command, expected: &[&str]) {
        let shown: Vec<_> = command.words().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_commands_of_the_index_are_pinned() {
        let owners = Owners { cluster: "c-uid" };
        words(&owners.list(), &["SMEMBERS", "aiquota:owners:c-uid"]);
        words(&owners.record(["c-uid/n/a", "c-uid/n/b"]), &["SADD", "aiquota:owners:c-uid", "c-uid/n/a", "c-uid/n/b"]);
        words(&owners.forget(["c-uid/n/a"]), &["SREM", "aiquota:owners:c-uid", "c-uid/n/a"]);

        let owned = Owned { owner: "c-uid/n/a" };
        let balances = [Balance::new("q:", b"ann"), Balance::new("q:", b"bob")];
        words(&owned.list(), &["SMEMBERS", "aiquota:owned:c-uid/n/a"]);
        words(&owned.record(&balances), &["SADD", "aiquota:owned:c-uid/n/a", "q:ann", "q:bob"]);
        words(&owned.forget(&balances[1..]), &["SREM", "aiquota:owned:c-uid/n/a", "q:bob"]);
    }

    #[test]
    fn replies_become_names_balances_and_counts() {
        let members = Reply::Array(vec![Reply::Bulk(b"q:ann"), Reply::Bulk(b"q:\xff")]);
        assert_eq!(balances(&members), Ok(vec![Balance::new("q:", b"ann"), Balance::new("q:", b"\xff")]));
        assert_eq!(names(&members), Ok(vec!["q:ann".to_owned()]));
        assert_eq!(names(&Reply::Array(vec![])), Ok(vec![]));
        assert_eq!(count(&Reply::Integer(2)), Ok(2));
    }

    #[test]
    fn a_reply_of_another_kind_is_told_apart() {
        let wrong = Reply::Error(b"WRONGTYPE Operation against a key holding the wrong kind of value");
        assert!(matches!(names(&wrong), Err(ReplyError::Refused(_))));
        assert!(matches!(count(&Reply::Error(b"NOAUTH no")), Err(ReplyError::NoAuth(_))));
        assert_eq!(balances(&Reply::Array(vec![Reply::Integer(1)])), Err(ReplyError::Unexpected));
        assert_eq!(balances(&Reply::Nil), Err(ReplyError::Unexpected));
        assert_eq!(count(&Reply::Bulk(b"1")), Err(ReplyError::Unexpected));
    }
}
