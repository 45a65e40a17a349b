//! Tests of the public interface, in one binary so that they share the random instances. `cfg(test)` tells
//! the lints that helpers may unwrap too.

#[cfg(test)]
mod bnb;
#[cfg(test)]
mod check;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod file;
#[cfg(test)]
mod forged;
#[cfg(test)]
mod instances;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod solvers;
mod spares;
