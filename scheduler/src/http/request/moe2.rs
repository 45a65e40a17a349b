//! Our own request fields, under `moe2`: budgets, how many experts, and how much to tell.
//!
//! Unknown keys in here are refused, unlike unknown fields of the request: no other server has
//! them, so a strange one is a typing error, and a mistyped budget must not be ignored.

use moe2_model::{Budgets, Joules, Mode, Seconds};

use super::fields::{self, Fields};
use crate::http::error::ApiError;

const KEYS: &[&str] = &[
    "delay_budget_ms",
    "first_token_budget_ms",
    "energy_budget_j",
    "max_experts",
    "mode",
    "explain",
];
/// Most experts one query may occupy.
const MAX_EXPERTS: u32 = 8;
/// Most experts when the request does not say: the fewest that can outvote one mistake. Only `fuse`
/// takes as many in any case.
const FUSED_EXPERTS: u32 = 3;

/// What the client wishes beyond OpenAI's fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wishes {
    pub budgets: Budgets,
    pub max_experts: u32,
    pub mode: Mode,
    pub explain: bool,
}

/// The `moe2` object, or its defaults.
pub(super) fn parse(request: &Fields<'_>) -> Result<Wishes, ApiError> {
    let Some(fields) = request.object("moe2")? else {
        return Ok(Wishes {
            budgets: Budgets::default(),
            max_experts: FUSED_EXPERTS,
            mode: Mode::Auto,
            explain: false,
        });
    };
    if let Some(unknown) = fields.names().find(|name| !KEYS.contains(name)) {
        return Err(unknown_key(&fields, unknown));
    }
    let mode = mode(&fields)?;
    let default_experts = match mode {
        Mode::Auto | Mode::Fuse | Mode::Cascade => FUSED_EXPERTS,
        Mode::Single => 1,
    };
    let max_experts = fields
        .integer("max_experts", 1, MAX_EXPERTS)?
        .unwrap_or(default_experts);
    let seconds = |name| {
        let ms = budget(&fields, name)?;
        Ok::<_, ApiError>(ms.map(|ms| Seconds::saturating(ms / 1_000.0)))
    };
    let energy = budget(&fields, "energy_budget_j")?;
    Ok(Wishes {
        budgets: Budgets {
            delay: seconds("delay_budget_ms")?,
            first_token: seconds("first_token_budget_ms")?,
            energy: energy.map(Joules::saturating),
        },
        max_experts,
        mode,
        explain: fields.boolean("explain")?.unwrap_or(false),
    })
}

fn budget(fields: &Fields<'_>, name: &str) -> Result<Option<f64>, ApiError> {
    let amount = fields.number(name)?;
    if amount.is_some_and(|amount| !(amount.is_finite() && amount > 0.0)) {
        return Err(fields.wrong(name, "a number above 0"));
    }
    Ok(amount)
}

fn mode(fields: &Fields<'_>) -> Result<Mode, ApiError> {
    match fields.string("mode")? {
        None | Some("auto") => Ok(Mode::Auto),
        Some("single") => Ok(Mode::Single),
        Some("fuse") => Ok(Mode::Fuse),
        Some("cascade") => Ok(Mode::Cascade),
        Some(_) => Err(fields.wrong("mode", "\"auto\", \"single\", \"fuse\" or \"cascade\"")),
    }
}

fn unknown_key(fields: &Fields<'_>, unknown: &str) -> ApiError {
    // A client chooses how long its key is, and comparing takes time with its length.
    let shown = fields::shown(unknown);
    let nearest = KEYS
        .iter()
        .max_by(|a, b| {
            let likeness = |key: &str| strsim::jaro_winkler(key, &shown);
            likeness(a).total_cmp(&likeness(b))
        })
        .expect("the list of keys is not empty");
    let path = fields.path(&shown);
    let message = format!("`{path}` is not known; did you mean `moe2.{nearest}`?");
    ApiError::bad_request(Some(&path), message).with_code("unknown_parameter")
}
