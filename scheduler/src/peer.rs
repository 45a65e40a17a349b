//! One agent's connection as the driver uses it: a control line, and a stream for each dispatch.
//!
//! Each stream has a task of its own that reads frames into the engine's inputs, so a slow agent
//! holds up nobody; the engine's task only opens streams and never waits for one.

use std::time::{Duration, Instant};

use moe2_engine::coordinator::Input;
use moe2_metrics::Metrics;
use moe2_model::{DispatchId, NodeId, Seconds, SessionId};
use moe2_net::{AgentConnection, Crowd, FrameReceiver, FrameSender, Present, StreamError};
use moe2_wire::{FromAgent, FromExpert, ToAgent, ToExpert};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::handle::EngineHandle;

/// Longest an agent may take to accept a stream, or from its admission to its whole hello.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one node that have not said hello yet: one that was lost while it dialled, and some more.
const MAX_UNHEARD: usize = 4;
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

/// Counts each node's connections that have not said hello yet. One that has takes the place of the one before it,
/// so no more of a node can be open than these and one.
pub(crate) fn unheard() -> Crowd<NodeId> {
    Crowd::of(MAX_UNHEARD)
}

/// Serves one agent's connection until it ends.
pub(crate) async fn serve(
    connection: AgentConnection,
    engine: EngineHandle,
    unheard: Crowd<NodeId>,
) {
    let node = connection.node().clone();
    let Some(unheard) = unheard.enter(node.clone()) else {
        let reason = "too many connections of this node have not said hello";
        tracing::warn!(%node, reason, "agent refused");
        connection.close(reason);
        return;
    };
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
        reason = converse(&connection, (session, node.clone(), unheard), said, &engine) => reason,
        reason = connection.closed() => reason,
    };
    connection.close(&reason);
    tracing::warn!(%node, %session, reason, "agent disconnected");
    let _ = engine.input(Input::AgentLost { session, reason }).await;
}

async fn converse(
    connection: &AgentConnection,
    (session, node, unheard): (SessionId, NodeId, Present<NodeId>),
    mut said: mpsc::UnboundedReceiver<ToAgent>,
    engine: &EngineHandle,
) -> String {
    let first = async {
        let (sender, mut receiver) = connection.accept_control().await?;
        let hello = receiver.recv::<FromAgent>().await?;
        Ok::<_, StreamError>((sender, receiver, hello.ok_or(StreamError::Missing)?))
    };
    let (mut sender, mut receiver, hello) = match timeout(OPEN_TIMEOUT, first).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "the agent did not say hello in time".to_owned(),
    };
    drop(unheard);
    let hello = Input::Agent {
        session,
        node: node.clone(),
        message: hello,
    };
    if engine.input(hello).await.is_err() {
        return "the coordinator is shutting down".to_owned();
    }
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::SystemTime;

    use moe2_model::ExpertState;
    use moe2_net::{
        Accepted, Authority, CoordinatorConnection, Identity, Listener, Revoked, connect,
    };
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::handle::{Command, Planning};
    use crate::http::tests::fleet;

    /// A coordinator's port whose connections are served, and an identity for it.
    fn served() -> (String, Identity, mpsc::Receiver<Command>) {
        let now = SystemTime::now();
        let authority = Authority::create(now).expect("a key can be made");
        let node = NodeId::new("n1").expect("a valid name");
        let key = KeyPair::generate().expect("a key can be made");
        let csr = CertificateParams::default().serialize_request(&key);
        let csr = csr.expect("it can be signed");
        let issued = authority.sign_agent(csr.der(), &node, Duration::from_secs(3_600), now);
        let identity = Identity {
            node,
            certificate_der: issued.expect("it is sound").certificate_der,
            key_pkcs8_der: key.serialize_der(),
            ca_der: authority.ca_der().to_vec(),
        };
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let mut listener = Listener::bind(any, &authority, now, Revoked::new([])).expect("a port");
        let address = listener.local_addr().to_string();
        let (commands, inbox) = mpsc::channel(64);
        let (_, view) = tokio::sync::watch::channel(Arc::new(fleet(ExpertState::Ready)));
        let planning = tokio::sync::watch::channel(Planning::default()).1;
        let engine = EngineHandle::new(1, commands, view, planning);
        tokio::spawn(async move {
            let unheard = unheard();
            while let Some(Accepted::Agent(connection)) = listener.accept().await {
                tokio::spawn(serve(connection, engine.clone(), unheard.clone()));
            }
        });
        (address, identity, inbox)
    }

    async fn dial(address: &str, identity: &Identity) -> CoordinatorConnection {
        let connected = connect(address, identity, SystemTime::now()).await;
        connected.expect("the certificate is good")
    }

    #[tokio::test]
    async fn connections_that_have_not_said_hello_are_few_until_one_of_them_does() {
        let (address, identity, mut inbox) = served();
        let mut silent = Vec::new();
        for _ in 0..MAX_UNHEARD {
            silent.push(dial(&address, &identity).await);
        }
        let reason = dial(&address, &identity).await.closed().await;
        assert!(reason.contains("have not said hello"), "{reason}");
        let (mut control, _replies) = silent[0].open_control().await.expect("it is open");
        control
            .send(&FromAgent::Draining)
            .await
            .expect("it is open");
        let heard = async {
            while !matches!(
                inbox.recv().await,
                Some(Command::Input(Input::Agent { .. }))
            ) {}
        };
        timeout(OPEN_TIMEOUT, heard).await.expect("it is heard");
        let next = dial(&address, &identity).await;
        let closed = timeout(Duration::from_millis(200), next.closed()).await;
        assert!(closed.is_err(), "there is a place again");
    }
}
