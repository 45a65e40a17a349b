//! Who asks what, when: production traces for arrivals and lengths, graded questions for content.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use flate2::read::GzDecoder;
use moe2_model::{
    Budgets, Message, Mode, Prompt, Query, Rng, Role, Sampling, Target, Task, TenantId, Time,
};
use moe2_sim::traffic::Request;
use serde::Deserialize;

use crate::instance::outcomes::Question;
use crate::instance::real::CHARS_PER_TOKEN;

/// Applications by the trace that drives them: tenants, file, and the most tokens that they ask for.
pub(super) const APPLICATIONS: [Application; 2] = [
    Application {
        name: "conversation",
        file: "azure_llm_2023_conv.csv.gz",
        tenants: 14,
        max_tokens: 1_024,
    },
    Application {
        name: "code",
        file: "azure_llm_2023_code.csv.gz",
        tenants: 6,
        max_tokens: 512,
    },
];
/// Requests at the start of a trace from which an operator knows its lengths.
const KNOWN: usize = 2_000;
/// Requests of a greedy tenant come within so many seconds of its own.
const SPREAD: f64 = 150.0;

pub(super) struct Application {
    pub(super) name: &'static str,
    file: &'static str,
    /// About the same share of requests for each of all twenty.
    pub(super) tenants: usize,
    pub(super) max_tokens: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Row {
    arrival_s: f64,
    input_tokens: u32,
    output_tokens: u32,
}

/// A trace as it was recorded.
pub(super) struct Trace {
    rows: Vec<Row>,
    max_tokens: u32,
}

impl Trace {
    fn read(data: &Path, application: &Application) -> anyhow::Result<Self> {
        let path = data.join(application.file);
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut reader = csv::Reader::from_reader(GzDecoder::new(file));
        let rows: Result<Vec<Row>, _> = reader.deserialize().collect();
        Ok(Self {
            rows: rows.with_context(|| format!("in {}", path.display()))?,
            max_tokens: application.max_tokens,
        })
    }

    /// All of them.
    pub(super) fn all(data: &Path) -> anyhow::Result<Vec<Self>> {
        let read = |application| Self::read(data, application);
        APPLICATIONS.iter().map(read).collect()
    }

    /// Lengths of the requests that an operator has seen before.
    pub(super) fn known(&self) -> Vec<(u32, u32)> {
        let rows = self.rows.iter().take(KNOWN);
        rows.map(|r| (r.input_tokens, r.output_tokens.min(self.max_tokens)))
            .collect()
    }

    /// Requests in a minute.
    pub(super) fn per_minute(&self) -> f64 {
        60.0 * self.rows.len() as f64 / self.seconds().max(1.0)
    }

    /// A share of its rows, each with its place in the trace's time from 0 to 1.
    pub(super) fn thinned(&self, share: f64, rng: &mut Rng) -> Vec<(f64, Request)> {
        let length = self.seconds().max(1.0);
        let kept = self.rows.iter().filter(|_| rng.chance(share));
        let one = |row: &Row| {
            let request = Request {
                at: Time::ZERO,
                input_tokens: row.input_tokens,
                output_tokens: row.output_tokens.clamp(1, self.max_tokens),
            };
            (row.arrival_s / length, request)
        };
        kept.map(one).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    fn seconds(&self) -> f64 {
        self.rows.last().map_or(0.0, |r| r.arrival_s)
    }
}

/// One request with who asks what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) tenant: usize,
    /// Among the questions.
    pub(super) question: usize,
    /// Which of the requests without a greedy tenant it is; nothing for what such a tenant asks more.
    pub(super) base: Option<usize>,
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) count: usize,
    /// Over the recorded rate.
    pub(super) rate: f64,
    pub(super) seed: u64,
    /// A tenant that asks ten times as much.
    pub(super) greedy: Option<usize>,
}

impl Load {
    /// Requests in the order of their times. Every tenant replays the trace of its application over and over,
    /// thinned to its share and from a time of day of its own: the bursts of one service are not those of
    /// another.
    pub(super) fn requests(&self, traces: &[Trace], questions: usize) -> Vec<Asked> {
        let mut rng = Rng::new(self.seed);
        let hour = traces.iter().map(Trace::seconds).fold(1.0, f64::max);
        let rows: usize = traces.iter().map(|t| t.rows.len()).sum();
        let hours = (self.count as f64 / rows as f64).ceil() as usize + 1;
        let mut all: Vec<(f64, usize, Row, u32)> = Vec::new();
        let mut tenant = 0;
        for (application, trace) in APPLICATIONS.iter().zip(traces) {
            for own in tenant..tenant + application.tenants {
                let from = rng.unit() * hour;
                for again in 0..hours {
                    let mine = trace
                        .rows
                        .iter()
                        .filter(|_| rng.below(application.tenants) == 0);
                    let at = |row: &Row| (row.arrival_s + from) % hour + again as f64 * hour;
                    all.extend(mine.map(|row| (at(row), own, *row, application.max_tokens)));
                }
            }
            tenant += application.tenants;
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.truncate(self.count);
        let each = all.into_iter().enumerate();
        let asked = |(base, (seconds, tenant, row, most)): (usize, (f64, usize, Row, u32))| Asked {
            request: Request {
                at: at(seconds / self.rate),
                input_tokens: row.input_tokens,
                output_tokens: row.output_tokens.clamp(1, most),
            },
            tenant,
            question: rng.below(questions),
            base: Some(base),
        };
        let mut asked: Vec<Asked> = each.map(asked).collect();
        if let Some(greedy) = self.greedy {
            let own: Vec<Asked> = asked
                .iter()
                .filter(|a| a.tenant == greedy)
                .copied()
                .collect();
            for one in own.iter().flat_map(|one| [one; 9]) {
                let seconds = one.request.at.seconds_since(Time::ZERO).get();
                let moved = (seconds + (2.0 * rng.unit() - 1.0) * SPREAD).max(1.0);
                asked.push(Asked {
                    request: Request {
                        at: at(moved),
                        ..one.request
                    },
                    question: rng.below(questions),
                    base: None,
                    ..*one
                });
            }
            asked.sort_by_key(|a| a.request.at);
        }
        asked
    }
}

/// The first requests come when all machines have joined.
pub(super) fn at(seconds: f64) -> Time {
    Time::ZERO + Duration::from_secs_f64(1.0 + seconds)
}

/// What is asked: a question behind as much context as the trace says.
pub(super) fn query(asked: &Asked, question: &Question, tenant: &TenantId) -> Query {
    let application = application(asked.tenant);
    let question = said(application, question);
    let wanted = f64::from(asked.request.input_tokens) * CHARS_PER_TOKEN;
    let context = (wanted as usize).saturating_sub(question.len());
    let message = |role, content| Message { role, content };
    Query {
        tenant: tenant.clone(),
        prompt: Prompt::Chat(vec![
            message(Role::System, "x".repeat(context)),
            message(Role::User, question),
        ]),
        task: Task::Generate(Sampling {
            max_tokens: application.max_tokens,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: Budgets::default(),
        max_experts: 1,
        mode: Mode::Auto,
        stream: true,
    }
}

/// The application of a tenant.
pub(super) fn application(tenant: usize) -> &'static Application {
    let first = &APPLICATIONS[0];
    if tenant < first.tenants {
        first
    } else {
        &APPLICATIONS[1]
    }
}

/// The question as this application puts it: a code assistant sends it as a comment in a file.
pub(super) fn said(application: &Application, question: &Question) -> String {
    let text = format!("{}\n{}", question.prompt, question.choices.join("\n"));
    if application.name == "code" {
        format!("```python\n# {text}\n```")
    } else {
        text
    }
}
