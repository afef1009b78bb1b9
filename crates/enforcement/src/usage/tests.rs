//! What the scanner finds: the recorded answers, the shapes that are easily got wrong, and that nothing depends on
//! where the bytes are cut.

mod answers;
mod garbage;
mod shapes;

use super::{Scanner, Usage};

/// Everything that can be asked of a scanner.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    usage: Option<Usage>,
    generated: u64,
    model: Option<String>,
}

impl Outcome {
    fn of(scanner: &Scanner) -> Self {
        Self { usage: scanner.usage(), generated: scanner.generated_bytes(), model: scanner.model().map(str::to_owned) }
    }
}

fn scan<'a>(content_type: Option<&str>, chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut scanner = Scanner::new(content_type.map(str::as_bytes));
    for chunk in chunks {
        scanner.feed(chunk);
    }
    scanner.finish();
    Outcome::of(&scanner)
}

/// The outcome of these bytes, after checking that it is the same in one chunk, byte by byte and cut in two
/// anywhere.
fn scanned(content_type: Option<&str>, body: &[u8]) -> Outcome {
    let whole = scan(content_type, [body]);
    assert_eq!(scan(content_type, body.chunks(1)), whole, "byte by byte: {}", body.escape_ascii());
    for border in 0..=body.len() {
        let (head, tail) = body.split_at(border);
        assert_eq!(scan(content_type, [head, tail]), whole, "cut at {border}: {}", body.escape_ascii());
    }
    whole
}
