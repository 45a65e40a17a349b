//! The one task that owns the engine.
//!
//! Commands come in through one channel, outputs go out to channels and tasks; nothing here waits
//! for a client or an agent. The `select!` below lists everything that can wake the engine: a
//! command, a due timer, a snapshot that is owed.

pub(crate) mod bench;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use moe2_engine::coordinator::{
    Engine, FleetView, Held, Input, Outbox, Output, Pass, PlanRequest, Reply, Room,
};
use moe2_metrics::Metrics;
use moe2_model::{DispatchId, Event, QueryId, SessionId, TenantId, Time};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until};

use crate::books::Writer;
use crate::handle::{Command, EngineHandle, Planning, Standing};
use crate::peer::AgentPeer;
use crate::planner;
use crate::records::{Names, Recorder};

/// From here on a machine's calendar is worth a warning.
const CLOCK_OFF_S: f64 = 60.0;
/// Snapshots of the fleet are at most this old while anything happens.
const VIEW_EVERY: Duration = Duration::from_millis(50);
/// Commands waiting for the engine; senders wait when it is full, so memory stays bounded.
const COMMANDS: usize = 4_096;
/// Between the last words to an agent and closing its connection.
const FAREWELL: Duration = Duration::from_millis(200);

/// The engine's surroundings.
struct Driver {
    engine: Engine,
    handle: EngineHandle,
    metrics: Metrics,
    zero: Instant,
    replies: HashMap<QueryId, Client>,
    /// If it is recorded how queries go.
    told: Option<Told>,
    agents: HashMap<SessionId, AgentPeer>,
    cancels: HashMap<DispatchId, oneshot::Sender<()>>,
    /// What stops the proof of the plan being made, while one is.
    planning: Option<Arc<AtomicBool>>,
    /// The plan in force, and the number of the newest problem.
    publish_plan: watch::Sender<Planning>,
    /// The newest plan that was asked for while another was being solved.
    next_plan: Option<PlanRequest>,
    /// When the query being submitted was parsed, until its first dispatch has taken it.
    parsed: Option<Instant>,
    /// The books on disk; none in tests of the API.
    books: Option<Books>,
    /// The entry after which the books are closed, and who waits for it.
    closing: Option<(u64, oneshot::Sender<()>)>,
}

/// Where a query's replies go.
struct Client {
    replies: mpsc::UnboundedSender<Reply>,
    tenant: TenantId,
    room: Arc<OnceLock<Room>>,
}

/// Where how queries went is told, and what their clients call them.
struct Told {
    recorder: Recorder,
    names: HashMap<QueryId, Names>,
}

/// What is on its way to disk, and what waits for it; a dispatch with when its query was parsed, if it is the
/// first.
struct Books {
    writer: Writer,
    outbox: Outbox<Option<Instant>>,
}

/// Starts the engine's task.
///
/// # Errors
/// The thread that writes the books cannot be started.
pub(crate) fn spawn(
    engine: Engine,
    (metrics, recorder): (Metrics, Option<Recorder>),
    (first, database): (u64, Option<(rusqlite::Connection, Duration)>),
) -> std::io::Result<(EngineHandle, tokio::task::JoinHandle<()>)> {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (publish, view) = watch::channel(Arc::new(FleetView::default()));
    let (publish_plan, plan) = watch::channel(Planning::default());
    let handle = EngineHandle::new(first, commands, view, plan);
    let books = match database {
        Some((database, keep_usage)) => {
            let writer = Writer::start(database, keep_usage, handle.clone())?;
            Some(Books {
                writer,
                outbox: Outbox::default(),
            })
        }
        None => None,
    };
    let driver = Driver {
        books,
        closing: None,
        engine,
        handle: handle.clone(),
        metrics,
        zero: Instant::now(),
        replies: HashMap::new(),
        told: recorder.map(|recorder| Told {
            recorder,
            names: HashMap::new(),
        }),
        agents: HashMap::new(),
        cancels: HashMap::new(),
        planning: None,
        publish_plan,
        next_plan: None,
        parsed: None,
    };
    let task = tokio::spawn(driver.run(inbox, publish));
    Ok((handle, task))
}

impl Driver {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Command>,
        publish: watch::Sender<Arc<FleetView>>,
    ) {
        let mut view_due: Option<Instant> = None;
        loop {
            let deadline = self.engine.next_deadline().map(|at| self.instant(at));
            let wake = match (deadline, view_due) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let command = match wake {
                None => inbox.recv().await,
                Some(at) => tokio::select! {
                    command = inbox.recv() => command,
                    () = sleep_until(at.into()) => Some(Command::Input(Input::Tick)),
                },
            };
            let Some(command) = command else { return };
            self.take(command);
            view_due.get_or_insert_with(|| Instant::now() + VIEW_EVERY);
            if view_due.is_some_and(|due| due <= Instant::now()) {
                publish.send_replace(Arc::new(self.engine.view(self.now())));
                view_due = None;
            }
        }
    }

    fn take(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Attach(session, peer) => {
                self.agents.insert(session, peer);
                return;
            }
            Command::Room(tenant, reply) => {
                // Whoever asked may be gone.
                let standing = Standing {
                    room: self.engine.room(now, &tenant),
                    prices: self.engine.tenant_prices(&tenant),
                };
                let _ = reply.send(standing);
                return;
            }
            Command::Committed(number) => self.committed(number),
            Command::BooksBroken(why) => {
                self.broken();
                let closed = Input::BooksClosed(Some(why));
                self.engine.handle(now, closed);
            }
            Command::CloseBooks(done) => {
                self.close_books(done);
                return;
            }
            Command::PlannerFree => {
                self.planning = None;
                if let Some(request) = self.next_plan.take() {
                    self.plan(request);
                }
                return;
            }
            Command::Submit(submit) => {
                let client = Client {
                    replies: submit.replies,
                    tenant: submit.query.tenant.clone(),
                    room: submit.room,
                };
                self.replies.insert(submit.id, client);
                if let Some(told) = &mut self.told {
                    told.names.insert(submit.id, submit.names);
                }
                self.parsed = Some(submit.parsed);
                let input = Input::Submit {
                    query: submit.id,
                    request: submit.query,
                };
                self.engine.handle(now, input);
            }
            Command::Input(input) => {
                self.forget(&input);
                self.engine.handle(now, input);
            }
        }
        self.publish_plan();
        while let Some(output) = self.engine.poll_output() {
            self.put(output);
        }
        self.parsed = None;
    }

    /// Tells where planning stands if that has changed, which is rare: this follows every command.
    fn publish_plan(&self) {
        let (plan, generation) = (self.engine.plan(), self.engine.plan_generation());
        self.publish_plan.send_if_modified(|before| {
            let shown = before.plan.as_ref().map(Arc::as_ptr);
            let changed = before.generation != generation || shown != plan.map(Arc::as_ptr);
            if changed {
                *before = Planning {
                    plan: plan.cloned(),
                    generation,
                };
            }
            changed
        });
    }

    /// Drops what the driver keeps for things that an input ends.
    fn forget(&mut self, input: &Input) {
        match input {
            Input::ClientGone { query } => {
                self.replies.remove(query);
            }
            Input::Work { dispatch, frame } if frame.is_terminal() => {
                self.cancels.remove(dispatch);
            }
            Input::WorkLost { dispatch, .. } | Input::Unsent { dispatch, .. } => {
                self.cancels.remove(dispatch);
            }
            Input::AgentLost { session, .. } => {
                self.agents.remove(session);
            }
            _ => {}
        }
    }

    /// Holds an output until what it follows from is committed. Gives it back if nothing is to be waited
    /// for.
    fn hold(&mut self, output: Output) -> Option<Output> {
        let Some(books) = &mut self.books else {
            return Some(output);
        };
        let parsed = &mut self.parsed;
        match books.outbox.pass(output, || parsed.take()) {
            Pass::Now(output) => Some(output),
            Pass::Later => None,
            Pass::Never { dispatch, reason } => {
                self.unsent(dispatch, reason);
                None
            }
        }
    }

    /// A dispatch that never left.
    fn unsent(&self, dispatch: DispatchId, reason: &str) {
        let (engine, reason) = (self.handle.clone(), reason.to_owned());
        tokio::spawn(async move {
            let _ = engine.input(Input::Unsent { dispatch, reason }).await;
        });
    }

    fn committed(&mut self, number: u64) {
        let Some(books) = &mut self.books else { return };
        let mended = books.outbox.is_broken();
        for mark in books.outbox.committed(number) {
            books.writer.write(mark);
        }
        self.release();
        if mended {
            let now = self.now();
            self.engine.handle(now, Input::BooksClosed(None));
        }
        if let Some((last, _)) = &self.closing
            && *last <= number
            && let Some((_, done)) = self.closing.take()
        {
            // Whoever asked waits for a while only.
            let _ = done.send(());
        }
    }

    /// Answers that were paid for are given out, and nothing is dispatched until the books can be written.
    fn broken(&mut self) {
        if let Some(books) = &mut self.books {
            books.outbox.broken();
        }
        self.release();
    }

    /// Has everything written, and marks for exactly what is under way: this process is about to end.
    fn close_books(&mut self, done: oneshot::Sender<()>) {
        let Some(books) = &mut self.books else {
            let _ = done.send(());
            return;
        };
        let mut last = 0;
        for mark in books.outbox.exact() {
            last = mark.0;
            books.writer.write(mark);
        }
        if books.outbox.is_committed(last) {
            let _ = done.send(());
        } else {
            self.closing = Some((last, done));
        }
    }

    fn release(&mut self) {
        while let Some(books) = &mut self.books
            && let Some(held) = books.outbox.released()
        {
            match held {
                Held::Reply(query, reply) => self.put_now(Output::Reply { query, reply }),
                Held::Dispatch {
                    dispatch,
                    session,
                    work,
                    note,
                } => {
                    self.parsed = note;
                    self.put(Output::Dispatch {
                        dispatch,
                        session,
                        work,
                    });
                    self.parsed = None;
                }
            }
        }
    }

    fn put(&mut self, output: Output) {
        if let Some(output) = self.hold(output) {
            self.put_now(output);
        }
    }

    fn put_now(&mut self, output: Output) {
        match output {
            Output::Ledger(entry) => {
                if let Some(books) = &mut self.books
                    && let Some(write) = books.outbox.book(entry)
                {
                    books.writer.write(write);
                }
            }
            Output::Reply { query, reply } => {
                let terminal = reply.is_terminal();
                if let Some(client) = self.replies.get(&query) {
                    if client.room.get().is_none() {
                        let room = self.engine.room(self.now(), &client.tenant);
                        let _ = client.room.set(room);
                    }
                    // A client that is gone says so itself, by dropping its submission.
                    let _ = client.replies.send(reply);
                }
                if terminal {
                    self.replies.remove(&query);
                }
            }
            Output::Dispatch {
                dispatch,
                session,
                work,
            } => self.dispatch(dispatch, session, *work),
            Output::Cancel { dispatch } => {
                if let Some(cancel) = self.cancels.remove(&dispatch) {
                    let _ = cancel.send(());
                }
            }
            Output::ToAgent { session, message } => {
                if let Some(agent) = self.agents.get(&session) {
                    agent.say(message);
                }
            }
            Output::CloseAgent { session, reason } => self.close(session, reason),
            Output::Plan(request) => self.plan(*request),
            Output::Ended(record) => {
                if let Some(told) = &mut self.told
                    && let Some(names) = told.names.remove(&record.query)
                {
                    told.recorder.tell(names, record);
                }
            }
            Output::Event(event) => self.event(&event),
        }
    }

    fn dispatch(&mut self, dispatch: DispatchId, session: SessionId, work: moe2_wire::ToExpert) {
        let parsed = self.parsed.take();
        let surroundings = (self.handle.clone(), self.metrics.clone());
        if let Some(agent) = self.agents.get(&session) {
            let cancel = agent.dispatch((dispatch, work), parsed, surroundings);
            self.cancels.insert(dispatch, cancel);
        } else {
            self.unsent(dispatch, "the agent is gone");
        }
    }

    /// Closes after a moment in which what was said before can leave.
    fn close(&mut self, session: SessionId, reason: String) {
        let Some(agent) = self.agents.remove(&session) else {
            return;
        };
        tokio::spawn(async move {
            // Closing discards unsent data, and a refusal must reach the agent's log.
            sleep(FAREWELL).await;
            agent.close(&reason);
        });
    }

    /// Solves one problem at a time; of those that pile up only the newest is worth solving.
    fn plan(&mut self, request: PlanRequest) {
        if let Some(newer) = &self.planning {
            // The set may still be of use, a proof that it was the best is not.
            newer.store(true, Ordering::Relaxed);
            self.next_plan = Some(request);
            return;
        }
        let newer = Arc::new(AtomicBool::new(false));
        self.planning = Some(newer.clone());
        tokio::spawn(planner::plan(request, newer, self.handle.clone()));
    }

    fn event(&self, event: &Event) {
        self.metrics.fold(event);
        match event {
            Event::NodeJoined {
                node,
                energy_source,
            } => {
                tracing::info!(%node, source = energy_source.as_str(), "node joined the fleet");
                if *energy_source == moe2_model::EnergySource::Modelled {
                    tracing::warn!(%node, "no energy sensor: its joules are modelled");
                }
            }
            Event::NodeSuspected { node } => {
                tracing::warn!(%node, "nothing was heard of the node: it gets no new work");
            }
            Event::Clock { node, ahead } if ahead.abs() >= CLOCK_OFF_S => {
                tracing::warn!(%node, ahead_s = ahead, "the node's clock is off: certificates are refused from five minutes on; run NTP");
            }
            Event::NodeLost { node, reason } => tracing::warn!(%node, reason, "node lost"),
            Event::Planned {
                infeasible: Some(reason),
                ..
            } => {
                tracing::error!(
                    reason,
                    "no active set keeps the limits of [plan]; the old one stays"
                );
            }
            Event::PlanFailed { reason } => {
                tracing::error!(reason, "planning failed; the old active set stays");
            }
            Event::Planned {
                selected,
                offered,
                objective,
                bound,
                took,
                unserved,
                ..
            } => {
                let seconds = took.get();
                for tenant in unserved {
                    tracing::warn!(%tenant, "no expert keeps this tenant's budgets");
                }
                tracing::info!(
                    selected,
                    offered,
                    objective,
                    bound,
                    seconds,
                    "active set planned"
                );
            }
            other => tracing::debug!(?other, "event"),
        }
    }

    fn now(&self) -> Time {
        let micros = u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        Time::from_micros(micros)
    }

    fn instant(&self, time: Time) -> Instant {
        self.zero + Duration::from_micros(time.as_micros())
    }
}
