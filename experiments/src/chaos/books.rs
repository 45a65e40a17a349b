//! What the coordinator booked, beside what clients were told and what was allowed.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};

use crate::live::api::{Api, End};
use crate::live::load::{Sample, Tenant};
use crate::live::tenants::{Window, until_quiet};

/// Rounding of sums.
const NOTHING: f64 = 1e-6;

/// A tenant's account.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) row: Value,
    /// What is not as it must be.
    pub(super) wrong: Vec<String>,
}

/// Waits until nothing is under way and reads all accounts.
///
/// # Errors
/// The coordinator does not answer, or is not done in time.
pub(super) fn read(
    admin: &Api,
    (tenants, samples): (&[Tenant], &[Sample]),
    windows: &[Window],
) -> anyhow::Result<Vec<Account>> {
    until_quiet(admin)?;
    let used = admin.get("/admin/v1/usage?by=tenant")?;
    let lines = used["usage"].as_array().map_or(&[][..], Vec::as_slice);
    let account = |(at, tenant): (usize, &Tenant)| {
        let own: Vec<&Sample> = samples.iter().filter(|s| s.tenant == at).collect();
        let line = lines
            .iter()
            .find(|l| l["key"] == tenant.name)
            .unwrap_or(&Value::Null);
        let window = windows.iter().find(|w| w.tenant == tenant.name);
        audit(tenant, &own, (line, window))
    };
    Ok(tenants.iter().enumerate().map(account).collect())
}

/// What clients of a tenant were told.
#[derive(Debug, Default)]
struct Told {
    joules: f64,
    dispatches: u64,
    dearest: f64,
    late: u64,
}

fn told(tenant: &Tenant, samples: &[&Sample]) -> Told {
    let mut told = Told::default();
    let budget = tenant.budgets["delay_budget_ms"].as_f64();
    for moe2 in samples
        .iter()
        .map(|s| s.moe2())
        .filter(|moe2| !moe2.is_null())
    {
        told.joules += moe2["energy_j"].as_f64().unwrap_or(0.0);
        let experts = moe2["experts"].as_array().into_iter().flatten();
        for joules in experts.filter_map(|e| e["actual"]["energy_j"].as_f64()) {
            told.dispatches += 1;
            told.dearest = told.dearest.max(joules);
        }
        let seconds = moe2["delay_s"].as_f64().unwrap_or(0.0);
        told.late += u64::from(budget.is_some_and(|ms| seconds * 1e3 > ms));
    }
    told
}

fn audit(
    tenant: &Tenant,
    samples: &[&Sample],
    (line, window): (&Value, Option<&Window>),
) -> Account {
    let told = told(tenant, samples);
    let number = |field: &str| line[field].as_f64().unwrap_or(0.0);
    let count = |field: &str| line[field].as_u64().unwrap_or(0);
    let (booked, dispatches) = (number("energy_j"), count("dispatches"));
    let untold = dispatches.saturating_sub(told.dispatches);
    // What was booked for work of which no answer told: lost, cancelled, or behind a broken stream.
    let beyond = booked - told.joules;
    let bound = 2.0 * told.dearest * untold as f64;
    let mut wrong = Vec::new();
    let mut say = |what: String| wrong.push(format!("{}: {what}", tenant.name));
    if beyond < -NOTHING {
        say(format!(
            "answers told of {:.3} J that are not in the books",
            -beyond
        ));
    }
    if beyond > bound + NOTHING {
        say(format!(
            "{beyond:.3} J booked that {untold} pieces of work cannot have used"
        ));
    }
    if count("queries") > samples.len() as u64 {
        say(format!(
            "{} queries booked, {} asked",
            count("queries"),
            samples.len()
        ));
    }
    if told.late > 0 {
        say(format!(
            "{} answers later than their budget of time",
            told.late
        ));
    }
    let mut exceeded = 0.0;
    let windows = window.map(|w| touched(w, samples));
    if let (Some(window), Some(windows)) = (window, windows) {
        let allowed = window.joules * windows as f64
            + if window.per == "minute" {
                window.set_after
            } else {
                0.0
            };
        exceeded = (booked - allowed).max(0.0);
        // The bound that the books promise: what work used beyond its own reservation.
        if exceeded > number("over_j") + NOTHING {
            say(format!("{booked:.3} J used, {allowed:.3} J allowed"));
        }
    }
    let refused = samples
        .iter()
        .filter(|s| matches!(s.ended.end, End::Refused { .. }))
        .count();
    let row = json!({"tenant": tenant.name, "requests": samples.len(), "refused": refused,
        "queries_booked": count("queries"), "dispatches_booked": dispatches, "dispatches_told": told.dispatches,
        "booked_j": booked, "told_j": told.joules, "beyond_reservations_j": number("over_j"), "exceeded_j": exceeded,
        "window_j": window.map(|w| w.joules), "per": window.map(|w| w.per), "windows": windows,
        "late": told.late, "wrong": wrong});
    Account { row, wrong }
}

/// Windows of the calendar that a tenant's requests fell into.
fn touched(window: &Window, samples: &[&Sample]) -> usize {
    let length = if window.per == "day" { 86_400 } else { 60 };
    let (now, clock) = (Instant::now(), SystemTime::now());
    let number = |at: Instant| {
        let then = clock.checked_sub(now.saturating_duration_since(at));
        let since = then.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        since.unwrap_or_default().as_secs() / length
    };
    let all: BTreeSet<u64> = samples
        .iter()
        .flat_map(|s| [number(s.sent), number(s.done)])
        .collect();
    all.len().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::api::Ended;
    use crate::live::load::Kind;

    fn tenant(budgets: Value) -> Tenant {
        let api = Api::new("http://127.0.0.1:1", "k");
        Tenant {
            name: "t",
            share: 1.0,
            refusals: &[],
            budgets,
            api,
        }
    }

    fn answer(joules: f64, seconds: f64) -> Sample {
        let moe2 = json!({"energy_j": joules, "delay_s": seconds, "experts": [{"actual": {"energy_j": joules}}]});
        let end = End::Answered {
            model: "a@b".to_owned(),
            text: "x".to_owned(),
            moe2,
        };
        let now = Instant::now();
        Sample {
            tenant: 0,
            kind: Kind::Whole,
            model: "auto",
            sent: now,
            done: now,
            ended: Ended {
                end,
                first: None,
                id: String::new(),
            },
            barred: false,
        }
    }

    fn wrong(booked: f64, dispatches: u64, window: Option<f64>) -> Vec<String> {
        let samples = [answer(2.0, 1.0), answer(2.0, 1.0)];
        let line = json!({"energy_j": booked, "dispatches": dispatches, "queries": 2});
        let window = window.map(|joules| Window {
            tenant: "t",
            per: "day",
            joules,
            set_after: 0.0,
        });
        audit(
            &tenant(json!({})),
            &samples.each_ref(),
            (&line, window.as_ref()),
        )
        .wrong
    }

    #[test]
    fn what_is_missing_booked_twice_or_beyond_a_window_is_seen() {
        assert!(wrong(4.0, 2, Some(5.0)).is_empty());
        // A third piece of work that no answer told of.
        assert!(wrong(5.0, 3, Some(6.0)).is_empty());
        assert_eq!(wrong(3.0, 2, None).len(), 1);
        assert_eq!(wrong(8.0, 2, None).len(), 1);
        assert_eq!(wrong(4.0, 2, Some(3.0)).len(), 1);
        let late = [answer(1.0, 3.0)];
        let line = json!({"energy_j": 1.0, "dispatches": 1, "queries": 2});
        let found = audit(
            &tenant(json!({"delay_budget_ms": 2_000})),
            &late.each_ref(),
            (&line, None),
        )
        .wrong;
        assert_eq!(
            found.len(),
            2,
            "late, and more queries than were asked: {found:?}"
        );
    }
}
