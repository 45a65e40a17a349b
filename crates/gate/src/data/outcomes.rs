//! Outcome files: one JSON object a line, `{"prompt": …, "outcomes": {expert: {"score": …}}}`.
//!
//! They are read line by line and judged line by line, because a file of a hundred thousand graded
//! answers is only repairable if the error says which line is wrong. Fields that nobody here uses are
//! ignored: such files come from many sources. Lengths are limited while the file arrives.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Read};

use moe2_model::ExpertName;
use serde::{Deserialize, Serialize};

use super::text::fingerprint;

/// Longest line, in bytes.
pub(crate) const MAX_LINE_BYTES: usize = 1 << 20;
/// Most lines of one file.
pub(crate) const MAX_ITEMS: usize = 1 << 22;
/// Most experts in one file.
pub(crate) const MAX_EXPERTS: usize = 4096;
/// Most options of one question.
const MAX_CHOICES: usize = 1024;

/// A question and what experts made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The collection it is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// [`Item::fingerprint`] in hexadecimal, where a record keeps no texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The question; empty in records without texts, which are joined again by id.
    pub prompt: String,
    /// Options to choose from, if it is a choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Index of the right option.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<usize>,
    /// By expert; some may be missing.
    #[serde(default)]
    pub outcomes: BTreeMap<ExpertName, Outcome>,
}

/// What one expert made of one question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How good the answer was, in [0, 1]; for a choice 1 if it is right.
    pub score: f64,
    /// Index of the option chosen; nothing if none could be made out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<usize>,
    /// Log-probability of every option.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choice_logprobs: Vec<f64>,
    /// Length of the answer in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_chars: Option<u64>,
    /// Length of the prompt in the expert's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Length of the answer in the expert's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Seconds from request to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_s: Option<f64>,
    /// Joules charged for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_j: Option<f64>,
    /// How the joules were found: `measured:…` or `modelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_source: Option<String>,
}

impl Item {
    /// All that an expert is shown: the question and the options.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.prompt.as_str()).chain(self.choices.iter().map(String::as_str))
    }

    /// Which question this is, whatever its id.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.texts())
    }

    /// Whether the question itself was left out.
    #[must_use]
    pub fn lacks_text(&self) -> bool {
        self.prompt.is_empty()
    }

    /// Leaves the texts out and keeps their fingerprint: options stay, as empty strings, so that what
    /// refers to them still does.
    pub fn drop_texts(&mut self) {
        self.fingerprint = Some(format!("{:016x}", self.fingerprint()));
        self.prompt.clear();
        self.choices.iter_mut().for_each(String::clear);
    }

    /// Puts the texts of a question back.
    ///
    /// # Errors
    /// It is another question: says how.
    pub fn take_texts(&mut self, question: &Self) -> Result<(), String> {
        if self.choices.len() != question.choices.len() {
            return Err(format!(
                "it has {} choices, the question file has {}",
                self.choices.len(),
                question.choices.len()
            ));
        }
        let found = format!("{:016x}", question.fingerprint());
        if self.fingerprint.as_ref().is_some_and(|f| *f != found) {
            return Err("the question file has another text under this id".to_owned());
        }
        self.prompt.clone_from(&question.prompt);
        self.choices.clone_from(&question.choices);
        Ok(())
    }
}

/// The first thing wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct OutcomeError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it, naming the field.
    pub problem: String,
}

/// Reads items one by one; blank lines are skipped.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    line: usize,
    buffer: Vec<u8>,
    ids: HashMap<String, usize>,
    experts: std::collections::HashSet<ExpertName>,
}

impl<R: BufRead> Reader<R> {
    /// Reads from the beginning of a file.
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            buffer: Vec::new(),
            ids: HashMap::new(),
            experts: std::collections::HashSet::new(),
        }
    }

    /// The next item, or nothing at the end of the file.
    ///
    /// # Errors
    /// [`OutcomeError`] names the line and the field.
    pub(crate) fn next_item(&mut self) -> Result<Option<Item>, OutcomeError> {
        loop {
            self.line += 1;
            if self.line > MAX_ITEMS {
                return Err(self.wrong(format!("the file has more than {MAX_ITEMS} lines")));
            }
            self.buffer.clear();
            let most = MAX_LINE_BYTES as u64 + 1;
            let read = (&mut self.input)
                .take(most)
                .read_until(b'\n', &mut self.buffer);
            match read {
                Err(error) => return Err(self.wrong(format!("cannot be read: {error}"))),
                Ok(0) => return Ok(None),
                Ok(_) if self.buffer.len() > MAX_LINE_BYTES => {
                    return Err(self.wrong(format!("is longer than {MAX_LINE_BYTES} bytes")));
                }
                Ok(_) if self.buffer.trim_ascii().is_empty() => {}
                Ok(_) => return self.parse().map(Some),
            }
        }
    }

    fn parse(&mut self) -> Result<Item, OutcomeError> {
        let mut json = serde_json::Deserializer::from_slice(&self.buffer);
        let item: Item = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." || path == "?" {
                String::new()
            } else {
                format!("{path}: ")
            };
            self.wrong(format!("{field}{}", one_line(error.inner())))
        })?;
        json.end().map_err(|error| self.wrong(one_line(&error)))?;
        if let Some((field, problem)) = fault(&item) {
            return Err(self.wrong(format!("{field}: {problem}")));
        }
        if let Some(id) = &item.id
            && let Some(first) = self.ids.insert(id.clone(), self.line)
        {
            return Err(self.wrong(format!("id: {id:?} stands on line {first} already")));
        }
        for name in item.outcomes.keys() {
            if !self.experts.contains(name) {
                self.experts.insert(name.clone());
            }
        }
        if self.experts.len() > MAX_EXPERTS {
            return Err(self.wrong(format!("outcomes: more than {MAX_EXPERTS} experts")));
        }
        Ok(item)
    }

    fn wrong(&self, problem: String) -> OutcomeError {
        OutcomeError {
            line: self.line,
            problem,
        }
    }
}

/// Reads a whole outcome file. Questions without any outcome, which every expert refused when they were
/// collected, are left out.
///
/// # Errors
/// [`OutcomeError`] for the first line that is wrong, or if no line has an outcome.
pub fn read_outcomes(input: impl BufRead) -> Result<Vec<Item>, OutcomeError> {
    let mut items = read_questions(input)?;
    items.retain(|item| !item.outcomes.is_empty());
    if items.is_empty() {
        return Err(OutcomeError {
            line: 1,
            problem: "outcomes: missing or empty, here and on every other line; give the outcome of at least one expert".to_owned(),
        });
    }
    Ok(items)
}

/// Reads a whole file of questions, which need no outcomes.
///
/// # Errors
/// [`OutcomeError`] for the first line that is wrong.
pub fn read_questions(input: impl BufRead) -> Result<Vec<Item>, OutcomeError> {
    let mut reader = Reader::new(input);
    let mut items = Vec::new();
    while let Some(item) = reader.next_item()? {
        items.push(item);
    }
    if items.is_empty() {
        return Err(OutcomeError {
            line: 1,
            problem: "the file is empty".to_owned(),
        });
    }
    Ok(items)
}

/// The field that cannot be, and why.
fn fault(item: &Item) -> Option<(String, String)> {
    let field = |name: &str| name.to_owned();
    let options = item.choices.len();
    if options > MAX_CHOICES {
        return Some((
            field("choices"),
            format!("{options}, more than {MAX_CHOICES}"),
        ));
    }
    if options == 1 {
        return Some((
            field("choices"),
            "one option is no choice: give two or none".to_owned(),
        ));
    }
    let beyond = |index: usize| options > 0 && index >= options;
    if let Some(answer) = item.answer.filter(|&a| beyond(a) || options == 0) {
        let problem = format!("is {answer}, but there are {options} choices, counted from 0");
        return Some((field("answer"), problem));
    }
    item.outcomes.iter().find_map(|(name, outcome)| {
        let field = |of: &str| format!("outcomes.{name}.{of}");
        if !(0.0..=1.0).contains(&outcome.score) {
            return Some((
                field("score"),
                format!("is {}, not in [0, 1]", outcome.score),
            ));
        }
        if let Some(choice) = outcome.choice.filter(|&c| beyond(c)) {
            let problem = format!("is {choice}, but there are {options} choices, counted from 0");
            return Some((field("choice"), problem));
        }
        let logprobs = &outcome.choice_logprobs;
        if !logprobs.is_empty() && logprobs.len() != options {
            let problem = format!("{} numbers for {options} choices", logprobs.len());
            return Some((field("choice_logprobs"), problem));
        }
        let amounts = [
            ("latency_s", outcome.latency_s),
            ("energy_j", outcome.energy_j),
        ];
        amounts.into_iter().find_map(|(name, amount)| {
            let negative = amount.filter(|a| *a < 0.0)?;
            Some((field(name), format!("is {negative}, which is negative")))
        })
    })
}

/// A JSON error within a line: the line it names is always the first.
fn one_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column", " at column")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match read_outcomes(text.as_bytes()) {
            Err(error) => error.to_string(),
            Ok(items) => format!("{} items", items.len()),
        }
    }

    const GOOD: &str = r#"{"id": "q1", "prompt": "2 + 2?", "choices": ["3", "4"], "answer": 1, "licence": "MIT", "outcomes": {"a": {"score": 1.0, "choice": 1, "choice_logprobs": [-2.0, -0.5]}, "b": {"score": 0.25}}}"#;

    #[test]
    fn optional_fields_may_be_missing_and_unknown_ones_are_ignored() {
        let text = format!(
            "{GOOD}\n\n{}\n",
            r#"{"prompt": "Why?", "outcomes": {"b": {"score": 0}}}"#
        );
        let items = read_outcomes(text.as_bytes()).expect("both lines are right");
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].answer, Some(1));
        let b = ExpertName::new("b").expect("a valid name");
        assert_eq!(items[0].outcomes[&b].score, 0.25);
        assert_eq!(items[1].id, None);
    }

    #[test]
    fn questions_that_everyone_refused_are_left_out() {
        let refused = r#"{"id": "q0", "prompt": "too long", "outcomes": {}}"#;
        let items = read_outcomes(format!("{refused}\n{GOOD}\n").as_bytes());
        assert_eq!(items.map(|items| items.len()), Ok(1));
    }

    #[test]
    fn an_item_reads_back_as_it_was_written() {
        let items = read_outcomes(GOOD.as_bytes()).expect("it is right");
        let line = serde_json::to_string(&items[0]).expect("an item is JSON");
        assert_eq!(read_outcomes(line.as_bytes()), Ok(items));
    }

    #[test]
    fn every_fault_names_its_line_and_field() {
        let cases = [
            (r#"{"prompt": "x"}"#, "line 1: outcomes: missing or empty"),
            (
                r#"{"outcomes": {"a": {"score": 1}}}"#,
                "line 1: missing field `prompt`",
            ),
            (
                r#"{"prompt": "x", "outcomes": {"a": {"score": 1.5}}}"#,
                "outcomes.a.score: is 1.5, not in [0, 1]",
            ),
            (
                r#"{"prompt": "x", "outcomes": {"a": {"score": "1"}}}"#,
                "outcomes.a.score: invalid type",
            ),
            (
                r#"{"prompt": "x", "choices": ["p", "q"], "answer": 2, "outcomes": {"a": {"score": 1}}}"#,
                "answer: is 2, but there are 2 choices",
            ),
            (
                r#"{"prompt": "x", "choices": ["p", "q"], "outcomes": {"a": {"score": 1, "choice": 7}}}"#,
                "outcomes.a.choice: is 7",
            ),
            (
                r#"{"prompt": "x", "choices": ["p", "q"], "outcomes": {"a": {"score": 1, "choice_logprobs": [-1]}}}"#,
                "outcomes.a.choice_logprobs: 1 numbers for 2 choices",
            ),
            (
                r#"{"prompt": "x", "outcomes": {"a": {"score": 1, "energy_j": -3}}}"#,
                "outcomes.a.energy_j: is -3",
            ),
            (
                r#"{"prompt": "x", "outcomes": {"no name!": {"score": 1}}}"#,
                "line 1: outcomes",
            ),
            ("{\"prompt\": ", "line 1: prompt: EOF"),
            ("", "line 1: the file is empty"),
        ];
        for (text, expected) in cases {
            let error = refused(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_duplicate_id_names_both_lines() {
        let text = format!("{GOOD}\n\n{GOOD}\n");
        assert_eq!(
            refused(&text),
            "line 3: id: \"q1\" stands on line 1 already"
        );
    }

    #[test]
    fn a_line_without_end_is_not_held() {
        let endless = std::io::repeat(b'[').take(1 << 30);
        let error = read_outcomes(std::io::BufReader::new(endless)).expect_err("it is too long");
        assert_eq!(
            error.problem,
            format!("is longer than {MAX_LINE_BYTES} bytes")
        );
    }
}
