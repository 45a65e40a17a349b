//! Experiments on expert selection and priced routing.

pub(crate) mod ablation;
pub(crate) mod growth;
pub(crate) mod real;
pub(crate) mod routing;
mod side_by_side;
pub(crate) mod targets;
