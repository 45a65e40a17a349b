//! What a gate sees of a query.
//!
//! Computed once per query and then asked of every expert's head. Fields are private so that a
//! trained gate can add an embedding here without any caller noticing.

use moe2_model::{Prompt, Query, Task};

use crate::encode::base::Question;
use crate::encode::topics::Encoder;
use crate::topic::{Detection, Topic, detect};

/// Bytes per token of an option, when nobody has tokenised it: options are short words, which
/// vocabularies split less kindly than running text.
const OPTION_BYTES_PER_TOKEN: f64 = 3.0;

/// Everything a gate's heads may look at.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryFeatures {
    detection: Detection,
    length: Length,
    /// What a trained gate's heads see, in that gate's own terms.
    learnt: Option<Learnt>,
}

/// Features of one encoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Learnt {
    pub(crate) features: Vec<f64>,
    /// Whose.
    encoder: u64,
    /// The likeliest topic and its probability, for people.
    topic: (String, f64),
}

/// What is known about the answer's length whoever gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Length {
    /// Generated, at most so many tokens.
    AtMost(f64),
    /// Fixed by the options, which are all scored.
    Exactly(f64),
}

impl QueryFeatures {
    /// Looks at a query.
    #[must_use]
    pub fn of(query: &Query) -> Self {
        match &query.task {
            Task::Choice { options } => Self {
                detection: Detection::choice(options.len()),
                length: Length::Exactly(options.iter().map(|o| option_tokens(o)).sum()),
                learnt: None,
            },
            Task::Generate(sampling) => Self {
                detection: detect(
                    query.prompt.question(),
                    matches!(query.prompt, Prompt::Raw(_)),
                ),
                length: Length::AtMost(f64::from(sampling.max_tokens)),
                learnt: None,
            },
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn topic(&self) -> Topic {
        self.detection.topic
    }

    /// The same with what an encoder makes of the question.
    pub(crate) fn learnt(self, encoder: &Encoder, question: Question<'_>) -> Self {
        let features = encoder.features(question);
        let names = encoder.topics.names.iter();
        // The first feature is the constant.
        let topic = names
            .zip(&features[1..])
            .max_by(|a, b| a.1.total_cmp(b.1))
            .map_or((String::new(), 0.0), |(name, p)| (name.clone(), *p));
        Self {
            learnt: Some(Learnt {
                features,
                encoder: encoder.id,
                topic,
            }),
            ..self
        }
    }

    /// What the heads of this encoder's gate see; nothing after another gate was loaded.
    pub(crate) fn learned(&self, encoder: &Encoder) -> Option<&[f64]> {
        let learnt = self.learnt.as_ref().filter(|l| l.encoder == encoder.id);
        learnt.map(|l| l.features.as_slice())
    }

    /// Topic and evidence in a line for people, e.g. `code: 'python', 'function'`, or `choice: 4 options,
    /// science 0.93`.
    #[must_use]
    pub fn explain(&self) -> String {
        match &self.learnt {
            None => self.detection.to_string(),
            Some(Learnt { topic, .. }) => format!("{}, {} {:.2}", self.detection, topic.0, topic.1),
        }
    }

    /// The expected output of an expert that would by itself write `usual` tokens.
    pub(crate) fn cap_output(&self, usual: f64) -> f64 {
        match self.length {
            Length::AtMost(most) => usual.min(most),
            Length::Exactly(tokens) => tokens,
        }
    }

    #[cfg(test)]
    pub(crate) const fn of_topic(topic: Topic) -> Self {
        Self {
            detection: Detection {
                topic,
                evidence: Vec::new(),
            },
            length: Length::AtMost(1e6),
            learnt: None,
        }
    }
}

fn option_tokens(option: &str) -> f64 {
    (option.len() as f64 / OPTION_BYTES_PER_TOKEN)
        .ceil()
        .max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gate;
    use moe2_model::{Budgets, ExpertName, Message, Mode, Role, Sampling, Target, TenantId};

    fn query(prompt: Prompt, task: Task) -> Query {
        Query {
            tenant: TenantId::new("demo").expect("a valid name"),
            prompt,
            task,
            target: Target::Auto,
            budgets: Budgets::default(),
            max_experts: 1,
            mode: Mode::Auto,
            stream: false,
        }
    }

    fn generate(max_tokens: u32) -> Task {
        Task::Generate(Sampling {
            max_tokens,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        })
    }

    fn chat(text: &str) -> Prompt {
        Prompt::Chat(vec![Message {
            role: Role::User,
            content: text.to_owned(),
        }])
    }

    fn output_tokens(features: &QueryFeatures) -> f64 {
        let expert = ExpertName::new("qwen2.5-coder-0.5b-instruct").expect("a valid name");
        Gate::builtin().forecast(features, &[expert])[0].output_tokens
    }

    #[test]
    fn the_token_limit_caps_the_expected_output() {
        let long = QueryFeatures::of(&query(chat("Write a Python function."), generate(4096)));
        assert_eq!(output_tokens(&long), 180.0);
        let short = QueryFeatures::of(&query(chat("Write a Python function."), generate(5)));
        assert_eq!(output_tokens(&short), 5.0);
    }

    #[test]
    fn a_choice_is_a_choice_whatever_it_is_about_and_its_options_are_its_length() {
        let options = ["A", "B", "neither of them"].map(str::to_owned).to_vec();
        let features = QueryFeatures::of(&query(chat("def f(): ?"), Task::Choice { options }));
        assert_eq!(features.topic(), Topic::Choice);
        assert_eq!(features.explain(), "choice: 3 options");
        assert_eq!(output_tokens(&features), 7.0);
    }

    #[test]
    fn a_raw_prompt_is_text_unless_it_is_evidently_something_else() {
        let raw = |text: &str| Prompt::Raw(text.to_owned());
        let text = QueryFeatures::of(&query(raw("The river ran"), generate(16)));
        assert_eq!(text.explain(), "text: raw prompt");
        let code = QueryFeatures::of(&query(raw("def fib(n):\n    return"), generate(16)));
        assert_eq!(code.topic(), Topic::Code);
    }

    #[test]
    fn only_the_last_question_of_a_chat_counts() {
        let say = |role, content: &str| Message {
            role,
            content: content.to_owned(),
        };
        let prompt = Prompt::Chat(vec![
            say(Role::User, "Write a Python function that sorts a list."),
            say(Role::Assistant, "def sort(x): return sorted(x)"),
            say(Role::User, "Thank you! How are you today?"),
        ]);
        let features = QueryFeatures::of(&query(prompt, generate(16)));
        assert_eq!(features.topic(), Topic::Chat);
    }
}
