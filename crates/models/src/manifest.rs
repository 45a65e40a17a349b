//! The list of known models, read from TOML.
//!
//! A manifest names files that will be written to disk and packages that will be handed to another
//! program, so every field is checked here once and trusted afterwards: a file name cannot leave the
//! cache directory, a package name cannot turn into an option of the download client. The table is
//! walked by hand rather than derived, because a derived reader stops at the first mistake and a
//! person editing the file wants all of them.

mod fields;
mod read;

use std::fmt;
use std::path::Path;

/// The list shipped with the program.
const EMBEDDED: &str = include_str!("../../../deploy/models.toml");

/// All known models, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    models: Vec<ModelSpec>,
}

/// Name of a model as configurations and the command line spell it: lower-case letters, digits,
/// `.`, `-`, `_`; at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(String);

/// SHA-256 of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256([u8; 32]);

/// One model file: what it is, how to recognise it, where to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Unique name.
    pub id: ModelId,
    /// Model family, for listings.
    pub family: String,
    /// File name inside the cache's model directory; no directories.
    pub file: String,
    /// Weights a token is multiplied with: a count; an embedding table stored twice counts once.
    pub parameters: u64,
    /// How the weights are stored, e.g. `Q4_K_M`.
    pub quantisation: String,
    /// Terms of the weights.
    pub licence: String,
    /// Exact size of the file, bytes.
    pub bytes: u64,
    /// Hash of the whole file.
    pub sha256: Sha256,
    /// Trained context length, tokens.
    pub context: u32,
    /// How a conversation becomes a prompt.
    pub chat: ChatStyle,
    /// One line for people.
    pub strengths: String,
    /// Where to get the file, in the order to try.
    pub sources: Vec<Source>,
}

/// How a conversation becomes a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatStyle {
    /// The file carries a chat template; use it.
    Template,
    /// A base model: plain completion.
    Plain,
}

/// A place the bytes can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A model hub serving `<base>/<repo>/resolve/main/<file>`.
    Hub {
        /// `owner/name`.
        repo: String,
        /// File inside the repository.
        file: String,
    },
    /// Python wheels that each carry a part of the file.
    Wheels {
        /// Parts in the order they are concatenated; at least one.
        packages: Vec<WheelPart>,
    },
}

/// One wheel and the member of it that is part of a model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelPart {
    /// Package name.
    pub name: String,
    /// Exact version.
    pub version: String,
    /// Path of the member inside the wheel.
    pub member: String,
}

/// One mistake in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: the model and key, e.g. `model "gemma-3-270m", key "bytes"`.
    pub at: String,
    /// What is wrong and what is expected.
    pub what: String,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read the model manifest {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("the model manifest is not valid TOML: {0}")]
    Syntax(Box<toml::de::Error>),
    /// The text is TOML, but not a manifest. All mistakes found.
    #[error("the model manifest has {} mistake(s):{}", .0.len(), listed(.0))]
    Invalid(Vec<Problem>),
}

impl Manifest {
    /// The manifest shipped with the program.
    #[must_use]
    pub fn embedded() -> Self {
        Self::parse(EMBEDDED).expect("the embedded manifest is valid: a test parses it")
    }

    /// Reads a manifest, reporting every mistake at once.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| ManifestError::Syntax(Box::new(error)))?;
        let models = read::models(table).map_err(ManifestError::Invalid)?;
        Ok(Self { models })
    }

    /// The manifest in the file at `path`, or the embedded one.
    pub fn load(path: Option<&Path>) -> Result<Self, ManifestError> {
        let Some(path) = path else {
            return Ok(Self::embedded());
        };
        let text = std::fs::read_to_string(path).map_err(|source| ManifestError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&text)
    }

    /// The model called `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&ModelSpec> {
        self.models.iter().find(|model| model.id.as_str() == id)
    }

    /// All models, in the order of the file.
    #[must_use]
    pub fn models(&self) -> &[ModelSpec] {
        &self.models
    }
}

impl ModelId {
    /// Longest id, characters: ids become table cells and URL segments.
    pub const MAX_LEN: usize = 64;

    /// Checks the alphabet and the length.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        (starts_well && text.len() <= Self::MAX_LEN && text.chars().all(known))
            .then(|| Self(text.to_owned()))
    }

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Sha256 {
    /// Wraps a computed digest.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() == 64)?;
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::try_from(pair[0] * 16 + pair[1]).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl fmt::Display for ChatStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Template => "template",
            Self::Plain => "plain",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repo, .. } => write!(f, "model hub ({repo})"),
            Self::Wheels { packages } => write!(f, "Python wheels ({} part(s))", packages.len()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

fn listed(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect()
}

#[cfg(test)]
mod tests;
