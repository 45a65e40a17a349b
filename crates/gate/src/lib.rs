//! The gate: how likely each expert is to answer a query well, and how long its answer will be.
//!
//! Every expert has a head of its own that sees only the query. That is what lets one gate serve
//! every subset of the fleet: asking about fewer experts *is* the restriction, exactly, with no
//! renormalisation and nothing to retrain (MATH 3, theorem D). A softmax over experts was not
//! taken: its scores mean something else for each subset. Today's heads are Beta priors per topic;
//! a trained gate is another kind in the same file format and behind the same [`Gate`].

mod data;
mod encode;
mod eval;
mod features;
mod file;
#[cfg(test)]
mod forged;
mod gate;
mod options;
mod priors;
mod topic;
mod train;
mod trained;
mod vote;

pub use data::{
    Item, Outcome, OutcomeError, Split, groups, read_outcomes, read_questions, reread, scored,
};
pub use encode::base::Embedder;
pub use eval::{
    Against, Baseline, ExpertFigures, Figure, Figures, Forecasts, Judgement, Reference, Routed,
    baselines, cross_fitted, judge,
};
pub use features::QueryFeatures;
pub use file::GateError;
pub use gate::{Belief, Gate, Quality};
pub use options::{OptionRule, Scored};
pub use priors::{Head, Priors, TopicPrior};
pub use topic::{Detection, Topic, detect};
pub use train::fusion::{FusionGain, Line as GainLine};
pub use train::{Calibration, Fitted, InTurn, Runner, TrainError, Trained, TrainedHead, Training};
pub use trained::{DataFile, Provenance};
pub use vote::vote_weight;
