//! The library with another clock: a call and a second in, what Redis answers out. Only `TIME` is replaced.

use anyhow::{Result, bail};
use e2e::raw::Raw;
use enforcement::redis::{Invocation, Reply, ReplyError, SOURCE};

/// In front of the library: the time is the last argument.
const CLOCK: &str = "local clock = table.remove(ARGV)\n\
    local real = redis\n\
    local redis = setmetatable({ call = function(command, ...)\n\
      if command == 'TIME' then return { clock, '0' } end\n\
      return real.call(command, ...)\n\
    end }, { __index = real })\n";

/// A Redis that was told the library behind that.
pub(super) struct Clocked {
    redis: Raw,
    /// The name that Redis knows it by.
    library: String,
}

impl Clocked {
    pub(super) async fn new(mut redis: Raw) -> Result<Self> {
        let source = format!("{CLOCK}{SOURCE}");
        let answer = redis.forward(&encode(&[b"SCRIPT", b"LOAD", source.as_bytes()])).await?;
        let Reply::Bulk(library) = Reply::parse(&answer)? else { bail!("{}", answer.escape_ascii()) };
        let library = String::from_utf8(library.to_vec())?;
        Ok(Self { redis, library })
    }

    /// The call as it is, but at this second.
    pub(super) async fn call<T>(
        &mut self,
        call: &Invocation,
        now: i64,
        of: impl Fn(&Reply<'_>) -> Result<T, ReplyError>,
    ) -> Result<T> {
        let told = call.evalsha().encode();
        let Reply::Array(words) = Reply::parse(&told)? else { bail!("no command: {}", told.escape_ascii()) };
        let words = words.iter().filter_map(|word| if let Reply::Bulk(word) = word { Some(*word) } else { None });
        let mut words: Vec<&[u8]> = words.collect();
        let clock = now.to_string();
        words[1] = self.library.as_bytes();
        words.push(clock.as_bytes());
        let answer = self.redis.forward(&encode(&words)).await?;
        Ok(of(&Reply::parse(&answer)?)?)
    }
}

fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend([format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat());
    }
    bytes
}
