//! Steady load of several tenants: requests come when they are due, whatever became of those before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use moe2_model::Rng;
use serde_json::{Value, json};

use super::api::{Api, End, Ended};

/// Options of a choice.
const OPTIONS: [&str; 2] = ["yes", "no"];
/// What a scripted expert says.
const SCRIPT: (&str, usize) = ("stub", 8);

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    pub(crate) name: &'static str,
    /// Of all requests.
    pub(crate) share: f64,
    /// What its budgets may be refused with; any other refusal is no fault of its own.
    pub(crate) refusals: &'static [&'static str],
    /// The request's own budgets, under `moe2`.
    pub(crate) budgets: Value,
    pub(crate) api: Api,
}

/// How it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answer in one piece.
    Whole,
    /// Streamed.
    Stream,
    /// One of given options.
    Choice,
    /// Two experts, one answer.
    Fuse,
    /// Streamed, and the client hangs up once it has text.
    Leave,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Stream => "stream",
            Self::Choice => "choice",
            Self::Fuse => "fuse",
            Self::Leave => "leave",
        }
    }

    fn draw(rng: &mut Rng, leave: f64) -> Self {
        if leave > 0.0 && rng.chance(leave) {
            return Self::Leave;
        }
        match rng.unit() {
            u if u < 0.45 => Self::Stream,
            u if u < 0.80 => Self::Whole,
            u if u < 0.90 => Self::Choice,
            _ => Self::Fuse,
        }
    }
}

/// What the load is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Longest answer.
    pub(crate) max_tokens: u32,
    /// Answers are known word for word.
    pub(crate) scripted: bool,
    /// Share of requests whose clients hang up in the middle of a stream.
    pub(crate) leave: f64,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Index of the tenant.
    pub(crate) tenant: usize,
    pub(crate) kind: Kind,
    /// Which was asked for.
    pub(crate) model: &'static str,
    pub(crate) sent: Instant,
    pub(crate) done: Instant,
    pub(crate) ended: Ended,
    /// Refused after a loss because its own budgets admitted none of those who were left.
    pub(crate) barred: bool,
}

impl Sample {
    /// What the reply said about how it came to be.
    pub(crate) fn moe2(&self) -> &Value {
        match &self.ended.end {
            End::Answered { moe2, .. } => moe2,
            _ => &Value::Null,
        }
    }

    /// The machine that answered.
    pub(crate) fn node(&self) -> Option<&str> {
        match &self.ended.end {
            End::Answered { model, .. } => Some(model.rsplit_once('@')?.1),
            _ => None,
        }
    }
}

/// Asks until it is told to end.
#[derive(Debug)]
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins to ask.
    pub(crate) fn start(
        (tenants, models): (Vec<Tenant>, [&'static str; 3]),
        shape: Shape,
        seed: u64,
    ) -> Self {
        let (over, samples) = (Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let (until, to) = (Arc::clone(&over), Arc::clone(&samples));
        let thread = thread::spawn(move || ask((&tenants, models), shape, seed, (&until, &to)));
        Self {
            over,
            samples,
            thread: Some(thread),
        }
    }

    /// How many have ended.
    pub(crate) fn ended(&self) -> usize {
        self.samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Sends no more, waits for the ends of all, and returns them in the order in which they were sent.
    pub(crate) fn finish(mut self) -> Vec<Sample> {
        self.stop();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut samples = std::mem::take(&mut *samples);
        samples.sort_by_key(|sample| sample.sent);
        samples
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

type Shared<'a> = (&'a Arc<AtomicBool>, &'a Arc<Mutex<Vec<Sample>>>);

fn ask(
    (tenants, models): (&[Tenant], [&'static str; 3]),
    shape: Shape,
    seed: u64,
    (over, samples): Shared<'_>,
) {
    let mut rng = Rng::new(seed);
    let mut asking: Vec<JoinHandle<()>> = Vec::new();
    let mut due = Instant::now();
    while !over.load(Ordering::Relaxed) {
        due += rng.gap(Duration::from_secs_f64(1.0 / shape.rate));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (tenant, kind) = (draw(tenants, &mut rng), Kind::draw(&mut rng, shape.leave));
        let (api, budgets) = (tenants[tenant].api.clone(), tenants[tenant].budgets.clone());
        // A quarter leaves the choice to the coordinator.
        let model = if rng.chance(0.25) {
            "auto"
        } else {
            rng.pick(&models)
        };
        let body = body(kind, (model, &budgets), (shape, rng.below(1_000_000)));
        let to = Arc::clone(samples);
        asking.retain(|one| !one.is_finished());
        asking.push(thread::spawn(move || {
            let sent = Instant::now();
            let mut ended = match kind {
                Kind::Leave => api.chat_and_leave(&body),
                _ => api.chat(&body),
            };
            let done = Instant::now();
            if let Some(why) = torn(&ended.end, kind, shape) {
                ended.end = End::Undocumented(why);
            }
            let sample = Sample {
                tenant,
                kind,
                model,
                sent,
                done,
                ended,
                barred: false,
            };
            to.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(sample);
        }));
    }
    for one in asking {
        let _ = one.join();
    }
}

fn draw(tenants: &[Tenant], rng: &mut Rng) -> usize {
    let mut left = rng.unit();
    let found = tenants.iter().position(|tenant| {
        left -= tenant.share;
        left < 0.0
    });
    found.unwrap_or(tenants.len().saturating_sub(1))
}

fn body(kind: Kind, (model, budgets): (&str, &Value), (shape, number): (Shape, usize)) -> Value {
    let question = format!("Question {number}: what is to be done about it?");
    let mut body = json!({"model": model, "temperature": 0, "max_tokens": shape.max_tokens,
        "messages": [{"role": "user", "content": question}], "moe2": budgets});
    match kind {
        Kind::Whole => body["moe2"]["mode"] = json!("single"),
        Kind::Stream | Kind::Leave => {
            body["stream"] = json!(true);
            body["moe2"]["mode"] = json!("single");
        }
        Kind::Choice => body["structured_outputs"] = json!({"choice": OPTIONS}),
        Kind::Fuse => {
            body["moe2"]["mode"] = json!("fuse");
            body["moe2"]["max_experts"] = json!(2);
        }
    }
    body
}

/// Why an answer is not whole, although it ended as one.
fn torn(end: &End, kind: Kind, shape: Shape) -> Option<String> {
    let End::Answered { text, moe2, .. } = end else {
        return None;
    };
    let whole = match kind {
        Kind::Choice => OPTIONS.contains(&text.as_str()),
        _ if shape.scripted => {
            let words: Vec<&str> = text.split_whitespace().collect();
            words.len() == SCRIPT.1 && words.iter().all(|word| *word == SCRIPT.0)
        }
        _ => !text.is_empty(),
    };
    if !whole {
        return Some(format!("a torn answer: {text:?}"));
    }
    (!moe2["energy_j"].is_number()).then(|| "an answer without its joules".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_doubled_answer_is_seen() {
        let shape = Shape {
            rate: 1.0,
            max_tokens: 8,
            scripted: true,
            leave: 0.0,
        };
        let said = |text: &str| End::Answered {
            model: "stub-a@edge-1".to_owned(),
            text: text.to_owned(),
            moe2: json!({"energy_j": 1.0}),
        };
        let why = |words: usize| torn(&said(&"stub ".repeat(words)), Kind::Stream, shape);
        assert_eq!(why(8), None);
        assert!(why(7).is_some() && why(16).is_some());
        assert_eq!(torn(&said("no"), Kind::Choice, shape), None);
        assert!(torn(&said("maybe"), Kind::Choice, shape).is_some());
        let unpriced = End::Answered {
            model: String::new(),
            text: "no".to_owned(),
            moe2: Value::Null,
        };
        assert!(torn(&unpriced, Kind::Choice, shape).is_some());
    }

    #[test]
    fn shares_and_kinds_are_drawn_as_stated() {
        let api = Api::new("http://127.0.0.1:1", "k");
        let tenants: Vec<Tenant> = [0.75, 0.25]
            .map(|share| Tenant {
                name: "t",
                share,
                refusals: &[],
                budgets: json!({}),
                api: api.clone(),
            })
            .into();
        let mut rng = Rng::new(1);
        let first = (0..4_000).filter(|_| draw(&tenants, &mut rng) == 0).count();
        assert!((2_900..3_100).contains(&first), "{first}");
        let streams = (0..4_000)
            .filter(|_| Kind::draw(&mut rng, 0.0) == Kind::Stream)
            .count();
        assert!((1_700..1_900).contains(&streams), "{streams}");
        let left = (0..4_000)
            .filter(|_| Kind::draw(&mut rng, 0.1) == Kind::Leave)
            .count();
        assert!((330..470).contains(&left), "{left}");
    }
}
