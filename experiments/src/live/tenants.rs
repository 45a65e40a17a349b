//! Tenants with budgets of every kind, and the end of their work.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use super::api::Api;
use super::load::Tenant;
use super::processes::Coordinator;

/// Of what they would use, tenants with windows of joules may use so much: their budgets bind.
const TIGHT: f64 = 0.6;
/// Work that was told to stop may take a minute to be given up.
const QUIET_WITHIN: Duration = Duration::from_secs(75);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A window of joules that a tenant was given while it already asked.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) tenant: &'static str,
    /// `day` or `minute`.
    pub(crate) per: &'static str,
    pub(crate) joules: f64,
    /// Used before there was a window.
    pub(crate) set_after: f64,
}

/// Who asks: half of it without budgets; `delay` is what one of them has for an answer.
pub(crate) fn tenants(coordinator: &Coordinator, delay: Duration) -> anyhow::Result<Vec<Tenant>> {
    const WINDOW: &[&str] = &["insufficient_quota", "rate_limit_exceeded"];
    const OWN: &[&str] = &["budget_infeasible", "deadline_exceeded"];
    let own = json!({"delay_budget_ms": delay.as_millis()});
    let rows = [
        ("open", 0.45, &[][..], json!({})),
        ("daily", 0.2, WINDOW, json!({})),
        ("minutely", 0.2, WINDOW, json!({})),
        ("timed", 0.15, OWN, own),
    ];
    let tenant = |(name, share, refusals, budgets)| {
        let api = coordinator.tenant(name)?;
        Ok(Tenant {
            name,
            share,
            refusals,
            budgets,
            api,
        })
    };
    rows.into_iter().map(tenant).collect()
}

/// Gives two tenants windows of joules in which they cannot ask all they will, by what answers have cost so far.
///
/// `rate` is that of all requests, per second, and `whole` how long they go on.
///
/// # Errors
/// The coordinator does not answer, or nothing was answered yet.
pub(crate) fn tighten(
    coordinator: &Coordinator,
    tenants: &[Tenant],
    (rate, whole): (f64, Duration),
) -> anyhow::Result<Vec<Window>> {
    let used = coordinator.admin.get("/admin/v1/usage?by=tenant")?;
    let lines = used["usage"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = |field: &str| lines.iter().filter_map(|l| l[field].as_f64()).sum::<f64>();
    let each = sum("energy_j") / sum("queries");
    if !each.is_finite() || each <= 0.0 {
        bail!("nothing was answered before the first fault");
    }
    let mut windows = Vec::new();
    for (name, per, seconds) in [
        ("daily", "day", whole.as_secs_f64()),
        ("minutely", "minute", 60.0),
    ] {
        let share = tenants
            .iter()
            .find(|t| t.name == name)
            .map_or(0.0, |t| t.share);
        let joules = (TIGHT * each * rate * share * seconds).max(5.0 * each);
        let before = lines.iter().find(|l| l["key"] == name);
        let before = before.and_then(|l| l["energy_j"].as_f64()).unwrap_or(0.0);
        // A window counts what was charged in its time before it was set.
        let joules = joules + if per == "day" { before } else { 0.0 };
        let path = format!("/admin/v1/tenants/{name}");
        coordinator.admin.put(
            &path,
            &json!({"energy_windows": [{"joules": joules, "per": per}]}),
        )?;
        windows.push(Window {
            tenant: name,
            per,
            joules,
            set_after: before,
        });
    }
    Ok(windows)
}

/// Waits until nothing is under way.
///
/// # Errors
/// The coordinator does not answer, or is not done in time.
pub(crate) fn until_quiet(admin: &Api) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_quiet(&admin.get("/admin/v1/fleet")?) {
        if began.elapsed() > QUIET_WITHIN {
            bail!("work was still under way {QUIET_WITHIN:?} after the last request");
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn is_quiet(fleet: &Value) -> bool {
    let nodes = fleet["nodes"].as_array().into_iter().flatten();
    let mut experts = nodes.flat_map(|n| n["experts"].as_array().into_iter().flatten());
    fleet["queries"] == 0 && experts.all(|e| e["in_flight"] == 0)
}
