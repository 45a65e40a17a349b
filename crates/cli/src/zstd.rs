//! Reading zstd as its format demands: all frames of a file, each against its checksum.
//!
//! The decoder at hand reads one frame and leaves both to its caller. Without the rest a file that
//! was appended to would lose its end, and one flipped bit would be another problem, solved to
//! optimality.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// First bytes of a zstd frame (RFC 8878, section 3.1.1).
pub(crate) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What a zstd file holds.
pub(crate) struct Decompressed<R: BufRead> {
    /// The frame being read; nothing after an error or the end.
    frame: Option<StreamingDecoder<R, FrameDecoder>>,
}

impl<R: BufRead> Decompressed<R> {
    /// # Errors
    /// The file does not start with a frame.
    pub(crate) fn new(input: R) -> io::Result<Self> {
        Ok(Self {
            frame: Some(open(input)?),
        })
    }
}

fn open<R: BufRead>(input: R) -> io::Result<StreamingDecoder<R, FrameDecoder>> {
    StreamingDecoder::new(input).map_err(|e| damaged(&e.to_string()))
}

fn damaged(problem: &str) -> io::Error {
    let problem = format!("not a sound zstd file: {problem}");
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

impl<R: BufRead> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(mut frame) = self.frame.take() {
            let read = frame.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                self.frame = Some(frame);
                return Ok(read);
            }
            let (mut input, decoder) = frame.into_parts();
            let stated = decoder.get_checksum_from_data();
            if stated.is_some() && stated != decoder.get_calculated_checksum() {
                return Err(damaged("its checksum is of other content"));
            }
            if !input.fill_buf()?.is_empty() {
                self.frame = Some(open(input)?);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn text() -> String {
        (0..20_000).map(|n| format!("{}, ", n * n)).collect()
    }

    fn read(bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Decompressed::new(bytes)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn frames_that_follow_each_other_are_one_file() {
        let mut bytes = compress_to_vec(text().as_bytes(), CompressionLevel::Fastest);
        bytes.extend(compress_to_vec(&b"the end"[..], CompressionLevel::Fastest));
        assert_eq!(read(&bytes).expect("it is sound"), text() + "the end");
    }

    #[test]
    fn no_flipped_bit_gives_another_text() {
        let bytes = compress_to_vec(text().as_bytes(), CompressionLevel::Fastest);
        for at in (4..bytes.len()).step_by(bytes.len() / 200) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            if let Ok(read) = read(&bad) {
                assert!(read == text(), "byte {at}");
            }
        }
        let mut bad = bytes.clone();
        *bad.last_mut().expect("not empty") ^= 1;
        assert!(read(&bad).is_err(), "the checksum itself");
    }

    #[test]
    fn what_follows_a_frame_and_is_none_is_refused() {
        let mut bytes = compress_to_vec(&b"text"[..], CompressionLevel::Fastest);
        bytes.extend(b"tail");
        assert!(read(&bytes).is_err());
    }
}
