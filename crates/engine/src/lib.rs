//! Every decision of moe2, without I/O: the coordinator's half and the agent's half.
//!
//! Both halves are state machines with one way in (`handle(now, input)`) and one way out
//! (`poll_output()`), after quinn-proto's example. Sockets, clocks, threads and processes belong to
//! the drivers in `scheduler` and `agents`; the simulator drives both halves in one thread. An
//! actor per query was not taken: a decision that looks at the whole fleet would need a lock or a
//! round trip, and neither could be replayed.

pub mod agent;
pub mod coordinator;
mod timers;
