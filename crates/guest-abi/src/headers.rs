//! Header maps as the ABI serialises them: the number of pairs, the lengths of every name and value, then each with
//! a zero byte after it; numbers are 32 bits, little-endian. In and out: bytes and pairs. No I/O.

/// The names and values of a map, in order; repeated names stay apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    bytes: Vec<u8>,
    /// Where each name and each value begins and ends.
    spans: Vec<[(usize, usize); 2]>,
}

impl Headers {
    /// Reads a serialised map; what does not fit its own lengths is left out.
    #[must_use]
    pub fn parse(bytes: Vec<u8>) -> Self {
        let number = |at: usize| -> Option<usize> {
            let four = bytes.get(at..at.checked_add(4)?)?;
            usize::try_from(u32::from_le_bytes(four.try_into().ok()?)).ok()
        };
        let mut spans = Vec::new();
        let count = number(0).unwrap_or(0).min(bytes.len() / 8);
        let mut start = 4 + count * 8;
        let mut next = |length: usize| {
            let end = start.checked_add(length)?;
            bytes.get(start..end)?;
            let span = (start, end);
            start = end.checked_add(1)?;
            Some(span)
        };
        for pair in 0..count {
            let lengths = (number(4 + pair * 8), number(8 + pair * 8));
            let (Some(name), Some(value)) = lengths else { break };
            let (Some(name), Some(value)) = (next(name), next(value)) else { break };
            spans.push([name, value]);
        }
        Self { bytes, spans }
    }

    /// Every value of a header, in order; its name in lower case, as HTTP/2 and Envoy have it.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.spans
            .iter()
            .filter(move |[key, _]| self.at(*key).eq_ignore_ascii_case(name.as_bytes()))
            .map(|[_, value]| self.at(*value))
    }

    /// The first value of a header.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    fn at(&self, (start, end): (usize, usize)) -> &[u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }
}

/// The serialised form of pairs.
pub(crate) fn serialise(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut number = |length: usize| out.extend(u32::try_from(length).unwrap_or(0).to_le_bytes());
    number(pairs.len());
    for (name, value) in pairs {
        number(name.len());
        number(value.len());
    }
    for (name, value) in pairs {
        for text in [name, value] {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_serialised_is_read_back() {
        let pairs = [("x-mse-consumer", "a"), (":path", "/v1"), ("X-Mse-Consumer", ""), ("empty", "")];
        let headers = Headers::parse(serialise(&pairs));
        assert_eq!(headers.all("x-mse-consumer").collect::<Vec<_>>(), [b"a".as_slice(), b""]);
        assert_eq!(headers.first(":path"), Some(b"/v1".as_slice()));
        assert_eq!(headers.first("empty"), Some(b"".as_slice()));
        assert_eq!(headers.first("other"), None);
    }

    #[test]
    fn a_map_that_was_cut_or_lies_about_lengths_keeps_what_fits() {
        let whole = serialise(&[("a", "1"), ("b", "2")]);
        for end in 0..whole.len() {
            let headers = Headers::parse(whole[..end].to_vec());
            assert!(headers.first("b").is_none() || end + 1 == whole.len(), "{end}");
        }
        for at in 0..whole.len() {
            let mut lying = whole.clone();
            lying[at] = 0xff;
            let _ = Headers::parse(lying).first("b");
        }
        assert_eq!(Headers::parse(vec![0xff; 64]).first("a"), None);
    }
}
