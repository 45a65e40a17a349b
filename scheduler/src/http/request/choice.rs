//! Constrained choice, as vLLM spells it: `structured_outputs.choice`, or the older
//! `guided_choice`. Other structured outputs need a grammar inside every backend and are refused.

use super::fields::Fields;
use crate::http::error::ApiError;

/// Each option is scored by every expert, so their number is a cost.
const MAX_OPTIONS: usize = 64;
/// Options are answers to pick from, not documents.
const MAX_OPTION_BYTES: usize = 1_024;

/// The options to choose from, if this is a choice.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Option<Vec<String>>, ApiError> {
    let structured = fields.object("structured_outputs")?;
    if let Some(structured) = &structured
        && let Some(other) = structured.names().find(|name| *name != "choice")
    {
        return Err(structured.unsupported(other, "only `structured_outputs.choice` is possible"));
    }
    let new = match &structured {
        Some(structured) => options(structured, "choice")?,
        None => None,
    };
    let old = options(fields, "guided_choice")?;
    if new.is_some() && old.is_some() {
        let wanted = "left out when `structured_outputs.choice` is given";
        return Err(fields.wrong("guided_choice", wanted));
    }
    Ok(new.or(old))
}

fn options(fields: &Fields<'_>, name: &str) -> Result<Option<Vec<String>>, ApiError> {
    let Some(items) = fields.array(name)? else {
        return Ok(None);
    };
    let fit = |text: &&str| (1..=MAX_OPTION_BYTES).contains(&text.len());
    let mut options: Vec<String> = Vec::with_capacity(items.len().min(MAX_OPTIONS));
    for item in items.iter().take(MAX_OPTIONS + 1) {
        match item.as_str().filter(fit) {
            Some(text) if !options.iter().any(|o| o == text) => options.push(text.to_owned()),
            _ => break,
        }
    }
    if items.is_empty() || items.len() > MAX_OPTIONS || options.len() != items.len() {
        let wanted = format!(
            "an array of 1 to {MAX_OPTIONS} different strings of 1 to {MAX_OPTION_BYTES} bytes"
        );
        return Err(fields.wrong(name, &wanted));
    }
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parsed(value: &Value) -> Result<Option<Vec<String>>, ApiError> {
        parse(&Fields::new(value.as_object().expect("an object")))
    }

    #[test]
    fn exactly_64_options_of_1024_bytes_are_the_most() {
        let most: Vec<String> = (0..MAX_OPTIONS).map(|i| format!("{i:0>1024}")).collect();
        let options = parsed(&json!({ "guided_choice": most.clone() })).expect("at the limit");
        assert_eq!(options, Some(most.clone()));
        let mut many = most;
        many.push("one more".to_owned());
        assert!(parsed(&json!({ "guided_choice": many })).is_err());
        assert!(parsed(&json!({ "guided_choice": ["x".repeat(1_025)] })).is_err());
    }
}
