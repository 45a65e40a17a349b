//! Instances of the selection and the routing problem: from real answers of real models, and synthetic.

pub(crate) mod outcomes;
pub(crate) mod profiles;
pub(crate) mod real;
pub(crate) mod synthetic;
