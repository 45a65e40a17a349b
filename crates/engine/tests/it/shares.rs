//! A tenant that has had more than its share of alike machines, and others that keep theirs.

use moe2_engine::coordinator::Input;
use moe2_model::{
    Budgets, ExpertId, ExpertName, NodeId, Query, QueryId, RefusalKind, Seconds, Target, TenantId,
    Time,
};

use moe2_wire::FromAgent;

use crate::support::{Bench, SMOL, Sent, done, question};

const NODES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn of(tenant: &str) -> Query {
    Query {
        tenant: TenantId::new(tenant).expect("a valid name"),
        ..question("Hello, how are you?")
    }
}

fn at(node: &str) -> Target {
    Target::Expert(ExpertId {
        name: ExpertName::new(SMOL).expect("a valid name"),
        node: NodeId::new(node).expect("a valid name"),
    })
}

fn quick(tenant: &str, seconds: f64) -> Query {
    Query {
        budgets: Budgets {
            delay: Some(Seconds::saturating(seconds)),
            ..Budgets::default()
        },
        ..of(tenant)
    }
}

/// Six nodes and four tenants: `flood` has three queries under way at all times, and three others one each, until
/// `flood` has had more than its share lately and is held to two places.
struct Scene {
    bench: Bench,
    /// Its two that are at work.
    flood: Vec<Sent>,
    /// Its third, that waits.
    waits: QueryId,
    /// The node that is free.
    free: &'static str,
}

fn scene() -> Scene {
    let mut bench = Bench::empty();
    for (session, node) in (1..).zip(NODES.into_iter().chain(["leaving"])) {
        bench.join(session, node, SMOL);
    }
    bench.settle();
    bench.plan();
    // Its place counts for nothing.
    bench.agent(7, "leaving", FromAgent::Draining);
    let names = ["x", "y", "z", "flood", "flood", "flood"];
    let mut sent: Vec<Sent> = names.iter().map(|name| bench.ask_one(of(name))).collect();
    for _ in 0..120 {
        bench.live_all(5, &NODES);
        for n in 0..names.len() {
            bench.says(&sent[n], done(1.0));
            let asked = bench.ask(of(names[n]));
            match bench.sent().pop() {
                Some(begins) => sent[n] = begins,
                None => {
                    let free = NODES[usize::try_from(sent[n].session.0).expect("small") - 1];
                    sent.remove(n);
                    bench.replies();
                    return Scene {
                        bench,
                        flood: sent.split_off(3),
                        waits: asked,
                        free,
                    };
                }
            }
        }
    }
    unreachable!("three of six are more than a quarter and a half of that");
}

impl Scene {
    /// What begins when some of the work under way has ended.
    fn ends(&mut self, sent: &Sent) -> Vec<QueryId> {
        self.bench.says(sent, done(1.0));
        self.begins()
    }

    fn begins(&mut self) -> Vec<QueryId> {
        let sent = self.bench.sent();
        let query = |sent: &Sent| self.bench.engine.query_of(sent.dispatch);
        sent.iter().filter_map(query).collect()
    }
}

#[test]
fn who_had_too_much_waits_although_a_machine_is_free_and_others_find_it() {
    let mut scene = scene();
    let passed = scene.bench.now.seconds_since(Time::ZERO).get();
    assert!(passed > 60.0, "a burst is not held: {passed} s");
    assert_eq!(scene.flood.len(), 2);
    let theirs = scene.bench.ask(of("x"));
    assert_eq!(scene.begins(), [theirs], "the place is kept for the others");
    let first = scene.flood[0].clone();
    assert_eq!(scene.ends(&first), [scene.waits], "its own are left to it");
}

#[test]
fn what_waits_elsewhere_is_not_taken_over_by_a_place_that_is_kept_for_others() {
    let mut scene = scene();
    let theirs = scene.bench.ask_one(of("x"));
    scene.bench.ask(of("flood"));
    assert_eq!(scene.ends(&theirs), []);
    let others = scene.bench.ask(of("z"));
    assert_eq!(scene.begins(), [others]);
}

#[test]
fn what_waits_for_a_free_node_begins_there_when_its_tenant_has_a_place_again() {
    let mut scene = scene();
    let named = Query {
        target: at(scene.free),
        ..of("flood")
    };
    let named = scene.bench.ask(named);
    assert_eq!(scene.begins(), []);
    let [first, second] = [0, 1].map(|n| scene.flood[n].clone());
    assert_eq!(scene.ends(&first), [scene.waits]);
    let begins = scene.ends(&second);
    assert_eq!(begins, [named], "another node's work has ended");
}

#[test]
fn a_forecast_counts_the_wait_for_ones_own_places() {
    let mut scene = scene();
    let query = scene.waits;
    scene.bench.feed(Input::ClientGone { query });
    scene.bench.ask(quick("y", 1e-3));
    let (_, refusal) = scene.bench.refusal();
    let alone = refusal.smallest.delay.expect("delay is the reason").get();
    scene.bench.ask(quick("flood", alone * 1.01));
    let (_, refusal) = scene.bench.refusal();
    assert_eq!(refusal.kind, RefusalKind::BudgetInfeasible);
    let smallest = refusal.smallest.delay.expect("delay is the reason");
    assert!(smallest.get() > alone * 1.01, "{smallest:?}");
    let theirs = scene.bench.ask(quick("y", alone * 1.01));
    assert_eq!(scene.begins(), [theirs]);
}
