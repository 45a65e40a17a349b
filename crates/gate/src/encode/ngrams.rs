//! Hashed words, pairs of words and parts of words: an encoder that needs no file.
//!
//! Each n-gram is a feature at a hashed index (Weinberger et al. 2009), which bounds the size whatever is
//! asked. Collisions cost a little; a dictionary would cost a file and know no new words. Counts are
//! damped by a logarithm, weighted by rarity where that was learnt, and the whole has length 1, so that
//! a long question is not a louder one.

use super::Sparse;

/// Bits of an index.
pub(crate) const BITS: u32 = 16;
/// Number of features.
pub(crate) const WIDTH: usize = 1 << BITS;
/// Bytes read from either end of a text: what is wanted stands there.
const END: usize = 8_192;
/// Length of parts of words, in characters, the word with a mark at either end.
const PARTS: [usize; 2] = [3, 4];

/// The n-grams of a text: indices in rising order, damped counts, not yet weighted.
pub(crate) fn counts(text: &str) -> Sparse {
    let lower = ends(text).to_lowercase();
    let mut hashes: Vec<u32> = Vec::with_capacity(2 * lower.len());
    let mut before: Option<u32> = None;
    let mut marked: Vec<char> = Vec::new();
    for word in lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
    {
        let own = hash(1, word.chars());
        hashes.push(index(own));
        if let Some(before) = before {
            hashes.push(index(mix(before, own)));
        }
        before = Some(own);
        marked.clear();
        marked.extend(std::iter::once(' ').chain(word.chars()).chain([' ']));
        for length in PARTS {
            hashes.extend(
                marked
                    .windows(length)
                    .map(|part| index(hash(length as u32, part.iter().copied()))),
            );
        }
    }
    hashes.sort_unstable();
    let mut sparse = Sparse::default();
    for same in hashes.chunk_by(|a, b| a == b) {
        sparse.index.push(same[0]);
        sparse.value.push(1.0 + (same.len() as f32).ln());
    }
    sparse
}

/// The text, or both ends of a long one.
pub(crate) fn ends(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= 2 * END {
        return text.into();
    }
    let floor = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (first, last) = (floor(END), floor(text.len() - END));
    format!("{} {}", &text[..first], &text[last..]).into()
}

/// FNV-1a over characters.
fn hash(seed: u32, characters: impl Iterator<Item = char>) -> u32 {
    characters.fold(0x811c_9dc5 ^ seed.wrapping_mul(0x9e37_79b9), |hash, c| {
        (hash ^ u32::from(c)).wrapping_mul(0x0100_0193)
    })
}

fn mix(a: u32, b: u32) -> u32 {
    (a.rotate_left(13) ^ b).wrapping_mul(0x85eb_ca6b)
}

/// The upper bits, which FNV mixes best, after one more turn.
fn index(hash: u32) -> u32 {
    (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d) >> (32 - BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_punctuation_make_no_difference_and_words_do() {
        assert_eq!(counts("What is Rust?"), counts("what IS... rust"));
        assert_ne!(counts("what is rust"), counts("what is dust"));
    }

    #[test]
    fn indices_rise_and_repeated_words_are_damped() {
        let once = counts("alpha");
        let often = counts(&"alpha ".repeat(50));
        assert!(once.index.windows(2).all(|pair| pair[0] < pair[1]));
        let most = often.value.iter().copied().fold(0.0, f32::max);
        assert!(most < 6.0, "{most}");
    }

    #[test]
    fn a_very_long_text_is_read_at_both_ends_only() {
        let long = format!("first {} last", "ä ".repeat(1 << 20));
        let sparse = counts(&long);
        assert!(sparse.index.len() < 100);
        for word in ["first", "last"] {
            let own = counts(word);
            assert!(own.index.iter().all(|i| sparse.index.contains(i)), "{word}");
        }
    }
}
