//! Just enough Rust lexing to know what is code: comments and literals are blanked, byte for byte.
//!
//! Offsets and line numbers in the blanked text are those of the original, so a search in it can be
//! reported as it stands. Braces inside strings, `//` inside URLs and forbidden words inside comments
//! are what a plain text search gets wrong; everything else a plain search gets right.

use std::ops::Range;

/// A function found in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name, without path or generics.
    pub name: String,
    /// Line of the `fn` keyword, from 1.
    pub line: usize,
    /// Lines from the `fn` keyword to the closing brace, both included.
    pub lines: usize,
}

/// `text` with the bytes of comments, strings and character literals replaced by spaces.
/// Newlines stay, so that lines keep their numbers.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match opaque_end(bytes, at) {
            Some(end) => {
                out.extend(
                    bytes[at..end]
                        .iter()
                        .map(|b| if *b == b'\n' { b'\n' } else { b' ' }),
                );
                at = end;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Line of byte `offset`, from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
}

/// Offsets at which `word` stands in `code` with no identifier character on either side.
pub fn words(code: &str, word: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| {
            !at.checked_sub(1)
                .is_some_and(|before| is_ident(bytes[before]))
        })
        .filter(|at| !bytes.get(at + word.len()).is_some_and(|b| is_ident(*b)))
        .collect()
}

/// Every function with a body in `code` (blanked text), nested ones included.
pub fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let rest = code[at + 2..].trim_start();
        let name: String = rest
            .bytes()
            .take_while(|b| is_ident(*b))
            .map(char::from)
            .collect();
        if name.is_empty() {
            continue; // a function pointer type
        }
        let Some(open) = body_start(bytes, at) else {
            continue;
        };
        let last = line_of(code, closing_brace(bytes, open));
        let line = line_of(code, at);
        found.push(Function {
            name,
            line,
            lines: last - line + 1,
        });
    }
    found
}

/// Byte ranges of items marked `#[cfg(test)]` (or `all(test, …)`) that have a body.
pub fn test_regions(code: &str) -> Vec<Range<usize>> {
    let bytes = code.as_bytes();
    ["cfg(test)", "cfg(all(test"]
        .iter()
        .flat_map(|mark| code.match_indices(mark))
        .filter_map(|(at, _)| {
            // Past the attribute's own brackets, then the item's body.
            let item = at + code[at..].find(']')?;
            let open = body_start(bytes, item + 1)?;
            Some(at..closing_brace(bytes, open))
        })
        .collect()
}

/// First `{` from `at` on that is outside parentheses and square brackets; `None` if a `;` comes first.
fn body_start(code: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code.iter().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The brace that closes the one at `open`, or the end of the text when it never closes.
fn closing_brace(code: &[u8], open: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return offset;
        }
    }
    code.len()
}

/// If a comment or literal starts at `at`, the offset just past it.
fn opaque_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    match rest {
        [b'/', b'/', ..] => Some(find(bytes, at, b"\n").unwrap_or(bytes.len())),
        [b'/', b'*', ..] => Some(block_comment_end(bytes, at)),
        [b'"', ..] => Some(string_end(bytes, at + 1)),
        [b'\'', ..] => char_end(bytes, at),
        [b'r' | b'b' | b'c', ..] if at == 0 || !is_ident(bytes[at - 1]) => raw_end(bytes, at),
        _ => None,
    }
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `'x'` and `'\n'` are literals; `'a` alone is a lifetime or a label and stays.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        return find(bytes, at + 3, b"'").map(|quote| quote + 1);
    }
    let width = match bytes.get(at + 1)? {
        0..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    (bytes.get(at + 1 + width) == Some(&b'\'')).then_some(at + 2 + width)
}

/// `r"…"`, `r#"…"#`, `br"…"` and `cr"…"`; a raw identifier such as `r#fn` is not one of them.
fn raw_end(bytes: &[u8], at: usize) -> Option<usize> {
    let prefix = usize::from(bytes[at] != b'r');
    if bytes.get(at + prefix) != Some(&b'r') {
        return None;
    }
    let hashes_at = at + prefix + 1;
    let hashes = bytes[hashes_at..]
        .iter()
        .take_while(|b| **b == b'#')
        .count();
    if bytes.get(hashes_at + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), "#".repeat(hashes).as_bytes()].concat();
    let end = find(bytes, hashes_at + hashes + 1, &close).map(|quote| quote + close.len());
    Some(end.unwrap_or(bytes.len()))
}

fn find(bytes: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    let found = bytes
        .get(from..)?
        .windows(needle.len())
        .position(|w| w == needle)?;
    Some(from + found)
}

fn is_ident(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_vanish_and_code_stays_in_place() {
        let text = "let a = \"fn {\"; // fn b() {\nlet c = '{'; /* } /* { */ */ d";
        let code = blank(text);
        assert_eq!(code.len(), text.len());
        assert!(!code.contains(['{', '}']), "{code}");
        assert_eq!(code.find("let c"), text.find("let c"));
        assert!(code.ends_with('d'));
    }

    #[test]
    fn raw_strings_escapes_and_lifetimes_are_told_apart() {
        let text =
            "f(r#\"a \" { b\"#, br\"{\", '\\'', \"\\\"{\", b'{', 'é'); fn g<'a>(x: &'a str) {}";
        assert_eq!(blank(text).matches('{').count(), 1);
        assert!(blank(text).contains("fn g<'a>(x: &'a str) {}"));
        assert_eq!(blank("r#fn + r"), "r#fn + r");
    }

    #[test]
    fn unclosed_literals_reach_the_end_without_a_panic() {
        for text in ["\"abc\\", "/* a", "r#\"b", "'\\", "'", "fn f() {", "r"] {
            let code = blank(text);
            assert_eq!(code.len(), text.len());
            functions(&code);
            test_regions(&code);
        }
    }

    #[test]
    fn function_lengths_count_from_the_keyword_to_the_brace() {
        let code =
            "trait T { fn no_body(&self); }\nfn a(x: [u8; 3])\n{\n  fn b() {}\n}\ntype F = fn(u8);";
        let found = functions(code);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Function {
                name: "a".into(),
                line: 2,
                lines: 4
            }
        );
        assert_eq!(
            found[1],
            Function {
                name: "b".into(),
                line: 4,
                lines: 1
            }
        );
    }

    #[test]
    fn test_regions_cover_the_module_and_nothing_else() {
        let code =
            "fn a() {}\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod more { fn b() {} }\nfn c() {}";
        let regions = test_regions(code);
        assert_eq!(regions.len(), 1);
        assert!(regions[0].contains(&code.find("fn b").unwrap()));
        assert!(!regions[0].contains(&code.find("fn c").unwrap()));
    }

    #[test]
    fn words_do_not_match_inside_longer_names() {
        assert_eq!(words("sleep( nosleep( sleepy sleep", "sleep"), vec![0, 23]);
    }
}
