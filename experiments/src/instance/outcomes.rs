//! Graded answers of many models to the same questions: `*.jsonl`, plain or zstd, one object a line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// One question with what each model made of it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Question {
    #[serde(default)]
    pub(crate) domain: String,
    pub(crate) prompt: String,
    #[serde(default)]
    pub(crate) choices: Vec<String>,
    pub(crate) outcomes: BTreeMap<String, Outcome>,
}

/// One model's answer.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Outcome {
    /// In [0, 1].
    pub(crate) score: f64,
    /// Length of the answer in characters, where known.
    pub(crate) output_chars: Option<f64>,
}

impl Question {
    /// Characters of the question with its options.
    pub(crate) fn chars(&self) -> usize {
        self.prompt.chars().count()
            + self
                .choices
                .iter()
                .map(|c| c.chars().count())
                .sum::<usize>()
    }
}

/// Reads all questions of a file.
///
/// # Errors
/// The file cannot be read, or a line is not a question; the line is named.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Question>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|e| e == "zst") {
        let decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(file));
        Box::new(decoder.with_context(|| format!("{} is not zstd", path.display()))?)
    } else {
        Box::new(file)
    };
    let mut questions = Vec::new();
    for (number, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        let place = || format!("{}, line {}", path.display(), number + 1);
        let question: Question = serde_json::from_str(&line).with_context(place)?;
        let sound = question
            .outcomes
            .values()
            .all(|o| (0.0..=1.0).contains(&o.score));
        ensure!(sound, "{}: a score is not in [0, 1]", place());
        questions.push(question);
    }
    Ok(questions)
}
