//! One agent's connection as the driver uses it: a control line, and a stream for each dispatch.
//!
//! Each stream has a task of its own that reads frames into the engine's inputs, so a slow agent
//! holds up nobody; the engine's task only opens streams and never waits for one.

use std::time::{Duration, Instant};

use moe2_engine::coordinator::Input;
use moe2_metrics::Metrics;
use moe2_model::{DispatchId, NodeId, Seconds, SessionId};
use moe2_net::{AgentConnection, FrameReceiver, FrameSender, StreamError};
use moe2_wire::{FromAgent, FromExpert, ToAgent, ToExpert};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::handle::EngineHandle;

/// Longest an agent may take to accept a stream or to say hello.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest piece of answer in one frame: a token is far shorter.
const MAX_TEXT: usize = 64 * 1024;

/// What the driver keeps of a connected agent.
#[derive(Debug, Clone)]
pub(crate) struct AgentPeer {
    connection: AgentConnection,
    control: mpsc::UnboundedSender<ToAgent>,
}

impl AgentPeer {
    /// Says something on the control stream.
    pub(crate) fn say(&self, message: ToAgent) {
        // A failure means the connection is ending, and its reader reports that.
        let _ = self.control.send(message);
    }

    /// Ends the connection.
    pub(crate) fn close(&self, reason: &str) {
        self.connection.close(reason);
    }

    /// Opens a stream with work on it and reads it to its end in a task of its own. The returned
    /// sender cancels; `parsed` is when the query was parsed, for its first dispatch.
    pub(crate) fn dispatch(
        &self,
        (dispatch, work): (DispatchId, ToExpert),
        parsed: Option<Instant>,
        (engine, metrics): (EngineHandle, Metrics),
    ) -> oneshot::Sender<()> {
        let (cancel, mut cancelled) = oneshot::channel();
        let connection = self.connection.clone();
        tokio::spawn(async move {
            let opened = async {
                let (mut sender, receiver) = connection.open_work().await?;
                sender.send(&work).await?;
                Ok::<_, StreamError>((sender, receiver))
            };
            let ended = tokio::select! {
                // A peer that gives no stream credit must not hold on to a query that is over.
                _ = &mut cancelled => Some("cancelled before it was sent".to_owned()),
                opened = timeout(OPEN_TIMEOUT, opened) => match opened {
                    Ok(Ok(streams)) => {
                        if let Some(parsed) = parsed {
                            metrics.dispatched_in(Seconds::from_duration(parsed.elapsed()));
                        }
                        relay(dispatch, streams, cancelled, &engine).await
                    }
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("the agent did not take the work".to_owned()),
                },
            };
            if let Some(reason) = ended {
                let _ = engine.input(Input::WorkLost { dispatch, reason }).await;
            }
        });
        cancel
    }
}

/// Frames to inputs until the terminal one. `Some` is why it ended without one.
async fn relay(
    dispatch: DispatchId,
    (mut sender, mut receiver): (FrameSender, FrameReceiver),
    mut cancelled: oneshot::Receiver<()>,
    engine: &EngineHandle,
) -> Option<String> {
    let mut may_cancel = true;
    loop {
        tokio::select! {
            frame = receiver.recv::<FromExpert>() => match frame {
                Ok(Some(FromExpert::Text(text))) if text.len() > MAX_TEXT => {
                    return Some("a piece of answer is too long".to_owned());
                }
                Ok(Some(frame)) => {
                    let terminal = frame.is_terminal();
                    engine.input(Input::Work { dispatch, frame }).await.ok()?;
                    if terminal {
                        return None;
                    }
                }
                Ok(None) => return Some("the agent ended the stream".to_owned()),
                Err(error) => return Some(error.to_string()),
            },
            wanted = &mut cancelled, if may_cancel => {
                may_cancel = false;
                if wanted.is_ok() && let Err(error) = sender.send(&ToExpert::Cancel).await {
                    return Some(error.to_string());
                }
            }
        }
    }
}

/// Serves one agent's connection until it ends.
pub(crate) async fn serve(connection: AgentConnection, engine: EngineHandle) {
    let node = connection.node().clone();
    let remote = connection.remote();
    let (control, said) = mpsc::unbounded_channel();
    let peer = AgentPeer {
        connection: connection.clone(),
        control,
    };
    let Ok(session) = engine.attach(peer).await else {
        return;
    };
    tracing::info!(%node, %remote, %session, "agent connected");
    let reason = tokio::select! {
        reason = converse(&connection, (session, node.clone()), said, &engine) => reason,
        reason = connection.closed() => reason,
    };
    connection.close(&reason);
    tracing::warn!(%node, %session, reason, "agent disconnected");
    let _ = engine.input(Input::AgentLost { session, reason }).await;
}

async fn converse(
    connection: &AgentConnection,
    (session, node): (SessionId, NodeId),
    mut said: mpsc::UnboundedReceiver<ToAgent>,
    engine: &EngineHandle,
) -> String {
    let (mut sender, mut receiver) = match timeout(OPEN_TIMEOUT, connection.accept_control()).await
    {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "the agent said nothing".to_owned(),
    };
    loop {
        tokio::select! {
            message = receiver.recv::<FromAgent>() => match message {
                Ok(Some(message)) => {
                    let input = Input::Agent { session, node: node.clone(), message };
                    if engine.input(input).await.is_err() {
                        return "the coordinator is shutting down".to_owned();
                    }
                }
                Ok(None) => return "the agent closed its control stream".to_owned(),
                Err(error) => {
                    let reason = error.to_string();
                    connection.close(&reason);
                    return reason;
                }
            },
            message = said.recv() => {
                let Some(message) = message else { return "replaced".to_owned() };
                if let Err(error) = sender.send(&message).await {
                    return error.to_string();
                }
            }
        }
    }
}
