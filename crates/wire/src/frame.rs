//! Frames: a four-byte little-endian length, then that many bytes of message.
//!
//! The decoder is fed whatever the transport delivered and hands out whole messages. It keeps bytes that
//! have arrived and nothing else: a length over [`MAX_FRAME`] is an error as soon as it is there, and
//! neither it nor a length inside the message makes us reserve memory (`tests/fuzz`).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, CodecError};

/// Most bytes in one frame. The HTTP body limit is 1 MiB, and a prompt grows little on the wire.
pub const MAX_FRAME: usize = 2 * 1024 * 1024;

const PREFIX: usize = 4;

/// A frame that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than allowed.
    #[error("frame of {0} bytes exceeds the limit of {MAX_FRAME} bytes")]
    TooLong(usize),
    /// The bytes inside are wrong.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// One message as a frame.
///
/// # Errors
/// [`FrameError`] when the message is too long or cannot be encoded.
pub fn encode_frame<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut out = vec![0; PREFIX];
    codec::encode_into(message, &mut out)?;
    let body = out.len() - PREFIX;
    if body > MAX_FRAME {
        return Err(FrameError::TooLong(body));
    }
    let length = u32::try_from(body).expect("MAX_FRAME fits u32");
    out[..PREFIX].copy_from_slice(&length.to_le_bytes());
    Ok(out)
}

/// The first whole frame of `bytes` and the bytes it took, or `None` while it is incomplete.
///
/// # Errors
/// [`FrameError`] when the frame is too long or not a message.
pub fn decode_frame<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, FrameError> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = bytes.get(PREFIX..PREFIX + length) else {
        return Ok(None);
    };
    Ok(Some((codec::decode(body)?, PREFIX + length)))
}

/// Collects delivered bytes and hands out whole messages.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    read: usize,
}

impl FrameDecoder {
    /// Bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` while more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is unusable after one.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let decoded = decode_frame(&self.buffer[self.read..])?;
        Ok(decoded.map(|(message, used)| {
            self.read += used;
            message
        }))
    }

    /// Whether a frame has begun that is not whole yet.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.read < self.buffer.len()
    }
}
