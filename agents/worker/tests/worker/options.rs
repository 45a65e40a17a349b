//! Log-probabilities of options, against recorded values and against a slower way to get them.

use moe2_model::{FinishReason, Prompt};
use moe2_models::Manifest;

use crate::support::{GEMMA, QWEN, SMOLLM2, Worker, choice, turn, user};

/// Continued by [`SENTENCE`].
const OPENING: &str = "Once upon a time";
const SENTENCE: &str = "The quick brown fox jumps over the lazy dog, and the dog goes back to \
                        sleep in the warm sun.";

/// Natural logarithm of the likelihood of [`SENTENCE`] after [`OPENING`], as llama.cpp of
/// llama-cpp-sys-2 0.1.161 computed it with AVX2 kernels from the file with this hash.
const RECORDED: [((&str, &str), &str, f64); 3] = [
    (
        SMOLLM2,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        -72.067_734,
    ),
    (
        GEMMA,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        -58.855_340,
    ),
    (
        QWEN,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        -51.865_474,
    ),
];

#[test]
fn the_likelihood_of_a_sentence_is_as_recorded() {
    let _turn = turn();
    let manifest = Manifest::embedded();
    for (model, hash, recorded) in RECORDED {
        let known = manifest.models().iter().find(|spec| spec.file == model.0);
        let known = known
            .expect("the model is in the manifest")
            .sha256
            .to_string();
        assert_eq!(
            known, hash,
            "{} changed: record its likelihood anew",
            model.0
        );
        let Some(mut worker) = Worker::ready(model, 256) else {
            continue;
        };
        let reply = worker.ask(Prompt::Raw(OPENING.to_owned()), choice(&[SENTENCE]));
        let off = (reply.logprobs[0] - recorded).abs() / recorded.abs();
        assert!(
            off < 0.01,
            "{}: {:?} instead of {recorded}",
            model.0,
            reply.logprobs
        );
    }
}

fn close(left: &[f64], right: &[f64]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-3)
}

fn options_do_not_influence_each_other(model: (&str, &str)) {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(model, 256) else {
        return;
    };
    let question = || user("Is the sky blue? Answer yes or no.");
    let options = [
        "It is not blue, it is green.",
        "Yes",
        "No",
        "It is blue.",
        "yes, quite",
    ];
    let together = worker.ask(question(), choice(&options));
    let alone = options.map(|option| worker.ask(question(), choice(&[option])));
    let logprobs: Vec<f64> = alone.iter().map(|reply| reply.logprobs[0]).collect();
    assert!(
        close(&together.logprobs, &logprobs),
        "{together:?} against {logprobs:?}"
    );
    let tokens: u32 = alone.iter().map(|reply| reply.output_tokens).sum();
    assert_eq!(
        (together.output_tokens, together.finish),
        (tokens, Some(FinishReason::Stop))
    );
    assert!(logprobs.iter().all(|logprob| *logprob < 0.0));
}

#[test]
fn options_of_smollm2_do_not_influence_each_other() {
    options_do_not_influence_each_other(SMOLLM2);
}

#[test]
fn options_of_gemma_do_not_influence_each_other() {
    options_do_not_influence_each_other(GEMMA);
}

#[test]
fn a_likelihood_is_the_product_of_its_words() {
    let _turn = turn();
    let Some(mut worker) = Worker::ready(QWEN, 256) else {
        return;
    };
    let mut score = |prompt: &str, option: &str| {
        worker
            .ask(Prompt::Raw(prompt.to_owned()), choice(&[option]))
            .logprobs[0]
    };
    let whole = score("The capital of France is", "Paris, of course");
    let first = score("The capital of France is", "Paris");
    let comma = score("The capital of France is Paris", ",");
    // An option after a word gets a space in front, so that of a comma is another token.
    assert!(comma < 0.0 && whole < first);
    let rest = score("The capital of France is Paris,", "of course");
    let plain = score("The capital of France is", " Paris,");
    assert!(
        (whole - plain - rest).abs() < 0.05,
        "{whole} against {plain} and {rest}"
    );
}

#[test]
fn a_likely_option_beats_an_unlikely_one() {
    let _turn = turn();
    for model in [SMOLLM2, GEMMA, QWEN] {
        let Some(mut worker) = Worker::ready(model, 256) else {
            continue;
        };
        let prompt = Prompt::Raw("Question: What is the capital of France?\nAnswer:".to_owned());
        let scores = worker
            .ask(prompt, choice(&["Berlin", "Paris", "a banana"]))
            .logprobs;
        assert!(
            scores[1] > scores[0] && scores[1] > scores[2],
            "{}: {scores:?}",
            model.0
        );
    }
}
