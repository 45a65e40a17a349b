//! The proof file, version `moe2-proof/1`; its records are those of [`crate::proof`].

use std::io::Read;

use super::read::{self, FileError};
use crate::proof::{PROOF_FORMAT, Proof};

/// Reads a proof; whether it proves anything is for [`crate::verify`] to say.
///
/// # Errors
/// [`FileError`] naming the field at fault.
pub fn parse_proof(input: impl Read) -> Result<Proof, FileError> {
    let proof: Proof = read::record(input)?;
    if proof.format != PROOF_FORMAT {
        return Err(FileError::Format {
            found: proof.format,
            expected: PROOF_FORMAT,
        });
    }
    Ok(proof)
}
