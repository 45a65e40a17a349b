//! Everything that can wake the coordinator's engine, and everything it can ask for.

use moe2_gate::Gate;
use moe2_model::{DispatchId, Event, NodeId, Query, QueryId, Seconds, SessionId};
use moe2_solve::Solution;
use moe2_wire::{FromAgent, FromExpert, ToAgent, ToExpert};

use super::config::Live;
use super::ledger::Entry;
use super::plan::{PlanRequest, Priced, TenantLimits};
use super::record::QueryRecord;
use super::reply::Reply;

/// Something that happened outside.
#[derive(Debug, Clone)]
pub enum Input {
    /// A client asks. Ids are never reused.
    Submit {
        /// Names it in every reply.
        query: QueryId,
        /// What is asked.
        request: Box<Query>,
    },
    /// A client went away before its terminal reply.
    ClientGone {
        /// Which query it waited for.
        query: QueryId,
    },
    /// An agent's control stream said something. Its first message makes the session.
    Agent {
        /// Which connection.
        session: SessionId,
        /// Whose, by its certificate.
        node: NodeId,
        /// What it said.
        message: FromAgent,
    },
    /// An agent's connection ended.
    AgentLost {
        /// Which connection.
        session: SessionId,
        /// Why, for people.
        reason: String,
    },
    /// An expert said something about a dispatch.
    Work {
        /// Which.
        dispatch: DispatchId,
        /// What.
        frame: FromExpert,
    },
    /// A dispatch's stream ended before a terminal frame.
    WorkLost {
        /// Which.
        dispatch: DispatchId,
        /// Why, for people.
        reason: String,
    },
    /// A dispatch that never left and will not: nothing is wrong with its expert.
    Unsent {
        /// Which.
        dispatch: DispatchId,
        /// Why, for people.
        reason: String,
    },
    /// The planner's solver finished.
    Planned {
        /// What it was asked.
        request: Box<PlanRequest>,
        /// Its checked answer.
        solution: Box<Solution>,
        /// What [`PlanRequest::price`] made of the two.
        prices: Vec<Priced>,
        /// How long that took.
        took: Seconds,
    },
    /// An optimum was proven and the proof verified.
    Proven {
        /// Of which problem.
        generation: u64,
        /// Cases of the proof.
        cases: usize,
    },
    /// The planner's solver gave no usable answer.
    PlanFailed {
        /// To which problem.
        generation: u64,
        /// Why, for people.
        reason: String,
    },
    /// Another gate, read and checked; it judges every query from now on.
    GateLoaded(Box<Gate>),
    /// Other tenants, or other budgets of tenants.
    Tenants(Vec<TenantLimits>),
    /// Other settings, tenants included.
    Settings(Box<Live>),
    /// The books cannot be written, and why, or can be again.
    BooksClosed(Option<String>),
    /// Time passed; timers may be due.
    Tick,
}

/// Something to be done outside.
#[derive(Debug, Clone)]
pub enum Output {
    /// Tell a client.
    Reply {
        /// Which query.
        query: QueryId,
        /// What.
        reply: Reply,
    },
    /// Open a stream to an agent and send this on it.
    Dispatch {
        /// Names the stream from now on.
        dispatch: DispatchId,
        /// To whom.
        session: SessionId,
        /// The work.
        work: Box<ToExpert>,
    },
    /// Send a cancel on a dispatch's stream.
    Cancel {
        /// Which.
        dispatch: DispatchId,
    },
    /// Say something on an agent's control stream.
    ToAgent {
        /// To whom.
        session: SessionId,
        /// What.
        message: ToAgent,
    },
    /// Close an agent's connection, after what was said to it before.
    CloseAgent {
        /// Whose.
        session: SessionId,
        /// Why, for its log.
        reason: String,
    },
    /// Solve this and come back with [`Input::Planned`].
    Plan(Box<PlanRequest>),
    /// To be made durable before anything that comes after it is done.
    Ledger(Entry),
    /// How a query went; comes before its terminal reply, where [`Config::records`](super::Config::records) asks
    /// for it.
    Ended(Box<QueryRecord>),
    /// For metrics and logs.
    Event(Event),
}
