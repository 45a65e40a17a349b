//! Real QUIC over the loopback interface: every test has its own port and its own fleet.

// Marked so that the lints know these modules for what they are: helpers may `unwrap` here too.
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod renewal;
#[cfg(test)]
mod round_trip;
