//! When two texts say the same, and when a text is short enough for that to be likely.

/// Longest answer, normalised, that is put to a vote: a name, a number, a sentence at most.
const SHORT_WORDS: usize = 12;
const SHORT_BYTES: usize = 80;

/// Words in lower case, without punctuation around them and with single spaces between.
pub(super) fn normalise(text: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| {
            word.trim_matches(|c: char| c.is_ascii_punctuation())
                .to_lowercase()
        })
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

/// Whether other experts are likely to use the same words.
pub(super) fn is_short(text: &str) -> bool {
    let text = normalise(text);
    text.len() <= SHORT_BYTES && text.split(' ').count() <= SHORT_WORDS
}
