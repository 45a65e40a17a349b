//! The active set: what is asked of the solver, and what becomes of its answer.

use std::time::Duration;

use moe2_engine::coordinator::{Config, Input, Live, Output, PlanLimits, TenantLimits};
use moe2_gate::Topic;
use moe2_model::{
    Event, ExpertId, ExpertState, Joules, Mode, Query, RefusalKind, Seconds, SessionId, Target,
    Watts,
};
use moe2_solve::{Constraint, Kind};
use moe2_wire::FromAgent;

use crate::support::{Bench, GEMMA, QWEN, SMOL, device, question, tenant};

fn limits() -> PlanLimits {
    PlanLimits {
        experts_per_query: Some(2),
        experts: Some(2),
        standing: Some(Watts::saturating(11.0)),
        energy: Some(Joules::saturating(1e4)),
        delay: [
            (Topic::Code, Seconds::saturating(1e3)),
            (Topic::Choice, Seconds::ZERO),
        ]
        .into(),
        ..PlanLimits::default()
    }
}

fn row<'p>(rows: &'p [Constraint], name: &str) -> &'p Constraint {
    let names: Vec<&String> = rows.iter().map(|row| &row.name).collect();
    let found = rows.iter().find(|row| row.name == name);
    assert!(found.is_some(), "{name} is not among {names:?}");
    found.expect("it was just found")
}

#[test]
fn devices_and_limits_become_rows_of_their_kinds() {
    let mut bench = Bench::planning(limits()).joined();
    let request = bench.problem().expect("a plan is asked for");
    assert_eq!(request.problem.k(), 2);
    assert_eq!(
        request.problem.experts(),
        [
            "gemma-3-270m@gemma",
            "qwen2.5-coder-0.5b-instruct@qwen",
            "smollm2-135m-instruct@smol"
        ]
    );
    let rows = request.problem.constraints();
    for node in ["smol", "gemma", "qwen"] {
        let memory = row(rows, &format!("memory_bytes/{node}"));
        assert_eq!(memory.limit, 8.0 * 1024f64.powi(3));
        let own = (0..3).filter(|&n| memory.cost(n) > 0.0).count();
        assert_eq!(
            (memory.kind_name(), own),
            ("sum", 1),
            "only its own expert counts"
        );
    }
    let standing = row(rows, "standing_w");
    assert_eq!((standing.kind_name(), standing.limit), ("sum", 11.0));
    // Each node idles at 5 W and hosts one expert.
    assert_eq!((0..3).map(|n| standing.cost(n)).sum::<f64>(), 15.0);
    assert_eq!(row(rows, "delay_s/code").kind_name(), "max");
    assert!(matches!(
        row(rows, "prompt_energy_j").kind,
        Kind::TopSum { top: 2, .. }
    ));
    assert_eq!(row(rows, "experts").limit, 2.0);
    // Nobody asks for choices, so no expert can be too slow for them.
    assert!(rows.iter().all(|row| row.name != "delay_s/choice"));
}

#[test]
fn with_one_expert_a_query_its_energy_is_a_maximum() {
    let mut bench = Bench::planning(PlanLimits {
        experts_per_query: Some(1),
        ..limits()
    })
    .joined();
    let rows = bench.problem().expect("a plan is asked for");
    assert_eq!(
        row(rows.problem.constraints(), "prompt_energy_j").kind_name(),
        "max"
    );
}

#[test]
fn the_active_set_keeps_the_limits_and_the_plan_says_why_an_expert_is_out() {
    let mut bench = Bench::planning(limits()).joined();
    bench.plan();
    assert_eq!(bench.active().len(), 2, "{:?}", bench.active());
    let plan = bench.engine.plan().expect("it was applied").clone();
    let view = plan.view();
    assert_eq!((view.status.as_str(), view.gap), ("optimal", 0.0));
    assert!(view.constraints.iter().all(|row| row.used <= row.limit));
    let out: Vec<_> = view
        .experts
        .iter()
        .filter(|e| !e.chosen && !e.spare)
        .collect();
    assert_eq!(out.len(), 1);
    let why = out[0].why.as_deref().expect("there is a reason");
    assert!(why.starts_with("would add 0."), "{why}");
    let admissions = plan.admissions(&mut || false).expect("it solves");
    assert_eq!(admissions[0].expert, out[0].expert.to_string());
    let cost = admissions[0].cost.expect("it fits alone");
    assert!(cost > 0.0 && cost < view.objective, "{cost}");
    // Two limits keep it out, so raising one is not enough.
    assert_eq!(admissions[0].raise, None);
}

#[test]
fn a_spare_that_adds_nothing_stays_active_while_it_fits() {
    let mut bench = Bench::empty();
    bench.join(1, "a", SMOL);
    bench.join(2, "b", SMOL);
    bench.plan();
    assert_eq!(bench.active().len(), 2);
    let view = bench.engine.plan().expect("it was applied").view();
    let states: Vec<_> = view.experts.iter().map(|e| (e.chosen, e.spare)).collect();
    assert_eq!(states, [(true, false), (false, true)]);
}

fn events(bench: &Bench) -> impl Iterator<Item = &Event> {
    bench.outputs.iter().filter_map(|output| match output {
        Output::Event(event) => Some(event),
        _ => None,
    })
}

#[test]
fn limits_that_nobody_keeps_let_nobody_in_and_say_so() {
    let mut bench = Bench::planning(PlanLimits {
        standing: Some(Watts::saturating(1.0)),
        ..PlanLimits::default()
    })
    .joined();
    assert!(bench.active().is_empty(), "{:?}", bench.active());
    bench.plan();
    assert!(bench.active().is_empty(), "{:?}", bench.active());
    let view = bench.engine.plan().expect("it is shown").view();
    let reason = view.infeasible.expect("it is said");
    assert!(
        reason.contains("standing_w needs a limit of at least 5 (is 1)"),
        "{reason}"
    );
    let said = events(&bench).any(|event| {
        matches!(
            event,
            Event::Planned {
                infeasible: Some(_),
                ..
            }
        )
    });
    assert!(said, "an event tells the log and the metrics");
    bench.ask(question("Hello"));
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::NoExpert);
    assert!(
        refusal.message.contains("active set"),
        "{}",
        refusal.message
    );
}

#[test]
fn limits_hold_while_the_solver_works() {
    let two = PlanLimits {
        standing: Some(Watts::saturating(11.0)),
        ..PlanLimits::default()
    };
    let mut bench = Bench::planning(two);
    bench.join(1, "smol", SMOL);
    assert_eq!(bench.active(), [SMOL], "who fits is active at once");
    bench.join(2, "gemma", GEMMA);
    bench.join(3, "qwen", QWEN);
    bench.settle();
    assert_eq!(bench.active().len(), 2, "a third idles at 5 W too many");
}

#[test]
fn what_waits_for_an_expert_that_is_active_no_longer_goes_to_one_that_is() {
    let mut bench = Bench::empty();
    bench.join(1, "a", SMOL);
    bench.join(2, "b", SMOL);
    bench.plan();
    for _ in 0..8 {
        bench.ask(question("Hello"));
    }
    for node in ["a", "b"] {
        let named = ExpertId {
            name: SMOL.parse().expect("a valid name"),
            node: node.parse().expect("a valid name"),
        };
        bench.ask(Query {
            target: Target::Expert(named),
            ..question("Hello")
        });
    }
    let waiting = |bench: &Bench| -> Vec<(bool, usize)> {
        let nodes = bench.engine.view(bench.now).nodes.into_iter();
        let experts = nodes.flat_map(|node| node.experts);
        experts.map(|e| (e.selected, e.waiting)).collect()
    };
    let before = waiting(&bench);
    assert!(before.iter().all(|e| e.0 && e.1 > 1), "{before:?}");
    let one = PlanLimits {
        experts: Some(1),
        ..PlanLimits::default()
    };
    bench.feed(Input::Settings(Box::new(Live {
        plan: one,
        ..Config::default().live()
    })));
    bench.plan();
    let mut after = waiting(&bench);
    after.sort_unstable();
    // Of ten, two are under way; the one that names the expert left out still waits for it.
    assert_eq!(after, [(false, 1), (true, 7)]);
}

#[test]
fn a_fleet_that_changes_without_end_is_planned_at_a_pace() {
    let mut bench = Bench::with_fleet();
    bench.pass(Duration::from_millis(900));
    bench.outputs.clear();
    for sequence in 0..50 {
        bench.join(1, "smol", SMOL);
        bench.join(100 + sequence, "other", GEMMA);
    }
    let asked = |bench: &Bench| {
        let plans = bench
            .outputs
            .iter()
            .filter(|o| matches!(o, Output::Plan(_)));
        plans.count()
    };
    assert_eq!(asked(&bench), 8);
    bench.pass(Duration::from_millis(100));
    assert_eq!(asked(&bench), 9, "and one with what came since");
    assert_eq!(bench.active().len(), 4);
}

#[test]
fn an_answer_that_comes_too_late_is_used_if_it_still_keeps_the_limits_and_is_better() {
    let one = PlanLimits {
        experts: Some(1),
        ..PlanLimits::default()
    };
    let mut bench = Bench::planning(one).joined();
    let old = bench.problem().expect("a plan is asked for");
    assert_eq!(bench.active(), [SMOL], "the first that came");
    bench.join(4, "spare", SMOL);
    bench.settle();
    bench.planned(&old);
    assert_ne!(bench.active(), [SMOL], "a better one is known");
    assert!(
        bench.engine.plan().is_none(),
        "but it is no plan for the fleet as it is"
    );
}

#[test]
fn what_an_agent_states_about_itself_stops_no_planning() {
    let mut bench = Bench::planning(PlanLimits {
        standing: Some(Watts::saturating(11.0)),
        ..PlanLimits::default()
    });
    bench.join(1, "smol", SMOL);
    let mut huge = device();
    huge.idle_power = Watts::saturating(1e305);
    bench.join_on(huge, 2, "huge", QWEN);
    bench.plan();
    assert_eq!(bench.active(), [SMOL]);
}

#[test]
fn a_solver_that_failed_is_counted_and_asked_again_at_the_next_review() {
    let mut bench = Bench::with_fleet();
    let request = bench.problem().expect("a plan is asked for");
    bench.feed(Input::PlanFailed {
        generation: request.generation,
        reason: "the thread panicked".to_owned(),
    });
    assert!(events(&bench).any(|event| matches!(event, Event::PlanFailed { .. })));
    for _ in 0..130 {
        for (session, node) in [(1, "smol"), (2, "gemma"), (3, "qwen")] {
            bench.agent(
                session,
                node,
                FromAgent::Heartbeat {
                    sequence: 0,
                    standing: moe2_model::Figure::NONE,
                    clock: None,
                },
            );
        }
        bench.now = bench.now + Duration::from_millis(500);
        bench.feed(Input::Tick);
    }
    assert!(bench.problem().is_some(), "it is asked again");
}

#[test]
fn a_proof_belongs_to_the_plan_it_is_of() {
    let mut bench = Bench::with_fleet();
    let request = bench.plan();
    let proof = |bench: &Bench| bench.engine.plan().expect("it was applied").proof;
    bench.feed(Input::Proven {
        generation: request.generation + 1,
        cases: 9,
    });
    assert_eq!(proof(&bench), None);
    bench.feed(Input::Proven {
        generation: request.generation,
        cases: 3,
    });
    assert_eq!(proof(&bench), Some(3));
}

#[test]
fn a_limit_on_a_prompts_energy_is_a_limit_on_how_many_answer_it() {
    let limited = PlanLimits {
        energy: Some(Joules::saturating(1e4)),
        ..PlanLimits::default()
    };
    let mut bench = Bench::planning(limited).joined();
    bench.plan();
    let mut query = question("Hello");
    query.mode = Mode::Fuse;
    query.max_experts = 3;
    bench.ask(query);
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn a_tenant_whose_budgets_nobody_keeps_is_named() {
    let poor = TenantLimits {
        energy: Some(Joules::saturating(1e-9)),
        ..TenantLimits::unlimited(tenant())
    };
    let mut bench = Bench::planning(PlanLimits {
        tenants: vec![poor],
        ..PlanLimits::default()
    })
    .joined();
    bench.plan();
    let view = bench.engine.plan().expect("it was applied").view();
    assert_eq!(view.unserved, [tenant()]);
}

#[test]
fn a_change_of_the_fleet_asks_for_a_new_plan_and_an_answer_to_the_old_one_is_dropped() {
    let mut bench = Bench::with_fleet();
    let old = bench.plan();
    assert!(bench.problem().is_none());
    bench.agent(
        1,
        "smol",
        FromAgent::Expert {
            name: SMOL.parse().expect("a valid name"),
            state: ExpertState::Failed {
                reason: "out of memory".to_owned(),
            },
        },
    );
    let new = bench.problem().expect("an expert failed");
    assert_eq!((old.experts.len(), new.experts.len()), (3, 2));
    bench.planned(&old);
    let shown = bench
        .engine
        .plan()
        .expect("the first plan")
        .request
        .generation;
    assert_eq!(
        shown, old.generation,
        "the answer to a problem that is over is not shown"
    );
    bench.planned(&new);
    assert_eq!(
        bench.engine.plan().expect("the second").request.generation,
        new.generation
    );
    bench.agent(2, "gemma", FromAgent::Draining);
    assert_eq!(bench.problem().expect("a node drains").experts.len(), 1);
    bench.feed(Input::AgentLost {
        session: SessionId(3),
        reason: "gone".to_owned(),
    });
    assert!(bench.problem().is_none(), "nobody is left to choose from");
}

#[test]
fn a_review_asks_again_only_when_the_problem_has_become_another_one() {
    let mut bench = Bench::with_fleet();
    bench.plan();
    let alive = |bench: &mut Bench| {
        for _ in 0..130 {
            for (session, node) in [(1, "smol"), (2, "gemma"), (3, "qwen")] {
                bench.agent(
                    session,
                    node,
                    FromAgent::Heartbeat {
                        sequence: 1,
                        standing: moe2_model::Figure::NONE,
                        clock: None,
                    },
                );
            }
            bench.pass(Duration::from_millis(500));
        }
    };
    alive(&mut bench);
    assert!(bench.problem().is_none(), "nothing changed in a minute");
    for _ in 0..40 {
        bench.ask(question("Write a Python function that sorts a list."));
    }
    alive(&mut bench);
    let request = bench.problem().expect("the mix of queries is another one");
    assert_eq!(request.asked, 40);
    // Who is good at code is worth more now.
    let worth = |n: usize| -> f64 {
        let column = request.problem.column(n).zip(request.problem.weights());
        column.map(|(u, w)| u * w).sum()
    };
    let best = (0..3).max_by(|&a, &b| worth(a).total_cmp(&worth(b)));
    assert_eq!(best.map(|n| request.experts[n].name.as_str()), Some(QWEN));
}

fn budgeted(delay: f64, energy: f64) -> PlanLimits {
    PlanLimits {
        tenants: vec![TenantLimits {
            energy: Some(Joules::saturating(energy)),
            delay: [(Topic::Chat, Seconds::saturating(delay))].into(),
            ..TenantLimits::unlimited(tenant())
        }],
        ..PlanLimits::default()
    }
}

#[test]
fn a_tenants_budgets_hold_for_its_queries_and_a_request_can_only_tighten_them() {
    let mut bench = Bench::planning(budgeted(1e-3, 1e6)).joined();
    bench.plan();
    let mut query = question("Hello, how are you today?");
    query.budgets.delay = Some(Seconds::saturating(100.0));
    bench.ask(query);
    let (_, refusal) = bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::BudgetInfeasible);
    // Another topic has no budget.
    assert_eq!(
        bench.ask_one(question("Write a Python function.")).expert,
        QWEN
    );
    let mut bench = Bench::planning(budgeted(1e3, 1e6)).joined();
    let mut query = question("Hello, how are you today?");
    query.budgets.delay = Some(Seconds::saturating(1e-3));
    bench.ask(query);
    assert_eq!(bench.refusal().1.kind, RefusalKind::BudgetInfeasible);
}

#[test]
fn an_expert_that_breaks_a_tenants_budget_is_worth_nothing_to_it() {
    let mut bench = Bench::planning(budgeted(1e-3, 1e6)).joined();
    let request = bench.problem().expect("a plan is asked for");
    let rows = 0..request.problem.row_count();
    let empty = rows
        .filter(|&x| request.problem.row(x).iter().all(|u| *u == 0.0))
        .count();
    assert_eq!((empty, request.problem.row_count()), (1, 4), "chat only");
    let mut bench = Bench::planning(budgeted(1e3, 0.0)).joined();
    let request = bench.problem().expect("a plan is asked for");
    let all = (0..request.problem.row_count()).flat_map(|x| request.problem.row(x).to_vec());
    assert_eq!(all.sum::<f64>(), 0.0, "no expert answers for nothing");
}

#[test]
fn a_heavier_tenant_decides_what_the_set_is_good_at() {
    let tenants = |weight: f64| PlanLimits {
        experts: Some(1),
        tenants: vec![
            TenantLimits {
                weight,
                ..TenantLimits::unlimited(tenant())
            },
            TenantLimits::unlimited("other".parse().expect("a valid name")),
        ],
        ..PlanLimits::default()
    };
    let chosen = |weight: f64| {
        let mut bench = Bench::planning(tenants(weight)).joined();
        for _ in 0..60 {
            bench.ask(question("Write a Python function that sorts a list."));
            let mut other = question("Hello! How are you today?");
            other.tenant = "other".parse().expect("a valid name");
            bench.ask(other);
        }
        bench.join(4, "again", GEMMA);
        bench.plan();
        bench.active()
    };
    assert_eq!(chosen(100.0), [QWEN]);
    assert_eq!(chosen(0.0), [SMOL]);
}
