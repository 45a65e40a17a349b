//! Messages on a QUIC stream, as frames.
//!
//! Each half is owned by one task. Receiving may be cancelled at any time and resumed, as a `select`
//! does: a frame that has half arrived waits in the decoder. Sending may not: a cancelled send
//! leaves half a frame behind.

use moe2_wire::{FrameDecoder, FrameError, encode_frame};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::describe;
use crate::transport::CODE_PROTOCOL;

/// Bytes taken from the transport at a time.
const CHUNK: usize = 64 * 1024;

/// A stream that cannot be used any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The connection is gone.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The peer, or we, gave this stream up.
    #[error("the stream was closed")]
    Closed,
    /// The peer ended the stream inside a message.
    #[error("the stream ended in the middle of a message")]
    Truncated,
    /// A message that cannot be read or written.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer did not answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The peer ended the stream where a message was due.
    #[error("the peer ended the conversation early")]
    Missing,
}

impl From<ConnectionError> for StreamError {
    fn from(error: ConnectionError) -> Self {
        Self::Lost(describe(&error))
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(e) => e.into(),
            _ => Self::Closed,
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(e) => e.into(),
            _ => Self::Closed,
        }
    }
}

/// The sending half of a stream; dropping it ends the stream cleanly.
#[derive(Debug)]
pub struct FrameSender(SendStream);

impl FrameSender {
    /// Sends one message; returns when the transport has taken it.
    ///
    /// # Errors
    /// [`StreamError`] when the message is too long or the stream is gone.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), StreamError> {
        let frame = encode_frame(message)?;
        Ok(self.0.write_all(&frame).await?)
    }

    /// Says that nothing follows. What was sent still arrives; a stream already closed stays so.
    pub fn finish(&mut self) {
        let _already_closed = self.0.finish();
    }
}

/// The receiving half of a stream; dropping it tells the peer to send no more.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: RecvStream,
    decoder: FrameDecoder,
    ended: bool,
}

impl FrameReceiver {
    /// The next message, `None` when the peer has finished. May be cancelled without loss.
    ///
    /// # Errors
    /// [`StreamError`] when the stream or connection is gone or what arrived is not a message; the
    /// stream is of no use after one.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, StreamError> {
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) if self.ended && self.decoder.is_mid_frame() => {
                    return Err(StreamError::Truncated);
                }
                Ok(None) if self.ended => return Ok(None),
                Ok(None) => {}
                Err(error) => {
                    let _already_closed = self.stream.stop(CODE_PROTOCOL);
                    return Err(error.into());
                }
            }
            match self.stream.read_chunk(CHUNK, true).await? {
                Some(chunk) => self.decoder.push(&chunk.bytes),
                None => self.ended = true,
            }
        }
    }
}

fn frames((send, recv): (SendStream, RecvStream)) -> (FrameSender, FrameReceiver) {
    let receiver = FrameReceiver {
        stream: recv,
        decoder: FrameDecoder::default(),
        ended: false,
    };
    (FrameSender(send), receiver)
}

pub(crate) async fn open(
    connection: &Connection,
) -> Result<(FrameSender, FrameReceiver), StreamError> {
    Ok(frames(connection.open_bi().await?))
}

pub(crate) async fn accept(
    connection: &Connection,
) -> Result<(FrameSender, FrameReceiver), StreamError> {
    Ok(frames(connection.accept_bi().await?))
}
