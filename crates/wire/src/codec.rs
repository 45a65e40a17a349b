//! The one place that knows how types become bytes.
//!
//! `bincode` 2 with its serde front: compact, and limited in what it reads. It believes lengths when it
//! takes memory, so it is read through `Unreserved`. It is no longer maintained (3.0.0 only refuses to
//! compile), so nothing outside this file names it; replacing it is a change here and a new protocol
//! version.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::MAX_FRAME;
use crate::unreserved::Unreserved;

/// Bytes that are not a message, or a message too long to send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A message could not be written.
    #[error("message cannot be encoded: {0}")]
    Encode(String),
    /// Bytes are not the expected message.
    #[error("bytes are not a message of this protocol: {0}")]
    Decode(String),
    /// A whole message was read and bytes were left over.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_FRAME>()
}

/// Appends the bytes of `message` to `out`.
///
/// # Errors
/// [`CodecError::Encode`] when the message cannot be written.
pub fn encode_into<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(message, out, bincode::config::standard())
        .map(drop)
        .map_err(|e| CodecError::Encode(e.to_string()))
}

/// The message that `bytes` hold, no more and no less. Memory is taken for what is there, never for what a
/// length announces.
///
/// # Errors
/// [`CodecError`] when the bytes are not one whole message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let message = Unreserved(PhantomData::<T>);
    let (message, used) = bincode::serde::seed_decode_from_slice(message, bytes, config())
        .map_err(|e| CodecError::Decode(e.to_string()))?;
    if used == bytes.len() {
        Ok(message)
    } else {
        Err(CodecError::Trailing(bytes.len() - used))
    }
}
