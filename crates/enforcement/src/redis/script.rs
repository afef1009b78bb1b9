//! The Lua library and a call of it. A balance and arguments come in; a command goes out. Pure.

use super::{
    keys::Balance,
    period::Period,
    resp::{Command, decimal},
};

/// The one Lua library; what it does, its keys and its arguments are explained at its top.
pub const SOURCE: &str = include_str!("aiquota.lua");

/// The name Redis knows the library by: the SHA-1 of [`SOURCE`].
pub const SHA1: &str = env!("AIQUOTA_LUA_SHA1");

/// The version of the ledger's fields that the library reads and writes.
pub const LAYOUT: &str = "1";

/// A call of the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Invocation {
    /// Every operation gets all keys of its balance: any of them may roll the period, which drops holds.
    pub(super) fn new(operation: &str, balance: &Balance) -> Self {
        Self {
            keys: vec![balance.as_bytes().to_vec(), balance.ledger(), balance.holds(), balance.amounts()],
            args: vec![operation.as_bytes().to_vec()],
        }
    }

    pub(super) fn text(mut self, text: &[u8]) -> Self {
        self.args.push(text.to_vec());
        self
    }

    pub(super) fn number(mut self, value: i64) -> Self {
        self.args.push(decimal(value));
        self
    }

    /// A number that may be absent: the empty argument.
    pub(super) fn optional(self, value: Option<i64>) -> Self {
        match value {
            Some(value) => self.number(value),
            None => self.text(b""),
        }
    }

    /// The period, always last because its length varies; nothing without a schedule.
    pub(super) fn period(mut self, period: Option<Period<'_>>) -> Self {
        if let Some(period) = period {
            period.push(&mut self.args);
        }
        self
    }

    /// The call by the library's name; answered with [`super::ReplyError::NoScript`] where Redis was not told it yet.
    #[must_use]
    pub fn evalsha(&self) -> Command {
        self.command("EVALSHA", SHA1)
    }

    /// The call with the whole library, which Redis then knows by its name.
    #[must_use]
    pub fn eval(&self) -> Command {
        self.command("EVAL", SOURCE)
    }

    #[must_use]
    pub fn keys(&self) -> &[Vec<u8>] {
        &self.keys
    }

    #[must_use]
    pub fn args(&self) -> &[Vec<u8>] {
        &self.args
    }

    fn command(&self, name: &str, script: &str) -> Command {
        let head = [name.as_bytes().to_vec(), script.as_bytes().to_vec(), self.keys.len().to_string().into_bytes()];
        Command::new(head.into_iter().chain(self.keys.iter().cloned()).chain(self.args.iter().cloned()).collect())
    }
}
