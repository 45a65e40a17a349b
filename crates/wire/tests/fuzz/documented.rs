//! The frames that `docs/protocol.md` shows in hexadecimal are the frames that are sent.

use moe2_model::{Figure, Task};
use moe2_wire::{FromAgent, FromExpert, ToExpert, encode_frame};

use crate::samples;

const PAGE: &str = include_str!("../../../../docs/protocol.md");

/// The frames of the page's examples, in order. A line begins with bytes, `00×8` is eight of them; a line
/// that begins with a blank goes on with the frame above it. What follows the bytes is for people.
fn shown() -> Vec<Vec<u8>> {
    let (_, after) = PAGE
        .split_once("Examples, whole frames in hexadecimal:\n\n```text\n")
        .expect("the page has examples");
    let (examples, _) = after.split_once("```").expect("the block ends");
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for line in examples.lines() {
        let bytes = line.split_whitespace().map_while(byte).flatten();
        if line.starts_with(' ') {
            frames.last_mut().expect("a frame goes on").extend(bytes);
        } else {
            frames.push(bytes.collect());
        }
    }
    frames
}

fn byte(word: &str) -> Option<Vec<u8>> {
    let (digits, times) = word.split_once('×').unwrap_or((word, "1"));
    let byte = u8::from_str_radix(digits, 16).ok()?;
    let times = times.parse().ok()?;
    (digits.len() == 2).then(|| vec![byte; times])
}

#[test]
fn the_examples_of_the_protocol_are_what_is_sent() {
    let heartbeat = FromAgent::Heartbeat {
        sequence: 1,
        standing: Figure::NONE,
        clock: None,
    };
    let work = samples::work(Task::Generate(samples::sampling(vec!["\n".into()])));
    let sent = [
        encode_frame(&ToExpert::Cancel),
        encode_frame(&FromExpert::Text("Hi".into())),
        encode_frame(&heartbeat),
        encode_frame(&work),
    ];
    let sent: Vec<Vec<u8>> = sent.into_iter().map(|frame| frame.expect("sent")).collect();
    assert_eq!(shown(), sent);
}
