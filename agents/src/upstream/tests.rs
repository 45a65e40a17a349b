//! What servers do wrong, and what they can do, against one in this process. What every backend keeps is
//! in `backend::contract`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moe2_engine::agent::Input;
use moe2_model::{DispatchId, ExpertName, FinishReason, Message, Prompt, Role, Sampling, Task};
use moe2_wire::{FailureKind, FromWorker, ToWorker, picked, picked_of};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::testing::{
    Act, Asked, ENDLESS, FakeServer, Script, delta, events, finish, json_reply, models, send,
    stream_of, well,
};
use super::{ApiKey, Patience, Settings, WorkerLine, start};

/// The backend on a server, ready.
struct Rig {
    line: WorkerLine,
    inputs: mpsc::Receiver<Input>,
    next: u64,
}

/// What came back for one piece of work.
#[derive(Debug, Default, PartialEq)]
struct Reply {
    text: String,
    options: Vec<f64>,
    finish: Option<FinishReason>,
    tokens: (u32, u32),
    failed: Option<(FailureKind, String)>,
}

impl Rig {
    fn start(settings: Settings) -> Self {
        let (to, inputs) = mpsc::channel(64);
        let (line, _) = start(ExpertName::new("e").expect("a name"), settings, to);
        let next = 0;
        Self { line, inputs, next }
    }

    async fn ready(settings: Settings) -> Self {
        let mut rig = Self::start(settings);
        let first = rig.receive().await;
        assert!(matches!(first, Ok(FromWorker::Ready { .. })), "{first:?}");
        rig
    }

    async fn receive(&mut self) -> Result<FromWorker, String> {
        match self.inputs.recv().await {
            Some(Input::Worker { message, .. }) => Ok(message),
            Some(Input::WorkerExited { reason, .. }) => Err(reason),
            other => unreachable!("{other:?}"),
        }
    }

    fn begin(&mut self, prompt: Prompt, task: Task) -> DispatchId {
        self.next += 1;
        let dispatch = DispatchId(self.next);
        let start = ToWorker::Start {
            dispatch,
            prompt,
            task,
        };
        self.line.send(start).expect("it listens");
        dispatch
    }

    async fn ask(&mut self, prompt: Prompt, task: Task) -> Reply {
        self.begin(prompt, task);
        let mut reply = Reply::default();
        loop {
            match self.receive().await.expect("the server stays") {
                FromWorker::Text { text, .. } => reply.text.push_str(&text),
                FromWorker::Options { logprobs, .. } => reply.options = logprobs,
                FromWorker::Finished {
                    finish,
                    prompt_tokens,
                    output_tokens,
                    ..
                } => {
                    reply.finish = Some(finish);
                    reply.tokens = (prompt_tokens, output_tokens);
                    return reply;
                }
                FromWorker::Failed { kind, message, .. } => {
                    reply.failed = Some((kind, message));
                    return reply;
                }
                other => unreachable!("{other:?}"),
            }
        }
    }
}

fn user() -> Prompt {
    let content = "What now?".to_owned();
    let role = Role::User;
    Prompt::Chat(vec![Message { role, content }])
}

fn text(max_tokens: u32) -> Task {
    Task::Generate(Sampling {
        max_tokens,
        temperature: 0.5,
        top_p: 0.25,
        seed: 9,
        stop: vec!["\n".to_owned()],
    })
}

fn choice(options: &[&str]) -> Task {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    Task::Choice { options }
}

/// A server that answers requests for text with `script`, and all else well.
async fn serving(script: Script) -> FakeServer {
    FakeServer::start(move |asked| {
        if asked.path.ends_with("/models") || is_choice(asked) {
            return well(asked);
        }
        script.clone()
    })
    .await
}

fn is_choice(asked: &Asked) -> bool {
    let keys = [
        "structured_outputs",
        "guided_choice",
        "grammar",
        "response_format",
    ];
    keys.iter().any(|key| asked.body.get(*key).is_some())
}

/// What comes of an answer that the server gives like this.
async fn answered(script: Script) -> Reply {
    let server = serving(script).await;
    let mut rig = Rig::ready(server.settings()).await;
    rig.ask(user(), text(16)).await
}

fn said(mut acts: Vec<Act>) -> Vec<Act> {
    acts.insert(0, send(&format!("data: {}\n\n", delta("so far "))));
    acts
}

#[tokio::test]
async fn an_answer_without_usage_is_counted_by_its_pieces() {
    let data = [delta("a "), delta("b"), finish("stop")];
    let reply = answered(stream_of(events(&data))).await;
    assert_eq!(
        (reply.text.as_str(), reply.finish),
        ("a b", Some(FinishReason::Stop))
    );
    assert_eq!(reply.tokens, (2, 2), "four bytes of prompt for a token");
}

#[tokio::test]
async fn an_answer_ends_with_any_of_its_two_ends() {
    let only_done = answered(stream_of(events(&[delta("a")]))).await;
    assert_eq!(only_done.finish, Some(FinishReason::Stop));
    let mut acts = events(&[delta("a"), finish("length")]);
    acts.pop();
    let only_reason = answered(stream_of(acts.clone())).await;
    assert_eq!(only_reason.finish, Some(FinishReason::Length));
    acts.push(Act::Break);
    let then_broken = answered(stream_of(acts)).await;
    assert_eq!(then_broken.finish, Some(FinishReason::Length));
}

#[tokio::test]
async fn an_answer_that_is_none_fails_with_what_was_wrong_and_what_came_before() {
    let long = format!("data: {}", "x".repeat(300_000));
    for (acts, kind, why) in [
        (vec![], FailureKind::WorkerLost, "no end"),
        (vec![Act::Break], FailureKind::WorkerLost, "broke off"),
        (
            vec![send("data: {\"choices\"")],
            FailureKind::WorkerLost,
            "no end",
        ),
        (
            vec![send("data: {\"choi\n\n")],
            FailureKind::Unavailable,
            "no part of an answer",
        ),
        (
            vec![Act::Send(b"data: \xff\n\n".to_vec())],
            FailureKind::Unavailable,
            "UTF-8",
        ),
        (vec![send(&long)], FailureKind::Unavailable, "longer than"),
        (
            vec![send(
                "event: error\ndata: {\"error\":{\"message\":\"no memory\"}}\n\n",
            )],
            FailureKind::Unavailable,
            "no memory",
        ),
        (
            events(&[finish("content_filter")]),
            FailureKind::Unavailable,
            "content_filter",
        ),
    ] {
        let reply = answered(stream_of(said(acts))).await;
        let (is, words) = reply.failed.expect(why);
        assert_eq!(is, kind, "{words}");
        assert!(words.contains(why), "{words}");
        assert_eq!(reply.text, "so far ");
    }
}

#[tokio::test]
async fn an_endless_stream_of_nothing_is_cut() {
    let comments = Act::Send(b": still here\n\n".repeat(10_000));
    let mut acts = vec![comments; 20];
    acts.push(Act::Hang);
    let (kind, words) = answered(stream_of(acts)).await.failed.expect("cut");
    assert_eq!(kind, FailureKind::Unavailable, "{words}");
    assert!(words.contains("the stream is longer"), "{words}");
}

#[tokio::test]
async fn a_status_is_told_as_what_it_is() {
    let error = json!({"error": {"message": "because", "type": "x"}});
    for (status, kind) in [
        (400, FailureKind::Rejected),
        (401, FailureKind::Unavailable),
        (429, FailureKind::Busy),
        (500, FailureKind::Unavailable),
        (302, FailureKind::Unavailable),
    ] {
        let (is, words) = answered(json_reply(status, &error))
            .await
            .failed
            .expect("refused");
        assert_eq!(is, kind, "{status}");
        assert!(words.contains("because"), "{words}");
    }
}

#[tokio::test]
async fn a_page_instead_of_a_stream_is_refused() {
    for content_type in ["text/html", "application/json", ""] {
        let script = Script {
            status: 200,
            content_type,
            acts: vec![send("<html>")],
        };
        let (kind, words) = answered(script).await.failed.expect("no stream");
        assert_eq!(kind, FailureKind::Unavailable);
        assert!(words.contains("instead of a stream"), "{words}");
    }
}

/// Answers as with little patience; the pause is the server's, not the test's.
async fn impatiently(script: Script) -> (FailureKind, String) {
    let server = serving(script).await;
    let mut settings = server.settings();
    let mut rig = Rig::ready({
        settings.patience = Patience {
            first_token: Duration::from_secs(60),
            next_token: Duration::from_millis(50),
        };
        settings
    })
    .await;
    rig.ask(user(), text(16))
        .await
        .failed
        .expect("the server says nothing")
}

#[tokio::test]
async fn silence_between_tokens_ends_an_answer_and_comments_are_silence() {
    let (kind, words) = impatiently(stream_of(said(vec![Act::Hang]))).await;
    assert_eq!(kind, FailureKind::WorkerLost);
    assert!(words.contains("said nothing"), "{words}");
    let ping = send(": ping\n\n");
    let (kind, _) = impatiently(stream_of(said(vec![ping, Act::Hang]))).await;
    assert_eq!(kind, FailureKind::WorkerLost);
}

#[tokio::test]
async fn silence_before_the_first_token_ends_an_answer() {
    let empty = send(&format!("data: {}\n\n", delta("")));
    for acts in [vec![Act::Hang], vec![empty, Act::Hang]] {
        let server = serving(stream_of(acts)).await;
        let mut settings = server.settings();
        // Longer than the first looks at the server take.
        settings.patience.first_token = Duration::from_millis(500);
        let mut rig = Rig::ready(settings).await;
        let (kind, words) = rig.ask(user(), text(16)).await.failed.expect("silence");
        assert_eq!(kind, FailureKind::WorkerLost);
        assert!(words.contains("said nothing"), "{words}");
    }
}

#[tokio::test]
async fn a_cancel_closes_the_connection() {
    let mut server = FakeServer::start(well).await;
    let mut rig = Rig::ready(server.settings()).await;
    let endless = u32::try_from(ENDLESS).expect("it is small");
    let dispatch = rig.begin(user(), text(endless));
    let first = rig.receive().await;
    assert!(matches!(first, Ok(FromWorker::Text { .. })), "{first:?}");
    rig.line
        .send(ToWorker::Cancel { dispatch })
        .expect("it listens");
    server.left.recv().await.expect("the server sees it");
}

#[tokio::test]
async fn several_pieces_of_work_are_under_way_at_once() {
    let server = FakeServer::start(well).await;
    let mut rig = Rig::ready(server.settings()).await;
    let endless = u32::try_from(ENDLESS).expect("it is small");
    rig.begin(user(), text(endless));
    let short = rig.begin(user(), text(4));
    loop {
        if let FromWorker::Finished { dispatch, .. } = rig.receive().await.expect("it stays") {
            assert_eq!(dispatch, short);
            return;
        }
    }
}

#[tokio::test]
async fn what_is_asked_is_what_was_wanted() {
    let server = FakeServer::start(well).await;
    let mut settings = server.settings();
    settings.key = ApiKey::new("secret");
    let mut rig = Rig::ready(settings).await;
    rig.ask(user(), text(16)).await;
    let asked = server.asked();
    assert!(
        asked
            .iter()
            .all(|a| a.key.as_deref() == Some("Bearer secret"))
    );
    let last = asked.last().expect("it was asked");
    assert_eq!(last.path, "/v1/chat/completions");
    let expected = json!({
        "model": "m", "messages": [{"role": "user", "content": "What now?"}],
        "max_tokens": 16, "temperature": 0.5, "top_p": 0.25, "seed": 9, "stop": ["\n"],
        "stream": true, "stream_options": {"include_usage": true},
    });
    assert_eq!(last.body, expected);
    rig.ask(Prompt::Raw("Once".to_owned()), text(16)).await;
    let last = server.asked().pop().expect("it was asked");
    assert_eq!(
        (last.path.as_str(), &last.body["prompt"]),
        ("/v1/completions", &json!("Once"))
    );
}

#[tokio::test]
async fn an_expert_is_ready_when_its_server_has_the_model() {
    let loaded = Arc::new(AtomicBool::new(false));
    let shown = Arc::clone(&loaded);
    let server = FakeServer::start(move |asked| {
        if asked.path.ends_with("/models") {
            let has: &[&str] = if shown.load(Ordering::Relaxed) {
                &["a", "b"]
            } else {
                &["b"]
            };
            return models(has);
        }
        well(asked)
    })
    .await;
    let mut settings = server.settings();
    settings.model = Some("a".to_owned());
    let mut rig = Rig::start(settings);
    let Ok(FromWorker::LoadFailed { message }) = rig.receive().await else {
        unreachable!("it has another model")
    };
    assert_eq!(
        message,
        "the server has no model `a`, but `b`: set `upstream_model`"
    );
    loaded.store(true, Ordering::Relaxed);
    let ready = rig.receive().await;
    assert!(matches!(ready, Ok(FromWorker::Ready { .. })), "{ready:?}");
}

#[tokio::test]
async fn which_of_several_models_has_to_be_said() {
    let server = FakeServer::start(|_| models(&["a", "b"])).await;
    let mut rig = Rig::start(server.settings());
    let Ok(FromWorker::LoadFailed { message }) = rig.receive().await else {
        unreachable!("nobody said which")
    };
    assert_eq!(
        message,
        "the server has `a`, `b`: say which with `upstream_model`"
    );
}

#[tokio::test]
async fn an_expert_is_gone_with_its_server_and_comes_back_with_it() {
    let server = FakeServer::start(well).await;
    let mut rig = Rig::ready(server.settings()).await;
    let settings = server.settings();
    let address = server
        .url
        .trim_start_matches("http://")
        .trim_end_matches("/v1")
        .to_owned();
    server.die();
    drop(server);
    // The work finds the server gone, and so it is looked at at once.
    let dispatch = rig.begin(user(), text(4));
    let failed = rig.receive().await;
    assert!(
        matches!(&failed, Ok(FromWorker::Failed { dispatch: d, kind: FailureKind::WorkerLost, .. }) if *d == dispatch),
        "{failed:?}"
    );
    let reason = rig.receive().await.expect_err("the server is gone");
    assert!(reason.contains("cannot connect"), "{reason}");
    // What the engine does then, after a while.
    let mut rig = Rig::start(settings);
    let waiting = rig.receive().await;
    assert!(
        matches!(waiting, Ok(FromWorker::LoadFailed { .. })),
        "{waiting:?}"
    );
    let _server = FakeServer::start_at(&address, well).await;
    let ready = rig.receive().await;
    assert!(matches!(ready, Ok(FromWorker::Ready { .. })), "{ready:?}");
    assert_eq!(
        rig.ask(user(), text(4)).await.finish,
        Some(FinishReason::Length)
    );
}

/// What a server of some kind does about a choice.
fn chooser(kind: &'static str) -> impl Fn(&Asked) -> Script {
    move |asked| {
        let body = &asked.body;
        if asked.path.ends_with("/models") {
            return models(&["m"]);
        }
        let mut like_moe2 = asked.clone();
        let held = match kind {
            // Refuses what it does not know.
            "moe2" if body.get("logprobs").is_some() => {
                return json_reply(400, &json!({"error": {"message": "no logprobs"}}));
            }
            "moe2" | "vllm" => body["structured_outputs"]["choice"].clone(),
            "older vllm" => body["guided_choice"].clone(),
            "llama-server" => grammar_words(&body["grammar"]),
            "ollama" => {
                let options = &body["response_format"]["json_schema"]["schema"]["enum"];
                if options.is_array() {
                    let text = options[0].to_string();
                    return stream_of(events(&[delta(&text), finish("stop")]));
                }
                Value::Null
            }
            _ => Value::Null,
        };
        if held.is_null() {
            let first = delta("Hello");
            return stream_of(events(&[first, finish("stop")]));
        }
        like_moe2.body["structured_outputs"] = json!({"choice": held});
        well(&like_moe2)
    }
}

fn grammar_words(grammar: &Value) -> Value {
    let Some(rule) = grammar.as_str().and_then(|g| g.strip_prefix("root ::= ")) else {
        return Value::Null;
    };
    rule.split(" | ")
        .map(|word| word.trim_matches('"'))
        .collect()
}

#[tokio::test]
async fn a_choice_is_held_to_its_options_in_the_servers_own_way() {
    let half = std::f64::consts::LN_2;
    for (kind, key, scored) in [
        ("vllm", "structured_outputs", true),
        ("llama-server", "grammar", true),
        ("older vllm", "guided_choice", true),
        ("moe2", "structured_outputs", false),
        ("ollama", "response_format", false),
    ] {
        let server = FakeServer::start(chooser(kind)).await;
        let mut rig = Rig::ready(server.settings()).await;
        let reply = rig.ask(user(), choice(&["A", "B"])).await;
        let expected = if scored {
            vec![-half, -2.0 * half]
        } else {
            picked(0, 2)
        };
        assert_eq!(reply.options, expected, "{kind}: {reply:?}");
        assert_eq!(reply.finish, Some(FinishReason::Stop), "{kind}");
        let last = server.asked().pop().expect("it was asked");
        assert!(last.body.get(key).is_some(), "{kind}: {last:?}");
    }
}

#[tokio::test]
async fn a_choice_that_nothing_holds_is_left_to_others() {
    let server = FakeServer::start(chooser("nothing")).await;
    let mut rig = Rig::ready(server.settings()).await;
    let (kind, words) = rig
        .ask(user(), choice(&["A", "B"]))
        .await
        .failed
        .expect("no option");
    assert_eq!(kind, FailureKind::Unavailable);
    assert!(words.contains("none of the options"), "{words}");
}

#[tokio::test]
async fn options_of_several_tokens_are_picked_and_not_scored() {
    // The likeliest first tokens are the options' beginnings.
    let server = FakeServer::start(|asked| {
        let mut script = well(asked);
        if let Some(first) = asked.body["structured_outputs"]["choice"][0].as_str() {
            let mut data = delta(first);
            let top = json!([{"token": "Par", "logprob": -0.1}, {"token": "Ber", "logprob": -3.0}]);
            data["choices"][0]["logprobs"] = json!({"content": [{"top_logprobs": top}]});
            script = stream_of(events(&[data, finish("stop")]));
        }
        script
    })
    .await;
    let mut rig = Rig::ready(server.settings()).await;
    let reply = rig.ask(user(), choice(&["Paris", "Berlin"])).await;
    assert_eq!(picked_of(&reply.options), Some(0), "{reply:?}");
}
