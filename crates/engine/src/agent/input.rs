//! Everything that can wake the agent's engine, and everything it can ask for.

use moe2_model::{DispatchId, ExpertName, Prompt, Task};
use moe2_wire::{FromAgent, FromExpert, FromWorker, ToAgent, ToWorker};

use super::energy::MeterReading;

/// Work as it arrives; see [`moe2_wire::ToExpert::Work`].
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Which expert.
    pub expert: ExpertName,
    /// What to answer.
    pub prompt: Prompt,
    /// What kind of answer.
    pub task: Task,
    /// Useless after this many milliseconds; 0 for no deadline.
    pub deadline_ms: u32,
}

/// Something that happened outside.
#[derive(Debug, Clone)]
pub enum Input {
    /// A connection is up and its control stream is open.
    Connected,
    /// The connection ended, or could not be made.
    Disconnected {
        /// Why, for people.
        reason: String,
    },
    /// The coordinator said something on the control stream.
    Control(ToAgent),
    /// The coordinator opened a stream with work.
    Work {
        /// Names it.
        dispatch: DispatchId,
        /// What.
        work: Box<Work>,
    },
    /// The coordinator wants a dispatch stopped, or its stream is gone.
    Cancel {
        /// Which.
        dispatch: DispatchId,
    },
    /// A worker said something.
    Worker {
        /// Whose worker.
        expert: ExpertName,
        /// What.
        message: FromWorker,
    },
    /// A worker's process ended.
    WorkerExited {
        /// Whose worker.
        expert: ExpertName,
        /// Why, for people.
        reason: String,
    },
    /// The energy meter was read: every second, ten times as often while work runs, and when
    /// [`Output::Measure`] asks for it.
    Meter(MeterReading),
    /// The meter failed: from now on joules are modelled and said to be.
    MeterLost,
    /// What the machine's calendar says, in microseconds since 1970 (UTC); told before every
    /// [`Input::Tick`], since it may be set.
    Calendar(u64),
    /// Take no new work and say so; finish what is there.
    Drain,
    /// Time passed; timers may be due.
    Tick,
}

/// Something to be done outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Dial the coordinator; answer with `Connected` or `Disconnected`.
    Connect,
    /// Say something on the control stream.
    Control(FromAgent),
    /// Say something on a dispatch's stream; a terminal frame ends it.
    Frame {
        /// Which.
        dispatch: DispatchId,
        /// What.
        frame: FromExpert,
    },
    /// Start an expert's worker process.
    StartWorker {
        /// Whose.
        expert: ExpertName,
    },
    /// Say something to a worker.
    ToWorker {
        /// Whose.
        expert: ExpertName,
        /// What.
        message: ToWorker,
    },
    /// End a worker's process, which does not stop by itself; `WorkerExited` follows.
    KillWorker {
        /// Whose.
        expert: ExpertName,
    },
    /// Read the meter now: a job has begun or ended, and waits for its bill.
    Measure,
    /// Draining is over: nothing is running or waiting.
    Drained,
}
