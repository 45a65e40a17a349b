//! The one task that owns the agent's engine.
//!
//! It turns what the coordinator, the workers, the meter and the clock say into inputs, and the
//! engine's outputs into messages. Nothing here waits for any of them.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use moe2_engine::agent::{Engine, Input, Output};
use moe2_model::{DispatchId, ExpertName, Time};
use moe2_net::Stop;
use moe2_wire::{FromAgent, FromExpert};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};

use crate::backend;
use crate::experts::Hosted;
use crate::link::{self, Dial, FromLink};
use crate::meter::{Sample, Sampler};
use crate::worker::{Launch, WorkerLine};

/// How long the end of all workers and of the connection may take together.
const LAST_MOMENT: Duration = Duration::from_secs(3);
/// For the last packets to leave.
const FAREWELL: Duration = Duration::from_millis(150);
/// Messages waiting for the engine; senders wait when it is full.
const INBOX: usize = 1_024;

/// The engine's surroundings.
pub(crate) struct Driver {
    engine: Engine,
    zero: Instant,
    dial: Dial,
    hosted: HashMap<ExpertName, Hosted>,
    launch: Launch,
    meter: Option<Sampler>,
    control: Option<mpsc::UnboundedSender<FromAgent>>,
    workers: HashMap<ExpertName, WorkerLine>,
    frames: HashMap<DispatchId, mpsc::UnboundedSender<FromExpert>>,
    /// Streams whose terminal frame may not have left yet.
    closing: Vec<mpsc::UnboundedSender<FromExpert>>,
    to_links: mpsc::Sender<FromLink>,
    to_workers: mpsc::Sender<Input>,
    tasks: Vec<JoinHandle<()>>,
    link: Option<JoinHandle<()>>,
    drained: bool,
}

/// What the driver is made of.
pub(crate) struct Parts {
    pub(crate) engine: Engine,
    pub(crate) zero: Instant,
    pub(crate) dial: Dial,
    pub(crate) hosted: Vec<Hosted>,
    /// Everything but the model and context, which each expert fills in.
    pub(crate) launch: Launch,
    /// The thread that reads the meter, and what it has read.
    pub(crate) meter: Option<(Sampler, mpsc::Receiver<Sample>)>,
}

/// Runs until told to stop; no worker process is left when it returns.
pub(crate) async fn run(parts: Parts, mut stop: watch::Receiver<Stop>) {
    let (to_links, mut from_links) = mpsc::channel(INBOX);
    let (to_workers, mut from_workers) = mpsc::channel(INBOX);
    let hosted = parts
        .hosted
        .into_iter()
        .map(|h| (h.offer.name.clone(), h))
        .collect();
    let (meter, mut samples) = parts.meter.unzip();
    let mut driver = Driver {
        engine: parts.engine,
        zero: parts.zero,
        dial: parts.dial,
        hosted,
        launch: parts.launch,
        meter,
        control: None,
        workers: HashMap::new(),
        frames: HashMap::new(),
        closing: Vec::new(),
        to_links,
        to_workers,
        tasks: Vec::new(),
        link: None,
        drained: false,
    };
    driver.put_all();
    while !driver.drained {
        let wake = driver.wake();
        tokio::select! {
            Some(message) = from_links.recv() => driver.take_link(message),
            Some(input) = from_workers.recv() => driver.take(input),
            sample = next_sample(&mut samples) => match sample {
                Some(sample) => driver.take_sample(sample),
                None => samples = None,
            },
            () = sleep_until(wake.into()) => driver.tick(),
            changed = stop.changed() => {
                if changed.is_err() || *stop.borrow_and_update() == Stop::Now {
                    break;
                }
                driver.take(Input::Drain);
            }
        }
    }
    drop(from_workers);
    driver.end().await;
}

/// What the meter's thread has read; waits for ever without one.
async fn next_sample(samples: &mut Option<mpsc::Receiver<Sample>>) -> Option<Sample> {
    match samples {
        Some(samples) => samples.recv().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Lets the last frames leave, closes every worker's standard input and waits for all to be gone.
    async fn end(mut self) {
        self.frames.clear();
        let written = async {
            for stream in &self.closing {
                stream.closed().await;
            }
        };
        let _ = timeout(LAST_MOMENT, written).await;
        if !self.closing.is_empty() {
            // The control stream's end means that this agent is lost, and streams may overtake each
            // other: answers must have arrived before it.
            sleep(FAREWELL).await;
        }
        let connected = self.control.take().is_some();
        if let Some(link) = &self.link
            && !connected
        {
            // There is nothing to say goodbye to.
            link.abort();
        }
        self.workers.clear();
        for task in self.tasks.drain(..).chain(self.link.take()) {
            // A worker that does not end is killed when its task, and so its handle, is dropped.
            let _ = timeout(LAST_MOMENT, task).await;
        }
        if connected {
            // The link has closed the connection; the packet that says so must still leave.
            sleep(FAREWELL).await;
        }
    }

    fn wake(&self) -> Instant {
        // Without a deadline there is nothing to do until somebody speaks.
        let idle = Instant::now() + Duration::from_secs(3_600);
        let deadline = self.engine.next_deadline();
        deadline.map_or(idle, |at| self.zero + Duration::from_micros(at.as_micros()))
    }

    fn take_link(&mut self, message: FromLink) {
        match message {
            FromLink::Up(control) => {
                self.control = Some(control);
                self.take(Input::Connected);
            }
            FromLink::Work(dispatch, work, frames) => {
                self.frames.insert(dispatch, frames);
                self.take(Input::Work { dispatch, work });
            }
            FromLink::Input(input) => {
                if matches!(input, Input::Disconnected { .. }) {
                    self.control = None;
                    self.frames.clear();
                }
                self.take(input);
            }
        }
    }

    fn take(&mut self, input: Input) {
        if let Input::WorkerExited { expert, .. } = &input {
            self.workers.remove(expert);
        }
        self.engine.handle(self.now(), input);
        self.put_all();
    }

    fn tick(&mut self) {
        // One from before 1970 is as wrong as it can be.
        let calendar = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = calendar.unwrap_or_default().as_micros();
        let calendar = Input::Calendar(u64::try_from(micros).unwrap_or(u64::MAX));
        self.engine.handle(self.now(), calendar);
        self.take(Input::Tick);
    }

    fn take_sample(&mut self, sample: Sample) {
        match sample {
            Sample::Reading(reading) => self.take(Input::Meter(reading)),
            Sample::Lost => {
                self.meter = None;
                self.take(Input::MeterLost);
            }
        }
    }

    fn put_all(&mut self) {
        // Before the meter is asked to read: the thread looks at its pace when it has.
        if let Some(meter) = &self.meter {
            meter.set_busy(self.engine.jobs() > 0);
        }
        while let Some(output) = self.engine.poll_output() {
            self.put(output);
        }
    }

    fn put(&mut self, output: Output) {
        match output {
            Output::Connect => {
                let link = link::run(self.dial.clone(), self.to_links.clone());
                self.link = Some(tokio::spawn(link));
            }
            Output::Control(message) => {
                if let Some(control) = &self.control {
                    // Fails only when the connection is ending, which its task reports.
                    let _ = control.send(message);
                }
            }
            Output::Frame { dispatch, frame } => {
                let terminal = frame.is_terminal();
                if let Some(stream) = self.frames.get(&dispatch) {
                    let _ = stream.send(frame);
                }
                if terminal && let Some(stream) = self.frames.remove(&dispatch) {
                    self.closing.retain(|stream| !stream.is_closed());
                    self.closing.push(stream);
                }
            }
            Output::StartWorker { expert } => self.start(expert),
            Output::ToWorker { expert, message } => {
                if let Some(worker) = self.workers.get(&expert) {
                    // Fails only when the worker has ended, which its task reports.
                    let _ = worker.send(message);
                }
            }
            Output::KillWorker { expert } => {
                // Its task closes the pipe and, if that does not help, kills the process.
                self.workers.remove(&expert);
            }
            Output::Measure => {
                if let Some(meter) = &self.meter {
                    meter.read_now();
                }
            }
            Output::Drained => self.drained = true,
        }
    }

    fn start(&mut self, expert: ExpertName) {
        let Some(hosted) = self.hosted.get(&expert) else {
            return;
        };
        let inputs = self.to_workers.clone();
        let started = backend::start(hosted, &self.launch, inputs);
        match started {
            Ok((line, task)) => {
                self.tasks.retain(|task| !task.is_finished());
                self.tasks.push(task);
                self.workers.insert(expert, line);
            }
            Err(error) => {
                let binary = self.launch.binary.display();
                let reason = format!("cannot start {binary}: {error}");
                tracing::error!(%expert, reason, "worker not started");
                self.engine
                    .handle(self.now(), Input::WorkerExited { expert, reason });
            }
        }
    }

    fn now(&self) -> Time {
        let micros = u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        Time::from_micros(micros)
    }
}
