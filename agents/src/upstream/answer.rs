//! One piece of work at a server: asked, read as it comes, ended.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use moe2_model::{FinishReason, Prompt, Sampling};
use serde_json::Value;
use tokio::time::timeout;

use super::choice::{Choosing, picked, scores};
use super::chunk::{self, Counted, Finish};
use super::failure::Failure;
use super::http::{Client, Reply};
use super::sse::{Limits, Parser};
use super::{Patience, request};

/// A token with the text and number of each of twenty alternatives is 4 KiB; servers send several tokens
/// in an event if they must.
const MAX_LINE: usize = 256 * 1024;
/// Longest text that is sent on in one piece, bytes; the coordinator takes 64 KiB.
const MAX_PIECE: usize = 32 * 1024;

/// A server and how it is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) model: String,
    pub(super) context_tokens: u32,
    pub(super) patience: Patience,
}

/// How far a piece of work has come; it stays when the work is dropped in the middle.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    first_token: Option<Instant>,
    /// Events with a token in them.
    deltas: u32,
    usage: Option<Counted>,
    likeliest: Vec<(String, f64)>,
    prompt_bytes: usize,
}

/// What it has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) prefill: Duration,
    pub(super) decode: Duration,
}

impl Progress {
    pub(super) fn of(prompt: &Prompt) -> Self {
        Self {
            began: Instant::now(),
            first_token: None,
            deltas: 0,
            usage: None,
            likeliest: Vec::new(),
            prompt_bytes: prompt.text_bytes(),
        }
    }

    /// Tokens as the server says; if it does not, one for each event of the answer, and four bytes of
    /// prompt for a token.
    pub(super) fn used(&self) -> Used {
        let counted = self.usage.unwrap_or_else(|| Counted {
            prompt: u32::try_from(self.prompt_bytes / 4).unwrap_or(u32::MAX),
            cached: 0,
            output: self.deltas,
        });
        let first = self.first_token.unwrap_or_else(Instant::now);
        Used {
            prompt_tokens: counted.prompt,
            cached_tokens: counted.cached,
            output_tokens: counted.output,
            prefill: first.duration_since(self.began),
            decode: first.elapsed(),
        }
    }
}

/// Where text goes; a server is read no faster than it is taken.
pub(super) trait Sink {
    /// Takes a piece.
    async fn take(&mut self, text: String);
}

/// For answers that come to few words.
impl Sink for String {
    async fn take(&mut self, text: String) {
        self.push_str(&text);
    }
}

impl Server {
    /// Asks for text, which goes to `sink` as it comes.
    pub(super) async fn generate(
        &self,
        (prompt, sampling): (&Prompt, &Sampling),
        progress: &mut Progress,
        sink: &mut impl Sink,
    ) -> Result<FinishReason, Failure> {
        let body = request::text(&self.model, prompt, sampling);
        let asked = (request::path(prompt), body, sampling.max_tokens);
        self.converse(asked, progress, sink).await
    }

    /// Has it choose one of `options`: the log-probability of each, or of the one that was picked.
    pub(super) async fn choose(
        &self,
        (prompt, options): (&Prompt, &[String]),
        choosing: Choosing,
        progress: &mut Progress,
    ) -> Result<Vec<f64>, Failure> {
        let body = request::choice(&self.model, prompt, options, choosing);
        let longest = options.iter().map(String::len).max().unwrap_or(0);
        let most = u32::try_from(longest).unwrap_or(u32::MAX).saturating_add(8);
        let mut text = String::new();
        let asked = (request::path(prompt), body, most);
        self.converse(asked, progress, &mut text).await?;
        if let Some(scores) = scores(options, &progress.likeliest) {
            return Ok(scores);
        }
        let picked = choosing
            .held_by
            .and_then(|_| picked(options, &text, choosing));
        let index = picked.ok_or(Failure::NoOption)?;
        Ok(moe2_wire::picked(index, options.len()))
    }

    /// Sends `body` to `path` and reads the stream that comes back, of at most `tokens` tokens.
    async fn converse(
        &self,
        (path, body, tokens): (&str, Value, u32),
        progress: &mut Progress,
        sink: &mut impl Sink,
    ) -> Result<FinishReason, Failure> {
        let body = body.to_string().into_bytes();
        let total = (u64::from(tokens) + 64) * 16 * 1024;
        let mut parser = Parser::new(Limits {
            line: MAX_LINE,
            event: MAX_LINE,
            total,
        });
        let mut finish = None;
        let mut deadline = Deadline::new(self.patience.first_token);
        let mut reply = deadline.wait(self.client.send(path, Some(body))).await?;
        self.stream_of(&mut reply, &deadline).await?;
        loop {
            let bytes = match deadline.wait(reply.next_bytes()).await {
                Ok(bytes) => bytes,
                // It was whole.
                Err(_) if finish.is_some() => None,
                Err(Failure::Unreachable(error)) => {
                    return Err(Failure::BrokeOff(error.to_string()));
                }
                Err(failure) => return Err(failure),
            };
            let Some(bytes) = bytes else {
                return finish.ok_or_else(|| Failure::BrokeOff("it has no end".to_owned()));
            };
            let pushed = parser.push(&bytes);
            while let Some(event) = parser.next_event() {
                if event.data == "[DONE]" {
                    return Ok(finish.unwrap_or(FinishReason::Stop));
                }
                let chunk = chunk::read(&event.data)?;
                progress.note(&chunk);
                let goes_on = chunk.token || chunk.finish.is_some();
                for piece in pieces(chunk.text) {
                    sink.take(piece).await;
                }
                if goes_on {
                    // From here, so that waiting for who takes the text is not the server's silence.
                    deadline = Deadline::new(self.patience.next_token);
                }
                match chunk.finish {
                    Some(Finish::As(reason)) => finish = Some(reason),
                    Some(Finish::Other(reason)) => return Err(Failure::Ended(reason)),
                    None => {}
                }
            }
            pushed?;
        }
    }

    /// Whether a reply is a stream of events; reads what it is if not.
    async fn stream_of(&self, reply: &mut Reply, deadline: &Deadline) -> Result<(), Failure> {
        if reply.status() != StatusCode::OK {
            let status = reply.status();
            let body = deadline.wait(reply.whole()).await.unwrap_or_default();
            return Err(Failure::of_status(status, &body, self.context_tokens));
        }
        if reply.is_of_type("text/event-stream") {
            return Ok(());
        }
        let said = reply.content_type().chars().take(64).collect();
        Err(Failure::NoStream(said))
    }
}

impl Progress {
    /// Whether the server said how likely the first token was.
    pub(super) fn has_likeliest(&self) -> bool {
        !self.likeliest.is_empty()
    }

    fn note(&mut self, chunk: &chunk::Chunk) {
        if chunk.token {
            self.deltas = self.deltas.saturating_add(1);
            self.first_token.get_or_insert_with(Instant::now);
        }
        if self.likeliest.is_empty() {
            self.likeliest.clone_from(&chunk.likeliest);
        }
        self.usage = chunk.usage.or(self.usage);
    }
}

/// Text in pieces that fit a frame; none of it, if it is empty.
fn pieces(text: String) -> Vec<String> {
    if text.len() <= MAX_PIECE {
        return if text.is_empty() {
            Vec::new()
        } else {
            vec![text]
        };
    }
    let mut pieces = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(MAX_PIECE));
        pieces.push(piece.to_owned());
        rest = after;
    }
    pieces
}

/// A moment by which something must have been said. Comments, with which servers keep connections open,
/// do not put it off.
struct Deadline {
    at: Instant,
    patience: Duration,
}

impl Deadline {
    fn new(patience: Duration) -> Self {
        Self {
            at: Instant::now() + patience,
            patience,
        }
    }

    async fn wait<T>(
        &self,
        what: impl Future<Output = Result<T, super::http::HttpError>>,
    ) -> Result<T, Failure> {
        let left = self.at.saturating_duration_since(Instant::now());
        match timeout(left, what).await {
            Ok(done) => done.map_err(Failure::Unreachable),
            Err(_) => Err(Failure::Silent(self.patience.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        assert!(pieces(String::new()).is_empty());
        let text = format!("a{}", "ä".repeat(MAX_PIECE));
        let pieces = pieces(text.clone());
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|piece| piece.len() <= MAX_PIECE));
        assert_eq!(pieces.concat(), text);
    }
}
