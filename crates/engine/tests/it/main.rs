//! Scripted scenes for both halves of the engine. What no scene thought of is the simulator's job.

mod agent;
mod answers;
mod breaking;
mod budgets;
mod crowd;
mod first_token;
mod fusion;
mod hedging;
mod limits;
mod losses;
mod membership;
mod memory;
mod memory_agent;
mod moving;
mod plan;
mod queue;
mod shares;
mod support;
mod thousand;
