//! One worker process: started, spoken to through its pipes, and its end noticed.
//!
//! The process exits by itself when its standard input closes, so an agent that is killed leaves
//! none behind; `kill_on_drop` covers an agent that ends in order.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use moe2_engine::agent::Input;
use moe2_model::ExpertName;
use moe2_wire::{FrameDecoder, FromWorker, ToWorker, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How long a process may take to end once its standard input is closed; then it is killed.
pub(crate) const END_PATIENCE: Duration = Duration::from_secs(2);

/// How to start the worker of an expert.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    pub(crate) model: PathBuf,
    pub(crate) threads: u32,
    pub(crate) context: u32,
    /// Pieces of work at once.
    pub(crate) parallel: u32,
    /// Ended sequences whose beginnings others may take over.
    pub(crate) prefixes: u32,
    pub(crate) plain: bool,
}

/// A way to speak to a running worker.
pub(crate) type WorkerLine = mpsc::UnboundedSender<ToWorker>;

/// Starts a worker; what it says, and its end, arrive as inputs. The task ends when the process has
/// ended and was waited for; dropping the line closes the process's standard input, which ends it.
pub(crate) fn start(
    expert: ExpertName,
    launch: &Launch,
    inputs: mpsc::Sender<Input>,
) -> std::io::Result<(WorkerLine, JoinHandle<()>)> {
    let mut command = Command::new(&launch.binary);
    command
        .arg("--model")
        .arg(&launch.model)
        .args(["--threads", &launch.threads.to_string()])
        .args(["--context", &launch.context.to_string()])
        .args(["--parallel", &launch.parallel.to_string()])
        .args(["--prefixes", &launch.prefixes.to_string()])
        .args(["--chat", if launch.plain { "plain" } else { "template" }])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (line, said) = mpsc::unbounded_channel();
    tracing::info!(%expert, pid = child.id(), "worker started");
    let task = tokio::spawn(async move {
        let reason = match (stdin, stdout) {
            (Some(stdin), Some(stdout)) => {
                tokio::select! {
                    ended = read(&expert, stdout, &inputs) => ended,
                    stuck = write_and_wait(stdin, said) => Err(stuck),
                }
            }
            _ => Err("its pipes could not be opened".to_owned()),
        };
        let reason = describe_end(&mut child, reason).await;
        tracing::warn!(%expert, reason, "worker ended");
        let _ = inputs.send(Input::WorkerExited { expert, reason }).await;
    });
    Ok((line, task))
}

async fn describe_end(child: &mut Child, ended: Result<(), String>) -> String {
    if let Err(reason) = ended {
        let _ = child.kill().await;
        return format!("the worker was stopped: {reason}");
    }
    match child.wait().await {
        Ok(status) => format!("the worker process ended with {status}"),
        Err(error) => format!("the worker process was lost: {error}"),
    }
}

/// Writes until the line is dropped, and then gives the process a moment to end by itself.
async fn write_and_wait(stdin: ChildStdin, said: mpsc::UnboundedReceiver<ToWorker>) -> String {
    write(stdin, said).await;
    sleep(END_PATIENCE).await;
    "it did not end when it was told to".to_owned()
}

async fn write(mut stdin: ChildStdin, mut said: mpsc::UnboundedReceiver<ToWorker>) {
    while let Some(message) = said.recv().await {
        let Ok(frame) = encode_frame(&message) else {
            continue;
        };
        if stdin.write_all(&frame).await.is_err() || stdin.flush().await.is_err() {
            // The process is gone; the reader reports it.
            return;
        }
    }
}

async fn read(
    expert: &ExpertName,
    mut stdout: ChildStdout,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), String> {
    let mut decoder = FrameDecoder::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = stdout.read(&mut buffer).await.map_err(|e| e.to_string())?;
        if read == 0 {
            return Ok(());
        }
        decoder.push(&buffer[..read]);
        while let Some(message) = decoder
            .next_message::<FromWorker>()
            .map_err(|e| e.to_string())?
        {
            let input = Input::Worker {
                expert: expert.clone(),
                message,
            };
            if inputs.send(input).await.is_err() {
                return Ok(());
            }
        }
    }
}
