//! Streams, byte for byte, and what becomes of the query when a client leaves.

use axum::body::Bytes as Chunk;
use futures_util::StreamExt;
use moe2_engine::coordinator::Input;

use super::*;

const CHAT: &str = "/v1/chat/completions";

fn started() -> Reply {
    Reply::Started {
        model: "smol@orin-1".to_owned(),
    }
}

fn delta(text: &str) -> Reply {
    Reply::Delta(text.to_owned())
}

fn finished(text: &str) -> Reply {
    Reply::Finished(Box::new(answer(text)))
}

fn streamed(include_usage: bool) -> Value {
    let mut request = hello();
    request["stream"] = json!(true);
    if include_usage {
        request["stream_options"] = json!({"include_usage": true});
    }
    request
}

/// The stream's text with its id and time replaced by fixed ones, which must be the same in all
/// chunks.
async fn stream_text(response: Response<Body>) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), Some("text/event-stream"));
    let text = body_text(response).await;
    let first = text.strip_prefix("data: ").expect("an event");
    let first = first.split("\n\n").next().expect("its end");
    let first: Value = serde_json::from_str(first).expect("valid JSON");
    let id = first["id"].as_str().expect("an id");
    let created = first["created"].as_u64().expect("a time");
    text.replace(id, "ID")
        .replace(&format!("\"created\":{created}"), "\"created\":1")
}

/// A chunk of a chat without usage.
fn chunk(delta: &str, rest: &str) -> String {
    format!(
        "data: {{\"id\":\"ID\",\"object\":\"chat.completion.chunk\",\"created\":1,\
         \"model\":\"smol@orin-1\",\"choices\":[{{\"index\":0,\"delta\":{delta},\
         \"logprobs\":null,\"finish_reason\":{rest}\n\n"
    )
}

const ROLE: &str = r#"{"role":"assistant","content":""}"#;
const MOE2: &str = concat!(
    r#","moe2":{"experts":[{"expert":"smol@orin-1","weight":1.0,"gate_score":0.5,"#,
    r#""predicted":{"waiting_s":0.25,"delay_s":1.5,"delay_p95_s":2.5,"first_token_s":0.75,"first_token_p95_s":1.0,"energy_j":3.0,"samples":7},"#,
    r#""actual":{"queue_s":0.25,"prefill_s":0.5,"decode_s":0.75,"energy_j":2.0,"#,
    r#""energy_source":"measured:ina3221","energy_error_j":0.25,"prompt_tokens":10,"cached_tokens":4,"output_tokens":2},"failure":null}],"#,
    r#""fusion":"single","topic":"chat","prices":{"per_joule":0.001,"per_second":0.01},"#,
    r#""delay_s":1.5,"energy_j":2.0,"energy_source":"measured:ina3221","energy_error_j":0.25,"redispatches":0}}"#,
);

#[tokio::test]
async fn a_stream_is_role_deltas_finish_and_done() {
    let router = scripted(vec![
        started(),
        delta("Hel"),
        delta("lo\n"),
        finished("Hello\n"),
    ]);
    let text = stream_text(send(router, post(CHAT, &streamed(false))).await).await;
    let expected = [
        chunk(ROLE, "null}]}"),
        chunk(r#"{"content":"Hel"}"#, "null}]}"),
        chunk(r#"{"content":"lo\n"}"#, "null}]}"),
        chunk("{}", &format!("\"stop\"}}]{MOE2}")),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(text, expected.concat());
}

#[tokio::test]
async fn usage_comes_last_and_is_null_before() {
    let router = scripted(vec![started(), delta("Hi"), finished("Hi")]);
    let text = stream_text(send(router, post(CHAT, &streamed(true))).await).await;
    let usage = concat!(
        r#"data: {"id":"ID","object":"chat.completion.chunk","created":1,"model":"smol@orin-1","#,
        r#""choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4}}}"#,
        "\n\n",
    );
    let expected = [
        chunk(ROLE, "null}],\"usage\":null}"),
        chunk(r#"{"content":"Hi"}"#, "null}],\"usage\":null}"),
        chunk("{}", &format!("\"stop\"}}],\"usage\":null{MOE2}")),
        usage.to_owned(),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(text, expected.concat());
}

#[tokio::test]
async fn an_answer_that_exists_only_as_a_whole_is_one_delta() {
    let router = scripted(vec![finished("A")]);
    let text = stream_text(send(router, post(CHAT, &streamed(false))).await).await;
    let expected = [
        chunk(ROLE, "null}]}"),
        chunk(r#"{"content":"A"}"#, "null}]}"),
        chunk("{}", &format!("\"stop\"}}]{MOE2}")),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(text, expected.concat());
}

#[tokio::test]
async fn a_text_completion_streams_text_without_a_role() {
    let router = scripted(vec![started(), delta(" upon"), finished(" upon")]);
    let request = json!({"model": "auto", "prompt": "Once", "stream": true});
    let text = stream_text(send(router, post("/v1/completions", &request)).await).await;
    let chunk = |text: &str, rest: &str| {
        format!(
            "data: {{\"id\":\"ID\",\"object\":\"text_completion\",\"created\":1,\
             \"model\":\"smol@orin-1\",\"choices\":[{{\"index\":0,\"text\":\"{text}\",\
             \"logprobs\":null,\"finish_reason\":{rest}\n\n"
        )
    };
    let expected = [
        chunk(" upon", "null}]}"),
        chunk("", &format!("\"stop\"}}]{MOE2}")),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(text, expected.concat());
}

#[tokio::test]
async fn an_error_after_the_first_byte_closes_without_done() {
    let lost = Reply::Refused(Box::new(refusal(RefusalKind::LostMidStream)));
    let router = scripted(vec![started(), delta("Hel"), lost]);
    let text = stream_text(send(router, post(CHAT, &streamed(false))).await).await;
    let error = concat!(
        r#"data: {"error":{"message":"No; do this instead.","type":"server_error","#,
        r#""param":null,"code":"lost_mid_stream"}}"#,
        "\n\n",
    );
    let expected = [
        chunk(ROLE, "null}]}"),
        chunk(r#"{"content":"Hel"}"#, "null}]}"),
        error.to_owned(),
    ];
    assert_eq!(text, expected.concat());
    let vanished = scripted(vec![started(), delta("Hel")]);
    let text = stream_text(send(vanished, post(CHAT, &streamed(false))).await).await;
    assert!(text.contains("\"code\":\"shutting_down\"") && !text.contains("[DONE]"));
}

async fn next(body: &mut axum::body::BodyDataStream) -> Chunk {
    let chunk = body.next().await.expect("more of the stream");
    chunk.expect("streams do not fail")
}

async fn submitted(inbox: &mut mpsc::Receiver<Command>) -> (QueryId, mpsc::UnboundedSender<Reply>) {
    match inbox.recv().await {
        Some(Command::Submit(submit)) => (submit.id, submit.replies),
        other => panic!("expected a query, got {other:?}"),
    }
}

async fn gone(inbox: &mut mpsc::Receiver<Command>) -> QueryId {
    match inbox.recv().await {
        Some(Command::Input(Input::ClientGone { query })) => query,
        other => panic!("expected the client to be gone, got {other:?}"),
    }
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_is_gone_for_the_engine() {
    let (router, mut inbox) = idle(FleetView::default());
    let asking = tokio::spawn(send(router, post(CHAT, &streamed(false))));
    let (id, replies) = submitted(&mut inbox).await;
    replies.send(started()).expect("the client waits");
    let mut body = asking
        .await
        .expect("an answer")
        .into_body()
        .into_data_stream();
    next(&mut body).await;
    drop(body);
    assert_eq!(gone(&mut inbox).await, id);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_reply_is_gone_for_the_engine() {
    for request in [hello(), streamed(false)] {
        let (router, mut inbox) = idle(FleetView::default());
        let asking = tokio::spawn(send(router, post(CHAT, &request)));
        let (id, _replies) = submitted(&mut inbox).await;
        asking.abort();
        assert_eq!(gone(&mut inbox).await, id);
    }
}

#[tokio::test]
async fn a_whole_stream_leaves_nothing_to_cancel() {
    let (router, mut inbox) = idle(FleetView::default());
    let asking = tokio::spawn(send(router, post(CHAT, &streamed(false))));
    let (_, replies) = submitted(&mut inbox).await;
    replies.send(finished("A")).expect("the client waits");
    body_text(asking.await.expect("an answer")).await;
    assert!(inbox.recv().await.is_none(), "no ClientGone after the end");
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_comments() {
    let (router, mut inbox) = idle(FleetView::default());
    let asking = tokio::spawn(send(router, post(CHAT, &streamed(false))));
    let (_, replies) = submitted(&mut inbox).await;
    replies.send(started()).expect("the client waits");
    let mut body = asking
        .await
        .expect("an answer")
        .into_body()
        .into_data_stream();
    assert!(next(&mut body).await.starts_with(b"data: "));
    assert_eq!(next(&mut body).await, ": ping\n\n");
    assert_eq!(next(&mut body).await, ": ping\n\n");
    replies.send(delta("Hi")).expect("the client waits");
    assert!(next(&mut body).await.starts_with(b"data: "));
}
