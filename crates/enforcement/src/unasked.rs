//! Takes the usage that we asked for out of a stream of server-sent events, for a client that did not ask. In: the
//! stream, cut anywhere. Out: what the client gets in place of each piece: all of it but the events that have an empty list of
//! choices and usage. At most one event is held back, and no more than [`HELD_MAX`] bytes. Pure.

use crate::usage::json::Json;

/// A longer event passes as it is.
const HELD_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Unasked {
    /// Of the event at hand, while it may be one that is taken out.
    held: Vec<u8>,
    /// Where in it the line begins that is being read.
    line: usize,
    event: Event,
    /// Nothing of the line was read yet.
    blank: bool,
    /// A carriage return ended the line before: a line feed behind it belongs to it.
    after_return: bool,
    /// And goes where that went: nowhere.
    dropped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// It has no data yet.
    Open,
    /// Its data, which are one line, are usage and nothing else.
    Usage,
    /// The client gets it.
    Passes,
}

impl Unasked {
    /// For an answer of this type, if that is a stream of events.
    pub(crate) fn of(content_type: Option<&[u8]>) -> Option<Self> {
        let media_type = content_type?.split(|byte| *byte == b';').next()?.trim_ascii();
        media_type.eq_ignore_ascii_case(b"text/event-stream").then_some(Self {
            held: Vec::new(),
            line: 0,
            event: Event::Open,
            blank: true,
            after_return: false,
            dropped: false,
        })
    }

    /// What goes on in place of a piece; nothing where it goes on as it is. At the end nothing stays behind.
    pub(crate) fn feed(&mut self, piece: &[u8], end: bool) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(self.held.len() + piece.len());
        for byte in piece {
            self.byte(*byte, &mut out);
        }
        if end {
            out.append(&mut self.held);
        }
        (out != piece).then_some(out)
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.after_return) && byte == b'\n' {
            if !self.held.is_empty() {
                self.held.push(byte);
                self.line = self.held.len();
            } else if !self.dropped {
                out.push(byte);
            }
            return;
        }
        self.dropped = false;
        let ends = matches!(byte, b'\n' | b'\r');
        let over = ends && self.blank;
        (self.blank, self.after_return) = (ends, byte == b'\r');
        self.held.push(byte);
        if over {
            self.dropped = self.event == Event::Usage;
            if self.dropped {
                self.held.clear();
            }
            self.event = Event::Open;
        } else if ends {
            let line = &self.held[self.line..self.held.len() - 1];
            match (self.event, line.strip_prefix(b"data:")) {
                (Event::Open, Some(data)) if is_usage(data) => self.event = Event::Usage,
                (_, Some(_)) => self.event = Event::Passes,
                (_, None) => {}
            }
        } else if self.held.len() > HELD_MAX {
            self.event = Event::Passes;
        }
        if over || self.event == Event::Passes {
            out.append(&mut self.held);
            self.line = 0;
        } else if ends {
            self.line = self.held.len();
        }
    }
}

/// Whether a chunk of an answer has usage and nothing besides.
fn is_usage(data: &[u8]) -> bool {
    if !data.trim_ascii_start().starts_with(b"{") {
        return false;
    }
    let mut json = Json::of_answer();
    json.scan(data) == data.len() && json.is_done() && json.found.no_choices && json.found.has_usage
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        ": hello\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"choices\\\":[]\"}}],\"usage\":null}\n\n",
        "data:{\"choices\":[],\"prompt_filter_results\":[]}\n\n",
        "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"total_tokens\":1}}\n\n",
        "event: chunk\ndata: {\"choices\":[],\"usage\":null}\n\n",
        "[usage]",
        "\ndata: {\"choices\":[],\ndata: \"usage\":{\"total_tokens\":7}}\n\n",
        "data: {\"choices\":[],\"usage\":{\"total_tokens\":7}}\ndata: x\n\n",
        "data: [DONE]\n\n",
    );

    fn passed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut filter = Unasked::of(Some(b"text/event-stream; charset=utf-8")).unwrap();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(filter.feed(piece, false).unwrap_or_else(|| piece.to_vec()));
            assert!(filter.held.len() <= HELD_MAX);
        }
        out.extend(filter.feed(b"", true).unwrap_or_default());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn exactly_the_event_of_usage_is_taken_out_wherever_the_stream_is_cut() {
        for usage in [
            "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"total_tokens\":3}}\n\n",
            "data:{\"usage\":{\"total_tokens\":0},\"choices\":[ ]} \n\n",
            "id: 7\ndata: {\"choices\":[],\"usage\":{}}\nretry: 5\n\n",
        ] {
            for ends in ["\n", "\r\n", "\r"] {
                let (with, without) = (STREAM.replace("[usage]", usage), STREAM.replace("[usage]", ""));
                let (with, without) = (with.replace('\n', ends), without.replace('\n', ends));
                let bytes = with.as_bytes();
                assert_eq!(passed([bytes]), without, "{ends:?}");
                assert_eq!(passed(bytes.chunks(1)), without, "{ends:?}");
                for border in 0..=bytes.len() {
                    let (head, tail) = bytes.split_at(border);
                    assert_eq!(passed([head, tail]), without, "cut at {border}, {ends:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_event_of_usage_goes_on_as_soon_as_its_line_has_ended_and_as_it_came() {
        let mut filter = Unasked::of(Some(b"Text/Event-Stream")).unwrap();
        assert_eq!(filter.feed(b"data: {\"choices\":[{}]}\n", false), None);
        assert_eq!(filter.feed(b"\ndata: {\"cho", false), Some(b"\n".to_vec()), "the rest may be usage");
        assert_eq!(filter.feed(b"ices\":[{}]}\n\n", false), Some(b"data: {\"choices\":[{}]}\n\n".to_vec()));
        assert_eq!(filter.feed(b"data: {\"choices\":[],\"usage\":{}}\n", false), Some(Vec::new()));
        assert_eq!(filter.feed(b"", true), Some(b"data: {\"choices\":[],\"usage\":{}}\n".to_vec()), "it did not end");
    }

    #[test]
    fn an_event_that_is_too_long_is_not_held_back() {
        let long =
            format!("event: chunk\ndata: {{\"x\":\"{}\",\"choices\":[],\"usage\":{{}}}}\n\n", "x".repeat(HELD_MAX));
        let short = "data: {\"choices\":[],\"usage\":{}}\n\n";
        assert_eq!(passed([long.as_bytes(), short.as_bytes()]), long);
        assert_eq!(passed(format!("{long}{short}").as_bytes().chunks(1000)), long);
    }

    #[test]
    fn only_streams_of_events_are_changed() {
        for other in [None, Some(&b""[..]), Some(b"application/json"), Some(b"text/event-streams")] {
            assert!(Unasked::of(other).is_none(), "{other:?}");
        }
    }
}
