//! A table read as a type, with every unknown key named, and the known one that was probably meant.
//!
//! The deserialiser knows the keys and stops at the first that it does not; what it says then is taken
//! apart, the key is left out, and it is asked again. A list of keys beside each type would be easier to
//! read and wrong with the next key.

use serde::de::DeserializeOwned;
use toml::Table;

/// How alike two words must be for one to be a slip for the other, from 0 to 1.
const ALIKE: f64 = 0.75;

/// The table as a `T` without what is wrong with it, which is told with `at`, the place of the table. `None`
/// if nothing can be made of the rest.
pub(super) fn read<T: DeserializeOwned>(
    mut table: Table,
    at: &str,
    wrong: &mut Vec<String>,
) -> Option<T> {
    let mut left_out: Vec<String> = Vec::new();
    loop {
        let error = match table.clone().try_into::<T>() {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let message = error.message();
        let key = if let Some((key, known)) = unknown(message) {
            let hint = nearest(&key, &known).map(|near| format!("; did you mean `{near}`?"));
            let hint = hint.unwrap_or_else(|| format!("; there are {}", known.join(", ")));
            wrong.push(format!("{}: unknown key{hint}", place(at, &key)));
            key
        } else {
            let key = culprit::<T>(&table, message);
            let missed = |key: &String| message == format!("missing field `{key}`");
            if !left_out.iter().any(missed) {
                wrong.push(format!("{}{message}", prefix(at, &key)));
            }
            key
        };
        table.remove(&key)?;
        left_out.push(key);
    }
}

/// Whether a `T` has this key.
pub(super) fn knows<T: DeserializeOwned>(key: &str) -> bool {
    let table = Table::from_iter([(key.to_owned(), toml::Value::Boolean(true))]);
    let error = table.try_into::<T>().err();
    error.is_none_or(|error| unknown(error.message()).is_none())
}

fn prefix(at: &str, key: &str) -> String {
    let place = place(at, key);
    if place.is_empty() {
        place
    } else {
        format!("{place}: ")
    }
}

/// The place of a key in the file.
pub(super) fn place(at: &str, key: &str) -> String {
    match (at.is_empty(), key.is_empty()) {
        (_, true) => at.to_owned(),
        (true, false) => key.to_owned(),
        (false, false) => format!("{at}.{key}"),
    }
}

/// An unknown key and the known ones, of what serde says about the former.
fn unknown(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned);
    Some((key.to_owned(), known.collect()))
}

/// The key whose value alone gives the same error; none if it is not a value's fault.
fn culprit<T: DeserializeOwned>(table: &Table, message: &str) -> String {
    if message.starts_with("missing field") {
        return String::new();
    }
    let alone = |(key, value): (&String, &toml::Value)| {
        let table = Table::from_iter([(key.clone(), value.clone())]);
        let error = table.try_into::<T>().err()?;
        (error.message() == message).then(|| key.clone())
    };
    table.iter().find_map(alone).unwrap_or_default()
}

fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a String> {
    let likeness = |known: &String| strsim::jaro_winkler(key, known);
    let nearest = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(nearest) >= ALIKE).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Some3 {
        threads: u32,
        #[serde(default)]
        queue: u32,
        #[serde(default)]
        probe: bool,
    }

    fn faults(text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let table = toml::from_str(text).expect("it is TOML");
        let read: Option<Some3> = read(table, "here", &mut wrong);
        if let Some(Some3 {
            threads,
            queue,
            probe,
        }) = read
        {
            assert_eq!((threads, queue, probe), (1, 0, false));
        }
        wrong
    }

    #[test]
    fn every_unknown_key_is_named_with_what_was_meant() {
        assert_eq!(faults("threads = 1"), [""; 0]);
        let text = "threads = 1\nqueu = 1\nthreds = 2\nxyz = 3";
        let expected = [
            "here.queu: unknown key; did you mean `queue`?",
            "here.threds: unknown key; did you mean `threads`?",
            "here.xyz: unknown key; there are threads, queue, probe",
        ];
        assert_eq!(faults(text), expected);
    }

    #[test]
    fn a_wrong_value_is_told_with_its_key_and_a_missing_one_with_its_name() {
        let told = faults("threads = 1\nqueue = \"a\"");
        assert!(told[0].starts_with("here.queue: invalid type"), "{told:?}");
        let told = faults("queue = 1");
        assert_eq!(told, ["here: missing field `threads`"]);
    }
}
