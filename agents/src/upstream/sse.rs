//! Server-sent events, as the WHATWG's HTML standard has them ("Server-sent events", parsing an event
//! stream), from bytes as they come.
//!
//! A state machine over bytes without I/O, so that any cutting of a stream can be tested. The crates
//! that do this put no limit on a line or an event: a server that sends one line for ever would have
//! all memory. Here every buffer has a most, and what is beyond it ends the stream with an error.

use std::collections::VecDeque;

/// What a stream may have at most, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// A line, without its end.
    pub(crate) line: usize,
    /// The data of an event.
    pub(crate) event: usize,
    /// Everything together, comments and line ends too.
    pub(crate) total: u64,
}

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    /// A line beyond the limit.
    #[error("a line is longer than {0} bytes")]
    LongLine(usize),
    /// An event beyond the limit.
    #[error("an event is longer than {0} bytes")]
    LongEvent(usize),
    /// A stream beyond the limit.
    #[error("the stream is longer than {0} bytes")]
    LongStream(u64),
    /// Data that is no text.
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its type; `message` unless the stream says otherwise.
    pub(crate) name: String,
    /// Its data, lines joined with line feeds.
    pub(crate) data: String,
}

/// Reads one stream. After an error it is of no more use.
#[derive(Debug)]
pub(crate) struct Parser {
    limits: Limits,
    total: u64,
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    returned: bool,
    first_line: bool,
    name: String,
    data: Vec<u8>,
    ready: VecDeque<Event>,
}

impl Parser {
    /// At the beginning of a stream.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            total: 0,
            line: Vec::new(),
            returned: false,
            first_line: true,
            name: String::new(),
            data: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// When a limit is exceeded or an event is no text. Events that were whole before can still be
    /// taken.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        for &byte in bytes {
            self.total += 1;
            if self.total > self.limits.total {
                return Err(SseError::LongStream(self.limits.total));
            }
            let after_return = std::mem::replace(&mut self.returned, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_of_line()?,
                _ if self.line.len() == self.limits.line => {
                    return Err(SseError::LongLine(self.limits.line));
                }
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// The next whole event. What is not ended by an empty line when the stream ends is no event.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn end_of_line(&mut self) -> Result<(), SseError> {
        let mut whole = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.first_line) && whole.starts_with("\u{feff}".as_bytes()) {
            whole.drain(.."\u{feff}".len());
        }
        if whole.is_empty() {
            self.dispatch()?;
        } else {
            self.field(&whole)?;
        }
        // The same memory for the next line.
        whole.clear();
        self.line = whole;
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), SseError> {
        let colon = line.iter().position(|b| *b == b':');
        let (field, value) = match colon {
            // A comment.
            Some(0) => return Ok(()),
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.data.len() + value.len() + 1 > self.limits.event {
                    return Err(SseError::LongEvent(self.limits.event));
                }
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            // `id` and `retry` are for coming back to a stream, which nobody does here.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) -> Result<(), SseError> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        if data.pop().is_none() {
            // Without data there is no event.
            return Ok(());
        }
        let data = String::from_utf8(data).map_err(|_| SseError::NotUtf8)?;
        let name = if name.is_empty() {
            "message".to_owned()
        } else {
            name
        };
        self.ready.push_back(Event { name, data });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        line: 64,
        event: 96,
        total: 4_096,
    };

    fn read<'a>(
        limits: Limits,
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<(String, String)>, Option<SseError>) {
        let mut parser = Parser::new(limits);
        let error = chunks.into_iter().find_map(|c| parser.push(c).err());
        let events = std::iter::from_fn(|| parser.next_event());
        (events.map(|e| (e.name, e.data)).collect(), error)
    }

    fn data(stream: &[u8]) -> Vec<String> {
        let (events, error) = read(LIMITS, [stream]);
        assert_eq!(error, None);
        events.into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn lines_end_in_any_of_three_ways() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = ["data: a", "data:b", "", "data", "", ":note", "", "data: c"].join(end);
            assert_eq!(data(stream.as_bytes()), ["a\nb", ""], "{end:?}");
        }
    }

    #[test]
    fn a_mark_of_byte_order_counts_at_the_start_only() {
        assert_eq!(data("\u{feff}data: a\n\n".as_bytes()), ["a"]);
        assert_eq!(data("\n\u{feff}data: a\n\n".as_bytes()), [""; 0]);
    }

    #[test]
    fn one_space_belongs_to_the_colon_and_the_rest_to_the_value() {
        assert_eq!(data(b"data:  a: b\n\n"), [" a: b"]);
    }

    #[test]
    fn a_name_is_its_events_only_and_unknown_fields_are_nothing() {
        let stream = b"event: error\nid: 3\nretry: 9\ndata: a\n\nevent: x\n\ndata: b\n\n";
        let (events, _) = read(LIMITS, [stream.as_slice()]);
        let named = |name: &str, data: &str| (name.to_owned(), data.to_owned());
        assert_eq!(events, [named("error", "a"), named("message", "b")]);
    }

    #[test]
    fn an_event_without_its_empty_line_never_comes() {
        assert_eq!(data(b"data: a\n\ndata: b\n"), ["a"]);
    }

    #[test]
    fn every_limit_is_exact() {
        let line = |bytes: usize| format!("data: {}\n\n", "x".repeat(bytes - 6)).into_bytes();
        assert_eq!(read(LIMITS, [line(64).as_slice()]).1, None);
        let long = read(LIMITS, [line(65).as_slice()]).1;
        assert_eq!(long, Some(SseError::LongLine(64)));

        let event = |last: usize| {
            let lines = ["x".repeat(47), "y".repeat(last)].map(|text| format!("data:{text}\n"));
            (lines.concat() + "\n").into_bytes()
        };
        assert_eq!(read(LIMITS, [event(47).as_slice()]).1, None);
        let long = read(LIMITS, [event(48).as_slice()]).1;
        assert_eq!(long, Some(SseError::LongEvent(96)));

        let comments = b":\n".repeat(2_048);
        assert_eq!(read(LIMITS, [comments.as_slice()]).1, None);
        let long = read(LIMITS, [comments.as_slice(), b":"]).1;
        assert_eq!(long, Some(SseError::LongStream(4_096)));
    }

    #[test]
    fn what_is_no_text_ends_the_stream_after_what_was_whole() {
        let (events, error) = read(LIMITS, [b"data: a\n\ndata: \xff\n\n".as_slice()]);
        assert_eq!(events.len(), 1);
        assert_eq!(error, Some(SseError::NotUtf8));
    }

    /// What one piece left behind: events are taken as they come, and nothing that waits is beyond a limit.
    fn taken(parser: &mut Parser, limits: Limits) -> Vec<Event> {
        assert!(
            parser.line.len() <= limits.line && parser.line.capacity() <= 2 * limits.line.max(8)
        );
        assert!(parser.data.len() <= limits.event && parser.data.capacity() <= 2 * limits.event);
        let events: Vec<Event> = std::iter::from_fn(|| parser.next_event()).collect();
        for event in &events {
            assert!(event.data.len() < limits.event);
            // A byte that is no text becomes one of three.
            assert!(!event.name.is_empty() && event.name.len() <= 3 * limits.line);
        }
        events
    }

    #[test]
    fn fuzz_sse() {
        let limits = Limits {
            line: 48,
            event: 64,
            total: 512,
        };
        bolero::check!(name = "sse").for_each(|bytes: &[u8]| {
            // Lengths of pieces, over and over, and what is cut into them.
            let (lengths, stream) = bytes.split_at(bytes.len().min(3));
            let mut parser = Parser::new(limits);
            let (mut rest, mut events, mut error) = (stream, Vec::new(), None);
            for length in lengths.iter().cycle() {
                if rest.is_empty() || error.is_some() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(1 + usize::from(*length)));
                rest = after;
                error = parser.push(piece).err();
                events.extend(taken(&mut parser, limits));
            }
            let pairs: Vec<_> = events.into_iter().map(|e| (e.name, e.data)).collect();
            assert_eq!((pairs, error), read(limits, [stream]));
        });
    }

    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "data", "data: ", "event: ", ":", "\n", "\r", "\r\n", "\n\n", "x", "\u{feff}", "ä",
            "[DONE]",
        ];
        let word = proptest::sample::select(words.to_vec()).prop_map(|w| w.as_bytes().to_vec());
        let noise = prop::collection::vec(any::<u8>(), 0..4);
        let piece = prop_oneof![8 => word, 1 => noise];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_events(
            stream in streams(), sizes in prop::collection::vec(1_usize..9, 1..20)
        ) {
            let mut rest = stream.as_slice();
            let mut chunks = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(read(LIMITS, chunks), read(LIMITS, [stream.as_slice()]));
        }

        #[test]
        fn no_buffer_outgrows_its_limit(stream in streams()) {
            let limits = Limits { line: 7, event: 9, total: 100 };
            let mut parser = Parser::new(limits);
            for byte in stream {
                if parser.push(&[byte]).is_err() { break; }
                prop_assert!(parser.line.len() <= 7 && parser.data.len() <= 9 && parser.total <= 100);
            }
        }
    }
}
