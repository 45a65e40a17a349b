//! One number from one sensor file.
//!
//! Kernel sensor files hold a decimal number and a newline. Everything else (an empty file, a
//! word, a negative count, a number that overflows) is refused here, once, so that the meters do
//! only physics. Currents alone may be negative. The contents are quoted back shortened, since a wrong path may hold anything.

use std::fs;
use std::path::{Path, PathBuf};

use super::MeterError;

/// Characters of a bad file shown in an error: enough to recognise, too few to flood a log.
const SHOWN: usize = 40;

/// The trimmed text of a file; bytes that are not UTF-8 are replaced, and fail as a number later.
pub(super) fn text(path: &Path) -> Result<String, MeterError> {
    let bytes = fs::read(path).map_err(|source| MeterError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// A whole number from a file, for sensors whose noise reaches below zero.
pub(super) fn signed(path: &Path) -> Result<i64, MeterError> {
    let text = text(path)?;
    text.parse().map_err(|_| garbage(path, &text))
}

/// A non-negative whole number from a file.
pub(super) fn number(path: &Path) -> Result<u64, MeterError> {
    let text = text(path)?;
    text.parse().map_err(|_| garbage(path, &text))
}

/// The error for contents that cannot be a reading.
pub(super) fn garbage(path: &Path, text: &str) -> MeterError {
    MeterError::Garbage {
        path: path.to_owned(),
        text: text.chars().take(SHOWN).collect(),
    }
}

/// Entries of `directory` whose name starts with `prefix`, sorted; none if it is not there.
pub(super) fn entries(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = listing
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Writes a tree of files for a test.
#[cfg(test)]
pub(super) fn fixture(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_non_negative_number_is_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("reading");
        for bad in [
            "",
            "\n",
            "-1",
            "1.5",
            "NotSupported",
            "99999999999999999999999",
        ] {
            fs::write(&path, bad).unwrap();
            let error = number(&path).unwrap_err();
            assert!(matches!(error, MeterError::Garbage { .. }), "{bad:?}");
        }
        fs::write(&path, [0xff, 0xfe, b'1']).unwrap();
        assert!(matches!(number(&path), Err(MeterError::Garbage { .. })));
        fs::write(&path, "5040\n").unwrap();
        assert_eq!(number(&path).unwrap(), 5040);
        fs::write(&path, "-8\n").unwrap();
        assert_eq!(signed(&path).unwrap(), -8);
    }

    #[test]
    fn a_long_bad_file_is_quoted_short() {
        let MeterError::Garbage { text, .. } = garbage(Path::new("x"), &"y".repeat(9000)) else {
            panic!("garbage makes garbage")
        };
        assert_eq!(text.len(), SHOWN);
    }
}
