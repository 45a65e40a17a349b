//! Finding the evidence: one pass over the words, one over the marks, one over the numbers.
//!
//! Everything is bounded by the 8 KiB that are read, and every piece of evidence counts once, so
//! that a pasted table of numbers or a repeated word cannot outvote the question.

use super::Topic;
use super::lexicon::{MARKS, NEVER_LAST, WORDS};

/// Bytes read at either end of the text.
const END: usize = 4096;
/// Longest word that can be in the lexicon, and longest excerpt shown, in bytes.
const LONGEST: usize = 24;

/// Something in the text that speaks for a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    pub(super) topic: Topic,
    pub(super) weight: u32,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Stands in the lexicon.
    Listed(&'static str),
    /// Stands in the text.
    Excerpt(String),
    /// A judgement about the text as a whole.
    Shape(&'static str),
}

impl Evidence {
    /// For people: words of the text in quotation marks, judgements without.
    pub(super) fn shown(&self) -> String {
        match &self.what {
            What::Listed(text) => format!("'{}'", text.trim_end()),
            What::Excerpt(text) => format!("'{text}'"),
            What::Shape(text) => (*text).to_owned(),
        }
    }
}

/// All evidence, each piece once, words first and in the order of the text.
pub(super) fn evidence(text: &str) -> Vec<Evidence> {
    let text = ends(text);
    let lower = text.to_lowercase();
    let mut found: Vec<Evidence> = Vec::new();
    let words = lower.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    for word in words.filter(|w| (1..=LONGEST).contains(&w.len())) {
        if let Ok(at) = WORDS.binary_search_by(|(entry, ..)| (*entry).cmp(word)) {
            let piece = listed(WORDS[at]);
            if !found.contains(&piece) {
                found.push(piece);
            }
        }
    }
    let marks = MARKS.iter().filter(|(mark, ..)| lower.contains(mark));
    found.extend(marks.map(|mark| listed(*mark)));
    found.extend(sum(&lower).map(|excerpt| Evidence {
        topic: Topic::Math,
        weight: 2,
        what: What::Excerpt(excerpt),
    }));
    if is_unfinished(&lower) {
        found.push(Evidence {
            topic: Topic::Text,
            weight: 2,
            what: What::Shape("unfinished sentence"),
        });
    }
    found
}

const fn listed((text, topic, weight): (&'static str, Topic, u32)) -> Evidence {
    Evidence {
        topic,
        weight,
        what: What::Listed(text),
    }
}

/// The text, without the middle if it is long; cut between characters.
fn ends(text: &str) -> String {
    if text.len() <= 2 * END {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(END);
    let tail = text.ceil_char_boundary(text.len() - END);
    // A line break between them, so that the cut makes no word of two halves.
    format!("{}\n{}", &text[..head], &text[tail..])
}

/// The first thing that looks like a calculation: a digit or a closing bracket, an operator, and a
/// digit, letter or opening bracket. `-` and `/` need spaces around them, else dates, ranges and
/// "24/7" would be sums.
fn sum(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    text.char_indices().find_map(|(at, operator)| {
        let spaced = matches!(operator, '-' | '/' | '−');
        if !spaced && !matches!(operator, '+' | '*' | '×' | '÷' | '^' | '=') {
            return None;
        }
        let after = at + operator.len_utf8();
        let left = text[..at].trim_end_matches(' ').len().checked_sub(1)?;
        let right = text.len() - text[after..].trim_start_matches(' ').len();
        if spaced && (left + 1 == at || right == after) {
            return None;
        }
        // Powers and equations have letters on the left; products and sums of words are prose.
        let letter = matches!(operator, '^' | '=') && right - after <= 1;
        let operand = |b: u8| b.is_ascii_digit() || (letter && b == b'x');
        let fits_left = bytes.get(left).is_some_and(|b| operand(*b) || *b == b')');
        let fits_right = bytes
            .get(right)
            .is_some_and(|b| b.is_ascii_digit() || *b == b'(');
        (fits_left && fits_right).then(|| excerpt(text, left, right))
    })
}

/// The numbers on both sides of an operator, from the last digit of one to the first of the other.
fn excerpt(text: &str, left: usize, right: usize) -> String {
    let bytes = text.as_bytes();
    let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'(' | b')');
    let before = bytes[..=left].iter().rev().take(LONGEST / 2);
    let start = left + 1 - before.take_while(|b| part(b)).count();
    let behind = bytes[right..].iter().take(LONGEST / 2);
    let end = right + behind.take_while(|b| part(b)).count();
    text.get(start..end).unwrap_or_default().to_owned()
}

/// Ends with a word that no sentence ends with, and without a mark.
fn is_unfinished(text: &str) -> bool {
    let last = text.trim_end().rsplit(char::is_whitespace).next();
    text.split_whitespace().nth(2).is_some() && last.is_some_and(|word| NEVER_LAST.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calculations_are_told_from_dates_ranges_and_prose() {
        for yes in [
            "2+2",
            "12 * 7",
            "3x + 5 = 20",
            "(1 + 2)",
            "10 - 4",
            "9 / 3",
            "x^2",
            "5×6",
        ] {
            assert!(sum(yes).is_some(), "{yes}");
        }
        for no in [
            "2001-03-04",
            "3-4 days",
            "24/7",
            "a = b",
            "*",
            "+1",
            "5 *",
            "C + + 1",
            "- 1",
        ] {
            assert_eq!(sum(no), None, "{no}");
        }
    }

    #[test]
    fn the_ends_are_cut_between_characters() {
        for width in ["a", "ß", "你", "😀"] {
            let long = format!("x{}", width.repeat(10_000));
            let cut = ends(&long);
            assert!(cut.len() <= 2 * END + 1);
            assert!(cut.starts_with('x') && cut.ends_with(width));
        }
    }
}
