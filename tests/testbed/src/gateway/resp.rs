//! Where a Redis reply ends, and nothing more: the raw bytes must reach the module unchanged. Bounded in size and
//! depth. Pure.

/// The largest reply that is accepted.
const LARGEST: usize = 64 << 20;

/// How deep arrays may nest.
const DEPTH: usize = 16;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The length of the first whole reply in `bytes`, or `None` while it is incomplete.
pub(crate) fn first_reply(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match end(bytes, 0, DEPTH)? {
        None if bytes.len() > LARGEST => Err(Malformed),
        found => Ok(found),
    }
}

fn end(bytes: &[u8], at: usize, depth: usize) -> Result<Option<usize>, Malformed> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(line_end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
        return if rest.len() > LARGEST { Err(Malformed) } else { Ok(None) };
    };
    let after = at + line_end + 2;
    let line = &rest[..line_end];
    let Some((kind, text)) = line.split_first() else { return Err(Malformed) };
    let length = || -> Result<Option<usize>, Malformed> {
        match std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok()) {
            Some(-1) => Ok(None),
            Some(n) => usize::try_from(n).ok().filter(|n| *n <= LARGEST).map(Some).ok_or(Malformed),
            None => Err(Malformed),
        }
    };
    match kind {
        b'+' | b'-' | b':' => Ok(Some(after)),
        b'$' => match length()? {
            None => Ok(Some(after)),
            Some(length) if bytes.len() < after + length + 2 => Ok(None),
            Some(length) if &bytes[after + length..after + length + 2] == b"\r\n" => Ok(Some(after + length + 2)),
            Some(_) => Err(Malformed),
        },
        b'*' => {
            if depth == 0 {
                return Err(Malformed);
            }
            let mut at = after;
            for _ in 0..length()?.unwrap_or(0) {
                match end(bytes, at, depth - 1)? {
                    Some(next) => at = next,
                    None => return Ok(None),
                }
            }
            Ok(Some(at))
        }
        _ => Err(Malformed),
    }
}

/// One command in the form Redis reads.
pub(super) fn command(arguments: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        out.extend(format!("${}\r\n{argument}\r\n", argument.len()).into_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_at_its_last_byte_and_not_before() {
        for reply in [
            "+OK\r\n",
            "-ERR no\r\n",
            ":-7\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$4\r\na\r\nb\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
        ] {
            let with_next = format!("{reply}+NEXT\r\n");
            assert_eq!(first_reply(with_next.as_bytes()), Ok(Some(reply.len())), "{reply:?}");
            for cut in 0..reply.len() {
                assert_eq!(first_reply(&reply.as_bytes()[..cut]), Ok(None), "{reply:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let deep = "*1\r\n".repeat(DEPTH + 1);
        for bytes in ["x\r\n", "\r\n", "$x\r\n", "$-2\r\n", "$1\r\nabc", "$99999999999\r\n", &deep] {
            assert_eq!(first_reply(bytes.as_bytes()), Err(Malformed), "{bytes:?}");
        }
    }
}
