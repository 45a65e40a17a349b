//! Work that waits at one node while another comes free.

use std::collections::BTreeMap;

use moe2_engine::coordinator::{
    Config, Ending, EnergyWindow, Engine, Output, PlanLimits, QueryRecord, Reply, Span, Spending,
    TenantLimits,
};
use moe2_gate::{Gate, Topic};
use moe2_model::{
    Budgets, DeviceInfo, Event, ExpertId, ExpertName, ExpertState, NodeId, Query, QueryId, Seconds,
    Target, TenantId,
};
use moe2_wire::{FromAgent, PROTOCOL_VERSION};

use crate::support::{Bench, GEMMA, SMOL, Sent, device, done, offer, question, tenant};

fn named(name: &str) -> TenantId {
    TenantId::new(name).expect("a valid name")
}

fn of(tenant: TenantId) -> Query {
    Query {
        tenant,
        ..question("Hello, how are you?")
    }
}

fn at(node: &str, tenant: TenantId) -> Query {
    Query {
        target: Target::Expert(ExpertId {
            name: ExpertName::new(SMOL).expect("a valid name"),
            node: NodeId::new(node).expect("a valid name"),
        }),
        ..of(tenant)
    }
}

/// A tenant most of whose answers are to come within so long.
fn hurried(name: &str, seconds: f64) -> TenantLimits {
    TenantLimits {
        delay_p95: BTreeMap::from(Topic::ALL.map(|topic| (topic, Seconds::saturating(seconds)))),
        ..TenantLimits::unlimited(named(name))
    }
}

/// Two nodes with one place and one expert each, both at work: `a` in session 1, `b` in session 2.
struct Busy {
    bench: Bench,
    a: Sent,
    b: Sent,
}

fn busy(tenants: Vec<TenantLimits>) -> Busy {
    let mut bench = Bench::empty();
    let config = Config {
        plan: PlanLimits {
            tenants,
            ..PlanLimits::default()
        },
        records: true,
        ..Config::default()
    };
    bench.engine = Engine::new(config, Gate::builtin());
    bench.join(1, "a", SMOL);
    bench.join(2, "b", SMOL);
    bench.settle();
    bench.plan();
    let a = bench.ask_one(at("a", tenant()));
    let b = bench.ask_one(at("b", tenant()));
    Busy { bench, a, b }
}

impl Busy {
    /// Has one node come free while the other is at work, and says what begins there.
    fn ends(&mut self, at_b: bool) -> Option<Sent> {
        let ended = if at_b { self.b.clone() } else { self.a.clone() };
        self.bench.says(&ended, done(1.0));
        let mut sent = self.bench.sent();
        assert!(sent.len() <= 1, "there is one place: {sent:?}");
        let sent = sent.pop()?;
        assert_eq!(sent.session, ended.session, "it begins where a place is");
        *(if at_b { &mut self.b } else { &mut self.a }) = sent.clone();
        Some(sent)
    }

    /// Where a query waits, and how much of it there is.
    fn waiting(&self) -> [usize; 2] {
        let view = self.bench.engine.view(self.bench.now);
        [0, 1].map(|node| view.nodes[node].experts[0].waiting)
    }
}

fn query_of(bench: &Bench, sent: &Sent) -> QueryId {
    let query = bench.engine.query_of(sent.dispatch);
    query.expect("it is under way")
}

/// Exactly one piece of work has begun since this was last looked at, and there.
fn only_at(bench: &mut Bench, session: u64) {
    let sent = bench.sent();
    assert!(
        matches!(sent.as_slice(), [sent] if sent.session.0 == session),
        "{sent:?}"
    );
}

fn moves(bench: &Bench) -> usize {
    let moved = |o: &&Output| matches!(o, Output::Event(Event::Moved { .. }));
    bench.outputs.iter().filter(moved).count()
}

fn record(bench: &Bench, id: QueryId) -> QueryRecord {
    let found = bench.outputs.iter().find_map(|output| match output {
        Output::Ended(record) if record.query == id => Some(record.as_ref().clone()),
        _ => None,
    });
    found.expect("it has ended")
}

#[test]
fn work_that_waits_goes_to_the_node_that_comes_free() {
    let mut busy = busy(Vec::new());
    let first = busy.bench.ask(of(tenant()));
    let at_b = busy.waiting()[0] == 1;
    assert_eq!(busy.waiting().iter().sum::<usize>(), 1);
    let reserved = busy.bench.engine.account(&tenant()).reserved;
    // The other one, where nothing waits.
    let sent = busy.ends(at_b).expect("it takes over");
    assert_eq!(query_of(&busy.bench, &sent), first);
    assert_eq!((moves(&busy.bench), busy.waiting()), (1, [0, 0]));
    let account = busy.bench.engine.account(&tenant());
    assert!(
        account.reserved < reserved,
        "what it had reserved there is given back"
    );
    assert_eq!(account.spent.get(), 1.0, "and waiting has cost nothing");
    busy.bench.says(&sent, done(1.0));
    let others = if at_b { busy.a.clone() } else { busy.b.clone() };
    busy.bench.says(&others, done(1.0));
    assert_eq!(busy.bench.settled(), 3.0, "and nothing stays reserved");
    let answer = busy.bench.replies().into_iter().rev().nth(1);
    let Some(Reply::Finished(answer)) = answer else {
        unreachable!("it is answered: {answer:?}");
    };
    let best = &answer.explanation.candidates[0];
    assert_eq!(best.expert.to_string(), answer.model, "where it went");
    let record = record(&busy.bench, first);
    assert!(matches!(record.ending, Ending::Answered { .. }));
    assert_eq!(
        record.decisions.len(),
        2,
        "where it was put, and where it went"
    );
    for decision in &record.decisions {
        assert_eq!(decision.replay(), decision.candidates);
    }
    assert_eq!(record.participants.len(), 1, "nobody else has worked on it");
}

#[test]
fn who_names_a_node_waits_for_it() {
    let mut busy = busy(Vec::new());
    busy.bench.ask(at("a", tenant()));
    assert_eq!(busy.ends(true), None, "b stays free");
    assert_eq!((moves(&busy.bench), busy.waiting()), (0, [1, 0]));
    assert!(
        busy.bench.replies().len() == 1,
        "nothing is refused by looking"
    );
    busy.ends(false).expect("it has kept its place");
}

#[test]
fn the_most_pressing_goes_first_whoever_came_first() {
    let mut busy = busy(vec![hurried("lax", 60.0), hurried("tight", 20.0)]);
    let lax = busy.bench.ask(of(named("lax")));
    let tight = busy.bench.ask(of(named("tight")));
    assert_eq!(busy.waiting().iter().sum::<usize>(), 2);
    let first = busy.ends(false).expect("one begins");
    assert_eq!(query_of(&busy.bench, &first), tight);
    let second = busy.ends(true).expect("then the other");
    assert_eq!(query_of(&busy.bench, &second), lax);
}

/// Lets half a minute pass, so that nobody can say how much longer the work under way will take.
fn later(busy: &mut Busy) {
    busy.bench.live_all(30, &["a", "b"]);
}

#[test]
fn a_line_and_more_pressing_work_from_elsewhere_take_turns() {
    let lax = ["lax", "laxer"];
    let slow = lax.map(|name| hurried(name, 6_000.0));
    let mut busy = busy([hurried("tight", 600.0)].into_iter().chain(slow).collect());
    for n in 0..4 {
        busy.bench.ask(at("a", named(lax[n % 2])));
    }
    // That line is long, so these wait in the other.
    let tight: Vec<QueryId> = (0..2).map(|_| busy.bench.ask(of(named("tight")))).collect();
    assert_eq!(busy.waiting(), [4, 2]);
    later(&mut busy);
    let whose: Vec<bool> = (0..4)
        .map(|_| {
            let sent = busy.ends(false).expect("something begins");
            tight.contains(&query_of(&busy.bench, &sent))
        })
        .collect();
    assert_eq!(whose, [true, false, true, false]);
}

#[test]
fn what_waits_for_the_node_and_is_more_pressing_goes_first() {
    let mut busy = busy(vec![hurried("tight", 600.0), hurried("lax", 6_000.0)]);
    let own = busy.bench.ask(at("a", named("tight")));
    busy.bench.ask(at("a", named("tight")));
    let lax = busy.bench.ask(of(named("lax")));
    assert_eq!(busy.waiting(), [2, 1]);
    later(&mut busy);
    let first = busy.ends(false).expect("it begins");
    assert_eq!(query_of(&busy.bench, &first), own);
    let second = busy.ends(true).expect("it begins where it waits");
    assert_eq!(query_of(&busy.bench, &second), lax);
}

#[test]
fn work_from_elsewhere_counts_as_its_tenants_turn() {
    let mut busy = busy(Vec::new());
    let within = |seconds, query: Query| Query {
        budgets: Budgets {
            delay: Some(Seconds::saturating(seconds)),
            ..Budgets::default()
        },
        ..query
    };
    let own = [named("x"), named("y")].map(|tenant| {
        let query = within(6_000.0, at("a", tenant));
        busy.bench.ask(query)
    });
    let pressing = busy.bench.ask(within(600.0, of(named("x"))));
    assert_eq!(busy.waiting(), [2, 1]);
    later(&mut busy);
    let mut begins = || {
        let sent = busy.ends(false).expect("something begins");
        query_of(&busy.bench, &sent)
    };
    assert_eq!(begins(), pressing);
    assert_eq!([begins(), begins()], [own[1], own[0]], "x has had its turn");
}

#[test]
fn a_node_that_becomes_active_takes_over_what_waits() {
    let mut busy = busy(Vec::new());
    busy.bench.ask(of(tenant()));
    busy.bench.join(3, "c", SMOL);
    assert!(
        busy.bench.sent().is_empty(),
        "it is not in the active set yet"
    );
    busy.bench.settle();
    busy.bench.plan();
    only_at(&mut busy.bench, 3);
}

#[test]
fn a_node_whose_heartbeats_come_again_takes_over_what_waits() {
    let mut busy = busy(Vec::new());
    busy.bench.says(&busy.b.clone(), done(1.0));
    for _ in 0..4 {
        busy.bench.pass(std::time::Duration::from_millis(400));
        busy.bench.beat(1, (1, "a"));
    }
    busy.bench.ask(of(tenant()));
    assert_eq!(busy.waiting(), [1, 0], "b is under suspicion");
    busy.bench.beat(1, (2, "b"));
    only_at(&mut busy.bench, 2);
}

#[test]
fn the_other_answers_of_a_query_keep_it_where_it_is() {
    let mut busy = busy(Vec::new());
    busy.bench.join(3, "c", SMOL);
    busy.bench.settle();
    busy.bench.plan();
    let third = busy.bench.ask_one(of(tenant()));
    let fused = Query {
        mode: moe2_model::Mode::Fuse,
        max_experts: 2,
        ..of(tenant())
    };
    busy.bench.ask(fused);
    let waiting = busy.waiting();
    assert_eq!(waiting, [1, 1], "two are to answer");
    busy.bench.says(&third, done(1.0));
    assert_eq!((moves(&busy.bench), busy.waiting()), (0, waiting));
}

#[test]
fn a_place_for_another_expert_is_not_one_for_it() {
    let mut bench = Bench::empty();
    bench.join(1, "a", SMOL);
    let wide = DeviceInfo {
        parallel: 2,
        ..device()
    };
    bench.join_on(wide, 2, "b", SMOL);
    bench.settle();
    bench.plan();
    bench.ask_one(at("a", tenant()));
    bench.ask_one(at("b", tenant()));
    bench.ask(at("b", tenant()));
    bench.ask(of(tenant()));
    let name = ExpertName::new(SMOL).expect("a valid name");
    let state = ExpertState::Ready;
    bench.agent(2, "b", FromAgent::Expert { name, state });
    assert!(bench.sent().is_empty(), "one at a time is what it can");
    assert_eq!(moves(&bench), 0);
}

#[test]
fn a_place_that_the_line_cannot_use_is_for_others() {
    let mut bench = Bench::empty();
    let wide = DeviceInfo {
        parallel: 2,
        ..device()
    };
    let experts = [SMOL, GEMMA].map(|name| (offer(name), ExpertState::Ready));
    let hello = FromAgent::Hello {
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        software: "test".to_owned(),
        device: wide,
        experts: experts.into(),
    };
    bench.agent(1, "b", hello);
    bench.join(2, "a", GEMMA);
    bench.settle();
    bench.plan();
    bench.ask_one(at("b", tenant()));
    let on = |node, text: &str| Query {
        target: Target::Expert(ExpertId {
            name: ExpertName::new(GEMMA).expect("a valid name"),
            node: NodeId::new(node).expect("a valid name"),
        }),
        ..question(text)
    };
    let gemma = bench.ask_one(on("b", "Hello, how are you?"));
    bench.ask_one(on("a", "Hello, how are you?"));
    let lasting = Query {
        budgets: Budgets {
            delay: Some(Seconds::saturating(6_000.0)),
            ..Budgets::default()
        },
        ..at("b", tenant())
    };
    // Two in a line whose expert is at work; the other place is free when its work ends.
    bench.ask(at("b", tenant()));
    bench.ask(lasting);
    let any = Query {
        target: Target::Model(ExpertName::new(GEMMA).expect("a valid name")),
        ..of(tenant())
    };
    bench.ask(any);
    assert!(bench.sent().is_empty());
    bench.says(&gemma, done(1.0));
    let sent = bench.sent();
    assert!(
        matches!(sent.as_slice(), [sent] if sent.expert == GEMMA),
        "{sent:?}"
    );
}

#[test]
fn who_reads_along_is_pressing_by_the_first_token() {
    let reads = TenantLimits {
        first_token_p95: BTreeMap::from(
            Topic::ALL.map(|topic| (topic, Seconds::saturating(600.0))),
        ),
        ..TenantLimits::unlimited(named("reads"))
    };
    let mut busy = busy(vec![hurried("lax", 1_000.0), reads]);
    busy.bench.ask(of(named("lax")));
    let reads = busy.bench.ask(Query {
        stream: true,
        ..of(named("reads"))
    });
    let first = busy.ends(false).expect("one begins");
    assert_eq!(query_of(&busy.bench, &first), reads);
}

/// What waits since the last minute has its joules from that minute: a move would take them from this one.
#[test]
fn work_that_waits_over_the_turn_of_a_minute_overdraws_no_window_when_it_moves() {
    let bound = {
        let mut free = busy(Vec::new());
        let ask = free.bench.ask(at("a", named("thrifty")));
        let account = free.bench.engine.account(&named("thrifty"));
        assert!(free.bench.sent().is_empty(), "{ask:?} waits");
        account.reserved
    };
    for (windows, moved) in [(1.5, 0), (2.5, 1)] {
        let limits = TenantLimits {
            spending: Spending {
                energy_windows: vec![EnergyWindow {
                    joules: bound * windows,
                    per: Span::Minute,
                    rolling: false,
                    soft: false,
                }],
                ..Spending::default()
            },
            ..TenantLimits::unlimited(named("thrifty"))
        };
        let mut busy = busy(vec![limits]);
        busy.bench.ask(of(named("thrifty")));
        assert_eq!(busy.waiting().iter().sum::<usize>(), 1);
        for _ in 0..13 {
            busy.bench.live_all(5, &["a", "b"]);
            let (a, b) = (busy.a.clone(), busy.b.clone());
            busy.bench.text(&a, "a ");
            busy.bench.text(&b, "b ");
        }
        assert_eq!(busy.bench.sent(), [], "it still waits");
        // This minute's joules go to another query, which waits for one node and cannot move.
        let waits_at_a = busy.waiting()[0] == 1;
        let node = if waits_at_a { "a" } else { "b" };
        busy.bench.ask(at(node, named("thrifty")));
        assert_eq!(busy.waiting().iter().sum::<usize>(), 2);
        busy.ends(waits_at_a);
        assert_eq!(
            moves(&busy.bench),
            moved,
            "with {windows} times what it may take"
        );
    }
}
