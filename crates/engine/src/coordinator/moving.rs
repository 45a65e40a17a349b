//! Work that waits in one node's line while another node comes free.
//!
//! A line is chosen by forecast, and forecasts err: one line grows while another empties. So a node that has a
//! place again looks at what waits elsewhere and is more pressing than what waits for it, and begins with the
//! first that the router would rather have there now: the same choice as at the start, with what is left of the
//! budgets and what is still ahead of it where it waits. Where something waits for the node itself, only every
//! second place goes to work from elsewhere, so turns hold on the others and nobody in line is
//! starved. Nothing is refused by looking: what is not better off here stays where it is.

use moe2_model::{DispatchId, Event, ExpertName, Job, NodeId, Time};

use super::Engine;
use super::contenders::Scope;
use super::decision::{Choice, Decision};
use super::fleet::Node;

/// Most pieces of work that a node which has come free looks at: in a crowd most of what waits may not be
/// for it, and looking is on the way of every answer's end.
const LOOK: usize = 16;

impl Engine {
    /// Has a node that has come free begin with what waits, for it or elsewhere.
    pub(super) fn freed(&mut self, now: Time, node: &NodeId) {
        // Who has to leave memory is given no more.
        self.settle_memory(now, node);
        // Ends: every turn but the last fills a place.
        while self.takes_over(now, node) {}
        self.pump(now, node);
        // A place that nothing in line could use.
        while self.takes_over(now, node) {}
    }

    /// The same for every node, after others became active.
    pub(super) fn all_freed(&mut self, now: Time) {
        if self.waiting.is_empty() {
            return;
        }
        for node in self.fleet.names() {
            self.freed(now, &node);
        }
    }

    /// Has a node with a free place begin with the most pressing work that is better off there. False if there is
    /// none.
    fn takes_over(&mut self, now: Time, node: &NodeId) -> bool {
        let free = self.fleet.node(node);
        let free = free.is_some_and(Node::takes_from_elsewhere);
        if self.waiting.is_empty() || !free {
            return false;
        }
        let pressing = self.pressing(now, node);
        pressing
            .into_iter()
            .any(|dispatch| self.moves(now, dispatch, node))
    }

    /// What waits elsewhere, might go to a node and is more pressing than what could begin there by itself; the most
    /// pressing first.
    fn pressing(&self, now: Time, node: &NodeId) -> Vec<DispatchId> {
        let Some(known) = self.fleet.node(node) else {
            return Vec::new();
        };
        let full = known.full();
        let kind = (&*known.kind, self.fleet.places(&known.kind));
        let held = self.shares.full(now, kind);
        let urgent = self
            .waiting
            .by_urgency(now, 4 * LOOK, |tenant| !held(tenant));
        let urgent = urgent.into_iter().filter(|d| self.may_go_to(*d, node));
        let urgent = urgent.take(LOOK).filter_map(|dispatch| {
            let expert = &self.waiting.get(dispatch)?.expert;
            let own = expert.node == *node;
            // What waits here and cannot begin is in nobody's way.
            (!own || !full.contains(&expert.name)).then_some((dispatch, own))
        });
        let before = urgent.take_while(|(_, own)| !own);
        before.map(|(dispatch, _)| dispatch).collect()
    }

    /// Whether work waits at a node, or might go there.
    fn may_go_to(&self, dispatch: DispatchId, node: &NodeId) -> bool {
        let wait = self.waiting.get(dispatch);
        let query = wait.and_then(|wait| self.queries.get(&wait.query));
        query.is_some_and(|running| {
            let mut there = self.fleet.experts_on(node);
            there.any(|id| running.query.target.admits(&id))
        })
    }

    /// Moves work to a free node if it is better off there.
    fn moves(&mut self, now: Time, dispatch: DispatchId, to: &NodeId) -> bool {
        let Some(wait) = self.waiting.get(dispatch) else {
            return false;
        };
        let (id, from) = (wait.query, wait.expert.node.clone());
        let Some(running) = self.queries.get_mut(&id) else {
            return false;
        };
        let Some(place) = running.waits_alone(dispatch) else {
            return false;
        };
        // As if it had not been asked: an expert is asked once, and this one has not begun.
        let attempt = running.attempts.remove(place);
        let better = self.better_at(now, dispatch, (&from, to));
        let Some(running) = self.queries.get_mut(&id) else {
            return false;
        };
        let Some(decision) = better else {
            running.attempts.insert(place, attempt);
            return false;
        };
        let candidate = decision.candidates[0].clone();
        running.choices.note(decision, self.config.records);
        self.unqueue(now, dispatch);
        self.event(Event::Moved {
            from: attempt.expert,
            to: candidate.expert.clone(),
        });
        if let Some(dispatch) = self.enqueue(now, id, &candidate, Job::Answer) {
            self.out_of_turn(now, dispatch, to);
        }
        true
    }

    /// Begins with work before its turn, and counts it as if it had been.
    fn out_of_turn(&mut self, now: Time, dispatch: DispatchId, node: &NodeId) {
        let Some(wait) = self.waiting.get(dispatch) else {
            return;
        };
        let taken = self.fleet.with(node, |known| {
            let job = known.line.remove(dispatch);
            known.line.correct(&wait.tenant, wait.busy.get());
            known.lent = !known.line.is_empty();
            job
        });
        if let Some(job) = taken.flatten() {
            self.send(now, node, job);
        }
    }

    /// The choice that has waiting work begin at a free node rather than stay, if that is the choice.
    fn better_at(
        &self,
        now: Time,
        dispatch: DispatchId,
        (from, to): (&NodeId, &NodeId),
    ) -> Option<Decision> {
        let id = self.waiting.get(dispatch)?.query;
        let full = self.fleet.node(to)?.full();
        let ahead = self.waiting.ahead(now, dispatch, 4 * LOOK);
        let begins = |node: &NodeId, expert: &ExpertName| node == to && !full.contains(expert);
        let there = |nodes| {
            let scope = Scope {
                nodes,
                free: Some(to),
                waits: Some((ahead, dispatch)),
            };
            let choice = self.choose(now, id, scope)?;
            let [chosen] = choice.route.chosen() else {
                return None;
            };
            let expert = &chosen.expert;
            begins(&expert.node, &expert.name).then_some(choice)
        };
        // Between the two first, which is cheap and mostly says no.
        there(Some([from, to]))?;
        there(None).map(Choice::decision)
    }
}
