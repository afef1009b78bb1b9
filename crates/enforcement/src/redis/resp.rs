//! The Redis protocol: a command goes out as bytes; the bytes of one reply come in and are read without copying.
//! Nothing in a reply makes the reader panic, recurse deeply or allocate more than the reply is long. Pure.

/// One Redis command: its name and arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    words: Vec<Vec<u8>>,
}

impl Command {
    pub(super) fn new(words: Vec<Vec<u8>>) -> Self {
        Self { words }
    }

    /// `GET key`, as upstream's module asks for a balance.
    #[must_use]
    pub fn get(key: &[u8]) -> Self {
        Self::new(vec![b"GET".to_vec(), key.to_vec()])
    }

    /// `SET key value`, as upstream's module sets a balance.
    #[must_use]
    pub fn set(key: &[u8], value: i64) -> Self {
        Self::new(vec![b"SET".to_vec(), key.to_vec(), decimal(value)])
    }

    /// `INCRBY key value`, as upstream's module adds to a balance.
    #[must_use]
    pub fn incr_by(key: &[u8], value: i64) -> Self {
        Self::new(vec![b"INCRBY".to_vec(), key.to_vec(), decimal(value)])
    }

    /// `DECRBY key value`, as upstream's module charges a balance.
    #[must_use]
    pub fn decr_by(key: &[u8], value: i64) -> Self {
        Self::new(vec![b"DECRBY".to_vec(), key.to_vec(), decimal(value)])
    }

    /// The name and the arguments, for a client that encodes by itself.
    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        self.words.iter().map(Vec::as_slice)
    }

    /// The bytes on the wire: an array of bulk strings.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let size = self.words.iter().map(|word| word.len() + 16).sum::<usize>() + 16;
        let mut out = Vec::with_capacity(size);
        header(&mut out, b'*', self.words.len());
        for word in &self.words {
            header(&mut out, b'$', word.len());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        out
    }
}

/// The bytes of an integer as Redis takes it.
pub(super) fn decimal(value: i64) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn header(out: &mut Vec<u8>, kind: u8, count: usize) {
    out.push(kind);
    out.extend_from_slice(count.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// One reply of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    Nil,
    Integer(i64),
    Simple(&'a [u8]),
    Bulk(&'a [u8]),
    Error(&'a [u8]),
    Array(Vec<Reply<'a>>),
}

/// Why bytes are not exactly one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the reply ends too early")]
    Truncated,
    #[error("{0} bytes follow the reply")]
    Trailing(usize),
    #[error("byte {0:#04x} begins no reply")]
    Kind(u8),
    #[error("a number or length is not one")]
    Number,
    #[error("replies are nested deeper than {MAX_DEPTH}")]
    Depth,
}

/// Ours nest once; a reply that nests deeper than this is none.
const MAX_DEPTH: usize = 8;

impl<'a> Reply<'a> {
    /// Reads bytes that are exactly one reply.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let reply = read(&mut rest, MAX_DEPTH)?;
        if rest.is_empty() { Ok(reply) } else { Err(Malformed::Trailing(rest.len())) }
    }

    /// The integer in an integer reply or in a text that is a decimal number.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Simple(text) | Self::Bulk(text) => number(text),
            Self::Nil | Self::Error(_) | Self::Array(_) => None,
        }
    }
}

fn read<'a>(rest: &mut &'a [u8], depth: usize) -> Result<Reply<'a>, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed::Depth)?;
    let line = line(rest)?;
    let (kind, line) = line.split_first().ok_or(Malformed::Truncated)?;
    match kind {
        b'+' => Ok(Reply::Simple(line)),
        b'-' => Ok(Reply::Error(line)),
        b':' => number(line).map(Reply::Integer).ok_or(Malformed::Number),
        b'$' => match length(line)? {
            None => Ok(Reply::Nil),
            Some(length) => bulk(rest, length).map(Reply::Bulk),
        },
        b'*' => match length(line)? {
            None => Ok(Reply::Nil),
            Some(count) => {
                // The shortest reply has three bytes: a count that cannot be true is refused before it costs anything.
                if count > rest.len() / 3 {
                    return Err(Malformed::Truncated);
                }
                (0..count).map(|_| read(rest, depth)).collect::<Result<_, _>>().map(Reply::Array)
            }
        },
        other => Err(Malformed::Kind(*other)),
    }
}

/// Takes a line without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let end = memchr::memmem::find(rest, b"\r\n").ok_or(Malformed::Truncated)?;
    let (line, after) = (&rest[..end], &rest[end + 2..]);
    *rest = after;
    Ok(line)
}

fn bulk<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (text, after) = rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
    *rest = match after {
        [b'\r', b'\n', after @ ..] => after,
        [] | [b'\r'] => return Err(Malformed::Truncated),
        _ => return Err(Malformed::Number),
    };
    Ok(text)
}

/// The length of a string or array; `-1` is the null of both.
fn length(line: &[u8]) -> Result<Option<usize>, Malformed> {
    match number(line).ok_or(Malformed::Number)? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| Malformed::Number),
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        assert_eq!(Command::get(b"chat_quota:user1").encode(), b"*2\r\n$3\r\nGET\r\n$16\r\nchat_quota:user1\r\n");
        assert_eq!(Command::decr_by(b"k", 25).encode(), b"*3\r\n$6\r\nDECRBY\r\n$1\r\nk\r\n$2\r\n25\r\n");
        assert_eq!(Command::incr_by(b"k", -50).encode(), b"*3\r\n$6\r\nINCRBY\r\n$1\r\nk\r\n$3\r\n-50\r\n");
        assert_eq!(Command::set(b"k\r\n", 0).encode(), b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$1\r\n0\r\n");
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        for (bytes, reply) in [
            (b"$-1\r\n".as_slice(), Reply::Nil),
            (b"*-1\r\n", Reply::Nil),
            (b":-9007199254740991\r\n", Reply::Integer(-9_007_199_254_740_991)),
            (b"+OK\r\n", Reply::Simple(b"OK")),
            (b"$0\r\n\r\n", Reply::Bulk(b"")),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(b"a\r\nb")),
            (b"-ERR no\r\n", Reply::Error(b"ERR no")),
            (b"*0\r\n", Reply::Array(vec![])),
            (
                b"*3\r\n$2\r\nok\r\n*1\r\n:1\r\n$-1\r\n",
                Reply::Array(vec![Reply::Bulk(b"ok"), Reply::Array(vec![Reply::Integer(1)]), Reply::Nil]),
            ),
        ] {
            assert_eq!(Reply::parse(bytes), Ok(reply), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_not_exactly_one_reply_is_refused_with_its_reason() {
        for (bytes, reason) in [
            (b"".as_slice(), Malformed::Truncated),
            (b"\r\n", Malformed::Truncated),
            (b":1\r", Malformed::Truncated),
            (b"$5\r\nabc\r\n", Malformed::Truncated),
            (b"$3\r\nabc\r", Malformed::Truncated),
            (b"$9223372036854775807\r\na\r\n", Malformed::Truncated),
            (b"*1000000000\r\n:1\r\n", Malformed::Truncated),
            (b"*2\r\n:1\r\n", Malformed::Truncated),
            (b":1\r\n:2\r\n", Malformed::Trailing(4)),
            (b"$3\r\nabcd\r\n", Malformed::Number),
            (b"$-2\r\n", Malformed::Number),
            (b":9223372036854775808\r\n", Malformed::Number),
            (b":\r\n", Malformed::Number),
            (b": 1\r\n", Malformed::Number),
            (b"%1\r\n+a\r\n+b\r\n", Malformed::Kind(b'%')),
            (b"HTTP/1.1 400\r\n", Malformed::Kind(b'H')),
        ] {
            assert_eq!(Reply::parse(bytes), Err(reason), "{}", bytes.escape_ascii());
        }
        let deep = [b"*1\r\n".repeat(100_000), b":1\r\n".to_vec()].concat();
        assert_eq!(Reply::parse(&deep), Err(Malformed::Depth));
    }

    #[test]
    fn mutated_replies_never_panic_and_are_never_read_beyond_their_end() {
        let seeds: [&[u8]; 4] = [
            b"*3\r\n$8\r\nadmitted\r\n:9007199254740991\r\n$-1\r\n",
            b"*4\r\n$7\r\napplied\r\n:1\r\n:-25\r\n:100\r\n",
            b"-NOAUTH Authentication required.\r\n",
            b"*2\r\n*2\r\n:1\r\n+a\r\n*1\r\n*1\r\n$3\r\nabc\r\n",
        ];
        let mut random = Random(7);
        for _ in 0..50_000 {
            let mut bytes = random.pick(&seeds).to_vec();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                match random.below(4) {
                    0 => bytes[at] = *random.pick(b"*$:+-\r\n0123456789\xff"),
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, *random.pick(b"*$:+-\r\n0123456789\xff")),
                    _ => bytes.extend_from_within(at..),
                }
            }
            let size = bytes.len();
            if let Ok(reply) = Reply::parse(&bytes) {
                assert!(weight(&reply) <= size, "{}", bytes.escape_ascii());
                let _ = super::super::CheckOutcome::of(&reply);
                let _ = super::super::ApplyOutcome::of(&reply);
                let _ = super::super::ChargeOutcome::of(&reply);
                let _ = super::super::AdminOutcome::of(&reply);
                let _ = super::super::LeaveOutcome::of(&reply);
                let _ = super::super::index::balances(&reply);
                let _ = super::super::limits::states(&reply, 1);
            }
        }
    }

    /// The fewest bytes a reply takes on the wire.
    fn weight(reply: &Reply<'_>) -> usize {
        match reply {
            Reply::Nil | Reply::Integer(_) => 4,
            Reply::Simple(text) | Reply::Error(text) => text.len() + 3,
            Reply::Bulk(text) => text.len() + 6,
            Reply::Array(all) => 4 + all.iter().map(weight).sum::<usize>(),
        }
    }
}
