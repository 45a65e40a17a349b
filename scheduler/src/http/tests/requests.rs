//! Everything that is answered as a whole: completions, models, health, and refusals.

use super::*;

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_chat_is_answered_as_openai_does_with_our_own_data_beside() {
    let router = scripted(vec![Reply::Finished(Box::new(answer("Hello.")))]);
    let response = send(router, post(CHAT, &hello())).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = body_json(response).await;
    assert!(
        body["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("chatcmpl-"))
    );
    assert!(body["created"].is_u64());
    body["id"].take();
    body["created"].take();
    let expected = json!({
        "id": null, "object": "chat.completion", "created": null, "model": "smol@orin-1",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Hello.", "refusal": null},
            "logprobs": null, "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 4}},
        "moe2": {
            "experts": [{
                "expert": "smol@orin-1", "weight": 1.0, "gate_score": 0.5,
                "predicted": {"waiting_s": 0.25, "delay_s": 1.5, "delay_p95_s": 2.5, "first_token_s": 0.75, "first_token_p95_s": 1.0, "energy_j": 3.0, "samples": 7},
                "actual": {
                    "queue_s": 0.25, "prefill_s": 0.5, "decode_s": 0.75, "energy_j": 2.0,
                    "energy_source": "measured:ina3221", "energy_error_j": 0.25, "prompt_tokens": 10, "cached_tokens": 4, "output_tokens": 2,
                },
                "failure": null,
            }],
            "fusion": "single", "topic": "chat",
            "prices": {"per_joule": 0.001, "per_second": 0.01},
            "delay_s": 1.5, "energy_j": 2.0, "energy_source": "measured:ina3221",
            "energy_error_j": 0.25, "redispatches": 0,
        },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn explain_adds_candidates_and_log_probabilities() {
    let router = scripted(vec![Reply::Finished(Box::new(answer("Hello.")))]);
    let mut request = hello();
    request["moe2"] = json!({"explain": true});
    let body = body_json(send(router, post(CHAT, &request)).await).await;
    let expected = json!([{
        "expert": "smol@orin-1", "verdict": "chosen", "score": 0.25,
        "forecast": {
            "quality": 0.5, "output_tokens": 4.0, "waiting_s": 0.25, "delay_s": 1.5, "delay_p95_s": 2.5, "first_token_s": 0.75, "first_token_p95_s": 1.0,
            "energy_j": 3.0, "energy_p95_j": 4.0, "samples": 7,
        },
    }]);
    assert_eq!(body["moe2"]["candidates"], expected);
    assert_eq!(
        body["moe2"]["experts"][0]["option_logprobs"],
        json!([-0.5, -1.5])
    );
    assert_eq!(body["moe2"]["experts"][0].get("unscored"), None);
}

#[tokio::test]
async fn a_pick_is_not_shown_as_scores_without_saying_so() {
    let mut picked = answer("Hello.");
    picked.explanation.participants[0].option_logprobs = Some(moe2_wire::picked(1, 3));
    let router = scripted(vec![Reply::Finished(Box::new(picked))]);
    let body = body_json(send(router, post(CHAT, &hello())).await).await;
    assert_eq!(body["moe2"]["experts"][0]["unscored"], true);
}

#[tokio::test]
async fn a_text_completion_has_its_own_shape() {
    let router = scripted(vec![Reply::Finished(Box::new(answer(" upon a time")))]);
    let request = json!({"model": "auto", "prompt": "Once"});
    let body = body_json(send(router, post("/v1/completions", &request)).await).await;
    assert_eq!(body["object"], "text_completion");
    let choice =
        json!({"index": 0, "text": " upon a time", "logprobs": null, "finish_reason": "stop"});
    assert_eq!(body["choices"], json!([choice]));
}

#[tokio::test]
async fn each_refusal_has_its_status_code_and_retry_headers() {
    let (retry, none) = (Some("1"), None);
    let table = [
        (
            RefusalKind::UnknownModel,
            404,
            "model_not_found",
            json!("model"),
            none,
        ),
        (
            RefusalKind::NoExpert,
            503,
            "no_expert_available",
            json!(null),
            retry,
        ),
        (
            RefusalKind::BudgetInfeasible,
            422,
            "budget_infeasible",
            json!("moe2"),
            none,
        ),
        (
            RefusalKind::Overloaded,
            429,
            "rate_limit_exceeded",
            json!(null),
            retry,
        ),
        (
            RefusalKind::ContextTooLong,
            400,
            "context_length_exceeded",
            json!("messages"),
            none,
        ),
        (
            RefusalKind::LostMidStream,
            502,
            "lost_mid_stream",
            json!(null),
            none,
        ),
        (
            RefusalKind::ExpertFailed,
            502,
            "expert_failed",
            json!(null),
            none,
        ),
        (
            RefusalKind::DeadlineExceeded,
            408,
            "deadline_exceeded",
            json!(null),
            none,
        ),
    ];
    for stream in [false, true] {
        for (kind, status, code, param, retry_after) in &table {
            let router = scripted(vec![Reply::Refused(Box::new(refusal(*kind)))]);
            let mut request = hello();
            request["stream"] = json!(stream);
            let response = send(router, post(CHAT, &request)).await;
            assert_eq!(header(&response, "retry-after"), *retry_after, "{kind:?}");
            let give_up = (*kind == RefusalKind::DeadlineExceeded).then_some("false");
            assert_eq!(header(&response, "x-should-retry"), give_up, "{kind:?}");
            let status = StatusCode::from_u16(*status).expect("a status");
            let error = error(response, status).await;
            assert_eq!((&error["code"], &error["param"]), (&json!(code), param));
            assert_eq!(error["message"], "No; do this instead.");
        }
    }
}

#[tokio::test]
async fn a_refusal_says_when_to_come_back_and_what_would_be_feasible() {
    let busy = Refusal {
        retry_after: Some(Duration::from_millis(1_250)),
        ..refusal(RefusalKind::Overloaded)
    };
    let response = send(
        scripted(vec![Reply::Refused(Box::new(busy))]),
        post(CHAT, &hello()),
    )
    .await;
    assert_eq!(header(&response, "retry-after"), Some("2"));
    assert_eq!(header(&response, "retry-after-ms"), Some("1250"));

    let tight = Refusal {
        smallest: Budgets {
            delay: Some(seconds(1.5)),
            first_token: None,
            energy: Some(joules(3.0)),
        },
        ..refusal(RefusalKind::BudgetInfeasible)
    };
    let response = send(
        scripted(vec![Reply::Refused(Box::new(tight))]),
        post(CHAT, &hello()),
    )
    .await;
    let error = error(response, StatusCode::UNPROCESSABLE_ENTITY).await;
    let feasible = json!({"smallest_delay_ms": 1500.0, "smallest_first_token_ms": null, "smallest_energy_j": 3.0});
    assert_eq!(error["moe2"], feasible);
}

#[tokio::test]
async fn an_engine_that_is_gone_is_a_503() {
    let (router, inbox) = idle(FleetView::default());
    drop(inbox);
    let response = send(router, post(CHAT, &hello())).await;
    assert_eq!(header(&response, "retry-after"), Some("1"));
    error(response, StatusCode::SERVICE_UNAVAILABLE).await;
    let silent = scripted(Vec::new());
    let response = send(silent, post(CHAT, &hello())).await;
    error(response, StatusCode::SERVICE_UNAVAILABLE).await;
}

#[tokio::test]
async fn what_is_not_a_request_gets_the_envelope() {
    let odd = |builder: axum::http::request::Builder, body: Body| {
        let builder = builder.header("authorization", "Bearer sk-test");
        builder.body(body).expect("a valid request")
    };
    let json_post =
        || Request::post(CHAT).header("content-type", "application/json; charset=utf-8");
    let big = json!({"model": "auto", "messages": "x".repeat(5_000)});
    let table = [
        (get("/v1/nothing"), 404),
        (get("/"), 404),
        (get(CHAT), 405),
        (odd(Request::delete("/healthz"), Body::empty()), 405),
        (odd(Request::post(CHAT), Body::from("{}")), 415),
        (
            odd(
                Request::post(CHAT).header("content-type", "text/plain"),
                Body::from("{}"),
            ),
            415,
        ),
        (post(CHAT, &big), 413),
        (odd(json_post(), Body::from("{")), 400),
        (odd(json_post(), Body::from(&b"\xff"[..])), 400),
        (post(CHAT, &json!([])), 400),
        (get("/v1/models/%ff"), 400),
    ];
    for (request, status) in table {
        let (router, _inbox) = idle(FleetView::default());
        let what = format!("{} {}", request.method(), request.uri());
        let response = send(router, request).await;
        assert_eq!(response.status().as_u16(), status, "{what}");
        // The body was left unread, so the connection cannot be used again.
        let closes = matches!(status, 413 | 415).then_some("close");
        assert_eq!(header(&response, "connection"), closes, "{what}");
        if status == 405 {
            assert!(header(&response, "allow").is_some(), "{what}");
        }
        let status = StatusCode::from_u16(status).expect("a status");
        assert_eq!(
            error(response, status).await["type"],
            "invalid_request_error"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_a_408() {
    let (router, _inbox) = idle(FleetView::default());
    let never = Body::from_stream(futures_util::stream::pending::<
        Result<Vec<u8>, std::io::Error>,
    >());
    let request = Request::post(CHAT)
        .header("authorization", "Bearer sk-test")
        .header("content-type", "application/json")
        .body(never)
        .expect("a valid request");
    error(send(router, request).await, StatusCode::REQUEST_TIMEOUT).await;
}

#[tokio::test]
async fn without_a_known_key_nothing_is_read_and_the_key_is_not_echoed() {
    for key in [None, Some("Bearer sk-wrong"), Some("Basic sk-test")] {
        let (router, _inbox) = idle(FleetView::default());
        // A body that never ends: it must not be waited for.
        let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let mut request = Request::post(CHAT)
            .body(Body::from_stream(never))
            .expect("a valid request");
        if let Some(key) = key {
            let value = key.parse().expect("a header");
            request.headers_mut().insert("authorization", value);
        }
        let response = send(router, request).await;
        assert_eq!(header(&response, "www-authenticate"), Some("Bearer"));
        let error = error(response, StatusCode::UNAUTHORIZED).await;
        assert_eq!(error["code"], "invalid_api_key");
        assert!(!error.to_string().contains("sk-"));
    }
}

#[tokio::test]
async fn models_lists_auto_models_and_deployments_that_are_ready() {
    let (router, _inbox) = idle(fleet(ExpertState::Ready));
    let body = body_json(send(router.clone(), get("/v1/models")).await).await;
    assert_eq!(body["object"], "list");
    let data = body["data"].as_array().expect("an array");
    let ids: Vec<_> = data.iter().map(|m| m["id"].as_str()).collect();
    assert_eq!(ids, [Some("auto"), Some("smol"), Some("smol@orin-1")]);
    let one = body_json(send(router.clone(), get("/v1/models/smol%40orin-1")).await).await;
    let expected = json!({
        "id": "smol@orin-1", "object": "model", "created": 1_700_000_000_u64, "owned_by": "moe2",
    });
    assert_eq!(one, expected);
    for missing in ["/v1/models/gpt-4", "/v1/models/a/b"] {
        let response = send(router.clone(), get(missing)).await;
        let error = error(response, StatusCode::NOT_FOUND).await;
        assert_eq!(error["code"], "model_not_found");
    }
    let (loading, _inbox) = idle(fleet(ExpertState::Loading));
    let body = body_json(send(loading, get("/v1/models")).await).await;
    assert_eq!(body["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn health_needs_no_key_and_readiness_needs_an_expert() {
    let plain = |path: &str| {
        Request::get(path)
            .body(Body::empty())
            .expect("a valid request")
    };
    let (router, _inbox) = idle(fleet(ExpertState::Ready));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            send(router.clone(), plain(path)).await.status(),
            StatusCode::OK
        );
    }
    let (router, _inbox) = idle(fleet(ExpertState::Loading));
    assert_eq!(
        send(router.clone(), plain("/healthz")).await.status(),
        StatusCode::OK
    );
    let response = send(router, plain("/readyz")).await;
    assert_eq!(header(&response, "retry-after"), Some("1"));
    let error = error(response, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(error["code"], "no_expert_available");
}

#[tokio::test]
async fn a_fit_request_id_is_kept_and_any_other_is_replaced() {
    let long = "x".repeat(129);
    for (given, kept) in [("abc-1", true), ("a b", false), (&long, false), ("", false)] {
        let (router, _inbox) = idle(FleetView::default());
        let mut request = get("/healthz");
        let value = given.parse().expect("a header");
        request.headers_mut().insert("x-request-id", value);
        let response = send(router, request).await;
        let id = header(&response, "x-request-id").expect("always there");
        assert_eq!(id == given, kept, "{given:?}");
        assert!(!id.is_empty());
    }
}

#[tokio::test]
async fn a_merged_router_may_be_wrapped_again() {
    let (router, _inbox) = idle(FleetView::default());
    let admin = Router::new().route("/admin/x", axum::routing::get(|| async { "x" }));
    let both = error::wrap(router.merge(admin));
    let wrong = Request::post("/admin/x")
        .body(Body::empty())
        .expect("a valid request");
    let response = send(both.clone(), wrong).await;
    assert_eq!(header(&response, "allow"), Some("GET,HEAD"));
    super::error(response, StatusCode::METHOD_NOT_ALLOWED).await;
    let response = send(both, get("/healthz")).await;
    assert_eq!(response.headers().get_all("x-request-id").iter().count(), 1);
}
