//! Sequences that have ended and whose cells are still in the cache, for prompts that begin alike.
//!
//! Chats of one application share their system prompt, and each turn of a chat repeats all turns
//! before it. What an ended sequence has left is kept, the least recently used goes first, and one
//! that begins with all of another takes its place. Cells that several share are counted for each,
//! so less is kept than would fit: a tree of shared parts would know better.

use llama_cpp_2::token::LlamaToken;

/// A kept sequence.
#[derive(Debug)]
struct Kept {
    /// What the cache calls it.
    id: i32,
    tokens: Vec<LlamaToken>,
}

/// Kept sequences, the least recently used first.
#[derive(Debug)]
pub(crate) struct Prefixes {
    kept: Vec<Kept>,
    most: usize,
}

impl Prefixes {
    /// None yet, and never more than `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            kept: Vec::new(),
            most,
        }
    }

    /// Tokens in all of them; cells that several share are counted as often.
    pub(crate) fn tokens(&self) -> usize {
        self.kept.iter().map(|kept| kept.tokens.len()).sum()
    }

    /// Every kept sequence with how many of its first tokens are those of `tokens`.
    pub(crate) fn common(&self, tokens: &[LlamaToken]) -> impl Iterator<Item = (usize, i32)> {
        let kept = self.kept.iter();
        kept.map(move |kept| (common(&kept.tokens, tokens), kept.id))
    }

    /// One was of use; it goes last.
    pub(crate) fn used(&mut self, id: i32) {
        if let Some(at) = self.kept.iter().position(|kept| kept.id == id) {
            let kept = self.kept.remove(at);
            self.kept.push(kept);
        }
    }

    /// Kept sequences that begin with all of these tokens.
    pub(crate) fn holders(&self, tokens: &[LlamaToken]) -> impl Iterator<Item = i32> {
        let kept = self.kept.iter();
        let holders = kept.filter(move |kept| kept.tokens.starts_with(tokens));
        holders.map(|kept| kept.id)
    }

    /// Keeps one more, unless `holder` serves in its place. Returns those that are not kept for it, which may be
    /// itself.
    pub(crate) fn keep(
        &mut self,
        id: i32,
        tokens: Vec<LlamaToken>,
        holder: Option<i32>,
    ) -> Vec<i32> {
        if self.most == 0 || tokens.is_empty() {
            return vec![id];
        }
        if let Some(holder) = holder {
            self.used(holder);
            return vec![id];
        }
        let held = self.kept.extract_if(.., |k| tokens.starts_with(&k.tokens));
        let mut gone: Vec<i32> = held.map(|kept| kept.id).collect();
        if self.kept.len() == self.most {
            gone.extend(self.drop_oldest());
        }
        self.kept.push(Kept { id, tokens });
        gone
    }

    /// Gives up the least recently used.
    pub(crate) fn drop_oldest(&mut self) -> Option<i32> {
        (!self.kept.is_empty()).then(|| self.kept.remove(0).id)
    }
}

/// How many tokens two sequences have in common before they differ.
pub(crate) fn common(one: &[LlamaToken], other: &[LlamaToken]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(text: &str) -> Vec<LlamaToken> {
        text.bytes().map(|b| LlamaToken(i32::from(b))).collect()
    }

    /// Where every holder has all its cells.
    fn keep(prefixes: &mut Prefixes, id: i32, text: &str) -> Vec<i32> {
        let tokens = tokens(text);
        let holder = prefixes.holders(&tokens).next();
        prefixes.keep(id, tokens, holder)
    }

    fn best(prefixes: &Prefixes, text: &str) -> (usize, i32) {
        let tokens = tokens(text);
        let all = prefixes.common(&tokens);
        all.max().unwrap_or((0, -1))
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut prefixes = Prefixes::new(2);
        assert!(keep(&mut prefixes, 1, "ab").is_empty());
        assert!(keep(&mut prefixes, 2, "cd").is_empty());
        prefixes.used(1);
        assert_eq!(keep(&mut prefixes, 3, "ef"), [2]);
        assert_eq!(best(&prefixes, "abc"), (2, 1));
        assert_eq!(best(&prefixes, "cd").0, 0);
        assert_eq!(prefixes.drop_oldest(), Some(1));
        assert_eq!(prefixes.tokens(), 2);
    }

    #[test]
    fn of_two_where_one_begins_with_the_other_the_longer_is_kept() {
        let mut prefixes = Prefixes::new(3);
        keep(&mut prefixes, 1, "ab");
        keep(&mut prefixes, 2, "x");
        assert_eq!(keep(&mut prefixes, 3, "abc"), [1]);
        assert_eq!(keep(&mut prefixes, 4, "abc"), [4]);
        assert_eq!(keep(&mut prefixes, 5, "a"), [5]);
        // The longer one counts as used.
        assert_eq!(prefixes.drop_oldest(), Some(2));
        assert_eq!(best(&prefixes, "abd"), (2, 3));
    }

    #[test]
    fn nothing_is_kept_where_nothing_may_be() {
        assert_eq!(keep(&mut Prefixes::new(0), 7, "a"), [7]);
        assert_eq!(keep(&mut Prefixes::new(1), 7, ""), [7]);
    }

    proptest! {
        /// Ids are neither lost nor given up twice, and no kept one begins with another.
        #[test]
        fn every_id_is_kept_or_given_up(
            most in 0_usize..4, texts in prop::collection::vec("[ab]{0,4}", 0..20)
        ) {
            let mut prefixes = Prefixes::new(most);
            let mut gone = Vec::new();
            for (id, text) in (0..).zip(&texts) {
                gone.extend(keep(&mut prefixes, id, text));
                prop_assert!(prefixes.kept.len() <= most);
            }
            let ids = prefixes.kept.iter().map(|kept| kept.id);
            let mut all: Vec<i32> = ids.chain(gone).collect();
            all.sort_unstable();
            let expected: Vec<i32> = (0..).take(texts.len()).collect();
            prop_assert_eq!(all, expected);
            for one in &prefixes.kept {
                let same = |o: &&Kept| o.tokens.starts_with(&one.tokens);
                prop_assert_eq!(prefixes.kept.iter().filter(same).count(), 1);
            }
        }
    }
}
