//! A thousand clients against a window for exactly a hundred answers, in many orders of events.
//!
//! Forecasts are of the engine, but the expert answers as always, so that after a while an answer is forecast
//! to take what it takes: how many fit the window is then a number, not a bound.

use std::collections::VecDeque;
use std::time::Duration;

use moe2_engine::coordinator::{
    EnergyWindow, Output, PlanLimits, Reply, Span, Spending, TenantLimits,
};
use moe2_model::{
    DeviceInfo, ExpertOffer, Figure, Joules, Query, QueryId, RefusalKind, Rng, TenantId,
};
use moe2_wire::FromAgent;

use crate::support::{Bench, SMOL, Sent, device, done, offer, question, tenant};

const SEEDS: u64 = 100;
const CLIENTS: usize = 1_000;
const FIT: usize = 100;
/// What every answer takes, in joules.
const ANSWER: f64 = 1.0;
/// What is forecast is this near to it once the expert has been asked [`BEFORE`] times, and the window has so
/// much to spare: far less than one more answer.
const NEAR: f64 = 1e-3;
const BEFORE: usize = 200;
/// Answers that the expert makes at a time, so that they end in any order.
const PARALLEL: u32 = 8;

struct Crowd {
    bench: Bench,
    rng: Rng,
    /// Told to try again.
    again: Vec<QueryId>,
    /// At the expert.
    sent: Vec<Sent>,
    answered: usize,
    /// Told that there is nothing left.
    told: usize,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let limit = ANSWER * (FIT as f64 + 2.0 * NEAR * FIT as f64);
        let spending = Spending {
            energy_windows: vec![EnergyWindow {
                joules: Joules::saturating(limit),
                per: Span::Day,
                rolling: false,
                soft: false,
            }],
            ..Spending::default()
        };
        let limits = TenantLimits {
            spending,
            ..TenantLimits::unlimited(tenant())
        };
        let mut bench = Bench::planning(PlanLimits {
            tenants: vec![limits],
            ..PlanLimits::default()
        });
        let device = DeviceInfo {
            parallel: PARALLEL,
            ..device()
        };
        let offer = ExpertOffer {
            slots: PARALLEL,
            load: None,
            ..offer(SMOL)
        };
        bench.hello((1, "smol"), device, offer);
        bench.settle();
        for _ in 0..BEFORE {
            let other = TenantId::new("other").expect("a valid name");
            let sent = bench.ask_one(Query {
                tenant: other,
                ..question("Hello, how are you?")
            });
            bench.says(&sent, done(ANSWER));
            let forecast = bench.answer().explanation.participants[0].forecast;
            let off = forecast.energy_p95.get() / ANSWER - 1.0;
            // Never less than what it takes: this expert does not exceed what is reserved.
            assert!(off > -1e-9, "{off}");
        }
        Self {
            bench,
            rng: Rng::new(seed),
            again: Vec::new(),
            sent: Vec::new(),
            answered: 0,
            told: 0,
        }
    }

    fn ask(&mut self) {
        self.bench.ask(question("Hello, how are you?"));
        self.look();
    }

    /// One of those at the expert is answered.
    fn settle(&mut self) {
        let sent = self.sent.swap_remove(self.rng.below(self.sent.len()));
        self.bench.says(&sent, done(ANSWER));
        self.look();
    }

    /// Sorts what the engine said, and looks at the window.
    fn look(&mut self) {
        self.sent.extend(self.bench.sent());
        let mut replies = VecDeque::new();
        self.bench.outputs.retain(|output| match output {
            Output::Reply { query, reply } => {
                replies.push_back((*query, reply.clone()));
                false
            }
            _ => true,
        });
        for (query, reply) in replies {
            match reply {
                Reply::Finished(_) => self.answered += 1,
                Reply::Refused(refusal) => match refusal.kind {
                    RefusalKind::RateLimited => self.again.push(query),
                    RefusalKind::QuotaExhausted => {
                        assert!(self.sent.is_empty(), "work under way may give joules back");
                        self.told += 1;
                    }
                    other => unreachable!("nothing else is in the way: {other:?}"),
                },
                Reply::Started { .. } | Reply::Delta(_) => {}
            }
        }
        let account = self.bench.engine.account(&tenant());
        let room = self.bench.engine.room(self.bench.now, &tenant());
        let limit = room.joules.expect("it has a window").limit;
        let taken = (account.spent + account.reserved).get();
        assert!(taken <= limit + 1e-9, "{taken} J of {limit} J");
    }

    /// A little time passes, the node being well.
    fn pass(&mut self) {
        let micros = u64::from(self.rng.between(0, 2_000));
        self.bench.pass(Duration::from_micros(micros));
        let standing = Figure::NONE;
        let heartbeat = FromAgent::Heartbeat {
            sequence: 0,
            standing,
            clock: None,
        };
        self.bench.agent(1, "smol", heartbeat);
    }

    /// All ask, and with a probability for each one something is answered in between; those who are told to
    /// do try again, until all are answered or know that they will not be.
    fn play(&mut self) {
        let between = 0.2 * self.rng.unit();
        for _ in 0..CLIENTS {
            self.ask();
            if !self.sent.is_empty() && self.rng.chance(between) {
                self.settle();
            }
        }
        while !(self.sent.is_empty() && self.again.is_empty()) {
            self.pass();
            if !self.sent.is_empty() && (self.again.is_empty() || self.rng.chance(0.5)) {
                self.settle();
            } else {
                self.again.swap_remove(self.rng.below(self.again.len()));
                self.ask();
            }
        }
    }
}

#[test]
fn of_a_thousand_clients_exactly_a_hundred_are_answered_in_any_order_of_events() {
    for seed in 0..SEEDS {
        let mut crowd = Crowd::new(seed);
        crowd.play();
        assert_eq!(
            (crowd.answered, crowd.told),
            (FIT, CLIENTS - FIT),
            "seed {seed}"
        );
        let spent = crowd.bench.settled();
        assert!((spent - ANSWER * FIT as f64).abs() < 1e-9, "{spent} J");
    }
}
