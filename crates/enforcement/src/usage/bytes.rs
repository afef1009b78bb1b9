//! Two tools for bytes: a short text that is kept, and the search for the end of a string. Pure.

/// At most `N` bytes of text; more makes it unusable, not longer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> Short<N> {
    pub(crate) const EMPTY: Self = Self { length: 0, bytes: [0; N] };

    pub(super) const fn clear(&mut self) {
        self.length = 0;
    }

    pub(super) fn push(&mut self, text: &[u8]) {
        let end = self.length.saturating_add(text.len());
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(text);
        }
        self.length = end;
    }

    /// Empty if it did not fit.
    pub(crate) fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Where the plain bytes of a string end: at a quote, a backslash, a control character or the end of the bytes.
pub(super) fn text_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    const QUOTE: u64 = ONES * b'"' as u64;
    const BACKSLASH: u64 = ONES * b'\\' as u64;
    const BLANK: u64 = ONES * b' ' as u64;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let (quote, backslash) = (word ^ QUOTE, word ^ BACKSLASH);
        // The lowest bit that is set belongs to the first such byte; those above it may be false.
        let hits = (quote.wrapping_sub(ONES) & !quote
            | backslash.wrapping_sub(ONES) & !backslash
            | word.wrapping_sub(BLANK) & !word)
            & HIGH;
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < b' ' {
            break;
        }
        at += 1;
    }
    at
}
