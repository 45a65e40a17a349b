//! The words and marks that speak for a topic.
//!
//! Weight 2: hardly said about anything else. Weight 1: fits, but needs company ("list", "rust").
//! Sorted, so that a word is found by bisection; a test keeps it so.

use super::Topic::{self, Code, Math, Text};

/// Words in lower case, with the topic they speak for and their weight; sorted by word.
pub(super) const WORDS: &[(&str, Topic, u32)] = &[
    ("add", Math, 1),
    ("algebra", Math, 2),
    ("algorithm", Code, 1),
    ("api", Code, 1),
    ("arithmetic", Math, 2),
    ("array", Code, 1),
    ("async", Code, 2),
    ("average", Math, 1),
    ("bash", Code, 2),
    ("bug", Code, 1),
    ("calculate", Math, 2),
    ("calculus", Math, 2),
    ("class", Code, 1),
    ("code", Code, 2),
    ("commit", Code, 1),
    ("compile", Code, 2),
    ("compiler", Code, 2),
    ("compute", Math, 1),
    ("const", Code, 1),
    ("cosine", Math, 2),
    ("css", Code, 2),
    ("debug", Code, 2),
    ("decimal", Math, 1),
    ("def", Code, 2),
    ("derivative", Math, 2),
    ("divide", Math, 2),
    ("divided", Math, 2),
    ("docker", Code, 2),
    ("elif", Code, 2),
    ("enum", Code, 2),
    ("equation", Math, 2),
    ("even", Math, 1),
    ("exception", Code, 1),
    ("factorial", Math, 1),
    ("fn", Code, 2),
    ("fraction", Math, 2),
    ("function", Code, 1),
    ("geometry", Math, 2),
    ("git", Code, 2),
    ("golang", Code, 2),
    ("haskell", Code, 2),
    ("html", Code, 2),
    ("import", Code, 1),
    ("integer", Math, 1),
    ("integers", Math, 1),
    ("integral", Math, 2),
    ("java", Code, 1),
    ("javascript", Code, 2),
    ("json", Code, 1),
    ("kotlin", Code, 2),
    ("linux", Code, 1),
    ("list", Code, 1),
    ("logarithm", Math, 2),
    ("loop", Code, 1),
    ("math", Math, 2),
    ("mathematics", Math, 2),
    ("matrix", Math, 1),
    ("method", Code, 1),
    ("minus", Math, 1),
    ("multiplied", Math, 2),
    ("multiply", Math, 2),
    ("mut", Code, 2),
    ("npm", Code, 2),
    ("numpy", Code, 2),
    ("pandas", Code, 1),
    ("percent", Math, 1),
    ("php", Code, 2),
    ("plus", Math, 1),
    ("polynomial", Math, 2),
    ("prime", Math, 1),
    ("primes", Math, 2),
    ("probability", Math, 2),
    ("program", Code, 1),
    ("programming", Code, 2),
    ("prove", Math, 1),
    ("python", Code, 2),
    ("query", Code, 1),
    ("recursion", Code, 2),
    ("recursive", Code, 1),
    ("refactor", Code, 2),
    ("regex", Code, 2),
    ("return", Code, 1),
    ("ruby", Code, 1),
    ("rust", Code, 1),
    ("script", Code, 1),
    ("segfault", Code, 2),
    ("shell", Code, 1),
    ("sine", Math, 2),
    ("solve", Math, 1),
    ("sort", Code, 1),
    ("sql", Code, 2),
    ("string", Code, 1),
    ("struct", Code, 2),
    ("subtract", Math, 2),
    ("sum", Math, 1),
    ("syntax", Code, 1),
    ("theorem", Math, 2),
    ("traceback", Code, 2),
    ("triangle", Math, 1),
    ("typescript", Code, 2),
    ("variable", Code, 1),
    ("void", Code, 1),
    ("yaml", Code, 2),
];

/// Sequences of characters, looked for in the text in lower case.
pub(super) const MARKS: &[(&str, Topic, u32)] = &[
    ("```", Code, 3),
    ("#include", Code, 3),
    ("c++", Code, 2),
    ("c#", Code, 2),
    ("();", Code, 2),
    ("):\n", Code, 2),
    ("=>", Code, 1),
    ("->", Code, 1),
    ("!=", Code, 1),
    ("==", Code, 1),
    ("::", Code, 1),
    ("};", Code, 2),
    ("</", Code, 2),
    ("square root", Math, 2),
    ("complete the sentence", Text, 3),
    ("complete this sentence", Text, 3),
    ("continue the", Text, 2),
    ("continue this", Text, 2),
    ("finish the sentence", Text, 3),
    ("finish this sentence", Text, 3),
    ("once upon a time", Text, 3),
];

/// Words that no sentence ends with: a text that does is waiting to be continued.
pub(super) const NEVER_LAST: &[&str] = &[
    "a", "an", "and", "are", "because", "but", "if", "is", "my", "or", "the", "was", "were",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_single_and_in_lower_case() {
        for pair in WORDS.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} before {}", pair[0].0, pair[1].0);
        }
        for (word, ..) in WORDS {
            assert!(word.chars().all(|c| c.is_ascii_lowercase()), "{word}");
        }
    }
}
