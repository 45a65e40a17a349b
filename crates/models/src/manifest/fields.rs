//! Takes typed values out of a TOML table and collects what is wrong with them.
//!
//! Each `take` removes its key, so whatever is left at the end is a key nobody asked for. A missing
//! or ill-typed value yields a harmless default and a [`Problem`]; the caller throws the half-built
//! value away when there are problems, which keeps the reading code free of early exits.

use super::Problem;

/// Largest distance at which an unknown key is taken for a misspelling of a known one.
const MAX_TYPO_DISTANCE: usize = 3;

/// A table being emptied.
pub(super) struct Fields<'a> {
    place: String,
    table: toml::Table,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(place: String, table: toml::Table, problems: &'a mut Vec<Problem>) -> Self {
        Self {
            place,
            table,
            known: Vec::new(),
            problems,
        }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn problems(&mut self) -> &mut Vec<Problem> {
        self.problems
    }

    pub(super) fn report(&mut self, key: &str, what: impl Into<String>) {
        let at = match (self.place.is_empty(), key.is_empty()) {
            (true, _) => format!("key \"{key}\""),
            (false, true) => self.place.clone(),
            (false, false) => format!("{}, key \"{key}\"", self.place),
        };
        self.problems.push(Problem {
            at,
            what: what.into(),
        });
    }

    fn take(&mut self, key: &'static str, expected: &str) -> Option<toml::Value> {
        self.known.push(key);
        let value = self.table.remove(key);
        if value.is_none() {
            self.report(key, format!("is missing; expected {expected}"));
        }
        value
    }

    /// A string that is not blank and has no control characters.
    pub(super) fn text(&mut self, key: &'static str) -> String {
        match self.take(key, "text") {
            None => String::new(),
            Some(toml::Value::String(text))
                if !text.trim().is_empty() && !text.chars().any(char::is_control) =>
            {
                text
            }
            Some(_) => {
                self.report(key, "must be a line of text, not empty");
                String::new()
            }
        }
    }

    /// A string for which `accept` gives a value; `expected` completes "must be …".
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        accept: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(key, expected)?;
        let parsed = value.as_str().and_then(accept);
        if parsed.is_none() {
            self.report(key, format!("is {value}; must be {expected}"));
        }
        parsed
    }

    /// A whole number in `1..=max`.
    pub(super) fn count(&mut self, key: &'static str, max: u64) -> u64 {
        let Some(value) = self.take(key, "a whole number") else {
            return 0;
        };
        let number = value
            .as_integer()
            .and_then(|number| u64::try_from(number).ok());
        match number {
            Some(number) if (1..=max).contains(&number) => number,
            _ => {
                self.report(
                    key,
                    format!("is {value}; must be a whole number from 1 to {max}"),
                );
                0
            }
        }
    }

    /// An array of tables; a missing key is an empty array.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<toml::Table> {
        self.known.push(key);
        let Some(value) = self.table.remove(key) else {
            return Vec::new();
        };
        let toml::Value::Array(items) = value else {
            self.report(key, "must be an array of tables");
            return Vec::new();
        };
        let expected = items.len();
        let is_table = |item| match item {
            toml::Value::Table(table) => Some(table),
            _ => None,
        };
        let tables: Vec<toml::Table> = items.into_iter().filter_map(is_table).collect();
        if tables.len() < expected {
            self.report(key, "must hold tables only");
        }
        tables
    }

    /// Reports the keys nobody took.
    pub(super) fn finish(mut self) {
        for key in std::mem::take(&mut self.table).keys() {
            let nearest = self
                .known
                .iter()
                .min_by_key(|known| strsim::levenshtein(known, key));
            let hint = match nearest {
                Some(known) if strsim::levenshtein(known, key) <= MAX_TYPO_DISTANCE => {
                    format!("unknown key; did you mean \"{known}\"?")
                }
                _ => format!("unknown key; known keys: {}", self.known.join(", ")),
            };
            self.report(key, hint);
        }
    }
}
