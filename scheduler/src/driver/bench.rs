//! What a query costs the engine's task: admission, and the ledger from reservation to settlement.
//!
//! The engine, the books and their thread are the real ones, with a database on disk; clients and agents
//! are not there, so that nothing but that cost is measured. The load is open-loop: queries are due at fixed
//! times, and are late when the task is busy. Each gets three times: admission (forecasts, routing, limits of
//! its tenant, reservation, mark), settlement (answer, forecasts learnt, windows, entry for the books), and
//! their sum. Waiting for the disk is no cost to the task, and is reported beside them.

mod scene;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moe2_cost::percentile;
use moe2_engine::coordinator::{
    Config, Engine, Entry, Input, Output, PlanLimits, PlanRequest, Reply,
};
use moe2_gate::Gate;
use moe2_metrics::Metrics;
use moe2_model::{DispatchId, Figure, FinishReason, QueryId, Seconds, SessionId, Time};
use moe2_solve::{Limits, solver};
use moe2_wire::{FromAgent, FromExpert, ToExpert};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use scene::{TENANTS, hello, limits, node, question, usage};

use super::{Books, COMMANDS, Outbox};
use crate::books::{Writer, now, open};
use crate::handle::{Command, EngineHandle};

/// What is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Queries per second.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// How long.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Experts, each on a node of its own.
    #[arg(long, default_value_t = 3)]
    experts: u32,
    /// Where the books are written meanwhile; by default the folder for temporary files.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON, with the counts of all samples by microsecond.
    #[arg(long)]
    json: bool,
}

/// Load that is not counted: it warms forecasts and allocators.
const WARM_UP: Duration = Duration::from_secs(2);
/// From dispatch to answer.
const WORK: Duration = Duration::from_millis(20);
/// The task sleeps until so long before a query is due, and then looks all the time: the system's timer is
/// not to be measured.
const WATCH: Duration = Duration::from_micros(200);
/// As the agents are told.
const HEARTBEAT: Duration = Duration::from_millis(500);
const KEEP_USAGE: Duration = Duration::from_secs(90 * 24 * 3_600);

/// The times of one query, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    admission: f64,
    settlement: f64,
    /// From when it was due to the end of its admission.
    late: f64,
    counted: bool,
}

/// Percentiles.
#[derive(Debug, Serialize)]
struct Spread {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Result<Self> {
        let at = |level| percentile(values, level).context("nothing was measured");
        let (p50, p99, p999, max) = (at(0.5)?, at(0.99)?, at(0.999)?, at(1.0)?);
        Ok(Self {
            p50,
            p99,
            p999,
            max,
        })
    }
}

#[derive(Debug, Serialize)]
struct Report {
    rate: u32,
    seconds: u32,
    experts: u32,
    tenants: u32,
    queries: usize,
    /// Dispatches that had to wait for a mark to be committed.
    held_for_mark: u64,
    /// As `/proc/loadavg` says before and after; the machine may have had other work.
    load: [String; 2],
    admission_us: Spread,
    settlement_us: Spread,
    sum_us: Spread,
    late_us: Spread,
    /// From a settlement to its commit.
    commit_ms: Spread,
    /// Sums in whole microseconds, and how many queries took them.
    sum_us_counts: BTreeMap<u64, u64>,
}

/// Measures and prints.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.rate == 0 || args.seconds == 0 || args.experts == 0 {
        bail!("--rate, --seconds and --experts must be at least 1");
    }
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = dir.join(format!("moe2-bench-admission-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let report = Bench::start(args, &dir.join("moe2.db")).and_then(|bench| bench.play(args));
    // What is left of it is in nobody's way.
    let _ = std::fs::remove_dir_all(&dir);
    print(&report?, args.json).context("cannot write the result")
}

fn print(report: &Report, json: bool) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        return writeln!(out);
    }
    writeln!(
        out,
        "{} queries at {}/s, {} experts, {} tenants, load {} to {}",
        report.queries, report.rate, report.experts, report.tenants, report.load[0], report.load[1]
    )?;
    writeln!(out, "                       P50      P99    P99.9      MAX")?;
    for (what, spread, unit) in [
        ("admission", &report.admission_us, "µs"),
        ("settlement", &report.settlement_us, "µs"),
        ("both", &report.sum_us, "µs"),
        ("due to admitted", &report.late_us, "µs"),
        ("settled to committed", &report.commit_ms, "ms"),
    ] {
        let Spread {
            p50,
            p99,
            p999,
            max,
        } = spread;
        writeln!(
            out,
            "{what:<20} {p50:>5.1} {p99:>8.1} {p999:>8.1} {max:>8.1} {unit}"
        )?;
    }
    Ok(())
}

/// The engine's task without its clients and agents.
struct Bench {
    engine: Engine,
    metrics: Metrics,
    books: Books,
    inbox: mpsc::Receiver<Command>,
    zero: Instant,
    samples: Vec<Sample>,
    /// Work under way, the first to end on top.
    work: BinaryHeap<Reverse<(Instant, DispatchId)>>,
    /// Whose work it is, until it is settled.
    of: BTreeMap<DispatchId, usize>,
    /// Settlements on their way to disk.
    unwritten: VecDeque<(u64, Instant)>,
    commits: Vec<f64>,
    /// The newest problem of the active set.
    plan: Option<Box<PlanRequest>>,
    /// What the last refusal said; there should be none.
    refused: Option<String>,
    /// Dispatches that had to wait for a mark, without those of the warm-up.
    held: u64,
}

impl Bench {
    fn start(args: &Args, database: &std::path::Path) -> Result<Self> {
        let opened = open(database, now(), KEEP_USAGE).context("cannot open the books")?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (_, view) = watch::channel(Default::default());
        let (_, plan) = watch::channel(Default::default());
        let handle = EngineHandle::new(1, commands, view, plan);
        let writer = Writer::start(opened.database, KEEP_USAGE, handle)
            .context("cannot start the thread that writes the books")?;
        let config = Config {
            plan: PlanLimits {
                tenants: (0..TENANTS).map(limits).collect::<Result<_>>()?,
                closed: true,
                ..PlanLimits::default()
            },
            epoch: u64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_micros())?,
            records: true,
            ..Config::default()
        };
        let mut bench = Self {
            engine: Engine::new(config, Gate::shipped()),
            metrics: Metrics::new()?,
            books: Books {
                writer,
                outbox: Outbox::default(),
            },
            inbox,
            zero: Instant::now(),
            samples: Vec::new(),
            work: BinaryHeap::new(),
            of: BTreeMap::new(),
            unwritten: VecDeque::new(),
            commits: Vec::new(),
            plan: None,
            refused: None,
            held: 0,
        };
        for n in 0..args.experts {
            bench.agent(n, hello(n)?)?;
        }
        // All have joined: the fleet is left alone for a moment, and planned once.
        std::thread::sleep(HEARTBEAT / 2);
        bench.feed(Input::Tick);
        bench.plan()?;
        Ok(bench)
    }

    /// Solves the newest problem, which elsewhere is the planner's thread's.
    fn plan(&mut self) -> Result<()> {
        let request = self.plan.take().context("a plan is asked for")?;
        let solver = solver("auto").context("there is a solver")?;
        let solution = solver.solve(&request.problem, &mut Limits::default())?;
        self.feed(Input::Planned {
            prices: request.price(&solution),
            request,
            solution: Box::new(solution),
            took: Seconds::ZERO,
        });
        Ok(())
    }

    fn time(&self) -> Time {
        let micros = u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        Time::from_micros(micros)
    }

    fn agent(&mut self, n: u32, message: FromAgent) -> Result<()> {
        let (session, node) = (SessionId(u64::from(n)), node(n)?);
        self.feed(Input::Agent {
            session,
            node,
            message,
        });
        Ok(())
    }

    /// What the driver does with an input: all that follows is booked, counted or sent.
    fn feed(&mut self, input: Input) {
        self.engine.handle(self.time(), input);
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Ledger(entry) => {
                    let settles = matches!(entry, Entry::Settled(_));
                    if let Some(write) = self.books.outbox.book(entry) {
                        self.books.writer.write(write);
                    }
                    if settles {
                        let number = self.books.outbox.last_settled();
                        self.unwritten.push_back((number, Instant::now()));
                    }
                }
                Output::Dispatch { dispatch, work, .. } => {
                    self.held += u64::from(self.books.outbox.awaits_mark());
                    self.work.push(Reverse((Instant::now() + WORK, dispatch)));
                    if let ToExpert::Work { .. } = *work {
                        self.of.insert(dispatch, self.samples.len());
                    }
                }
                Output::Plan(request) => self.plan = Some(request),
                Output::Event(event) => self.metrics.fold(&event),
                Output::Reply {
                    reply: Reply::Refused(refusal),
                    ..
                } => self.refused = Some(refusal.message),
                _ => {}
            }
        }
    }

    fn play(mut self, args: &Args) -> Result<Report> {
        let gap = Duration::from_secs(1) / args.rate;
        let warm_up = usize::try_from(WARM_UP.as_nanos() / gap.as_nanos().max(1))?;
        let total = warm_up + usize::try_from(u64::from(args.rate) * u64::from(args.seconds))?;
        let before = load();
        let began = Instant::now();
        let mut beat = began;
        while self.samples.len() < total || !self.work.is_empty() {
            let next = self.samples.len();
            let due = began + gap * u32::try_from(next).unwrap_or(u32::MAX);
            self.commits_are_noted(next > warm_up)?;
            let now = Instant::now();
            if beat <= now {
                beat += HEARTBEAT;
                for n in 0..args.experts {
                    let (sequence, standing) = (0, Figure::NONE);
                    self.agent(
                        n,
                        FromAgent::Heartbeat {
                            sequence,
                            standing,
                            clock: None,
                        },
                    )?;
                }
            } else if self.work.peek().is_some_and(|work| work.0.0 <= now) {
                self.settle();
            } else if next < total && due <= now {
                self.admit(next, due, next >= warm_up)?;
            } else {
                let ends = self.work.peek().map(|work| work.0.0);
                let wake = ends.map_or(beat, |ends| ends.min(beat));
                let wake = if next < total { wake.min(due) } else { wake };
                std::thread::sleep(wake.saturating_duration_since(now).saturating_sub(WATCH));
            }
        }
        if let Some(why) = &self.refused {
            bail!("the load is to be answered, and some was refused: {why}");
        }
        self.report(args, [before, load()])
    }

    fn admit(&mut self, number: usize, due: Instant, counted: bool) -> Result<()> {
        let query = QueryId(u64::try_from(number)?);
        let request = Box::new(question(number)?);
        let began = Instant::now();
        self.feed(Input::Submit { query, request });
        if !counted {
            self.held = 0;
        }
        self.samples.push(Sample {
            admission: micros(began.elapsed()),
            settlement: 0.0,
            late: micros(due.elapsed()),
            counted,
        });
        Ok(())
    }

    /// The work that ends first ends.
    fn settle(&mut self) {
        let Some(Reverse((_, dispatch))) = self.work.pop() else {
            return;
        };
        let began = Instant::now();
        let frame = FromExpert::Text("An answer of some words.".to_owned());
        self.feed(Input::Work { dispatch, frame });
        let frame = FromExpert::Done {
            finish: FinishReason::Stop,
            usage: usage(),
        };
        self.feed(Input::Work { dispatch, frame });
        let took = micros(began.elapsed());
        if let Some(number) = self.of.remove(&dispatch)
            && let Some(sample) = self.samples.get_mut(number)
        {
            sample.settlement += took;
        }
    }

    fn commits_are_noted(&mut self, counted: bool) -> Result<()> {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Committed(number) => {
                    for mark in self.books.outbox.committed(number) {
                        self.books.writer.write(mark);
                    }
                    while let Some((_, at)) =
                        self.unwritten.pop_front_if(|written| written.0 <= number)
                    {
                        if counted {
                            self.commits.push(at.elapsed().as_secs_f64() * 1e3);
                        }
                    }
                }
                Command::BooksBroken(why) => bail!("the books cannot be written: {why}"),
                _ => {}
            }
        }
        Ok(())
    }

    fn report(self, args: &Args, load: [String; 2]) -> Result<Report> {
        let counted: Vec<Sample> = self.samples.into_iter().filter(|s| s.counted).collect();
        let spread =
            |of: fn(&Sample) -> f64| Spread::of(&counted.iter().map(of).collect::<Vec<_>>());
        let mut counts = BTreeMap::new();
        for sample in &counted {
            // Microseconds of a query are few.
            let sum = (sample.admission + sample.settlement) as u64;
            *counts.entry(sum).or_default() += 1;
        }
        Ok(Report {
            rate: args.rate,
            seconds: args.seconds,
            experts: args.experts,
            tenants: TENANTS,
            queries: counted.len(),
            held_for_mark: self.held,
            load,
            admission_us: spread(|s| s.admission)?,
            settlement_us: spread(|s| s.settlement)?,
            sum_us: spread(|s| s.admission + s.settlement)?,
            late_us: spread(|s| s.late)?,
            commit_ms: Spread::of(&self.commits)?,
            sum_us_counts: counts,
        })
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn load() -> String {
    let all = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').next().unwrap_or_default().to_owned()
}
