//! What a query is about, from its words alone.
//!
//! Words and marks each speak for one topic with a weight; the topic with the most weight wins if
//! it reaches a threshold. It is coarse, but deterministic, explains itself with the words it found
//! and costs microseconds, which is what a prior per topic deserves; a trained gate brings an
//! encoder instead. Only the first and last 4 KiB are read: what is wanted stands at either end of
//! a long prompt, and the work per query stays bounded whatever is pasted in between.

mod lexicon;
mod scan;

use std::fmt;

use serde::{Deserialize, Serialize};

/// Weight needed before a topic is believed: one telling word, or two that merely fit.
const THRESHOLD: u32 = 2;
/// Evidence shown to people.
const SHOWN: usize = 4;

/// What a query is about, as far as experts differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Writing, reading or mending programs.
    Code,
    /// Calculation and mathematical reasoning.
    Math,
    /// Text to be continued.
    Text,
    /// Everything else that is said to an assistant.
    Chat,
    /// Picking one of given options.
    Choice,
}

impl Topic {
    /// All topics; where evidence is equal, the earlier one wins.
    pub const ALL: [Self; 5] = [Self::Code, Self::Math, Self::Text, Self::Chat, Self::Choice];

    /// As it is written in files and replies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Math => "math",
            Self::Text => "text",
            Self::Chat => "chat",
            Self::Choice => "choice",
        }
    }

    /// Tokens an assistant usually answers with, for experts nobody described.
    pub(crate) const fn usual_output_tokens(self) -> f64 {
        match self {
            Self::Code => 180.0,
            Self::Math => 140.0,
            Self::Text => 128.0,
            Self::Chat => 110.0,
            Self::Choice => 8.0,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A topic and why; prints as `code: 'python', 'function'`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// What it is about.
    pub topic: Topic,
    /// The words and marks that speak for it, weightiest first, at most four; words of the text
    /// are in quotation marks. Empty when nothing spoke for any topic.
    pub evidence: Vec<String>,
}

impl Detection {
    pub(crate) fn choice(options: usize) -> Self {
        let s = if options == 1 { "" } else { "s" };
        Self {
            topic: Topic::Choice,
            evidence: vec![format!("{options} option{s}")],
        }
    }
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.topic.as_str())?;
        if !self.evidence.is_empty() {
            write!(f, ": {}", self.evidence.join(", "))?;
        }
        Ok(())
    }
}

/// The topic of a text: a `raw` prompt to continue, or the last thing a user said.
#[must_use]
pub fn detect(text: &str, raw: bool) -> Detection {
    let found = scan::evidence(text);
    let weight = |topic: Topic| -> u32 {
        let of_it = found.iter().filter(|e| e.topic == topic);
        of_it.map(|e| e.weight).sum()
    };
    let mut best: Option<(Topic, u32)> = None;
    for topic in Topic::ALL {
        let sum = weight(topic);
        if sum >= THRESHOLD && best.is_none_or(|(_, most)| sum > most) {
            best = Some((topic, sum));
        }
    }
    let Some((topic, _)) = best else {
        return Detection {
            topic: if raw { Topic::Text } else { Topic::Chat },
            evidence: if raw {
                vec!["raw prompt".to_owned()]
            } else {
                Vec::new()
            },
        };
    };
    let mut speaking: Vec<_> = found.iter().filter(|e| e.topic == topic).collect();
    // A stable sort: equal weights stay in the order of the text.
    speaking.sort_by_key(|e| std::cmp::Reverse(e.weight));
    Detection {
        topic,
        evidence: speaking.iter().take(SHOWN).map(|e| e.shown()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn questions_are_about_what_a_reader_would_say() {
        let table = [
            (
                "Write a Python function that reverses a string.",
                Topic::Code,
            ),
            ("What does `let mut x = vec![];` do in Rust?", Topic::Code),
            ("Write a SQL query for the ten largest orders", Topic::Code),
            ("Give me a regex for e-mail addresses", Topic::Code),
            ("```\nfor i in range(10):\n    print(i)\n```", Topic::Code),
            (
                "Why does this C++ program crash with a segfault?",
                Topic::Code,
            ),
            ("How do I undo the last git commit?", Topic::Code),
            ("Sort an array of integers in javascript", Topic::Code),
            (
                "#include <stdio.h>\nint main(void) { return 0; }",
                Topic::Code,
            ),
            ("Schreibe eine Python-Funktion für Primzahlen", Topic::Code),
            ("What is 17 * 23?", Topic::Math),
            ("Solve 3x + 5 = 20 for x.", Topic::Math),
            ("What is the derivative of the function x^2?", Topic::Math),
            ("What is the square root of 144?", Topic::Math),
            (
                "Prove that the sum of two even integers is even",
                Topic::Math,
            ),
            (
                "Compute the probability of two heads in three tosses",
                Topic::Math,
            ),
            ("The capital of France is", Topic::Text),
            ("Once upon a time there was a fox", Topic::Text),
            ("Continue this story: The door opened.", Topic::Text),
            ("Complete the sentence: All that glitters", Topic::Text),
            ("What is the capital of France?", Topic::Chat),
            ("Hello, how are you?", Topic::Chat),
            ("Tell me a joke about cats.", Topic::Chat),
            ("Wie heißt du?", Topic::Chat),
            (
                "I was born on 2001-03-04; what star sign am I?",
                Topic::Chat,
            ),
            ("How do I get rust off my bike?", Topic::Chat),
            ("Is it open 24/7?", Topic::Chat),
            ("你好,今天天气怎么样?", Topic::Chat),
            ("", Topic::Chat),
        ];
        for (text, topic) in table {
            let found = detect(text, false);
            assert_eq!(found.topic, topic, "{text:?} was taken for {found}");
        }
    }

    #[test]
    fn the_explanation_names_the_words_that_decided() {
        let found = detect("Write a Python function that adds numbers", false);
        assert_eq!(found.to_string(), "code: 'python', 'function'");
        assert_eq!(detect("Hi!", false).to_string(), "chat");
        let sum = detect("12 * 7", false).to_string();
        assert_eq!(sum, "math: '12 * 7'");
    }

    #[test]
    fn a_word_said_often_counts_once() {
        assert_eq!(detect(&"list ".repeat(50), false).topic, Topic::Chat);
    }

    #[test]
    fn the_ends_of_a_long_prompt_decide_and_its_middle_is_not_read() {
        let filler = "ß ".repeat(20_000);
        let end = format!("{filler} Write that in Python.");
        assert_eq!(detect(&end, false).topic, Topic::Code);
        let middle = format!("{filler} python {filler}.");
        assert_eq!(detect(&middle, false).topic, Topic::Chat);
    }

    proptest! {
        #[test]
        fn any_text_has_a_topic_and_the_same_one_each_time(text in any::<String>(), times in 1..400_usize, raw in any::<bool>()) {
            let long = text.repeat(times);
            let found = detect(&long, raw);
            prop_assert!(found.evidence.len() <= SHOWN);
            prop_assert!(found.to_string().len() < 400);
            prop_assert_eq!(found, detect(&long, raw));
        }

        #[test]
        fn marks_and_digits_in_any_order_are_survived(text in "[0-9+*/=^ %×÷x(){};:`#<>._é-]{0,200}") {
            let _ = detect(&text, false);
        }
    }
}
