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
