//! The way into the engine for everything else in this process.
//!
//! One task owns the engine (`driver`); HTTP handlers and QUIC readers hold a clone of
//! [`EngineHandle`] and send it inputs. A [`Submission`] that is dropped tells the engine that its
//! client is gone, so cancelling needs no discipline from the HTTP layer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use moe2_engine::coordinator::{FleetView, Input, Plan, Reply, Room, TenantPrices};
use moe2_model::{Query, QueryId, SessionId, TenantId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::peer::AgentPeer;
use crate::records::Names;

/// What the driver task receives.
#[derive(Debug)]
pub(crate) enum Command {
    /// A query and where its replies go. The channel is unbounded so that one slow client never
    /// stalls the engine; what it can hold is bounded by the query's own token limit.
    Submit(Submit),
    /// An agent connected; whatever the engine wants said to it goes there.
    Attach(SessionId, AgentPeer),
    /// The planner's thread is free again, with or without a usable answer.
    PlannerFree,
    /// All entries up to this number are committed.
    Committed(u64),
    /// Write everything, then say so: the process is about to end.
    CloseBooks(oneshot::Sender<()>),
    /// The books cannot be written, and why.
    BooksBroken(String),
    /// How does a tenant stand?
    Room(TenantId, oneshot::Sender<Standing>),
    /// Anything else that happened.
    Input(Input),
}

/// How a tenant stands.
#[derive(Debug)]
pub(crate) struct Standing {
    /// What is left of its limits.
    pub(crate) room: Room,
    /// Its prices.
    pub(crate) prices: TenantPrices,
}

/// A parsed query on its way to the engine.
#[derive(Debug)]
pub(crate) struct Submit {
    pub(crate) id: QueryId,
    pub(crate) query: Box<Query>,
    pub(crate) replies: mpsc::UnboundedSender<Reply>,
    /// What its client calls it.
    pub(crate) names: Names,
    /// Filled in before the first reply, for tenants with limits.
    pub(crate) room: Arc<OnceLock<Room>>,
    /// When the request was parsed: the coordinator's own share of a delay counts from here.
    pub(crate) parsed: Instant,
}

/// The engine's task is gone: the process is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is shutting down")]
pub(crate) struct ShuttingDown;

/// A way to send inputs to the engine.
#[derive(Debug, Clone)]
pub(crate) struct EngineHandle {
    commands: mpsc::Sender<Command>,
    next: Arc<AtomicU64>,
    view: watch::Receiver<Arc<FleetView>>,
    plan: watch::Receiver<Planning>,
}

/// What the planner has and what it works on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Planning {
    /// The last plan; none while no expert is ready.
    pub(crate) plan: Option<Arc<Plan>>,
    /// Number of the newest problem.
    pub(crate) generation: u64,
}

impl EngineHandle {
    pub(crate) fn new(
        first: u64,
        commands: mpsc::Sender<Command>,
        view: watch::Receiver<Arc<FleetView>>,
        plan: watch::Receiver<Planning>,
    ) -> Self {
        Self {
            commands,
            // Queries are told apart in the books across restarts.
            next: Arc::new(AtomicU64::new(first)),
            view,
            plan,
        }
    }

    /// Hands a query to the engine.
    pub(crate) async fn submit(
        &self,
        query: Query,
        names: Names,
    ) -> Result<Submission, ShuttingDown> {
        let id = QueryId(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, replies) = mpsc::unbounded_channel();
        let room = Arc::new(OnceLock::new());
        let submit = Submit {
            id,
            query: Box::new(query),
            replies: sender,
            names,
            room: room.clone(),
            parsed: Instant::now(),
        };
        self.commands
            .send(Command::Submit(submit))
            .await
            .map_err(|_| ShuttingDown)?;
        Ok(Submission {
            id,
            replies,
            room,
            commands: self.commands.clone(),
            ended: false,
        })
    }

    /// Makes an agent's connection known before anything it says.
    pub(crate) async fn attach(&self, peer: AgentPeer) -> Result<SessionId, ShuttingDown> {
        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        self.commands
            .send(Command::Attach(session, peer))
            .await
            .map_err(|_| ShuttingDown)?;
        Ok(session)
    }

    /// How a tenant stands.
    pub(crate) async fn standing(&self, tenant: TenantId) -> Result<Standing, ShuttingDown> {
        let (reply, room) = oneshot::channel();
        let asked = self.commands.send(Command::Room(tenant, reply)).await;
        asked.map_err(|_| ShuttingDown)?;
        room.await.map_err(|_| ShuttingDown)
    }

    /// Tells the engine that something happened.
    pub(crate) async fn input(&self, input: Input) -> Result<(), ShuttingDown> {
        self.commands
            .send(Command::Input(input))
            .await
            .map_err(|_| ShuttingDown)
    }

    /// Tells the driver what is committed; called by a thread. False if the driver is gone.
    pub(crate) fn committed(&self, number: u64) -> bool {
        let command = Command::Committed(number);
        self.commands.blocking_send(command).is_ok()
    }

    /// Has the books written up, for as long as that may take.
    pub(crate) async fn close_books(&self, longest: std::time::Duration) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::CloseBooks(done)).await.is_ok() {
            let _ = tokio::time::timeout(longest, closed).await;
        }
    }

    /// Tells the driver that the books cannot be written; called by a thread.
    pub(crate) fn books_broken(&self, why: String) {
        let _ = self.commands.blocking_send(Command::BooksBroken(why));
    }

    /// Tells the driver that the planner's thread is free.
    pub(crate) async fn planner_free(&self) {
        // Fails only when the process is ending.
        let _ = self.commands.send(Command::PlannerFree).await;
    }

    /// The latest snapshot of the fleet.
    pub(crate) fn fleet(&self) -> Arc<FleetView> {
        self.view.borrow().clone()
    }

    /// Where planning stands.
    pub(crate) fn planning(&self) -> Planning {
        self.plan.borrow().clone()
    }
}

/// A query under way. Dropping it before its terminal reply abandons the query.
#[derive(Debug)]
pub(crate) struct Submission {
    id: QueryId,
    replies: mpsc::UnboundedReceiver<Reply>,
    room: Arc<OnceLock<Room>>,
    commands: mpsc::Sender<Command>,
    ended: bool,
}

impl Submission {
    /// What is left of the tenant's limits, known once there is a reply.
    pub(crate) fn room(&self) -> Arc<OnceLock<Room>> {
        self.room.clone()
    }

    /// The next reply; `None` after the terminal one, or when the engine is gone.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        if self.ended {
            return None;
        }
        let reply = self.replies.recv().await;
        self.ended = reply.as_ref().is_none_or(Reply::is_terminal);
        reply
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let gone = Command::Input(Input::ClientGone { query: self.id });
        if let Err(mpsc::error::TrySendError::Full(gone)) = self.commands.try_send(gone) {
            // The queue is full for a moment; the client's going must still arrive.
            let commands = self.commands.clone();
            tokio::spawn(async move {
                let _ = commands.send(gone).await;
            });
        }
    }
}
