//! Vectors against those of independent implementations.
//!
//! The numbers come from Python: for `static` the steps of wordllama's `embed(norm=True)` in numpy,
//! for `minilm` a BERT written out in numpy with 64-bit floats, both with the Python tokenizers.
//! The files are too large for the repository, so `MOE2_ENCODERS` names a directory with them, in
//! `static` and `minilm`; without it there is nothing to compare.

use std::io::Write;
use std::path::PathBuf;

/// Two implementations that add 32-bit floats in another order agree better than that.
const TOLERANCE: f32 = 1e-4;

/// Prose, then code with accents, an emoji and the spelling of a special token.
const TEXTS: [&str; 2] = [
    "What is the capital of France?",
    "def add(a, b):\n    return a + b  # näïve façade 🙂 <s>",
];

/// Repeated until longer than MiniLM reads: 1,081 tokens for `static`.
const SENTENCE: &str = "Solve 3x + 7 = 22 for x, then explain each step to a ten-year-old. ";

fn files(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("MOE2_ENCODERS").map(|root| PathBuf::from(root).join(name));
    if found.is_none() {
        // Past the harness, which hides what passing tests print.
        let message = "not compared, set MOE2_ENCODERS to a directory with encoders:";
        writeln!(std::io::stderr(), "{message} {name}").expect("standard error is open");
    }
    found
}

/// Holds the first numbers of the vectors of [`TEXTS`] and the long text against `expected`.
fn compare(name: &str, expected: [[f32; 8]; 3]) {
    let Some(dir) = files(name) else { return };
    let encoder = moe2_embed::open(name, &dir).expect("the files are the right ones");
    assert_eq!(encoder.name(), name);
    let long = SENTENCE.repeat(40);
    for (text, expected) in TEXTS.into_iter().chain([long.as_str()]).zip(expected) {
        let vector = encoder.embed(text);
        assert_eq!(vector.len(), encoder.width());
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < TOLERANCE, "length {length}");
        for (got, expected) in vector.iter().zip(expected) {
            assert!((got - expected).abs() < TOLERANCE, "{text}: {vector:?}");
        }
    }
}

#[test]
fn static_vectors_are_those_of_wordllama() {
    compare(
        "static",
        [
            [
                0.040680, -0.044677, -0.001120, 0.027305, -0.123180, 0.085757, 0.021666, 0.081434,
            ],
            [
                -0.067281, 0.076784, -0.056056, 0.013805, -0.016671, -0.015351, -0.008467, 0.037367,
            ],
            [
                0.180361, 0.105178, -0.009466, 0.023815, -0.043956, -0.019492, -0.104205, 0.080721,
            ],
        ],
    );
}

#[test]
fn a_text_without_tokens_has_no_direction() {
    let Some(dir) = files("static") else { return };
    let encoder = moe2_embed::open("static", &dir).unwrap();
    assert_eq!(encoder.embed(""), vec![0.0; encoder.width()]);
}

#[cfg(feature = "minilm")]
#[test]
fn minilm_vectors_are_those_of_sentence_transformers() {
    compare(
        "minilm",
        [
            [
                0.082048, 0.036055, -0.003893, -0.004881, 0.025651, -0.057143, 0.012192, 0.004679,
            ],
            [
                0.015518, 0.027516, -0.027723, -0.009138, -0.060017, 0.002264, 0.008067, -0.115643,
            ],
            [
                0.003115, 0.009249, -0.000057, -0.021817, -0.038956, 0.041849, -0.022184, -0.003814,
            ],
        ],
    );
}
