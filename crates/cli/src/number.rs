//! Numbers on the command line.

/// Not negative, and a number: what JSON cannot say would be taken for no limit.
pub(crate) fn amount(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "give a number")?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err("give a number of at least 0".to_owned())
    }
}
