//! Starts the worker and speaks frames with it, as an agent would.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use moe2_model::{DispatchId, FinishReason, Message, Prompt, Role, Sampling, Task};
use moe2_wire::{FailureKind, FrameDecoder, FromWorker, ToWorker, encode_frame};

/// Long enough for a loaded machine; only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(120);

/// The three models of the manifest: file and the chat style it is used with.
pub(crate) const SMOLLM2: (&str, &str) = ("SmolLM2-135M-Instruct.Q4_1.gguf", "template");
pub(crate) const GEMMA: (&str, &str) = ("gemma-3-270m-q4_k_m.gguf", "plain");
pub(crate) const QWEN: (&str, &str) = ("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "template");

/// The file of a model, `None` if tests with weights are switched off.
pub(crate) fn weights(file: &str) -> Option<PathBuf> {
    let cache = moe2_models::Cache::default_dir().expect("a cache directory is known");
    let path = cache.root().join("models").join(file);
    if !path.is_file() {
        let skip = std::env::var_os("MOE2_SKIP_WEIGHTS").is_some_and(|value| value == "1");
        let advice = "run `moe2 models pull --all` (or set MOE2_SKIP_WEIGHTS=1)";
        assert!(skip, "{} is absent: {advice}", path.display());
        let line = format!("skipped: {} is absent\n", path.display());
        std::io::stderr().write_all(line.as_bytes()).ok();
        return None;
    }
    Some(path)
}

/// This test's turn: two busy workers on few cores only make each other wait. A lock on a file, as
/// some runners give every test a process of its own.
pub(crate) fn turn() -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("one-worker-at-a-time");
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .expect("a lock file");
    file.lock().expect("the lock is granted");
    file
}

/// What came back for one piece of work.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) texts: usize,
    pub(crate) logprobs: Vec<f64>,
    pub(crate) finish: Option<FinishReason>,
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) failed: Option<(FailureKind, String)>,
}

/// A running worker; killed when dropped.
pub(crate) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    messages: mpsc::Receiver<FromWorker>,
    next: u64,
}

impl Worker {
    /// Starts one and returns it with its first message.
    pub(crate) fn start(model: &Path, chat: &str, size: (u32, u32, u32)) -> (Self, FromWorker) {
        let (context, parallel, prefixes) = size;
        let mut child = Command::new(env!("CARGO_BIN_EXE_moe2-worker"))
            .arg("--model")
            .arg(model)
            .args(["--threads", "2", "--chat", chat])
            .args(["--prefixes", &prefixes.to_string(), "--context"])
            .arg(context.to_string())
            .args(["--parallel", &parallel.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        let (sender, messages) = mpsc::channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || pump(stdout, &sender));
        let stdin = child.stdin.take();
        let worker = Self {
            child,
            stdin,
            messages,
            next: 0,
        };
        let first = worker.receive();
        (worker, first)
    }

    /// Starts one on a model of the manifest, ready for one piece of work at a time.
    pub(crate) fn ready(model: (&str, &str), context: u32) -> Option<Self> {
        Self::ready_for(model, (context, 1, 0))
    }

    /// Starts one with so many tokens of context for each of so many at once, which keeps so many
    /// that have ended.
    pub(crate) fn ready_for((file, chat): (&str, &str), size: (u32, u32, u32)) -> Option<Self> {
        let (worker, first) = Self::start(&weights(file)?, chat, size);
        assert!(matches!(first, FromWorker::Ready { .. }), "{first:?}");
        Some(worker)
    }

    pub(crate) fn receive(&self) -> FromWorker {
        self.messages
            .recv_timeout(PATIENCE)
            .expect("the worker answers")
    }

    pub(crate) fn send(&mut self, message: &ToWorker) {
        let frame = encode_frame(message).expect("it fits");
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin
            .write_all(&frame)
            .and_then(|()| stdin.flush())
            .expect("the worker listens");
    }

    pub(crate) fn begin(&mut self, prompt: Prompt, task: Task) -> DispatchId {
        self.next += 1;
        let dispatch = DispatchId(self.next);
        self.send(&ToWorker::Start {
            dispatch,
            prompt,
            task,
        });
        dispatch
    }

    pub(crate) fn cancel(&mut self, dispatch: DispatchId) {
        self.send(&ToWorker::Cancel { dispatch });
    }

    /// Collects up to the terminal message.
    pub(crate) fn collect(&self, wanted: DispatchId) -> Reply {
        let mut reply = Reply::default();
        loop {
            match self.receive() {
                FromWorker::Text { dispatch, text } if dispatch == wanted => {
                    reply.text.push_str(&text);
                    reply.texts += 1;
                }
                FromWorker::Options { dispatch, logprobs } if dispatch == wanted => {
                    reply.logprobs = logprobs;
                }
                FromWorker::Finished {
                    dispatch,
                    finish,
                    prompt_tokens,
                    cached_tokens,
                    output_tokens,
                    ..
                } if dispatch == wanted => {
                    reply.finish = Some(finish);
                    reply.cached_tokens = cached_tokens;
                    (reply.prompt_tokens, reply.output_tokens) = (prompt_tokens, output_tokens);
                    return reply;
                }
                FromWorker::Failed {
                    dispatch,
                    kind,
                    message,
                } if dispatch == wanted => {
                    reply.failed = Some((kind, message));
                    return reply;
                }
                other => unreachable!("{other:?} while waiting for {wanted}"),
            }
        }
    }

    pub(crate) fn ask(&mut self, prompt: Prompt, task: Task) -> Reply {
        let dispatch = self.begin(prompt, task);
        self.collect(dispatch)
    }

    /// Closes the worker's standard input and returns how it ended.
    pub(crate) fn hang_up(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.ended()
    }

    /// Waits for the worker to end by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        // The pipe closes when the process ends; what it still sent is of no interest here.
        while self.messages.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().expect("the worker can be waited for")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn pump(mut stdout: ChildStdout, sender: &mpsc::Sender<FromWorker>) {
    let mut decoder = FrameDecoder::default();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stdout.read(&mut buffer) {
        decoder.push(&buffer[..count]);
        while let Some(message) = decoder.next_message().expect("stdout carries frames only") {
            if sender.send(message).is_err() {
                return;
            }
        }
    }
}

pub(crate) fn user(content: &str) -> Prompt {
    Prompt::Chat(vec![Message {
        role: Role::User,
        content: content.to_owned(),
    }])
}

/// Greedy text of at most `max_tokens` tokens.
pub(crate) fn greedy(max_tokens: u32) -> Task {
    let stop = Vec::new();
    Task::Generate(Sampling {
        max_tokens,
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
        stop,
    })
}

pub(crate) fn choice(options: &[&str]) -> Task {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    Task::Choice { options }
}
