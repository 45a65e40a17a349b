//! The gate file `moe2-gate/1`: JSON with a format, a checksum and the gate itself.
//!
//! `{"format": "moe2-gate/1", "sha256": "<hex>", "gate": {"kind": "priors", …}}`. The checksum is
//! over the bytes of the `gate` value exactly as they stand in the file, so nothing depends on how
//! a number is printed again. A wrong gate does not crash, it quietly routes badly; therefore a
//! damaged file is refused, and each reason is a variant of its own, because people do different
//! things about a wrong path, an old binary and a broken disk.

use std::io::Read;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use crate::gate::Kind;
use crate::priors::Priors;
use crate::trained::{Embedders, Packed, TrainedGate};

/// The format's name, before the slash and the version.
const FORMAT: &str = "moe2-gate";
/// The version written, and the newest one read.
const VERSION: u64 = 1;

/// Largest file that is read.
const MAX_BYTES: u64 = 256 << 20;

/// Why a gate file gives no gate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// It cannot be read.
    #[error("cannot be read: {problem}")]
    Unreadable {
        /// What the system says.
        problem: String,
    },
    /// It is larger than any gate.
    #[error("larger than {MAX_BYTES} bytes: that is no gate file")]
    TooLarge,
    /// It is not a gate file at all.
    #[error("not a gate file ({found}): give the path of a `{FORMAT}/{VERSION}` file")]
    Foreign {
        /// What it seems to be.
        found: String,
    },
    /// It was written by a newer release.
    #[error(
        "the gate file has version {version}, this program reads up to {VERSION}: upgrade it, or train the gate again with this release"
    )]
    Newer {
        /// The file's version.
        version: u64,
    },
    /// It is of this version but of a kind this program does not have.
    #[error(
        "the gate is of kind {kind:?}, which this program does not know: upgrade it, or train the gate again with this release"
    )]
    UnknownKind {
        /// The file's kind.
        kind: String,
    },
    /// It is a gate file that was cut short or broken.
    #[error("the gate file is damaged ({problem}): copy it again or train the gate again")]
    Damaged {
        /// What is broken.
        problem: String,
    },
    /// Its content is not what was written.
    #[error(
        "the gate file's content has SHA-256 {actual}, its header says {expected}: copy it again or train the gate again"
    )]
    Checksum {
        /// As the file states.
        expected: String,
        /// As the content has.
        actual: String,
    },
    /// It reads questions with an encoder that was not given.
    #[error(
        "the gate reads questions with the encoder {name:?}: give the folder of its files as `encoders`"
    )]
    NeedsEncoder {
        /// The encoder's name.
        name: String,
    },
    /// It is intact, but what it states cannot be.
    #[error("the gate cannot be used: {problem}")]
    Invalid {
        /// What is wrong and how to mend it.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: String,
    sha256: String,
    gate: Box<RawValue>,
}

/// Enough of any JSON file to tell whose it is.
#[derive(Deserialize)]
struct FormatOnly {
    format: String,
}

#[derive(Deserialize)]
struct KindOnly {
    kind: String,
}

/// The `gate` value of each kind.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Body {
    Priors(Priors),
    Trained(Box<Packed>),
}

/// The bytes of a file, unless there are too many.
pub(crate) fn bytes(input: impl Read) -> Result<Vec<u8>, GateError> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| GateError::Unreadable {
        problem: error.to_string(),
    })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(GateError::TooLarge);
    }
    Ok(bytes)
}

/// Reads a file; gates that need an encoder from outside find it among `embedders`.
pub(crate) fn read(bytes: &[u8], embedders: Embedders<'_>) -> Result<Kind, GateError> {
    check_format(bytes)?;
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| damaged(&e))?;
    let content = envelope.gate.get();
    let actual = sha256(content.as_bytes());
    if actual != envelope.sha256 {
        return Err(GateError::Checksum {
            expected: envelope.sha256.chars().take(64).collect(),
            actual,
        });
    }
    // From here on the content is what was written: what does not parse was written like that.
    let invalid = |e: serde_json::Error| GateError::Invalid {
        problem: format!("{e}: train the gate again with this release"),
    };
    let KindOnly { kind } = serde_json::from_str(content).map_err(invalid)?;
    if !["priors", "trained"].contains(&kind.as_str()) {
        return Err(GateError::UnknownKind { kind });
    }
    match serde_json::from_str(content).map_err(invalid)? {
        Body::Priors(priors) => {
            priors.check()?;
            Ok(Kind::Priors(priors))
        }
        Body::Trained(packed) => {
            let gate = TrainedGate::unpack(*packed, embedders)?;
            Ok(Kind::Trained(Box::new(gate)))
        }
    }
}

/// Writes a file.
pub(crate) fn write(kind: &Kind) -> Vec<u8> {
    let body = match kind {
        Kind::Priors(priors) => Body::Priors(priors.clone()),
        Kind::Trained(gate) => Body::Trained(Box::new(gate.pack())),
    };
    let gate = to_raw_value(&body).expect("names, texts and finite numbers are always JSON");
    let envelope = Envelope {
        format: format!("{FORMAT}/{VERSION}"),
        sha256: sha256(gate.get().as_bytes()),
        gate,
    };
    serde_json::to_vec(&envelope).expect("names, texts and finite numbers are always JSON")
}

/// Accepts this format up to this version; whose file it is decides how a syntax error reads.
fn check_format(bytes: &[u8]) -> Result<(), GateError> {
    let format = match serde_json::from_slice::<FormatOnly>(bytes) {
        Ok(FormatOnly { format }) => format,
        Err(e) if looks_like_ours(bytes) => return Err(damaged(&e)),
        Err(e) => {
            let found = if e.is_data() {
                "JSON without a format".to_owned()
            } else {
                format!("{} bytes that are not JSON", bytes.len())
            };
            return Err(GateError::Foreign { found });
        }
    };
    let version = format
        .strip_prefix(FORMAT)
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(|version| version.parse::<u64>().ok());
    match version {
        Some(VERSION) => Ok(()),
        Some(version) if version > VERSION => Err(GateError::Newer { version }),
        _ => Err(GateError::Foreign {
            found: format!("format {:?}", format.chars().take(40).collect::<String>()),
        }),
    }
}

/// Whether the format's name stands near the start, as in every file that [`write`] made.
fn looks_like_ours(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(64)];
    let mark = format!("\"{FORMAT}/");
    head.windows(mark.len()).any(|w| w == mark.as_bytes())
}

fn damaged(error: &serde_json::Error) -> GateError {
    GateError::Damaged {
        problem: error.to_string(),
    }
}

fn sha256(bytes: &[u8]) -> String {
    let hex = |b: u8| [b >> 4, b & 15].map(|d| char::from(b"0123456789abcdef"[usize::from(d)]));
    Sha256::digest(bytes).iter().flat_map(|b| hex(*b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gate;

    fn written() -> Vec<u8> {
        Gate::builtin().to_bytes()
    }

    /// A file whose checksum is right for whatever it contains.
    fn sealed(format: &str, gate: &str) -> Vec<u8> {
        let sum = sha256(gate.as_bytes());
        format!(r#"{{"format":"{format}","sha256":"{sum}","gate":{gate}}}"#).into_bytes()
    }

    #[test]
    fn no_flipped_byte_gives_another_gate() {
        let bytes = written();
        let gate = Gate::builtin();
        for at in 0..bytes.len() {
            for flip in [0x01, 0x20, 0x80, 0xFF] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                if let Ok(read) = Gate::from_bytes(&bad) {
                    assert_eq!(read, gate, "byte {at} flipped by {flip:#x}");
                }
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_after_its_format_is_called_damaged() {
        let bytes = written();
        let mark = br#"{"format":"moe2-gate/"#.len();
        for length in mark..bytes.len() {
            let cut = Gate::from_bytes(&bytes[..length]);
            assert!(
                matches!(cut, Err(GateError::Damaged { .. })),
                "{length} bytes: {cut:?}"
            );
        }
        let nothing = Gate::from_bytes(b"");
        assert!(matches!(nothing, Err(GateError::Foreign { .. })));
    }

    #[test]
    fn a_changed_number_fails_the_checksum() {
        let text = String::from_utf8(written()).expect("the file is text");
        let bad = text.replacen("3.9", "9.9", 1);
        assert_ne!(bad, text);
        let refused = Gate::from_bytes(bad.as_bytes());
        assert!(
            matches!(refused, Err(GateError::Checksum { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn other_files_are_called_foreign() {
        let others: [&[u8]; 6] = [
            b"GGUF\x03\x00\x00\x00",
            b"hello",
            b"[1, 2]",
            br#"{"a": 1}"#,
            br#"{"format": "moe2-selection/1"}"#,
            br#"{"format": "moe2-gate/0"}"#,
        ];
        for bytes in others {
            let refused = Gate::from_bytes(bytes);
            assert!(
                matches!(refused, Err(GateError::Foreign { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_newer_version_and_an_unknown_kind_ask_for_an_upgrade() {
        // A newer file need not share anything with this version but its format line.
        let newer = Gate::from_bytes(br#"{"format": "moe2-gate/2", "weights": []}"#);
        assert_eq!(newer, Err(GateError::Newer { version: 2 }));
        let unknown = Gate::from_bytes(&sealed("moe2-gate/1", r#"{"kind":"oracle"}"#));
        let kind = "oracle".to_owned();
        assert_eq!(unknown, Err(GateError::UnknownKind { kind }));
    }

    #[test]
    fn an_intact_file_that_states_nonsense_is_called_invalid() {
        let bodies = [
            r#"{"kind":"priors"}"#,
            r#"{"kind":"priors","provenance":"","experts":{},"extra":1}"#,
            r#"{"kind":"priors","provenance":"","experts":{"no name":{"topics":{}}}}"#,
            r#"{"kind":"priors","provenance":"","experts":{"a":{"topics":{}}}}"#,
            r#"{"kind":"priors","provenance":"","experts":{"a":{"topics":{"poetry":{}}}}}"#,
            "7",
        ];
        for body in bodies {
            let refused = Gate::from_bytes(&sealed("moe2-gate/1", body));
            assert!(
                matches!(refused, Err(GateError::Invalid { .. })),
                "{body}: {refused:?}"
            );
        }
    }

    #[test]
    fn nesting_as_deep_as_the_file_is_long_is_refused() {
        let deep = format!(r#"{{"format":"moe2-gate/1","gate":{}"#, "[".repeat(100_000));
        assert!(matches!(
            Gate::from_bytes(deep.as_bytes()),
            Err(GateError::Damaged { .. })
        ));
    }
}
