//! One of given options from servers that spell it in four ways.
//!
//! A server is held to the options where it knows how, and the probabilities of the first token are
//! asked for in the same request. Where every option is a token of its own and among the likeliest,
//! those are the options' log-probabilities, exactly what the embedded engine computes. Otherwise there
//! is only what the server picked, which is said as such ([`moe2_wire::picked`]): scoring whole texts
//! needs logits of the prompt, which none of these interfaces gives for a chat.
//!
//! Servers ignore what they do not know, so a status says nothing of what they can. [`WAYS`] are
//! therefore tried in turn on a question to which no model would answer one of its options by itself.

use serde_json::{Value, json};

/// How a server is held to options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constraint {
    /// vLLM since 0.12, and moe2.
    StructuredOutputs,
    /// vLLM before.
    GuidedChoice,
    /// llama-server.
    Grammar,
    /// OpenAI, Ollama. The answer is JSON.
    JsonSchema,
}

/// What a server can do about a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choosing {
    /// Held to the options by this, if by anything.
    pub(super) held_by: Option<Constraint>,
    /// Gives probabilities of the first token.
    pub(super) scores: bool,
}

const fn way(held_by: Constraint, scores: bool) -> Choosing {
    let held_by = Some(held_by);
    Choosing { held_by, scores }
}

/// All ways, the most useful first. An answer in JSON begins with a quotation mark, whose probability
/// tells nothing.
pub(super) const WAYS: [Choosing; 7] = [
    way(Constraint::StructuredOutputs, true),
    way(Constraint::Grammar, true),
    way(Constraint::GuidedChoice, true),
    way(Constraint::StructuredOutputs, false),
    way(Constraint::Grammar, false),
    way(Constraint::GuidedChoice, false),
    way(Constraint::JsonSchema, false),
];

/// Of a server that can be held to nothing and may know probabilities all the same.
pub(super) const LAST_RESORT: Choosing = Choosing {
    held_by: None,
    scores: true,
};

/// Options that no model gives by itself, of several tokens.
pub(super) const PROBE: [&str; 2] = ["qxzj-17", "vwkf-93"];
/// What is asked with them.
pub(super) const PROBE_QUESTION: &str = "Say hello.";

impl Constraint {
    fn name(self) -> &'static str {
        match self {
            Self::StructuredOutputs => "structured_outputs",
            Self::GuidedChoice => "guided_choice",
            Self::Grammar => "grammar",
            Self::JsonSchema => "json_schema",
        }
    }

    /// The field of a request that holds a server to `options`.
    pub(super) fn field(self, options: &[String]) -> (&'static str, Value) {
        match self {
            Self::StructuredOutputs => ("structured_outputs", json!({"choice": options})),
            Self::GuidedChoice => ("guided_choice", json!(options)),
            Self::Grammar => ("grammar", json!(grammar(options))),
            Self::JsonSchema => {
                let schema = json!({"type": "string", "enum": options});
                let named = json!({"name": "choice", "strict": true, "schema": schema});
                (
                    "response_format",
                    json!({"type": "json_schema", "json_schema": named}),
                )
            }
        }
    }
}

impl std::fmt::Display for Choosing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scores = if self.scores {
            "scored where every option is one token"
        } else {
            "unscored"
        };
        match self.held_by {
            Some(constraint) => write!(f, "{}, {scores}", constraint.name()),
            None => write!(f, "not held to options, {scores}"),
        }
    }
}

/// A grammar in llama.cpp's notation (GBNF) that has just these words.
fn grammar(options: &[String]) -> String {
    let quoted = options.iter().map(|option| {
        let mut text = String::from('"');
        for character in option.chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => text.push_str(&format!("\\U{:08X}", u32::from(c))),
                c => text.push(c),
            }
        }
        text.push('"');
        text
    });
    format!("root ::= {}", quoted.collect::<Vec<_>>().join(" | "))
}

/// Which of the options an answer is.
pub(super) fn picked(options: &[String], answer: &str, choosing: Choosing) -> Option<usize> {
    let text = match choosing.held_by {
        Some(Constraint::JsonSchema) => serde_json::from_str(answer.trim()).ok()?,
        _ => answer.to_owned(),
    };
    let exact = options.iter().position(|option| *option == text);
    exact.or_else(|| {
        options
            .iter()
            .position(|option| option.trim() == text.trim())
    })
}

/// The log-probability of every option, if each is one of the `likeliest` tokens. A token with and one
/// without a space before it are the same option.
pub(super) fn scores(options: &[String], likeliest: &[(String, f64)]) -> Option<Vec<f64>> {
    let alike = |n: usize, option: &String| {
        let before = &options[..n];
        before.iter().any(|b| b.trim_start() == option.trim_start())
    };
    if options
        .iter()
        .enumerate()
        .any(|(n, option)| alike(n, option))
    {
        return None;
    }
    let score = |option: &String| {
        let same = likeliest.iter().filter(|(token, logprob)| {
            token.trim_start() == option.trim_start() && logprob.is_finite()
        });
        let mass: f64 = same.map(|(_, logprob)| logprob.exp()).sum();
        // Rounding may put a certain one above zero.
        (mass > 0.0).then(|| mass.ln().min(0.0))
    };
    options.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_grammar_has_the_options_and_nothing_else() {
        let options = words(&["yes", "say \"no\"\\", "a\nb\u{1}"]);
        let expected = r#"root ::= "yes" | "say \"no\"\\" | "a\nb\U00000001""#;
        assert_eq!(grammar(&options), expected);
    }

    #[test]
    fn an_answer_is_the_option_it_says() {
        let options = words(&["A", "B", " B"]);
        let [plain, json] = [Constraint::Grammar, Constraint::JsonSchema].map(|c| way(c, false));
        assert_eq!(picked(&options, "B", plain), Some(1));
        assert_eq!(picked(&options, " B", plain), Some(2));
        assert_eq!(picked(&options, " A\n", plain), Some(0));
        assert_eq!(picked(&options, "C", plain), None);
        assert_eq!(picked(&options, "\"B\"", json), Some(1));
        assert_eq!(picked(&options, "B", json), None);
    }

    #[test]
    fn options_are_scored_only_if_all_are_tokens() {
        let likeliest = [("A", -1.0), (" A", -2.0), ("B", -3.0), ("An", -0.5)];
        let likeliest = likeliest.map(|(token, logprob)| (token.to_owned(), logprob));
        let scores_of = |options: &[&str]| scores(&words(options), &likeliest);
        let scored = scores_of(&["A", "B"]).expect("both are tokens");
        let both = ((-1.0f64).exp() + (-2.0f64).exp()).ln();
        assert!((scored[0] - both).abs() < 1e-12 && (scored[1] + 3.0).abs() < 1e-12);
        assert_eq!(scores_of(&["A", "C"]), None);
        assert_eq!(
            scores_of(&["Answer", "B"]),
            None,
            "the beginning of an option is not one"
        );
        assert_eq!(scores_of(&["A", " A"]), None, "these share their tokens");
        let odd = [("A".to_owned(), f64::NAN), ("B".to_owned(), 0.1)];
        assert_eq!(scores(&words(&["A"]), &odd), None);
        assert_eq!(scores(&words(&["B"]), &odd), Some(vec![0.0]));
    }
}
