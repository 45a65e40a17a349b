//! What a query costs the engine's task: admission, and the ledger from reservation to settlement.
//!
//! The engine, the books and their thread are the real ones, with a database on disk; clients and agents
//! are not there, so that nothing but that cost is measured. The load is open-loop: queries are due at fixed
//! times, and are late when the task is busy. Each gets three times: admission (forecasts, routing, limits of
//! its tenant, reservation, mark), settlement (answer, forecasts learnt, windows, entry for the books), and
//! their sum. Waiting for the disk is no cost to the task, and is reported beside them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moe2_cost::percentile;
use moe2_engine::coordinator::{
    Config, EnergyWindow, Engine, Entry, Input, Output, PlanLimits, Span, Spending, TenantLimits,
};
use moe2_gate::Gate;
use moe2_metrics::Metrics;
use moe2_model::{
    Budgets, Bytes, DeviceInfo, DeviceKind, DispatchId, EnergySource, ExpertName, ExpertOffer,
    ExpertState, Figure, FinishReason, Joules, Message, Mode, NodeId, Prompt, Query, QueryId, Role,
    Sampling, Seconds, SessionId, Target, Task, TenantId, Time, Usage, Watts,
};
use moe2_wire::{FromAgent, FromExpert, PROTOCOL_VERSION, ToExpert};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::{Books, COMMANDS};
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
    /// Print JSON with every sample.
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
const TENANTS: u32 = 20;
const QUESTIONS: [&str; 4] = [
    "Why is the sky blue?",
    "What is 12 + 30?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "The history of the city of Rome begins with a legend. Tell it in three sentences.",
];

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
    refused: u64,
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
    refused: u64,
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
            books: Books::new(writer),
            inbox,
            zero: Instant::now(),
            samples: Vec::new(),
            work: BinaryHeap::new(),
            of: BTreeMap::new(),
            unwritten: VecDeque::new(),
            commits: Vec::new(),
            refused: 0,
            held: 0,
        };
        for n in 0..args.experts {
            bench.agent(n, hello(n)?)?;
        }
        Ok(bench)
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
                    self.books.book(entry);
                    if settles {
                        let number = self.books.settled;
                        self.unwritten.push_back((number, Instant::now()));
                    }
                }
                Output::Dispatch { dispatch, work, .. } => {
                    self.held += u64::from(self.books.marked > self.books.committed);
                    self.work.push(Reverse((Instant::now() + WORK, dispatch)));
                    if let ToExpert::Work { .. } = *work {
                        self.of.insert(dispatch, self.samples.len());
                    }
                }
                Output::Event(event) => self.metrics.fold(&event),
                Output::Reply { reply, .. } => {
                    use moe2_engine::coordinator::Reply;
                    self.refused += u64::from(matches!(reply, Reply::Refused(_)));
                }
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
                    self.agent(n, FromAgent::Heartbeat { sequence, standing })?;
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
        self.report(args, [before, load()])
    }

    fn admit(&mut self, number: usize, due: Instant, counted: bool) -> Result<()> {
        let query = QueryId(u64::try_from(number)?);
        let request = Box::new(question(number)?);
        let began = Instant::now();
        self.feed(Input::Submit { query, request });
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
                    self.books.committed(number);
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
            refused: self.refused,
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

fn node(n: u32) -> Result<NodeId> {
    Ok(NodeId::new(&format!("node-{n}"))?)
}

fn tenant(n: u32) -> Result<TenantId> {
    Ok(TenantId::new(&format!("tenant-{n}"))?)
}

/// One of each kind of limit, and none that binds.
fn limits(n: u32) -> Result<TenantLimits> {
    let plenty = |per, rolling| EnergyWindow {
        joules: Joules::saturating(1e9),
        per,
        rolling,
        soft: false,
    };
    Ok(TenantLimits {
        mean_energy: Some(Joules::saturating(100.0)),
        spending: Spending {
            energy_windows: vec![plenty(Span::Day, false), plenty(Span::Hour, true)],
            requests_per_minute: Some(u32::MAX),
            tokens_per_minute: Some(u64::MAX >> 12),
            parallel: Some(u32::MAX),
        },
        ..TenantLimits::unlimited(tenant(n)?)
    })
}

fn hello(n: u32) -> Result<FromAgent> {
    let device = DeviceInfo {
        kind: DeviceKind::Gpu,
        model: "none".to_owned(),
        threads: 8,
        parallel: 1_024,
        memory: Bytes(24 << 30),
        gpus: Vec::new(),
        cpu: None,
        gpu: None,
        energy_source: EnergySource::Modelled,
        idle_power: Watts::saturating(20.0),
        busy_power: Watts::saturating(200.0),
    };
    let offer = ExpertOffer {
        name: ExpertName::new(&format!("expert-{n}"))?,
        family: "none".to_owned(),
        quantisation: "none".to_owned(),
        parameters: 100_000_000,
        weights: Bytes(100 << 20),
        kv_per_token: Bytes(12_288),
        context_tokens: 2_048,
        slots: 1_024,
    };
    Ok(FromAgent::Hello {
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        software: "bench".to_owned(),
        device,
        experts: vec![(offer, ExpertState::Ready)],
    })
}

fn question(number: usize) -> Result<Query> {
    let content = QUESTIONS[number % QUESTIONS.len()].to_owned();
    let whose = u32::try_from(number).unwrap_or(0) % TENANTS;
    Ok(Query {
        tenant: tenant(whose)?,
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content,
        }]),
        task: Task::Generate(Sampling {
            max_tokens: 64,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: Budgets {
            delay: Some(Seconds::saturating(60.0)),
            energy: Some(Joules::saturating(1e6)),
        },
        max_experts: 1,
        mode: Mode::Auto,
        stream: false,
    })
}

fn usage() -> Usage {
    Usage {
        prompt_tokens: 12,
        output_tokens: 20,
        queue: Seconds::ZERO,
        prefill: Seconds::saturating(0.004),
        decode: Seconds::saturating(0.016),
        energy: Joules::saturating(3.0),
        energy_source: EnergySource::Modelled,
        energy_error: Joules::saturating(3.0),
    }
}
