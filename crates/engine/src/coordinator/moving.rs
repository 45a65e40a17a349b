//! Work that waits in one node's line while another node comes free.
//!
//! A line is chosen by forecast, and forecasts err: one line grows while another empties. So a node that has a
//! place and nobody in its line looks at what waits elsewhere, and takes over the first that the router would
//! rather have there now: the same choice as at the start, with what is left of the budgets and what is still
//! ahead of it where it waits. It begins at once, so nothing is moved twice for one place, and nothing is
//! refused by looking: what is not better off here stays where it is, in its turn.

use moe2_model::{DispatchId, Event, Job, NodeId, Time};

use super::decision::Decision;
use super::{Engine, fleet::Node};

/// Most pieces of work that a node which has come free looks at: in a crowd most of what waits may not be
/// for it, and looking is on the way of every answer's end.
const LOOK: usize = 16;

impl Engine {
    /// Has a node that has come free begin with what waits: for it, then elsewhere.
    pub(super) fn freed(&mut self, now: Time, node: &NodeId) {
        self.pump(now, node);
        while self.take_over(now, node) {}
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

    fn take_over(&mut self, now: Time, node: &NodeId) -> bool {
        if self.waiting.is_empty() || !self.fleet.node(node).is_some_and(Node::is_idle) {
            return false;
        }
        // Who has least under way for its weight is first: a burst does not take every place that comes free.
        let load = |t: &_| f64::from(self.ledger.under_way(t)) / self.weight(t);
        let looked = self.waiting.in_turn(LOOK, load);
        looked
            .into_iter()
            .any(|dispatch| self.moved(now, dispatch, node))
    }

    /// Moves work to a free node if it is better off there.
    fn moved(&mut self, now: Time, dispatch: DispatchId, to: &NodeId) -> bool {
        let Some(wait) = self.waiting.get(dispatch) else {
            return false;
        };
        let (id, from) = (wait.query, wait.node.clone());
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
        running.candidates.clone_from(&decision.candidates);
        if self.config.records {
            running.decisions.push(decision);
        }
        self.unqueue(now, dispatch);
        self.event(Event::Moved {
            from: attempt.expert,
            to: candidate.expert.clone(),
        });
        self.dispatch(now, id, &candidate, Job::Answer);
        true
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
        // Between the two first, which is cheap and mostly says no.
        let here = |among| {
            let (route, grounds, _) = self.choose(now, id, among)?;
            let [chosen] = route.chosen() else {
                return None;
            };
            let begins = chosen.expert.node == *to && !full.contains(&chosen.expert.name);
            begins.then_some((route, grounds))
        };
        here(Some([from, to]))?;
        let (route, grounds) = here(None)?;
        let submitted = self.queries.get(&id)?.submitted;
        Some(Decision {
            at: now.seconds_since(submitted),
            grounds,
            candidates: route.candidates,
        })
    }
}
