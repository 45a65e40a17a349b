//! Splits that no question straddles, not even reworded.
//!
//! A gate that has seen a question, or one that differs in a name, is judged on what it remembers.
//! Questions are therefore put into groups first and groups into folds. Two questions are in one group
//! if their texts are the same, or if the sets of their word triples overlap by [`ALIKE`] (found by
//! MinHash, confirmed by counting: Broder 1997); so are questions about one long passage.

use std::collections::HashMap;

use moe2_model::Rng;

use super::outcomes::Item;
use super::text::normalise;

/// Jaccard similarity of word triples from which two questions count as one.
const ALIKE: f64 = 0.7;
/// Words in a shingle.
const WORDS: usize = 3;
/// Signatures are compared in so many bands of so many rows: similar pairs at [`ALIKE`] meet in some
/// band with probability 0.99.
const BANDS: usize = 16;
const ROWS: usize = 4;
/// Items of a bucket that others are compared with: more have a band in common by their form alone.
const BUCKET: usize = 64;
/// The same prompt on more items than this is a form of words, like "Which sentence is grammatical?",
/// and only its options make the question.
const TEMPLATE: usize = 8;

/// Group of every item, numbered from 0 by first appearance; items of a group belong together.
#[must_use]
pub fn groups(items: &[Item]) -> Vec<usize> {
    let mut sets = DisjointSets::new(items.len());
    let mut by_prompt: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, item) in items.iter().enumerate() {
        by_prompt
            .entry(normalise(&item.prompt))
            .or_default()
            .push(at);
    }
    for same in by_prompt.values().filter(|same| same.len() <= TEMPLATE) {
        same.iter().for_each(|&at| sets.join(same[0], at));
    }
    let shingles: Vec<Vec<u64>> = items.iter().map(shingles).collect();
    let mut buckets: HashMap<(usize, [u64; ROWS]), Vec<usize>> = HashMap::new();
    for (at, set) in shingles.iter().enumerate() {
        let signature = signature(set);
        for (band, rows) in signature.chunks_exact(ROWS).enumerate() {
            let key = (band, [rows[0], rows[1], rows[2], rows[3]]);
            let bucket = buckets.entry(key).or_default();
            for &other in bucket.iter() {
                if sets.find(other) != sets.find(at) && jaccard(&shingles[other], set) >= ALIKE {
                    sets.join(other, at);
                }
            }
            if bucket.len() < BUCKET {
                bucket.push(at);
            }
        }
    }
    let mut number = HashMap::new();
    (0..items.len())
        .map(|at| {
            let next = number.len();
            *number.entry(sets.find(at)).or_insert(next)
        })
        .collect()
}

/// A partition of items into folds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Fold of every item.
    pub fold: Vec<usize>,
    /// How many there are.
    pub folds: usize,
}

impl Split {
    /// Folds of about equal size, groups kept whole; the seed decides which.
    ///
    /// # Panics
    /// If `folds` is 0.
    #[must_use]
    pub fn new(groups: &[usize], folds: usize, seed: u64) -> Self {
        assert!(folds > 0, "a split has at least one fold");
        let count = groups.iter().max().map_or(0, |last| last + 1);
        let mut size = vec![0usize; count];
        groups.iter().for_each(|&group| size[group] += 1);
        let mut order: Vec<usize> = (0..count).collect();
        Rng::new(seed).shuffle(&mut order);
        // Large groups first, so that what is left evens out.
        order.sort_by_key(|&group| std::cmp::Reverse(size[group]));
        let mut filled = vec![0usize; folds];
        let mut fold_of = vec![0; count];
        for group in order {
            let emptiest = (0..folds).min_by_key(|&fold| filled[fold]).unwrap_or(0);
            fold_of[group] = emptiest;
            filled[emptiest] += size[group];
        }
        Self {
            fold: groups.iter().map(|&group| fold_of[group]).collect(),
            folds,
        }
    }

    /// Items of one fold.
    #[must_use]
    pub fn inside(&self, fold: usize) -> Vec<usize> {
        (0..self.fold.len())
            .filter(|&at| self.fold[at] == fold)
            .collect()
    }

    /// Items of all others.
    #[must_use]
    pub fn outside(&self, fold: usize) -> Vec<usize> {
        (0..self.fold.len())
            .filter(|&at| self.fold[at] != fold)
            .collect()
    }
}

/// Hashes of all runs of three words, each once, in order; of the whole text if it is shorter.
fn shingles(item: &Item) -> Vec<u64> {
    let text: Vec<String> = item.texts().map(normalise).collect();
    let words: Vec<&str> = text.iter().flat_map(|t| t.split(' ')).collect();
    let mut all: Vec<u64> = if words.len() < WORDS {
        vec![hash(&words)]
    } else {
        words.windows(WORDS).map(hash).collect()
    };
    all.sort_unstable();
    all.dedup();
    all
}

/// FNV-1a over words and the gaps between them.
fn hash(words: &[&str]) -> u64 {
    let bytes = words
        .iter()
        .flat_map(|word| word.bytes().chain(std::iter::once(0)));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Smallest image of the set under each of the signature's hash functions.
fn signature(set: &[u64]) -> Vec<u64> {
    let mut keys = Rng::new(0x6d6f_6532);
    (0..BANDS * ROWS)
        .map(|_| {
            let key = keys.bits();
            let image = |&shingle: &u64| Rng::new(shingle ^ key).bits();
            set.iter().map(image).min().unwrap_or(0)
        })
        .collect()
}

/// Overlap of two sorted sets: shared over all.
#[allow(clippy::cast_precision_loss)] // words of a question
fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let shared = a.iter().filter(|x| b.binary_search(x).is_ok()).count();
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}

/// Union-find with path halving.
struct DisjointSets(Vec<usize>);

impl DisjointSets {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn find(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(prompt: &str, choices: &[&str]) -> Item {
        Item {
            fingerprint: None,
            id: None,
            dataset: None,
            domain: None,
            prompt: prompt.to_owned(),
            choices: choices.iter().map(|&c| c.to_owned()).collect(),
            answer: None,
            outcomes: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn the_same_and_nearly_the_same_questions_are_one_group() {
        let passage = "Mercury is the planet that is nearest to the sun, it has no moon, and a year \
                       on it is as long as eighty eight days are on the earth where we live";
        let items = [
            item("What is the capital of France?", &["Paris", "Rome"]),
            item("what is  the CAPITAL of France?", &["Berlin", "Paris"]),
            item(
                "What is the boiling point of water at sea level in kelvin?",
                &["373", "273"],
            ),
            item(&format!("{passage}. How long is its year?"), &[]),
            item(&format!("{passage}. Has it a moon?"), &[]),
        ];
        assert_eq!(groups(&items), [0, 0, 1, 2, 2]);
    }

    #[test]
    fn a_form_of_words_is_not_a_question() {
        let sentences: Vec<String> = (0..20)
            .map(|n| format!("Number {n} walks the dog{} and sings", n * n))
            .collect();
        let items: Vec<Item> = sentences
            .iter()
            .map(|s| item("Which is grammatical?", &[s, &s.replace("walks", "walk")]))
            .collect();
        let found = groups(&items);
        assert_eq!(found, (0..20).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn no_group_straddles_folds_and_folds_are_about_equal(
            groups in prop::collection::vec(0..40usize, 1..300), folds in 1..6usize, seed in 0..99u64,
        ) {
            let split = Split::new(&groups, folds, seed);
            for (a, b) in groups.iter().zip(&split.fold) {
                for (c, d) in groups.iter().zip(&split.fold) {
                    prop_assert!(a != c || b == d);
                }
            }
            let largest = (0..40).map(|g| groups.iter().filter(|&&x| x == g).count()).max().unwrap_or(0);
            let sizes: Vec<usize> = (0..folds).map(|f| split.inside(f).len()).collect();
            let (low, high) = (sizes.iter().min().unwrap_or(&0), sizes.iter().max().unwrap_or(&0));
            prop_assert!(high - low <= largest.max(1), "{sizes:?}");
            prop_assert_eq!(split.inside(0).len() + split.outside(0).len(), groups.len());
            prop_assert_eq!(&split, &Split::new(&groups, folds, seed));
        }
    }
}
