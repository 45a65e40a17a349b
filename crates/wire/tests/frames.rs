//! Frames survive any split, and nothing that is not a frame gets through or panics.

use moe2_model::{DispatchId, ExpertName, Message, Prompt, Role, Sampling, Task};
use moe2_wire::{
    FrameDecoder, FrameError, FromExpert, MAX_FRAME, ToExpert, decode_frame, encode_frame,
};
use proptest::prelude::*;

fn work(text: String, options: Vec<String>) -> ToExpert {
    let task = if options.is_empty() {
        Task::Generate(Sampling {
            max_tokens: 7,
            temperature: 0.5,
            top_p: 0.9,
            seed: 3,
            stop: vec!["\n".into()],
        })
    } else {
        Task::Choice { options }
    };
    ToExpert::Work {
        dispatch: DispatchId(9),
        expert: ExpertName::new("m").expect("a valid name"),
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content: text,
        }]),
        task,
        deadline_ms: 0,
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_messages(
        texts in prop::collection::vec(".{0,40}", 1..6),
        options in prop::collection::vec(".{1,5}", 0..4),
        cut in 1usize..17,
    ) {
        let sent: Vec<ToExpert> = texts.into_iter().map(|t| work(t, options.clone())).collect();
        let mut bytes = Vec::new();
        for message in &sent {
            bytes.extend(encode_frame(message).expect("encodes"));
        }
        let mut decoder = FrameDecoder::default();
        let mut got = Vec::new();
        for piece in bytes.chunks(cut) {
            decoder.push(piece);
            while let Some(message) = decoder.next_message::<ToExpert>().expect("decodes") {
                got.push(message);
            }
        }
        prop_assert_eq!(got, sent);
        prop_assert!(!decoder.is_mid_frame());
    }

    #[test]
    fn garbage_is_an_error_or_incomplete_and_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = decode_frame::<ToExpert>(&bytes);
        let _ = decode_frame::<FromExpert>(&bytes);
    }

    #[test]
    fn a_flipped_bit_never_panics(at in 0usize..60, bit in 0u8..8) {
        let mut bytes = encode_frame(&work("hello there".into(), vec![])).expect("encodes");
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = decode_frame::<ToExpert>(&bytes);
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_arrive() {
    let prefix = u32::try_from(MAX_FRAME + 1).expect("fits").to_le_bytes();
    assert_eq!(
        decode_frame::<ToExpert>(&prefix),
        Err(FrameError::TooLong(MAX_FRAME + 1))
    );
}

#[test]
fn an_oversized_message_is_not_sent() {
    let message = work("x".repeat(MAX_FRAME), vec![]);
    assert!(matches!(
        encode_frame(&message),
        Err(FrameError::TooLong(_))
    ));
}

#[test]
fn bytes_after_the_message_are_refused() {
    let mut bytes = encode_frame(&ToExpert::Cancel).expect("encodes");
    bytes.push(0);
    bytes[0] += 1;
    assert!(decode_frame::<ToExpert>(&bytes).is_err());
}
