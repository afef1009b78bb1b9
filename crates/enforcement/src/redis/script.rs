//! The Lua library of balances, and a call of a library. Keys and arguments come in; a command goes out. Pure.

use super::{
    apply::Fence,
    keys::Balance,
    period::Period,
    resp::{Command, decimal},
};

/// The Lua library of balances, without its comments; what it does, its keys and its arguments are explained at the top of
/// `aiquota.lua`.
pub const SOURCE: &str = include_str!(concat!(env!("OUT_DIR"), "/aiquota.lua"));

/// The name Redis knows the library by: the SHA-1 of [`SOURCE`].
pub const SHA1: &str = include_str!(concat!(env!("OUT_DIR"), "/aiquota.sha1"));

/// The version of the ledger's fields that the library reads and writes.
pub const LAYOUT: &str = "1";

/// A script that Redis runs.
#[derive(Debug, PartialEq, Eq)]
pub struct Library {
    pub source: &'static str,
    /// The name that Redis knows it by: the SHA-1 of its source.
    pub sha1: &'static str,
}

static BALANCES: Library = Library { source: SOURCE, sha1: SHA1 };

/// A call of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    library: &'static Library,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Invocation {
    /// Every operation gets all keys of its balance: any of them may roll the period, which drops holds.
    pub(super) fn new(operation: &str, balance: &Balance) -> Self {
        let keys = vec![balance.as_bytes().to_vec(), balance.ledger(), balance.holds(), balance.amounts()];
        Self::of(&BALANCES, keys, operation)
    }

    pub(super) fn of(library: &'static Library, keys: Vec<Vec<u8>>, operation: &str) -> Self {
        Self { library, keys, args: vec![operation.as_bytes().to_vec()] }
    }

    pub(super) fn text(mut self, text: &[u8]) -> Self {
        self.args.push(text.to_vec());
        self
    }

    pub(super) fn number(mut self, value: i64) -> Self {
        self.args.push(decimal(value));
        self
    }

    /// Whose write it is and when in the order of writes.
    pub(super) fn fenced(self, owner: &str, Fence { term, uid, generation }: Fence<'_>) -> Self {
        self.text(owner.as_bytes()).number(term).text(uid.as_bytes()).number(generation)
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
        if let Some(period) = period.filter(|period| !period.boundaries.is_empty()) {
            period.push(&mut self.args);
        }
        self
    }

    /// The call by the library's name; answered with [`super::ReplyError::NoScript`] where Redis was not told it yet.
    #[must_use]
    pub fn evalsha(&self) -> Command {
        self.command("EVALSHA", self.library.sha1)
    }

    /// The call with the whole library, which Redis then knows by its name.
    #[must_use]
    pub fn eval(&self) -> Command {
        self.command("EVAL", self.library.source)
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

#[cfg(test)]
mod tests {
    use super::{
        super::{Add, Apply, Charge, Check, Delete, Grant, Hold, Park, Query, Release, Set, check::Renew},
        *,
    };
    use crate::wire::RefreshMode;

    const PERIOD: Period<'static> =
        Period { schedule: "daily", mode: RefreshMode::Reset, cap: 9, boundaries: &[(4, 400), (5, 500)] };

    #[track_caller]
    fn args(call: &Invocation, expected: &[&str]) {
        let shown: Vec<_> = call.args().iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_call_names_the_script_the_keys_and_the_arguments() {
        let balance = Balance::new("q:", b"u");
        let call = Query { balance: &balance, period: None }.invocation();
        let tail = "$1\r\n4\r\n$3\r\nq:u\r\n$12\r\n{q:u}:ledger\r\n$11\r\n{q:u}:holds\r\n$13\r\n{q:u}:amounts\r\n$5\r\nquery\r\n";
        let by_name = format!("*8\r\n$7\r\nEVALSHA\r\n$40\r\n{SHA1}\r\n{tail}");
        assert_eq!(String::from_utf8(call.evalsha().encode()).unwrap(), by_name);
        let whole = format!("*8\r\n$4\r\nEVAL\r\n${}\r\n{SOURCE}\r\n{tail}", SOURCE.len());
        assert_eq!(String::from_utf8(call.eval().encode()).unwrap(), whole);
    }

    #[test]
    fn the_arguments_of_every_operation_are_in_the_documented_order() {
        let balance = &Balance::new("q:", b"u");
        let check = Check { balance, need: 0, hold: None, default: None, owner: "c/n/o", yields: false, period: None };
        args(&check.invocation(), &["check", "1", "", "", "", "c/n/o", "0"]);
        let full = Check {
            need: 70,
            hold: Some(Hold { id: b"7-1", expires_in: 60 }),
            default: Some(1000),
            yields: true,
            period: Some(PERIOD),
            ..check
        };
        let period = ["daily", "reset", "9", "4", "400", "5", "500"];
        args(&full.invocation(), &[&["check", "70", "7-1", "60", "1000", "c/n/o", "1"], &period[..]].concat());

        args(&Renew { balance, hold: Hold { id: b"7-1", expires_in: 60 } }.invocation(), &["renew", "7-1", "60"]);

        let charge = Charge { balance, tokens: 25, hold: None, admitted_in: None, period: None };
        args(&charge.invocation(), &["charge", "25", "", ""]);
        let full = Charge { hold: Some(b"7-1"), admitted_in: Some(-3), period: Some(PERIOD), ..charge };
        args(&full.invocation(), &[&["charge", "25", "7-1", "-3"], &period[..]].concat());
        args(&Charge { tokens: i64::MIN, ..charge }.invocation(), &["charge", "0", "", ""]);
        args(&Charge { tokens: i64::MAX, ..charge }.invocation(), &["charge", "9007199254740991", "", ""]);

        let fence = Fence { term: 2, uid: "u-1", generation: 7 };
        let (owner, grant) = ("c/n/o", Grant::Tokens(5));
        let apply = Apply { balance, owner, fence, grant, takeover: false, refresh: None, period: Some(PERIOD) };
        args(&apply.invocation(), &[&["apply", "c/n/o", "2", "u-1", "7", "5", "0", ""], &period[..]].concat());
        let other = Apply { grant: Grant::Unlimited, takeover: true, refresh: Some("t-1"), period: None, ..apply };
        args(&other.invocation(), &["apply", "c/n/o", "2", "u-1", "7", "unlimited", "1", "t-1"]);

        let park = Park { balance, owner, fence, period: Some(PERIOD) };
        args(&park.invocation(), &[&["park", "c/n/o", "2", "u-1", "7"], &period[..]].concat());
        args(&Park { period: None, ..park }.invocation(), &["park", "c/n/o", "2", "u-1", "7"]);
        args(&Release { balance, owner, term: 2 }.invocation(), &["release", "c/n/o", "2"]);
        args(&Delete { balance, owner, fence }.invocation(), &["delete", "c/n/o", "2", "u-1", "7"]);

        args(&Query { balance, period: Some(PERIOD) }.invocation(), &[&["query"], &period[..]].concat());
        args(&Set { balance, value: -5, period: None }.invocation(), &["set", "-5"]);
        args(&Add { balance, value: 5, period: None }.invocation(), &["add", "5"]);
    }

    #[test]
    fn a_period_without_boundaries_is_none() {
        let period = Some(Period { boundaries: &[], ..PERIOD });
        args(&Query { balance: &Balance::new("q:", b"u"), period }.invocation(), &["query"]);
    }
}
