//! Outcome and question files, read whole.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::Path;

use moe2_gate::{Item, read_questions};

use crate::{BadInput, input};

/// Questions by id.
///
/// # Errors
/// The file cannot be read or is wrong, or a question has no id.
pub(super) fn questions(path: &Path) -> anyhow::Result<Vec<Item>> {
    let items = input::read(path, |text| read_questions(BufReader::new(text)))?;
    if let Some(at) = items.iter().position(|item| item.id.is_none()) {
        let why = format!(
            "{}: question {} has no id: give each one",
            path.display(),
            at + 1
        );
        return Err(BadInput(why).into());
    }
    Ok(items)
}

/// The place of every id.
pub(super) fn by_id(items: &[Item]) -> HashMap<&str, usize> {
    let each = items.iter().enumerate();
    each.filter_map(|(at, item)| Some((item.id.as_deref()?, at)))
        .collect()
}
