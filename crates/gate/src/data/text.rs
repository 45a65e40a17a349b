//! What makes two questions the same question.

use sha2::{Digest, Sha256};

/// Lower case, single spaces, nothing at the ends.
pub(crate) fn normalise(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.extend(word.chars().flat_map(char::to_lowercase));
    }
    normal
}

/// 64 bits of the SHA-256 of normalised texts: what a gate file keeps of each question it was trained
/// on. Among a million questions two share one by chance with probability 3·10⁻⁸.
pub(crate) fn fingerprint<'a>(texts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(normalise(text).as_bytes());
        hash.update([0]);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_spaces_do_not_make_another_question() {
        assert_eq!(normalise("  What\n IS  12 + 30? "), "what is 12 + 30?");
        assert_eq!(
            fingerprint(["Is it  so?", "YES"]),
            fingerprint(["is it so?", "yes "])
        );
        assert_ne!(fingerprint(["a b"]), fingerprint(["a", "b"]));
    }
}
