//! `moe2 plan`: the active set, its certificate, and what would change it.

use anyhow::bail;
use moe2_engine::coordinator::{PlanView, PlannedExpert};
use moe2_model::TenantId;
use moe2_solve::{AdmissionRecord, number};

use crate::client::{Credential, Where};
use crate::table::{Table, shorten};
use crate::{Infeasible, out, solve};

/// Widest name and reason shown.
const NAME: usize = 48;
const WHY: usize = 90;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 plan\n  moe2 plan --explain\n  moe2 plan --instance > plan.json && moe2 solve plan.json"
)]
pub(crate) struct Args {
    /// Also say what would have to change to admit each dropped expert; takes further exact solves.
    #[arg(long)]
    explain: bool,
    /// Print the selection problem itself, for `moe2 solve`.
    #[arg(long, conflicts_with = "explain")]
    instance: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let client = args.place.client(Credential::Admin)?;
    if args.instance {
        let instance = client.get("/admin/v1/plan/instance")?;
        out::json(&instance)?;
        return Ok(());
    }
    let path = if args.explain {
        "/admin/v1/plan?explain=true"
    } else {
        "/admin/v1/plan"
    };
    let plan = client.get(path)?;
    if args.json {
        out::json(&plan)?;
        return infeasible(&serde_json::from_value(plan)?);
    }
    let plan: PlanView = serde_json::from_value(plan)?;
    out::data(&render(&plan, args.explain));
    infeasible(&plan)
}

/// A plan that no set keeps is exit code 3, as it is for `moe2 solve`.
fn infeasible(plan: &PlanView) -> anyhow::Result<()> {
    match &plan.infeasible {
        Some(reason) => bail!(Infeasible(reason.clone())),
        None => Ok(()),
    }
}

fn render(plan: &PlanView, explain: bool) -> String {
    let mut parts = vec![certificate(plan)];
    if plan.superseded {
        parts.push("The fleet has changed since: a newer problem is being solved.".to_owned());
    }
    if !plan.unserved.is_empty() {
        let who: Vec<&str> = plan.unserved.iter().map(TenantId::as_str).collect();
        parts.push(format!(
            "No expert keeps the budgets of {}: their queries are refused.",
            who.join(", ")
        ));
    }
    if let Some(reason) = &plan.infeasible {
        let active: Vec<String> = plan.active.iter().map(ToString::to_string).collect();
        parts.push(if active.is_empty() {
            format!("{reason}\nNo expert is active.")
        } else {
            format!("{reason}\nStill active from before: {}", active.join(", "))
        });
        return parts.join("\n\n");
    }
    parts.push(experts(&plan.experts));
    if !plan.constraints.is_empty() {
        parts.push(constraints(plan));
    }
    if explain {
        parts.push(admissions(&plan.admissions));
    }
    parts.join("\n\n")
}

fn certificate(plan: &PlanView) -> String {
    let proof = match plan.proof {
        Some(1) => "proof of 1 case verified".to_owned(),
        Some(cases) => format!("proof of {cases} cases verified"),
        None => "checked, not proven".to_owned(),
    };
    format!(
        "plan {}: {}, value {:.4}, no set is worth more than {:.4} (gap {:.4} %)\n{} in {:.4} s, {} nodes; {}; {} prompts, {} of them asked, {} expert{} each",
        plan.generation,
        plan.status,
        plan.objective,
        plan.bound,
        100.0 * plan.gap,
        plan.solver,
        plan.took.get(),
        plan.nodes,
        proof,
        plan.prompts,
        plan.asked,
        plan.experts_per_query,
        if plan.experts_per_query == 1 { "" } else { "s" },
    )
}

fn experts(experts: &[PlannedExpert]) -> String {
    let mut table = Table::new(&["EXPERT", "", "ALONE", "ONLY HERE", "WHY NOT"]);
    let mut sorted: Vec<&PlannedExpert> = experts.iter().collect();
    sorted.sort_by_key(|e| (!e.chosen, !e.spare, e.expert.clone()));
    for expert in sorted {
        let state = match (expert.chosen, expert.spare) {
            (true, _) => "chosen",
            (false, true) => "spare",
            (false, false) => "dropped",
        };
        let only = if expert.chosen {
            format!("{:.4}", expert.only_here)
        } else {
            String::new()
        };
        table.row([
            shorten(&expert.expert.to_string(), NAME),
            state.to_owned(),
            format!("{:.4}", expert.alone),
            only,
            shorten(expert.why.as_deref().unwrap_or_default(), WHY),
        ]);
    }
    table.to_string()
}

fn constraints(plan: &PlanView) -> String {
    let mut table = Table::new(&["LIMIT ON", "KIND", "USED", "LIMIT", ""]);
    for row in &plan.constraints {
        table.row([
            shorten(&row.name, NAME),
            row.kind.clone(),
            number(row.used),
            number(row.limit),
            if row.binding { "binding" } else { "" }.to_owned(),
        ]);
    }
    table.to_string()
}

fn admissions(admissions: &[AdmissionRecord]) -> String {
    if admissions.is_empty() {
        return "No dropped expert would change anything: each is dominated or adds nothing."
            .to_owned();
    }
    solve::admissions(admissions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moe2_model::Seconds;
    use moe2_solve::RaiseRecord;

    #[test]
    fn a_plan_reads_as_a_certificate_with_reasons_and_ways_in() {
        let expert = |name: &str, chosen, why: Option<&str>| PlannedExpert {
            expert: name.parse().expect("a valid id"),
            chosen,
            spare: false,
            alone: 0.5,
            only_here: 0.1,
            why: why.map(str::to_owned),
        };
        let plan = PlanView {
            generation: 3,
            status: "optimal".to_owned(),
            objective: 0.61,
            bound: 0.61,
            gap: 0.0,
            solver: "bnb".to_owned(),
            nodes: 1,
            proof: Some(3),
            took: Seconds::saturating(0.002),
            experts_per_query: 1,
            prompts: 4,
            asked: 0,
            infeasible: None,
            superseded: false,
            active: Vec::new(),
            unserved: Vec::new(),
            experts: vec![
                expert("big@b", false, Some("too large alone: standing_w 9 > 5")),
                expert("small@a", true, None),
            ],
            constraints: vec![],
            admissions: vec![AdmissionRecord {
                expert: "big@b".to_owned(),
                cost: None,
                raise: Some(RaiseRecord {
                    constraint: "standing_w".to_owned(),
                    from: 5.0,
                    to: 9.004,
                }),
                unfinished: false,
            }],
        };
        let text = render(&plan, true);
        assert!(
            text.contains("no set is worth more than 0.6100 (gap 0.0000 %)"),
            "{text}"
        );
        let at = |needle: &str| {
            text.find(needle)
                .unwrap_or_else(|| panic!("{needle}: {text}"))
        };
        assert!(at("small@a") < at("big@b"), "the chosen come first: {text}");
        assert!(
            text.contains("does not fit     standing_w  9.004  5"),
            "{text}"
        );
    }
}
