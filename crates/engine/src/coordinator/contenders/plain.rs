//! The same, read from the nodes one by one: what the board is checked against wherever debug assertions are on,
//! so in every test of the engine and every simulated fleet.

use moe2_model::{QueryId, Target, Time, Verdict};

use super::super::Engine;
use super::super::fleet::Expert;
use super::super::forecast::{Shape, forecast};
use super::super::query::Running;
use super::super::route::Contender;
use super::Scope;

impl Engine {
    /// Panics if the board led to other contenders than the nodes do.
    pub(super) fn compare_with_the_plain_way(
        &self,
        now: Time,
        (id, running): (QueryId, &Running),
        scope: Scope<'_>,
        contenders: &[Contender<'_>],
    ) {
        self.fleet.compare_with_the_board();
        let query = &running.query;
        let experts = self.fleet.experts().filter(|(expert, ..)| {
            let here = scope
                .nodes
                .is_none_or(|nodes| nodes.contains(&&expert.node));
            here && query.target.admits(expert)
        });
        let experts = experts.filter_map(|(expert, node, known)| {
            let left = running.time_left(now);
            let load = node.load(now, known).filter(|load| load.seconds <= left);
            let load = load.filter(|_| node.health.is_ready())?;
            Some((expert, node, known, load))
        });
        let mut experts: Vec<_> = experts.collect();
        experts.sort_by(|a, b| a.0.cmp(&b.0));
        let this = scope.waits.map(|(_, dispatch)| dispatch);
        let fits = |expert: &Expert| {
            let tokens = expert.cost.speed().prompt_tokens(query.prompt.text_bytes());
            tokens < f64::from(expert.offer.context_tokens)
        };
        let auto = query.target == Target::Auto;
        let some_hold = experts.iter().any(|(_, node, expert, _)| {
            fits(expert) && (expert.selected || !auto) && node.trusts(expert, now, this)
        });
        assert_eq!(experts.len(), contenders.len(), "who could answer");
        for ((expert, node, known, load), contender) in experts.iter().zip(contenders) {
            let quality = self
                .gate
                .forecast(&running.features, std::slice::from_ref(&expert.name))[0];
            let places = self.fleet.places_one_by_one(&node.kind);
            let kind = (&*node.kind, places);
            let hold = self.shares.hold(now, kind, &query.tenant);
            let held = self.shares.held(now, kind);
            let expected = forecast(Shape::of(query), &known.cost.speed(), &quality, |busy| {
                if scope.free == Some(&expert.node) {
                    return node.next_place(known, now).max(load.seconds);
                }
                let ahead = |own| scope.waits.map_or(own, |(ahead, _)| ahead);
                let own = hold.map(|hold| hold.wait(ahead(hold.seconds), busy));
                let whose = (self.whose(id, &query.tenant), &held);
                node.wait(now, known, whose, busy)
                    .max(own.unwrap_or_default())
                    .max(load.seconds)
            });
            let factors = self.coverage.of(&query.tenant, running.features.topic());
            let mut expected = factors.correct(expected);
            expected.energy += load.joules;
            if query.in_one_piece() {
                expected.first_token = expected.delay;
                expected.first_token_p95 = expected.delay_p95;
            }
            let limits = self.config.plan.tenant(&query.tenant);
            let bars = limits.and_then(|limits| limits.bars(&expert.name, quality.probability));
            let short = running.known_too_long(known.offer.context_tokens);
            let reasons = [
                bars.filter(|why| auto || *why != Verdict::TooWeak),
                running.tried(expert).then_some(Verdict::Excluded),
                (short || (some_hold && !fits(known))).then_some(Verdict::ContextTooShort),
                (!known.selected && auto).then_some(Verdict::NotSelected),
                (!node.trusts(known, now, this)).then_some(Verdict::LeftAlone),
            ];
            let expected = Contender {
                expert,
                forecast: expected,
                barred: reasons.into_iter().flatten().next(),
            };
            assert_eq!(*contender, expected, "the board is as the nodes are");
        }
    }
}
