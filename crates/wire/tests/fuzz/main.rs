//! Any bytes as each conversation of the wire: an error, or a message that is written and read again as
//! it is, for memory in proportion to the frame.
//!
//! The targets are tests: here they replay their corpus and a thousand random inputs; how to run them with
//! feedback from the code they cover is in `docs/security.md`. The corpus begins with a frame of every
//! variant; `samples` says when one is missing.

#[cfg(test)]
mod documented;
#[cfg(test)]
mod samples;

#[cfg(test)]
mod targets {
    use moe2_wire::{
        EnrolReply, EnrolRequest, FrameDecoder, FrameError, FromAgent, FromExpert, FromWorker,
        ToAgent, ToExpert, ToWorker, codec, decode_frame, encode_frame,
    };
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use crate::samples;

    /// Bytes of memory for a byte of frame, at most. The worst is a list of empty texts: 24 bytes of
    /// memory each for one of frame, in a list that is copied to twice its room when it is full.
    const PER_BYTE: usize = 72;
    /// And for any frame: a list has room for four items at first, an error has a text.
    const AT_LEAST: usize = 1024;

    /// Bytes of memory held at once while `work` was done.
    fn memory<T>(work: impl FnOnce() -> T) -> (usize, T) {
        let mut result = None;
        let used = allocation_counter::measure(|| result = Some(work()));
        let most = usize::try_from(used.bytes_max).expect("less than all memory");
        (most, result.expect("it was done"))
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        let (used, message) = memory(|| codec::decode::<T>(bytes));
        let most = PER_BYTE * bytes.len() + AT_LEAST;
        let length = bytes.len();
        assert!(used <= most, "{used} bytes for a frame of {length}");
        message.ok()
    }

    fn judge<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        let Some(message) = decode::<T>(bytes) else {
            return;
        };
        let frame = encode_frame(&message).expect("what was read can be written");
        assert!(frame.len() <= bytes.len() + 4, "it is written no longer");
        let read = decode_frame::<T>(&frame).expect("what was written can be read");
        let (again, used) = read.expect("the frame is whole");
        assert_eq!(used, frame.len());
        // Bytes and not values: NaN does not equal itself.
        assert_eq!(encode_frame(&again), Ok(frame));
    }

    #[test]
    fn control() {
        bolero::check!(name = "control").for_each(|bytes: &[u8]| {
            judge::<FromAgent>(bytes);
            judge::<ToAgent>(bytes);
        });
    }

    #[test]
    fn work() {
        bolero::check!(name = "work").for_each(|bytes: &[u8]| {
            judge::<ToExpert>(bytes);
            judge::<FromExpert>(bytes);
        });
    }

    #[test]
    fn worker() {
        bolero::check!(name = "worker").for_each(|bytes: &[u8]| {
            judge::<ToWorker>(bytes);
            judge::<FromWorker>(bytes);
        });
    }

    #[test]
    fn enrol() {
        bolero::check!(name = "enrol").for_each(|bytes: &[u8]| {
            judge::<EnrolRequest>(bytes);
            judge::<EnrolReply>(bytes);
        });
    }

    /// What a stream came to: its messages as frames, and how it ended.
    fn read(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<FrameError>, bool) {
        let mut decoder = FrameDecoder::default();
        let mut messages = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            loop {
                match decoder.next_message::<FromExpert>() {
                    Ok(Some(message)) => messages.push(encode_frame(&message).expect("written")),
                    Ok(None) => break,
                    Err(error) => return (messages, Some(error), false),
                }
            }
        }
        (messages, None, decoder.is_mid_frame())
    }

    #[test]
    fn stream() {
        bolero::check!(name = "stream").for_each(|bytes: &[u8]| {
            let Some((piece, bytes)) = bytes.split_first() else {
                return;
            };
            let whole = read(bytes, bytes.len().max(1));
            assert_eq!(read(bytes, usize::from(*piece).max(1)), whole);
        });
    }

    #[test]
    fn no_length_inside_a_frame_is_believed() {
        let lengths = [
            &[251, 0xff, 0xff][..],
            &[252, 0, 0, 0x1f, 0],
            &[252, 0xff, 0xff, 0xff, 0xff],
            &[253, 0, 0, 0, 0, 0, 0, 0, 0x10],
            &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ];
        for (conversation, _, sample) in samples::all() {
            for at in 0..sample.len() {
                for length in lengths {
                    let forged = [&sample[..at], length, &sample[at + 1..]].concat();
                    match conversation {
                        "control" => {
                            judge::<FromAgent>(&forged);
                            judge::<ToAgent>(&forged);
                        }
                        "work" => {
                            judge::<ToExpert>(&forged);
                            judge::<FromExpert>(&forged);
                        }
                        "worker" => {
                            judge::<ToWorker>(&forged);
                            judge::<FromWorker>(&forged);
                        }
                        _ => {
                            judge::<EnrolRequest>(&forged);
                            judge::<EnrolReply>(&forged);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_of_empty_texts_is_the_dearest_frame() {
        // `Generate` with as many empty stop texts as fit: what `PER_BYTE` is made for.
        let texts = 200_000;
        let stop = vec![String::new(); texts];
        let work = samples::work(moe2_model::Task::Generate(samples::sampling(stop)));
        let frame = encode_frame(&work).expect("encodes");
        let (used, read) = memory(|| codec::decode::<ToExpert>(&frame[4..]));
        assert_eq!(read, Ok(work));
        let per_byte = used / frame.len();
        assert!((24..=PER_BYTE).contains(&per_byte), "{per_byte}");
    }
}
