//! Typed looks into a JSON object that know what a field is called from the outside.
//!
//! `null` counts as absent everywhere, as the official SDKs send it for unset options.

use serde_json::{Map, Value};

use crate::http::error::ApiError;

/// Characters of a client's own words that go into an error.
const SHOWN: usize = 80;

/// A client's word as an error repeats it.
pub(super) fn shown(word: &str) -> String {
    word.chars().take(SHOWN).collect()
}

/// An object of the request and where it sits.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Path of the object with its dot; empty for the request itself.
    prefix: String,
}

impl<'a> Fields<'a> {
    /// The request itself.
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self {
            map,
            prefix: String::new(),
        }
    }

    /// An object at `path`.
    pub(super) fn at(path: &str, map: &'a Map<String, Value>) -> Self {
        Self {
            map,
            prefix: format!("{path}."),
        }
    }

    /// What a field is called in errors.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{}", self.prefix, shown(name))
    }

    /// Names of all fields that are not `null`.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let given = self.map.iter().filter(|(_, value)| !value.is_null());
        given.map(|(name, _)| name.as_str())
    }

    /// A field's value unless absent or `null`.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.typed(name, "a string", Value::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, ApiError> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// An integer in a range.
    pub(super) fn integer(&self, name: &str, min: u32, max: u32) -> Result<Option<u32>, ApiError> {
        let wanted = format!("an integer from {min} to {max}");
        self.typed(name, &wanted, |value| {
            let integer = u32::try_from(value.as_u64()?).ok()?;
            (min..=max).contains(&integer).then_some(integer)
        })
    }

    pub(super) fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        self.typed(name, "an array", |v| v.as_array().map(Vec::as_slice))
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Self>, ApiError> {
        let map = self.typed(name, "an object", Value::as_object)?;
        Ok(map.map(|map| Self::at(&self.path(name), map)))
    }

    fn typed<T>(
        &self,
        name: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        convert(value)
            .map(Some)
            .ok_or_else(|| self.wrong(name, wanted))
    }

    /// 400: the field is there but is not what it must be.
    pub(super) fn wrong(&self, name: &str, wanted: &str) -> ApiError {
        let path = self.path(name);
        let message = format!("`{path}` must be {wanted}.");
        ApiError::bad_request(Some(&path), message).with_code("invalid_value")
    }

    /// 400: the field must be there.
    pub(super) fn missing(&self, name: &str, wanted: &str) -> ApiError {
        let path = self.path(name);
        let message = format!("`{path}` is missing; set it to {wanted}.");
        ApiError::bad_request(Some(&path), message).with_code("missing_required_parameter")
    }

    /// 400: the field asks for something that cannot be done here.
    pub(super) fn unsupported(&self, name: &str, hint: &str) -> ApiError {
        let path = self.path(name);
        let message = format!("`{path}` is not supported; {hint}.");
        ApiError::bad_request(Some(&path), message).with_code("unsupported_parameter")
    }
}
