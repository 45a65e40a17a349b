//! The header check against files made on the spot: sound, cut, flipped, and hostile ones.

use std::io::Cursor;

use crate::gguf::{GgufError, GgufInfo, inspect_reader};
use proptest::prelude::*;

const U32: u32 = 4;
const I32: u32 = 5;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const F32_TENSOR: u32 = 0;
const Q4_K_TENSOR: u32 = 12;

/// Builds files from parts, so that a test can bend exactly one of them.
#[derive(Clone, Default)]
struct Builder {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Builder {
    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs
            .push([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn number(self, key: &str, value: u32) -> Self {
        self.pair(key, U32, &value.to_le_bytes())
    }

    fn tensor(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        let mut bytes = text(name);
        bytes.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
        bytes.extend(shape.iter().flat_map(|length| length.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors.push(bytes);
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.pairs.len() as u64).to_le_bytes());
        file.extend(self.pairs.concat());
        file.extend(self.tensors.concat());
        file.resize(file.len().next_multiple_of(32) + self.data, 0);
        file
    }
}

/// One block of a small model: two tensors, 128 bytes and 288 bytes, each a multiple of 32.
fn sound() -> Builder {
    let tokens: Vec<u8> = ["a", "bc", ""]
        .iter()
        .flat_map(|token| text(token))
        .collect();
    let vocabulary = [&STRING.to_le_bytes()[..], &3_u64.to_le_bytes(), &tokens].concat();
    let heads: Vec<u8> = [2_i32, 4]
        .iter()
        .flat_map(|count| count.to_le_bytes())
        .collect();
    let heads = [&I32.to_le_bytes()[..], &2_u64.to_le_bytes(), &heads].concat();
    Builder::default()
        .number("tiny.context_length", 512)
        .pair("general.architecture", STRING, &text("tiny"))
        .number("tiny.block_count", 2)
        .number("tiny.embedding_length", 64)
        .number("tiny.attention.head_count", 8)
        .pair("tiny.attention.head_count_kv", ARRAY, &heads)
        .pair("tokenizer.ggml.tokens", ARRAY, &vocabulary)
        .pair("tokenizer.chat_template", STRING, &text("{{ messages }}"))
        .tensor("token_embd.weight", &[16, 2], F32_TENSOR, 0)
        .tensor("blk.0.weight", &[256, 2], Q4_K_TENSOR, 128)
        .data(128 + 288)
}

fn inspect(file: &[u8]) -> Result<GgufInfo, GgufError> {
    inspect_reader(Cursor::new(file), file.len() as u64)
}

fn message(builder: Builder) -> String {
    inspect(&builder.build()).unwrap_err().to_string()
}

#[test]
fn a_sound_header_is_reported_in_full() {
    let file = sound().build();
    let info = inspect(&file).unwrap();
    assert_eq!((info.version, info.architecture.as_str()), (3, "tiny"));
    assert_eq!((info.parameters, info.tensor_bytes), (32 + 512, 128 + 288));
    assert_eq!(
        (info.context_length, info.block_count),
        (Some(512), Some(2))
    );
    assert_eq!(
        info.head_count_kv,
        Some(4),
        "the largest of a per-block list"
    );
    assert_eq!((info.key_length, info.has_chat_template), (None, true));
    assert_eq!(info.file_bytes, file.len() as u64);
    // 2 blocks, 4 heads, keys and values of 64 / 8 elements, 2 bytes each.
    assert_eq!(info.kv_bytes_per_token(2), Some(2 * 4 * (8 + 8) * 2));
}

#[test]
fn cutting_a_sound_file_at_any_byte_is_an_error() {
    let file = sound().build();
    for length in 0..file.len() {
        let error = inspect(&file[..length]).unwrap_err();
        let expected = match length {
            0..4 => matches!(error, GgufError::NotGguf { .. }),
            _ => matches!(error, GgufError::Truncated { .. }),
        };
        assert!(expected, "cut at {length}: {error}");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_truncated() {
    let file = sound().build();
    let error = inspect_reader(Cursor::new(&file[..40]), file.len() as u64).unwrap_err();
    assert!(matches!(error, GgufError::Truncated { .. }), "{error}");
}

#[test]
fn other_files_and_versions_are_told_apart() {
    assert!(matches!(
        inspect(b"PK\x03\x04rest"),
        Err(GgufError::NotGguf { .. })
    ));
    assert!(matches!(inspect(b""), Err(GgufError::NotGguf { .. })));
    for (version, word) in [
        (1_u32, "version 1"),
        (4, "version 4"),
        (3 << 24, "big-endian"),
    ] {
        let mut file = sound().build();
        file[4..8].copy_from_slice(&version.to_le_bytes());
        let error = inspect(&file).unwrap_err();
        assert!(matches!(error, GgufError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused_without_allocating() {
    for field in [8, 16] {
        let mut file = sound().build();
        file[field..field + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(inspect(&file), Err(GgufError::Invalid { .. })));
    }
    let mut file = sound().build();
    file[24..32].copy_from_slice(&(u64::MAX - 7).to_le_bytes());
    assert!(matches!(inspect(&file), Err(GgufError::Truncated { .. })));
    let endless = [&U32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    assert!(message(sound().pair("tiny.list", ARRAY, &endless)).contains("tiny.list"));
}

#[test]
fn arrays_may_nest_but_not_without_end() {
    let nested = |depth: usize| {
        let inner = [&U32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat();
        let outer = [&ARRAY.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
        [outer.repeat(depth), inner].concat()
    };
    inspect(&sound().pair("tiny.nest", ARRAY, &nested(2)).build()).unwrap();
    let error = inspect(&sound().pair("tiny.nest", ARRAY, &nested(500)).build()).unwrap_err();
    assert!(matches!(error, GgufError::Unsupported { .. }), "{error}");
}

#[test]
fn a_long_key_is_not_copied_for_every_value_under_it() {
    // 2,000 empty lists under a key of 60,000 characters.
    let empty = [&U32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat();
    let lists = [&ARRAY.to_le_bytes()[..], &2_000_u64.to_le_bytes()].concat();
    let value = [lists, empty.repeat(2_000)].concat();
    let file = sound().pair(&"k".repeat(60_000), ARRAY, &value).build();
    let used = allocation_counter::measure(|| {
        inspect(&file).unwrap();
    });
    let most = 4 * file.len() as u64;
    assert!(used.bytes_total <= most, "{} bytes", used.bytes_total);
}

#[test]
fn contradictions_in_the_metadata_are_named() {
    assert!(message(sound().number("tiny.block_count", 1)).contains("twice"));
    assert!(message(sound().number("general.alignment", 24)).contains("power of two"));
    assert!(message(sound().pair("tiny.odd", 13, &[0; 8])).contains("metadata type 13"));
    assert!(message(sound().number("tiny.\u{1b}[2J", 1)).contains("metadata key 8 is not plain"));
    let mut nameless = sound();
    nameless.pairs.remove(1);
    assert!(message(nameless).contains("general.architecture"));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let next = 416;
    let cases = [
        (sound().tensor("x", &[1], 99, next), "type 99 of tensor x"),
        (
            sound().tensor("x", &[1 << 32, 1 << 32], 0, next),
            "larger than any file",
        ),
        (
            sound().tensor("x", &[1 << 62], 0, next),
            "larger than any file",
        ),
        (
            sound().tensor("x", &[100], Q4_K_TENSOR, next),
            "no multiple of 256",
        ),
        (sound().tensor("x", &[0], 0, next), "length 0"),
        (sound().tensor("x", &[1; 5], 0, next), "5 dimensions"),
        (sound().tensor("x", &[], 0, next), "0 dimensions"),
        (sound().tensor("x", &[8], 0, 0), "expected 416"),
        (sound().tensor("x", &[8], 0, next), "the tensor data needs"),
        (
            sound().tensor("blk.0.weight", &[8], 0, next).data(448),
            "the same name",
        ),
        (
            sound().tensor(&"x".repeat(64), &[8], 0, next).data(448),
            "at most 63",
        ),
    ];
    for (builder, expected) in cases {
        let error = message(builder);
        assert!(error.contains(expected), "{error}");
    }
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0_usize..2048, any::<u8>()), 1..8)) {
        let mut file = sound().build();
        for (at, mask) in flips {
            let at = at % file.len();
            file[at] ^= mask;
        }
        // Some flips hit padding or values nobody checks: what counts is that an answer comes.
        if let Ok(info) = inspect(&file) {
            prop_assert!(info.tensor_bytes <= info.file_bytes);
        }
    }

    #[test]
    fn noise_after_the_magic_never_panics(noise in prop::collection::vec(any::<u8>(), 0..512)) {
        let file = [&b"GGUF\x03\0\0\0"[..], &noise].concat();
        if let Ok(info) = inspect(&file) {
            prop_assert!(info.tensor_bytes <= info.file_bytes);
        }
    }
}
