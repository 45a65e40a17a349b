//! A living system for experiments: real processes on machines of their own, tenants that ask, and what came of it.

pub(crate) mod api;
pub(crate) mod files;
pub(crate) mod ground;
pub(crate) mod herd;
pub(crate) mod load;
pub(crate) mod processes;
mod relay;
pub(crate) mod tenants;
pub(crate) mod vitals;
pub(crate) mod way;
