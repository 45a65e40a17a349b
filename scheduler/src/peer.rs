//! One agent's connection as the driver uses it: a control line, and a stream for each dispatch.
//!
//! Each stream has a task of its own that reads frames into the engine's inputs, so a slow agent
//! holds up nobody; the engine's task only opens streams and never waits for one.

use std::time::Instant;

use moe2_engine::coordinator::Input;
use moe2_metrics::Metrics;
use moe2_model::{DispatchId, NodeId, Seconds, SessionId};
use moe2_net::{AgentConnection, FrameReceiver, FrameSender, StreamError};
use moe2_wire::{FromAgent, FromExpert, ToAgent, ToExpert};
use tokio::sync::{mpsc, oneshot};

use crate::handle::EngineHandle;

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
        let (cancel, cancelled) = oneshot::channel();
        let connection = self.connection.clone();
        tokio::spawn(async move {
            let opened = async {
                let (mut sender, receiver) = connection.open_work().await?;
                sender.send(&work).await?;
                Ok::<_, StreamError>((sender, receiver))
            };
            let ended = match opened.await {
                Ok(streams) => {
                    if let Some(parsed) = parsed {
                        metrics.dispatched_in(Seconds::from_duration(parsed.elapsed()));
                    }
                    drop(work);
                    relay(dispatch, streams, cancelled, &engine).await
                }
                Err(error) => Some(error.to_string()),
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
    tracing::warn!(%node, %session, reason, "agent disconnected");
    let _ = engine.input(Input::AgentLost { session, reason }).await;
}

async fn converse(
    connection: &AgentConnection,
    (session, node): (SessionId, NodeId),
    mut said: mpsc::UnboundedReceiver<ToAgent>,
    engine: &EngineHandle,
) -> String {
    let (mut sender, mut receiver) = match connection.accept_control().await {
        Ok(streams) => streams,
        Err(error) => return error.to_string(),
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
