//! The router against a scripted engine: statuses, headers, envelopes and streams as bytes.

mod connections;
mod requests;
mod streams;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use moe2_engine::coordinator::{
    Answer, ExpertView, FleetView, NodeState, NodeView, Refusal, Reply,
};
use moe2_model::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

use super::*;
use crate::handle::Command;

fn seconds(value: f64) -> Seconds {
    Seconds::saturating(value)
}

fn joules(value: f64) -> Joules {
    Joules::saturating(value)
}

pub(crate) fn fleet(state: ExpertState) -> FleetView {
    let id: ExpertId = "smol@orin-1".parse().expect("a valid id");
    let offer = ExpertOffer {
        name: id.name.clone(),
        family: "llama".to_owned(),
        quantisation: "Q4_1".to_owned(),
        parameters: 1,
        weights: Bytes(1),
        kv_per_token: Bytes(1),
        context_tokens: 2_048,
        slots: 1,
        load: None,
    };
    let expert = ExpertView {
        id: id.clone(),
        offer,
        servable: state == ExpertState::Ready,
        state,
        selected: true,
        left_alone_for: None,
        in_flight: 0,
        waiting: 0,
        prefill_s_per_token: 0.0,
        decode_s_per_token: 0.0,
        samples: 0,
        prior_prefill_s_per_token: 0.0,
        prior_decode_s_per_token: 0.0,
    };
    let node = NodeView {
        node: id.node,
        state: NodeState::Ready,
        reason: None,
        silent_for: Seconds::ZERO,
        clock_ahead_s: None,
        device: device(),
        experts: vec![expert],
    };
    FleetView {
        nodes: vec![node],
        queries: 0,
    }
}

/// A router, and the engine's end of its channel.
fn idle(view: FleetView) -> (Router, mpsc::Receiver<Command>) {
    let (commands, inbox) = mpsc::channel(8);
    // The handle reads the last value also when its sender is gone.
    let (_, view) = watch::channel(Arc::new(view));
    let tenant = TenantId::new("alice").expect("a valid name");
    let api = Api {
        engine: EngineHandle::new(
            1,
            commands,
            view,
            tokio::sync::watch::channel(crate::handle::Planning::default()).1,
        ),
        keys: Arc::new(KeyTable::new([(Sha256::digest(b"sk-test").into(), tenant)])),
        limits: Limits {
            max_body: 4_096,
            ..Limits::default()
        },
        started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    };
    (router(api), inbox)
}

/// A router whose engine answers its one query with these replies.
fn scripted(replies: Vec<Reply>) -> Router {
    let (router, mut inbox) = idle(fleet(ExpertState::Ready));
    tokio::spawn(async move {
        if let Some(Command::Submit(submit)) = inbox.recv().await {
            assert_eq!(submit.query.tenant.as_str(), "alice");
            for reply in replies {
                submit.replies.send(reply).expect("the client waits");
            }
        }
    });
    router
}

fn post(path: &str, body: &Value) -> Request<Body> {
    Request::post(path)
        .header("authorization", "Bearer sk-test")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .expect("a valid request")
}

fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header("authorization", "Bearer sk-test")
        .body(Body::empty())
        .expect("a valid request")
}

pub(crate) fn hello() -> Value {
    json!({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]})
}

async fn send(router: Router, request: Request<Body>) -> Response<Body> {
    router.oneshot(request).await.expect("routers do not fail")
}

async fn body_text(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
        .await
        .expect("a whole body");
    String::from_utf8(bytes.to_vec()).expect("valid UTF-8")
}

async fn body_json(response: Response<Body>) -> Value {
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    serde_json::from_str(&body_text(response).await).expect("valid JSON")
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().expect("visible ASCII"))
}

/// Checks that a response is an error in the envelope, with the headers every response has.
async fn error(response: Response<Body>, status: StatusCode) -> Value {
    assert_eq!(response.status(), status);
    assert!(header(&response, "x-request-id").is_some());
    assert!(header(&response, "openai-processing-ms").is_some());
    let mut envelope = body_json(response).await;
    let error = envelope["error"].take();
    for field in ["message", "type", "param", "code"] {
        assert!(error.get(field).is_some(), "{field} must be there: {error}");
    }
    error
}

fn answer(text: &str) -> Answer {
    let expert: ExpertId = "smol@orin-1".parse().expect("a valid id");
    let forecast = Forecast {
        quality: 0.5,
        output_tokens: 4.0,
        waiting: seconds(0.25),
        delay: seconds(1.5),
        delay_p95: seconds(2.5),
        first_token: seconds(0.75),
        first_token_p95: seconds(1.0),
        energy: joules(3.0),
        energy_p95: joules(4.0),
        samples: 7,
    };
    let usage = Usage {
        prompt_tokens: 10,
        cached_tokens: 4,
        output_tokens: 2,
        queue: seconds(0.25),
        prefill: seconds(0.5),
        decode: seconds(0.75),
        energy: joules(2.0),
        energy_source: EnergySource::Ina3221,
        energy_error: joules(0.25),
    };
    let participant = Participant {
        expert: expert.clone(),
        weight: 1.0,
        job: Job::Answer,
        forecast,
        usage: Some(usage),
        option_logprobs: Some(vec![-0.5, -1.5]),
        failure: None,
    };
    Answer {
        model: "smol@orin-1".to_owned(),
        text: text.to_owned(),
        finish: FinishReason::Stop,
        prompt_tokens: 10,
        cached_tokens: 4,
        output_tokens: 2,
        explanation: Explanation {
            topic: "chat".to_owned(),
            prices: Prices {
                per_joule: 0.001,
                per_second: 0.01,
                per_first_token_second: 0.0,
            },
            candidates: vec![Candidate {
                expert,
                forecast,
                score: 0.25,
                verdict: Verdict::Chosen,
            }],
            participants: vec![participant],
            fusion: "single".to_owned(),
            cascade: None,
            saved: joules(0.0),
            redispatches: 0,
            delay: seconds(1.5),
            energy: joules(2.0),
            energy_source: EnergySource::Ina3221,
            energy_error: joules(0.25),
        },
    }
}

fn refusal(kind: RefusalKind) -> Refusal {
    Refusal {
        kind,
        message: "No; do this instead.".to_owned(),
        smallest: Budgets::default(),
        retry_after: None,
    }
}

pub(crate) fn device() -> DeviceInfo {
    DeviceInfo {
        kind: DeviceKind::Cpu,
        model: "test".to_owned(),
        threads: 1,
        parallel: 1,
        memory: Bytes(1),
        gpus: Vec::new(),
        cpu: None,
        gpu: None,
        energy_source: EnergySource::Modelled,
        idle_power: Watts::ZERO,
        busy_power: Watts::ZERO,
    }
}
