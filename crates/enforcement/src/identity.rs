//! Who calls. In: every value of the identity header. Out: the consumer, or why nobody is recognised. Pure.

/// The header in which auth plugins name the consumer. They append it, so a client may have sent its own first.
pub const HEADER: &str = "x-mse-consumer";

/// Why a request has no consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecognised {
    /// The header is missing.
    Missing,
    /// It is empty, or its values differ: one of them may be forged.
    Unauthorized,
}

/// The consumer that all values of the header agree on. Equal repeats are legitimate: internal redirects run the
/// auth plugin again.
///
/// # Errors
/// If there is none.
pub fn consumer<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<&'a [u8], Unrecognised> {
    let mut values = values.into_iter();
    let first = values.next().ok_or(Unrecognised::Missing)?;
    if first.is_empty() || values.any(|other| other != first) { Err(Unrecognised::Unauthorized) } else { Ok(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_must_name_the_same_consumer() {
        let of = |values: &[&'static str]| consumer(values.iter().map(|value| value.as_bytes()));
        assert_eq!(of(&["a"]), Ok(b"a".as_slice()));
        assert_eq!(of(&["a", "a", "a"]), Ok(b"a".as_slice()));
        assert_eq!(of(&[]), Err(Unrecognised::Missing));
        assert_eq!(of(&[""]), Err(Unrecognised::Unauthorized));
        assert_eq!(of(&["", ""]), Err(Unrecognised::Unauthorized));
        assert_eq!(of(&["a", "b"]), Err(Unrecognised::Unauthorized));
        assert_eq!(of(&["a", "a", "b"]), Err(Unrecognised::Unauthorized));
        assert_eq!(of(&["a", ""]), Err(Unrecognised::Unauthorized));
        assert_eq!(of(&["", "a"]), Err(Unrecognised::Unauthorized));
        assert_eq!(of(&["a", "A"]), Err(Unrecognised::Unauthorized));
    }
}
