//! From token bytes to the text that is sent: whole characters, and nothing from a stop string on.
//!
//! A token may end inside a character, and a stop string may begin in one token and end in another.
//! So bytes wait until their character is whole, and text waits while it could still become a stop
//! string. Characters are looked at one by one: which stop string counts is then decided by where
//! it *ends*, and never by how the engine happened to cut the text. Searching each chunk as a whole
//! would be shorter, and would give different answers for different chunks.

/// Collects bytes, hands out text.
#[derive(Debug)]
pub(crate) struct TextAssembler {
    /// Bytes of a character that is not whole yet.
    bytes: Vec<u8>,
    /// Characters that may be the beginning of a stop string.
    held: String,
    stops: Vec<String>,
    skip_space: bool,
    stopped: bool,
}

impl TextAssembler {
    /// Text that ends before any of `stops`; `skip_space` drops white space at its start.
    pub(crate) fn new(mut stops: Vec<String>, skip_space: bool) -> Self {
        stops.retain(|stop| !stop.is_empty());
        // Of two that end at the same character the longer one leaves less behind.
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
        Self {
            bytes: Vec::new(),
            held: String::new(),
            stops,
            skip_space,
            stopped: false,
        }
    }

    /// Takes bytes and returns the text that is certain now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.bytes.extend_from_slice(bytes);
        let mut out = String::new();
        for character in take_characters(&mut self.bytes) {
            self.take(character, &mut out);
        }
        out
    }

    /// Whatever was held back; an unfinished character becomes U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        let mut out = String::new();
        let rest = std::mem::take(&mut self.bytes);
        for character in String::from_utf8_lossy(&rest).chars() {
            self.take(character, &mut out);
        }
        out.push_str(&std::mem::take(&mut self.held));
        out
    }

    /// Whether a stop string was met; nothing comes out after it.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn take(&mut self, character: char, out: &mut String) {
        if self.stopped || (self.skip_space && character.is_whitespace()) {
            return;
        }
        self.skip_space = false;
        self.held.push(character);
        if let Some(stop) = self.stops.iter().find(|stop| self.held.ends_with(*stop)) {
            self.stopped = true;
            self.held.truncate(self.held.len() - stop.len());
            out.push_str(&std::mem::take(&mut self.held));
            return;
        }
        let keep = self.could_become_a_stop();
        out.extend(self.held.drain(..keep));
    }

    /// Where the longest end of `held` begins that is the beginning of a stop string.
    fn could_become_a_stop(&self) -> usize {
        let starts = self.held.char_indices().map(|(at, _)| at);
        starts
            .into_iter()
            .find(|&at| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[at..]))
            })
            .unwrap_or(self.held.len())
    }
}

/// Takes the whole characters off the front of `bytes`; what is no character becomes U+FFFD, as
/// `String::from_utf8_lossy` would have it.
fn take_characters(bytes: &mut Vec<u8>) -> Vec<char> {
    let mut characters = Vec::new();
    let mut used = 0;
    loop {
        match std::str::from_utf8(&bytes[used..]) {
            Ok(text) => {
                characters.extend(text.chars());
                used = bytes.len();
                break;
            }
            Err(error) => {
                let valid = used + error.valid_up_to();
                let text = String::from_utf8_lossy(&bytes[used..valid]);
                characters.extend(text.chars());
                used = valid;
                let Some(bad) = error.error_len() else { break };
                characters.push(char::REPLACEMENT_CHARACTER);
                used += bad;
            }
        }
    }
    bytes.drain(..used);
    characters
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run<'a>(stops: &[String], chunks: impl Iterator<Item = &'a [u8]>) -> (String, bool) {
        let mut text = TextAssembler::new(stops.to_vec(), false);
        let mut out = String::new();
        for chunk in chunks {
            out.push_str(&text.push(chunk));
        }
        out.push_str(&text.finish());
        (out, text.is_stopped())
    }

    /// The specification, written without thought for streaming.
    fn slow(stops: &[String], bytes: &[u8]) -> (String, bool) {
        let all = String::from_utf8_lossy(bytes);
        for (at, character) in all.char_indices() {
            let seen = &all[..at + character.len_utf8()];
            let ending = stops.iter().filter(|stop| seen.ends_with(*stop));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                return (seen[..seen.len() - stop.len()].to_owned(), true);
            }
        }
        (all.into_owned(), false)
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut text = TextAssembler::new(Vec::new(), false);
        assert_eq!(text.push("ä".as_bytes().split_at(1).0), "");
        assert_eq!(text.push("ä".as_bytes().split_at(1).1), "ä");
    }

    #[test]
    fn a_half_character_at_the_end_is_replaced() {
        let mut text = TextAssembler::new(Vec::new(), false);
        assert_eq!(text.push(&[b'a', 0xe2, 0x82]), "a");
        assert_eq!(text.finish(), "\u{fffd}");
    }

    #[test]
    fn a_stop_string_across_tokens_never_leaks() {
        let mut text = TextAssembler::new(vec!["\nQuestion:".to_owned()], true);
        assert_eq!(text.push(b" Paris\nQue"), "Paris");
        assert_eq!(text.push(b"stion: who"), "");
        assert!(text.is_stopped());
        assert_eq!(text.finish(), "");
    }

    #[test]
    fn text_that_did_not_become_a_stop_string_comes_out() {
        let mut text = TextAssembler::new(vec!["\nQuestion:".to_owned()], false);
        assert_eq!(text.push(b"a\nQue"), "a");
        assert_eq!(text.push(b"en"), "\nQueen");
    }

    fn stops() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[abä]{1,4}", 0..3)
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let text = "[abcä€]{0,24}".prop_map(String::into_bytes);
        let piece = prop_oneof![4 => text, 1 => prop::collection::vec(any::<u8>(), 0..4)];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_cutting_of_the_bytes_gives_what_the_whole_would(
            stops in stops(), bytes in bytes(), sizes in prop::collection::vec(1_usize..5, 1..40)
        ) {
            let mut rest = bytes.as_slice();
            let mut chunks = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(run(&stops, chunks.into_iter()), slow(&stops, &bytes));
        }

        #[test]
        fn no_stop_string_is_ever_in_the_text(stops in stops(), bytes in bytes()) {
            let (text, _) = run(&stops, bytes.chunks(2));
            for stop in &stops {
                prop_assert!(!text.contains(stop.as_str()));
            }
        }

        #[test]
        fn held_back_text_is_never_longer_than_a_stop_string(stops in stops(), bytes in bytes()) {
            let longest = stops.iter().map(String::len).max().unwrap_or(0);
            let mut text = TextAssembler::new(stops, false);
            for byte in bytes {
                text.push(&[byte]);
                prop_assert!(text.held.len() < longest.max(1));
            }
        }
    }
}
