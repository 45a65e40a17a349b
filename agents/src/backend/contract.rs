//! What every backend keeps, run over every row of the table in [`super`]: the embedded engine with real
//! weights, a server in this process, and the stub.
//!
//! The agent's engine relies on it: text in order and only of work that was asked for, exactly one terminal
//! message, a cancel that still has one, and an end that is told. `upstream::tests` has what only servers
//! can do wrong.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moe2_engine::agent::Input;
use moe2_model::{
    Bytes, DispatchId, ExpertName, ExpertOffer, FinishReason, Message, Prompt, Role, Sampling, Task,
};
use moe2_wire::{FailureKind, FromWorker, ToWorker, picked_of};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Run, start};
use crate::experts::Hosted;
use crate::upstream::testing::{FakeServer, well};
use crate::upstream::{ApiKey, Patience, Settings};
use crate::worker::{Launch, WorkerLine};

/// Long enough for a loaded machine; only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tokens that no answer here comes to: it is stopped before.
const ENDLESS: u32 = 400;

/// Pieces of work at once.
const SLOTS: u32 = 4;

/// One kind of backend.
struct Row {
    name: &'static str,
    /// `None` if it cannot be had here, and that is accepted.
    set_up: fn(&Path) -> Option<SetUp>,
}

/// A backend that can be started.
struct SetUp {
    run: Run,
    launch: Launch,
    /// Ends it from outside; nothing ends a stub.
    kill: Option<Box<dyn FnOnce()>>,
}

/// Address of a server that is there already; without it that row is left out.
const SERVER: &str = "MOE2_UPSTREAM_URL";

const ROWS: [Row; 4] = [
    Row {
        name: "embedded",
        set_up: embedded,
    },
    Row {
        name: "openai",
        set_up: server,
    },
    Row {
        name: "openai, elsewhere",
        set_up: server_elsewhere,
    },
    Row {
        name: "stub",
        set_up: stub,
    },
];

fn no_launch() -> Launch {
    Launch {
        binary: PathBuf::new(),
        model: PathBuf::new(),
        threads: 2,
        context: 0,
        parallel: 1,
        prefixes: 0,
        plain: false,
    }
}

fn stub(_: &Path) -> Option<SetUp> {
    let pace = Duration::from_millis(20);
    Some(SetUp {
        run: Run::Stub { pace },
        launch: no_launch(),
        kill: None,
    })
}

fn server(_: &Path) -> Option<SetUp> {
    let server = futures_util::future::FutureExt::now_or_never(FakeServer::start(well));
    let server = server.expect("binding to loopback waits for nothing");
    let settings = Box::new(server.settings());
    Some(SetUp {
        run: Run::Upstream(settings),
        launch: no_launch(),
        kill: Some(Box::new(move || server.die())),
    })
}

fn server_elsewhere(_: &Path) -> Option<SetUp> {
    let Ok(url) = std::env::var(SERVER) else {
        let line = format!("skipped: no {SERVER}\n");
        std::io::stderr().write_all(line.as_bytes()).ok();
        return None;
    };
    let settings = Settings {
        endpoint: url.parse().expect("an address"),
        model: std::env::var("MOE2_UPSTREAM_MODEL").ok(),
        key: std::env::var("MOE2_UPSTREAM_KEY")
            .ok()
            .and_then(|key| ApiKey::new(&key)),
        context_tokens: 2_048,
        patience: Patience {
            first_token: PATIENCE,
            next_token: PATIENCE,
        },
    };
    Some(SetUp {
        run: Run::Upstream(Box::new(settings)),
        launch: no_launch(),
        kill: None,
    })
}

/// The worker that `make build` makes, on the smallest model. A script in its place notes the process.
fn embedded(dir: &Path) -> Option<SetUp> {
    let cache = moe2_models::Cache::default_dir().expect("a cache directory is known");
    let file = cache.root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let binary = worker_binary();
    let Some(binary) = binary.filter(|_| file.is_file()) else {
        let skip = std::env::var_os("MOE2_SKIP_WEIGHTS").is_some_and(|value| value == "1");
        assert!(
            skip,
            "moe2-worker or {} is absent: run `make build` and `moe2 models pull --all` (or set MOE2_SKIP_WEIGHTS=1)",
            file.display()
        );
        let line = b"skipped: the embedded engine is absent\n";
        std::io::stderr().write_all(line).ok();
        return None;
    };
    let (script, pid) = (dir.join("worker"), dir.join("pid"));
    let text = format!("#!/bin/sh\necho $$ > {pid:?}\nexec {binary:?} \"$@\"\n");
    std::fs::write(&script, text).expect("the temporary directory can be written");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("the script is ours");
    let kill = move || {
        let pid = std::fs::read_to_string(pid).expect("the script has noted it");
        let killed = std::process::Command::new("sh")
            .args(["-c", &format!("kill -KILL {}", pid.trim())])
            .status();
        assert!(killed.is_ok_and(|status| status.success()));
    };
    Some(SetUp {
        run: Run::Worker {
            file,
            plain: false,
            prefixes: 0,
        },
        launch: Launch {
            binary: script,
            ..no_launch()
        },
        kill: Some(Box::new(kill)),
    })
}

/// Beside the tests of its profile, or of a release.
fn worker_binary() -> Option<PathBuf> {
    let tests = std::env::current_exe().ok()?;
    let profile = tests.parent()?.parent()?;
    let places = [profile.to_owned(), profile.parent()?.join("release")];
    let binaries = places.map(|place| place.join("moe2-worker"));
    binaries.into_iter().find(|binary| binary.is_file())
}

/// A backend at work.
struct Bench {
    row: &'static str,
    line: Option<WorkerLine>,
    inputs: mpsc::Receiver<Input>,
    task: JoinHandle<()>,
    kill: Option<Box<dyn FnOnce()>>,
    next: u64,
    _dir: tempfile::TempDir,
}

/// How a piece of work ended.
#[derive(Debug, Clone, PartialEq)]
enum End {
    Finished(FinishReason),
    Failed(FailureKind),
    /// The backend is gone, and the work with it.
    Exited,
}

/// What came back for one piece of work.
#[derive(Debug, Default)]
struct Reply {
    texts: Vec<String>,
    options: Vec<Vec<f64>>,
    tokens: (u32, u32),
    end: Option<End>,
}

/// Which piece of work a message is of.
fn of(message: &FromWorker) -> Option<DispatchId> {
    match message {
        FromWorker::Text { dispatch, .. }
        | FromWorker::Options { dispatch, .. }
        | FromWorker::Finished { dispatch, .. }
        | FromWorker::Failed { dispatch, .. } => Some(*dispatch),
        FromWorker::Ready { .. } | FromWorker::LoadFailed { .. } => None,
    }
}

impl Bench {
    /// Every row, ready.
    async fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for row in &ROWS {
            let dir = tempfile::tempdir().expect("a temporary directory can be made");
            let Some(set_up) = (row.set_up)(dir.path()) else {
                continue;
            };
            let offer = ExpertOffer {
                name: ExpertName::new("stub-x").expect("a name"),
                family: String::new(),
                quantisation: String::new(),
                parameters: 1,
                weights: Bytes(1),
                kv_per_token: Bytes(1),
                context_tokens: 1_024,
                slots: SLOTS,
                load: None,
            };
            let run = set_up.run;
            let hosted = Hosted { offer, run };
            let (to, inputs) = mpsc::channel(64);
            let (line, task) = start(&hosted, &set_up.launch, to).expect("it starts");
            let mut bench = Self {
                row: row.name,
                line: Some(line),
                inputs,
                task,
                kill: set_up.kill,
                next: 0,
                _dir: dir,
            };
            let ready = bench.receive().await;
            assert!(
                matches!(ready, Ok(FromWorker::Ready { .. })),
                "{}: {ready:?}",
                row.name
            );
            all.push(bench);
        }
        all
    }

    /// What it says next; an error is its end.
    async fn receive(&mut self) -> Result<FromWorker, String> {
        let input = timeout(PATIENCE, self.inputs.recv()).await;
        match input.unwrap_or_else(|_| unreachable!("{}: it says nothing", self.row)) {
            Some(Input::Worker { message, .. }) => Ok(message),
            Some(Input::WorkerExited { reason, .. }) => Err(reason),
            other => unreachable!("{}: {other:?}", self.row),
        }
    }

    fn send(&self, message: ToWorker) {
        let line = self.line.as_ref().expect("it has not been dropped");
        line.send(message).expect("it listens");
    }

    fn begin(&mut self, prompt: Prompt, task: Task) -> DispatchId {
        self.next += 1;
        let dispatch = DispatchId(self.next);
        self.send(ToWorker::Start {
            dispatch,
            prompt,
            task,
        });
        dispatch
    }

    fn cancel(&self, dispatch: DispatchId) {
        self.send(ToWorker::Cancel { dispatch });
    }

    /// Reads up to its first text.
    async fn first_text(&mut self, wanted: DispatchId) {
        match self.receive().await {
            Ok(FromWorker::Text { dispatch, .. }) if dispatch == wanted => {}
            other => unreachable!("{}: {other:?} instead of text", self.row),
        }
    }

    /// Everything up to the terminal message.
    async fn collect(&mut self, wanted: DispatchId) -> Reply {
        self.collect_all(&[wanted]).await.remove(0)
    }

    /// Everything up to the terminal messages of all of `wanted`, in their order.
    async fn collect_all(&mut self, wanted: &[DispatchId]) -> Vec<Reply> {
        let mut replies: Vec<Reply> = wanted.iter().map(|_| Reply::default()).collect();
        while replies.iter().any(|reply| reply.end.is_none()) {
            let Ok(message) = self.receive().await else {
                for reply in &mut replies {
                    reply.end.get_or_insert(End::Exited);
                }
                break;
            };
            let of = of(&message);
            let at = wanted.iter().position(|dispatch| Some(*dispatch) == of);
            // In particular, nothing comes after a terminal message.
            let reply = at.map(|at| &mut replies[at]);
            let Some(reply) = reply.filter(|reply| reply.end.is_none()) else {
                unreachable!("{}: {message:?} while waiting for {wanted:?}", self.row)
            };
            match message {
                FromWorker::Text { text, .. } => {
                    assert!(!text.is_empty(), "{}", self.row);
                    reply.texts.push(text);
                }
                FromWorker::Options { logprobs, .. } => reply.options.push(logprobs),
                FromWorker::Finished {
                    finish,
                    prompt_tokens,
                    cached_tokens,
                    output_tokens,
                    ..
                } => {
                    assert!(cached_tokens <= prompt_tokens, "{}", self.row);
                    reply.tokens = (prompt_tokens, output_tokens);
                    reply.end = Some(End::Finished(finish));
                }
                FromWorker::Failed { kind, .. } => reply.end = Some(End::Failed(kind)),
                FromWorker::Ready { .. } | FromWorker::LoadFailed { .. } => {
                    unreachable!("they are of no dispatch")
                }
            }
        }
        replies
    }

    /// Reads up to the first terminal message of any of these.
    async fn collect_one_of(&mut self, running: &[DispatchId]) -> (DispatchId, End) {
        loop {
            match self.receive().await {
                Ok(FromWorker::Text { dispatch, .. }) if running.contains(&dispatch) => {}
                Ok(FromWorker::Finished {
                    dispatch, finish, ..
                }) => return (dispatch, End::Finished(finish)),
                other => unreachable!("{}: {other:?}", self.row),
            }
        }
    }

    async fn ask(&mut self, task: Task) -> Reply {
        let dispatch = self.begin(user(question(&task)), task);
        self.collect(dispatch).await
    }
}

const fn question(task: &Task) -> &'static str {
    match task {
        Task::Generate(_) => "Count from one to twenty in words.",
        Task::Choice { .. } => "Which letter is the first: A, B or C? Answer with one letter.",
    }
}

fn user(content: &str) -> Prompt {
    Prompt::Chat(vec![Message {
        role: Role::User,
        content: content.to_owned(),
    }])
}

fn text(max_tokens: u32, stop: &[&str]) -> Task {
    Task::Generate(Sampling {
        max_tokens,
        temperature: 0.0,
        top_p: 1.0,
        seed: 1,
        stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
    })
}

fn choice() -> Task {
    Task::Choice {
        options: ["A", "B", "C"].map(str::to_owned).to_vec(),
    }
}

#[tokio::test]
async fn an_answer_comes_in_pieces_and_ends_once() {
    for mut bench in Bench::all().await {
        let reply = bench.ask(text(16, &[])).await;
        assert!(reply.texts.len() > 1, "{}: {reply:?}", bench.row);
        assert!(matches!(
            reply.end,
            Some(End::Finished(FinishReason::Stop | FinishReason::Length))
        ));
        assert!(reply.options.is_empty(), "{}", bench.row);
        let (prompt, output) = reply.tokens;
        assert!(
            prompt > 0 && (1..=16).contains(&output),
            "{}: {reply:?}",
            bench.row
        );
        // A second terminal message of the first would be met here; and temperature 0 repeats itself.
        let again = bench.ask(text(16, &[])).await;
        assert_eq!(again.texts.concat(), reply.texts.concat(), "{}", bench.row);
    }
}

#[tokio::test]
async fn an_answer_is_no_longer_than_asked_and_says_so() {
    for mut bench in Bench::all().await {
        let reply = bench.ask(text(3, &[])).await;
        assert_eq!(
            reply.end,
            Some(End::Finished(FinishReason::Length)),
            "{}",
            bench.row
        );
        assert_eq!(reply.tokens.1, 3, "{}: {reply:?}", bench.row);
    }
}

#[tokio::test]
async fn an_answer_ends_before_a_stop_string() {
    for mut bench in Bench::all().await {
        let whole = bench.ask(text(16, &[])).await.texts.concat();
        let words: Vec<&str> = whole.split_whitespace().collect();
        let stop = words[words.len() / 2];
        let reply = bench.ask(text(16, &[stop])).await;
        let said = reply.texts.concat();
        assert!(
            !said.contains(stop) && whole.starts_with(&said),
            "{}: {said:?}",
            bench.row
        );
        assert_eq!(
            reply.end,
            Some(End::Finished(FinishReason::Stop)),
            "{}",
            bench.row
        );
    }
}

#[tokio::test]
async fn work_that_is_cancelled_in_the_middle_still_says_what_it_used() {
    for mut bench in Bench::all().await {
        let long = bench.begin(user("Tell me a very long story."), text(ENDLESS, &[]));
        bench.first_text(long).await;
        bench.cancel(long);
        let reply = bench.collect(long).await;
        assert_eq!(
            reply.end,
            Some(End::Finished(FinishReason::Cancelled)),
            "{}",
            bench.row
        );
        assert!(
            (1..ENDLESS).contains(&reply.tokens.1),
            "{}: {reply:?}",
            bench.row
        );
        // Of what is over, and of what never was.
        bench.cancel(long);
        bench.cancel(DispatchId(99));
        let next = bench.ask(text(3, &[])).await;
        assert!(
            matches!(next.end, Some(End::Finished(_))),
            "{}: {next:?}",
            bench.row
        );
    }
}

#[tokio::test]
async fn work_that_waits_behind_other_work_can_be_cancelled() {
    for mut bench in Bench::all().await {
        let long = bench.begin(user("Tell me a very long story."), text(ENDLESS, &[]));
        let other = bench.begin(user("Tell me another."), text(ENDLESS, &[]));
        bench.cancel(other);
        bench.cancel(long);
        let mut ends = Vec::new();
        while ends.len() < 2 {
            match bench.receive().await {
                Ok(FromWorker::Finished {
                    dispatch, finish, ..
                }) => ends.push((dispatch, finish)),
                Ok(FromWorker::Text { dispatch, .. }) => {
                    assert!(
                        ends.iter().all(|(ended, _)| *ended != dispatch),
                        "{}",
                        bench.row
                    );
                }
                other => unreachable!("{}: {other:?}", bench.row),
            }
        }
        ends.sort_by_key(|(dispatch, _)| *dispatch);
        let cancelled = FinishReason::Cancelled;
        assert_eq!(
            ends,
            [(long, cancelled), (other, cancelled)],
            "{}",
            bench.row
        );
    }
}

#[tokio::test]
async fn as_much_work_as_there_are_slots_is_under_way_at_once() {
    for mut bench in Bench::all().await {
        let mut begun = Vec::new();
        for n in 0..SLOTS {
            let prompt = user(&format!("Tell me a very long story about {n} ships."));
            begun.push(bench.begin(prompt, text(ENDLESS, &[])));
        }
        let mut silent = begun.clone();
        while !silent.is_empty() {
            match bench.receive().await {
                Ok(FromWorker::Text { dispatch, .. }) => silent.retain(|other| *other != dispatch),
                other => unreachable!("{}: {other:?} before all had begun", bench.row),
            }
        }
        // One leaves; the others go on.
        bench.cancel(begun[1]);
        let reply = bench.collect_one_of(&begun).await;
        assert_eq!(reply, (begun[1], End::Finished(FinishReason::Cancelled)));
        let mut others = begun;
        others.remove(1);
        for dispatch in &others {
            bench.cancel(*dispatch);
        }
        for reply in bench.collect_all(&others).await {
            let cancelled = Some(End::Finished(FinishReason::Cancelled));
            assert_eq!(reply.end, cancelled, "{}", bench.row);
        }
    }
}

#[tokio::test]
async fn work_at_once_is_answered_as_alone() {
    for mut bench in Bench::all().await {
        let tasks = || [text(16, &[]), choice(), text(5, &[]), text(16, &["zzz"])];
        let mut alone = Vec::new();
        for task in tasks() {
            alone.push(bench.ask(task).await);
        }
        let begun = tasks().map(|task| bench.begin(user(question(&task)), task));
        let together = bench.collect_all(&begun).await;
        for (alone, together) in alone.iter().zip(&together) {
            // Rounding depends on the shape of a batch, and then so may words that are about as likely.
            if bench.row == "embedded" {
                let finished = matches!(together.end, Some(End::Finished(_)));
                assert!(finished, "{together:?}");
                assert_eq!(alone.tokens.0, together.tokens.0, "the prompt's");
            } else {
                assert_eq!(alone.end, together.end, "{}", bench.row);
                assert_eq!(alone.tokens, together.tokens, "{}", bench.row);
                let [alone, together] = [alone, together].map(|reply| reply.texts.concat());
                assert_eq!(alone, together, "{}", bench.row);
            }
            let scores = |reply: &Reply| reply.options.concat();
            for (one, other) in scores(alone).iter().zip(&scores(together)) {
                assert!(
                    (one - other).abs() < 0.2 + 0.05 * one.abs(),
                    "{}: {one} {other}",
                    bench.row
                );
            }
            assert_eq!(scores(alone).len(), scores(together).len());
        }
    }
}

#[tokio::test]
async fn a_choice_has_a_log_probability_for_every_option() {
    for mut bench in Bench::all().await {
        let reply = bench.ask(choice()).await;
        assert_eq!(
            reply.end,
            Some(End::Finished(FinishReason::Stop)),
            "{}",
            bench.row
        );
        assert!(reply.texts.is_empty(), "{}", bench.row);
        let [logprobs] = reply.options.as_slice() else {
            unreachable!("{}: {reply:?}", bench.row)
        };
        assert_eq!(logprobs.len(), 3, "{}", bench.row);
        assert!(
            logprobs.iter().all(|l| *l <= 0.0 && l.is_finite()),
            "{}: {logprobs:?}",
            bench.row
        );
        assert_eq!(picked_of(logprobs), None, "{}: all can score", bench.row);
    }
}

#[tokio::test]
async fn work_is_not_left_without_an_end_when_its_backend_dies() {
    for mut bench in Bench::all().await {
        let Some(kill) = bench.kill.take() else {
            let not_ours = ["stub", "openai, elsewhere"];
            assert!(not_ours.contains(&bench.row), "all others can die");
            continue;
        };
        let long = bench.begin(user("Tell me a very long story."), text(ENDLESS, &[]));
        bench.first_text(long).await;
        kill();
        let reply = bench.collect(long).await;
        let lost = [End::Exited, End::Failed(FailureKind::WorkerLost)].map(Some);
        assert!(lost.contains(&reply.end), "{}: {reply:?}", bench.row);
        if reply.end != Some(End::Exited) {
            let end = bench.receive().await;
            assert!(end.is_err(), "{}: {end:?}", bench.row);
        }
    }
}

#[tokio::test]
async fn a_backend_whose_line_is_dropped_ends_and_says_so() {
    for mut bench in Bench::all().await {
        let long = bench.begin(user("Tell me a very long story."), text(ENDLESS, &[]));
        bench.first_text(long).await;
        bench.line = None;
        let reply = bench.collect(long).await;
        assert_eq!(reply.end, Some(End::Exited), "{}", bench.row);
        let ended = timeout(PATIENCE, &mut bench.task).await;
        assert!(ended.is_ok_and(|task| task.is_ok()), "{}", bench.row);
        assert!(bench.inputs.recv().await.is_none(), "{}", bench.row);
    }
}
