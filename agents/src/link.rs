//! The connection to the coordinator: identity, control stream, and a stream for each dispatch.
//!
//! One task per connection; it reports its end exactly once, and the engine decides when to dial
//! again.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use moe2_engine::agent::{Input, Work};
use moe2_model::{DispatchId, NodeId};
use moe2_net::{
    ConnectError, CoordinatorConnection, FrameReceiver, FrameSender, Identity, JoinError,
    JoinToken, connect, enrol, renew,
};
use moe2_wire::{FromAgent, FromExpert, ToAgent, ToExpert};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Between attempts with a join token that was refused; a new token file is noticed by then.
const REFUSED_RETRY: Duration = Duration::from_secs(30);
/// Longest that a due renewal may stay unnoticed.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(3_600);
/// Shortest time between attempts to renew.
const RENEW_RETRY: Duration = Duration::from_secs(60);
/// What dialling needs.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    pub(crate) coordinator: String,
    pub(crate) node: NodeId,
    pub(crate) identity_dir: PathBuf,
    pub(crate) join_token_file: Option<PathBuf>,
}

/// What a connection tells the driver.
#[derive(Debug)]
pub(crate) enum FromLink {
    /// Connected; control messages go here.
    Up(mpsc::UnboundedSender<FromAgent>),
    /// A dispatch arrived; its frames go here.
    Work(DispatchId, Box<Work>, mpsc::UnboundedSender<FromExpert>),
    /// Anything else.
    Input(Input),
}

/// Dials, serves the connection and reports its end. After a refusal the report waits: the same
/// token will not be honoured a moment later, and the coordinator's log is not to be filled.
pub(crate) async fn run(dial: Dial, to: mpsc::Sender<FromLink>) {
    let (reason, refused) = match serve(&dial, &to).await {
        Ok(reason) => (reason, false),
        Err(error) => {
            let join = error.downcast_ref::<JoinError>();
            let refused = matches!(join, Some(JoinError::Refused(_) | JoinError::WrongPin));
            let connect = error.downcast_ref::<ConnectError>();
            let over = matches!(connect, Some(ConnectError::Revoked | ConnectError::Expired));
            let refused = refused || over;
            (format!("{error:#}"), refused)
        }
    };
    tracing::warn!(coordinator = dial.coordinator, reason, "not connected");
    if refused {
        sleep(REFUSED_RETRY).await;
    }
    let _ = to
        .send(FromLink::Input(Input::Disconnected { reason }))
        .await;
}

async fn serve(dial: &Dial, to: &mpsc::Sender<FromLink>) -> anyhow::Result<String> {
    let identity = identity(dial).await?;
    let connected = connect(&dial.coordinator, &identity, SystemTime::now()).await;
    let (connection, identity) = match connected {
        // The operator has given it a new token, or has not.
        Err(ConnectError::Revoked) if dial.join_token_file.is_some() => {
            let identity = join(dial).await?;
            let connection = connect(&dial.coordinator, &identity, SystemTime::now()).await?;
            (connection, identity)
        }
        connected => (connected?, identity),
    };
    let (sender, receiver) = connection.open_control().await?;
    tracing::info!(coordinator = dial.coordinator, "connected");
    let (control, said) = mpsc::unbounded_channel();
    to.send(FromLink::Up(control)).await?;
    let reason = tokio::select! {
        reason = converse(sender, receiver, said, to) => reason,
        reason = take_work(&connection, to) => reason,
        reason = connection.closed() => reason,
        never = keep_identity(dial, identity) => match never {},
    };
    connection.close(&reason);
    Ok(reason)
}

/// The stored identity, or a new one for the join token.
pub(crate) async fn identity(dial: &Dial) -> anyhow::Result<Identity> {
    let stored = Identity::load(&dial.identity_dir)?;
    if let Some(identity) = stored {
        if identity.node != dial.node {
            bail!(
                "the certificate in {} is for node `{}`, and the configuration says `{}`: use another state_dir, or remove that one and join with a new token",
                dial.identity_dir.display(),
                identity.node,
                dial.node,
            );
        }
        // An expired certificate is of no more use; a new token, if there is one, gets another.
        if identity.not_after() > SystemTime::now() || dial.join_token_file.is_none() {
            return Ok(identity);
        }
    }
    join(dial).await
}

/// Renews the certificate whenever two thirds of its life are over. The connection stays: it was admitted with
/// the one before.
async fn keep_identity(dial: &Dial, mut identity: Identity) -> std::convert::Infallible {
    loop {
        let now = SystemTime::now();
        let due = identity.renew_at().duration_since(now).unwrap_or_default();
        // Clocks that are set while this machine sleeps are noticed within the hour.
        if !due.is_zero() {
            sleep(due.min(LOOK_AT_CLOCK)).await;
            continue;
        }
        match renewed(dial, &identity).await {
            Ok(new) => {
                tracing::info!(node = %dial.node, "certificate renewed");
                identity = new;
                // Where clocks differ by much the new one may look due at once.
                sleep(LOOK_AT_CLOCK).await;
            }
            Err(error) => {
                let left = identity.not_after().duration_since(now).unwrap_or_default();
                let days = left.as_secs() / 86_400;
                let reason = format!("{error:#}");
                tracing::warn!(reason, days, "the certificate was not renewed; tried again");
                sleep((left / 16).clamp(RENEW_RETRY, LOOK_AT_CLOCK)).await;
            }
        }
    }
}

async fn renewed(dial: &Dial, identity: &Identity) -> anyhow::Result<Identity> {
    let new = renew(&dial.coordinator, identity).await?;
    save(dial, &new)?;
    Ok(new)
}

fn save(dial: &Dial, identity: &Identity) -> anyhow::Result<()> {
    let dir = &dial.identity_dir;
    let saved = identity.save(dir);
    saved.with_context(|| format!("cannot save the certificate in {}", dir.display()))
}

/// A new identity for the join token.
async fn join(dial: &Dial) -> anyhow::Result<Identity> {
    let file = dial.join_token_file.as_ref().context(
        "this agent has no certificate yet: make a token with `moe2 join-token create` and name its file as `join_token_file`",
    )?;
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the join token {}", file.display()))?;
    let token: JoinToken = text.trim().parse()?;
    let identity = enrol(&dial.coordinator, &token, &dial.node).await?;
    save(dial, &identity)?;
    tracing::info!(node = %dial.node, "enrolled");
    Ok(identity)
}

async fn converse(
    mut sender: FrameSender,
    mut receiver: FrameReceiver,
    mut said: mpsc::UnboundedReceiver<FromAgent>,
    to: &mpsc::Sender<FromLink>,
) -> String {
    loop {
        tokio::select! {
            message = receiver.recv::<ToAgent>() => match message {
                Ok(Some(message)) => {
                    if let ToAgent::Refused(refused) = &message {
                        tracing::error!(reason = %refused, "the coordinator refused this agent");
                    }
                    let input = Input::Control(message);
                    if to.send(FromLink::Input(input)).await.is_err() {
                        return "the agent is ending".to_owned();
                    }
                }
                Ok(None) => return "the coordinator closed the control stream".to_owned(),
                Err(error) => return error.to_string(),
            },
            message = said.recv() => {
                let Some(message) = message else { return "the agent is ending".to_owned() };
                if let Err(error) = sender.send(&message).await {
                    return error.to_string();
                }
            }
        }
    }
}

async fn take_work(connection: &CoordinatorConnection, to: &mpsc::Sender<FromLink>) -> String {
    loop {
        match connection.accept_work().await {
            Ok(streams) => {
                tokio::spawn(work(streams, to.clone()));
            }
            Err(error) => return error.to_string(),
        }
    }
}

/// One dispatch's stream, until its terminal frame is sent or the stream breaks.
async fn work(
    (mut sender, mut receiver): (FrameSender, FrameReceiver),
    to: mpsc::Sender<FromLink>,
) {
    let first = receiver.recv::<ToExpert>().await;
    let Ok(Some(ToExpert::Work {
        dispatch,
        expert,
        prompt,
        task,
        deadline_ms,
    })) = first
    else {
        tracing::warn!("a stream did not begin with work");
        return;
    };
    let (frames, mut ready) = mpsc::unbounded_channel::<FromExpert>();
    let work = Box::new(Work {
        expert,
        prompt,
        task,
        deadline_ms,
    });
    if to
        .send(FromLink::Work(dispatch, work, frames))
        .await
        .is_err()
    {
        return;
    }
    let mut listening = true;
    loop {
        tokio::select! {
            frame = ready.recv() => {
                let Some(frame) = frame else { return };
                let terminal = frame.is_terminal();
                if sender.send(&frame).await.is_err() {
                    break;
                }
                if terminal {
                    sender.finish();
                    return;
                }
            }
            said = receiver.recv::<ToExpert>(), if listening => match said {
                Ok(Some(ToExpert::Cancel)) => {
                    let _ = to.send(FromLink::Input(Input::Cancel { dispatch })).await;
                }
                // The coordinator keeps its half open while it may still cancel; closing it is fine.
                Ok(None) => listening = false,
                Ok(Some(ToExpert::Work { .. })) | Err(_) => break,
            },
        }
    }
    let _ = to.send(FromLink::Input(Input::Cancel { dispatch })).await;
}
