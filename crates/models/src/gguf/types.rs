//! Sizes of the types that metadata values and tensors can have.
//!
//! Quantised tensors are stored in blocks: so many elements in so many bytes. The figures follow
//! from the block layouts of the GGML format; a type that is not in the table is refused, because
//! without its size nothing can be said about where the next tensor lies.

/// Storage of one tensor type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Elements per block.
    pub(super) elements: u64,
    /// Bytes per block.
    pub(super) bytes: u64,
}

/// Type number, elements per block, bytes per block. Numbers that are missing were withdrawn.
const TENSOR_TYPES: [(u32, u64, u64); 35] = [
    (0, 1, 4),      // F32
    (1, 1, 2),      // F16
    (2, 32, 18),    // Q4_0
    (3, 32, 20),    // Q4_1
    (6, 32, 22),    // Q5_0
    (7, 32, 24),    // Q5_1
    (8, 32, 34),    // Q8_0
    (9, 32, 36),    // Q8_1
    (10, 256, 84),  // Q2_K
    (11, 256, 110), // Q3_K
    (12, 256, 144), // Q4_K
    (13, 256, 176), // Q5_K
    (14, 256, 210), // Q6_K
    (15, 256, 292), // Q8_K
    (16, 256, 66),  // IQ2_XXS
    (17, 256, 74),  // IQ2_XS
    (18, 256, 98),  // IQ3_XXS
    (19, 256, 50),  // IQ1_S
    (20, 32, 18),   // IQ4_NL
    (21, 256, 110), // IQ3_S
    (22, 256, 82),  // IQ2_S
    (23, 256, 136), // IQ4_XS
    (24, 1, 1),     // I8
    (25, 1, 2),     // I16
    (26, 1, 4),     // I32
    (27, 1, 8),     // I64
    (28, 1, 8),     // F64
    (29, 256, 56),  // IQ1_M
    (30, 1, 2),     // BF16
    (34, 256, 54),  // TQ1_0
    (35, 256, 66),  // TQ2_0
    (39, 32, 17),   // MXFP4
    (40, 64, 36),   // NVFP4
    (41, 128, 18),  // Q1_0
    (42, 64, 18),   // Q2_0
];

/// Storage of tensor type `number`, if it is known.
pub(super) fn tensor_type(number: u32) -> Option<Block> {
    let found = TENSOR_TYPES.iter().find(|(known, ..)| *known == number);
    found.map(|&(_, elements, bytes)| Block { elements, bytes })
}

/// Kind of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not a whole number (float, bool); so many bytes, never more than 8.
    Other(u64),
    /// An unsigned whole number of so many bytes, at most 8.
    Unsigned(u64),
    /// A signed whole number of so many bytes, at most 8.
    Signed(u64),
    /// A length and that many bytes.
    String,
    /// An element type, a count and that many values.
    Array,
}

/// Kind of metadata type `number`, if it is known.
pub(super) fn value_kind(number: u32) -> Option<Kind> {
    Some(match number {
        0 => Kind::Unsigned(1),
        1 => Kind::Signed(1),
        2 => Kind::Unsigned(2),
        3 => Kind::Signed(2),
        4 => Kind::Unsigned(4),
        5 => Kind::Signed(4),
        6 => Kind::Other(4),
        7 => Kind::Other(1),
        8 => Kind::String,
        9 => Kind::Array,
        10 => Kind::Unsigned(8),
        11 => Kind::Signed(8),
        12 => Kind::Other(8),
        _ => return None,
    })
}
