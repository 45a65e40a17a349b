//! Files that are no models and requests that are no work: a message, never a crash.

use std::fs;
use std::path::Path;

use moe2_model::{Prompt, Task};
use moe2_wire::{FailureKind, FromWorker};

use crate::support::{SMOLLM2, Worker, choice, greedy, turn, user, weights};

/// Why the worker refuses a file; it must also end by itself, with a status that says so.
fn refusal(path: &Path) -> String {
    let (mut worker, first) = Worker::start(path, "template", (256, 1, 0));
    assert_eq!(worker.ended().code(), Some(1));
    let FromWorker::LoadFailed { message } = first else {
        unreachable!("{first:?} for {}", path.display());
    };
    message
}

#[test]
fn a_file_that_is_no_model_is_refused_with_a_reason() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    assert!(refusal(&path).contains("no model file"));
    assert!(refusal(directory.path()).contains("not a file"));
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for (content, reason) in [
        (Vec::new(), "GGUF"),
        (noise.clone(), "not a GGUF file"),
        ([b"GGUF\x03\0\0\0".as_slice(), &noise].concat(), "GGUF"),
    ] {
        fs::write(&path, content).unwrap();
        let message = refusal(&path);
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn a_truncated_model_is_refused_wherever_it_ends() {
    let _turn = turn();
    let Some(whole) = weights(SMOLLM2.0) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let bytes = fs::read(whole).unwrap();
    for length in [6, 1000, 1_000_000, bytes.len() - 1_000_000, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let message = refusal(&path);
        assert!(message.contains("truncated"), "{length} bytes: {message}");
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_and_the_next_is_answered() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 64) else {
        return;
    };
    let long = || Prompt::Raw("one two three four ".repeat(40));
    for task in [greedy(4), choice(&["a", "b"])] {
        let reply = worker.ask(long(), task);
        let Some((
            FailureKind::ContextTooLong {
                prompt_tokens,
                context_tokens: 64,
            },
            _,
        )) = reply.failed
        else {
            unreachable!("{reply:?}");
        };
        assert!(prompt_tokens > 64);
    }
    let next = worker.ask(user("What is 2 + 2?"), greedy(8));
    assert!(next.text.contains('4'), "{next:?}");
}

#[test]
fn a_request_without_content_is_rejected() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(SMOLLM2, 64) else {
        return;
    };
    let requests: [(Prompt, Task); 3] = [
        (Prompt::Chat(Vec::new()), greedy(4)),
        (Prompt::Raw(String::new()), greedy(4)),
        (user("Yes or no?"), choice(&["yes", ""])),
    ];
    for (prompt, task) in requests {
        let reply = worker.ask(prompt, task);
        assert!(
            matches!(reply.failed, Some((FailureKind::Rejected, _))),
            "{reply:?}"
        );
    }
    // A NUL is a character like any other, not the end of the text.
    let whole = worker.ask(user("a\0What is 2 + 2?"), greedy(1));
    let half = worker.ask(user("a"), greedy(1));
    assert!(whole.prompt_tokens > half.prompt_tokens, "{whole:?}");
}
