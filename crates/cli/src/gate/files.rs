//! Outcome, question and gate files, read whole.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use moe2_gate::{DataFile, Embedder, Gate, Item, read_outcomes, read_questions};
use moe2_model::ExpertName;
use sha2::{Digest, Sha256};

use crate::{BadInput, input};

/// The encoder that needs no files.
pub(super) const HASHED: &str = "hashed";

/// Which outcomes are read; the same for every command that reads some.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Data {
    /// Outcome files, one JSON object a line, plain or zstd; repeat for more.
    #[arg(long, required = true, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Question files with the texts of records that were made without.
    #[arg(long, value_name = "FILE")]
    questions: Vec<PathBuf>,
    /// Only these experts.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    experts: Vec<ExpertName>,
}

impl Data {
    /// All items, with their texts where there are any, and what they were read from.
    pub(super) fn read(&self) -> anyhow::Result<(Vec<Item>, Vec<DataFile>)> {
        let mut all: Vec<Item> = Vec::new();
        let mut files = Vec::new();
        for path in &self.data {
            let items = outcomes(path)?;
            files.push(DataFile {
                name: path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into(),
                sha256: sha256(path)?,
                questions: items.len(),
            });
            all.extend(items);
        }
        if self.data.len() > 1 {
            refuse_twins(&all)?;
        }
        for path in &self.questions {
            join(&mut all, &questions(path)?, path)?;
        }
        self.restrict(&mut all)?;
        Ok((all, files))
    }

    /// The same with other outcome files.
    pub(super) fn instead(&self, files: &[PathBuf]) -> Self {
        Self {
            data: files.to_vec(),
            ..self.clone()
        }
    }

    fn restrict(&self, items: &mut Vec<Item>) -> anyhow::Result<()> {
        if self.experts.is_empty() {
            return Ok(());
        }
        let has = |expert: &ExpertName| items.iter().any(|i| i.outcomes.contains_key(expert));
        if let Some(unknown) = self.experts.iter().find(|e| !has(e)) {
            let mut there: Vec<&str> = items
                .iter()
                .flat_map(|i| i.outcomes.keys().map(ExpertName::as_str))
                .collect();
            there.sort_unstable();
            there.dedup();
            let why = format!(
                "--experts: no outcome of {unknown}; there are: {}",
                there.join(", ")
            );
            return Err(BadInput(why).into());
        }
        for item in items.iter_mut() {
            item.outcomes
                .retain(|expert, _| self.experts.contains(expert));
        }
        items.retain(|item| !item.outcomes.is_empty());
        Ok(())
    }
}

/// Outcomes of one file; every line needs one.
fn outcomes(path: &Path) -> anyhow::Result<Vec<Item>> {
    input::read(path, |text| read_outcomes(BufReader::new(text)))
}

/// The same id in two files is one question counted twice.
fn refuse_twins(items: &[Item]) -> anyhow::Result<()> {
    let mut seen = std::collections::HashSet::new();
    let ids = items.iter().filter_map(|item| item.id.as_deref());
    for id in ids {
        if !seen.insert(id) {
            return Err(BadInput(format!("--data: {id:?} stands in two files")).into());
        }
    }
    Ok(())
}

fn join(items: &mut [Item], questions: &[Item], path: &Path) -> anyhow::Result<()> {
    let place = by_id(questions);
    for item in items.iter_mut().filter(|item| item.lacks_text()) {
        let id = item.id.clone().unwrap_or_default();
        if let Some(&at) = place.get(id.as_str()) {
            item.take_texts(&questions[at])
                .map_err(|why| BadInput(format!("{}: {id}: {why}", path.display())))?;
        }
    }
    Ok(())
}

/// Questions, each with an id.
pub(super) fn questions(path: &Path) -> anyhow::Result<Vec<Item>> {
    let items = input::read(path, |text| read_questions(BufReader::new(text)))?;
    if let Some(at) = items.iter().position(|item| item.id.is_none()) {
        let why = format!(
            "{}: question {} has no id: give each one",
            path.display(),
            at + 1
        );
        return Err(BadInput(why).into());
    }
    Ok(items)
}

/// The place of every id.
fn by_id(items: &[Item]) -> HashMap<&str, usize> {
    let each = items.iter().enumerate();
    each.filter_map(|(at, item)| Some((item.id.as_deref()?, at)))
        .collect()
}

/// Where text encoders lie that a gate may need.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Encoders {
    /// Folder with the files of text encoders, a folder each, for a gate that needs one.
    #[arg(long, env = "MOE2_ENCODERS", value_name = "DIR")]
    encoders: Option<PathBuf>,
}

impl Encoders {
    /// Reads a gate file; also its size.
    pub(super) fn gate(&self, path: &Path) -> anyhow::Result<(Gate, u64)> {
        let name = path.display();
        let file =
            std::fs::File::open(path).map_err(|e| BadInput(format!("cannot read {name}: {e}")))?;
        Gate::from_reader(file, &self.all()?).map_err(|e| BadInput(format!("{name}: {e}")).into())
    }

    /// The encoder of this name; nothing for the one that needs no files.
    pub(super) fn named(&self, name: &str) -> anyhow::Result<Option<Arc<dyn Embedder>>> {
        if name == HASHED {
            return Ok(None);
        }
        let Some(dir) = &self.encoders else {
            let why = "--encoder: name the folder of its files with --encoders";
            return Err(BadInput(why.to_owned()).into());
        };
        let opened = moe2_embed::open(name, &dir.join(name));
        opened.map(Some).map_err(|e| BadInput(e.to_string()).into())
    }

    fn all(&self) -> anyhow::Result<Vec<Arc<dyn Embedder>>> {
        let opened = self.encoders.as_deref().map(moe2_embed::open_all);
        let opened = opened.transpose().map_err(|e| BadInput(e.to_string()))?;
        Ok(opened.unwrap_or_default())
    }
}

/// Writes beside the file and renames, so that nobody reads half of one.
pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Of a file's bytes, in hexadecimal.
fn sha256(path: &Path) -> anyhow::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
