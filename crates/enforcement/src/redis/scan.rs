//! Finds the ledgers under a key prefix, also those of balances that no index lists because requests made them from a
//! default. A prefix comes in; SCAN commands go out, and their replies become balances. Pure.

use super::{
    error::ReplyError,
    keys::Balance,
    resp::{Command, Reply, decimal},
};

/// Keys that Redis looks at in one call.
const LOOKED_AT: i64 = 1_000;
const BEFORE: &[u8] = b"{";
const AFTER: &[u8] = b"}:ledger";

/// All ledgers whose balance begins with a prefix.
#[derive(Clone, Copy, Debug)]
pub struct Ledgers<'a> {
    pub key_prefix: &'a str,
}

/// A part of what there is; some may come twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    pub balances: Vec<Balance>,
    /// Where to go on; nothing when all was seen.
    pub next: Option<u64>,
}

impl Ledgers<'_> {
    /// The next part, from `cursor` on, which is 0 at first; read with [`Scanned::of`].
    #[must_use]
    pub fn scan(&self, cursor: u64) -> Command {
        let mut pattern = BEFORE.to_vec();
        for byte in self.key_prefix.bytes() {
            if matches!(byte, b'*' | b'?' | b'[' | b']' | b'^' | b'\\') {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
        pattern.extend([b"*", AFTER].concat());
        let cursor = cursor.to_string().into_bytes();
        let words = [b"SCAN".to_vec(), cursor, b"MATCH".to_vec(), pattern, b"COUNT".to_vec(), decimal(LOOKED_AT)];
        Command::new(words.into())
    }
}

impl Scanned {
    pub fn of(reply: &Reply<'_>) -> Result<Self, ReplyError> {
        let (cursor, keys) = match reply {
            Reply::Error(text) => return Err(ReplyError::from_text(text)),
            Reply::Array(parts) => match parts.as_slice() {
                [Reply::Bulk(cursor), Reply::Array(keys)] => (cursor, keys),
                _ => return Err(ReplyError::Unexpected),
            },
            _ => return Err(ReplyError::Unexpected),
        };
        let cursor: Option<u64> = std::str::from_utf8(cursor).ok().and_then(|cursor| cursor.parse().ok());
        let balance = |key: &Reply<'_>| match key {
            Reply::Bulk(key) => {
                Ok(key.strip_prefix(BEFORE).and_then(|key| key.strip_suffix(AFTER)).map(Balance::of_key))
            }
            _ => Err(ReplyError::Unexpected),
        };
        Ok(Self {
            balances: keys.iter().filter_map(|key| balance(key).transpose()).collect::<Result<_, _>>()?,
            next: Some(cursor.ok_or(ReplyError::Unexpected)?).filter(|cursor| *cursor != 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(key_prefix: &str, cursor: u64) -> Vec<String> {
        let command = Ledgers { key_prefix }.scan(cursor);
        command.words().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    #[test]
    fn a_prefix_is_meant_literally() {
        let plain = ["SCAN", "0", "MATCH", "{chat_quota:*}:ledger", "COUNT", "1000"];
        assert_eq!(words("chat_quota:", 0), plain);
        assert_eq!(words(r"a*b?[c]^\", 17)[1..4], ["17", "MATCH", r"{a\*b\?\[c\]\^\\*}:ledger"]);
    }

    #[test]
    fn a_reply_becomes_balances_and_where_to_go_on() {
        let reply = |cursor| {
            let keys = [&b"{q:ann}:ledger"[..], b"{q:bob}:holds", b"q:ann"].map(Reply::Bulk);
            Reply::Array(vec![Reply::Bulk(cursor), Reply::Array(keys.into())])
        };
        let balances = vec![Balance::new("q:", b"ann")];
        assert_eq!(Scanned::of(&reply(b"17")), Ok(Scanned { balances: balances.clone(), next: Some(17) }));
        assert_eq!(Scanned::of(&reply(b"0")), Ok(Scanned { balances, next: None }));
        assert_eq!(Scanned::of(&reply(b"x")), Err(ReplyError::Unexpected));
        assert_eq!(Scanned::of(&Reply::Array(vec![])), Err(ReplyError::Unexpected));
        assert!(matches!(Scanned::of(&Reply::Error(b"NOPERM no")), Err(ReplyError::Refused(_))));
    }
}
